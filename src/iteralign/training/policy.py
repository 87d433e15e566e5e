"""The policy: one engine and the checkpoint that it stands at. `train` is the only way from one to the next."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from iteralign.config import DPOConfig, ModelConfig, RewardConfig, RLConfig, SFTConfig, TransformersConfig
from iteralign.errors import ConfigError
from iteralign.models.base import Model
from iteralign.models.in_context import InContext
from iteralign.models.load import load_model
from iteralign.models.scripted import ScriptedPolicy
from iteralign.models.usage import Usage
from iteralign.records import Checkpoint, Preference, Prompt, Response, Row
from iteralign.sources import Progress, resolve
from iteralign.store import Store

if TYPE_CHECKING:
    from iteralign.models.weights import Ends


class Engine:
    """One model in memory, whose weights are those of the checkpoint last asked for.

    Nothing is loaded before it is needed: a finished stage of a resumed run costs no model.
    """

    def __init__(
        self, config: ModelConfig, threads: int = 0, progress: Progress | None = None, store: Store | None = None
    ) -> None:
        self.config = config
        self.threads = threads
        self.progress = progress
        self.store = store
        self._model: Model | None = None
        self._at: str | None = None

    def at(self, checkpoint: Checkpoint) -> Model:
        if self._model is None:
            self._model = load_model(self._settled(), self.threads, checkpoint.path, progress=self.progress)
        elif self._at != checkpoint.digest:
            self._restore(self._model, checkpoint)
        self._at = checkpoint.digest
        return self._model

    def _settled(self) -> ModelConfig:
        """The config with its dtype: measured once a run and kept, so that a resumed run computes in the same."""
        if not isinstance(self.config, TransformersConfig) or self.config.dtype != "auto" or self.store is None:
            return self.config
        from iteralign.models.device import measured_dtype, pick_device

        device = pick_device(self.config.device)
        kept = self.store.once("dtype", lambda: {"dtype": measured_dtype(device)})
        return self.config.model_copy(update={"dtype": kept["dtype"]})

    def moved(self, checkpoint: Checkpoint) -> None:
        """Training has left the weights at `checkpoint`."""
        self._at = checkpoint.digest

    def left(self, now: str | None = None) -> None:
        """The weights are at no checkpoint, but at what the caller calls `now`: the next `at` puts them back."""
        self._at = now

    def still(self, now: str) -> Model | None:
        """The model, where the weights are still at what was called `now`."""
        return self._model if self._at == now else None

    def loaded(self, checkpoint: Checkpoint) -> Model:
        """The model with whatever weights it has; those of `checkpoint` where it is not loaded yet."""
        return self._model or self.at(checkpoint)

    def source(self, checkpoint: Checkpoint) -> str:
        """Where the weights of a checkpoint lie: its folder, or the configured base."""
        if checkpoint.path is not None:
            return checkpoint.path
        if not isinstance(self.config, TransformersConfig):
            return "base"
        from iteralign.models.weights import unpacked

        return unpacked(resolve(self.config.model, progress=self.progress))

    def _restore(self, model: Model, checkpoint: Checkpoint) -> None:
        if isinstance(model, ScriptedPolicy):
            model.restore(self.source(checkpoint))
            return
        from iteralign.models.decoding import TorchModel
        from iteralign.models.weights import load_weights, put

        assert isinstance(model, TorchModel)
        put(model, load_weights(self.source(checkpoint)))

    @property
    def usage(self) -> Usage:
        return self._model.meter.usage if self._model else Usage()

    def close(self) -> None:
        if self._model is not None:
            self._model.close()
        self._model = self._at = None


def refuse_untrainable(config: ModelConfig) -> None:
    """ConfigError: only a transformers policy can be trained; any model can be measured."""
    if not trainable(config):
        raise ConfigError(f"policy.type {config.type!r} cannot be trained: use transformers")
    if isinstance(config, TransformersConfig) and config.dtype == "float16":
        raise ConfigError(
            "policy.dtype float16 cannot be trained: its small gradients are 0, and losses are not scaled here. Use bfloat16, or float32"
        )


def trainable(config: ModelConfig) -> bool:
    return isinstance(config, TransformersConfig) or config.type == "scripted"


class Policy(NamedTuple):
    """`system`: what it is told in every chat; empty: nothing of ours."""

    engine: Engine
    checkpoint: Checkpoint
    system: str = ""

    @property
    def model(self) -> Model:
        model = self.engine.at(self.checkpoint)
        return InContext(model, self.system) if self.system else model


BASE = Checkpoint(path=None, parent=None, digest="base")


def train(
    policy: Policy,
    rows: Sequence[Row],
    config: SFTConfig,
    folder: Path,
    seed: int,
    watch: Callable[[int, int], None] | None = None,
) -> Policy:
    """The policy after supervised fine-tuning, its checkpoint in `folder`. In place: the old one is gone from
    memory, and comes back from its checkpoint when it is asked for."""
    start = policy.checkpoint if config.start == "round" else BASE
    model = policy.engine.at(policy.checkpoint)
    source = policy.engine.source(start)
    if isinstance(model, ScriptedPolicy):
        if config.start == "base":
            model.restore("base")
        made = model.learn(rows, folder, source)
    else:
        from iteralign.models.decoding import TorchModel
        from iteralign.training.sft import sft

        assert isinstance(model, TorchModel)
        made = sft(model, source, rows, config, folder, seed, watch)
    policy.engine.moved(made)
    return Policy(policy.engine, made)


def train_on_pairs(
    policy: Policy,
    pairs: Sequence[Preference],
    config: DPOConfig,
    folder: Path,
    seed: int,
    watch: Callable[[int, int], None] | None = None,
) -> Policy:
    """The policy after DPO, its checkpoint in `folder`. The reference is the policy as it comes, or the base."""
    model = policy.engine.at(policy.checkpoint)
    start = policy.engine.source(policy.checkpoint)
    reference = policy.engine.source(BASE if config.reference == "base" else policy.checkpoint)
    if isinstance(model, ScriptedPolicy):
        made = model.learn_pairs(pairs, folder, start)
    else:
        from iteralign.models.decoding import TorchModel
        from iteralign.training.dpo import dpo

        assert isinstance(model, TorchModel)
        made = dpo(model, start, reference, pairs, config, folder, seed, watch)
    policy.engine.moved(made)
    return Policy(policy.engine, made)


Reward = Callable[[Sequence[Response]], Sequence[float | None]]


def train_reward_model(
    policy: Policy,
    pairs: Sequence[Preference],
    config: RewardConfig,
    folder: Path,
    seed: int,
    watch: Callable[[int, int], None] | None = None,
) -> dict[str, object]:
    """A reward model begun from the policy, in `folder`: what `reward_model` reads. Its pairs, and its accuracy on others."""
    model = policy.engine.at(policy.checkpoint)
    if isinstance(model, ScriptedPolicy):
        return model.learn_reward(pairs, folder)
    from iteralign.models.decoding import TorchModel
    from iteralign.training.reward import train_reward

    assert isinstance(model, TorchModel)
    return train_reward(model, policy.engine.source(policy.checkpoint), pairs, config, folder, seed, watch).row()


def reward_model(policy: Policy, folder: Path, max_length: int) -> Reward:
    model = policy.engine.at(policy.checkpoint)
    if isinstance(model, ScriptedPolicy):
        return model.reward
    from iteralign.models.decoding import TorchModel
    from iteralign.training.reward import load_reward

    assert isinstance(model, TorchModel)
    return load_reward(folder, model, max_length)


def train_by_reward(
    policy: Policy,
    prompts: Sequence[Prompt],
    reward: Reward,
    config: RLConfig,
    folder: Path,
    seed: int,
    watch: Callable[[int, int], None] | None = None,
) -> dict[str, object]:
    """The policy after RLOO or GRPO, its checkpoint in `folder`; rewards and KL of every step beside it."""
    model = policy.engine.at(policy.checkpoint)
    start = policy.engine.source(policy.checkpoint)
    reference = policy.engine.source(BASE if config.reference == "base" else policy.checkpoint)
    if isinstance(model, ScriptedPolicy):
        made, rewards, kl = model.learn_by(prompts, reward, folder, start)
    else:
        from iteralign.models.decoding import TorchModel
        from iteralign.training.reinforce import reinforce

        assert isinstance(model, TorchModel)
        made, rewards, kl = reinforce(model, start, reference, prompts, reward, config, folder, seed, watch)
    policy.engine.moved(made)
    return {"checkpoint": made.row(), "rewards": list(rewards), "kl": list(kl)}


class Line:
    """The line between two policies' weights, for a search along it; read from disk when first needed.

    With adapters kept apart it is the line between the adapters.
    """

    def __init__(self, before: Policy, after: Policy) -> None:
        self.before, self.after = before, after
        self.engine = after.engine
        self._ends: Ends | None = None

    def at(self, share: float) -> Model:
        """The engine with the weights before + share x (after - before)."""
        here = f"{self.before.checkpoint.digest} {share} {self.after.checkpoint.digest}"
        if (still := self.engine.still(here)) is not None:
            return still
        model = self.engine.loaded(self.after.checkpoint)
        if isinstance(model, ScriptedPolicy):
            model.learnt = round((1 - share) * self._learnt(self.before) + share * self._learnt(self.after))
        else:
            from iteralign.models.decoding import TorchModel
            from iteralign.models.weights import put

            assert isinstance(model, TorchModel)
            put(model, self.ends.at(share)[0])
        self.engine.left(here)
        return model

    def save(self, share: float, folder: Path) -> Checkpoint:
        model = self.at(share)
        counts = {
            "rows": self.after.checkpoint.rows,
            "cut": self.after.checkpoint.cut,
            "rejected": self.after.checkpoint.rejected,
            "steps": self.after.checkpoint.steps,
            "loss": self.after.checkpoint.loss,
        }
        if isinstance(model, ScriptedPolicy):
            made = model.learn((), folder, self._source(self.before))
        else:
            from iteralign.models.decoding import TorchModel
            from iteralign.models.weights import save, weights_digest

            assert isinstance(model, TorchModel)
            mixed, adapter = self.ends.at(share)
            save(model, mixed, adapter, folder)
            made = Checkpoint(path=str(folder), parent=self._source(self.before), digest=weights_digest(mixed))
        self.engine.moved(made)
        return made.model_copy(update=counts)

    @property
    def ends(self) -> "Ends":
        from iteralign.models.weights import Ends

        if self._ends is None:
            self._ends = Ends(self._source(self.before), self._source(self.after))
        return self._ends

    def _source(self, policy: Policy) -> str:
        return self.engine.source(policy.checkpoint)

    def _learnt(self, policy: Policy) -> int:
        model = ScriptedPolicy(script=getattr(self.engine.config, "script", "policy"))
        model.restore(self._source(policy))
        return model.learnt


def drop_checkpoint(checkpoint: Checkpoint) -> None:
    """Delete a checkpoint's folder. The base has none of ours and is never deleted."""
    if checkpoint.path is not None:
        shutil.rmtree(checkpoint.path, ignore_errors=True)


def drop_checkpoints(round: Store, keep: Policy | None) -> None:
    """Delete a round's checkpoint folders but the one that is kept."""
    for folder in round.folder.glob("checkpoint*"):
        if keep is None or str(folder) != keep.checkpoint.path:
            shutil.rmtree(folder, ignore_errors=True)
