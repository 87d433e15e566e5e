"""Intervals, paired tests and agreement: how sure a number is, and whether two of them differ.

A value is one item's score and None is an *unscored* item: counted, and part of no number. Results
are in the values' own units (a rate is a fraction of 1). All intervals are two-sided, 95 %. A
cluster is a group of items that share an input.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats  # pyright: ignore[reportMissingTypeStubs]

Values = Sequence[float | None]
Items = Mapping[str, float | None]
Clusters = Sequence[Hashable] | None
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# scipy ships no types: what comes out of these two is made a float before it leaves a function.
_optimize: Any = optimize
_stats: Any = stats

Z = float(_stats.norm.ppf(0.975))
EXACT_UNITS = 12  # up to 2^12 sign patterns are enumerated
UNCHANGED = "Tango score interval of 0/1 values of which none changed"
CHUNK = 2_000_000  # resampled numbers held at a time: 16 MB


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and how sure it is. `value` is None when nothing was scored; `stderr` (and, but
    for 0/1 values, `low` and `high`) when a single item or cluster says nothing about the spread.
    `n` counts scored items; `n_clusters` equals `n` without clusters."""

    value: float | None
    stderr: float | None
    low: float | None
    high: float | None
    n: int
    n_unscored: int
    n_clusters: int


@dataclass(frozen=True, slots=True)
class McNemar:
    """`b` pairs went from 1 to 0, `c` from 0 to 1, of `n` scored on both sides."""

    b: int
    c: int
    p: float
    n: int
    n_unscored: int


@dataclass(frozen=True, slots=True)
class PairedBootstrap:
    """Mean of after - before. `degenerate`: it is the same in every unit, so low = high = value."""

    difference: Estimate
    p: float
    degenerate: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two results on the same items. Everything is over the `n` pairs scored on both sides, so
    difference = after.value - before.value; `n_changed` = 0 means that no item moved. `test`
    says in words where `p`, `low` and `high` come from; near 0.05 it is `p` that decides."""

    before: Estimate
    after: Estimate
    difference: float | None
    stderr: float | None
    low: float | None
    high: float | None
    p: float
    n: int
    n_changed: int
    n_improved: int
    n_worsened: int
    n_unscored: int
    test: str


def mean(values: Values, clusters: Clusters = None) -> Estimate:
    """Mean of item scores with a 95 % interval. `values` and `clusters`: one entry an item.

    Standard error: sample deviation / √n; with clusters the cluster-robust one, √(G/(G-1)
    Σ_g (Σ_i∈g residual)²)/n (Liang & Zeger 1986; Miller 2024, arXiv 2411.00640), which is the
    same number when every cluster has one item. Interval: Wilson's (1927) where all values are 0
    or 1, at the effective sample size n/design effect (Franco et al. 2019, JSSAM 7:334) when
    clustered; otherwise value ± t(G-1) · stderr. ValueError: a value is NaN or infinite."""
    (scored,), codes, n_unscored = _scored((values,), clusters)
    n, n_clusters = scored.size, np.unique(codes).size
    if n == 0:
        return Estimate(None, None, None, None, 0, n_unscored, 0)
    value, stderr = float(scored.mean()), _standard_error(scored, codes)
    low = high = None
    if _binary(scored):
        low, high = wilson(value, *_score_terms(scored, codes))
    elif stderr is not None:
        half = float(_stats.t.ppf(0.975, n_clusters - 1)) * stderr
        low, high = value - half, value + half
    return Estimate(value, stderr, low, high, n, n_unscored, n_clusters)


def mcnemar(before: Values, after: Values) -> McNemar:
    """Exact two-sided McNemar test of paired 0/1 values: min(b, c) of b + c changed pairs is
    Binomial(b + c, ½) under no difference (McNemar 1947). p = 1 when nothing changed."""
    (x, y), _, n_unscored = _scored((before, after), None)
    if not (_binary(x) and _binary(y)):
        raise ValueError("McNemar's test is for 0/1 values; use paired_bootstrap for other scores")
    b, c = int((x > y).sum()), int((x < y).sum())
    p = float(_stats.binomtest(b, b + c).pvalue) if b + c else 1.0
    return McNemar(b, c, min(p, 1.0), x.size, n_unscored)


def paired_bootstrap(
    before: Values,
    after: Values,
    seed: int,
    clusters: Clusters = None,
    n_resamples: int = 10_000,
) -> PairedBootstrap:
    """Mean of after - before: bootstrap interval and sign-flip p-value. One entry an item.

    Items, or whole clusters, are resampled `n_resamples` times; BCa after Efron (1987), its
    acceleration from the jackknife over the same units. p: under no difference the sign of each
    unit's summed difference is a coin toss; exact for at most 12 nonzero units, otherwise
    (1 + hits)/(1 + n_resamples) over random signs (Phipson & Smyth 2010). One unit gives no
    interval. Few units, or few nonzero ones, give too narrow an interval: `compare` does not
    use it for 0/1 values."""
    (x, y), codes, n_unscored = _scored((before, after), clusters)
    d, n_clusters = y - x, np.unique(codes).size
    sums, sizes = _sums(d, codes), _sums(np.ones_like(d), codes)
    plain, low, high = mean(d.tolist(), codes.tolist()), None, None
    degenerate = n_clusters > 1 and bool(np.ptp(sums / sizes) <= 1e-12 * np.abs(d).max())
    if degenerate:
        low = high = plain.value
    elif n_clusters > 1:
        low, high = _bootstrap(sums, sizes, seed, n_resamples)
    difference = replace(plain, low=low, high=high, n_unscored=n_unscored)
    return PairedBootstrap(difference, _sign_flip(sums, seed, n_resamples), degenerate)


def compare(
    before: Items,
    after: Items,
    seed: int,
    clusters: Mapping[str, Hashable] | None = None,
    higher_is_better: bool = True,
) -> Comparison:
    """Paired comparison of two results, item id → value; the order of the items plays no part.

    0/1 values: exact McNemar test (with clusters: sign flips of cluster sums) and Tango's (1998)
    score interval, at the effective sample size when clustered. In simulation its coverage is
    0.93 to 0.99 where few items change; the BCa bootstrap's falls to 0.6. Other values:
    `paired_bootstrap`; where nothing changed of scores in 0..1, the interval of 0/1 values of which none
    changed. `higher_is_better` only says which changes count as improved.
    ValueError: the sides hold different items, or an item has no cluster; the ids are named."""
    _same_items(before, after, clusters)
    ids = sorted(i for i in before if before[i] is not None and after[i] is not None)
    (x, y), codes, _ = _scored(
        ([before[i] for i in ids], [after[i] for i in ids]),
        None if clusters is None else [clusters[i] for i in ids],
    )
    d, n, n_clusters = y - x, len(ids), np.unique(codes).size
    over = "" if n == n_clusters else f" over {n_clusters} clusters"
    if n == 0:
        low, high, p, test = None, None, 1.0, "none: no item was scored on both sides"
    elif not (_binary(x) and _binary(y)):
        result = paired_bootstrap(x.tolist(), y.tolist(), seed, codes.tolist())
        low, high, p = result.difference.low, result.difference.high, result.p
        test = f"sign flips{over}; BCa bootstrap interval"
        test += " (all differences are equal: it has no width)" if result.degenerate else ""
        if not d.any() and bool(((x >= 0) & (x <= 1)).all()):  # how sure that is, resampling does not say
            low, high = _tango(d, *_score_terms(d, codes))
            test = f"sign flips{over}; {UNCHANGED}"
    else:
        low, high = _tango(d, *_score_terms(d, codes))
        if n == n_clusters:
            p, test = mcnemar(x.tolist(), y.tolist()).p, "exact McNemar; Tango score interval"
        else:
            p = _sign_flip(_sums(d, codes), seed)
            test = f"sign flips{over}; Tango score interval at effective n"
    missing, change = len(before) - n, mean(d.tolist(), codes.tolist())
    rows = [*codes.tolist(), *[None] * missing]
    left, right = (mean([*side.tolist(), *[None] * missing], rows) for side in (x, y))
    up, down = int((d > 0).sum()), int((d < 0).sum())
    better, worse = (up, down) if higher_is_better else (down, up)
    counts = (n, up + down, better, worse, missing)
    return Comparison(left, right, change.value, change.stderr, low, high, p, *counts, test)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's (1979) step-down adjusted p-values of a family of tests, in the order given."""
    if not all(0.0 <= p <= 1.0 for p in p_values.values()):
        raise ValueError(f"p-values must lie in 0..1, got {dict(p_values)}")
    names = sorted(p_values, key=lambda name: p_values[name])
    scaled = [(len(names) - rank) * p_values[name] for rank, name in enumerate(names)]
    adjusted = np.minimum(np.maximum.accumulate(scaled), 1.0).tolist()
    by_name = dict(zip(names, adjusted, strict=True))
    return {name: by_name[name] for name in p_values}


def minimum_detectable_effect(n: int, discordant_rate: float, alpha: float = 0.05, power: float = 0.8) -> float | None:
    """Smallest difference of two paired rates (a fraction; 0.1 = 10 points) that the exact
    McNemar test on `n` pairs finds with probability `power`, when a share `discordant_rate` of
    the pairs changes. None: not even if all changes go one way. Power is summed over the number
    of changed pairs, m ~ Binomial(n, rate), of which Binomial(m, (1 + effect/rate)/2) go up;
    Connor (1987) gives the large-sample form."""
    if n < 1 or not 0.0 < discordant_rate <= 1.0 or not 0.0 < alpha < power < 1.0:
        raise ValueError("expected n ≥ 1, 0 < discordant_rate ≤ 1 and 0 < alpha < power < 1")
    m = np.arange(n + 1)
    weights = _stats.binom.pmf(m, n, discordant_rate)
    fewest = _stats.binom.ppf(alpha / 2, m, 0.5)  # at most this many down for p ≤ alpha
    fewest = fewest - (_stats.binom.cdf(fewest, m, 0.5) > alpha / 2)

    def shortfall(effect: float) -> float:
        up = (1.0 + effect / discordant_rate) / 2.0
        return power - float((weights * _stats.binom.sf(m - fewest - 1, m, up)).sum())

    if shortfall(discordant_rate) > 0.0:
        return None
    return float(_optimize.brentq(shortfall, 0.0, discordant_rate))


def effective_n(n: int, n_clusters: int, variance: float, stderr: float | None) -> float:
    """As how many independent items clustered ones count: n over the design effect (Kish 1965), at most n. `variance`
    is the values' own (over n), `stderr` their mean's. Without spread each cluster counts as one item."""
    if n_clusters in (1, n) or not variance:
        return n_clusters
    return min(n, variance * n / (n - 1) / stderr**2) if stderr else n


def auc(scores: Values, labels: Sequence[bool | None]) -> Estimate:
    """Chance that a random positive scores above a random negative, ties one half (Mann-Whitney).

    Standard error: Hanley & McNeil (1982) with both group sizes replaced by their mean; interval
    by inverting it (Newcombe 2006, Stat Med 25:559, method 5), so it keeps a width at 0 and 1.
    An item without score or label is unscored; value is None when one class is absent. The items are taken to have
    nothing in common."""
    (s, y), _, n_unscored = _scored((scores, labels), None)
    if not _binary(y):
        raise ValueError("labels must be True, False or None")
    n, positives = s.size, int(y.sum())
    negatives = n - positives
    if not positives or not negatives:
        return Estimate(None, None, None, None, n, n_unscored, n)
    value = mann_whitney(s, y)

    def variance(t: float) -> float:
        spread = 1.0 + (n / 2 - 1) * ((1.0 - t) / (2.0 - t) + t / (1.0 + t))
        return t * (1.0 - t) * spread / (positives * negatives)

    low, high = _invert(lambda t: (t - value) ** 2 - Z**2 * variance(t), value, 0.0)
    return Estimate(value, float(np.sqrt(variance(value))), low, high, n, n_unscored, n)


def mann_whitney(scores: Any, labels: Any) -> float:
    """The AUC of two arrays; not a number where one class is absent."""
    positive = labels == 1
    count = int(positive.sum())
    pairs = count * (len(labels) - count)
    return float((_stats.rankdata(scores)[positive].sum() - count * (count + 1) / 2) / pairs) if pairs else float("nan")


def _scored(columns: tuple[Values, ...], clusters: Clusters) -> tuple[list[Floats], Ints, int]:
    """Rows with a value in every column: the columns, each row's cluster 0..G-1, rows dropped."""
    total = len(columns[0])
    lengths = [len(c) for c in columns] + ([] if clusters is None else [len(clusters)])
    if any(length != total for length in lengths):
        raise ValueError(f"values and clusters must have one entry an item, got lengths {lengths}")
    keep = [i for i in range(total) if all(c[i] is not None for c in columns)]
    kept = [np.array([c[i] for i in keep], dtype=np.float64) for c in columns]
    if not all(np.isfinite(c).all() for c in kept):
        raise ValueError("a value is NaN or infinite; an item without a score must be None")
    index: dict[Hashable, int] = {}
    names = range(total) if clusters is None else clusters
    codes = np.array([index.setdefault(names[i], len(index)) for i in keep], dtype=np.int64)
    return kept, codes, total - len(keep)


def _same_items(before: Items, after: Items, clusters: Mapping[str, Hashable] | None) -> None:
    wrong = {"only before": before.keys() - after, "only after": after.keys() - before}
    if clusters is not None:
        wrong["without a cluster"] = before.keys() - clusters
    found = [f"{k} ({len(v)}): {', '.join(sorted(v)[:10])}" for k, v in wrong.items() if v]
    if found:
        raise ValueError("a comparison needs the same items on both sides; " + "; ".join(found))


def _binary(values: Floats) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def _sums(values: Floats, codes: Ints) -> Floats:
    return np.bincount(codes, weights=values).astype(np.float64)


def _standard_error(values: Floats, codes: Ints) -> float | None:
    groups = np.unique(codes).size
    if groups < 2:
        return None
    residuals = _sums(values - values.mean(), codes)
    return float(np.sqrt(groups / (groups - 1) * (residuals**2).sum())) / values.size


def _score_terms(values: Floats, codes: Ints) -> tuple[float, float]:
    """Effective sample size and quantile of a score interval."""
    n, groups = values.size, np.unique(codes).size
    quantile = Z if groups in (1, n) else float(_stats.t.ppf(0.975, groups - 1))
    return effective_n(n, groups, float(values.var()), _standard_error(values, codes)), quantile


def wilson(p: float, n: float, z: float) -> tuple[float, float]:
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * float(np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))) / (1 + z * z / n)
    return (0.0 if p == 0 else centre - half), (1.0 if p == 1 else centre + half)


def _tango(d: Floats, n: float, z: float) -> tuple[float, float]:
    """Score interval for the mean of differences in {-1, 0, 1}, as if there were `n` of them."""
    up, down = float((d > 0).mean()), float((d < 0).mean())

    def excess(t: float) -> float:
        linear = (2.0 - up + down) * t - up - down  # the restricted estimate of P(down)
        p_down = (np.sqrt(max(linear**2 + 8 * down * t * (1 - t), 0.0)) - linear) / 4
        return float((up - down - t) ** 2 - z * z * (2 * p_down + t * (1 - t)) / n)

    return _invert(excess, up - down, -1.0)


def _invert(excess: Callable[[float], float], value: float, least: float) -> tuple[float, float]:
    """Where (t - value)² - z² variance(t) crosses zero on either side of `value`, in least..1."""
    step = 1e-9  # excess can be 0 at the value itself; just beside it, it is negative
    low = least if value - step <= least else float(_optimize.brentq(excess, least, value - step))
    return low, 1.0 if value + step >= 1 else float(_optimize.brentq(excess, value + step, 1.0))


def _sign_flip(sums: Floats, seed: int, n_flips: int = 10_000) -> float:
    units = sums[sums != 0.0]
    observed = abs(units.sum()) - 1e-9 * np.abs(units).sum()  # so that ties count, rounded or not
    if units.size <= EXACT_UNITS:
        totals = np.array(list(product((1.0, -1.0), repeat=units.size))) @ units
        return float((np.abs(totals) >= observed).mean())
    parts = [(1 - 2 * bits) @ units for bits in _draws([1, seed], 2, n_flips, units.size)]
    return (1 + int((np.abs(np.concatenate(parts)) >= observed).sum())) / (1 + n_flips)


def _bootstrap(sums: Floats, sizes: Floats, seed: int, n: int) -> tuple[float, float]:
    """BCa."""
    draws = _draws([0, seed], sums.size, n, sums.size)
    parts = [sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1) for drawn in draws]
    means, value = np.concatenate(parts), sums.sum() / sizes.sum()
    below = float((np.sign(value - means) / 2 + 0.5).mean())  # a tie counts one half
    below = min(max(below, 0.5 / n), 1 - 0.5 / n)
    bias = float(_stats.norm.ppf(below))
    left_out = (sums.sum() - sums) / (sizes.sum() - sizes)
    pull = left_out.mean() - left_out
    skew = float((pull**3).sum() / (6.0 * (pull**2).sum() ** 1.5))
    z = bias + np.array([-Z, Z])
    z = bias + z / (1 - skew * z)
    low, high = np.quantile(means, np.asarray(_stats.norm.cdf(z), dtype=np.float64))
    return float(low), float(high)


def _draws(seed: list[int], below: int, rows: int, width: int) -> Iterator[Ints]:
    """`rows` rows of `width` random integers under `below`, a part at a time to bound memory."""
    rng, step = np.random.default_rng(seed), max(1, CHUNK // width)
    for start in range(0, rows, step):
        yield rng.integers(0, below, (min(step, rows - start), width))
