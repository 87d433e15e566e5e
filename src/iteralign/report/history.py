"""The constitution as it stands and what was retired from it, each principle with its history from the ledger."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from iteralign.config import RunConfig
from iteralign.constitutions import load_constitution
from iteralign.ledger import MEASURED, Ledger, read_ledger, story
from iteralign.records import Constitution, Principle
from iteralign.report.evidence import SHOWN, Evidence, RoundFiles, evidence_of
from iteralign.report.rounds import SIDES
from iteralign.report.wording import Table, clean, ends, left_out

EVIDENCE = 200  # failures, and as many rewritten answers, of all principles together: a report must stay small


@dataclass(frozen=True)
class History:
    """One principle: `rounds` in which it was proposed or met again; none of a given one that never was. `story`: when,
    from how many failures, and what it was measured to be worth."""

    text: str
    side: str
    rounds: tuple[int, ...]
    story: str
    evidence: Evidence = Evidence()


@dataclass(frozen=True)
class Told:
    """The constitution of a run: `principles` in force, and those that were `retired`."""

    version: str
    principles: tuple[History, ...]
    retired: tuple[History, ...]


def read_constitution(folder: Path, config: RunConfig, full: bool = False) -> Told:
    """The newest that a round has stored, or the given one. Empty before both."""
    ledger = read_ledger(folder)
    if ledger is None and (folder / "constitution.yaml").is_file():
        ledger = Ledger(load_constitution(str(folder / "constitution.yaml")))
    elif ledger is None:
        ledger = Ledger(load_constitution(config.constitution) if config.constitution else Constitution())
    rounds = [RoundFiles(folder / f"rounds/{r:05d}") for r in range(config.rounds * config.phases)]

    principles, retired = ledger.constitution.principles, ledger.retired
    most = max(1, min(SHOWN, EVIDENCE // max(1, len(principles) + len(retired))))

    def told(principle: Principle) -> History:
        return history(principle, ledger, evidence_of(principle.id, ledger.entries, rounds, full, most))

    return Told(ledger.constitution.version, tuple(map(told, principles)), tuple(map(told, retired)))


def history(principle: Principle, ledger: Ledger, evidence: Evidence) -> History:
    own = ledger.of(principle)
    return History(
        text=clean(principle.text),
        side=SIDES[principle.kind],
        rounds=tuple(sorted({e.round for e in own if e.event not in MEASURED})),
        story=clean(story(own)),
        evidence=evidence,
    )


def course(histories: Sequence[History]) -> Table:
    """How specific the principles were that each round brought, retired ones included."""
    found: dict[int, list[History]] = {}
    for h in histories:
        if h.rounds:
            found.setdefault(h.rounds[0], []).append(h)
    rows = [
        (
            str(r),
            str(len(own)),
            f"{fmean(len(h.text.split()) for h in own):.1f}",
            f"{fmean(len(h.evidence.subjects) for h in own):.1f}",
        )
        for r, own in ends(sorted(found.items()))
    ]
    return Table(
        ("Round", "New principles", "Words each", "Subjects each"),
        rows,
        "The paper (section 5.8) saw general principles first and specific ones later. Few words, and many subjects whose "
        f"failures made it, speak for a general principle. {left_out(len(found), 'round')}".rstrip(),
    )
