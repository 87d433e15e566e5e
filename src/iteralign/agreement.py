"""How far raters agree beyond chance: two of them, or any number with gaps."""

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from iteralign.stats import Estimate, Z, wilson

RESAMPLES = 2000


def cohen_kappa(a: Sequence[Hashable | None], b: Sequence[Hashable | None]) -> Estimate:
    """Cohen's (1960) kappa of two raters' labels, one entry an item, None = not rated.

    Standard error: Fleiss, Cohen & Everitt (1969), eq. 13; interval kappa ± 1.96 stderr inside
    -1..1. Perfect agreement has stderr 0: there the lower end is Wilson's for the agreement, at
    the observed chance agreement. Of a rater who uses one label the kappa is 0 whatever the other says, and has no
    interval. value is None when both raters use one and the same label."""
    if len(a) != len(b):
        raise ValueError(f"the raters must label the same items, got {len(a)} and {len(b)} labels")
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    n, n_unscored = len(pairs), len(a) - len(pairs)
    labels = list(dict.fromkeys(label for pair in pairs for label in pair))
    if len(labels) < 2:
        return Estimate(None, None, None, None, n, n_unscored, n)
    table = np.array([[pairs.count((x, y)) / n for y in labels] for x in labels])
    rows, columns, diagonal = table.sum(axis=1), table.sum(axis=0), np.diag(table)
    agree, chance = float(diagonal.sum()), float(rows @ columns)
    value = (agree - chance) / (1.0 - chance)
    on = float((diagonal * ((1.0 - chance) - (rows + columns) * (1.0 - agree)) ** 2).sum())
    off = (table - np.diag(diagonal)) * (columns[:, None] + rows[None, :]) ** 2
    variance = on + (1.0 - agree) ** 2 * float(off.sum())
    variance -= (agree * chance - 2.0 * chance + agree) ** 2
    stderr = float(np.sqrt(max(variance, 0.0) / n)) / (1.0 - chance) ** 2
    low, high = max(-1.0, value - Z * stderr), min(1.0, value + Z * stderr)
    if min(np.count_nonzero(rows), np.count_nonzero(columns)) == 1:
        return Estimate(value, None, None, None, n, n_unscored, n)
    if all(x == y for x, y in pairs):
        value, stderr, high = 1.0, 0.0, 1.0
        low = (wilson(1.0, n, Z)[0] - chance) / (1.0 - chance)
    return Estimate(value, stderr, low, high, n, n_unscored, n)


def krippendorff_alpha(ratings: Sequence[Sequence[Hashable | None]], seed: int = 0) -> Estimate:
    """Krippendorff's (2011) alpha of nominal labels: 1 - observed over expected disagreement. One entry an item, its
    raters' labels in any order; None = not rated. Items with fewer than two labels say nothing: unscored.

    Interval: items drawn with replacement, percentiles. value is None where all labels are one and the same."""
    items = [Counter(label for label in own if label is not None) for own in ratings]
    paired = [own for own in items if own.total() > 1]
    labels = list(dict.fromkeys(label for own in paired for label in own))
    n, left_out = len(paired), len(ratings) - len(paired)
    if len(labels) < 2:
        return Estimate(None, None, None, None, n, left_out, n)
    counts = np.array([[own[label] for label in labels] for own in paired], dtype=float)
    sizes = counts.sum(axis=1)
    # pairs of unlike labels inside an item, each item weighed so that a label counts once
    unlike = (sizes**2 - (counts**2).sum(axis=1)) / (sizes - 1)

    def statistic(at: np.ndarray) -> float:
        of, total = counts[at].sum(axis=0), sizes[at].sum()
        expected = (total**2 - (of**2).sum()) / (total - 1)
        return 1.0 - float(unlike[at].sum() / expected) if expected else float("nan")

    value = statistic(np.arange(n))
    rng = np.random.default_rng([seed, 11])
    drawn = np.array([statistic(rng.integers(0, n, n)) for _ in range(RESAMPLES)])
    drawn = drawn[np.isfinite(drawn)]  # a draw of one label only says nothing
    low, high = (float(q) for q in np.quantile(drawn, [0.025, 0.975]))
    return Estimate(value, float(np.std(drawn)), low, high, n, left_out, n)
