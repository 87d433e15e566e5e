"""A run's whole configuration."""

from itertools import product
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field, model_validator

from iteralign.config.models import ModelConfig, RoleConfig, SamplingConfig, Section, SelfConfig, TransformersConfig
from iteralign.config.parts import (
    DiscoverConfig,
    EvalsConfig,
    GateConfig,
    JudgeConfig,
    LiftConfig,
    OneJudge,
    PreferConfig,
    ProbeConfig,
    PromptsConfig,
    ReviseConfig,
    RubricConfig,
    RuntimeConfig,
    SelfImproveConfig,
    members,
)
from iteralign.config.training import DPOConfig, RewardConfig, RLConfig, SFTConfig

OnCopies = Annotated[Literal["drop", "stop", "off"], BeforeValidator(lambda yaml: "off" if yaml is False else yaml)]


class RunConfig(Section):
    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")
    recipe: Literal["iteralign", "cai", "rlaif", "self_improve", "in_context"] = "iteralign"
    seed: int = 0
    rounds: int = Field(default=2, ge=1)
    policy: ModelConfig
    oracle: RoleConfig
    judge: JudgeConfig
    evaluator: JudgeConfig
    prompts: PromptsConfig
    respond: SamplingConfig = SamplingConfig()
    evaluate: SamplingConfig = SamplingConfig(temperature=0.0, max_new_tokens=96)
    constitution: str | None = Field(default=None, description="a YAML file of principles to start from")
    discover: DiscoverConfig = DiscoverConfig()
    revise: ReviseConfig = ReviseConfig()
    lift: LiftConfig = LiftConfig()
    learn: Literal["sft", "dpo", "sft+dpo", "rl", "sft+rl"] = Field(
        default="sft", description="what a round is trained by"
    )
    sft: SFTConfig = SFTConfig()
    dpo: DPOConfig = DPOConfig()
    reward: RewardConfig = RewardConfig()
    rl: RLConfig = RLConfig()
    prefer: PreferConfig = PreferConfig()
    self_improve: SelfImproveConfig = SelfImproveConfig()
    gates: GateConfig = GateConfig()
    probe: ProbeConfig = ProbeConfig()
    evals: EvalsConfig = EvalsConfig()
    decontaminate: OnCopies = "drop"
    runtime: RuntimeConfig = RuntimeConfig()

    @model_validator(mode="before")
    @classmethod
    def _cai_criticises(cls, tree: Any) -> Any:
        """Constitutional AI draws principles, two unless told otherwise, and criticises under each (Bai et al. 2022,
        section 3.1)."""
        if not isinstance(tree, dict):
            return tree
        given = cast(dict[str, Any], tree)
        revise: Any = given.get("revise") or {}
        if given.get("recipe") not in ("cai", "self_improve") or not isinstance(revise, dict):
            return given
        told = cast(dict[str, Any], revise)
        return {**given, "revise": {"draws": 2, "critique": True, "prompt": "cai.yaml", **told}}

    @model_validator(mode="after")
    def _judge_is_not_evaluator(self) -> "RunConfig":
        pairs = product(members(self.judge), members(self.evaluator))
        if self.evals.held_out and any(self._weights(a) == self._weights(b) and share_question(a, b) for a, b in pairs):
            raise ValueError(
                "judge and evaluator share both model and questions: what the policy is trained to please "
                "would grade it. Give the evaluator other questions (prompt: evaluator.yaml) or another model"
            )
        return self

    def _weights(self, judge: OneJudge) -> Any:
        """The model behind a judge, without the settings that leave its weights as they are."""
        model = self.policy if isinstance(judge.model, SelfConfig) else judge.model
        return model.model_dump(include={"type", "model", "base_url", "script", "seed"})

    @model_validator(mode="after")
    def _recipe_has_what_it_learns_from(self) -> "RunConfig":
        known = {
            "iteralign": ("sft", "dpo", "sft+dpo"),
            "cai": ("sft", "dpo", "sft+dpo"),
            "rlaif": ("dpo", "rl"),
            "self_improve": ("sft+dpo", "dpo", "sft+rl"),
            "in_context": ("sft", "dpo", "sft+dpo"),  # it trains nothing, and stands in sweeps of what does
        }[self.recipe]
        if self.learn not in known:
            raise ValueError(f"recipe {self.recipe} cannot learn by {self.learn}: set learn: {' or '.join(known)}")
        return self

    @model_validator(mode="after")
    def _reward_stands_still(self) -> "RunConfig":
        own = any(isinstance(judge.model, SelfConfig) for judge in members(self.judge))
        if "rl" in self.learn and self.rl.reward == "judge" and own:
            raise ValueError(
                "rl.reward is the judge, and the judge is the policy that is being trained (type: self): give the judge a "
                "model of its own, or set rl.reward: model"
            )
        return self

    @model_validator(mode="after")
    def _adapters_are_kept_by_all_or_none(self) -> "RunConfig":
        loras = {way: getattr(self, way).lora for way in self.learn.split("+")}
        keeping = [way for way, lora in loras.items() if lora is not None and lora.keep]
        if keeping and len(keeping) < len(loras):
            raise ValueError(
                f"{keeping[0]}.lora.keep is on, but learn: {self.learn} also trains in another way that merges: an adapter would be "
                "kept apart from weights that the round deletes. Set lora.keep for all of them, or for none"
            )
        return self

    @property
    def phases(self) -> int:
        """Folders of `rounds/` that one round takes."""
        return {"self_improve": 2, "in_context": 0}.get(self.recipe, 1)

    @property
    def needs_pairs(self) -> bool:
        """Whether a round's preferences are learnt from: the judge as the reward asks for none."""
        return "dpo" in self.learn or ("rl" in self.learn and self.rl.reward == "model")

    @property
    def cai_by_pairs(self) -> bool:
        """Whether CAI learns rewritings over failing answers. In rounds of self-improvement that is a phase's only way."""
        return "dpo" in self.learn and (self.recipe == "cai" or "sft" not in self.learn)

    @property
    def generation_batch(self) -> int:
        """The micro-batch of stages that only the policy works in: what its backend decodes at once."""
        return self.policy.batch if isinstance(self.policy, TransformersConfig) else self.runtime.micro_batch

    def digest_fields(self) -> dict[str, Any]:
        """What must be equal for a run directory to be continued: everything but the speed settings."""
        return self.model_dump(mode="json", exclude={"runtime": {"threads", "trackers", "tracker_texts"}})


def share_question(judge: OneJudge, evaluator: OneJudge) -> bool:
    if isinstance(judge, RubricConfig) and isinstance(evaluator, RubricConfig):
        return judge.prompt == evaluator.prompt and not set(judge.questions).isdisjoint(evaluator.questions)
    return judge.type == evaluator.type
