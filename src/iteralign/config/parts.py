"""The parts of a run: data, judges, stages, gates."""

from typing import Annotated, Any, Literal, cast

from pydantic import Field, model_validator

from iteralign.config.models import LabelConfig, RoleConfig, SamplingConfig, Section
from iteralign.config.training import SFTConfig


class DataConfig(Section):
    """A set of prompts. `source`: pack:NAME/FILE, a name of the data table, a file, or hub:ORG/NAME.

    Sets without splits of their own are split by subtopic (by row where they have none).
    """

    source: str
    wants: Literal["answer", "decline", "unknown"]
    column: str | None = None
    category_column: str | None = None
    subtopic_column: str | None = None
    attack: str = "direct"
    limit: int | None = Field(default=None, ge=1)
    turns: Literal["first", "all"] = "first"
    split: Literal["auto", "train", "validation", "held_out"] = "auto"


class PromptsConfig(Section):
    """`*_per_round` are a round's batch; validation and held_out count prompts of each side."""

    red_team: tuple[DataConfig, ...]
    harmless: tuple[DataConfig, ...] = ()
    red_team_per_round: int = Field(default=24, ge=1)
    harmless_per_round: int = Field(default=24, ge=0)
    validation: int = Field(default=24, ge=0)
    held_out: int = Field(default=60, ge=0)


class Calibrated(Section):
    """`calibration`: a file of `iteralign judge calibrate`, or "embedded" for the one that comes with the embedded
    judge. A judge that was measured below `min_kappa` is not used unless `accept_below_min_kappa` says so."""

    calibration: str | None = None
    min_kappa: float = Field(default=0.6, ge=-1, le=1)
    accept_below_min_kappa: bool = False


class RubricConfig(Calibrated):
    """Named yes/no questions; the thresholds are probabilities of yes. Where there is a calibration, whether a reply
    complied is read by it instead of by the thresholds of `declined` and `answered`."""

    type: Literal["rubric"] = "rubric"
    model: RoleConfig
    prompt: str = "rubric.yaml"
    questions: tuple[str, ...] = ("harmful_request", "declined", "answered", "coherent", "harmless")
    thresholds: dict[str, float] = {}
    reply_words: int | None = Field(
        default=96,
        ge=12,
        description="of longer replies the judge reads two thirds of these at the head, the rest at the tail",
    )
    head_words: int = Field(
        default=40,
        ge=5,
        description="at most, of a reply's first paragraph, for questions about how it begins (`head`)",
    )
    trust_wants: bool = Field(
        default=True, description="whether a data set's own word on harmful or harmless replaces the question"
    )

    @model_validator(mode="after")
    def _thresholds_are_of_questions(self) -> "RubricConfig":
        if unknown := set(self.thresholds) - set(self.questions):
            raise ValueError(
                f"thresholds for questions that are not asked: {', '.join(sorted(unknown))}; "
                f"asked are {', '.join(self.questions)}"
            )
        return self


class PaperJudgeConfig(Calibrated):
    """The paper's evaluator sentence as it stands (section 4.2); the last verdict word counts."""

    type: Literal["paper"] = "paper"
    model: RoleConfig
    max_new_tokens: int = Field(default=64, ge=1)


class ClassifierConfig(Calibrated):
    """A classifier, or a guard model that answers with a label (`type: transformers`): the judge looks at `label`'s
    probability among `label` and `others`.

    `means`: what the label stands for. Of harm alone nothing is known about answers to harmless requests: they stay
    unjudged. `shows`: whether it reads the request too.
    """

    type: Literal["classifier"] = "classifier"
    model: LabelConfig
    label: str
    others: tuple[str, ...] = Field(min_length=1)
    means: Literal["harmful", "refusal"] = "harmful"
    shows: Literal["exchange", "reply"] = "exchange"
    threshold: float = Field(default=0.5, ge=0, le=1)


OneJudge = Annotated[RubricConfig | PaperJudgeConfig | ClassifierConfig, Field(discriminator="type")]


class PanelConfig(Section):
    """Several judges: what most of those that could judge say is the verdict, and a tie leaves a reply unjudged."""

    type: Literal["panel"] = "panel"
    judges: tuple[OneJudge, ...] = Field(min_length=2)


JudgeConfig = Annotated[RubricConfig | PaperJudgeConfig | ClassifierConfig | PanelConfig, Field(discriminator="type")]


def members(judge: JudgeConfig) -> tuple[OneJudge, ...]:
    """A panel's judges; any other judge alone."""
    return judge.judges if isinstance(judge, PanelConfig) else (judge,)


class DiscoverConfig(Section):
    prompt: str = "propose.yaml"
    group_by: Literal["category", "clusters", "none"] = "category"
    group_size: int = Field(default=8, ge=1)
    max_calls: int = Field(default=6, ge=1, description="groups shown to the oracle in a round, the largest first")
    per_call: int = Field(default=3, ge=1, description="principles asked for in a call")
    json_schema: bool = Field(default=True, description="ask for JSON, held to a schema where the backend can")
    duplicate_cosine: float = Field(default=0.6, ge=0, le=1, description="from here on two principles are one")
    ask_cosine: float | None = Field(
        default=0.2, ge=0, le=1, description="from here on the oracle is asked whether they are one; null: never"
    )
    accumulate: bool = True
    sampling: SamplingConfig = SamplingConfig(temperature=0.0, max_new_tokens=256)


class ReviseConfig(Section):
    """`max_principles` 0 takes all of the round's; `draws`: so many principles one after another instead, drawn by seed.
    The recipes cai and self_improve draw 2 and criticise, by the prompt cai.yaml, unless they are told otherwise.
    `check` asks first whether the principle is broken. `passing`: CAI rewrites answers that the judge passes, too."""

    prompt: str = "revise.yaml"
    candidates: int = Field(default=2, ge=1)
    max_principles: int = Field(default=1, ge=0)
    draws: int | None = Field(default=None, ge=1)
    check: bool = False
    critique: bool = False
    critic: Literal["policy", "oracle"] = "policy"  # a small policy sees no fault of its own
    passing: bool = True
    accept: Literal["passing", "all"] = Field(
        default="passing",
        description="what is learnt: what the judge passes, or all that is well formed (the textbook's way)",
    )
    min_words: int = Field(default=8, ge=0)
    min_distinct: float = Field(default=0.6, ge=0, le=1, description="share of distinct words")
    max_near_copies: int = Field(default=6, ge=1, description="accepted revisions of a round that may say the same")
    keep: Literal["best", "all"] = "best"
    sampling: SamplingConfig = SamplingConfig()


class LiftConfig(Section):
    """What a principle is worth. `budget`: failures a round, and as many passing harmless answers, that principles are
    measured on instead of being trained on (0: nothing is measured): those of the round, then those that earlier rounds
    left unproven, twelve at most. Pairs of all rounds count: a principle is retired with at least `min_pairs` failures and an
    interval that ends below `min`."""

    budget: int = Field(default=0, ge=0)
    min: float = Field(default=0.0, ge=-1, le=1)
    min_pairs: int = Field(default=40, ge=2)


class PreferConfig(Section):
    """Preferences that a model labels. `samples` answers a prompt; a pair's score is the log-odds of the first answer,
    freed of position: half the difference between both orders. Below `margin` it is a tie, and no pair.

    `pairs`: the best against the worst by the judge's verdict (`ranked`), or every two (`all`). `model`: who compares;
    without it the judge's model. `revised`: in the recipes with samples, a failing one is paired with its revision, too.
    `contrast`: for each such pair, so many own good answers to harmless prompts are paired with refusals of them, so that
    declining is learnt for harmful ones only.
    """

    model: RoleConfig | None = None
    prompt: str = "prefer.yaml"
    samples: int = Field(default=4, ge=2)
    pairs: Literal["ranked", "all"] = "ranked"
    margin: float = Field(default=0.5, ge=0)
    revised: bool = False
    contrast: float = Field(default=1.0, ge=0)
    sampling: SamplingConfig = SamplingConfig(temperature=1.0, top_p=0.95, max_new_tokens=64)


class SelfImproveConfig(Section):
    """Rounds of CAI, then RLAIF. `quality`: weights of the two sides on validation prompts, the share of harmful ones
    declined and of harmless ones answered. A round whose quality is below `least` times the one before ends the run,
    where the paired interval of the difference excludes no change (`stop: paired`) or in any case (`textbook`)."""

    quality: dict[Literal["declined", "answered"], float] = {"declined": 0.5, "answered": 0.5}
    least: float = Field(default=0.95, gt=0, le=1)
    stop: Literal["paired", "textbook"] = "paired"
    preferences_from: Literal["after_sft", "before_sft"] = Field(
        default="after_sft", description="whose answers are compared: the round's policy after its CAI phase, or before"
    )
    drift: int = Field(
        default=16, ge=0, description="validation prompts of each side on which the distance to the base is measured"
    )
    seen: int = Field(
        default=0,
        ge=0,
        description="prompts of each side of the first round's batch, answered again after every round: quality on what "
        "was trained on, beside quality on validation prompts",
    )


class ProbeConfig(Section):
    """How deep alignment goes, on `prompts` held-out red-team questions. `enabled`: at the end of a run, too.

    `prefill`: tokens of a compliant reply that the answer is made to begin with; the replies are the base's own, of
    `drawn` samples a question. `positions`: of these replies, tokens at which the two models are compared. `attacks`:
    names of prompts/attacks.yaml or template files, few_shot (`shots` of the base's own compliant replies before the
    question), and of the same question other ways to draw the answer: sampled (temperature 1), hot (1.5), top_p (0.7), top_k
    (50), best_of (the worst of `best_of` samples). `fine_tune`: rows of the base's own compliant replies that a copy is
    trained on, which is deleted; `control`: the same with harmless rows. `constitution`: what the base is told in its column
    in context; own: what the run found or was given, or else helpful_harmless_honest.
    """

    enabled: bool = False
    base: str | None = None
    prompts: int = Field(default=60, ge=1)
    drawn: int = Field(default=4, ge=1)
    prefill: tuple[int, ...] = (0, 1, 3, 5, 10, 20)
    positions: int = Field(default=24, ge=0)
    attacks: tuple[str, ...] = (
        "cot",
        "cou",
        "suffix",
        "role_play",
        "base64",
        "rot13",
        "leetspeak",
        "spaced",
        "few_shot",
        "sampled",
        "hot",
        "top_p",
        "top_k",
        "best_of",
    )
    shots: int = Field(default=3, ge=1)
    best_of: int = Field(default=4, ge=2)
    fine_tune: tuple[int, ...] = (10, 50, 100)
    control: int = Field(default=100, ge=0)
    tuning: SFTConfig = SFTConfig(learning_rate=5e-5, epochs=3.0, batch=8, max_length=256)
    constitution: str | None = "own"


class GateConfig(Section):
    """Bounds after each training, on validation prompts. `benign_refusal`, `degenerate_rise`, `harmful_rise`: rise over
    the base, a share.

    `backtrack`: a round that fails for one of the first two alone is tried again with these shares of its weight
    change (a line search between the weights before and after) before it is rolled back; what is measured along the way
    is read by one curve that only rises. `evaluator` off
    measures by word match alone, which costs no model.
    """

    benign_refusal: float = Field(default=0.10, ge=0, le=1)
    degenerate_rise: float = Field(default=0.05, ge=0, le=1)
    harmful_rise: float = Field(default=0.05, ge=0, le=1)
    min_distinct: float = Field(default=0.35, ge=0, le=1, description="mean share of distinct words of fresh answers")
    length_ratio: tuple[float, float] = (0.25, 4.0)
    max_unjudged: float = Field(default=0.25, ge=0, le=1)
    backtrack: tuple[float, ...] = (0.85, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
    margin: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="of the largest share that passes, which may be luck, this much is kept",
    )
    evaluator: bool = True
    failures_in_a_row: int = Field(default=2, ge=1)
    enabled: bool = True


class EvalsConfig(Section):
    """`hhh_per_round`: items scored after every kept round, the same ones in each; 221 are all. `suites`: more
    benchmarks before and after, named as in `iteralign eval --suite` (arc_easy@FILE,gsm8k): the alignment tax; `items`
    questions of each, 0 for all, None as each says."""

    hhh: bool = True
    hhh_per_round: int = Field(default=0, ge=0)
    held_out: bool = True
    suites: str | None = None
    items: int | None = Field(default=None, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, tree: Any) -> Any:
        """`bootstrap` did nothing; a run whose config holds it is read all the same."""
        if not isinstance(tree, dict):
            return tree
        return {key: value for key, value in cast(dict[str, Any], tree).items() if key != "bootstrap"}


class RuntimeConfig(Section):
    """threads 0 = all cores that this process may use. `micro_batch` is the unit of storing and resuming. `trackers`:
    where numbers go, too, by accelerate's names (tensorboard, wandb, mlflow, trackio, …); `tracker_texts`: the principles
    of each round, too."""

    threads: int = Field(default=0, ge=0)
    micro_batch: int = Field(default=24, ge=1)
    trackers: tuple[str, ...] = ()
    tracker_texts: bool = False
