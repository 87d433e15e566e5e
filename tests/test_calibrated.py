"""A judge's rates corrected for its errors: closed forms, coverage, and what is refused."""

from collections.abc import Sequence

import numpy as np
import pytest

from iteralign.calibrated import Corrected, JudgeAccuracy, corrected_difference, corrected_rate
from iteralign.stats import Comparison, Estimate, compare, mean

GOOD = JudgeAccuracy(0.9, 200, 0.8, 200)
PERFECT = JudgeAccuracy(1.0, 10**9, 1.0, 10**9)


def ends(found: Corrected) -> tuple[float, float]:
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


def ids(values: Sequence[float | None]) -> dict[str, float | None]:
    return {f"item{i:04d}": v for i, v in enumerate(values)}


def test_rogan_gladens_formula_by_hand():
    # raw 0.48: (0.48 + 0.8 - 1)/(0.9 + 0.8 - 1) = 0.4
    found = corrected_rate([1] * 48 + [0] * 52, GOOD, seed=0)
    assert found.value == pytest.approx(0.4)
    # √(0.48·0.52/99 + 0.16·0.9·0.1/200 + 0.36·0.8·0.2/200)/0.7
    variance = 0.48 * 0.52 / 99 + 0.16 * 0.09 / 200 + 0.36 * 0.16 / 200
    assert found.stderr == pytest.approx(variance**0.5 / 0.7)
    low, high = ends(found)
    assert (low, high) == pytest.approx((0.4 - 1.96 * found.stderr, 0.4 + 1.96 * found.stderr), abs=0.02)
    assert found.raw == mean([1] * 48 + [0] * 52)


def test_a_perfect_judge_changes_nothing():
    values = [1] * 30 + [0] * 70
    found, plain = corrected_rate(values, PERFECT, seed=0), mean(values)
    assert found.value == pytest.approx(plain.value)
    assert ends(found) == pytest.approx((plain.low, plain.high), abs=0.01)


def test_fewer_human_labels_give_a_wider_interval():
    values = [1] * 48 + [0] * 52
    few, many = JudgeAccuracy(0.9, 20, 0.8, 20), JudgeAccuracy(0.9, 10**6, 0.8, 10**6)
    widths = [ends(corrected_rate(values, a, 0))[1] - ends(corrected_rate(values, a, 0))[0] for a in (few, GOOD, many)]
    assert widths[0] > 1.2 * widths[1] > 1.2 * widths[2]


def test_no_human_error_seen_among_few_labels_is_not_a_perfect_judge():
    found = corrected_rate([0] * 100, JudgeAccuracy(1.0, 10, 1.0, 10), seed=0)
    assert found.value == 0.0
    assert ends(found)[0] == 0.0
    assert 0.01 < ends(found)[1] < 0.1


def test_a_rate_below_the_false_alarms_is_cut_at_zero():
    found = corrected_rate([1] * 5 + [0] * 95, GOOD, seed=0)
    assert (found.value, found.low) == (0.0, 0.0)
    assert isinstance(found.raw, Estimate)
    assert found.raw.value == pytest.approx(0.05)


@pytest.mark.parametrize(("se", "sp"), [(0.6, 0.59), (0.5, 0.5), (0.1, 0.1)])
def test_a_judge_near_a_coin_toss_is_refused_and_the_raw_rate_stays(se: float, sp: float):
    judge = JudgeAccuracy(se, 50, sp, 50)
    for found in (corrected_rate([1, 0, 1], judge, 0), corrected_difference(ids([1, 0]), ids([0, 0]), judge, 0)):
        assert (found.value, found.stderr, found.low, found.high) == (None, None, None, None)
        assert found.refused is not None
        assert "at least 1.2" in found.refused
    assert corrected_rate([1, 0, 1], judge, 0).raw.n == 3


def test_at_the_border_it_is_corrected():
    assert corrected_rate([1, 0, 1, 1], JudgeAccuracy(0.7, 50, 0.5, 50), 0).refused is None


def test_unjudged_items_enter_no_rate():
    with_gaps = corrected_rate([1, None, 0, 1, None], GOOD, 0)
    assert with_gaps.value == corrected_rate([1, 0, 1], GOOD, 0).value
    assert isinstance(with_gaps.raw, Estimate)
    assert (with_gaps.raw.n, with_gaps.raw.n_unscored) == (3, 2)
    nothing = corrected_rate([None], GOOD, 0)
    assert nothing.value is None
    assert nothing.refused == "not corrected: no item was scored"


def test_copies_of_an_item_add_no_certainty():
    values = [1] * 12 + [0] * 18
    once = corrected_rate(values, GOOD, 0)
    copied = corrected_rate(values * 4, GOOD, 0, list(range(30)) * 4)
    counted_four_times = corrected_rate(values * 4, GOOD, 0)
    assert ends(copied) == pytest.approx(ends(once), abs=0.03)
    assert ends(counted_four_times)[1] < ends(once)[1] - 0.05


def test_a_difference_grows_by_the_judges_youden_index_and_keeps_its_p():
    before, after = ids([1] * 40 + [0] * 60), ids([1] * 5 + [0] * 31 + [1] * 4 + [0] * 60)
    found, raw = corrected_difference(before, after, GOOD, 0), compare(before, after, 0)
    assert raw.difference is not None
    assert found.value == pytest.approx(raw.difference / 0.7)
    assert isinstance(found.raw, Comparison)
    assert found.raw == raw
    low, high = ends(found)
    assert low < raw.difference / 0.7 < high < 0


def test_nothing_changed_is_not_certain():
    side = ids([1, 0] * 30)
    low, high = ends(corrected_difference(side, dict(side), GOOD, 0))
    assert low < -0.01
    assert high > 0.01
    assert low == pytest.approx(-high, abs=0.01)


def test_interval_of_a_rate_covers_where_the_raw_one_does_not():
    rng, truth, hits = np.random.default_rng(3), 0.3, np.zeros(2)
    for seed in range(300):
        is_true = rng.random(120) < truth
        says = np.where(is_true, rng.random(120) < 0.85, rng.random(120) > 0.8)
        labels = JudgeAccuracy(rng.binomial(80, 0.85) / 80, 80, rng.binomial(80, 0.8) / 80, 80)
        found = corrected_rate(says.astype(float).tolist(), labels, seed, n_draws=2000)
        low, high = ends(found)
        raw = found.raw
        assert isinstance(raw, Estimate) and raw.low is not None and raw.high is not None
        hits += [low <= truth <= high, raw.low <= truth <= raw.high]
    assert 0.92 <= hits[0] / 300 <= 0.99
    assert hits[1] / 300 < 0.7


@pytest.mark.parametrize(("up", "down"), [(0.05, 0.25), (0.04, 0.04)])
def test_interval_of_a_difference_covers(up: float, down: float):
    """The judge errs by itself on each side, so that it also sees changes where there are none."""
    rng, hits = np.random.default_rng(4), 0
    for seed in range(300):
        before = rng.random(100) < 0.5
        moves = np.where(before, rng.random(100) < 2 * down, rng.random(100) < 2 * up)
        sides = [np.where(t, rng.random(100) < 0.9, rng.random(100) > 0.85) for t in (before, before ^ moves)]
        labels = JudgeAccuracy(rng.binomial(100, 0.9) / 100, 100, rng.binomial(100, 0.85) / 100, 100)
        a, b = (ids(side.astype(float).tolist()) for side in sides)
        low, high = ends(corrected_difference(a, b, labels, seed, n_draws=2000))
        hits += low <= up - down <= high
    assert 0.92 <= hits / 300 <= 0.99


def test_the_seed_decides_the_draws():
    values = [1] * 20 + [0] * 30
    assert corrected_rate(values, GOOD, 1) == corrected_rate(values, GOOD, 1)
    assert corrected_rate(values, GOOD, 1).low != corrected_rate(values, GOOD, 2).low


def test_what_is_no_rate_or_no_accuracy_is_refused():
    with pytest.raises(ValueError, match="0/1 verdicts"):
        corrected_rate([0.3, 1], GOOD, 0)
    with pytest.raises(ValueError, match=r"in 0\.\.1"):
        JudgeAccuracy(1.2, 5, 0.5, 5)
    with pytest.raises(ValueError, match="at least one labelled item"):
        JudgeAccuracy(0.9, 5, 0.5, 0)
    with pytest.raises(ValueError, match="same items"):
        corrected_difference({"a": 1}, {"b": 1}, GOOD, 0)
