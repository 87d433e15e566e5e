"""How alike short texts are: TF-IDF by scikit-learn, with types."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

BLOCK = 500


def cosines(
    texts: Sequence[str], words: Literal["all", "content", "pairs"] = "all", damped: bool = False
) -> NDArray[np.float64]:
    """TF-IDF cosine of every text with every other one: (n, n). `words`: all of them, without English stop words, or
    single words and pairs of neighbours; `damped`: the logarithm of counts."""
    from sklearn.metrics.pairwise import cosine_similarity

    near: Any = cosine_similarity
    return np.asarray(near(vectors(texts, words, damped)), dtype=np.float64)


def near_pairs(texts: Sequence[str], bound: float) -> Iterator[tuple[int, int, float]]:
    """Positions i < j of texts whose cosine over words and pairs of neighbours is `bound` or more, with that cosine."""
    try:
        rows = vectors(texts, "pairs", False)
    except ValueError:  # no text holds a word
        return
    for start in range(0, len(texts), BLOCK):  # (n, n) at once does not fit into memory where n is large
        near = (rows[start : start + BLOCK] @ rows.T).tocoo()
        for i, j, cosine in zip(near.row, near.col, near.data, strict=True):
            if start + i < j and cosine >= bound:
                yield int(start + i), int(j), float(cosine)


def thinned(texts: Sequence[str], bound: float, limit: int) -> list[int]:
    """Positions of the texts that are kept when each goes in turn unless `limit` kept ones are as near as `near_pairs` says."""
    try:
        rows = vectors(texts, "pairs", False)
    except ValueError:  # no text holds a word
        return list(range(len(texts)))
    kept: list[int] = []
    for start in range(0, len(texts), BLOCK):
        block = rows[start : start + BLOCK]
        known = np.asarray((block @ rows[kept].T >= bound).sum(axis=1)).ravel()
        near, own = (block @ block.T).toarray() >= bound, list[int]()
        for k in range(len(near)):
            if known[k] + near[k, own].sum() < limit:
                own.append(k)
        kept += [start + k for k in own]
    return kept


def clusters(texts: Sequence[str], count: int, seed: int) -> list[int]:
    """The cluster of each text, 0 to count - 1, by K-means on TF-IDF without English stop words."""
    from sklearn.cluster import KMeans

    kmeans: Any = KMeans
    labels = kmeans(count, random_state=seed % 2**32, n_init=4).fit_predict(vectors(texts, "content", False))
    return [int(label) for label in labels]


def vectors(texts: Sequence[str], words: Literal["all", "content", "pairs"], damped: bool) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    tfidf: Any = TfidfVectorizer
    return tfidf(
        stop_words="english" if words == "content" else None,
        ngram_range=(1, 2) if words == "pairs" else (1, 1),
        sublinear_tf=damped,
    ).fit_transform(texts)
