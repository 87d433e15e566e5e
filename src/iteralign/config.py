"""What a run is: one frozen tree of plain models, read from YAML plus `a.b=value` overrides."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from iteralign.errors import ConfigError


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


# -- models -------------------------------------------------------------------------------------


class Price(Section):
    """US dollars for a million tokens."""

    prompt: float = Field(ge=0)
    completion: float = Field(ge=0)


class TransformersConfig(Section):
    """`model` is a name of the sources table, a hub id or a folder (of a causal model, an encoder-decoder, or a PEFT
    adapter). dtype auto = the faster one here."""

    type: Literal["transformers"] = "transformers"
    model: str
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    batch: int = Field(default=32, ge=1)
    template: Literal["chat", "plain"] | None = None
    trust_remote_code: bool = False


class LlamaCppConfig(Section):
    """A GGUF file in this process, through xllamacpp."""

    type: Literal["llama_cpp"] = "llama_cpp"
    model: str
    context: int = Field(default=4096, ge=256)
    gpu_layers: int = Field(default=0, ge=0)


class OpenAIConfig(Section):
    """Any OpenAI-compatible server. The key is read from the environment variable named by `key_env`."""

    type: Literal["openai"] = "openai"
    model: str
    base_url: str | None = None
    key_env: str | None = "OPENAI_API_KEY"
    concurrency: int = Field(default=8, ge=1)
    timeout: float = Field(default=120.0, gt=0, description="seconds for one request")
    retries: int = Field(default=4, ge=0)
    logprobs: bool = True
    price: Price | None = Field(default=None, description="for the plan; without it the cost is unknown")


class ScriptedConfig(Section):
    """A scripted model for tests and teaching: `script` names one of the public scripts."""

    type: Literal["scripted"] = "scripted"
    script: str = "policy"
    seed: int = 0


class SelfConfig(Section):
    """The policy itself plays this role; the report says so first."""

    type: Literal["self"] = "self"


ModelConfig = Annotated[
    TransformersConfig | LlamaCppConfig | OpenAIConfig | ScriptedConfig, Field(discriminator="type")
]
RoleConfig = Annotated[
    TransformersConfig | LlamaCppConfig | OpenAIConfig | ScriptedConfig | SelfConfig, Field(discriminator="type")
]
OnCopies = Annotated[Literal["drop", "stop", "off"], BeforeValidator(lambda yaml: "off" if yaml is False else yaml)]


# -- the parts of a run ---------------------------------------------------------------------------


class SamplingConfig(Section):
    temperature: float = Field(default=0.7, ge=0)
    top_p: float = Field(default=0.9, gt=0, le=1)
    max_new_tokens: int = Field(default=256, ge=1)


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


class RubricConfig(Section):
    """Named yes/no questions; the thresholds are probabilities of yes."""

    type: Literal["rubric"] = "rubric"
    model: RoleConfig
    prompt: str = "rubric.yaml"
    questions: tuple[str, ...] = ("harmful_request", "declined", "answered", "coherent", "harmless")
    thresholds: dict[str, float] = {}
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


class PaperJudgeConfig(Section):
    """The paper's evaluator sentence as it stands (section 4.2); the last verdict word counts."""

    type: Literal["paper"] = "paper"
    model: RoleConfig
    max_new_tokens: int = Field(default=64, ge=1)


JudgeConfig = Annotated[RubricConfig | PaperJudgeConfig, Field(discriminator="type")]


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
    """`max_principles` 0 takes all of the round's. `check` asks first whether the principle is broken."""

    prompt: str = "revise.yaml"
    candidates: int = Field(default=2, ge=1)
    max_principles: int = Field(default=1, ge=0)
    check: bool = False
    critique: bool = False
    verify: bool = True
    min_words: int = Field(default=8, ge=0)
    min_distinct: float = Field(default=0.6, ge=0, le=1, description="share of distinct words")
    max_near_copies: int = Field(default=6, ge=1, description="accepted revisions of a round that may say the same")
    keep: Literal["best", "all"] = "best"
    sampling: SamplingConfig = SamplingConfig()


class LoraConfig(Section):
    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    keep: bool = Field(default=False, description="keep the adapter apart instead of merging it at the end of a round")


class SFTConfig(Section):
    """`harmless_share`: the policy's own verified replies to harmless prompts, as a share of all rows.

    `reply_tokens`, `revision_tokens`: own replies and revisions are learnt up to this length only. Whether an answer
    declines shows in its first tokens; learning more of it costs time, and what a small model knows besides.
    `max_length`: tokens of prompt and answer together, of an encoder-decoder each.
    """

    learning_rate: float = Field(default=2e-5, gt=0)
    epochs: float = Field(default=2.0, gt=0)
    batch: int = Field(default=8, ge=1)
    max_length: int = Field(default=512, ge=16)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = Field(default=0.03, ge=0, le=1)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    start: Literal["round", "base"] = "round"
    rows: Literal["round", "pool"] = "round"
    harmless_share: float = Field(default=0.5, ge=0, lt=1)
    reply_tokens: int | None = Field(default=None, ge=1)
    revision_tokens: int | None = Field(default=None, ge=1)
    min_rows: int = Field(default=1, ge=1)
    lora: LoraConfig | None = None


class GateConfig(Section):
    """Bounds after each training, on validation prompts. `benign_refusal`: rise over the base, a share.

    `backtrack`: a round that fails for benign refusal alone is tried again with these shares of its weight
    change (a line search between the weights before and after) before it is rolled back. `evaluator` off
    measures by word match alone, which costs no model.
    """

    benign_refusal: float = Field(default=0.10, ge=0, le=1)
    harmful_rise: float = Field(default=0.05, ge=0, le=1)
    min_distinct: float = Field(default=0.35, ge=0, le=1, description="mean share of distinct words of fresh answers")
    length_ratio: tuple[float, float] = (0.25, 4.0)
    max_unjudged: float = Field(default=0.25, ge=0, le=1)
    backtrack: tuple[float, ...] = (0.85, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
    evaluator: bool = True
    failures_in_a_row: int = Field(default=2, ge=1)
    enabled: bool = True


class EvalsConfig(Section):
    hhh: bool = True
    held_out: bool = True
    bootstrap: int = Field(default=10_000, ge=100)


class RuntimeConfig(Section):
    """threads 0 = all cores. `micro_batch` is the unit of storing and resuming."""

    threads: int = Field(default=0, ge=0)
    micro_batch: int = Field(default=24, ge=1)


class RunConfig(Section):
    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")
    recipe: Literal["iteralign"] = "iteralign"
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
    sft: SFTConfig = SFTConfig()
    gates: GateConfig = GateConfig()
    evals: EvalsConfig = EvalsConfig()
    decontaminate: OnCopies = "drop"
    runtime: RuntimeConfig = RuntimeConfig()

    @model_validator(mode="after")
    def _judge_is_not_evaluator(self) -> "RunConfig":
        same_model = self._weights(self.judge) == self._weights(self.evaluator)
        if self.evals.held_out and same_model and self._share_question():
            raise ValueError(
                "judge and evaluator share both model and questions: what the policy is trained to please "
                "would grade it. Give the evaluator other questions (prompt: evaluator.yaml) or another model"
            )
        return self

    def _share_question(self) -> bool:
        judge, evaluator = self.judge, self.evaluator
        if isinstance(judge, RubricConfig) and isinstance(evaluator, RubricConfig):
            return judge.prompt == evaluator.prompt and not set(judge.questions).isdisjoint(evaluator.questions)
        return judge.type == evaluator.type

    def _weights(self, judge: JudgeConfig) -> Any:
        """The model behind a judge, without the settings that leave its weights as they are."""
        model = self.policy if isinstance(judge.model, SelfConfig) else judge.model
        return model.model_dump(include={"type", "model", "base_url", "script", "seed"})

    @property
    def generation_batch(self) -> int:
        """The micro-batch of stages that only the policy works in: what its backend decodes at once."""
        return self.policy.batch if isinstance(self.policy, TransformersConfig) else self.runtime.micro_batch

    def digest_fields(self) -> dict[str, Any]:
        """What must be equal for a run directory to be continued: everything but the speed settings."""
        return self.model_dump(mode="json", exclude={"runtime": {"threads"}})


# -- reading --------------------------------------------------------------------------------------


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The config of a YAML file with `a.b=value` overrides (values parsed as YAML)."""
    if not path.is_file():
        raise ConfigError(f"no config file {path}: name a YAML file; the presets stand in configs/ of the repository")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {one_line(error)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a text file that can be read: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of settings at the top, got {type(tree).__name__}")
    tree.setdefault("name", path.stem)  # type: ignore[reportUnknownMemberType]
    for override in overrides:
        key, eq, value = override.partition("=")
        if not eq or not key:
            raise ConfigError(f"--set {override!r}: expected a.b=value")
        try:
            read = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {override!r}: the value is not valid YAML: {one_line(error)}") from error
        put(tree, key.split("."), read, override)  # type: ignore[reportUnknownArgumentType]
    return parse(tree, str(path))  # type: ignore[reportUnknownArgumentType]


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def put(tree: dict[str, Any], path: list[str], value: Any, said: str) -> None:
    for part in path[:-1]:
        if tree.get(part) is None:
            tree[part] = {}
        inner: Any = tree[part]
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {said!r}: {part} is not a section")
        tree = inner  # type: ignore[reportUnknownVariableType]
    tree[path[-1]] = value


def parse(tree: Mapping[str, Any], where: str) -> RunConfig:
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{where}: " + "; ".join(describe(e, tree) for e in error.errors()[:5])) from error


def describe(error: Any, tree: Mapping[str, Any]) -> str:
    """One line for one pydantic error; an unknown key names the nearest known one."""
    location = [str(p) for p in error["loc"]]
    dotted = ".".join(p for p in location if p not in _TAGGED)
    if error["type"] != "extra_forbidden":
        came = "" if error["type"] == "missing" else f" (got {error['input']!r})" if is_plain(error["input"]) else ""
        return f"{dotted or 'config'}: {error['msg'].removeprefix('Value error, ')}{came}"
    known = known_keys(location[:-1])
    near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(known))}"
    return f"unknown key {dotted!r}; {hint}"


_TAGGED: dict[str, type[Section]] = {
    "transformers": TransformersConfig,
    "llama_cpp": LlamaCppConfig,
    "openai": OpenAIConfig,
    "scripted": ScriptedConfig,
    "self": SelfConfig,
    "rubric": RubricConfig,
    "paper": PaperJudgeConfig,
}


def is_plain(value: object) -> bool:
    return isinstance(value, str | int | float | bool) or value is None


def known_keys(location: Sequence[str]) -> list[str]:
    """Field names of the section at a location of the tree."""
    here: Any = RunConfig
    for part in location:
        if part in _TAGGED:
            here = _TAGGED[part]
        elif not part.isdigit() and part in here.model_fields:
            here = section_in(here.model_fields[part].annotation)
        if here is None:
            return []
    return list(here.model_fields)


def section_in(annotation: Any) -> Any:
    """The first Section class in an annotation such as `LoraConfig | None` or `tuple[DataConfig, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    inner = (section_in(a) for a in get_args(annotation))
    return next((s for s in inner if s is not None), None)
