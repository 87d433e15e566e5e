"""Which questions are trained on, steered by and measured on: whole subtopics, by a hash of their names."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from iteralign.data.question import Question
from iteralign.errors import DataError
from iteralign.records import Prompt, Split
from iteralign.seeds import seed_for

SPLITS: tuple[Split, ...] = get_args(Split)

Key = tuple[str, str]  # by what, and its value

_RANGES: dict[Split, tuple[float, float]] = {"train": (0, 0.60), "validation": (0.60, 0.75), "held_out": (0.75, 1)}

_OWN_NAMES: dict[str, Split] = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "held_out": "held_out",
    "test": "held_out",
}


def split_prompts(prompts: Iterable[Prompt]) -> dict[Split, list[Prompt]]:
    """All three splits, in the order of the prompts."""
    parts: dict[Split, list[Prompt]] = {split: [] for split in SPLITS}
    for prompt in prompts:
        parts[prompt.split].append(prompt)
    return parts


def assert_disjoint(train: Iterable[Prompt], held_out: Iterable[Prompt]) -> None:
    """Raises DataError when a question of one side is also in the other, from whichever data set it comes."""
    seen = {prompt.item: prompt for prompt in train}
    both = [(seen[prompt.item], prompt) for prompt in held_out if prompt.item in seen]
    if not both:
        return
    lines = [f"{a.source} ({a.split}) and {b.source} ({b.split}): {_start(b.question)}" for a, b in both[:5]]
    more = [f"and {len(both) - 5} more"] if len(both) > 5 else []
    listing = "\n  ".join([*lines, *more])
    raise DataError(
        f"questions in two splits: {len(both)}. What is trained on would be measured on:\n  {listing}\n"
        "Expected every question in one split: leave one of the data sets out, delete these rows from one of them,"
        " or give both sets the same `split`"
    )


def assign(sets: Sequence[Sequence[Question]], seed: int) -> list[list[Split]]:
    """Of each set the questions' splits: the data set's own, else 60/15/25 by a seeded hash of the subtopic.

    Where a set has too few subtopics the category counts, else the first user turn (so that dialogues with the same
    opening stay together). The hash does not see the data set: the same subtopic, or the same question without
    one, gets the same split in every set.
    """
    keys = [None if any(q.split is not None for q in questions) else _keys(questions) for questions in sets]
    homes = _homes([set(own) for own in keys if own is not None], seed)
    return [
        [_own(q) for q in questions] if own is None else [homes[key] for key in own]
        for questions, own in zip(sets, keys, strict=True)
    ]


def _keys(questions: Sequence[Question]) -> list[Key]:
    """What each question is split by."""
    subtopics = {question.subtopic for question in questions} - {""}
    categories = {question.category for question in questions} - {""}
    keys: list[Key] = []
    for question in questions:
        if question.subtopic and len(subtopics) >= len(SPLITS):
            keys.append(("subtopic", question.subtopic))
        elif question.category and len(categories) >= len(SPLITS):
            keys.append(("category", question.category))
        else:
            keys.append(("row", next(m.content for m in question.chat if m.role == "user")))
    return keys


def sample(splits: Sequence[Split], order: Sequence[str], limit: int, seed: int) -> list[int]:
    """Positions of `limit` questions, each split in its share, the first in a seeded order of their `order` ids."""
    sizes = Counter(splits)
    shares = {split: limit * sizes[split] / len(splits) for split in SPLITS}
    counts = {split: int(share) for split, share in shares.items()}
    by_remainder = sorted(SPLITS, key=lambda split: counts[split] - shares[split])
    for split in by_remainder[: limit - sum(counts.values())]:
        counts[split] += 1
    shuffled = sorted(range(len(splits)), key=lambda n: seed_for(seed, "limit", order[n]))
    ranks: Counter[Split] = Counter()
    chosen: list[int] = []
    for position in shuffled:
        ranks[splits[position]] += 1
        if ranks[splits[position]] <= counts[splits[position]]:
            chosen.append(position)
    return sorted(chosen)


def _homes(sets: Sequence[set[Key]], seed: int) -> Mapping[Key, Split]:
    """Each key by its own hash alone, so that new subtopics do not move old ones."""
    at = {key: seed_for(seed, "split", *key) / 2**63 for key in sorted(set[Key]().union(*sets))}
    homes: dict[Key, Split] = {}
    for key, value in at.items():
        homes[key] = next(s for s in SPLITS if value < _RANGES[s][1] or s == SPLITS[-1])
    for own in sets:
        for split in SPLITS if len(own) >= len(SPLITS) else ():
            if any(homes[key] == split for key in own):
                continue
            # a handful of subtopics can leave a split empty by chance, and then nothing could be trained or measured:
            # the subtopic whose hash is nearest moves there, in every set, unless it is the last of a split in one
            sizes = [(other, Counter(homes[key] for key in other)) for other in sets]
            spare = [k for k in sorted(own) if all(n[homes[k]] > 1 for other, n in sizes if k in other)]
            if spare:
                low, high = _RANGES[split]
                homes[min(spare, key=lambda key: max(low - at[key], at[key] - high))] = split
    return homes


def own_split(said: object) -> Split | None:
    """What a data set means by its own word for a split; None where it is none of those that are known."""
    return _OWN_NAMES.get(said) if isinstance(said, str) else None


def _own(question: Question) -> Split:
    said: Any = question.split
    if split := own_split(said):
        return split
    raise DataError(
        f"{question.where}: the data set has a column 'split', and here it says {said!r}: expected one of"
        f" {', '.join(_OWN_NAMES)}. Mend the row, rename the column to have the set split for you,"
        " or put the whole set into one with `split:` in the config"
    )


def _start(text: str) -> str:
    words = text.split()
    return " ".join(words[:12]) + (" …" if len(words) > 12 else "")
