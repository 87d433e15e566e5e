"""Where time, calls, tokens and money of a run went, by stage."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from iteralign.models.usage import Usage, together
from iteralign.report.wording import clean, duration
from iteralign.store import lines

HEAD = ("Stage", "Time", "Calls", "Tokens read", "Tokens written", "Cost")
NOTE = (
    "Calls are those that were made: kept answers are not asked for again. Prompts count whole, whatever a cache saves; "
    "training is no call. Local models cost time alone."
)


class Spent(NamedTuple):
    stage: str
    seconds: float
    usage: Usage


def read_spent(folder: Path) -> tuple[Spent, ...]:
    """By stage, in the order in which they were first worked at, from the events {"event": "stage", …}: one for each time
    that a stage was worked at, none for one that was killed in its midst."""
    path = folder / "events.jsonl"
    found: dict[str, Spent] = {}
    for line in lines(path.read_bytes()) if path.is_file() else []:
        try:
            event: Any = json.loads(line)
        except ValueError:  # a line that was cut off when the run was killed
            continue
        if event.get("event") != "stage":
            continue
        name = clean(event["stage"])
        before = found.get(name, Spent(name, 0.0, Usage()))
        usage = before.usage.plus(Usage(*(event[field] for field in Usage._fields)))
        found[name] = Spent(name, before.seconds + event["seconds"], usage)
    return tuple(found.values())


def spent_rows(spent: Sequence[Spent]) -> list[tuple[str, ...]]:
    """A row a stage and one for all, in the columns of HEAD."""
    return [spent_row(*s) for s in spent] + [spent_row("all stages", sum(s.seconds for s in spent), total(spent))]


def total(spent: Sequence[Spent]) -> Usage:
    return together(s.usage for s in spent)


def spent_row(stage: str, seconds: float, usage: Usage) -> tuple[str, ...]:
    counts = (f"{n:,}" if n else "" for n in (usage.calls, usage.read, usage.written))
    return stage, duration(seconds), *counts, cost(usage)


def cost(usage: Usage) -> str:
    """Dollars; the calls of a server whose price is not known are named beside them."""
    parts = [f"${usage.dollars:.4f}" if usage.dollars < 0.1 else f"${usage.dollars:.2f}"] if usage.dollars else []
    parts += [f"{usage.unpriced:,} calls without a price"] if usage.unpriced else []
    return ", ".join(parts)
