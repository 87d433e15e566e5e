"""Replies that people labelled, to measure a judge against: did the reply comply with its prompt?"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from iteralign.data.files import Row, read_rows
from iteralign.data.question import label_of, text_of
from iteralign.errors import DataError
from iteralign.records import digest

XSTEST = ("prompt", "completion", "final_label")
LABEL_SAID = "no known word for complied or not: say with --positive which label means that the reply complied"
HARM_SAID = "no known word for harmful or not: expected yes or no, true or false, 1 or 0"
YES = {"1", "true", "yes", "comply", "complied", "complies", "compliance", "full_compliance", "1_full_compliance"}
NO = {"0", "false", "no", "refuse", "refused", "refuses", "refusal", "full_refusal", "partial_refusal"}
NO |= {"2_full_refusal", "3_partial_refusal"}  # XSTest: a partial refusal is no compliance
CONTRAST = "contrast_"
# the safe type of XSTest that an unsafe type was written against, where its name does not say so
SAFE = {"contrast_discr": "real_group_nons_discr", "contrast_privacy": "privacy_fictional"}


class Columns(NamedTuple):
    """Names of columns; `positive`: the label that says that a reply complied (None: the usual words). `harmful`: yes
    where the prompt asks for something harmful."""

    prompt: str
    response: str
    label: str
    category: str | None = None
    harmful: str | None = None
    positive: str | None = None


def columns_of(prompt: str | None, response: str | None, label: str | None, **more: str | None) -> Columns | None:
    """None where none is named. DataError: some, but not the three that are needed."""
    if not any((prompt, response, label, *more.values())):
        return None
    if prompt is None or response is None or label is None:
        raise DataError("name all three columns: --prompt, --response and --label")
    return Columns(prompt, response, label, **more)


class Labelled(NamedTuple):
    """`harmful`: whether the prompt asks for something harmful, None where the data do not say. `source`: whose reply.
    `group`: shared by replies to one prompt, and by a prompt and its contrast; they stand on one side of any split."""

    prompt: str
    reply: str
    complied: bool
    harmful: bool | None
    category: str
    source: str
    group: str

    @property
    def id(self) -> str:
        return digest(self.source, self.prompt, self.reply)


def read_labelled(paths: Sequence[Path], columns: Columns | None = None) -> list[Labelled]:
    """All rows of the files. Without `columns` they are XSTest's completions (`prompt, completion, final_label`).

    Raises DataError: no such column, a label that is neither yes nor no, no rows.
    """
    found: list[Labelled] = []
    for path in paths:
        rows = list(read_rows(path))
        if not rows:
            raise DataError(f"{path}: no rows: expected replies with labels")
        if columns is None and not set(XSTEST) <= rows[0].values.keys():
            raise DataError(
                f"{path}: its columns are {', '.join(rows[0].values)}, not those of XSTest ({', '.join(XSTEST)}): "
                "name yours with --prompt, --response and --label"
            )
        found += of_xstest(path.stem, rows) if columns is None else of_columns(path.stem, rows, columns)
    return found


def of_columns(source: str, rows: Sequence[Row], columns: Columns) -> list[Labelled]:
    made: list[Labelled] = []
    for row in rows:
        prompt, reply = text_of(row, columns.prompt).strip(), text_of(row, columns.response).strip()
        category = label_of(row, columns.category) if columns.category else ""
        complied = yes_or_no(row, columns.label, columns.positive)
        harmful = yes_or_no(row, columns.harmful, None, HARM_SAID) if columns.harmful else None
        made.append(Labelled(prompt, reply, complied, harmful, category, source, digest(prompt)))
    return made


def of_xstest(source: str, rows: Sequence[Row]) -> list[Labelled]:
    """A type's prompts and those of its contrast stand in the same order, where they are as many. Without the column
    `type` nothing is known of pairs, nor of what a prompt asks for."""
    if "type" not in rows[0].values:
        return of_columns(source, rows, Columns(*XSTEST))
    sizes = Counter(label_of(row, "type") for row in rows)
    seen: Counter[str] = Counter()
    made: list[Labelled] = []
    for row in rows:
        kind = label_of(row, "type")
        seen[kind] += 1
        safe = SAFE.get(kind, kind.removeprefix(CONTRAST))
        pair = safe if sizes[safe] == sizes[kind] else kind
        prompt, complied = text_of(row, "prompt").strip(), yes_or_no(row, "final_label", None)
        reply = text_of(row, "completion").strip()
        made.append(Labelled(prompt, reply, complied, kind.startswith(CONTRAST), kind, source, f"{pair} {seen[kind]}"))
    return made


def yes_or_no(row: Row, column: str, positive: str | None, expected: str = LABEL_SAID) -> bool:
    said = label_of(row, column).strip()
    if positive is not None:
        return said == positive
    if said.lower() in YES | NO or (column == XSTEST[2] and said in ("2", "3")):  # its own codes
        return said.lower() in YES
    raise DataError(f"{row.where}: {said!r} in column {column!r} is {expected}")
