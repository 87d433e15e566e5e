"""Copies of benchmark items among texts: shared runs of 13 words, or a TF-IDF cosine of at least 0.9."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from iteralign.records import Record

RUN = 13  # words that two texts must share in a row (Brown et al. 2020, arXiv 2005.14165, appendix C)
SHORT = 8  # an item of 8 to 12 words is looked for as a whole; a shorter one only by its cosine
COSINE = 0.9
CHUNK = 256  # texts compared with all items at a time

Runs = Mapping[str, Sequence[tuple[tuple[str, ...], int]]]


class Item(NamedTuple):
    """One text of a benchmark that must not be trained on."""

    benchmark: str
    id: str
    text: str


class Copy(Record):
    """`about` is the row with the text that copies `item` of `benchmark`; `value`: words shared in a row, or the cosine."""

    about: str
    benchmark: str
    item: str
    how: Literal["words", "cosine"]
    value: float


def words(text: str) -> tuple[str, ...]:
    """Lower case, without punctuation: what stays the same when a copy is tidied up."""
    return tuple(re.findall(r"\w+", text.lower().replace("’", "").replace("'", "")))


class Decontaminator:
    """The items' index, built once. A text's result depends on the items alone, not on the texts beside it."""

    def __init__(self, items: Sequence[Item]) -> None:
        unique = {words(i.text): i for i in items}
        unique.pop((), None)
        self.items = list(unique.values())
        self._runs = runs_of(list(unique))
        hashing, weighting = tfidf_parts()
        self._counts: Any = hashing(
            n_features=1 << 20, norm=None, alternate_sign=False, analyzer=words, dtype="float32"
        )
        if self.items:
            counts = self._counts.transform([i.text for i in self.items])
            self._weights: Any = weighting().fit(counts)
            self._vectors: Any = self._weights.transform(counts).T.tocsr()

    def copies(self, rows: Mapping[str, Sequence[str]]) -> list[Copy]:
        """The first item found for each row, by words before cosine. `rows`: id → its texts (each is looked at
        by itself, so that a long answer does not hide a copied question)."""
        found = {row: copy for row, texts in rows.items() if (copy := self._shares(row, texts)) is not None}
        left = [(row, text) for row, texts in rows.items() if row not in found for text in texts]
        for copy in self._alike(left):
            if copy.about not in found or copy.value > found[copy.about].value:
                found[copy.about] = copy
        return [found[row] for row in rows if row in found]

    def _shares(self, row: str, texts: Sequence[str]) -> Copy | None:
        for text in texts:
            said = words(text)
            for at in range(len(said) - SHORT + 1):
                for run, n in self._runs.get(" ".join(said[at : at + SHORT]), ()):
                    if said[at : at + len(run)] == run:
                        item = self.items[n]
                        return Copy(about=row, benchmark=item.benchmark, item=item.id, how="words", value=len(run))
        return None

    def _alike(self, texts: Sequence[tuple[str, str]]) -> Iterator[Copy]:
        for at in range(0, len(texts) if self.items else 0, CHUNK):
            part = texts[at : at + CHUNK]
            vectors = self._weights.transform(self._counts.transform([text for _, text in part]))
            cosines = (vectors @ self._vectors).tocoo()
            near = cosines.data >= COSINE - 1e-6
            for k, n, value in zip(cosines.row[near], cosines.col[near], cosines.data[near], strict=True):
                item = self.items[int(n)]
                yield Copy(
                    about=part[int(k)][0],
                    benchmark=item.benchmark,
                    item=item.id,
                    how="cosine",
                    value=round(float(value), 4),
                )


def tfidf_parts() -> tuple[Any, Any]:
    """scikit-learn's, imported when needed. Hashed words, not a vocabulary: a word that no item has counts too."""
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    return HashingVectorizer, TfidfTransformer


def runs_of(texts: Sequence[tuple[str, ...]]) -> Runs:
    """Every run of 13 words (of a shorter item: all of it), by its first 8 words; with the number of its text."""
    runs: defaultdict[str, list[tuple[tuple[str, ...], int]]] = defaultdict(list)
    seen: set[tuple[str, ...]] = set()
    for n, said in enumerate(texts):
        length = min(RUN, len(said))
        for at in range(len(said) - length + 1 if length >= SHORT else 0):
            run = said[at : at + length]
            if run not in seen:
                seen.add(run)
                runs[" ".join(run[:SHORT])].append((run, n))
    return runs
