"""What a run asks people (`type: human`): its open questions, and their answers written back."""

import json
from pathlib import Path

from iteralign.errors import ConfigError
from iteralign.models.human import FOLDER, read_question
from iteralign.records import Record
from iteralign.report.wording import clean
from iteralign.store import write_text


class Question(Record):
    """`options`: one of them is the answer; empty: words of one's own are."""

    id: str
    turns: tuple[tuple[str, str], ...]
    options: tuple[str, ...]
    answer: str | None


def read_questions(run: Path) -> list[Question]:
    """Oldest first."""
    paths = sorted((run / FOLDER).glob("*.json"), key=lambda path: (path.stat().st_mtime_ns, path.name))
    found: list[Question] = []
    for path in paths:
        told = read_question(path)
        turns = tuple((m["role"], clean(m["content"])) for m in told["chat"])
        found.append(Question(id=path.stem, turns=turns, options=tuple(told["options"]), answer=told["answer"]))
    return found


def answer_question(run: Path, identity: str, text: str) -> None:
    """ConfigError: no such question, or no answer to it."""
    known = {q.id: q for q in read_questions(run)}
    if identity not in known:
        raise ConfigError(f"no question {identity!r} stands in {run / FOLDER}")
    options, text = known[identity].options, text.strip()
    if not text or (options and text not in options):
        raise ConfigError(f"expected {' or '.join(options) if options else 'words'} as the answer")
    path = run / FOLDER / f"{identity}.json"
    told = {**json.loads(path.read_text(encoding="utf-8")), "answer": text}
    write_text(path, json.dumps(told, ensure_ascii=False, indent=1) + "\n")
