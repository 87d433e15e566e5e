"""A run → a folder that `from_pretrained` loads, with its model card and constitution; as GGUF; to the hub.

Neither prompts nor answers leave the run's directory unless asked for, and then cut as in the report.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from iteralign.config import ScriptedConfig
from iteralign.constitutions import constitution_yaml
from iteralign.errors import ModelError, StoreError
from iteralign.report.card import TAG, model_card
from iteralign.report.constitution import constitution_at
from iteralign.report.summary import Summary, summarise
from iteralign.store import write_text

Dtype = Literal["float32", "bfloat16", "float16"]
Gguf = Literal["f16", "q8_0"]


@dataclass(frozen=True)
class Wanted:
    """What an exported folder holds. `dtype` None: as the checkpoint was written (float32)."""

    dtype: Dtype | None = None
    gguf: Gguf | None = None
    examples: bool = False
    overwrite: bool = False


def export(run: Path, target: Path, wanted: Wanted, name: str | None = None) -> Path:
    """`target`, whole or not at all. `name`: what the card calls the model. Raises StoreError, ModelError."""
    summary, target = summarise(run), target.resolve()
    checkpoint = checkpoint_of(summary)
    refuse_taken(target, run, wanted.overwrite)
    from iteralign.models.weights import whole  # torch: only where something is exported

    with whole(target) as beside:
        write_weights(checkpoint, beside, wanted.dtype)
        constitution = constitution_at(str(run)).constitution
        write_text(beside / "constitution.yaml", constitution_yaml(constitution))
        title = name or target.name
        write_text(beside / "README.md", model_card(summary, title, wanted.examples))
        if wanted.gguf:
            from iteralign.models.gguf import write_gguf

            short = title.rpartition("/")[2]
            write_gguf(beside, beside / f"{short}-{wanted.gguf}.gguf", wanted.gguf)
    return target


def refuse_taken(target: Path, run: Path, overwrite: bool) -> None:
    """StoreError: what is there must stay. Of what is not empty only an earlier export may be replaced."""
    if run.resolve().is_relative_to(target):
        raise StoreError(f"{target} holds the run itself: name a folder of its own")
    if target == Path.cwd():  # it is made anew, which leaves a shell in a folder that is gone
        raise StoreError(f"{target} is the folder that you are in: name another one")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not is_export(target):
        raise StoreError(f"{target} is already there, and holds no earlier export: name another folder")
    if not overwrite:
        raise StoreError(f"{target} is already there: name another folder, or give --overwrite to replace it")


def is_export(folder: Path) -> bool:
    """By the constitution and the card that every export brings."""
    card = folder / "README.md"
    told = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    return (folder / "constitution.yaml").is_file() and f"\n- {TAG}\n" in told.partition("\n---\n")[0]


def checkpoint_of(summary: Summary) -> Path:
    checkpoint = summary.checkpoint
    if isinstance(summary.config.policy, ScriptedConfig):
        raise StoreError(f"{summary.folder}: its policy is a scripted model, which has no weights to export")
    if checkpoint is None:
        raise StoreError(
            f"{summary.folder} has no aligned model to export: {summary.untouched}. Why stands in {summary.markdown.name}"
        )
    if not checkpoint.is_dir():
        raise StoreError(f"{checkpoint} is no longer there: run the same `iteralign run` again, which makes it anew")
    return checkpoint


def write_weights(checkpoint: Path, folder: Path, dtype: Dtype | None) -> None:
    """As they lie there; in another dtype, or an adapter merged into its base, by way of memory."""
    from iteralign.models.adapters import is_adapter

    if dtype is None and not is_adapter(checkpoint):
        shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
        return
    import torch

    from iteralign.models.weights import load_module, load_tokenizer, write_folder

    module = load_module(checkpoint, getattr(torch, dtype or "float32"))
    write_folder(module, load_tokenizer(checkpoint), dict(module.named_parameters()), folder)


def push(folder: Path, name: str, private: bool) -> str:
    """The folder as a model repository of the hub, made where it is not there; its address.

    The token is huggingface_hub's: of `hf auth login`, or HF_TOKEN. Raises ModelError.
    """
    import httpx2  # huggingface_hub's HTTP client, whose errors it lets through
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    try:
        api = HfApi()
        made = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=made.repo_id, commit_message="An aligned model, with its card")
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, httpx2.HTTPError, OSError) as error:
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"cannot push to {name}: {why}. {folder} is whole: push it by hand "
            f"(hf upload {name} {folder}), or log in (hf auth login) and run the same command with --overwrite"
        ) from error
    return str(made)
