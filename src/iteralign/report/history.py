"""The constitution as it stands, each principle with its history from the ledger."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from iteralign.config import RunConfig
from iteralign.constitutions import load_constitution
from iteralign.records import Constitution, LedgerEntry, Principle
from iteralign.report.evidence import Evidence, RoundFiles, evidence_of
from iteralign.report.rounds import SIDES, stage_tree
from iteralign.report.wording import clean, plural


@dataclass(frozen=True)
class History:
    """One principle: `rounds` in which it was proposed or met again, `shown` distinct prompts whose failed answers
    the oracle saw for it, `merged` near-duplicates. A given principle that was never met has no rounds."""

    text: str
    side: str
    rounds: tuple[int, ...]
    shown: int
    merged: int
    evidence: Evidence = Evidence()

    @property
    def story(self) -> str:
        if not self.rounds:
            return "given; not proposed again"
        first, *later = self.rounds
        again = f", again in {', '.join(map(str, later))}" if later else ""
        merged = f"; {plural(self.merged, 'near-duplicate')} merged into it" if self.merged else ""
        return f"round {first}{again}; the oracle was shown {plural(self.shown, 'failure')}{merged}"


def read_constitution(folder: Path, config: RunConfig, full: bool = False) -> tuple[str, tuple[History, ...]]:
    """Version and principles: the newest that a round has stored, or the given ones. Empty before both."""
    places = sorted((folder / "rounds").glob("*/principles.json"))
    trees = [stage_tree(place.parent, "principles") for place in places]
    ledger = [LedgerEntry.model_validate(entry) for tree in trees for entry in tree["ledger"]]
    if trees:
        constitution = Constitution.model_validate(trees[-1]["constitution"])
    elif (folder / "constitution.yaml").is_file():
        constitution = load_constitution(str(folder / "constitution.yaml"))
    else:
        constitution = load_constitution(config.constitution) if config.constitution else Constitution()
    rounds = [RoundFiles(folder / f"rounds/{r:05d}") for r in range(config.rounds * config.phases)]
    return constitution.version, tuple(
        history(p, ledger, evidence_of(p.id, ledger, rounds, full)) for p in constitution.principles
    )


def history(principle: Principle, ledger: Sequence[LedgerEntry], evidence: Evidence) -> History:
    identity = principle.id
    own = [entry for entry in ledger if identity in (entry.principle, entry.into)]
    return History(
        text=clean(principle.text),
        side=SIDES[principle.kind],
        rounds=tuple(sorted({entry.round for entry in own})),
        shown=len({prompt for entry in own for prompt in entry.evidence}),
        merged=sum(entry.event == "merged" for entry in own),
        evidence=evidence,
    )
