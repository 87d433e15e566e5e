"""Alignment tax: the textbook's numbers, what has no signal, and intervals that cover."""

import numpy as np
import pytest

from iteralign.evals.paired import Key, Measure, pair
from iteralign.evals.scores import make_score
from iteralign.evals.tax import AlignmentTax, alignment_tax, direction, percent_lost
from iteralign.records import Score

TEXTBOOK = {  # base, aligned, and the line that is printed
    "MMLU": (65.2, 63.8, "2.1% regression"),
    "HumanEval": (42.1, 40.5, "3.8% regression"),
    "GSM8K": (56.8, 58.2, "2.5% improvement"),
    "TruthfulQA": (38.5, 52.1, "35.3% improvement"),
    "HellaSwag": (78.3, 76.9, "1.8% regression"),
}


def score(name: str, right: int, n: int, chance: float | None = 0.25, variant: str = "chat") -> Score:
    return make_score(name, variant, {f"{name}{i}": float(i < right) for i in range(n)}, None, chance)


def tax_of(*sides: tuple[Score, Score], gold: dict[Key, tuple[Score, Score]] | None = None) -> AlignmentTax:
    before, after = ({(s.name, s.variant): s for s in side} for side in zip(*sides, strict=True))
    return alignment_tax(pair(before, after, 0)[0], gold or {}, 0)


def test_the_textbooks_lines_and_the_average_that_its_formula_gives():
    found = {name: percent_lost(base, aligned) for name, (base, aligned, _) in TEXTBOOK.items()}
    lines = {name: f"{abs(percent):.1f}% {direction(percent)}" for name, percent in found.items()}
    assert lines == {name: printed for name, (_, _, printed) in TEXTBOOK.items()}
    assert f"{sum(found.values()) / 5:.1f}" == "-6.0"


def test_the_textbooks_rates_as_items():
    """Each rate is a count of 1000 items."""
    sides = [
        (score(name, round(base * 10), 1000), score(name, round(aligned * 10), 1000))
        for name, (base, aligned, _) in TEXTBOOK.items()
    ]
    found = tax_of(*sides)
    assert [f"{abs(x.percent or 0):.1f}% {x.direction}" for x in found.lines] == [p for _, _, p in TEXTBOOK.values()]
    assert found.n_benchmarks == 5
    assert found.average == pytest.approx(-6.0, abs=0.05)
    assert [x.change.difference for x in found.lines] == pytest.approx([-0.014, -0.016, 0.014, 0.136, -0.014])


def test_a_base_that_guesses_has_no_signal_and_is_in_no_average():
    guesses = score("mmlu", 27, 100), score("mmlu", 20, 100)
    found = tax_of(guesses, (score("arc", 80, 100), score("arc", 72, 100)))
    assert [x.percent for x in found.lines] == [None, pytest.approx(10.0)]
    assert found.lines[0].no_signal is not None
    assert "not above chance (25.0%)" in found.lines[0].no_signal
    assert (found.average, found.n_benchmarks) == (pytest.approx(10.0), 1)
    assert found.lines[0].change.difference == pytest.approx(-0.07)
    alone = tax_of(guesses)
    assert (alone.average, alone.low, alone.n_benchmarks) == (None, None, 0)


def test_the_chance_level_is_the_callers():
    sides = score("x", 40, 100, 0.25), score("x", 30, 100, 0.25)
    assert tax_of(sides).lines[0].percent == pytest.approx(25.0)
    high = score("x", 40, 100, 0.5), score("x", 30, 100, 0.5)
    assert tax_of(high).lines[0].no_signal is not None


def test_a_base_of_zero_right_is_no_division_by_zero():
    found = tax_of((score("gsm8k", 0, 50, 0.0), score("gsm8k", 5, 50, 0.0)))
    assert found.lines[0].percent is None
    with pytest.raises(ValueError, match="above 0"):
        percent_lost(0.0, 0.5)


def test_what_has_no_chance_level_is_no_benchmark():
    assert tax_of((score("harmful compliance", 30, 50, None), score("harmful compliance", 3, 50, None))).lines == ()


def test_overall_stands_for_its_parts_and_a_benchmark_counts_once():
    parts = [(score(f"hhh/{x}", 40, 50), score(f"hhh/{x}", 30, 50)) for x in ("honest", "overall")]
    ways = [(score("arc", 40, 50, variant=v), score("arc", k, 50, variant=v)) for v, k in (("sum", 40), ("token", 36))]
    found = tax_of(*parts, *ways)
    assert [x.name for x in found.lines] == ["hhh/overall", "arc", "arc"]
    assert found.n_benchmarks == 2
    assert found.average == pytest.approx((25.0 + (0.0 + 10.0) / 2) / 2)


def test_the_gold_answers_likelihood_stands_beside_the_line():
    rng = np.random.default_rng(0)
    base = make_score("mmlu", "gold", {f"mmlu{i}": x for i, x in enumerate(rng.normal(-2.0, 0.5, 100).tolist())})
    worse = make_score(
        "mmlu", "gold", {i: (x or 0.0) - 0.1 + 0.01 * (n % 3) for n, (i, x) in enumerate(base.items.items())}
    )
    sides = score("mmlu", 27, 100), score("mmlu", 27, 100)
    [line] = tax_of(sides, gold={("mmlu", "chat"): (base, worse)}).lines
    assert line.percent is None
    assert line.gold is not None
    assert line.gold.difference == pytest.approx(-0.09, abs=1e-3)
    assert line.gold.high is not None and line.gold.high < 0


def test_interval_of_the_average_covers():
    """Two benchmarks, the second in clusters of two equal items; true taxes 20 % and 0 %, so 10 % on average."""
    rng, hits = np.random.default_rng(1), 0
    for _ in range(300):
        first = rng.random((2, 150)) < [[0.75], [0.6]]
        second = np.repeat(rng.random((2, 75)) < [[0.6], [0.6]], 2, axis=1)
        sides: list[tuple[Score, Score]] = []
        for name, values, clusters in (("a", first, None), ("b", second, {f"{i}": f"{i // 2}" for i in range(150)})):
            a, b = (make_score(name, "v", {f"{i}": float(x) for i, x in enumerate(v)}, clusters, 0.25) for v in values)
            sides.append((a, b))
        found = tax_of(*sides)
        assert found.low is not None and found.high is not None
        hits += found.low <= 10.0 <= found.high
    assert 0.91 <= hits / 300 <= 0.99


def test_no_benchmark_no_tax():
    assert alignment_tax([Measure("x", "v", None, None)], {}, 0) == AlignmentTax((), None, None, None, 0)
