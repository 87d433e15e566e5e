"""Near copies are thinned in blocks, as one by one."""

import random

import pytest

from iteralign import similarity
from iteralign.similarity import cosines, thinned

WORDS = ["lock", "key", "door", "pick", "turn", "oil", "spring", "pin", "wrench", "lever", "bolt", "latch"]


def one_by_one(texts: list[str], bound: float, limit: int) -> list[int]:
    near, kept = cosines(texts, words="pairs") >= bound, list[int]()
    for i in range(len(texts)):
        if sum(bool(near[i, j]) for j in kept) < limit:
            kept.append(i)
    return kept


@pytest.mark.parametrize("limit", [1, 3])
def test_blocks_keep_what_one_by_one_is_kept(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "BLOCK", 7)
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=3)) for _ in range(200)]
    kept = thinned(texts, 0.5, limit)
    assert kept == one_by_one(texts, 0.5, limit) and 0 < len(kept) < len(texts)


def test_texts_without_a_word_are_all_kept() -> None:
    assert thinned(["?", "!"], 0.5, 1) == [0, 1] and thinned([], 0.5, 1) == []


def test_ten_thousand_alike_fit_into_memory() -> None:
    assert thinned([f"I'm sorry, but I can't help with that, number {n % 7}." for n in range(10_000)], 0.9, 3) != []
