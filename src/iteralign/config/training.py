"""The parts of a run's configuration that say how it trains."""

from typing import Literal

from pydantic import Field, model_validator

from iteralign.config.models import SamplingConfig, Section


class LoraConfig(Section):
    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    keep: bool = Field(default=False, description="keep the adapter apart instead of merging it")


class TrainConfig(Section):
    """What every way of training takes. `max_length`: tokens of prompt and answer together, of an encoder-decoder each."""

    learning_rate: float = Field(default=2e-5, gt=0)
    epochs: float = Field(default=2.0, gt=0)
    batch: int = Field(default=8, ge=1)
    max_length: int = Field(default=512, ge=16)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = Field(default=0.03, ge=0, le=1)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    lora: LoraConfig | None = None


class DeepenConfig(Section):
    """Against alignment that is only a few tokens deep (Qi et al. 2024, arXiv 2406.05946, section 3): of the revisions of
    answers to harmful prompts, this `share` is learnt once more after the first tokens of the failing answer, 1 to
    `tokens` of them, which are not learnt themselves."""

    share: float = Field(default=0.0, ge=0, le=1)
    tokens: int = Field(default=20, ge=1)


class ConstrainConfig(Section):
    """Constrained SFT (Qi et al. 2024, arXiv 2406.05946, eq. 3): the first `tokens` of every answer stay near what they
    were before, the nearer the larger `beta`. 0 tokens: plain SFT. For training an aligned policy on other rows."""

    tokens: int = Field(default=0, ge=0)
    beta: float = Field(default=2.0, gt=0)


class SFTConfig(TrainConfig):
    """`start`: the round's policy, or the base again. `harmless_share`: the policy's own verified replies to harmless prompts, as a share of all rows.

    `reply_tokens`, `revision_tokens`: own replies and revisions are learnt up to this length only. Whether an answer
    declines shows in its first tokens; learning more of it costs time, and what a small model knows besides.
    """

    start: Literal["round", "base"] = "round"
    rows: Literal["round", "pool"] = "round"
    harmless_share: float = Field(default=0.5, ge=0, lt=1)
    reply_tokens: int | None = Field(default=None, ge=1)
    revision_tokens: int | None = Field(default=None, ge=1)
    deepen: DeepenConfig = DeepenConfig()
    constrain: ConstrainConfig = ConstrainConfig()
    min_rows: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _not_against_each_other(self) -> "SFTConfig":
        if self.deepen.share and self.constrain.tokens:
            raise ValueError(
                "sft.deepen and sft.constrain are both on: the first would teach the very tokens that the second holds "
                "back. Choose one"
            )
        return self


class DPOConfig(TrainConfig):
    """Direct preference optimisation (Rafailov et al. 2023, eq. 7). `reference`: the policy that it begins with, or
    the base. `answer_tokens`: chosen and rejected answers are compared up to this length only. `deepen`: of the pairs of
    a failing answer and its revision, a share is learnt once more behind the first tokens of the failing one. `sft`: the
    weight of the chosen answer's mean negative log-likelihood beside the loss (RPO; Pang et al. 2024, arXiv 2404.19733,
    eq. 1): without it both answers of a pair may become less likely."""

    learning_rate: float = Field(default=5e-6, gt=0)
    epochs: float = Field(default=1.0, gt=0)
    beta: float = Field(default=0.1, gt=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    reference: Literal["round", "base"] = "round"
    answer_tokens: int | None = Field(default=None, ge=1)
    sft: float = Field(default=0.0, ge=0)
    deepen: DeepenConfig = DeepenConfig()


class RewardConfig(TrainConfig):
    """A reward model, trained on preference pairs from the round's policy; `held_out`: prompts whose pairs measure it."""

    learning_rate: float = Field(default=1e-5, gt=0)
    epochs: float = Field(default=1.0, gt=0)
    held_out: float = Field(default=0.2, ge=0, lt=1)


class RLConfig(TrainConfig):
    """Reinforcement learning: `samples` answers a prompt are scored by a reward model trained on the round's pairs, or by
    the judge itself, and what scores above its siblings becomes likelier. `beta`: the KL penalty towards `reference`;
    `batch`: answers a step, whole prompts."""

    learning_rate: float = Field(default=1e-6, gt=0)
    epochs: float = Field(default=1.0, gt=0)
    method: Literal["rloo", "grpo"] = "rloo"
    reward: Literal["model", "judge"] = "model"
    samples: int = Field(default=4, ge=2)
    beta: float = Field(default=0.05, ge=0)
    reference: Literal["round", "base"] = "round"
    sampling: SamplingConfig = SamplingConfig(temperature=1.0, top_p=1.0, max_new_tokens=64)

    @model_validator(mode="after")
    def _steps_have_whole_prompts(self) -> "RLConfig":
        if self.batch % self.samples:
            raise ValueError(f"rl.batch is {self.batch}: answers come {self.samples} a prompt, give a multiple of that")
        if self.sampling.temperature == 0:
            raise ValueError("rl.sampling.temperature is 0: equal answers have nothing to be compared by, raise it")
        return self
