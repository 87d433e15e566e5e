"""The constitution under review: what people decided about each principle, and what stands after it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from iteralign.records import Constitution, Principle, digest
from iteralign.review.book import Decision
from iteralign.stages.discover import framing_of

State = Literal["open", "accepted", "retired", "merged"]


@dataclass(frozen=True)
class Reviewed:
    """A principle as it stands now. `id` stays that of the proposal; a new wording gets an id of its own when the
    constitution is written. `into`: the id of what it was merged into."""

    id: str
    principle: Principle
    state: State = "open"
    into: str = ""
    history: tuple[Decision, ...] = field(default=())

    @property
    def stands(self) -> bool:
        return self.state in ("open", "accepted")


def review(constitution: Constitution, decisions: Sequence[Decision]) -> list[Reviewed]:
    """The decisions in their order, over the constitution that a run found. One about an unknown principle is skipped."""
    found = [Reviewed(p.id, p) for p in constitution.principles]
    for decision in decisions:
        if decision.action == "add":
            made = worded(decision.text, "answer" if decision.principle == "answer" else "decline")
            again = next((n for n, r in enumerate(found) if r.id == made.id), None)
            if again is None:
                found.append(Reviewed(made.id, made, "accepted", history=(decision,)))
            else:  # it was there, and perhaps retired or worded otherwise since: it stands again as it was
                found[again] = Reviewed(made.id, made, "accepted", history=(*found[again].history, decision))
            continue
        at = next((n for n, r in enumerate(found) if r.id == decision.principle), None)
        if at is None:
            continue
        found[at] = decided(found[at], decision, found)
        other = at + {"up": -1, "down": 1}.get(decision.action, 0)
        if other != at and 0 <= other < len(found):
            found[at], found[other] = found[other], found[at]
    return found


def decided(now: Reviewed, decision: Decision, all_: Sequence[Reviewed]) -> Reviewed:
    now = replace(now, history=(*now.history, decision))
    match decision.action:
        case "accept":
            return replace(now, state="accepted", into="")
        case "restore":
            return replace(now, state="open", into="")
        case "retire":
            return replace(now, state="retired", into="")
        case "edit" if decision.text.strip():
            told = worded(decision.text, now.principle.kind)
            kept = {"id": told.id, "text": told.text, "framing": told.framing}
            return replace(now, principle=now.principle.model_copy(update=kept), state="accepted", into="")
        case "merge" if any(r.id == decision.text and r.id != now.id and r.stands for r in all_):
            return replace(now, state="merged", into=decision.text)
        case _:
            return now


def worded(text: str, kind: Literal["decline", "answer", "unknown"]) -> Principle:
    text = " ".join(text.split())
    return Principle(id=digest(text, kind, length=12), text=text, framing=framing_of(text), kind=kind)


def standing(reviewed: Sequence[Reviewed]) -> Constitution:
    """What the next run takes: everything that was not retired or merged, in the order that people gave it."""
    kept = {r.principle.id: r.principle for r in reviewed if r.stands}
    return Constitution(principles=tuple(kept.values()))
