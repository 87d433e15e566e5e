"""How a report writes numbers and other people's text: shares, points, p-values; harmful text is cut."""

import re
from collections.abc import Sequence
from importlib import metadata
from typing import NamedTuple, Protocol, TypeVar

T = TypeVar("T")

VERSION = metadata.version("iteralign")
CUT_WORDS = 12
CUT_CHARACTERS = 120  # a text without spaces is one word: it must not slip through
CUT_MARK = " …[cut]"
MOST = 100  # rounds, or principles, of a report, which has to stay small


class Table(NamedTuple):
    """What stands in a table of a report, and under it."""

    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""


# What could move a cursor, hide text or turn it around: everything of C0 and C1 but tab and newline, and bidi marks.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """Text under judgement is data: control characters become a visible mark."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))


def cut(text: str) -> str:
    """The first words only, on one line; short texts stay whole."""
    words = text.split()
    start = " ".join(words[:CUT_WORDS])
    if len(words) <= CUT_WORDS and len(start) <= CUT_CHARACTERS:
        return start
    return start[:CUT_CHARACTERS].rstrip() + CUT_MARK


def shortened(text: str, words: int) -> str:
    parts = text.split()
    return text.strip() if len(parts) <= words else " ".join(parts[:words]) + f" … ({len(parts) - words} more words)"


def digits(n: int) -> int:
    """One item of a hundred is a percent: decimals start there."""
    return 1 if n > 100 else 0


def share(value: float | None, n: int) -> str:
    return "–" if value is None else f"{100 * value:.{digits(n)}f}%"


def count(value: float | None, n: int) -> str:
    """k/n and the share; k may be a half where a tie counts one half."""
    return f"–/{n}" if value is None else f"{round(value * n, 2):g}/{n} ({share(value, n)})"


def points(value: float | None, n: int) -> str:
    """A difference of shares in percentage points, with its sign."""
    if value is None:
        return "–"
    text = f"{100 * value:+.{digits(n)}f}".replace("-", "−")
    return text[1:] if float(text.replace("−", "-")) == 0 else text


def interval(low: float | None, high: float | None, n: int) -> str:
    return "–" if low is None or high is None else f"{points(low, n)} to {points(high, n)}"


class Valued(Protocol):
    """What has a value and perhaps an interval: Estimate, Score, Corrected."""

    @property
    def value(self) -> float | None: ...
    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...


def estimate(found: Valued, form: str = ".2f") -> str:
    if found.value is None:
        return "–"
    ends = "" if found.low is None or found.high is None else f" ({found.low:z{form}} to {found.high:z{form}})"
    return f"{found.value:z{form}}{ends}".replace("-", "−")


def ends(things: Sequence[T], most: int = MOST) -> list[T]:
    """All of them, or the first and the last where that is too much for a report."""
    return list(things) if len(things) <= most else [*things[: most // 2], *things[-(most // 2) :]]


def left_out(n: int, what: str, most: int = MOST) -> str:
    """What `ends` leaves out of n things; nothing where it is all of them."""
    return "" if n <= most else f"Shown: the first and the last {most // 2} of {plural(n, what)}."


def p_value(p: float | None) -> str:
    if p is None:
        return "–"
    if p < 0.001:
        return "<0.001"
    return f"{p:.3f}" if p < 0.0995 else f"{p:.2f}" if p < 0.995 else "1"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def lost_calls(failed: int, calls: int) -> str:
    return f"{failed} of {plural(calls, 'oracle call')} failed"


def plural(n: int, one: str, many: str | None = None) -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"
