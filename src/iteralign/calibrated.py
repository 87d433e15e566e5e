"""Rates that a fallible judge measured, corrected for how often it is wrong; the raw rate always stands beside.

The judge's sensitivity and specificity come from human labels, and their own uncertainty enters. Fractions of 1, 95 %.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats as _scipy_stats  # pyright: ignore[reportMissingTypeStubs]

from iteralign.stats import Clusters, Comparison, Estimate, Items, Values, Z, compare, effective_n, mean

LEAST = 1.2  # sensitivity + specificity below which a correction is refused; 1 is a coin toss
Floats = NDArray[np.float64]
_stats: Any = _scipy_stats


@dataclass(frozen=True, slots=True)
class JudgeAccuracy:
    """Against human labels: the judge found `sensitivity` of the `n_positive` items that have what is asked for, and
    cleared `specificity` of the `n_negative` that do not. ValueError: not a fraction, or no item."""

    sensitivity: float
    n_positive: int
    specificity: float
    n_negative: int

    def __post_init__(self) -> None:
        if not (0.0 <= self.sensitivity <= 1.0 and 0.0 <= self.specificity <= 1.0):
            raise ValueError(
                f"sensitivity and specificity must lie in 0..1, got {self.sensitivity} and {self.specificity}"
            )
        if self.n_positive < 1 or self.n_negative < 1:
            raise ValueError(
                "sensitivity and specificity need at least one labelled item each, "
                f"got {self.n_positive} and {self.n_negative}"
            )

    @property
    def youden(self) -> float:
        """Sensitivity + specificity - 1: how much of a difference the judge passes on."""
        return self.sensitivity + self.specificity - 1.0

    @property
    def refusal(self) -> str | None:
        """Why rates by this judge cannot be corrected; None where they can."""
        total = self.sensitivity + self.specificity
        if total >= LEAST - 1e-12:
            return None
        return (
            f"not corrected: the judge's sensitivity {self.sensitivity:.2f} and specificity {self.specificity:.2f} add "
            f"up to {total:.2f}, and a correction needs at least {LEAST} (1.0 is a coin toss). Use a better judge"
        )


@dataclass(frozen=True, slots=True)
class Corrected:
    """A corrected rate, or difference of rates, beside the `raw` one. `value`, `stderr` and the interval are None
    where `refused` says why there is no correction."""

    raw: Estimate | Comparison
    accuracy: JudgeAccuracy
    value: float | None
    stderr: float | None
    low: float | None
    high: float | None
    refused: str | None = None


def corrected_rate(
    values: Values, accuracy: JudgeAccuracy, seed: int, clusters: Clusters = None, n_draws: int = 20_000
) -> Corrected:
    """The true rate behind a judge's 0/1 `values` (one an item, None = unjudged): (raw + Sp - 1)/(Se + Sp - 1), cut to
    0..1 (Rogan & Gladen 1978, Am J Epidemiol 107:71).

    Standard error: the delta method's. Interval: quantiles of a parametric bootstrap that corrects every one of
    `n_draws` draws of (raw, Se, Sp), each from its Beta(k + ½, n - k + ½); clustered items count at their effective
    n (Korn & Graubard 1998). Resampling items would have no width at rates of 0 and 1. ValueError: not 0/1."""
    _check_binary(values)
    raw = mean(values, clusters)
    if raw.value is None or accuracy.refusal:
        return _refused(raw, accuracy)
    n = _size(raw.n, raw.n_clusters, raw.value * (1 - raw.value), raw.stderr)
    rng = np.random.default_rng([2, seed])
    draws, se, sp = _beta(rng, raw.value, n, n_draws), *_accuracies(rng, accuracy, n_draws)
    low, high = _ends(draws + sp - 1.0, se + sp - 1.0, 0.0)
    value = (raw.value + accuracy.specificity - 1.0) / accuracy.youden
    stderr = None
    if raw.stderr is not None:
        se_variance, sp_variance = _variances(accuracy)
        variance = raw.stderr**2 + value**2 * se_variance + (1 - value) ** 2 * sp_variance
        stderr = float(np.sqrt(variance)) / accuracy.youden
    return Corrected(raw, accuracy, min(max(value, 0.0), 1.0), stderr, low, high)


def corrected_difference(
    before: Items,
    after: Items,
    accuracy: JudgeAccuracy,
    seed: int,
    clusters: Mapping[str, Hashable] | None = None,
    n_draws: int = 20_000,
) -> Corrected:
    """The true change behind two paired sets of a judge's 0/1 values: (after - before)/(Se + Sp - 1), for a judge that
    is wrong equally often on both sides.

    Interval as in `corrected_rate`, the shares of items that rose, fell and stayed drawn from their
    Dirichlet(k + ½). "No change" is the same hypothesis raw and corrected, so p is `raw.p`. ValueError: not 0/1, or
    the sides hold different items."""
    _check_binary([*before.values(), *after.values()])
    raw = compare(before, after, seed, clusters)
    if raw.difference is None or accuracy.refusal:
        return _refused(raw, accuracy)
    up, down = (raw.n_changed / raw.n + sign * raw.difference for sign in (1, -1))
    up, down = up / 2, down / 2
    n = _size(raw.n, raw.before.n_clusters, up + down - raw.difference**2, raw.stderr)
    rng = np.random.default_rng([3, seed])
    shares = rng.dirichlet([n * up + 0.5, n * down + 0.5, max(n * (1 - up - down), 0.0) + 0.5], n_draws)
    se, sp = _accuracies(rng, accuracy, n_draws)
    low, high = _ends(shares[:, 0] - shares[:, 1], se + sp - 1.0, -1.0)
    value, stderr = raw.difference / accuracy.youden, None
    if raw.stderr is not None:
        stderr = float(np.sqrt(raw.stderr**2 + value**2 * sum(_variances(accuracy)))) / accuracy.youden
    return Corrected(raw, accuracy, min(max(value, -1.0), 1.0), stderr, low, high)


def _check_binary(values: Values) -> None:
    if odd := [v for v in values if v is not None and v not in (0, 1)]:
        raise ValueError(f"only rates of 0/1 verdicts can be corrected, got the value {odd[0]}")


def _refused(raw: Estimate | Comparison, accuracy: JudgeAccuracy) -> Corrected:
    why = accuracy.refusal or "not corrected: no item was scored"
    return Corrected(raw, accuracy, None, None, None, None, why)


def _size(n: int, n_clusters: int, variance: float, stderr: float | None) -> float:
    """Effective n, less where the spread itself is known from few clusters only."""
    size = effective_n(n, n_clusters, variance, stderr)
    few = 1.0 if n_clusters in (1, n) else Z / float(_stats.t.ppf(0.975, n_clusters - 1))
    return size * few**2


def _beta(rng: np.random.Generator, rate: float, n: float, n_draws: int) -> Floats:
    return rng.beta(n * rate + 0.5, n * (1 - rate) + 0.5, n_draws)


def _accuracies(rng: np.random.Generator, accuracy: JudgeAccuracy, n_draws: int) -> tuple[Floats, Floats]:
    sensitivity = _beta(rng, accuracy.sensitivity, accuracy.n_positive, n_draws)
    return sensitivity, _beta(rng, accuracy.specificity, accuracy.n_negative, n_draws)


def _variances(accuracy: JudgeAccuracy) -> tuple[float, float]:
    pairs = ((accuracy.sensitivity, accuracy.n_positive), (accuracy.specificity, accuracy.n_negative))
    first, second = (rate * (1 - rate) / n for rate, n in pairs)
    return first, second


def _ends(above: Floats, below: Floats, least: float) -> tuple[float, float]:
    """95 % quantiles of above/below inside least..1. A draw in which the judge is no better than a coin says nothing:
    it counts at the far end of either side."""
    tells = below > 0.0
    ratio = np.divide(above, below, out=np.zeros_like(above), where=tells).clip(least, 1.0)
    low, high = np.quantile(np.where(tells, ratio, least), 0.025), np.quantile(np.where(tells, ratio, 1.0), 0.975)
    return float(low), float(high)
