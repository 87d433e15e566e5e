"""What a run is: one frozen tree of plain models, read from YAML plus `a.b=value` overrides."""

from iteralign.config.models import (
    LlamaCppConfig,
    ModelConfig,
    OpenAIConfig,
    Price,
    RoleConfig,
    ScriptedConfig,
    Section,
    SelfConfig,
    TransformersConfig,
)
from iteralign.config.parts import (
    DataConfig,
    DiscoverConfig,
    EvalsConfig,
    GateConfig,
    JudgeConfig,
    LoraConfig,
    PaperJudgeConfig,
    PromptsConfig,
    ReviseConfig,
    RubricConfig,
    RuntimeConfig,
    SamplingConfig,
    SFTConfig,
)
from iteralign.config.reading import load_config, parse
from iteralign.config.run import RunConfig

__all__ = [
    "DataConfig",
    "DiscoverConfig",
    "EvalsConfig",
    "GateConfig",
    "JudgeConfig",
    "LlamaCppConfig",
    "LoraConfig",
    "ModelConfig",
    "OpenAIConfig",
    "PaperJudgeConfig",
    "Price",
    "PromptsConfig",
    "ReviseConfig",
    "RoleConfig",
    "RubricConfig",
    "RunConfig",
    "RuntimeConfig",
    "SFTConfig",
    "SamplingConfig",
    "ScriptedConfig",
    "Section",
    "SelfConfig",
    "TransformersConfig",
    "load_config",
    "parse",
]
