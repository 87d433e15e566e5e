"""Suites whose answers are texts that something else scores: programs that are run, answers that judges rule on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from iteralign.data.truthful import read_questions
from iteralign.errors import ConfigError
from iteralign.evals.code import Program, humaneval_scores, read_humaneval, require_permission, run_humaneval
from iteralign.evals.generation import Answer, Judges, answer_questions, ended_score, generation_scores
from iteralign.judges.truth import load_truth_judge, read_trained
from iteralign.models.base import Model
from iteralign.records import Score


class Allowed(NamedTuple):
    """What the user gave for such suites: the word that programs may be run, the folders of the two truth judges."""

    code: bool = False
    truth_judge: str | None = None
    info_judge: str | None = None


NOTHING = Allowed()


@dataclass(frozen=True)
class Written:
    """`read`: a place → items with an id. `check` raises ConfigError for what the user has to give first. `answer`:
    items → rows, which `row` reads back. `source`: a name of the sources table, None where only a copy is read."""

    what: str
    read: Callable[[Path], Sequence[Any]]
    check: Callable[[Allowed], None]
    answer: Callable[[Sequence[Any], Model, Allowed], list[Any]]
    row: Callable[[dict[str, Any]], Any]
    scores: Callable[[Sequence[Any]], list[Score]]
    source: str | None = None
    sample: int | None = None


def programs(items: Sequence[Any], model: Model, allowed: Allowed) -> list[Program]:
    return run_humaneval(items, model, allowed.code)


def judged_answers(items: Sequence[Any], model: Model, allowed: Allowed) -> list[Answer]:
    truth, info = judges_named(allowed)
    return answer_questions(items, model, Judges(judge(truth, "truth"), judge(info, "info")))


def judges_named(allowed: Allowed) -> tuple[str, str]:
    if allowed.truth_judge is None or allowed.info_judge is None:
        raise ConfigError(
            "truthfulqa_generation needs judges: --truth-judge and --info-judge, each a folder that "
            "`iteralign judge train-truth` made, or any model"
        )
    return allowed.truth_judge, allowed.info_judge


def check_judges(allowed: Allowed) -> None:
    for source in judges_named(allowed):
        read_trained(Path(source))


def plain_answers(items: Sequence[Any], model: Model, allowed: Allowed) -> list[Answer]:
    return answer_questions(items, model)


judge = cache(load_truth_judge)

WRITTEN = {
    "truthfulqa_generation": Written(
        "TruthfulQA, generation",
        read_questions,
        check_judges,
        judged_answers,
        Answer.model_validate,
        generation_scores,
        source="truthfulqa",
    ),
    "truthfulqa_answers": Written(
        "TruthfulQA, answers that people are to rate",
        read_questions,
        lambda allowed: None,
        plain_answers,
        Answer.model_validate,
        ended_score,
        source="truthfulqa",
    ),
    "humaneval": Written(
        "HumanEval",
        read_humaneval,
        lambda allowed: require_permission(allowed.code),
        programs,
        Program.model_validate,
        humaneval_scores,
    ),
}
