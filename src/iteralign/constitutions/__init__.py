"""Given principles as YAML, each with its source; and the discovered ones, written so that they load back."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from iteralign.errors import ConfigError
from iteralign.records import Constitution, Principle, digest


def load_constitution(name: str) -> Constitution:
    path = Path(name)
    if not path.is_file():
        path = Path(__file__).with_name(name if name.endswith(".yaml") else f"{name}.yaml")
    if not path.is_file():
        raise ConfigError(f"no constitution {name!r}: give the path of a YAML file with a list `principles`")
    try:
        tree: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML in UTF-8: {error}") from error
    rows: Any = tree.get("principles") if isinstance(tree, dict) else None  # type: ignore[reportUnknownMemberType]
    if not isinstance(rows, list):
        raise ConfigError(f"{path}: expected a mapping with a list `principles` of {{text, kind, framing}}")
    if unknown := set(tree) - {"version", "source", "principles"}:  # type: ignore[reportUnknownArgumentType]
        raise ConfigError(
            f"{path}: unknown key {', '.join(sorted(map(str, unknown)))!r}: a constitution has `principles`, "  # type: ignore[reportUnknownArgumentType]
            "and may have `version` and `source`"
        )
    return Constitution(
        principles=tuple(read_principle(row, f"{path}: principle {n}") for n, row in enumerate(rows, 1))
    )  # type: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def read_principle(row: Any, where: str) -> Principle:
    if isinstance(row, str):
        row = {"text": row}
    if not isinstance(row, dict) or not row.get("text"):  # type: ignore[reportUnknownMemberType]
        raise ConfigError(f"{where} has no `text`")
    fields: dict[str, Any] = {"kind": "decline", "framing": "do", **row}
    fields.setdefault("id", digest(fields["text"], fields["kind"], length=12))
    try:
        return Principle.model_validate({k: v for k, v in fields.items() if k != "source"})
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def constitution_yaml(constitution: Constitution) -> str:
    rows = [
        {"id": p.id, "kind": p.kind, "framing": p.framing, "text": p.text}
        | {k: v for k in ("name", "critique", "revision") if (v := getattr(p, k))}
        for p in constitution.principles
    ]
    return yaml.safe_dump({"version": constitution.version, "principles": rows}, sort_keys=False, allow_unicode=True)
