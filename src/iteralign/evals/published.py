"""What printed tables can mean: the counts behind a printed rate, and the least p that they leave possible."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import product

from iteralign.stats import mcnemar


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
