"""LoRA adapters kept apart from their base: a PEFT folder on disk, what it adds to the base's weights in fp32."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from iteralign.errors import ModelError

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX, A, B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
PLAIN = {"use_dora": False, "use_rslora": False, "bias": "none", "modules_to_save": None, "rank_pattern": {}}


class Adapter(NamedTuple):
    """`base`: where its base's weights lie; `settings` are PEFT's; `tensors` have PEFT's names and are fp32."""

    base: str
    settings: dict[str, Any]
    tensors: dict[str, torch.Tensor]


def is_adapter(source: str | Path) -> bool:
    return (Path(source) / CONFIG).is_file()


def read_adapter(folder: str | Path) -> Adapter:
    try:
        settings = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
        tensors = {n: t.float() for n, t in load_file(Path(folder) / TENSORS).items()}
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{folder} is not a PEFT adapter that can be read: {error}") from error
    odd = [key for key, plain in PLAIN.items() if settings.get(key, plain) not in (plain, None)]
    odd += [] if settings.get("peft_type") == "LORA" else ["peft_type"]
    odd += ["alpha_pattern"] if settings.get("alpha_pattern") else []
    if odd or any(not n.startswith(PREFIX) or not n.endswith((A, B)) for n in tensors):
        raise ModelError(
            f"the adapter at {folder} is not plain LoRA on linear layers ({', '.join(odd) or 'by its tensors'}): "
            "merge it into its base with peft (merge_and_unload) and name the result"
        )
    return Adapter(str(settings["base_model_name_or_path"]), settings, tensors)


def write_adapter(adapter: Adapter, folder: Path) -> None:
    save_file({n: t.contiguous() for n, t in adapter.tensors.items()}, folder / TENSORS, metadata={"format": "pt"})
    settings = {**adapter.settings, "base_model_name_or_path": adapter.base, "inference_mode": True}
    (folder / CONFIG).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def merge(weights: Mapping[str, torch.Tensor], adapter: Adapter) -> dict[str, torch.Tensor]:
    """W + alpha / r x B A for each adapted W. The product is taken on the CPU wherever W is, so that a checkpoint
    read again has the very bits that training left."""
    scale = adapter.settings["lora_alpha"] / adapter.settings["r"]
    merged = dict(weights)
    for name in sorted(n for n in adapter.tensors if n.endswith(A)):
        layer = name.removesuffix(A)
        weight = layer.removeprefix(PREFIX) + ".weight"
        if weight not in weights:
            raise ModelError(f"the adapter has {layer}, but its base {adapter.base} has no {weight}")
        product = adapter.tensors[layer + B].cpu() @ adapter.tensors[name].cpu()
        product = (product.T if adapter.settings.get("fan_in_fan_out") else product) * scale
        merged[weight] = weights[weight] + product.to(weights[weight].device)
    return merged


def between(before: Adapter | None, after: Adapter, share: float) -> Adapter:
    """The adapter at a share of the way: A and B of each layer by themselves. Before there was one, B was 0 and A
    stays as it is, so that the product goes by the share."""
    start = {n: t if n.endswith(A) else torch.zeros_like(t) for n, t in after.tensors.items()}
    if before is not None:
        start = before.tensors
    return after._replace(tensors={n: torch.lerp(start[n], t, share) for n, t in after.tensors.items()})
