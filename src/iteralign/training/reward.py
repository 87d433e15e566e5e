"""A reward model by TRL's RewardTrainer: the policy's weights under a head of one number, trained on preference pairs.

The loss is that of Bradley and Terry (1952): -log sigmoid(r(chosen) - r(rejected)). Some prompts' pairs are held out, and
how often the chosen answer scores higher on them is what the model is worth.
"""

import copy
import random
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, PrinterCallback, set_seed
from trl.trainer.reward_config import RewardConfig as TRLConfig
from trl.trainer.reward_trainer import RewardTrainer

from iteralign.config import RewardConfig
from iteralign.errors import ModelError, NothingFits
from iteralign.models.chat import ChatFormat
from iteralign.models.decoding import TorchModel
from iteralign.models.seq2seq import Seq2SeqModel
from iteralign.models.weights import load_weights, write_folder
from iteralign.records import Preference, Record, Response
from iteralign.stats import mean
from iteralign.training.in_place import Progress, Watch, arguments, attention_for, optimizer_for, placed
from iteralign.training.lora import wrap
from iteralign.training.rows import encode_pairs, fit


class RewardMade(Record):
    """`pairs` were trained on, `held_out` were not; `accuracy` is on those, with its 95 % interval, None where there are
    none. `loss` is the mean over the training."""

    pairs: int
    held_out: int
    accuracy: float | None
    low: float | None
    high: float | None
    steps: int
    loss: float | None


class RewardModel:
    """Scores of answers to their prompts: higher is better, and only differences mean something."""

    def __init__(self, module: Any, form: ChatFormat, max_length: int, batch: int = 32) -> None:
        self.module = module.eval()
        self.form, self.max_length, self.batch = form, max_length, batch

    def __call__(self, responses: Sequence[Response]) -> list[float | None]:
        """None: an answer that does not fit with its prompt, or a failed one."""
        rows = [self._tokens(r) for r in responses]
        fitting = [n for n, row in enumerate(rows) if row is not None]
        scores = self.scores([row for row in rows if row is not None])
        found: list[float | None] = [None] * len(rows)
        for n, score in zip(fitting, scores, strict=True):
            found[n] = score
        return found

    def _tokens(self, response: Response) -> list[int] | None:
        if response.reply.finish == "failed":
            return None
        answer = self.form.answer(response.reply.text.strip())
        answer += self.form.end_ids if response.reply.finish == "stop" else []
        chat, _ = fit(response.prompt.plain, self.form, self.max_length - len(answer))
        return None if chat is None else self.form.encode(chat) + answer

    @torch.inference_mode()
    def scores(self, rows: Sequence[Sequence[int]]) -> list[float]:
        found: list[float] = []
        for at in range(0, len(rows), self.batch):
            part = rows[at : at + self.batch]
            ids = torch.full((len(part), max(map(len, part))), self.form.pad_id)
            mask = torch.zeros_like(ids)
            for n, row in enumerate(part):
                ids[n, : len(row)] = torch.tensor(row)
                mask[n, : len(row)] = 1
            device = self.module.device
            found += last_scores(self.module, ids.to(device), mask.to(device)).tolist()
        return found


class PairRewardTrainer(RewardTrainer):
    """Reads a row's score at its last token by the mask, as RewardModel does."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        chosen, rejected = last_scores(model, inputs["input_ids"], inputs["attention_mask"]).chunk(2)
        return -torch.nn.functional.logsigmoid(chosen - rejected).mean()


def last_scores(classifier: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The head's score at each row's last token, (rows,). By the mask: transformers looks for the padding's id, which is
    the end's in many tokenizers, so that an answer's own end would go unread."""
    module: Any = classifier.get_base_model() if isinstance(classifier, PeftModel) else classifier
    hidden = module.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    last = hidden[torch.arange(len(ids), device=ids.device), mask.sum(1) - 1]
    return module.score(last.to(module.score.weight.dtype))[:, 0].float()


def train_reward(
    engine: TorchModel,
    start: str,
    pairs: Sequence[Preference],
    config: RewardConfig,
    folder: Path,
    seed: int,
    watch: Watch | None = None,
) -> RewardMade:
    """Train a reward model from the weights at `start` and write it to `folder`, in the dtype that the policy computes in.
    ModelError: an encoder-decoder, no pair that fits, or a loss that is not finite."""
    if isinstance(engine, Seq2SeqModel):
        raise ModelError("a reward model reads prompt and answer as one text, and this policy is an encoder-decoder")
    learnt, kept = held_out(pairs, config.held_out, seed)
    rows, others = (encode_pairs(p, engine.format, config.max_length) for p in (learnt, kept))
    if not rows.rows:
        raise NothingFits(
            f"none of {len(learnt)} pairs fits reward.max_length {config.max_length} with two different answers: raise it"
        )
    set_seed(seed % 2**32)
    module = with_head(engine, load_weights(start))
    trained, masters = module, {n: p.detach().float().clone() for n, p in module.named_parameters()}
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of the libraries about each other
        if config.lora is not None:
            trained, masters = wrap(module, config.lora, None, "SEQ_CLS"), {}
        trainer = PairRewardTrainer(
            model=trained,
            args=placed(TRLConfig(**arguments(config, module.device, len(rows.rows), seed), max_length=None), module),
            train_dataset=Dataset.from_list([joined(r) for r in rows.rows]),
            processing_class=engine.tokenizer,
            optimizers=(optimizer_for(trained, config, masters), None),
        )
        trainer.remove_callback(PrinterCallback)
        if watch is not None:
            trainer.add_callback(Progress(watch))
        longest = max(len(ids) for r in rows.rows for ids in joined(r).values())
        with attention_for(longest, module.device):
            result = trainer.train()
    if not torch.isfinite(torch.tensor(result.training_loss)):
        raise ModelError(
            f"the reward model did not converge (loss {result.training_loss}): lower reward.learning_rate "
            f"(now {config.learning_rate})"
        )
    if config.lora is not None:
        module = trained.merge_and_unload()
    write_folder(module, engine.tokenizer, dict(module.named_parameters()), folder)
    right = accuracy(RewardModel(module, engine.format, config.max_length), others.rows)
    measured = mean(right, [str(r["prompt_ids"]) for r in others.rows])  # a prompt's pairs share its answers
    return RewardMade(
        pairs=len(rows.rows),
        held_out=len(right),
        accuracy=measured.value,
        low=measured.low,
        high=measured.high,
        steps=int(result.global_step),
        loss=round(float(result.training_loss), 4),
    )


def load_reward(folder: str | Path, engine: TorchModel, max_length: int) -> RewardModel:
    module = AutoModelForSequenceClassification.from_pretrained(folder, dtype=engine.module.dtype)
    return RewardModel(module.to(engine.module.device), engine.format, max_length)


def held_out(pairs: Sequence[Preference], share: float, seed: int) -> tuple[list[Preference], list[Preference]]:
    """Pairs for training and others for measuring; a prompt's are all on one side, and one at least is trained on."""
    items = sorted({p.item for p in pairs})
    random.Random(seed).shuffle(items)
    kept = set(items[: min(round(share * len(items)), len(items) - 1)])
    return [p for p in pairs if p.item not in kept], [p for p in pairs if p.item in kept]


def with_head(engine: TorchModel, weights: dict[str, torch.Tensor]) -> Any:
    """A classifier of the policy's architecture with one output, its body the given weights, its head drawn anew."""
    config = copy.deepcopy(engine.module.config)
    config.num_labels, config.pad_token_id = 1, engine.format.pad_id
    try:
        module: Any = AutoModelForSequenceClassification.from_config(config)
    except ValueError:
        module = None
    if getattr(module, "score", None) is None:
        raise ModelError(
            f"transformers has no classifier with a scoring head for the policy's architecture ({config.model_type}): use "
            "rl.reward: judge, or learn: dpo"
        )
    body = {n: w for n, w in weights.items() if n in dict(module.named_parameters())}
    missing = module.load_state_dict(body, strict=False).missing_keys
    if lacking := [n for n in missing if not n.startswith("score.") and n in dict(module.named_parameters())]:
        raise ModelError(
            f"the policy has no weights for {', '.join(lacking[:3])} of its classifier: use rl.reward: judge"
        )
    torch.nn.init.zeros_(module.score.weight)  # at the start every answer is worth the same
    return module.to(device=engine.module.device, dtype=engine.module.dtype)


def joined(row: dict[str, Any]) -> dict[str, list[int]]:
    return {f"{side}_ids": row["prompt_ids"] + row[f"{side}_ids"] for side in ("chosen", "rejected")}


def accuracy(model: RewardModel, rows: Sequence[dict[str, Any]]) -> list[float]:
    """Of each pair 1 where the chosen answer scores higher, one half where both score the same."""
    both = [joined(r) for r in rows]
    chosen, rejected = (model.scores([r[f"{side}_ids"] for r in both]) for side in ("chosen", "rejected"))
    return [0.5 + 0.5 * ((a > b) - (a < b)) for a, b in zip(chosen, rejected, strict=True)]
