"""What is on this disk already, what a model weighs, and how fast it is: measured once, scaled by size."""

import json
import math
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from iteralign.config import (
    HumanConfig,
    LlamaCppConfig,
    LoraConfig,
    ModelConfig,
    OpenAIConfig,
    ScriptedConfig,
    SequenceClassifierConfig,
    TransformersConfig,
)
from iteralign.downloads import hub_address
from iteralign.errors import ModelError
from iteralign.sources import Source, cache_folder, find, is_hub, listing, resolve

BYTES_A_PARAMETER = 0.7312  # of the policy's Q4_1 file; 4-bit GGUF files of other models are near it
CALL_SECONDS = 1.0


class Speed(NamedTuple):
    """Tokens a second on a 2-core CPU, of a model of `size` (parameters; of a GGUF run by llama.cpp its bytes)."""

    read: float
    new: float
    train: float
    size: float
    said: str


TRANSFORMERS = Speed(3500, 600, 400, 134_515_008, "SmolLM2-135M in bf16, in full batches,")
LLAMA_CPP = Speed(80, 25, 0, 1_117_320_768, "Qwen2.5-Coder-1.5B (Q4_K_M) in llama.cpp")
SCORER = Speed(340, math.inf, 0, 1_117_320_768, "its weights in torch, bf16 and AMX,")
WRITER = Speed(340, 36, 0, 1_117_320_768, "its weights in torch, bf16 and AMX, 12 replies at once,")
SLOWER = {"auto": 1.0, "bfloat16": 1.0, "float32": 3.0}  # fp32 trains 140 tokens/s where bf16 trains 420
WEIGHT_BYTES = {"auto": 2, "bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True)
class Weight:
    """`parameters` and `bytes` (of the files) are None where nothing says them."""

    parameters: float | None
    bytes: int | None
    basis: str


@dataclass(frozen=True)
class Amount:
    """Bytes of something, None where unknown, and what the number rests on."""

    what: str
    bytes: int | None
    basis: str


@dataclass(frozen=True)
class Time:
    seconds: float | None
    basis: str


def cores() -> int:
    """Those that this process may use: of a cluster's or a container's machine they are some. More threads than these wait
    for each other."""
    import joblib

    return joblib.cpu_count()


def multiplies_bfloat16() -> bool:
    """Whether this CPU has units for bfloat16 matrices (Intel AMX), as Linux says it."""
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:
        return False


def scored_by_torch(model: LlamaCppConfig) -> bool:
    """Whether torch reads its probabilities."""
    fast = not model.gpu_layers and multiplies_bfloat16()
    return model.scoring == "torch" or (model.scoring == "auto" and fast)


# -- on this disk -----------------------------------------------------------------------------------


def at_hand(spec: str) -> Path | None:
    """Where the files of a spec (as `sources.resolve` reads it) lie; None when they would have to be fetched.

    Raises SourceError for what is no name, address or path.
    """
    if source := find(spec):
        if not cached(source):
            return None
        return cache_folder() / source.name / (source.files[0].path if len(source.files) == 1 else "")
    if is_hub(spec):
        return _in_hub_cache(spec)
    path = Path(spec.removeprefix("path:")).expanduser()
    if path.exists():
        return path
    return None if spec.startswith(("https:", "http:", "pypi:")) else resolve(spec)  # which says what is known


def cached(source: Source) -> bool:
    return held().get(source.name, False)


def held() -> dict[str, bool]:
    """Whether the cache holds each source of the table; nothing, where there can be no such folder."""
    try:
        return {source.name: whole for source, whole in listing()}
    except OSError:  # a file in the way, or a folder of somebody else's
        return {}


def _in_hub_cache(spec: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    kind, repo, file, revision = hub_address(spec)
    found = try_to_load_from_cache(repo, file or "config.json", revision=revision, repo_type=kind)
    if not isinstance(found, str):
        return None
    return Path(found) if file else Path(found).parent


# -- weights ----------------------------------------------------------------------------------------


def weigh(spec: str) -> Weight:
    """From the files at hand, else from the sources table, else from the name ("7b")."""
    place, source = at_hand(spec), find(spec)
    if place is not None:
        weight = _measured(place)
    elif source is not None and source.files[0].path.endswith(".gguf"):
        weight = Weight(
            source.size / BYTES_A_PARAMETER, source.size, f"{source.size / 1e6:,.0f} MB in the sources table"
        )
    else:
        weight = Weight(None, None, "its files are not on this disk")
    named = re.search(r"(?<![\dx.])(\d+(?:\.\d+)?)([bm])(?![a-z])", Path(spec).name.lower())
    if weight.parameters is None and named:
        parameters = float(named[1]) * (1e9 if named[2] == "b" else 1e6)
        return Weight(parameters, weight.bytes, f"{named[0].upper()} by its name")
    return weight


def _measured(place: Path) -> Weight:
    """Of a GGUF file, or of a folder with safetensors."""
    files = [place] if place.is_file() else sorted(place.glob("*.safetensors")) or sorted(place.glob("*.gguf"))
    size = sum(file.stat().st_size for file in files)
    if files and files[0].suffix == ".safetensors":
        return Weight(sum(map(count_parameters, files)), size, "by the shapes in its safetensors")
    if files and files[0].suffix == ".gguf":
        return Weight(size / BYTES_A_PARAMETER, size, f"a GGUF of {size / 1e6:,.0f} MB, taken for a 4-bit one")
    return Weight(None, None, f"{place} holds no safetensors and no GGUF")


def count_parameters(path: Path) -> int:
    """From the header of a safetensors file (its length in 8 bytes, then JSON); the weights are not read."""
    with path.open("rb") as file:
        header = file.read(int.from_bytes(file.read(8), "little"))
    try:
        tensors: dict[str, Any] = json.loads(header)
    except ValueError as error:
        raise ModelError(f"{path} is not a safetensors file: {error}. Fetch or save it again") from error
    total = 0
    for name, tensor in tensors.items():
        if name != "__metadata__":
            size = 1
            for side in tensor["shape"]:
                size *= int(side)
            total += size
    return total


# -- time -------------------------------------------------------------------------------------------


def time_of(model: ModelConfig, calls: int, read: float, new: float, writes: bool = True) -> Time:
    """Time for `calls` with `read` prompt tokens (after sharing of prefixes) and `new` tokens in all.

    `writes`: whether the new tokens are a reply; otherwise only probabilities were read.
    """
    if isinstance(model, ScriptedConfig):
        return Time(0.0, "scripted: no weights")
    if isinstance(model, HumanConfig):
        return Time(None, "people take their time")
    if isinstance(model, OpenAIConfig):
        said = f"{model.concurrency} calls at once, {CALL_SECONDS:g} s each assumed"
        return Time(calls * CALL_SECONDS / model.concurrency, said)
    if isinstance(model, LlamaCppConfig):
        weight, speed = weigh(model.model), LLAMA_CPP
        if scored_by_torch(model) and (not writes or model.writing == "torch"):
            speed = WRITER if writes else SCORER
        if model.gpu_layers or weight.bytes is None:
            return Time(None, "no speed measured on a GPU" if model.gpu_layers else f"speed unknown: {weight.basis}")
        slower = weight.bytes / speed.size
    else:
        slower, said = slower_than_measured(model)
        if slower is None:
            return Time(None, said)
        speed = TRANSFORMERS
    return Time(
        slower * (read / speed.read + new / speed.new),
        says(speed, slower, f"{speed.read:g} read" + (f" and {speed.new:g} new" if math.isfinite(speed.new) else "")),
    )


def training_time(model: ModelConfig, tokens: float) -> Time:
    if not isinstance(model, TransformersConfig):
        return Time(0.0, "scripted: no weights")
    slower, said = slower_than_measured(model)
    if slower is None:
        return Time(None, said)
    speed = TRANSFORMERS
    return Time(slower * tokens / speed.train, says(speed, slower, f"{speed.train:g} trained"))


def slower_than_measured(model: TransformersConfig) -> tuple[float | None, str]:
    """How many times slower than the measured model; None, and why, where nothing was measured that is like it."""
    if model.device not in ("auto", "cpu") or (model.device == "auto" and shutil.which("nvidia-smi")):
        return None, "no speed measured on a GPU"
    if model.dtype not in SLOWER:
        return None, f"no speed measured in {model.dtype}"
    weight = weigh(model.model)
    if weight.parameters is None:
        return None, f"speed unknown: {weight.basis}"
    return SLOWER[model.dtype] * weight.parameters / TRANSFORMERS.size, ""


def says(speed: Speed, slower: float, rates: str) -> str:
    scaled = "" if 0.95 < slower < 1.05 else f", {slower:.2g} times as long by size and dtype"
    return f"{rates} tokens/s measured with {speed.said} on 2 cores{scaled}"


# -- memory and disk --------------------------------------------------------------------------------


def memory_of(
    name: str, model: ModelConfig, trained: bool = False, lora: LoraConfig | None = None, scores: bool = False
) -> Amount:
    """What a model holds; activations, the cache of its context and Python itself come on top.

    `scores`: whether probabilities are read from it.
    """
    if isinstance(model, ScriptedConfig | OpenAIConfig | HumanConfig):
        return Amount(name, 0, "nothing in this process")
    weight = weigh(model.model)
    if isinstance(model, LlamaCppConfig):
        said = f"its GGUF file; the cache of {model.context} tokens comes on top"
        if not scores or not scored_by_torch(model) or weight.bytes is None or weight.parameters is None:
            return Amount(name, weight.bytes, said)
        return Amount(name, weight.bytes + round(2 * weight.parameters), f"{said}; 2 bytes a parameter in torch")
    if weight.parameters is None:
        return Amount(name, None, weight.basis)
    n, own = weight.parameters, 4 if isinstance(model, SequenceClassifierConfig) else WEIGHT_BYTES[model.dtype]
    what = f"{n / 1e6:,.0f}M parameters ({weight.basis}), {own} bytes each"
    if not trained:
        return Amount(name, round(n * own), what)
    if lora is not None:
        adapter = adapter_share(lora.rank, n) * n
        said = f"{what}, fp32 masters 4; adapters of {adapter / 1e6:,.1f}M at 16 (fp32, gradients, Adam)"
        return Amount(name, round(n * (own + 4) + 16 * adapter), f"{said}; activations come on top")
    beside = {"fp32 masters": 0 if own == 4 else 4, "gradients": 4 if own == 4 else own + 4, "Adam": 8}
    said = ", ".join([what, *(f"{part} {size}" for part, size in beside.items() if size)])
    return Amount(name, round(n * (own + sum(beside.values()))), f"{said}; activations come on top")


def adapter_share(rank: int, parameters: float) -> float:
    """Adapters on all linear layers, as a share: 3.6 % for SmolLM2-135M at rank 16, less by the root of the size."""
    return 0.036 * rank / 16 * (TRANSFORMERS.size / parameters) ** 0.5


def checkpoints_of(model: ModelConfig, kept: int) -> Amount:
    """`kept`: how many lie there at once."""
    name = "checkpoints"
    if not isinstance(model, TransformersConfig):
        return Amount(name, 0, "a scripted policy's are a line of JSON")
    weight = weigh(model.model)
    if weight.parameters is None:
        return Amount(name, None, weight.basis)
    said = f"at most {kept} at once in fp32, 4 bytes a parameter: the last good one and those of a round"
    return Amount(name, round(kept * 4 * weight.parameters), said)


def unpacked_of(model: ModelConfig, scores: bool = False) -> Amount | None:
    """The de-quantised copy of a GGUF in the cache; None where there is none. `scores`: as in memory_of."""
    if isinstance(model, LlamaCppConfig):
        each = 2 if scores and scored_by_torch(model) else 0
    elif isinstance(model, TransformersConfig) and str(at_hand(model.model) or listed(model.model)).endswith(".gguf"):
        each = 4
    else:
        return None
    parameters = weigh(model.model).parameters
    size = None if parameters is None else round(each * parameters)
    return Amount(f"{model.model}, de-quantised", size, f"in the cache, {each} bytes a parameter") if each else None


def listed(spec: str) -> str:
    """The file of a one-file source in the table."""
    source = find(spec)
    return source.files[0].path if source else ""


def download_of(spec: str) -> Amount:
    """What of a spec is still to be fetched."""
    if at_hand(spec) is not None:
        return Amount(spec, 0, "on this disk")
    if (source := find(spec)) is None:
        return Amount(spec, None, "not in the sources table, and not on this disk")
    carried = f"; its wheels or archive weigh {source.carriers / 1e6:,.0f} MB" if source.carriers else ""
    return Amount(spec, source.size, f"the sources table{carried}")
