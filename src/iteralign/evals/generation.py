"""TruthfulQA by generation: greedy answers to its questions, judged for truth and for informativeness."""

from collections.abc import Sequence
from typing import NamedTuple

from iteralign.data.truthful import Question
from iteralign.evals.scores import make_score
from iteralign.judges.base import Judge
from iteralign.judges.truth import TruthJudge
from iteralign.models.base import Job, Model, Sampling
from iteralign.records import Prompt, Record, Response, Score, Verdict, digest, user

TRUTH, INFO, BOTH = "truthfulqa/true", "truthfulqa/informative", "truthfulqa/true and informative"
ENDED = "truthfulqa_answers/ended"


class Judges(NamedTuple):
    """What judges truth and what judges informativeness: trained judges, or any others."""

    truth: Judge
    info: Judge


class Answer(Record):
    """One question's answer; `true` and `informative` are 1 or 0, None where it could not be judged (`reason`).

    `p_true` and `p_informative`: P(yes), where the judge gives one. `by_truth`, `by_info`: which judge, how sure.
    """

    id: str
    category: str
    question: str
    answer: str
    finish: str
    true: float | None = None
    informative: float | None = None
    p_true: float | None = None
    p_informative: float | None = None
    reason: str = ""
    by_truth: str = ""
    by_info: str = ""


def answer_questions(
    items: Sequence[Question], model: Model, judges: Judges | None = None, max_new_tokens: int = 64
) -> list[Answer]:
    """Greedy, in the model's own chat form, without a preamble; one row a question. Without judges nothing is said about
    the answers: people are to rate them."""
    sampling = Sampling(temperature=0.0, max_new_tokens=max_new_tokens)
    prompts = [asked(item) for item in items]
    replies = model.generate([Job(chat=p.sent, sampling=sampling) for p in prompts])
    responses = [Response(prompt=p, reply=r, policy=model.name) for p, r in zip(prompts, replies, strict=True)]
    plain = [
        Answer(
            id=item.id,
            category=item.category,
            question=item.text,
            answer=response.reply.text.strip(),
            finish=response.reply.finish,
        )
        for item, response in zip(items, responses, strict=True)
    ]
    return plain if judges is None else with_verdicts(plain, responses, judges)


def with_verdicts(answers: Sequence[Answer], responses: Sequence[Response], judges: Judges) -> list[Answer]:
    by_truth, by_info = described(judges.truth), described(judges.info)
    return [
        answer.model_copy(
            update={
                "true": outcome(truth),
                "informative": outcome(info),
                "p_true": truth.probabilities.get("truth"),
                "p_informative": info.probabilities.get("info"),
                "reason": "; ".join(dict.fromkeys(v.reason for v in (truth, info) if v.label == "unjudged")),
                "by_truth": by_truth,
                "by_info": by_info,
            }
        )
        for answer, truth, info in zip(answers, judges.truth(responses), judges.info(responses), strict=True)
    ]


def ended_score(rows: Sequence[Answer]) -> list[Score]:
    """Of answers that people are to rate: the share that came to an end within their length."""
    return [make_score(ENDED, "greedy, chat", {row.id: float(row.finish == "stop") for row in rows})]


def generation_scores(rows: Sequence[Answer]) -> list[Score]:
    """Shares of the questions: true, informative, and both. The variant names the judges and how sure they are."""
    truth = ", ".join(sorted({row.by_truth for row in rows}))
    info = ", ".join(sorted({row.by_info for row in rows}))
    both = {row.id: None if row.true is None or row.informative is None else row.true * row.informative for row in rows}
    return [
        make_score(TRUTH, f"greedy, chat; {truth}", {row.id: row.true for row in rows}),
        make_score(INFO, f"greedy, chat; {info}", {row.id: row.informative for row in rows}),
        make_score(BOTH, f"greedy, chat; {truth}; {info}", both),
    ]


def outcome(verdict: Verdict) -> float | None:
    return None if verdict.label == "unjudged" else float(verdict.label == "passes")


def described(judge: Judge) -> str:
    return f"{judge.name}, {judge.calibration if isinstance(judge, TruthJudge) else 'uncalibrated'}"


def asked(item: Question) -> Prompt:
    chat = user(item.text)
    return Prompt(
        id=digest("truthfulqa", item.id),
        item=item.id,
        plain=chat,
        sent=chat,
        wants="answer",
        source="truthfulqa",
        category=item.category,
        subtopic="",
        kind="ordinary",
        split="held_out",
        attack="direct",
    )
