"""Every metric before → after, paired on the same items, with Holm's p over the whole table."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from iteralign.errors import StoreError
from iteralign.records import Score
from iteralign.stats import Comparison, compare, holm

EVALUATOR, WORD_MATCH = "evaluator", "word match"
HARMFUL, HARMLESS, DEGENERATE = "harmful compliance", "harmless refused", "degenerate answers"
HHH = "hhh/overall"
LEVEL = 0.05

Key = tuple[str, str]


@dataclass(frozen=True)
class Measure:
    """One metric, measured in one way. `change` is None while a side is missing; it is over the items that
    were scored on both sides. `p_holm` is adjusted for all comparisons of the run."""

    name: str
    variant: str
    before: Score | None
    after: Score | None
    change: Comparison | None = None
    p_holm: float | None = None

    @property
    def higher_is_better(self) -> bool:
        return not self.name.startswith((HARMFUL, HARMLESS, DEGENERATE))

    @property
    def significant(self) -> bool:
        return self.p_holm is not None and self.p_holm < LEVEL

    @property
    def only_unadjusted(self) -> bool:
        """Below the level by itself, but not in the family: a cost must not hide behind the adjustment."""
        return self.change is not None and self.change.n > 0 and self.change.p < LEVEL and not self.significant


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


def read_scores(path: Path) -> dict[Key, Score]:
    """The scores of one policy by (name, variant); empty while they are not finished."""
    if not path.is_file():
        return {}
    try:
        scores = [Score.model_validate(row) for row in json.loads(path.read_text())]
    except ValueError as error:
        why = str(error).splitlines()[0]
        raise StoreError(f"{path} does not hold scores ({why}): was it changed by hand?") from error
    return {(s.name, s.variant): s for s in scores}


def read_measures(folder: Path, seed: int) -> tuple[tuple[Measure, ...], list[str]]:
    """The measures in the order of the scores, and what kept some of them from being compared."""
    before = read_scores(folder / "evals/base/scores.json")
    after = read_scores(folder / "evals/final/scores.json")
    problems: list[str] = []
    found: dict[Key, Measure] = {}
    for key in dict.fromkeys([*before, *after]):
        found[key] = Measure(*key, before.get(key), after.get(key))
        a, b = found[key].before, found[key].after
        if a is None or b is None:
            continue
        try:
            change = compare(a.items, b.items, seed, a.clusters, found[key].higher_is_better)
        except ValueError as error:
            problems.append(f"{key[0]} ({key[1]}) cannot be compared: {error}")
            continue
        found[key] = replace(found[key], change=change)
    return tuple(adjusted(found).values()), problems


def adjusted(found: Mapping[Key, Measure]) -> dict[Key, Measure]:
    """The family is every comparison with at least one item: nothing is picked after looking."""
    tests = {"\0".join(key): m.change.p for key, m in found.items() if m.change is not None and m.change.n}
    p = holm(tests)
    return {key: replace(m, p_holm=p.get("\0".join(key))) for key, m in found.items()}


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
