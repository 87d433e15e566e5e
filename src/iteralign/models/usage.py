"""What a model was really asked: calls, tokens read and written, and what they cost. Kept answers are not asked again."""

import threading
from collections.abc import Iterable
from functools import reduce
from typing import NamedTuple

from iteralign.config import Price


class Usage(NamedTuple):
    """`read`: tokens of prompts, each counted whole, whatever a cache saves. `dollars`: of servers with a price;
    `unpriced`: calls of servers without one."""

    calls: int = 0
    read: int = 0
    written: int = 0
    dollars: float = 0.0
    unpriced: int = 0

    def plus(self, other: "Usage") -> "Usage":
        return Usage(
            self.calls + other.calls,
            self.read + other.read,
            self.written + other.written,
            self.dollars + other.dollars,
            self.unpriced + other.unpriced,
        )

    def less(self, other: "Usage") -> "Usage":
        return self.plus(Usage(-other.calls, -other.read, -other.written, -other.dollars, -other.unpriced))


def together(usages: Iterable[Usage]) -> Usage:
    return reduce(Usage.plus, usages, Usage())


class Meter:
    """Counts for one model; threads may share it. `paid`: a server that wants money, at `price` where that is known."""

    def __init__(self, price: Price | None = None, paid: bool = False) -> None:
        self.price = price
        self.paid = paid
        self.usage = Usage()
        self._lock = threading.Lock()

    def add(self, read: int, written: int, calls: int = 1) -> None:
        dollars = (read * self.price.prompt + written * self.price.completion) / 1e6 if self.price else 0.0
        unpriced = calls if self.paid and self.price is None else 0
        with self._lock:
            self.usage = self.usage.plus(Usage(calls, read, written, dollars, unpriced))
