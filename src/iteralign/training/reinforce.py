"""Reinforcement learning from a reward under a KL penalty, in place, by TRL's RLOO (Ahmadian et al. 2024) or GRPO
(Shao et al. 2024). They stand where the textbook has PPO, which TRL no longer has: both compare several answers to one
prompt, so that no second network has to learn what an answer is worth on average.
"""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from transformers import Trainer
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_config import RLOOConfig
from trl.trainer.rloo_trainer import RLOOTrainer
from trl.trainer.utils import add_fused_lm_head

from iteralign.config import RLConfig
from iteralign.errors import ModelError
from iteralign.models.decoding import TorchModel
from iteralign.models.seq2seq import Seq2SeqModel
from iteralign.models.weights import fill, load_weights
from iteralign.records import Checkpoint, Prompt, Reply, Response
from iteralign.training.in_place import Task, Watch, placed, train_in_place
from iteralign.training.one_row import answer_in_one_row
from iteralign.training.rows import fit

SILENT = 8  # steps without any reward: a step's few prompts may all be ones that the judge says nothing about

Reward = Callable[[Sequence[Response]], Sequence[float | None]]


class Reinforced(NamedTuple):
    """`rewards`: the mean over each step's answers, without the penalty. `kl`: nats a token from the reference, each
    step's mean."""

    checkpoint: Checkpoint
    rewards: tuple[float, ...]
    kl: tuple[float, ...]


class OwnPrompts:
    """Over a trainer of TRL's: a row names a prompt, whose tokens are known, and the KL of every step is kept, which a
    trainer forgets when it has said it."""

    tokens: dict[str, list[int]]
    kl: tuple[float, ...] = ()
    _metrics: dict[str, dict[str, list[float]]]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        self.kl += tuple(float(x) for x in self._metrics["train"].get("kl", ()))
        super().log(logs, start_time)  # type: ignore[reportAttributeAccessIssue]

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [self.tokens[p] for p in prompts], None, {}


class RLOO(OwnPrompts, RLOOTrainer):
    pass


class GRPO(OwnPrompts, GRPOTrainer):
    pass


def reinforce(
    engine: TorchModel,
    start: str,
    reference: str,
    prompts: Sequence[Prompt],
    reward: Reward,
    config: RLConfig,
    folder: Path,
    seed: int,
    watch: Watch | None = None,
) -> Reinforced:
    """Train `engine` from the weights at `start` to answer `prompts` for more of `reward`, held near the weights at
    `reference` by `config.beta`, and write the checkpoint to `folder`. An answer without a reward teaches nothing.
    ModelError: an encoder-decoder, no prompt that fits, a reward that says nothing."""
    if isinstance(engine, Seq2SeqModel):
        raise ModelError(
            "RL here samples from a decoder-only policy, and this one is an encoder-decoder: use learn: sft"
        )
    tokens = prompt_tokens(engine, prompts, config.max_length - config.sampling.max_new_tokens)
    if not tokens:
        raise ModelError(
            f"none of {len(prompts)} prompts leaves room for {config.sampling.max_new_tokens} new tokens in rl.max_length "
            f"{config.max_length}: raise it"
        )
    kept = copy.deepcopy(engine.module) if config.beta else None
    if kept is not None:
        fill(kept, load_weights(reference))
    rewarded = Rewarded(engine, {p.id: p for p in prompts}, reward, config.sampling.max_new_tokens)
    made: list[RLOO | GRPO] = []

    def make(module: Any, shared: dict[str, Any], optimizer: torch.optim.Optimizer | None) -> Trainer:
        trainer = trainer_for(module, shared, optimizer, engine, list(tokens), rewarded.score, config)
        trainer.tokens = tokens
        if kept is not None:  # TRL would read a reference from the disk by the model's name: here it is any weights
            add_fused_lm_head(kept, temperature=config.sampling.temperature)
            answer_in_one_row(kept, config.sampling.temperature)
            trainer.beta, trainer.ref_model = config.beta, kept.eval().requires_grad_(False)
        made.append(trainer)
        return trainer

    longest = max(map(len, tokens.values())) + config.sampling.max_new_tokens
    task = Task(make, len(tokens) * config.samples, longest, 0, len(prompts) - len(tokens), "rl")
    checkpoint = train_in_place(engine, start, task, config, folder, seed, watch)
    return Reinforced(checkpoint, tuple(rewarded.means), made[0].kl)


class Rewarded:
    """A trainer's answers as responses, rewarded; `means` of each step's known rewards are kept."""

    def __init__(self, engine: TorchModel, prompts: dict[str, Prompt], reward: Reward, most: int) -> None:
        self.engine, self.prompts, self.reward, self.most = engine, prompts, reward, most
        self.means: list[float] = []
        self.silent = 0

    def score(self, prompts: list[str], completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[Any]:
        """As TRL calls it. ModelError: `SILENT` steps in a row have no reward at all."""
        found = list(
            self.reward(
                [
                    self.response(prompt, text, len(ids))
                    for prompt, text, ids in zip(prompts, completions, completion_ids, strict=True)
                ]
            )
        )
        known = [value for value in found if value is not None]
        self.silent = 0 if known else self.silent + 1
        if self.silent == SILENT:
            raise ModelError(
                f"the reward said nothing about the answers of {SILENT} steps in a row: is its model reachable?"
            )
        if known:
            self.means.append(sum(known) / len(known))
        return found

    def response(self, prompt: str, text: str, tokens: int) -> Response:
        finish = "length" if tokens >= self.most else "stop"
        reply = Reply(text=self.engine.format.own_turn(text), finish=finish, tokens=tokens)
        return Response(prompt=self.prompts[prompt], reply=reply, policy=self.engine.name)


def prompt_tokens(engine: TorchModel, prompts: Sequence[Prompt], room: int) -> dict[str, list[int]]:
    """Of those that fit, by id: the plain question, never an attack around it."""
    found: dict[str, list[int]] = {}
    for prompt in prompts:
        chat, _ = fit(prompt.plain, engine.format, room)
        if chat is not None:
            found[prompt.id] = engine.format.encode(chat)
    return found


def trainer_for(
    module: Any,
    shared: dict[str, Any],
    optimizer: torch.optim.Optimizer | None,
    engine: TorchModel,
    prompts: Sequence[str],
    score: Callable[..., list[Any]],
    config: RLConfig,
) -> RLOO | GRPO:
    """With no penalty of its own yet."""
    ends = [*engine.format.end_ids, *engine.format.text_end]
    own: dict[str, Any] = dict(
        **shared,
        beta=0.0,
        num_generations=config.samples,
        max_completion_length=config.sampling.max_new_tokens,
        temperature=config.sampling.temperature,
        top_p=config.sampling.top_p,
        generation_kwargs={"eos_token_id": ends} if ends else None,
    )
    parts: dict[str, Any] = dict(
        model=module,
        reward_funcs=[score],
        train_dataset=Dataset.from_dict({"prompt": list(prompts)}),
        processing_class=engine.tokenizer,
        optimizers=(optimizer, None),
    )
    trainer = (
        RLOO(args=placed(RLOOConfig(**own), module), **parts)
        if config.method == "rloo"
        else GRPO(args=placed(GRPOConfig(**own), module), **parts)
    )
    answer_in_one_row(trainer.model, config.sampling.temperature)
    trainer.eos_token_ids = list(dict.fromkeys([*trainer.eos_token_ids, *ends]))  # what comes after is cut off by these
    return trainer
