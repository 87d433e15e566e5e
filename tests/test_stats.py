"""Intervals cover, tests keep their level, and textbook numbers come out."""

from collections.abc import Sequence
from dataclasses import astuple
from itertools import product

import numpy as np
import pytest
import scipy.stats

from iteralign import agreement, stats

Z = 1.959964


def ids(values: Sequence[float | None]) -> dict[str, float | None]:
    return {f"item{i:04d}": v for i, v in enumerate(values)}


def paired(both: int, down: int, up: int, neither: int) -> tuple[list[float | None], ...]:
    """0/1 values of `both` right twice, `down` only before, `up` only after, `neither`."""
    before = [1] * (both + down) + [0] * (up + neither)
    after = [1] * both + [0] * down + [1] * up + [0] * neither
    return list(before), list(after)


def ends(found: stats.Estimate | stats.Comparison) -> tuple[float, float]:
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


def covers(found: stats.Estimate | stats.Comparison, truth: float) -> bool:
    low, high = ends(found)
    return low <= truth <= high


# --- one number ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),  # Newcombe 1998, Stat Med 17:857, table I, method 3
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_rate_has_the_published_wilson_interval(right: int, n: int, low: float, high: float):
    rate = stats.mean([True] * right + [False] * (n - right))
    assert (rate.value, rate.n) == (pytest.approx(right / n), n)
    assert (rate.low, rate.high) == pytest.approx((low, high), abs=5e-5)
    mirrored = stats.mean([False] * right + [True] * (n - right))
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_wilson_covers_at_every_rate():
    n, rates = 60, np.linspace(0.02, 0.98, 97)
    found = [stats.mean([1] * k + [0] * (n - k)) for k in range(n + 1)]
    low, high = np.array([e.low for e in found]), np.array([e.high for e in found])
    coverage = [scipy.stats.binom.pmf(np.arange(n + 1), n, p)[(low <= p) & (p <= high)].sum() for p in rates]
    assert np.mean(coverage) == pytest.approx(0.95, abs=0.01)
    assert min(coverage) > 0.90


def test_unscored_items_are_counted_and_enter_no_rate():
    with_gaps = stats.mean([1, None, 0, 1, None, 1], ["a", "z", "b", "c", "z", "d"])
    without = stats.mean([1, 0, 1, 1])
    assert (with_gaps.n, with_gaps.n_unscored, with_gaps.n_clusters) == (4, 2, 4)
    assert astuple(with_gaps)[:4] == astuple(without)[:4]


@pytest.mark.parametrize("values", [[], [None, None]])
def test_nothing_scored_has_no_value(values: list[float | None]):
    assert stats.mean(values) == stats.Estimate(None, None, None, None, 0, len(values), 0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_value_that_is_no_number_is_refused(bad: float):
    with pytest.raises(ValueError, match="NaN or infinite"):
        stats.mean([0.5, bad])


def test_clusters_must_fit_the_values():
    with pytest.raises(ValueError, match=r"one entry an item, got lengths \[3, 2\]"):
        stats.mean([1, 0, 1], ["a", "b"])


def test_cluster_standard_error_by_hand():
    # mean 4; cluster sums of residuals -2 and 2; √(2/1 · (4 + 4)) / 3 = 4/3; t(1) = 12.7062
    found = stats.mean([2, 4, 6], ["a", "a", "b"])
    assert (found.value, found.stderr) == (4.0, pytest.approx(4 / 3))
    assert (found.low, found.high) == pytest.approx((4 - 16.94161, 4 + 16.94161), abs=1e-4)
    assert (found.n, found.n_clusters) == (3, 2)


def test_plain_standard_error_is_scipys():
    values = np.random.default_rng(1).gamma(2.0, size=50)
    found = stats.mean(values.tolist())
    stderr = scipy.stats.sem(values)
    low, high = scipy.stats.t.interval(0.95, 49, values.mean(), stderr)
    assert (found.stderr, found.low, found.high) == pytest.approx((stderr, low, high))


@pytest.mark.parametrize("values", [[0, 1, 1, 0, 1, 1, 1], [0.1, 0.7, 0.3, 0.9, 0.2]])
def test_clusters_of_one_item_change_nothing(values: list[float]):
    assert stats.mean(values, list("abcdefg")[: len(values)]) == stats.mean(values)


@pytest.mark.parametrize("kind", ["rate", "score"])
def test_copies_of_an_item_add_no_certainty(kind: str):
    rng = np.random.default_rng(2)
    values = (rng.integers(0, 2, 40) if kind == "rate" else rng.random(40)).tolist()
    once, copied = stats.mean(values), stats.mean(values * 3, list(range(40)) * 3)
    assert copied.stderr == pytest.approx(once.stderr)
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high), abs=0.01)


@pytest.mark.parametrize("right", [0, 1])
def test_clusters_that_all_agree_count_as_one_item_each(right: int):
    found = stats.mean([right] * 12, [i // 3 for i in range(12)])
    wide = 3.182446**2 / (4 + 3.182446**2)  # Wilson at 0 of 4, with t(3)
    assert (found.low, found.high) == pytest.approx((1 - wide, 1.0) if right else (0.0, wide))


@pytest.mark.parametrize("last", [[0, 1], [1, 1]])
def test_opposite_items_in_a_cluster_add_no_certainty(last: list[int]):
    values = [0, 1] * 9 + last  # the cluster sums are more alike than chance would make them
    found, single = stats.mean(values, [i // 2 for i in range(20)]), stats.mean(values)
    assert found.stderr is not None
    assert single.stderr is not None
    assert found.stderr < single.stderr
    assert ends(single)[0] - 0.05 < ends(found)[0] < ends(single)[0]


def test_one_cluster_says_nothing_about_the_spread():
    found = stats.mean([0.2, 0.4, 0.9], ["a", "a", "a"])
    assert (found.value, found.n_clusters) == (pytest.approx(0.5), 1)
    assert (found.stderr, found.low, found.high) == (None, None, None)
    rate, item = stats.mean([1, 1, 1], ["a", "a", "a"]), stats.mean([1])
    assert (rate.stderr, rate.low, rate.high) == (None, item.low, item.high)


@pytest.mark.parametrize("kind", ["rate", "score"])
def test_cluster_interval_covers_where_the_plain_one_does_not(kind: str):
    rng, hits, trials = np.random.default_rng(3), np.zeros(2), 500
    clusters = [i // 5 for i in range(150)]
    for _ in range(trials):
        level = np.repeat(rng.beta(1.6, 0.4, 30), 5)  # correlation in a cluster: 1/3
        values = (rng.random(150) < level) if kind == "rate" else level + rng.normal(0, 0.1, 150)
        for i, c in enumerate((clusters, None)):
            found = stats.mean(values.astype(float).tolist(), c)
            hits[i] += covers(found, 0.8)
    assert 0.92 <= hits[0] / trials <= 0.98
    assert hits[1] / trials < 0.85


def test_papers_overall_follows_from_its_categories():
    # Table 2, Llama-2-7b + HarmfulQA prints 0.8140 overall (FIELD.md 1)
    items: list[float] = []
    for rate, n in [(0.6552, 58), (0.6949, 59), (0.6393, 61), (0.8140, 43)]:
        right = round(rate * n)
        assert round(right / n, 4) == rate
        items += [1] * right + [0] * (n - right)
    overall = stats.mean(items)
    assert overall.n == 221
    assert overall.value == pytest.approx(0.6923, abs=5e-5)
    assert ends(overall)[1] < 0.8140


# --- two results --------------------------------------------------------------------------------


def test_mcnemar_textbook_value():
    # Armitage & Berry 1994, p. 127: two media, 20/12/2/16; exact two-sided P = 0.0129
    found = stats.mcnemar(*paired(20, 12, 2, 16))
    assert (found.b, found.c, found.n) == (12, 2, 50)
    assert found.p == pytest.approx(0.0129, abs=5e-5)


def test_mcnemar_without_a_change_is_one():
    assert stats.mcnemar([1, 0, 1], [1, 0, 1]) == stats.McNemar(0, 0, 1.0, 3, 0)
    assert stats.mcnemar([], []) == stats.McNemar(0, 0, 1.0, 0, 0)


def test_mcnemar_drops_and_counts_pairs_with_an_unscored_side():
    found = stats.mcnemar([1, None, 0, 0, None], [0, 1, None, 1, None])
    assert (found.b, found.c, found.n, found.n_unscored) == (1, 1, 2, 3)


def test_mcnemar_refuses_scores():
    with pytest.raises(ValueError, match="0/1 values"):
        stats.mcnemar([0.5, 1], [1, 1])


def test_sign_flips_of_single_items_are_mcnemars_test():
    for down, up in product(range(5), range(7)):
        before, after = paired(3, down, up, 2)
        found = stats.paired_bootstrap(before, after, seed=0, n_resamples=10)
        assert found.p == pytest.approx(stats.mcnemar(before, after).p)


def test_sign_flip_p_by_hand():
    # Sums 1, 2, 3, all up: only +++ and --- are as far out, 2 of 8.
    assert stats.paired_bootstrap([0, 0, 0], [1, 2, 3], seed=0).p == 0.25
    # Sums per cluster 3, 3: 2 of 4. Items that did not change play no part.
    clusters = ["a", "a", "b", "c"]
    assert stats.paired_bootstrap([0, 0, 0, 5], [1, 2, 3, 5], seed=0, clusters=clusters).p == 0.5


def test_random_sign_flips_come_close_to_all_of_them():
    d = np.random.default_rng(4).normal(0.3, 1.0, 15)
    totals = np.abs(np.array(list(product((1, -1), repeat=15))) @ d)
    exact = float((totals >= abs(d.sum()) - 1e-9).mean())
    found = stats.paired_bootstrap([0.0] * 15, d.tolist(), seed=5).p
    assert found == pytest.approx(exact, abs=0.02)
    assert 0.05 < exact < 0.95


def test_random_sign_flips_never_give_zero():
    after = np.linspace(1.0, 2.0, 30).tolist()
    assert stats.paired_bootstrap([0.0] * 30, after, seed=0, n_resamples=199).p == 1 / 200


@pytest.mark.parametrize("units", [11, 25])
def test_sign_flip_p_is_uniform_without_a_difference(units: int):
    rng = np.random.default_rng(units)
    clusters = np.repeat(np.arange(units), rng.integers(1, 4, units))
    shape = clusters.size
    found: list[float] = []
    for seed in range(300):
        d = rng.normal(size=units)[clusters] + rng.normal(size=shape)
        result = stats.paired_bootstrap([0.0] * shape, d.tolist(), seed, clusters.tolist(), 399)
        found.append(result.p)
    assert scipy.stats.kstest(found, "uniform").pvalue > 0.01


def test_clusters_keep_the_level_where_single_items_do_not():
    rng, rejected = np.random.default_rng(6), np.zeros(2)
    cluster_of = ids([i // 6 for i in range(60)])
    for _ in range(150):
        change = np.repeat(rng.choice([-1, 0, 1], 10), 6)
        before = np.where(change == 0, 1, change < 0)
        after = np.where(change == 0, 1, change > 0)
        sides = ids(before.tolist()), ids(after.tolist())
        rejected[0] += stats.compare(*sides, 0, cluster_of).p <= 0.05
        rejected[1] += stats.compare(*sides, 0).p <= 0.05
    assert rejected[0] / 150 <= 0.08
    assert rejected[1] / 150 > 0.25


def test_bca_interval_is_scipys():
    rng = np.random.default_rng(7)
    before, after = rng.random(15), rng.gamma(0.4, 2.0, size=15)  # a long right tail
    known = scipy.stats.bootstrap(
        (before, after),
        lambda x, y, axis: (y - x).mean(axis=axis),
        paired=True,
        n_resamples=40_000,
        rng=np.random.default_rng(8),
    ).confidence_interval
    sides = before.tolist(), after.tolist()
    found = stats.paired_bootstrap(*sides, 9, None, 40_000).difference
    assert (found.low, found.high) == pytest.approx((known.low, known.high), abs=0.02)


def test_bootstrap_of_clusters_agrees_with_the_cluster_standard_error():
    rng = np.random.default_rng(10)
    clusters = np.repeat(np.arange(80), rng.integers(1, 5, 80))
    d = 3.0 + rng.normal(size=80)[clusters] + rng.normal(size=clusters.size)
    found = stats.paired_bootstrap([0.0] * d.size, d.tolist(), 11, clusters.tolist()).difference
    assert found.stderr is not None
    assert ends(found)[1] - ends(found)[0] == pytest.approx(2 * Z * found.stderr, rel=0.06)
    assert found.n_clusters == 80


def test_seed_decides_the_resamples():
    rng = np.random.default_rng(12)
    before, after = rng.random(30).tolist(), rng.random(30).tolist()
    first = stats.paired_bootstrap(before, after, seed=1)
    assert first == stats.paired_bootstrap(before, after, seed=1)
    other = stats.paired_bootstrap(before, after, seed=2)
    assert first.p != other.p
    assert first.difference.low != other.difference.low
    assert first.difference.value == other.difference.value


def test_resampling_in_parts_stays_in_its_bounds(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(13)
    before, after = rng.random(30).tolist(), rng.random(30).tolist()
    whole = stats.paired_bootstrap(before, after, seed=1, n_resamples=4000)
    monkeypatch.setattr(stats, "CHUNK", 7 * 30 + 1)
    parts = stats.paired_bootstrap(before, after, seed=1, n_resamples=4000)
    assert parts.p == pytest.approx(whole.p, abs=0.03)
    assert parts.difference.low == pytest.approx(whole.difference.low, abs=0.02)


def test_equal_differences_collapse_and_say_so():
    found = stats.paired_bootstrap([0.1, 0.4, 0.6], [0.3, 0.6, 0.8], seed=0)
    assert found.degenerate
    assert found.difference.low == found.difference.high == found.difference.value
    assert found.difference.value == pytest.approx(0.2)
    compared = stats.compare(ids([0.1, 0.4, 0.6]), ids([0.3, 0.6, 0.8]), seed=0)
    assert "it has no width" in compared.test
    assert compared.p == 0.25


def test_shares_that_did_not_change_are_no_surer_than_rates_that_did_not():
    shares, rates = ids([0.5, 0.0, 1.0, 0.5, 0.5]), ids([1.0, 0.0, 1.0, 0.0, 0.0])
    same, plain = stats.compare(shares, shares, seed=0), stats.compare(rates, rates, seed=0)
    assert (same.difference, same.low, same.high) == (0.0, plain.low, plain.high)
    assert same.low is not None and same.low < -0.4 and "none changed" in same.test
    grades = ids([3.0, 5.0, 4.0])  # of no known range
    assert "it has no width" in stats.compare(grades, grades, seed=0).test


def test_one_unit_gives_no_bootstrap_interval():
    found = stats.paired_bootstrap([0.1, 0.2], [0.5, 0.9], seed=0, clusters=["a", "a"])
    assert (found.difference.low, found.difference.high, found.degenerate) == (None, None, False)
    assert found.p == 1.0
    nothing = stats.paired_bootstrap([None], [0.5], seed=0)
    assert (nothing.difference.value, nothing.difference.n_unscored, nothing.p) == (None, 1, 1.0)


def test_comparison_of_rates_counts_every_item():
    # Bentur 2009 in Fagerland, Lydersen & Laake 2014, Stat Med 33:2850: 1/1/7/12,
    # Tango's interval 0.026 to 0.517
    before, after = (ids(side) for side in paired(1, 1, 7, 12))
    found = stats.compare({**before, "x": None, "y": 1}, {**after, "x": 1, "y": None}, seed=0)
    assert (found.n, found.n_unscored) == (21, 2)
    assert (found.n_changed, found.n_improved, found.n_worsened) == (8, 7, 1)
    assert found.difference == pytest.approx(6 / 21)
    assert (found.low, found.high) == pytest.approx((0.026, 0.517), abs=5e-4)
    assert found.p == pytest.approx(18 / 256)
    assert found.stderr == pytest.approx(scipy.stats.sem([-1] + [1] * 7 + [0] * 13))
    assert (found.before.value, found.before.n, found.before.n_unscored) == (2 / 21, 21, 2)
    assert (found.after.value, found.after.n, found.after.n_unscored) == (8 / 21, 21, 2)
    assert found.test == "exact McNemar; Tango score interval"


def test_lower_can_be_better():
    before, after = (ids(side) for side in paired(1, 1, 7, 12))
    found = stats.compare(before, after, seed=0, higher_is_better=False)
    assert (found.n_improved, found.n_worsened) == (1, 7)
    assert found.difference == pytest.approx(6 / 21)


def test_swapping_the_sides_turns_everything_round():
    before, after = (ids(side) for side in paired(10, 3, 8, 20))
    there, back = stats.compare(before, after, seed=0), stats.compare(after, before, seed=0)
    low, high = ends(there)
    assert (-high, -low) == pytest.approx(ends(back))
    assert there.difference == pytest.approx(5 / 41)
    assert back.difference == pytest.approx(-5 / 41)
    assert (there.p, there.n_improved) == (back.p, back.n_worsened)


@pytest.mark.parametrize("clustered", [False, True])
def test_nothing_changed_is_visible_and_not_certain(clustered: bool):
    side = ids([1, 0] * 20)
    cluster_of = {k: i // 4 for i, k in enumerate(side)} if clustered else None
    found = stats.compare(side, dict(side), seed=0, clusters=cluster_of)
    assert (found.n_changed, found.difference, found.p) == (0, 0.0, 1.0)
    z, n = (2.262157, 10) if clustered else (Z, 40)  # t(9) over ten clusters
    wide = z * z / (n + z * z)
    assert (found.low, found.high) == pytest.approx((-wide, wide), abs=1e-5)


def test_every_item_changing_one_way_reaches_the_end():
    found = stats.compare(ids([0] * 10), ids([1] * 10), seed=0)
    assert (found.difference, found.high) == (1.0, 1.0)
    assert 0.4 < ends(found)[0] < 1.0


@pytest.mark.parametrize(("up", "down"), [(0.06, 0.02), (0.03, 0.03), (0.3, 0.1)])
def test_interval_of_a_difference_of_rates_covers(up: float, down: float):
    n, coverage = 40, 0.0
    chances = scipy.stats.multinomial(n, [up, down, 1 - up - down])
    for b, c in product(range(22), range(12)):
        chance = float(chances.pmf([b, c, n - b - c])) if b + c <= n else 0.0
        if chance > 1e-4:
            found = stats.compare(*(ids(side) for side in paired(0, c, b, n - b - c)), seed=0)
            coverage += chance * covers(found, up - down)
    assert 0.93 < coverage < 0.995


def test_clustered_rates_use_cluster_sums():
    # Two of five pairs of twins went up, each together: signs of 2, 2 give p = 2/4.
    before, after = ids([0] * 10), ids([1] * 4 + [0] * 6)
    cluster_of = {k: i // 2 for i, k in enumerate(before)}
    found = stats.compare(before, after, seed=0, clusters=cluster_of)
    single = stats.compare(before, after, seed=0)
    assert (found.p, single.p) == (0.5, 0.125)
    assert (found.n, found.n_changed, found.after.n_clusters) == (10, 4, 5)
    assert ends(found)[0] < ends(single)[0]
    assert found.test == "sign flips over 5 clusters; Tango score interval at effective n"


def test_clusters_of_one_item_are_no_clusters():
    before, after = (ids(side) for side in paired(10, 3, 8, 20))
    assert stats.compare(before, after, 0, {k: k for k in before}) == stats.compare(before, after, 0)


def test_scores_are_compared_by_bootstrap_in_any_row_order():
    rng = np.random.default_rng(14)
    before, after = ids(rng.random(30).tolist()), ids((rng.random(30) + 0.5).tolist())
    cluster_of = {k: f"input{i % 15}" for i, k in enumerate(before)}
    found = stats.compare(before, after, 3, cluster_of)
    shuffled = dict(sorted(before.items(), key=lambda row: row[0][::-1]))
    assert found == stats.compare(shuffled, dict(reversed(after.items())), 3, cluster_of)
    assert found.test == "sign flips over 15 clusters; BCa bootstrap interval"
    assert ends(found)[0] > 0.0
    assert found.p < 0.05


def test_different_items_are_named():
    with pytest.raises(ValueError, match=r"only before \(1\): b; only after \(2\): c, d"):
        stats.compare({"a": 1, "b": 0}, {"a": 1, "c": 0, "d": 1}, seed=0)
    with pytest.raises(ValueError, match=r"without a cluster \(1\): b"):
        stats.compare({"a": 1, "b": 0}, {"a": 1, "b": 1}, seed=0, clusters={"a": "x"})


def test_no_pair_scored_has_no_difference():
    found = stats.compare({"a": None, "b": 1}, {"a": 1, "b": None}, seed=0)
    assert (found.difference, found.low, found.high, found.p) == (None, None, None, 1.0)
    assert (found.before.value, found.n, found.n_unscored) == (None, 0, 2)
    assert found.test.startswith("none")


# --- families and planning ----------------------------------------------------------------------


def test_holm_published_example():
    # pingouin.multicomp(method="holm") and R's p.adjust, from pingouin's documentation
    family = {"a": 0.50, "b": 0.003, "c": 0.32, "d": 0.054, "e": 0.0003}
    expected = {"a": 0.64, "b": 0.012, "c": 0.64, "d": 0.162, "e": 0.0015}
    assert stats.holm(family) == pytest.approx(expected)
    assert list(stats.holm(family)) == list(family)
    assert stats.holm({}) == {}
    assert stats.holm({"a": 0.9, "b": 1.0}) == {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize("bad", [float("nan"), -0.1, 1.5])
def test_holm_refuses_what_is_no_p_value(bad: float):
    with pytest.raises(ValueError, match="must lie in"):
        stats.holm({"a": bad})


def test_detectable_effect_approaches_connors_formula():
    # Connor 1987: √n · effect = z₀.₉₇₅ √rate + z₀.₈ √(rate - effect²)
    effect = stats.minimum_detectable_effect(20_000, 0.2)
    assert effect is not None
    assert np.sqrt(20_000) * effect == pytest.approx(
        1.959964 * np.sqrt(0.2) + 0.841621 * np.sqrt(0.2 - effect**2), rel=0.01
    )


def test_detectable_effect_is_found_with_the_promised_power():
    n, rate, rng = 100, 0.2, np.random.default_rng(15)
    effect = stats.minimum_detectable_effect(n, rate)
    assert effect is not None
    up, down = (rate + effect) / 2, (rate - effect) / 2
    drawn = rng.multinomial(n, [down, up, 1 - rate], 20_000)[:, :2]
    changes, counts = np.unique(drawn, axis=0, return_counts=True)
    found = [stats.mcnemar(*paired(0, b, c, 0)).p <= 0.05 for b, c in changes.tolist()]
    assert counts[np.array(found)].sum() / 20_000 == pytest.approx(0.8, abs=0.012)


def test_few_changes_can_be_too_few_to_tell():
    assert stats.minimum_detectable_effect(58, 0.05) is None
    assert stats.minimum_detectable_effect(58, 0.15) == pytest.approx(0.14, abs=0.005)
    with pytest.raises(ValueError, match="discordant_rate"):
        stats.minimum_detectable_effect(58, 0.0)


# --- agreement ----------------------------------------------------------------------------------


def test_kappa_published_value():
    # SAS PROC FREQ, as in statsmodels' test_inter_rater.py: rows rater a, columns rater b
    a: list[str] = []
    b: list[str] = []
    for x, row in zip("rst", [[0, 4, 1], [0, 8, 0], [0, 1, 5]], strict=True):
        for y, count in zip("rst", row, strict=True):
            a, b = a + [x] * count, b + [y] * count
    found = agreement.cohen_kappa(a, b)
    assert astuple(found)[:4] == pytest.approx((0.4842, 0.1380, 0.2137, 0.7547), abs=5e-5)
    assert agreement.cohen_kappa([*a, "r", None], [*b, None, "s"]).n_unscored == 2
    assert astuple(agreement.cohen_kappa(b, a))[:4] == pytest.approx(astuple(found)[:4])


def test_perfect_agreement_on_few_items_is_not_certain():
    found = agreement.cohen_kappa(["yes", "no"] * 10, ["yes", "no"] * 10)
    assert (found.value, found.high) == (1.0, 1.0)
    assert ends(found)[0] == pytest.approx(2 * 0.8389 - 1, abs=1e-4)  # Wilson: 20 of 20


def test_one_label_has_no_kappa():
    found = agreement.cohen_kappa(["yes"] * 5, ["yes"] * 5)
    assert (found.value, found.n) == (None, 5)
    assert agreement.cohen_kappa([None], ["yes"]).value is None
    constant = agreement.cohen_kappa(["yes", "no", "yes"], ["no", "no", "no"])
    assert (constant.value, constant.stderr, constant.low, constant.high) == (0.0, None, None, None)
    with pytest.raises(ValueError, match="same items"):
        agreement.cohen_kappa(["yes"], [])


def test_auc_published_value():
    # Hanley & McNeil 1982, Radiology 143:29, table I: 58 normal, 51 abnormal, rated 1 to 5
    normal, abnormal = [33, 6, 6, 11, 2], [3, 2, 2, 11, 33]
    scores = [r for counts in (normal, abnormal) for r, k in enumerate(counts) for _ in range(k)]
    found = stats.auc(scores, [False] * 58 + [True] * 51)
    assert (found.value, found.stderr) == pytest.approx((0.893, 0.032), abs=5e-4)
    unscored = stats.auc([*scores, None, 3], [False] * 58 + [True] * 51 + [True, None])
    assert (unscored.value, unscored.n, unscored.n_unscored) == (found.value, 109, 2)


def test_auc_counts_ties_one_half():
    rng = np.random.default_rng(16)
    scores, labels = rng.integers(0, 5, 40), rng.random(40) < 0.4
    wins = np.sign(scores[labels][:, None] - scores[~labels][None, :])
    expected = float((wins / 2 + 0.5).mean())
    assert stats.auc(scores.tolist(), labels.tolist()).value == pytest.approx(expected)


def test_perfect_ranking_of_few_items_is_not_certain():
    found = stats.auc([1, 2, 3, 4], [False, False, True, True])
    assert (found.value, found.high) == (1.0, 1.0)
    assert ends(found)[0] < 0.6
    assert stats.auc([4, 3, 2, 1], [False, False, True, True]).low == 0.0


def test_auc_interval_covers():
    rng, hits = np.random.default_rng(17), 0
    labels = [True] * 25 + [False] * 25
    for _ in range(300):
        scores = [*rng.normal(1.19, 1, 25), *rng.normal(0, 1, 25)]  # true AUC Φ(1.19/√2) = 0.80
        found = stats.auc(scores, labels)
        hits += covers(found, 0.80)
    assert 0.92 <= hits / 300 <= 0.99


def test_auc_without_both_classes_has_no_value():
    assert stats.auc([0.3, 0.4], [True, True]).value is None
    assert stats.auc([], []).value is None


# -- Krippendorff's alpha ---------------------------------------------------------------------------------

# Krippendorff (2011), "Computing Krippendorff's alpha-reliability", example C: four observers, twelve units, with gaps
OBSERVERS = ("123321412...", "12332241 25.3".replace(" ", ""), ".33323422 51.".replace(" ", ""), "12332441251.")


def test_alpha_is_the_published_one() -> None:
    units = [[None if x == "." else x for x in unit] for unit in zip(*OBSERVERS, strict=True)]
    found = agreement.krippendorff_alpha(units)
    assert found.value == pytest.approx(0.743, abs=5e-4)
    assert (found.n, found.n_unscored) == (11, 1)
    assert found.low is not None and found.high is not None and found.low < 0.743 < found.high


def test_alpha_of_two_raters_without_gaps_is_near_kappa_and_of_a_coin_near_nothing() -> None:
    rng = np.random.default_rng(3)
    a = rng.integers(0, 2, 400)
    b = np.where(rng.random(400) < 0.2, 1 - a, a)
    alpha = agreement.krippendorff_alpha(list(zip(a.tolist(), b.tolist(), strict=True)))
    kappa = agreement.cohen_kappa(a.tolist(), b.tolist())
    assert alpha.value == pytest.approx(kappa.value, abs=0.01)
    coin = agreement.krippendorff_alpha(rng.integers(0, 2, (400, 3)).tolist())
    assert coin.low is not None and coin.high is not None and coin.low < 0 < coin.high
    assert agreement.krippendorff_alpha([[1, 1], [1, 1]]).value is None
