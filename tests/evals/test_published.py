"""What a printed table can mean: arXiv 2403.18341, Table 2, as it is printed in paper_table2.csv.

The counts behind a printed rate, and the least p that they leave possible.
"""

import csv
from collections.abc import Sequence
from fractions import Fraction
from itertools import product
from pathlib import Path

import pytest
from scipy.stats import binomtest

from iteralign.stats import holm, mcnemar

SIZES = {"harmless": 58, "helpful": 59, "honest": 61, "other": 43}  # BIG-bench hhh_alignment, 221 items
PRINTED = list(csv.DictReader((Path(__file__).parent / "paper_table2.csv").open()))
WITHOUT = "vanilla"


def possible_counts(printed: str, n: int) -> tuple[int, ...]:
    """Every k for which k/n is `printed` ("0.8140" or "81.4%": its digits are kept) when rounded; empty: impossible for
    n items. A value in the middle may have been rounded up or down. ValueError: not a rate, or n < 1."""
    text, scale = (printed.strip().removesuffix("%"), 100) if printed.strip().endswith("%") else (printed.strip(), 1)
    try:
        value = Fraction(text) / scale
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"expected a printed rate such as 0.8140 or 81.4%, got {printed!r}") from error
    if n < 1 or not 0 <= value <= 1:
        raise ValueError(f"expected a rate of at least one item in 0..1, got {printed} of {n}")
    half = Fraction(1, 2 * scale * 10 ** len(text.partition(".")[2]))
    return tuple(k for k in range(n + 1) if abs(Fraction(k, n) - value) <= half)


def possible_totals(parts: Sequence[str], sizes: Sequence[int], total: str) -> tuple[int, ...]:
    """Every total count that is printed as `total` and is the sum of possible counts of its `parts`; empty: the printed
    total is impossible beside its parts."""
    counts = (possible_counts(printed, n) for printed, n in zip(parts, sizes, strict=True))
    sums = {sum(ks) for ks in product(*counts)}
    return tuple(k for k in possible_counts(total, sum(sizes)) if k in sums)


def smallest_p(before: Sequence[int], after: Sequence[int]) -> float:
    """The smallest exact McNemar p that any pairing of items leaves possible, from right answers before and after in
    each part of the items: in every part all changes go one way, so that as few items as possible changed."""
    moves = [b - a for a, b in zip(before, after, strict=True)]
    up, down = sum(m for m in moves if m > 0), -sum(m for m in moves if m < 0)
    return mcnemar([0] * up + [1] * down, [1] * up + [0] * down).p


def total_counts(row: dict[str, str]) -> tuple[int, ...]:
    return possible_totals([row[name] for name in SIZES], list(SIZES.values()), row["overall"])


def counts(row: dict[str, str]) -> list[int]:
    """Of each category; these sizes leave one count for four decimals."""
    found = [possible_counts(row[name], n) for name, n in SIZES.items()]
    assert all(len(ks) == 1 for ks in found), row
    return [ks[0] for ks in found]


def runs() -> list[tuple[list[int], list[int]]]:
    """Right answers of the base and of the trained model, for each of the runs."""
    base = {row["model"]: counts(row) for row in PRINTED if row["red_team"] == WITHOUT}
    return [(base[row["model"]], counts(row)) for row in PRINTED if row["red_team"] != WITHOUT]


def test_one_printed_overall_value_is_impossible() -> None:
    wrong = [row for row in PRINTED if not total_counts(row)]
    assert [(r["model"], r["red_team"], r["overall"]) for r in wrong] == [("Llama-2-7b", "HarmfulQA", "0.8140")]
    assert len(PRINTED) == 24
    assert possible_counts("0.8140", 221) == ()
    assert f"{sum(counts(wrong[0])) / 221:.4f}" == "0.6923"
    assert wrong[0]["other"] == wrong[0]["overall"]


def test_the_other_overall_values_are_the_sums_of_their_categories() -> None:
    assert [total_counts(r) for r in PRINTED if r["overall"] != "0.8140"] == [
        (sum(counts(r)),) for r in PRINTED if r["overall"] != "0.8140"
    ]


def test_four_of_eighteen_runs_have_equal_counts_everywhere() -> None:
    assert len(runs()) == 18
    assert sum(before == after for before, after in runs()) == 4


def test_at_most_eight_of_eighteen_runs_could_reach_p_below_005() -> None:
    p = [smallest_p(before, after) for before, after in runs()]
    assert sum(x < 0.05 for x in p) == 8
    overall = [smallest_p([sum(before)], [sum(after)]) for before, after in runs()]
    assert sum(x < 0.05 for x in overall) == 8
    assert sum(abs(sum(after) - sum(before)) <= 2 for before, after in runs()) == 8


def test_at_most_two_of_them_could_stay_below_it_in_their_family() -> None:
    p = {str(n): smallest_p(before, after) for n, (before, after) in enumerate(runs())}
    assert sum(x < 0.05 for x in holm(p).values()) == 2


def test_no_pairing_gives_a_smaller_p() -> None:
    """Every way in which 4 items before and 6 after can overlap among 9."""
    found: set[float] = set()
    for after in product((0, 1), repeat=9):
        if sum(after) == 6:
            down, up = sum(1 - x for x in after[:4]), sum(after[4:])
            found.add(float(binomtest(down, down + up).pvalue))
    assert smallest_p([4], [6]) == min(found) == 0.5
    assert smallest_p([10, 3], [3, 10]) == 1.0
    assert smallest_p([5], [5]) == 1.0


@pytest.mark.parametrize(
    ("printed", "n", "found"),
    [
        ("0.8140", 43, (35,)),
        ("81.4%", 43, (35,)),
        ("0.5", 3, ()),
        ("0.50", 8, (4,)),
        ("0.12", 8, (1,)),  # 0.125 is rounded down by some
        ("0.13", 8, (1,)),  # and up by others
        ("0.6", 100, tuple(range(55, 66))),
        ("1.0", 5, (5,)),
        ("0", 2, (0, 1)),
    ],
)
def test_counts_behind_a_rate(printed: str, n: int, found: tuple[int, ...]) -> None:
    assert possible_counts(printed, n) == found


@pytest.mark.parametrize(("printed", "n"), [("high", 5), ("1.2", 5), ("-0.1", 5), ("0.5", 0), ("120%", 5)])
def test_what_is_no_rate_is_refused(printed: str, n: int) -> None:
    with pytest.raises(ValueError, match="expected a"):
        possible_counts(printed, n)
