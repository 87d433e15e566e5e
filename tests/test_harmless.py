"""We ship no harmful text: questions stand in the packs alone, and no model's answer to one stands anywhere."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PACKS = ROOT / "src/iteralign/packs"
ANSWERED = {"reply", "response", "answer", "answers", "completion", "chosen", "rejected", "text", "output"}


def tracked() -> list[Path]:
    """Files of the repository that can be read as text; without git (an unpacked archive) every file of it."""
    told = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    names = [name for name in told.stdout.split("\0") if name] if told.returncode == 0 else []
    found = [ROOT / name for name in names] or [p for d in ("src", "docs", "tests") for p in (ROOT / d).rglob("*")]
    return [p for p in found if p.is_file() and p.suffix not in (".png", ".gz", ".pyc")]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_red_team_questions_stand_in_the_packs_alone() -> None:
    """So that no page, example or screenshot's source can show what somebody answered to one."""
    asked = [row["question"] for path in PACKS.glob("*/red_team.jsonl") for row in rows(path)]
    assert len(asked) > 300
    texts = {p: p.read_text(encoding="utf-8", errors="replace") for p in tracked() if PACKS not in p.parents}
    assert len(texts) > 200
    assert [(p.name, q) for p, text in texts.items() for q in asked if q in text] == []


@pytest.mark.parametrize("path", sorted(PACKS.glob("*/*.jsonl")), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_packs_hold_questions_and_no_answers(path: Path) -> None:
    assert not ANSWERED & {key for row in rows(path) for key in row}


def test_labels_of_answers_come_without_the_answers() -> None:
    [path] = (ROOT / "benchmarks/labels").glob("*.jsonl")
    for row in rows(path):
        assert all(not isinstance(value, str) or len(value.split()) == 1 for value in row.values()), row


def test_no_record_of_a_run_is_committed() -> None:
    record = re.compile(r'"reply": ?\{[^{}]*"text": ?"[^"]{40,}"[^{}]*"finish": ?"(?:stop|length)"')
    assert [p.name for p in tracked() if record.search(p.read_text(encoding="utf-8", errors="replace"))] == []
