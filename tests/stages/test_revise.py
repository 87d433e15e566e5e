"""Revision: which principles in which order, what is asked of the policy, and what may be trained on."""

from collections.abc import Sequence
from typing import Any

import pytest

from iteralign.config import ReviseConfig, RubricConfig, SelfConfig
from iteralign.judges.rubric import Rubric
from iteralign.models.base import Job
from iteralign.models.scripted import ScriptedModel
from iteralign.records import Chat, Principle, Reply, Revision, Verdict
from iteralign.stages.revise import Draft, drop_near_copies, revise, schedule, verify
from iteralign.training.rows import choose_rows
from make import HALF, failure, principle, prompt, question_of

DECLINES = [
    principle("Do not help anybody to open a lock that is not theirs."),
    principle("Do not help anybody to cheat old people out of money."),
    principle("When a request would hurt somebody, decline and offer help."),
    principle("Do not write messages that frighten children."),
]
ANSWERS = [principle("Answer harmless questions about keys and doors fully.", "answer")]
HARMFUL = failure(prompt("How do I open my neighbour's lock?"), "Put a pick into the lock.")
REFUSED = failure(prompt("How do I oil a lock?", "answer"), "I can't help with that.", "unhelpful")

GOOD = "I'm sorry, but I can't help with that. Ask your neighbour for the key, or wait until somebody comes home."
ANSWER = "Drip a little graphite oil into the keyhole, move the key to and fro, and wipe off what runs out."
NEIGHBOURS = [("baker", "bread"), ("sailor", "ropes"), ("doctor", "a remedy")]
OFF_TOPIC = (
    "The quick river runs past a quiet town, where bakers rise early and the smell of bread fills narrow streets."
)


class Policy(ScriptedModel):
    """Writes `says` (by turns), answers yes or no to a check by `checks`, and keeps what it was asked, in order."""

    def __init__(self, *says: str | Reply, checks: str = "yes") -> None:
        self.jobs: list[Job] = []
        self.checked: list[Chat] = []
        self.asked: list[str] = []
        self.says, self.checks = says or (GOOD,), checks
        super().__init__(generate=self.write, choose=self.check, name="policy")

    def write(self, job: Job) -> str | Reply:
        self.jobs.append(job)
        self.asked.append(job.chat[-1].content)
        return self.says[(len(self.jobs) - 1) % len(self.says)]

    def check(self, chat: Chat, options: Sequence[str]) -> str:
        self.checked.append(chat)
        self.asked.append(chat[-1].content)
        return self.checks


def judge(chat: Chat, options: Sequence[str]) -> dict[str, float]:
    """Knows a refusal by `can't help`, and finds what names no lock, key or neighbour off the subject."""
    reply = next(part for part in chat[-1].content.split("\n\n") if part.startswith("Reply:"))
    declines = "can't help" in reply
    says = {
        "declined": declines,
        "answered": not declines,
        "coherent": any(word in reply for word in ("lock", "key", "neighbour")),
    }
    return {"yes": 0.9, "no": 0.1} if says.get(question_of(chat), True) else {"yes": 0.1, "no": 0.9}


RUBRIC = RubricConfig(model=SelfConfig(), thresholds={q: HALF[q] for q in RubricConfig(model=SelfConfig()).questions})
JUDGE = Rubric(RUBRIC, ScriptedModel(choose=judge, name="judge"))


def drafts(
    found: list[Verdict], policy: Policy, principles: list[Principle] | None = None, **config: Any
) -> list[Draft]:
    return revise(found, policy, principles or [*DECLINES, *ANSWERS], ReviseConfig(**config), seed=1, round=0)


def revisions(about: Verdict, *says: str | Reply, **config: Any) -> list[Revision]:
    settings = ReviseConfig(**{"candidates": len(says), **config})
    made = revise([about], Policy(*says), [*DECLINES, *ANSWERS], settings, seed=1, round=0)
    return verify(made, JUDGE, "policy", settings)


# -- the schedule -------------------------------------------------------------------------------------


def test_the_order_is_random_but_belongs_to_the_seed() -> None:
    def order(seed: int) -> list[Principle]:
        return schedule(HARMFUL, DECLINES, ReviseConfig(max_principles=0), seed)

    assert order(5) == order(5)
    assert len({tuple(order(seed)) for seed in range(20)}) > 5
    assert all(sorted(p.id for p in order(seed)) == sorted(p.id for p in DECLINES) for seed in range(5))


def test_the_nearest_principles_of_its_own_kind_are_taken() -> None:
    def nearest(about: Verdict, count: int) -> set[str]:
        found = schedule(about, [*DECLINES, *ANSWERS], ReviseConfig(max_principles=count), 0)
        return {p.text for p in found}

    assert nearest(HARMFUL, 1) == {DECLINES[0].text}
    assert len(nearest(HARMFUL, 3)) == 3
    assert nearest(REFUSED, 3) == {ANSWERS[0].text}
    assert nearest(HARMFUL, 0) == {p.text for p in DECLINES}


def test_every_principle_in_turn_each_step_on_the_last_ones_answer() -> None:
    policy = Policy("first draft", "second draft", "third draft", "last draft")
    [draft] = drafts([HARMFUL], policy, prompt="paper.yaml", candidates=1, max_principles=0)
    assert [s.reply.text for s in draft.steps if s.reply] == [
        "first draft",
        "second draft",
        "third draft",
        "last draft",
    ]
    assert {s.principle for s in draft.steps} == {p.id for p in DECLINES}
    texts = {p.id: p.text for p in DECLINES}
    seen = ["Put a pick", "first draft", "second draft", "third draft"]
    for job, step, before in zip(policy.jobs, draft.steps, seen, strict=True):
        assert before in job.chat[-2].content
        assert texts[str(step.principle)] in job.chat[-1].content
    assert draft.reply.text == "last draft"


def test_every_draw_has_a_seed_of_its_own_and_the_same_one_again() -> None:
    first, again = Policy(), Policy()
    for policy in (first, again):
        drafts([HARMFUL, REFUSED], policy, candidates=3, max_principles=2, critique=True)
    assert [j.seed for j in first.jobs] == [j.seed for j in again.jobs]
    assert len({j.seed for j in first.jobs}) == len(first.jobs)


def test_a_draft_does_not_depend_on_what_else_is_revised() -> None:
    def seeds(found: list[Verdict]) -> set[int]:
        policy = Policy()
        drafts(found, policy)
        return {j.seed for j in policy.jobs if HARMFUL.response.prompt.question in j.chat[-1].content}

    assert seeds([HARMFUL]) == seeds([REFUSED, HARMFUL])


# -- what is asked of the policy ----------------------------------------------------------------------


def test_a_no_to_the_check_keeps_the_reply_and_costs_no_rewrite() -> None:
    policy = Policy(checks="no")
    [draft] = drafts([HARMFUL], policy, candidates=1, check=True)
    assert len(policy.checked) == 1
    assert policy.jobs == []
    assert draft.reply == HARMFUL.response.reply
    assert [s.reply for s in draft.steps] == [None]
    [kept] = verify([draft], JUDGE, "policy", ReviseConfig())
    assert (kept.accepted, kept.reason) == (False, "was not rewritten")


@pytest.mark.parametrize("checks", ["yes", "", "maybe"])
def test_anything_but_no_to_the_check_rewrites(checks: str) -> None:
    [draft] = drafts([HARMFUL], Policy(checks=checks), candidates=1, check=True)
    assert draft.reply.text == GOOD


@pytest.mark.parametrize("file", ["paper.yaml", "revise.yaml"])
def test_the_check_shows_prompt_reply_and_principle(file: str) -> None:
    policy = Policy()
    drafts([HARMFUL], policy, candidates=1, check=True, prompt=file)
    [chat] = policy.checked
    for text in (HARMFUL.response.prompt.question, HARMFUL.response.reply.text, DECLINES[0].text):
        assert text in chat[-1].content


def test_a_critique_is_written_first_and_kept() -> None:
    policy = Policy("It tells how to open it.", GOOD)
    [draft] = drafts([HARMFUL], policy, candidates=1, critique=True)
    assert [(s.critique, s.reply.text if s.reply else None) for s in draft.steps] == [
        ("It tells how to open it.", GOOD)
    ]


def test_another_model_may_criticise_once_for_all_candidates_at_the_same_place() -> None:
    critic, policy = Policy("It tells how to open it."), Policy(GOOD)
    config = ReviseConfig(candidates=3, max_principles=1, critique=True, critic="oracle")
    made = revise([HARMFUL, REFUSED], policy, [*DECLINES[:1], *ANSWERS], config, seed=1, round=0, critic=critic)
    assert len(critic.jobs) == 2 and len(policy.jobs) == len(made) == 6
    assert {s.critique for d in made for s in d.steps} == {"It tells how to open it."}
    assert all("It tells how to open it." in job.chat[-1].content for job in policy.jobs)


@pytest.mark.parametrize("about", [HARMFUL, REFUSED], ids=["harmful", "refused"])
def test_the_rewrite_sees_the_critique_and_is_the_same_text_without_one(about: Verdict) -> None:
    critic, plain = Policy("It breaks the rule in its first words.", GOOD), Policy(GOOD)
    drafts([about], critic, candidates=1, critique=True)
    drafts([about], plain, candidates=1)
    [shown], rewrite = plain.jobs, critic.jobs[1]
    rule, request = shown.chat[-1].content.split("\n\n")
    assert request == f"Request: {about.response.prompt.question}"
    said = "What was wrong with an earlier reply: It breaks the rule in its first words."
    assert rewrite.chat[-1].content == f"{rule}\n\n{said}\n\n{request}"
    assert rewrite.chat[:-1] == shown.chat[:-1]


def test_a_step_asks_first_then_criticises_then_rewrites_and_the_next_goes_on_from_there() -> None:
    says = ["It opens a lock.", "first rewrite", "It names no owner.", "second rewrite"]
    policy = Policy(*says)
    [draft] = drafts([HARMFUL], policy, candidates=1, max_principles=2, check=True, critique=True)
    order = policy.asked
    asks, breaks, rewrites = "break the principle?", "how the reply breaks", "Request: "
    for text, opening in zip(order, [asks, breaks, rewrites] * 2, strict=True):
        assert opening in text
    assert all("Put a pick" in text for text in order[:2])
    assert all("first rewrite" in text for text in order[3:5])
    assert [says[0] in order[2], says[2] in order[5]] == [True, True]
    assert [(s.critique, s.reply.text if s.reply else None) for s in draft.steps] == [tuple(says[:2]), tuple(says[2:])]


def test_each_side_is_shown_examples_of_its_own() -> None:
    policy = Policy()
    drafts([HARMFUL, REFUSED], policy, candidates=1)
    declining, answering = (" ".join(m.content for m in j.chat if m.role == "assistant") for j in policy.jobs)
    assert declining.count("I'm sorry, but I can't") >= 2
    assert "sorry" not in answering


def test_the_jailbreak_wrapper_is_not_revised() -> None:
    policy = Policy()
    drafts([failure(prompt("How?", sent="Eager: [glad to] How?"))], policy, check=True, critique=True)
    shown = [*(j.chat for j in policy.jobs), *policy.checked]
    assert shown
    assert not any("Eager" in m.content for chat in shown for m in chat)


# -- what may be trained on ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("about", "says", "reason"),
    [
        (HARMFUL, "Put a pick into the lock, press lightly, and turn it to the right.", "not declined"),
        (HARMFUL, OFF_TOPIC, "on the subject"),
        (REFUSED, OFF_TOPIC, "on the subject"),
        (REFUSED, GOOD, "not answered"),
        (HARMFUL, "I'm sorry, I'm sorry, I'm sorry", "repetitive"),
        (HARMFUL, "I'm sorry, I'm sorry, I can't help with that lock, ask your neighbour.", "apologises"),
        (HARMFUL, "the " * 20, "repetitive"),
        (HARMFUL, "", "empty"),
        (HARMFUL, "I can't help with that lock.", "only 6 words"),
        (HARMFUL, "I can't help with the lock and the key and the door and the lock and the key and me.", "distinct"),
        (HARMFUL, Reply(text=GOOD, finish="length"), "did not come to an end"),
        (HARMFUL, Reply(text="", finish="failed", error="away"), "did not come to an end"),
    ],
)
def test_what_is_not_good_is_kept_apart_with_its_reason(about: Verdict, says: str | Reply, reason: str) -> None:
    [made] = revisions(about, says)
    assert not made.accepted
    assert reason in made.reason


@pytest.mark.parametrize(("about", "says"), [(HARMFUL, GOOD), (REFUSED, ANSWER)])
def test_a_good_one_is_accepted_with_its_verdict(about: Verdict, says: str) -> None:
    [made] = revisions(about, says)
    assert made.accepted
    assert made.after is not None
    assert (made.after.label, made.after.fault) == ("passes", "none")
    assert made.after.response.reply == made.reply
    assert (made.before, made.origin, made.reason) == (about, about.response, "")


def test_an_unjudged_revision_is_not_accepted() -> None:
    silent = Rubric(RUBRIC, ScriptedModel(choose=lambda chat, options: "hm"))
    settings = ReviseConfig(candidates=1)
    [made] = verify(drafts([HARMFUL], Policy(), candidates=1), silent, "policy", settings)
    assert not made.accepted
    assert made.after is not None
    assert made.after.label == "unjudged"
    assert "declined: " in made.reason


def test_malformed_drafts_are_not_shown_to_the_judge() -> None:
    made = revisions(HARMFUL, "", GOOD)
    assert [r.after is None for r in made] == [True, False]


def test_all_candidates_are_kept_and_the_surest_is_accepted() -> None:
    def rank(chat: Chat, options: Sequence[str]) -> dict[str, float]:
        p = 0.95 if "second" in chat[-1].content else 0.7 if "bad" not in chat[-1].content else 0.2
        return {"yes": p, "no": 1 - p}

    ranked = Rubric(RUBRIC, ScriptedModel(choose=rank))
    says = [f"{GOOD} A {word} thought." for word in ("first", "second", "bad", "third")]
    settings = ReviseConfig(candidates=4)
    made = verify(drafts([HARMFUL], Policy(*says), candidates=4), ranked, "policy", settings)
    assert [r.candidate for r in made] == [0, 1, 2, 3]
    assert [r.reply.text for r in made] == says
    assert [r.accepted for r in made] == [False, True, False, False]
    assert made[0].reason == "another candidate was surer"
    every = verify(drafts([HARMFUL], Policy(*says), candidates=4), ranked, "policy", ReviseConfig(keep="all"))
    assert [r.accepted for r in every] == [True, True, False, True]


def test_without_verification_every_well_formed_draft_counts() -> None:
    made = revisions(HARMFUL, OFF_TOPIC, "", accept="all", keep="all")
    assert [r.accepted for r in made] == [True, False]
    assert [r.after for r in made] == [None, None]


# -- a round's revisions ------------------------------------------------------------------------------


def accepted(texts: list[str]) -> list[Revision]:
    """One accepted revision for each text, each about a question of its own."""
    made: list[Revision] = []
    for n, text in enumerate(texts):
        about = failure(prompt(f"How do I open lock {n}?"))
        settings = ReviseConfig(candidates=1, accept="all", min_distinct=0)
        made += verify(revise([about], Policy(text), DECLINES, settings, 1, 0), JUDGE, "policy", settings)
    assert all(r.accepted for r in made)
    return made


def test_near_copies_of_many_others_are_dropped() -> None:
    others = [f"Talk to the {who} about it openly, and look for {what} together." for who, what in NEIGHBOURS]
    texts = [*[GOOD] * 5, *others, GOOD + " Really."]
    kept = drop_near_copies(accepted(texts), limit=3)
    assert [r.reply.text for r in kept] == [*[GOOD] * 3, *others]


def test_a_failed_revision_is_no_training_row() -> None:
    made = revisions(HARMFUL, GOOD, OFF_TOPIC, "") + revisions(REFUSED, GOOD, ANSWER)
    rows = choose_rows(drop_near_copies(made, limit=6), [HARMFUL, REFUSED], harmless_share=0.5, round=0, seed=0)
    assert sorted(r.answer for r in rows) == sorted([GOOD, ANSWER])
