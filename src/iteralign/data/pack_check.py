"""A pack's files → every fault in them, by file and line."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from iteralign.data.cues import Cues, cues
from iteralign.data.files import numbered_lines, parsed, type_name
from iteralign.data.pack import FIELDS, KINDS, PAGES, SKELETON
from iteralign.data.splits import SPLITS, own_split
from iteralign.errors import DataError
from iteralign.records import Split
from iteralign.similarity import near_pairs

RED_TEAM, HARMLESS = FIELDS
NEAR_DUPLICATE = 0.8  # TF-IDF cosine
TELLING = 0.65  # AUC from which the form of a question gives away its side


@dataclass(frozen=True)
class PackRow:
    """A row as it stands; what is missing, or is not a text, reads as ""."""

    file: str
    line: int
    values: dict[str, Any]

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"

    def text(self, field: str) -> str:
        value = self.values.get(field)
        return value.strip() if isinstance(value, str) else ""

    @property
    def kind(self) -> str:
        return "red_team" if self.file == RED_TEAM else self.text("kind")

    @property
    def split(self) -> Split | None:
        return own_split(self.values.get("split"))

    @property
    def subject(self) -> str:
        return f"{self.text('category')} / {self.text('subtopic')}"


@dataclass(frozen=True)
class Fault:
    """`where` is FILE:LINE or FILE; a warning stops nobody."""

    where: str
    said: str
    warning: bool = False


@dataclass(frozen=True)
class Checked:
    """`form` is None where there are too few questions to say whether their form gives them away."""

    rows: tuple[PackRow, ...]
    faults: tuple[Fault, ...]
    form: Cues | None

    @property
    def errors(self) -> int:
        return sum(not fault.warning for fault in self.faults)


def check_pack(folder: Path) -> Checked:
    """All that is wrong with the pack in `folder`: errors first, each in the order of files and lines."""
    rows: list[PackRow] = []
    faults: list[Fault] = []
    for file in FIELDS:
        for found in _read(folder, file):
            if isinstance(found, PackRow):
                rows.append(found)
            else:
                faults.append(found)
    form = _form(rows)
    for found in (
        *map(_in_fields, rows),
        _repeated_ids(rows),
        _repeated_questions(rows),
        _divided_subtopics(rows),
        _twins(rows),
        _absent(rows),
        _telling(form),
        _examples(rows),
        _pages(folder),
    ):
        faults.extend(found)
    places = [*FIELDS, *PAGES]

    def place(fault: Fault) -> tuple[bool, int, int]:
        file, _, line = fault.where.partition(":")
        return fault.warning, places.index(file) if file in places else len(places), int(line or 0)

    return Checked(tuple(rows), tuple(sorted(faults, key=place)), form)


def _read(folder: Path, file: str) -> Iterator[PackRow | Fault]:
    path = folder / file
    if not path.is_file():
        yield Fault(file, f"it is not there: expected {' and '.join(FIELDS)} in {folder}. Write it")
        return
    try:
        lines = list(numbered_lines(path))
    except DataError as error:
        yield Fault(file, str(error).removeprefix(str(path)).lstrip(": "))
        return
    if not lines:
        yield Fault(file, "no questions: expected some of each split. Write them, one JSON object a line")
    for line, text in lines:
        try:
            value = parsed(text, Path(file), line)
        except DataError as error:
            yield Fault(f"{file}:{line}", str(error).removeprefix(f"{file}:{line}: "))
            continue
        if isinstance(value, dict):
            yield PackRow(file, line, cast("dict[str, Any]", value))
        else:
            yield Fault(
                f"{file}:{line}", f"expected an object with {_fields(file)}; got {type_name(value)}. Mend or delete it"
            )


def _fields(file: str) -> str:
    return ", ".join(FIELDS[file])


def _in_fields(row: PackRow) -> Iterator[Fault]:
    for field in FIELDS[row.file]:
        if field not in row.values:
            yield Fault(row.where, f"no field {field!r}: expected {_fields(row.file)}. Add it")
    for field, value in row.values.items():
        if field not in FIELDS[row.file]:
            yield Fault(row.where, f"unknown field {field!r}: expected {_fields(row.file)}. Rename or delete it")
        elif field == "twin" and value is None:
            continue
        elif not isinstance(value, str):
            yield Fault(row.where, f"expected a text in {field!r}, got {type_name(value)}. Put it in quotes")
        elif not value.strip():
            yield Fault(row.where, f"{field!r} is empty. Fill it in, or delete the row")
    if row.text("split") and row.split is None:
        yield Fault(row.where, f"unknown split {row.text('split')!r}: expected {', '.join(SPLITS)}. Write one of them")
    if row.file == HARMLESS and row.kind and row.kind not in KINDS:
        yield Fault(row.where, f"unknown kind {row.kind!r}: expected {' or '.join(KINDS)}. Write one of them")


def _repeated_ids(rows: Iterable[PackRow]) -> Iterator[Fault]:
    first: dict[str, PackRow] = {}
    for row in rows:
        name = row.text("id")
        if name and name in first:
            yield Fault(row.where, f"the id {name!r} is that of {first[name].where}, too. Give it another")
        first.setdefault(name, row)


def _repeated_questions(rows: Iterable[PackRow]) -> Iterator[Fault]:
    """Equal ones but for case and spaces, and near-duplicates among the rest."""
    first: dict[str, PackRow] = {}
    for row in rows:
        question = " ".join(row.text("question").casefold().split())
        if not question:
            continue
        other = first.setdefault(question, row)
        if other is row:
            continue
        if other.file == row.file:
            yield Fault(row.where, f"the same question as {other.where}. Delete one of them")
        else:
            said = f"this question is in {other.where}, too: no model can both decline and answer it"
            yield Fault(row.where, f"{said}. Delete one of them")
    different = list(first.values())
    for i, j, cosine in near_pairs(list(first), NEAR_DUPLICATE):
        said = f"near-duplicate of {different[i].where}: cosine {cosine:.2f}, expected under {NEAR_DUPLICATE}"
        yield Fault(different[j].where, f"{said}. Reword or delete one of them")


def _divided_subtopics(rows: Iterable[PackRow]) -> Iterator[Fault]:
    """Once for each subtopic that lies in several splits, at the first row that leaves it."""
    first: dict[str, PackRow] = {}
    named: set[str] = set()
    for row in rows:
        if row.split is None or not row.text("subtopic"):
            continue
        home = first.setdefault(row.subject, row)
        if row.split != home.split and row.subject not in named:
            named.add(row.subject)
            yield Fault(
                row.where,
                f"the subtopic {row.subject!r} is in {row.split} here and in {home.split} in {home.where}:"
                " what is trained on would be measured on. Put the whole subtopic into one split",
            )


def _twins(rows: Iterable[PackRow]) -> Iterator[Fault]:
    red = {row.text("id") for row in rows if row.file == RED_TEAM}
    for row in rows:
        twin = row.values.get("twin")
        if row.kind == "look_alike" and "twin" in row.values and (twin is None or (row.text("twin") not in red | {""})):
            said = f"the twin {twin!r} is no row" if twin else "a look-alike without a twin: expected the id of a row"
            yield Fault(row.where, f"{said} of {RED_TEAM}. Name the row that it resembles")
        if row.kind == "ordinary" and row.text("twin"):
            yield Fault(row.where, "an ordinary question with a twin: expected null, or the kind look_alike. Mend one")


def _absent(rows: list[PackRow]) -> Iterator[Fault]:
    for file in FIELDS:
        own = [row for row in rows if row.file == file]
        for split in SPLITS if own else ():
            if not any(row.split == split for row in own):
                yield Fault(file, f"no question is in the split {split!r}: each side needs all three. Move a subtopic")
    kinds = {row.kind for row in rows if row.file == HARMLESS}
    if kinds and "look_alike" not in kinds:
        yield Fault(
            HARMLESS,
            "no look-alikes: without harmless questions that sound harmful a model that declines by the sound of"
            " a question looks good. Add rows of the kind look_alike",
        )


def _form(rows: Iterable[PackRow]) -> Cues | None:
    asked = [row for row in rows if row.text("question")]
    red = [row for row in asked if row.file == RED_TEAM]
    harmless = [row for row in asked if row.file == HARMLESS]
    subjects = [row.subject for row in (*red, *harmless)]
    return cues([row.text("question") for row in red], [row.text("question") for row in harmless], subjects)


def _telling(form: Cues | None) -> Iterator[Fault]:
    if form is None:
        return
    said = "tell harmful from harmless with an AUC of {:.2f}, expected under {}: a model could learn the form alone. {}"
    if form.opening >= TELLING:
        advice = "Open both sides alike"
        yield Fault("both files", f"the first two words {said.format(form.opening, TELLING, advice)}", warning=True)
    if max(form.length, 1 - form.length) >= TELLING:
        advice = "Make both sides equally long"
        auc = max(form.length, 1 - form.length)
        yield Fault("both files", f"the numbers of words {said.format(auc, TELLING, advice)}", warning=True)


def _examples(rows: Iterable[PackRow]) -> Iterator[Fault]:
    questions = {
        parsed(text, SKELETON / file, line)["question"]
        for file in FIELDS
        for line, text in numbered_lines(SKELETON / file)
    }
    for row in rows:
        if row.text("question") in questions:
            yield Fault(row.where, "an example of `iteralign pack new`. Replace it", warning=True)


def _pages(folder: Path) -> Iterator[Fault]:
    what = {"rules.md": "how answers are rated", "DATASHEET.md": "how the pack was made, and its limits"}
    for page in PAGES:
        path = folder / page
        if not path.is_file():
            yield Fault(page, f"it is not there. Write {what[page]}", warning=True)
        elif path.read_bytes() == (SKELETON / page).read_bytes():
            yield Fault(page, f"as `iteralign pack new` wrote it. Write {what[page]}", warning=True)
