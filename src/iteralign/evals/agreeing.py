"""How well scores agree with people's labels: kappa, calibration error and the rest, each with its interval."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from iteralign.agreement import cohen_kappa
from iteralign.judges.calibration import Figures
from iteralign.stats import Estimate, auc, mann_whitney, mean

BINS = 10
RESAMPLES = 2000


class Marked(NamedTuple):
    """A reply's score (None: unjudged) beside people's label; replies of one `group` are a cluster."""

    score: float | None
    label: bool
    group: str


def figures(marked: Sequence[Marked], threshold: float, seed: int = 0) -> Figures:
    """Kappa, the AUC and the calibration error are resampled by cluster."""
    said = [None if m.score is None else m.score >= threshold for m in marked]
    labels = [m.label for m in marked]

    def share(of: Callable[[bool], bool]) -> Estimate:
        kept = [(s, m) for s, m in zip(said, marked, strict=True) if of(m.label)]
        return mean([None if s is None else float(s == m.label) for s, m in kept], [m.group for _, m in kept])

    return Figures(
        accuracy=share(lambda label: True),
        kappa=resampled(marked, said, kappa_at, cohen_kappa(said, labels), seed),
        sensitivity=share(lambda label: label),
        specificity=share(lambda label: not label),
        auc=clustered_auc(marked, seed),
        ece=resampled(marked, [m.score for m in marked], calibration_error, None, seed),
    )


def resampled(
    marked: Sequence[Marked],
    values: Sequence[float | bool | None],
    statistic: Callable[[Any, Any], float],
    plain: Estimate | None,
    seed: int,
) -> Estimate:
    """A statistic of (values, labels) with a percentile interval over clusters drawn with replacement; `plain` where
    that has no value."""
    kept = [(m, value) for m, value in zip(marked, values, strict=True) if value is not None]
    left_out = len(values) - len(kept)
    if not kept or (plain is not None and plain.value is None):
        return plain or Estimate(None, None, None, None, 0, left_out, 0)
    v, y = np.array([value for _, value in kept]), np.array([m.label for m, _ in kept])
    names = np.unique([m.group for m, _ in kept], return_inverse=True)[1]
    places = [np.flatnonzero(names == k) for k in range(names.max() + 1)]
    value = statistic(v, y)
    if len(places) < 2:
        return Estimate(value, None, None, None, len(kept), left_out, len(places))
    rng = np.random.default_rng([seed, 7])
    drawn: list[float] = []
    for _ in range(RESAMPLES):
        at = np.concatenate([places[k] for k in rng.integers(0, len(places), len(places))])
        drawn.append(statistic(v[at], y[at]))
    low, high = (float(q) for q in np.nanquantile(drawn, [0.025, 0.975]))
    return Estimate(value, float(np.nanstd(drawn)), low, high, len(kept), left_out, len(places))


def clustered_auc(marked: Sequence[Marked], seed: int = 0) -> Estimate:
    """Its interval is never narrower than that of as many replies that have nothing in common: resampling alone would
    give an AUC of 0 or 1 none, however few they are."""
    plain = auc([m.score for m in marked], [m.label for m in marked])
    made = resampled(marked, [m.score for m in marked], mann_whitney, plain, seed)
    if made.low is None or made.high is None or plain.low is None or plain.high is None:
        return made
    return replace(made, low=min(made.low, plain.low), high=max(made.high, plain.high))


def bins(scores: Any) -> list[Any]:
    """The places of ten bins of equally many, by score."""
    return [p for p in np.array_split(np.argsort(scores, kind="stable"), BINS) if len(p)]


def calibration_error(scores: Any, labels: Any) -> float:
    """Expected calibration error: mean |share of the label - mean score| over the bins."""
    return float(sum(len(p) * abs(labels[p].mean() - scores[p].mean()) for p in bins(scores)) / len(scores))


def reliability(marked: Sequence[Marked]) -> list[tuple[float, float, int]]:
    """The bins of the calibration error: mean score, share of the label, replies."""
    known = [(m.score, m.label) for m in marked if m.score is not None]
    scores, labels = np.array([s for s, _ in known]), np.array([y for _, y in known])
    return [(float(scores[p].mean()), float(labels[p].mean()), len(p)) for p in bins(scores)]


def kappa_at(said: Any, labels: Any) -> float:
    """Of two arrays of truth values; 0 where chance alone agrees."""
    agree, a, b = float((said == labels).mean()), float(said.mean()), float(labels.mean())
    chance = a * b + (1 - a) * (1 - b)
    return 0.0 if chance >= 1 else (agree - chance) / (1 - chance)
