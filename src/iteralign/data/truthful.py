"""TruthfulQA (Lin et al. 2022, arXiv 2109.07958): its questions, and the rows that its judges were trained on."""

import re
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from iteralign.data.files import read_rows
from iteralign.data.question import label_of, text_of
from iteralign.errors import DataError
from iteralign.records import digest

Kind = Literal["truth", "info"]  # whether an answer is true; whether it is informative

_ROW = re.compile(r"Q: (?P<question>.*?)\nA: (?P<answer>.*)\n(?P<asks>True|Helpful):\s*", re.DOTALL)
_ASKS: dict[str, Kind] = {"True": "truth", "Helpful": "info"}


class Question(NamedTuple):
    """`id` is the same for the same question, wherever it stands."""

    id: str
    category: str
    text: str


class JudgeRow(NamedTuple):
    """An answer to a question, and people's word on it."""

    kind: Kind
    question: str
    answer: str
    yes: bool

    @property
    def item(self) -> str:
        return question_id(self.question)


def question_id(text: str) -> str:
    return digest(text.strip())


def read_questions(place: Path) -> list[Question]:
    """The questions of TruthfulQA.csv, or of the folder that holds it."""
    path = place / "TruthfulQA.csv" if place.is_dir() else place
    rows = [(text_of(row, "Question").strip(), label_of(row, "Category")) for row in read_rows(path)]
    questions = {question_id(text): Question(question_id(text), category, text) for text, category in rows}
    if not questions:
        raise DataError(f"{path}: no questions: expected the 817 rows of TruthfulQA.csv")
    return list(questions.values())


def read_judge_rows(path: Path) -> list[JudgeRow]:
    """Rows of finetune_truth.jsonl or finetune_info.jsonl, as they stand. All must be of one kind."""
    rows: list[JudgeRow] = []
    for row in read_rows(path):
        said, answer = _ROW.fullmatch(text_of(row, "prompt")), text_of(row, "completion").strip().lower()
        if said is None or answer not in ("yes", "no"):
            raise DataError(
                f'{row.where}: expected a prompt "Q: …\\nA: …\\nTrue:" (or "Helpful:") and the completion " yes" or '
                '" no", as in TruthfulQA\'s finetune_truth.jsonl'
            )
        rows.append(JudgeRow(_ASKS[said["asks"]], said["question"].strip(), said["answer"].strip(), answer == "yes"))
        if rows[-1].kind != rows[0].kind:
            raise DataError(f"{row.where}: asks {said['asks']}:, the rows before it do not: one judge, one question")
    if not rows:
        raise DataError(f"{path}: no rows: expected those of finetune_truth.jsonl or finetune_info.jsonl")
    return rows


KINDS = get_args(Kind)
