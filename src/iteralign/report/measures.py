"""The measures of a run, before → after, and where two ways of measuring the same answers disagree."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from iteralign.evals.answers import GOLD
from iteralign.evals.paired import DEGENERATE, EVALUATOR, HARMFUL, HARMLESS, WORD_MATCH, Measure, pair, read_scores


@dataclass(frozen=True)
class Disagreement:
    """Where evaluator and word match differ on one metric, of `n` answers that both scored."""

    name: str
    when: str
    n: int
    only_evaluator: int
    only_word_match: int

    @property
    def total(self) -> int:
        return self.only_evaluator + self.only_word_match


def read_measures(folder: Path, seed: int) -> tuple[tuple[Measure, ...], list[str]]:
    """The measures in the order of the scores, and what kept some of them from being compared."""
    sides = (read_scores(folder / f"evals/{name}/scores.json") for name in ("base", "final"))
    base, final = ({key: s for key, s in side.items() if not key[1].endswith(GOLD)} for side in sides)
    return pair(base, final, seed)


def find(measures: Sequence[Measure], name: str, variant: str | None = None) -> Measure | None:
    return next((m for m in measures if m.name == name and variant in (None, m.variant)), None)


def disagreements(measures: Sequence[Measure]) -> tuple[Disagreement, ...]:
    found: list[Disagreement] = []
    for name in (HARMFUL, HARMLESS):
        judged, matched = find(measures, name, EVALUATOR), find(measures, name, WORD_MATCH)
        if judged is None or matched is None:
            continue
        for when, a, b in (("before", judged.before, matched.before), ("after", judged.after, matched.after)):
            if a is None or b is None:
                continue
            pairs = [(v, b.items.get(i)) for i, v in a.items.items()]
            both = [(x, y) for x, y in pairs if x is not None and y is not None]
            if both:
                alone = sum(x > y for x, y in both), sum(x < y for x, y in both)
                found.append(Disagreement(name, when, len(both), *alone))
    return tuple(found)


def broken_instead(measures: Sequence[Measure]) -> int:
    """Answers that complied before and are degenerate now: no compliance, and no refusal either."""
    judged, broken = find(measures, HARMFUL, EVALUATOR), find(measures, DEGENERATE)
    if judged is None or broken is None or judged.before is None or judged.after is None or broken.after is None:
        return 0
    now, marks = judged.after.items, broken.after.items
    return sum(v == 1 and now.get(i) == 0 and marks.get(i) == 1 for i, v in judged.before.items.items())
