"""Packs, local files and Hugging Face data sets → questions, read by their columns."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from iteralign.config import DataConfig
from iteralign.data.files import Row, existing, read_rows
from iteralign.data.pack import pack_folder
from iteralign.data.question import Question, chat_of, label_of
from iteralign.errors import DataError

COLUMNS = ("prompt", "question", "text", "instruction")
"""Where the question is looked for when the config names no column, in this order."""


def read_file(path: Path, config: DataConfig) -> Iterator[Question]:
    return _questions(read_rows(path), config)


def read_pack(spec: str, config: DataConfig) -> Iterator[Question]:
    """pack:NAME/FILE[:KIND] of the package, or pack:FOLDER/FILE[:KIND]."""
    match = re.fullmatch(r"pack:(.+)/([^/:]+?)(?:\.jsonl)?(?::([\w-]+))?", spec)
    if not match:
        raise DataError(f"{spec}: expected pack:NAME/FILE, as in pack:starter/red_team, or pack:FOLDER/FILE")
    folder, file, kind = match.groups()
    questions = _questions(read_rows(existing(pack_folder(folder, spec) / f"{file}.jsonl")), config)
    return questions if kind is None else _of_kind(questions, kind, spec)


def read_hub(spec: str, config: DataConfig) -> Iterator[Question]:
    """hub:ORG/NAME[:CONFIG][/SPLIT][@REVISION], through `datasets`."""
    match = re.fullmatch(r"hub:([\w.-]+/[\w.-]+)(?::([\w.-]+))?(?:/([\w.-]+))?(?:@([\w./-]+))?", spec)
    if not match:
        raise DataError(f"{spec}: expected hub:ORG/NAME[:CONFIG][/SPLIT][@REVISION]")
    name, variant, split, revision = match.groups()
    from datasets import load_dataset  # type: ignore[reportUnknownVariableType]  # heavy, and only needed here
    from datasets.exceptions import DatasetsError

    try:
        splits: Any = load_dataset(name, variant, revision=revision)
    except (DatasetsError, OSError, ValueError) as error:
        said = " ".join(str(error).split())
        raise DataError(
            f"{spec}: `datasets` could not load {name}: {said}. Check the name and the network, or give a file"
        ) from error
    if split is None and len(splits) == 1:
        split = next(iter(splits))
    if split not in splits:
        wanted = f"it has no split {split!r}" if split else "it has several splits"
        raise DataError(f"{spec}: {wanted}. Name one of {', '.join(splits)}, as in hub:{name}/{next(iter(splits))}")
    rows = (Row(f"{spec}, row {number}", dict(values)) for number, values in enumerate(splits[split], 1))
    return _questions(rows, config)


def _questions(rows: Iterable[Row], config: DataConfig) -> Iterator[Question]:
    column = config.column
    for row in rows:
        column = column or _column(row)
        yield Question(
            where=row.where,
            chat=chat_of(row, column, config.turns),
            category=_label(row, config.category_column, "category"),
            subtopic=_label(row, config.subtopic_column, "subtopic"),
            kind=_label(row, None, "kind"),
            split=None if row.values.get("split") == "" else row.values.get("split"),
        )


def _column(row: Row) -> str:
    found = next((name for name in COLUMNS if name in row.values), None)
    if found is None:
        raise DataError(
            f"{row.where}: none of the columns {', '.join(COLUMNS)}; the columns there are:"
            f" {', '.join(map(repr, row.values)) or 'none'}. Say which holds the question: column: NAME"
        )
    return found


def _label(row: Row, named: str | None, usual: str) -> str:
    if named is None and usual not in row.values:
        return ""
    return label_of(row, named or usual)


def _of_kind(questions: Iterator[Question], kind: str, spec: str) -> Iterator[Question]:
    kinds: set[str] = set()
    for question in questions:
        kinds.add(question.kind or "none")
        if question.kind == kind:
            yield question
    if kinds and kind not in kinds:
        raise DataError(f"{spec}: no question is of the kind {kind!r}; the kinds there are: {', '.join(sorted(kinds))}")
