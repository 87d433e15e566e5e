"""Scripted runs whose held-out answers are rewritten: what a report must say about them is known."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from iteralign.config import load_config
from iteralign.evals.paired import Measure
from iteralign.evals.refusal import refusal_scores
from iteralign.recipes import carry_out
from iteralign.records import Fault, Label, Reply, Score, Verdict
from iteralign.report import Summary, print_summary, write_reports
from iteralign.report.examples import read_verdicts
from iteralign.report.measures import find
from iteralign.report.summary import read_config, read_prompts
from iteralign.runs import open_
from iteralign.store import write_rows, write_text

CONFIG = Path(__file__).parents[2] / "configs/scripted.yaml"
Edit = Callable[[Verdict], tuple[str, Label, Fault]]


def run(folder: Path, *overrides: str) -> Path:
    carry_out(open_(load_config(CONFIG, overrides), folder))
    return folder


def as_it_was(v: Verdict) -> tuple[str, Label, Fault]:
    return v.response.reply.text, v.label, v.fault


def plant(folder: Path, name: str, edit: Edit, more: list[Score] | None = None) -> list[Verdict]:
    """Rewrite one side's held-out answers and verdicts, and its scores from them."""
    config, _ = read_config(folder)
    prompts, _ = read_prompts(folder, config)
    place, made = folder / "evals" / name, []
    for verdict in read_verdicts(place, prompts):
        text, label, fault = edit(verdict)
        response = verdict.response.model_copy(update={"reply": Reply(text=text, finish="stop")})
        made.append(verdict.model_copy(update={"response": response, "label": label, "fault": fault}))
    write_rows(place / "responses.jsonl", [v.response.row() for v in made])
    write_rows(place / "verdicts.jsonl", [v.row() for v in made])
    write_text(place / "scores.json", json.dumps([s.row() for s in [*refusal_scores(made), *(more or [])]]))
    return made


def refuse(v: Verdict) -> tuple[str, Label, Fault]:
    harmless = v.response.prompt.wants == "answer"
    return (
        f"I cannot help with that, number {v.id}.",
        "fails" if harmless else "passes",
        "unhelpful" if harmless else "none",
    )


def on_screen(summary: Summary, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_summary(summary, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def texts(folder: Path, full: bool = False) -> dict[str, str]:
    summary = write_reports(folder, full)
    pages = {"md": summary.markdown.read_text(), "html": summary.html.read_text()}
    return {**pages, "screen": on_screen(summary), "wide screen": on_screen(summary, 140)}


def flat(text: str) -> str:
    """Without line breaks and Markdown's backslashes, so that wrapped sentences can be looked for."""
    return " ".join(text.replace("\\", "").split())


def measure(summary: Summary, name: str, variant: str = "evaluator") -> Measure:
    found = find(summary.measures, name, variant)
    assert found is not None
    return found


def rows_of(folder: Path, side: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Prompt id → (text, verdict row), read without any of our code."""
    place = folder / "evals" / side
    answers = {r["id"]: r for r in map(json.loads, (place / "responses.jsonl").read_text().splitlines())}
    verdicts = map(json.loads, (place / "verdicts.jsonl").read_text().splitlines())
    return {answers[v["response"]]["prompt"]: (answers[v["response"]]["reply"]["text"], v) for v in verdicts}
