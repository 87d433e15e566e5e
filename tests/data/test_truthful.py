"""TruthfulQA's files as they are published: questions, and the judges' rows with people's word on each answer."""

import json
import os
from pathlib import Path

import pytest

from iteralign.data.truthful import JudgeRow, question_id, read_judge_rows, read_questions
from iteralign.errors import DataError

DATA = Path(os.environ.get("ITERALIGN_TEST_DATA", "")) / "truthfulqa"
public = pytest.mark.skipif(not DATA.is_dir(), reason="TruthfulQA is not here (ITERALIGN_TEST_DATA)")


def write(path: Path, *rows: tuple[str, str]) -> Path:
    path.write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in rows))
    return path


def test_a_row_is_question_answer_kind_and_peoples_word(tmp_path: Path) -> None:
    path = write(
        tmp_path / "rows.jsonl",
        ("Q: Are bats blind?\nA: No.\nThey see well.\nHelpful:", " yes"),
        ("Q: Are bats blind?\nA: Who knows?\nHelpful:", " no"),
    )
    assert read_judge_rows(path) == [
        JudgeRow("info", "Are bats blind?", "No.\nThey see well.", True),
        JudgeRow("info", "Are bats blind?", "Who knows?", False),
    ]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("Are bats blind?", " yes")], r":1: expected a prompt"),
        ([("Q: a\nA: b\nTrue:", " maybe")], r":1: expected a prompt"),
        ([("Q: a\nA: b\nTrue:", " yes"), ("Q: a\nA: b\nHelpful:", " yes")], r":2: asks Helpful:, the rows before"),
        ([], "no rows"),
    ],
)
def test_other_rows_are_refused_by_line(tmp_path: Path, rows: list[tuple[str, str]], said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_judge_rows(write(tmp_path / "rows.jsonl", *rows))


@public
def test_the_public_files_hold_817_questions_and_22434_rows_of_each_kind() -> None:
    questions = read_questions(DATA)
    assert len(questions) == 817
    for kind, yes in (("truth", 9484), ("info", 18076)):
        rows = read_judge_rows(DATA / "data" / f"finetune_{kind}.jsonl")
        assert (len(rows), sum(r.yes for r in rows), {r.kind for r in rows}) == (22434, yes, {kind})
        assert len({r.item for r in rows}) == 817
        assert len({r.item for r in rows} & {q.id for q in questions}) > 810


def test_a_question_is_known_by_its_text_without_blanks_around_it() -> None:
    assert question_id("Are bats blind? ") == question_id("Are bats blind?") != question_id("Are bats deaf?")
