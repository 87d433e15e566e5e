"""What the shipped packs promise: their counts and splits, no cue in the form, no near-copies, true datasheets."""

import csv
import gzip
import json
import os
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from iteralign.data.pack_check import check_pack
from iteralign.similarity import near_pairs

PACKS = Path(__file__).parents[2] / "src/iteralign/packs"
Row = dict[str, Any]  # every value a string, but for an ordinary row's twin (null)

FORMS = {"how": 40, "what": 20, "imperative": 20, "other": 20}  # per cent, for every kind
IMPERATIVES = set(["Describe", "Draft", "Explain", "Give", "List", "Show", "Suggest", "Tell", "Walk", "Write"])
SPLITS = {"train": 3, "validation": 1, "held_out": 2}  # subtopics of every category
NEAR_DUPLICATE = 0.8
PUBLIC_FILES = [
    "dangerousqa/toxic_outs.json",
    "harmfulqa/harmfulqa.json",
    "xstest/xstest_prompts.csv",
    "hh_rlhf/harmless-base/test.jsonl.gz",
]


@dataclass
class Pack:
    """`per_subtopic`: questions by kind; `more`: in a subtopic of the validation split so many more."""

    name: str
    categories: int
    per_subtopic: dict[str, int]
    more: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, list[Row]] = field(init=False)

    def __post_init__(self) -> None:
        harmless = self.read("harmless.jsonl")
        self.kinds = {"red_team": self.read("red_team.jsonl")}
        self.kinds |= {kind: [row for row in harmless if row["kind"] == kind] for kind in ("look_alike", "ordinary")}
        assert sum(map(len, self.kinds.values())) == len(harmless) + len(self.kinds["red_team"])

    def read(self, file: str) -> list[Row]:
        return [json.loads(line) for line in (PACKS / self.name / file).read_text(encoding="utf-8").splitlines()]

    @property
    def rows(self) -> list[Row]:
        return [row for rows in self.kinds.values() for row in rows]

    @property
    def questions(self) -> list[str]:
        return [row["question"] for row in self.rows]

    @property
    def datasheet(self) -> str:
        return (PACKS / self.name / "DATASHEET.md").read_text(encoding="utf-8")


STARTER = Pack("starter", 16, {"red_team": 4, "look_alike": 2, "ordinary": 2}, {"look_alike": 2, "ordinary": 2})
HEALTH = Pack("health", 8, {"red_team": 2, "look_alike": 1, "ordinary": 1})

each = pytest.mark.parametrize("pack", [STARTER, HEALTH], ids=lambda pack: pack.name)


def subject(row: Row) -> tuple[str, str]:
    return row["category"], row["subtopic"]


def form(question: str) -> str:
    first = question.split()[0]
    if first in IMPERATIVES:
        return "imperative"
    return first.lower() if first in ("How", "What") else "other"


def shares(rows: list[Row]) -> dict[str, float]:
    counts = Counter(form(row["question"]) for row in rows)
    return {name: 100 * counts[name] / len(rows) for name in FORMS}


def lengths(rows: list[Row]) -> list[int]:
    return [len(row["question"].split()) for row in rows]


def test_every_shipped_pack_is_tested_here() -> None:
    assert {path.parent.name for path in PACKS.glob("*/*.jsonl")} == {STARTER.name, HEALTH.name}


@each
def test_rows_have_the_documented_fields(pack: Pack) -> None:
    fields = ["id", "question", "category", "subtopic", "split"]
    assert all(list(row) == fields for row in pack.kinds["red_team"])
    assert all(
        list(row) == [*fields, "kind", "twin"] for kind in ("look_alike", "ordinary") for row in pack.kinds[kind]
    )


@each
def test_the_command_finds_no_fault(pack: Pack) -> None:
    assert check_pack(PACKS / pack.name).faults == ()


def test_ids_are_unique_over_all_packs() -> None:
    rows = STARTER.rows + HEALTH.rows
    assert len({row["id"] for row in rows}) == len(rows)


@each
@pytest.mark.parametrize("kind", ["red_team", "look_alike", "ordinary"])
def test_counts(pack: Pack, kind: str) -> None:
    rows = pack.kinds[kind]
    each_has = {split: pack.per_subtopic[kind] + (split == "validation") * pack.more.get(kind, 0) for split in SPLITS}
    per_subject = Counter(map(subject, rows))
    assert all(per_subject[subject(row)] == each_has[row["split"]] for row in rows)
    assert set(Counter(category for category, _ in per_subject).values()) == {sum(SPLITS.values())}
    assert len({row["category"] for row in rows}) == pack.categories
    expected = {split: pack.categories * count * each_has[split] for split, count in SPLITS.items()}
    assert Counter(row["split"] for row in rows) == expected


@each
def test_every_subtopic_is_in_one_split_and_look_alikes_follow_it(pack: Pack) -> None:
    splits = defaultdict(set)
    for row in pack.rows:
        splits[subject(row)].add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert set(map(subject, pack.kinds["look_alike"])) == set(map(subject, pack.kinds["red_team"]))


@each
def test_twins_share_the_subtopic(pack: Pack) -> None:
    red = {row["id"]: row for row in pack.kinds["red_team"]}
    assert all(subject(row) == subject(red[row["twin"]]) for row in pack.kinds["look_alike"])
    assert all(row["twin"] is None for row in pack.kinds["ordinary"])


@each
def test_opening_forms_are_the_same_for_every_kind(pack: Pack) -> None:
    for kind, rows in pack.kinds.items():
        found = shares(rows)
        assert all(abs(found[name] - FORMS[name]) <= 6 for name in FORMS), (kind, found)


@each
def test_lengths_are_the_same_for_every_kind(pack: Pack) -> None:
    assert all(6 <= length <= 25 for length in lengths(pack.rows))
    means = {kind: sum(lengths(rows)) / len(rows) for kind, rows in pack.kinds.items()}
    assert max(means.values()) - min(means.values()) <= 2, means


@each
def test_the_datasheets_tables_and_figures_are_those_of_the_files(pack: Pack) -> None:
    files = {
        "red_team": "`red_team.jsonl`",
        "look_alike": "`harmless.jsonl`, `look_alike`",
        "ordinary": "`harmless.jsonl`, `ordinary`",
    }
    for kind, rows in pack.kinds.items():
        splits = Counter(row["split"] for row in rows)
        counted = " | ".join(str(n) for n in (len(rows), *(splits[split] for split in SPLITS)))
        assert f"| {files[kind]} | {counted} |" in pack.datasheet
        words, percent = lengths(rows), " | ".join(f"{share:.1f} %" for share in shares(rows).values())
        name = {"red_team": "red team", "look_alike": "look-alike"}.get(kind, kind)
        mean = sum(words) / len(words)
        assert f"| {name} | {percent} | {mean:.1f} | {min(words)}–{max(words)} |" in pack.datasheet
    found = check_pack(PACKS / pack.name).form
    assert found is not None
    assert f"the first two words with an AUC of {found.opening:.2f} " in pack.datasheet
    assert f"the number of words with {found.length:.2f}" in pack.datasheet
    nearest = max(cosine for _, _, cosine in near_pairs(pack.questions, 0.3))
    assert f"at most {nearest:.2f} between any two questions of the pack" in pack.datasheet


def test_no_near_duplicates_inside_and_between_the_packs() -> None:
    questions = STARTER.questions + HEALTH.questions
    assert [(questions[i], questions[j]) for i, j, _ in near_pairs(questions, NEAR_DUPLICATE)] == []


def public_questions(folder: Path) -> list[str]:
    dangerous, harmful, xstest, hh = (folder / name for name in PUBLIC_FILES)
    texts = json.loads(dangerous.read_text(encoding="utf-8"))
    for subtopics in json.loads(harmful.read_text(encoding="utf-8")).values():
        texts += [question for questions in subtopics.values() for question in questions]
    with xstest.open(encoding="utf-8", newline="") as file:
        texts += [row["prompt"] for row in csv.DictReader(file)]
    with gzip.open(hh, "rt", encoding="utf-8") as file:
        for line in file:
            first_turn = json.loads(line)["chosen"].split("\n\nHuman: ")[1]
            texts.append(first_turn.split("\n\nAssistant:")[0])
    return texts


def test_no_near_duplicates_of_public_sets() -> None:
    folder = os.environ.get("ITERALIGN_TEST_DATA")
    if not folder:
        pytest.skip("ITERALIGN_TEST_DATA names no folder with the public question sets")
    missing = [name for name in PUBLIC_FILES if not (Path(folder) / name).is_file()]
    if missing:
        pytest.skip(f"not in {folder}: {', '.join(missing)}")
    ours = STARTER.questions + HEALTH.questions
    texts = ours + public_questions(Path(folder))
    near = [(texts[i], texts[j]) for i, j, _ in near_pairs(texts, NEAR_DUPLICATE) if i < len(ours)]
    assert near == []
