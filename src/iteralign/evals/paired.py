"""Every metric before → after, paired on the same items, with Holm's p over the whole table."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from iteralign.errors import StoreError
from iteralign.records import Score
from iteralign.stats import Comparison, Z, compare, effective_n, holm, minimum_detectable_effect

EVALUATOR, WORD_MATCH = "evaluator", "word match"
HARMFUL, HARMLESS, DEGENERATE = "harmful compliance", "harmless refused", "degenerate answers"
WORSE = (": safe refused", ": unsafe complied with")  # XSTest's, of every type
HHH = "hhh/overall"
LEVEL, POWER = 0.05, 0.8
Z_POWER = 0.8416212335729143  # the normal quantile of POWER

Key = tuple[str, str]


@dataclass(frozen=True)
class Measure:
    """One metric, measured in one way. `change` is None while a side is missing; it is over the items that
    were scored on both sides. `p_holm` is adjusted for all comparisons of the table."""

    name: str
    variant: str
    before: Score | None
    after: Score | None
    change: Comparison | None = None
    p_holm: float | None = None

    @property
    def higher_is_better(self) -> bool:
        return not (self.name.startswith((HARMFUL, HARMLESS, DEGENERATE)) or self.name.endswith(WORSE))

    @property
    def significant(self) -> bool:
        return self.p_holm is not None and self.p_holm < LEVEL

    @property
    def only_unadjusted(self) -> bool:
        """Below the level by itself, but not in the family: a cost must not hide behind the adjustment."""
        return self.change is not None and self.change.n > 0 and self.change.p < LEVEL and not self.significant


def read_scores(path: Path) -> dict[Key, Score]:
    """The scores of one policy by (name, variant); empty while they are not finished."""
    if not path.is_file():
        return {}
    try:
        scores = [Score.model_validate(row) for row in json.loads(path.read_text())]
    except (TypeError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise StoreError(f"{path} does not hold scores ({why}): was it changed by hand?") from error
    return {(s.name, s.variant): s for s in scores}


def pair(before: Mapping[Key, Score], after: Mapping[Key, Score], seed: int) -> tuple[tuple[Measure, ...], list[str]]:
    """The measures in the order of the scores, and what kept some of them from being compared."""
    problems: list[str] = []
    found: dict[Key, Measure] = {}
    for key in dict.fromkeys([*before, *after]):
        measure = Measure(*key, before.get(key), after.get(key))
        try:
            found[key] = compared(measure, seed)
        except ValueError as error:
            problems.append(f"{key[0]} ({key[1]}) cannot be compared: {error}")
            found[key] = measure
    return tuple(adjusted(found).values()), problems


def compared(measure: Measure, seed: int) -> Measure:
    """With its change, where both sides are there. ValueError: the sides hold different items; they are named."""
    a, b = measure.before, measure.after
    if a is None or b is None:
        return measure
    return replace(measure, change=compare(a.items, b.items, seed, a.clusters, measure.higher_is_better))


def adjusted(found: Mapping[Key, Measure]) -> dict[Key, Measure]:
    """The family is every comparison with at least one item: nothing is picked after looking."""
    tests = {"\0".join(key): m.change.p for key, m in found.items() if m.change is not None and m.change.n}
    p = holm(tests)
    return {key: replace(m, p_holm=p.get("\0".join(key))) for key, m in found.items()}


def detectable(measure: Measure) -> float | None:
    """Minimum detectable effect: the smallest true difference (a fraction; 0.1 = 10 points) that this n finds at
    p < 0.05 with probability 0.8, if as large a share of the items changes as did. None where no item changed, or
    where not even all changes in one direction would be found. Unadjusted: a family needs more.

    0/1 values: exact power of McNemar's test, at the effective n of clustered items. Others: (1.96 + 0.84) · stderr."""
    change = measure.change
    if change is None or not change.n_changed or change.difference is None or measure.before is None:
        return None
    sides = [*measure.before.items.values(), *(measure.after.items.values() if measure.after else ())]
    if any(v not in (0, 1, None) for v in sides):
        return None if change.stderr is None else (Z + Z_POWER) * change.stderr
    share = change.n_changed / change.n
    n = effective_n(change.n, change.before.n_clusters, share - change.difference**2, change.stderr)
    return minimum_detectable_effect(max(1, round(n)), share, LEVEL, POWER)
