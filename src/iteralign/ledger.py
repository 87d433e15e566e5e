"""What became of every principle of a run, from the files of its rounds: what is in force, what was retired, and why."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iteralign.errors import StoreError
from iteralign.records import Constitution, LedgerEntry, Principle

MEASURED = ("lift", "accepted", "retired")


@dataclass(frozen=True)
class Ledger:
    """`constitution`: in force after the last round; `retired`: those that were in it once, and were measured to do no good."""

    constitution: Constitution
    entries: tuple[LedgerEntry, ...] = ()
    retired: tuple[Principle, ...] = ()

    def of(self, principle: Principle) -> list[LedgerEntry]:
        """What happened to it, and to what was merged into it, in order."""
        return [e for e in self.entries if principle.id in (e.principle, e.into)]


def read_ledger(folder: Path) -> Ledger | None:
    """Of a run's directory; None: no round has looked for principles yet. StoreError: a file that is not JSON."""
    known: dict[str, Principle] = {}
    entries: list[LedgerEntry] = []
    force = Constitution()
    places = sorted((folder / "rounds").glob("*/principles.json"))
    for place in places:
        found, lifts = read_json(place), place.with_name("lifts.json")
        proposed = Constitution.model_validate(found["constitution"])
        measured = [LedgerEntry.model_validate(e) for e in read_json(lifts)] if lifts.is_file() else []
        gone = {e.principle for e in measured if e.event == "retired"}
        known |= {p.id: p for p in proposed.principles}
        entries += [*(LedgerEntry.model_validate(e) for e in found["ledger"]), *measured]
        force = Constitution(principles=tuple(p for p in proposed.principles if p.id not in gone))
    said = {e.principle: e.event for e in entries if e.event in MEASURED}
    ids = {p.id for p in force.principles}
    retired = tuple(p for p in known.values() if p.id not in ids and said.get(p.id) == "retired")
    return Ledger(force, tuple(entries), retired) if places else None


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(f"{path} is not JSON ({error}): was it changed by hand?") from error


def story(own: Sequence[LedgerEntry]) -> str:
    """When a principle was proposed and met again, from how many failures, and what it was measured to be worth."""
    met = [e for e in own if e.event not in MEASURED]
    rounds = sorted({e.round for e in met})
    parts = ["given; not proposed again"]
    if rounds:
        again = f", again in {', '.join(map(str, rounds[1:]))}" if rounds[1:] else ""
        failures = len({prompt for e in met for prompt in e.evidence})
        parts = [f"round {rounds[0]}{again}", f"the oracle was shown {failures} failure{'s' * (failures != 1)}"]
    if merged := sum(e.event == "merged" for e in met):
        parts.append(f"{merged} near-duplicate{'s' * (merged != 1)} merged into it")
    if lifts := [e for e in own if e.event in MEASURED]:
        parts.append(f"lift {lifts[-1].reason}")
    return "; ".join(parts)


def constitution_markdown(ledger: Ledger) -> str:
    """The constitution with its history, and what was retired from it."""
    lines = [f"# Constitution {ledger.constitution.version}", ""]
    parts = [
        (title, [p for p in ledger.constitution.principles if p.kind == kind])
        for kind, title in (("decline", "What to decline"), ("answer", "What to answer"), ("unknown", "Other"))
    ]
    for title, principles in (*parts, ("Retired: measured to do no good", ledger.retired)):
        if principles:
            told = [f"- {p.text} ({story(ledger.of(p))})" for p in principles]
            lines += [f"## {title}", "", *told, ""]
    return "\n".join(lines) + "\n"
