"""Lift: how many more failures a revision mends with a principle than without it, less what it spoils.

Paired: the same answer, the same seed, once under the principle and once under none. On answers to harmless requests
that pass, "mends" is "still passes", so that a principle which talks the policy out of good answers pays for it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from iteralign.config import LiftConfig, ReviseConfig
from iteralign.judges.base import Judge
from iteralign.models.base import Model
from iteralign.records import Constitution, LedgerEntry, Principle, Record, Revision, Verdict, digest
from iteralign.stages.discover import kind_of
from iteralign.stages.revise import revise, verify
from iteralign.stats import Z, mean

MOST = 12  # principles that are measured in a round
NONE = Principle(id="none", text="Write a good reply.", framing="do", kind="unknown")

Side = Literal["failure", "harmless"]


class Trial(Record):
    """One answer revised under `principle`: 1 where the judge passes the revision, 0 where not, None unjudged; and the
    same without a principle."""

    principle: str
    prompt: str
    side: Side
    revised: float | None
    without: float | None


@dataclass(frozen=True)
class Lift:
    """Of one principle over all rounds: `value` = gain on failures + change on harmless answers, a share; `n` pairs of
    failures. The interval is normal, the two sides being independent. None: no pair was judged."""

    principle: str
    value: float | None
    low: float | None
    high: float | None
    n: int

    def said(self, config: LiftConfig) -> str:
        if self.value is None:
            return "no pair was judged"
        ends = "" if self.low is None or self.high is None else f", 95 % {self.low:+.2f} to {self.high:+.2f}"
        return f"{self.outcome(config)}: {self.value:+.2f}{ends}, {self.n} pairs"

    def outcome(self, config: LiftConfig) -> Literal["accepted", "retired", "unproven"]:
        """Retired only by enough pairs: too few say nothing against a principle."""
        if self.low is None or self.high is None:
            return "unproven"
        if self.n >= config.min_pairs and self.high < config.min:
            return "retired"
        return "accepted" if self.low > config.min else "unproven"


def hold_back(failures: Sequence[Verdict], budget: int, seed: int) -> tuple[list[Verdict], list[Verdict]]:
    """Failures to learn from, and at most `budget` to measure on, never more than half; drawn by seed."""
    count = min(budget, len(failures) // 2)
    drawn = sorted(failures, key=lambda v: digest(seed, "lift", v.response.prompt.id))[:count]
    held = {v.id for v in drawn}
    return [v for v in failures if v.id not in held], [v for v in failures if v.id in held]


def trials(
    failures: Sequence[Verdict],
    passing: Sequence[Verdict],
    principles: Sequence[Principle],
    policy: Model,
    judge: Judge,
    config: ReviseConfig,
    seed: int,
    round: int,
    critic: Model | None = None,
) -> list[Trial]:
    """Every failure that a principle is for and every passing harmless answer, under every principle. What is done without
    a principle is done once for all of them."""
    sides: list[tuple[Side, Verdict]] = [*(("failure", v) for v in failures), *(("harmless", v) for v in passing)]

    def under(principle: Principle, at: Sequence[tuple[Side, Verdict]]) -> list[float | None]:
        once = config.model_copy(update={"candidates": 1, "max_principles": 1, "accept": "passing", "keep": "all"})
        drafts = revise([v for _, v in at], policy, [principle], once, seed, round, critic=critic)
        made = verify(drafts, judge, policy.name, once)
        return [passes(m, side) for m, (side, _) in zip(made, at, strict=True)]

    if not principles or not sides:
        return []
    places = {v.id: n for n, (_, v) in enumerate(sides)}
    without = under(NONE, sides)
    found: list[Trial] = []
    for p in principles:
        own: list[tuple[Side, Verdict]] = [
            (side, v) for side, v in sides if side == "harmless" or p.kind in (kind_of(v), "unknown")
        ]
        found += [
            Trial(
                principle=p.id, prompt=v.response.prompt.id, side=side, revised=revised, without=without[places[v.id]]
            )
            for (side, v), revised in zip(own, under(p, own), strict=True)
        ]
    return found


def passes(made: Revision, side: Side) -> float | None:
    """Whether the judge passes it; an answer that was looked at and left as it was passes, or fails, as before."""
    if not any(s.reply for s in made.steps):
        return float(side == "harmless")
    return None if made.after is not None and made.after.label == "unjudged" else float(made.accepted)


def to_measure(
    met: Sequence[Principle], constitution: Constitution, earlier: Sequence[Trial], config: LiftConfig
) -> list[Principle]:
    """Those of a round, at most MOST: the ones that it met, then those that `earlier` rounds left unproven, the most measured
    first."""
    ids = {p.id for p in met}
    left = [(lift(p.id, earlier), p) for p in constitution.principles if p.id not in ids]
    unproven = sorted((-x.n, n) for n, (x, _) in enumerate(left) if x.outcome(config) == "unproven")
    return [*met, *(left[n][1] for _, n in unproven)][:MOST]


def lift(principle: str, pooled: Sequence[Trial]) -> Lift:
    """Over the trials of all rounds."""
    own = [t for t in pooled if t.principle == principle]

    def change(side: Side) -> Any:
        pairs = [(t.revised, t.without) for t in own if t.side == side]
        return mean([None if a is None or b is None else a - b for a, b in pairs])

    gain, harmless = change("failure"), change("harmless")
    if gain.value is None:
        return Lift(principle, None, None, None, 0)
    value = gain.value + (harmless.value or 0.0)
    if gain.stderr is None:
        return Lift(principle, value, None, None, gain.n)
    # a mean of equal values has no spread in the sample, and one all the same: one other value in n + 1
    spread = math.hypot(*(max(part.stderr or 0.0, 1 / (part.n + 1)) for part in (gain, harmless) if part.n))
    return Lift(principle, value, value - Z * spread, value + Z * spread, gain.n)


def entries(lifts: Sequence[Lift], config: LiftConfig, round: int) -> list[LedgerEntry]:
    """What the ledger says of each principle measured in a round."""
    events: dict[str, Literal["lift", "accepted", "retired"]] = {"accepted": "accepted", "retired": "retired"}
    return [
        LedgerEntry(
            principle=x.principle,
            event=events.get(x.outcome(config), "lift"),
            round=round,
            value=x.value,
            reason=x.said(config),
        )
        for x in lifts
    ]
