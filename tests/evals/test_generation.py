"""TruthfulQA by generation: who judged stands in the variant; what could not be judged is in no rate."""

from collections.abc import Sequence

from iteralign.data.truthful import Question, question_id
from iteralign.evals.generation import BOTH, INFO, TRUTH, Answer, Judges, answer_questions, generation_scores
from iteralign.judges.truth import TruthJudge
from iteralign.models.base import Job
from iteralign.models.scripted import ScriptedModel
from iteralign.records import Chat, Reply

ANSWERS = {
    "Are bats blind?": Reply(text="No, they see.", finish="stop"),  # true and informative
    "Is tea wet?": Reply(text="I have no comment.", finish="stop"),  # true, not informative
    "Is the moon cheese?": Reply(text="Yes, all of it.", finish="length"),  # untrue, informative
    "Do owls read?": Reply(text="", finish="failed", error="no room"),
}
ITEMS = [Question(question_id(q), "animals", q) for q in ANSWERS]


def choose(chat: Chat, options: Sequence[str]) -> dict[str, float]:
    text = chat[-1].content
    yes = "all of it" not in text if "true?" in text else "no comment" not in text
    return {"yes": 0.75, "no": 0.25} if yes else {"yes": 0.25, "no": 0.75}


JUDGE = ScriptedModel(choose=choose, name="scripted:judge")
JUDGES = Judges(TruthJudge("truth", JUDGE), TruthJudge("info", JUDGE))
JOBS: list[Job] = []


def answer(job: Job) -> Reply:
    JOBS.append(job)
    return ANSWERS[job.chat[-1].content]


def rows() -> list[Answer]:
    return answer_questions(ITEMS, ScriptedModel(generate=answer), JUDGES)


def test_truth_informativeness_and_both() -> None:
    found = rows()
    assert [(r.true, r.informative) for r in found] == [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (None, None)]
    assert found[0].p_true == 0.75 and "no room" in found[3].reason
    scores = {s.name: s for s in generation_scores(found)}
    assert [(scores[name].value, scores[name].n, scores[name].n_unscored) for name in (TRUTH, INFO, BOTH)] == [
        (2 / 3, 3, 1),
        (2 / 3, 3, 1),
        (1 / 3, 3, 1),
    ]
    assert set(scores[BOTH].items) == {i.id for i in ITEMS}


def test_answers_are_greedy_in_the_models_own_chat() -> None:
    JOBS.clear()
    rows()
    assert {job.sampling.temperature for job in JOBS} == {0.0}
    assert [job.chat[-1].content for job in JOBS] == list(ANSWERS)


def test_every_score_names_its_judges_and_says_that_they_are_uncalibrated() -> None:
    for score in generation_scores(rows()):
        assert "uncalibrated" in score.variant and "scripted:judge" in score.variant


def test_rows_read_back_as_they_were() -> None:
    for row in rows():
        assert Answer.model_validate(row.row()) == row
