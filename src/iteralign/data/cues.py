"""Whether the mere form of a question tells which side it is on: its first two words, its length."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

ENOUGH = 40  # questions a side: with fewer the standard error of an AUC is over 0.06
FOLDS = 5


@dataclass(frozen=True)
class Cues:
    """AUC of harmful against harmless, 0.5 where the form says nothing: by the first two words, on subtopics that the
    regression was not fitted on, and by the number of words."""

    opening: float
    length: float


def cues(harmful: Sequence[str], harmless: Sequence[str], subtopics: Sequence[str]) -> Cues | None:
    """`subtopics`: of the harmful questions, then of the harmless ones. None where there are too few to say."""
    sides = np.array([1] * len(harmful) + [0] * len(harmless))
    if min(len(harmful), len(harmless)) < ENOUGH or len(set(subtopics)) < 2 * FOLDS:
        return None
    questions = [*harmful, *harmless]
    opening = _by_opening(questions, sides, subtopics)
    return None if opening is None else Cues(opening, _auc(sides, [len(q.split()) for q in questions]))


def _by_opening(questions: Sequence[str], sides: Any, subtopics: Sequence[str]) -> float | None:
    """The mean over the folds that hold both sides. Pooled scores would mix the folds' own intercepts."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold

    count: Any = CountVectorizer(token_pattern=r"\S+", ngram_range=(1, 2), binary=True)
    words = count.fit_transform([" ".join(question.split()[:2]) for question in questions])
    found: list[float] = []
    for fitted, left in StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(words, sides, subtopics):
        if len(set(sides[left])) == len(set(sides[fitted])) == 2:
            model: Any = LogisticRegression(max_iter=1000).fit(words[fitted], sides[fitted])
            found.append(_auc(sides[left], model.decision_function(words[left])))
    return float(np.mean(found)) if found else None


def _auc(sides: Any, scores: Any) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(sides, scores))
