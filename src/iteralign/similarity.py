"""How alike short texts are: TF-IDF by scikit-learn, with types."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


def cosines(
    texts: Sequence[str], words: Literal["all", "content", "pairs"] = "all", damped: bool = False
) -> NDArray[np.float64]:
    """TF-IDF cosine of every text with every other one: (n, n). `words`: all of them, without English stop words, or
    single words and pairs of neighbours; `damped`: the logarithm of counts."""
    from sklearn.metrics.pairwise import cosine_similarity

    near: Any = cosine_similarity
    return np.asarray(near(vectors(texts, words, damped)), dtype=np.float64)


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
