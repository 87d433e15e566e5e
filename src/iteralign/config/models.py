"""Which model plays a role, and where it runs."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Price(Section):
    """US dollars for a million tokens."""

    prompt: float = Field(ge=0)
    completion: float = Field(ge=0)


class SamplingConfig(Section):
    """`top_k`: of the likeliest so many, before `top_p` is cut among them; null: of all."""

    temperature: float = Field(default=0.7, ge=0)
    top_p: float = Field(default=0.9, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=1, le=512)
    max_new_tokens: int = Field(default=256, ge=1)


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


class SequenceClassifierConfig(TransformersConfig):
    """A model with a classification head (AutoModelForSequenceClassification): it reads exchanges, and writes nothing. `dtype` auto is
    float32."""

    type: Literal["sequence_classifier"] = "sequence_classifier"  # type: ignore[reportIncompatibleVariableOverride]


class LlamaCppConfig(Section):
    """A GGUF file in this process: replies by llama.cpp.

    `scoring`: what reads probabilities (a judge's yes or no, log-likelihoods). torch has the same weights in bfloat16,
    de-quantised once into the cache, 2 bytes a parameter on disk and in memory: several times as fast where the CPU
    multiplies bfloat16 matrices (Intel AMX). auto is torch there and llama_cpp elsewhere. `writing` torch: where torch
    scores, it writes, too, many replies at once; but what is to follow a JSON schema.
    """

    type: Literal["llama_cpp"] = "llama_cpp"
    model: str
    scoring: Literal["auto", "llama_cpp", "torch"] = "auto"
    writing: Literal["llama_cpp", "torch"] = "llama_cpp"
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


class HumanConfig(Section):
    """People play this role: the run stops with its questions, and goes on when they are answered (`iteralign review`)."""

    type: Literal["human"] = "human"


class SelfConfig(Section):
    """The policy itself plays this role; the report says so first."""

    type: Literal["self"] = "self"


ModelConfig = Annotated[
    TransformersConfig | LlamaCppConfig | OpenAIConfig | ScriptedConfig | HumanConfig, Field(discriminator="type")
]
RoleConfig = Annotated[
    TransformersConfig | LlamaCppConfig | OpenAIConfig | ScriptedConfig | HumanConfig | SelfConfig,
    Field(discriminator="type"),
]
# what can say which of a few labels an exchange has
LabelConfig = Annotated[
    SequenceClassifierConfig | TransformersConfig | LlamaCppConfig | OpenAIConfig | ScriptedConfig,
    Field(discriminator="type"),
]
