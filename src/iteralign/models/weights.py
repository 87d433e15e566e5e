"""Weights on disk: base or checkpoint → fp32 tensors, and back to a folder that `from_pretrained` loads."""

import copy
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    modeling_gguf_pytorch_utils,  # type: ignore[reportMissingTypeStubs]
)
from transformers.utils import logging
from transformers.utils.quantization_config import GgufConfig

from iteralign.errors import ModelError, StoreError
from iteralign.models.adapters import Adapter, between, is_adapter, merge, read_adapter, write_adapter
from iteralign.models.decoding import TorchModel
from iteralign.records import digest
from iteralign.sources import cache_folder, resolve

WRITER = "iteralign"
logging.disable_progress_bar()  # the run's own display says what is going on


def place(source: str | Path) -> dict[str, Any]:
    """Arguments of from_pretrained for a folder, or for a single GGUF file."""
    path = Path(source)
    if path.is_file() and path.suffix == ".gguf":
        return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    return {"pretrained_model_name_or_path": str(source)}


def load_module(source: str | Path, dtype: torch.dtype, trust_remote_code: bool = False) -> Any:
    """Of an adapter's folder: its base with the adapter merged."""
    if is_adapter(source):
        adapter = read_adapter(source)
        module = load_module(base_of(adapter), torch.float32, trust_remote_code)
        fill(module, merge(dict(module.named_parameters()), adapter))
        return module.to(dtype)
    try:
        config = AutoConfig.from_pretrained(**place(source), trust_remote_code=trust_remote_code)
        kind: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        settings: dict[str, Any] = {**place(source), "dtype": dtype, "trust_remote_code": trust_remote_code}
        if "gguf_file" in settings:  # weights that stay quantised could not be trained
            settings["quantization_config"] = GgufConfig(dequantize=True)
            modeling_gguf_pytorch_utils.__dict__["tqdm"] = partial(tqdm, disable=True)  # it has no switch of its own
        module: Any = kind.from_pretrained(**settings, use_safetensors=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"cannot load a language model from {source}: {error}") from error
    if hasattr(module, "hf_quantizer"):  # a de-quantised GGUF would refuse to be saved
        module.hf_quantizer = None
        if hasattr(module.config, "quantization_config"):
            del module.config.quantization_config
    return module


def base_of(adapter: Adapter) -> str:
    path = Path(adapter.base)
    if path.is_absolute() and not path.exists():
        raise ModelError(f"an adapter needs its base at {path}, which is not there: put it back, or start a fresh run")
    return unpacked(path if path.exists() else resolve(adapter.base))


def load_tokenizer(source: str | Path, trust_remote_code: bool = False) -> Any:
    try:
        return AutoTokenizer.from_pretrained(**place(source), trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"cannot load a tokenizer from {source}: {error}") from error


def unpacked(source: str | Path, dtype: torch.dtype = torch.float32) -> str:
    """A GGUF file as a folder of safetensors, converted once into the cache; anything else as it is.

    De-quantising takes longer than everything else about loading, and training needs the fp32 weights anyway.
    """
    path = Path(source)
    if not (path.is_file() and path.suffix == ".gguf"):
        return str(source)
    stat = path.stat()
    identity = digest(str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    kind = "" if dtype == torch.float32 else "-" + str(dtype).removeprefix("torch.")
    folder = cache_folder() / "unpacked" / f"{path.stem}-{identity}{kind}"
    if not folder.is_dir():
        module = load_module(path, dtype)
        write_folder(module, load_tokenizer(path), dict(module.named_parameters()), folder)
    return str(folder)


def load_weights(source: str | Path) -> dict[str, torch.Tensor]:
    """The parameters in fp32 by name: the masters that training starts from."""
    if is_adapter(source):
        adapter = read_adapter(source)
        return merge(load_weights(base_of(adapter)), adapter)
    single = Path(source) / "model.safetensors"
    if single.is_file():
        with safe_open(single, "pt") as file:
            said = file.metadata() or {}
        if said.get("writer") == WRITER:  # its names are those of the parameters; transformers may rename others'
            buffers = said.get("buffers", "").split()
            return {n: t.float() for n, t in load_file(single).items() if n not in buffers}
    module = load_module(source, torch.float32)
    return {n: p.detach() for n, p in module.named_parameters()}


def save(engine: TorchModel, weights: Mapping[str, torch.Tensor], adapter: Adapter | None, folder: Path) -> None:
    """A checkpoint that `from_pretrained` loads, in fp32; where an adapter is kept apart, what peft loads over its base."""
    if adapter is None:
        return write_folder(engine.module, engine.tokenizer, weights, folder)
    with whole(folder) as beside:
        write_adapter(adapter, beside)
        engine.tokenizer.save_pretrained(beside)


def write_folder(module: Any, tokenizer: Any, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
    with whole(folder) as beside:
        # the largest first: a full disk shows here, where its error is a clear one
        buffers = stored_buffers(module)
        tensors = {n: t.detach().contiguous() for n, t in {**weights, **buffers}.items()}
        said = {"format": "pt", "writer": WRITER, "buffers": " ".join(buffers)}
        save_file(tensors, beside / "model.safetensors", metadata=said)
        config = copy.deepcopy(module.config)
        config.dtype = next(iter(weights.values())).dtype
        config.save_pretrained(beside)
        if getattr(module, "generation_config", None) is not None:  # a classifier has none
            module.generation_config.save_pretrained(beside)
        tokenizer.save_pretrained(beside)


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A folder to fill; whole or not at all: written beside, then renamed."""
    beside: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=folder.name + ".part", dir=folder.parent))
        yield beside
        shutil.rmtree(folder, ignore_errors=True)
        beside.rename(folder)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"cannot write {folder}: {error}. Free space and run the same command") from error
    finally:
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)


def stored_buffers(module: Any) -> dict[str, torch.Tensor]:
    """What belongs to a model beside its parameters (BART's bias of the logits); never trained."""
    kept = module.state_dict(keep_vars=True)
    return {n: b.float() if b.is_floating_point() else b for n, b in module.named_buffers() if n in kept}


class Ends:
    """Two checkpoints, and what lies between: weights, or adapters where the later one keeps its adapter apart."""

    def __init__(self, before: str, after: str) -> None:
        self.adapters = None
        if is_adapter(after):
            adapter = read_adapter(after)
            self.adapters = (read_adapter(before) if is_adapter(before) else None, adapter)
            self.base = load_weights(base_of(adapter))
        else:
            self.weights = (load_weights(before), load_weights(after))

    def at(self, share: float) -> tuple[dict[str, torch.Tensor], Adapter | None]:
        """before + share x (after - before), tensor by tensor: the weights, and the adapter that makes them."""
        if self.adapters is None:
            before, after = self.weights
            return {n: torch.lerp(before[n], after[n], share) for n in after}, None
        mixed = between(*self.adapters, share)
        return merge(self.base, mixed), mixed


def fill(module: Any, weights: Mapping[str, torch.Tensor]) -> None:
    """Copies weights into a module's own tensors, rounded to their dtype."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(weights[name])


def put(engine: TorchModel, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy weights into the engine's own tensors, and name it after them."""
    fill(engine.module, weights)
    engine.rename(f"transformers:{weights_digest(weights)}")


def weights_digest(weights: Mapping[str, torch.Tensor]) -> str:
    """16 hex digits over names, shapes and bytes."""
    total = hashlib.blake2b(digest_size=8)
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        total.update(json.dumps([name, list(tensor.shape), str(tensor.dtype)]).encode())
        total.update(tensor.view(torch.uint8).numpy().data if tensor.dim() else bytes(str(tensor.item()), "ascii"))
    return total.hexdigest()
