"""Alignment tax: what training cost on benchmarks, in percent of the base's own score; positive is a regression."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import hypot
from statistics import fmean
from typing import Literal

from iteralign.evals.paired import Key, Measure
from iteralign.records import Score
from iteralign.stats import Comparison, Z, compare, mean


@dataclass(frozen=True)
class Tax:
    """One benchmark, measured in one way. `percent` = 100 (base - aligned)/base with its standard error, in percent;
    None where `no_signal` says why. `change` is the paired difference, a fraction of 1. `gold` is the paired change
    of the gold answer's log-likelihood, natural log per token, where that is known: the finer measure."""

    name: str
    variant: str
    chance: float
    change: Comparison
    percent: float | None
    stderr: float | None
    no_signal: str | None
    gold: Comparison | None = None

    @property
    def direction(self) -> Literal["regression", "improvement", "none"] | None:
        return None if self.percent is None else direction(self.percent)


@dataclass(frozen=True)
class AlignmentTax:
    """`average`, `low`, `high`: percent, over the `n_benchmarks` that have a signal; None without any."""

    lines: tuple[Tax, ...]
    average: float | None
    low: float | None
    high: float | None
    n_benchmarks: int


def percent_lost(base: float, aligned: float) -> float:
    """100 (base - aligned)/base, on whatever scale both have. ValueError: base is not above 0."""
    if not base > 0:
        raise ValueError(f"a tax is in percent of the base's score, which must be above 0, got {base}")
    return 100 * (base - aligned) / base


def direction(percent: float) -> Literal["regression", "improvement", "none"]:
    return "regression" if percent > 0 else "improvement" if percent < 0 else "none"


def alignment_tax(measures: Sequence[Measure], gold: Mapping[Key, tuple[Score, Score]], seed: int) -> AlignmentTax:
    """The tax over every compared measure that has a chance level; `gold` is likelihoods by (name, variant), base and
    aligned. Where a benchmark has an overall line, its parts are left out: they are the same items.

    A benchmark is what stands before the slash. It counts once in the average, as the mean of its lines."""
    known = [m for m in measures if m.change is not None and m.change.n and m.before and m.before.chance is not None]
    whole = {benchmark(m.name) for m in known if m.name.endswith("/overall")}
    kept = [m for m in known if benchmark(m.name) not in whole or m.name.endswith("/overall")]
    lines = tuple(tax_of(m, gold.get((m.name, m.variant)), seed) for m in kept)
    return AlignmentTax(lines, *average(lines))


def tax_of(measure: Measure, gold: tuple[Score, Score] | None, seed: int) -> Tax:
    """One line. The standard error is the ratio estimator's (Cochran 1977, Sampling Techniques, §6.4), clustered as the
    items are: that of the mean of (aligned - ratio · base)/mean(base)."""
    base, after, change = measure.before, measure.after, measure.change
    assert base is not None and after is not None and change is not None and base.chance is not None
    percent = stderr = None
    why = no_signal(change, base.chance)
    if why is None and change.before.value and change.after.value is not None:
        ratio = change.after.value / change.before.value
        percent = percent_lost(change.before.value, change.after.value)
        pairs = [(x, after.items[i]) for i, x in base.items.items()]
        residuals = [None if x is None or y is None else (y - ratio * x) / change.before.value for x, y in pairs]
        spread = mean(residuals, [base.clusters[i] for i in base.items] if base.clusters else None).stderr
        stderr = None if spread is None else 100 * spread
    finer = compare(gold[0].items, gold[1].items, seed, gold[0].clusters) if gold else None
    return Tax(measure.name, measure.variant, base.chance, change, percent, stderr, why, finer)


def no_signal(change: Comparison, chance: float) -> str | None:
    """Why a benchmark cannot show a loss: a base that only guesses has nothing to lose."""
    low = change.before.low
    if low is not None and low > chance:
        return None
    ends = "has no interval" if low is None else f"is not above chance ({chance:.1%}): its interval begins at {low:.1%}"
    return f"no signal: the base {ends}"


def benchmark(name: str) -> str:
    return name.partition("/")[0]


def average(lines: Sequence[Tax]) -> tuple[float | None, float | None, float | None, int]:
    """Mean tax over the benchmarks with a signal, its 95 % interval, how many they are. Benchmarks are independent;
    lines of one share their items, and are taken to be wrong together."""
    by_name: dict[str, list[Tax]] = {}
    for line in lines:
        if line.percent is not None:
            by_name.setdefault(benchmark(line.name), []).append(line)
    if not by_name:
        return None, None, None, 0
    value = fmean(fmean(x.percent or 0.0 for x in group) for group in by_name.values())
    spreads = [[x.stderr for x in group] for group in by_name.values()]
    if any(s is None for group in spreads for s in group):
        return value, None, None, len(by_name)
    half = Z * hypot(*(fmean(s or 0.0 for s in group) for group in spreads)) / len(by_name)
    return value, value - half, value + half, len(by_name)
