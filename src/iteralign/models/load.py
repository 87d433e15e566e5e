"""A model configuration → a model. Equal configurations share one model."""

from collections.abc import Callable
from pathlib import Path

from iteralign.config import (
    HumanConfig,
    LlamaCppConfig,
    ModelConfig,
    OpenAIConfig,
    RoleConfig,
    ScriptedConfig,
    SelfConfig,
    SequenceClassifierConfig,
    TransformersConfig,
)
from iteralign.errors import ConfigError
from iteralign.models.base import Model
from iteralign.models.usage import Usage, together
from iteralign.records import digest
from iteralign.sources import Progress, resolve


def load_model(
    config: ModelConfig,
    threads: int = 0,
    weights: str | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Model:
    """`weights`: a checkpoint to load instead of the configured model. `cache`: where remote calls are kept."""
    if isinstance(config, ScriptedConfig):
        from iteralign.models.scripted import ScriptedPolicy, scripted

        model = scripted(config.script, config.seed)
        if weights is not None and isinstance(model, ScriptedPolicy):
            model.restore(weights)
        return model
    if isinstance(config, HumanConfig):
        from iteralign.models.human import FOLDER, HumanModel

        if cache is None:
            raise ConfigError(
                "people can be asked in a run alone: give this role a model (type: human has no run directory)"
            )
        return HumanModel(cache.with_name(FOLDER))
    if isinstance(config, OpenAIConfig):
        from iteralign.models.cached import CachedModel
        from iteralign.models.openai import OpenAIModel

        remote = OpenAIModel(config)
        return CachedModel(remote, cache) if cache else remote
    source = resolve(config.model, progress=progress) if weights is None else Path(weights)
    if isinstance(config, SequenceClassifierConfig):
        from iteralign.models.classifier import load_classifier

        return load_classifier(config, str(source))
    if isinstance(config, LlamaCppConfig):
        from iteralign.models.llama_cpp import LlamaCppModel

        return LlamaCppModel(config, gguf_in(source), threads)
    return load_transformers(config, str(source), threads)


def load_transformers(config: TransformersConfig, source: str, threads: int) -> Model:
    import torch

    from iteralign.models.device import pick_device, pick_dtype
    from iteralign.models.seq2seq import Seq2SeqModel
    from iteralign.models.transformers import TransformersModel
    from iteralign.models.weights import load_module, load_tokenizer, unpacked, weights_digest

    if threads:
        torch.set_num_threads(threads)
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    source = unpacked(source)
    # trained weights are named by what was written (fp32); the engine holds them rounded to its dtype
    module = load_module(source, torch.float32, config.trust_remote_code)
    name = weights_digest(dict(module.named_parameters()))
    module = module.to(device=device, dtype=dtype)
    tokenizer = load_tokenizer(source, config.trust_remote_code)
    kind = Seq2SeqModel if module.config.is_encoder_decoder else TransformersModel
    return kind(module, tokenizer, f"transformers:{name}", config.batch, config.template)


def gguf_in(source: Path) -> Path:
    from iteralign.errors import ModelError

    if source.is_file():
        return source
    found = sorted(source.glob("*.gguf"))
    if len(found) != 1:
        raise ModelError(f"expected one .gguf file in {source}, found {len(found)}: name the file")
    return found[0]


class Roles:
    """The models of a run by role: loaded when first asked for, shared where their configurations are equal. `cache`: where
    remote calls are kept; `shared`: a folder of several runs, where those of local models are kept, too."""

    def __init__(
        self,
        threads: int = 0,
        cache: Path | None = None,
        progress: Progress | None = None,
        shared: Path | None = None,
    ) -> None:
        self.threads = threads
        self.cache = cache
        self.progress = progress
        self.shared = shared
        self._loaded: dict[str, Model] = {}

    def get(self, config: RoleConfig, policy: Callable[[], Model]) -> Model:
        if isinstance(config, SelfConfig):
            return policy()
        key = config.model_dump_json()
        if key not in self._loaded:
            self._loaded[key] = self._load(config)
        return self._loaded[key]

    def _load(self, config: ModelConfig) -> Model:
        if self.shared is None or isinstance(config, HumanConfig):
            return load_model(config, self.threads, cache=self.cache, progress=self.progress)
        from iteralign.models.cached import CachedModel

        place = self.shared / f"{digest(config.model_dump(mode='json'))}.sqlite"  # other settings may answer otherwise
        place.parent.mkdir(parents=True, exist_ok=True)
        return CachedModel(load_model(config, self.threads, progress=self.progress), place)

    @property
    def usage(self) -> Usage:
        return together(model.meter.usage for model in self._loaded.values())

    def rest(self) -> None:
        for model in self._loaded.values():
            model.rest()

    def close(self) -> None:
        for model in self._loaded.values():
            model.close()
        self._loaded.clear()
