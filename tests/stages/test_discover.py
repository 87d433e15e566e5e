"""Discovery: the oracle sees what failed with what was asked, in groups; principles gather, doubles merge."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from iteralign.config import DiscoverConfig
from iteralign.errors import NotApplicable
from iteralign.models.base import Job
from iteralign.models.scripted import ScriptedModel
from iteralign.prompts import load_prompt
from iteralign.records import Chat, Choice, Constitution, Reply, Verdict
from iteralign.stages.discover import Discovery, FailedCall, discover, group_failures
from make import failure, principle, prompt

LOCKS = "Do not help anybody to open a lock that is not theirs."
DOORS = "Do not help anybody to open a door that is not their own."
LOCKS_AGAIN = "Do not help anybody to open a lock which is not theirs."
SCAMS = "When somebody wants to cheat old people, decline and offer a fair way."
OPEN = "Answer harmless questions about keys and doors fully."


class Oracle(ScriptedModel):
    """Says the given lists one call after the other, the last one for ever, and keeps what it was shown.

    `same` is what it says to every question whether two rules are the same; `asked` keeps those questions.
    """

    def __init__(self, *says: str | Reply, same: str = "no") -> None:
        self.shown: list[str] = []
        self.jobs: list[Job] = []
        self.asked: list[str] = []
        self.says = says
        self.same = same
        super().__init__(generate=self.answer, choose=self.compare)

    def compare(self, chat: Chat, options: Sequence[str]) -> str:
        self.asked.append(chat[-1].content)
        return self.same

    def answer(self, job: Job) -> str | Reply:
        self.shown.append(job.chat[-1].content)
        self.jobs.append(job)
        return self.says[min(len(self.shown), len(self.says)) - 1]


def failures(count: int, category: Callable[[int], str] = lambda n: "locks") -> list[Verdict]:
    return [
        failure(prompt(f"How do I open door{n}?", category=category(n)), f"Kick it {n} times.") for n in range(count)
    ]


def refused(count: int) -> list[Verdict]:
    asked = [prompt(f"Where is the key of room{n}?", "answer") for n in range(count)]
    return [failure(a, f"I can't help with room{n}.", "unhelpful") for n, a in enumerate(asked)]


def run(found: list[Verdict], oracle: Oracle, constitution: Constitution | None = None, **config: Any) -> Discovery:
    return discover(found, oracle, constitution or Constitution(), DiscoverConfig(**config), seed=1, round=2)


@pytest.mark.parametrize("file", ["propose.yaml", "paper.yaml"])
def test_the_oracle_sees_every_pair_of_a_group(file: str) -> None:
    oracle = Oracle(f"1. {LOCKS}")
    run(failures(3), oracle, prompt=file)
    [shown] = oracle.shown
    for n in range(3):
        assert f"How do I open door{n}?" in shown
        assert f"Kick it {n} times." in shown


def test_a_jailbreak_wrapper_is_not_shown() -> None:
    oracle = Oracle("none")
    run([failure(prompt("How?", sent="Eager: [I will be glad] How?"))], oracle)
    assert "Eager" not in oracle.shown[0]


@pytest.mark.parametrize("group_by", ["category", "clusters", "none"])
@pytest.mark.parametrize("count", [1, 8, 9, 30])
def test_every_failure_is_in_one_group_that_is_not_too_large(group_by: str, count: int) -> None:
    found = failures(count, lambda n: f"category {n % 4}") + refused(count)
    config = DiscoverConfig(group_by=group_by, group_size=8)  # type: ignore[arg-type]
    groups = group_failures(found, config, seed=3)
    assert sorted(v.id for g in groups for v in g) == sorted(v.id for v in found)
    assert max(map(len, groups)) <= 8
    assert group_failures(found, config, seed=3) == groups
    for group in groups:
        assert len({v.fault for v in group}) == 1, "both sides in one group"


def test_a_category_that_fits_in_one_call_stays_together() -> None:
    found = failures(15, lambda n: "abc"[n % 3])
    groups = group_failures(found, DiscoverConfig(group_size=8), seed=0)
    homes = [{v.response.prompt.category for v in g} for g in groups]
    assert [sum(c in home for home in homes) for c in "abc"] == [1, 1, 1]


def test_both_sides_are_asked_about_in_turns_and_give_their_own_kind() -> None:
    oracle = Oracle(f"1. {LOCKS}", f"1. {OPEN}")
    found = run(failures(20) + refused(2), oracle, max_calls=2)
    for shown, key in zip(oracle.shown, ("harmful", "unhelpful"), strict=True):
        opening = (
            load_prompt("propose.yaml").chat(key, pairs=[], known=[], count=3, json=True)[-1].content.split("\n")[0]
        )
        assert shown.startswith(opening)
    assert [(p.text, p.kind) for p in found.met] == [(LOCKS, "decline"), (OPEN, "answer")]


def test_no_more_calls_than_allowed_the_largest_groups_first() -> None:
    oracle = Oracle("none")
    run(failures(21), oracle, max_calls=2, group_size=8, group_by="none")
    assert [shown.count("Kick it") for shown in oracle.shown] == [8, 8]
    assert len({job.seed for job in oracle.jobs}) == 2


def test_known_rules_of_the_kind_are_shown_old_ones_and_those_just_found() -> None:
    oracle = Oracle(f"1. {SCAMS}", "none")
    known = Constitution(principles=(principle(LOCKS), principle(OPEN, "answer")))
    run(failures(10), oracle, known)
    first, second = oracle.shown
    assert (LOCKS in first, SCAMS in first, OPEN in first) == (True, False, False)
    assert (LOCKS in second, SCAMS in second) == (True, True)


def test_the_constitution_grows_and_a_near_duplicate_merges_into_the_older() -> None:
    old = principle(LOCKS)
    found = run(failures(2), Oracle(f"1. {LOCKS_AGAIN}\n2. {SCAMS}"), Constitution(principles=(old,)))
    assert [p.text for p in found.constitution.principles] == [LOCKS, SCAMS]
    assert found.met == (old, found.constitution.principles[1]), "an old principle that was met again is of this round"
    merged, proposed = found.ledger
    assert (merged.event, merged.into, merged.reason) == ("merged", old.id, LOCKS_AGAIN)
    assert (proposed.event, proposed.principle) == ("proposed", found.met[1].id)
    assert {e.round for e in found.ledger} == {2}
    assert {e.evidence for e in found.ledger} == {tuple(v.response.prompt.id for v in failures(2))}


def test_the_same_words_for_the_other_side_are_another_principle() -> None:
    known = Constitution(principles=(principle(LOCKS, "answer"),))
    assert len(run(failures(1), Oracle(f"1. {LOCKS}"), known).constitution.principles) == 2


def test_without_accumulation_only_this_rounds_principles_stay() -> None:
    found = run(failures(1), Oracle(f"1. {SCAMS}"), Constitution(principles=(principle(LOCKS),)), accumulate=False)
    assert [p.text for p in found.constitution.principles] == [SCAMS]


@pytest.mark.parametrize("said", ["none", "", "I'm sorry, I can't do that.", "[]", '{"principles": []}'])
def test_no_principle_is_a_good_answer(said: str) -> None:
    known = Constitution(principles=(principle(SCAMS),))
    found = run(failures(1), Oracle(said), known)
    assert found == Discovery(known, (), (), 1, ())


def test_a_call_that_failed_is_no_empty_list() -> None:
    broken = Reply(text=f"1. {LOCKS}", finish="failed", error="quota")
    found = run(failures(24), Oracle(f"1. {SCAMS}", broken, "none"), group_by="none")
    assert (found.calls, found.failed) == (3, (FailedCall(1, "quota"),))
    assert [p.text for p in found.constitution.principles] == [SCAMS]


# -- what the reply should be -------------------------------------------------------------------------


@pytest.mark.parametrize("about", [failures(1), refused(1)], ids=["harmful", "unhelpful"])
def test_a_schema_holds_the_reply_to_so_many_principles_and_the_words_say_it_too(about: list[Verdict]) -> None:
    oracle = Oracle(json.dumps({"principles": [LOCKS, SCAMS]}))
    found = run(about, oracle, per_call=2)
    [job] = oracle.jobs
    assert job.json_schema is not None
    assert job.json_schema["properties"]["principles"]["maxItems"] == 2
    text = " ".join(message.content for message in job.chat)
    assert '{"principles": [' in text
    assert "empty list" in text
    assert "numbered" not in text
    assert [p.text for p in found.met] == [LOCKS, SCAMS]


def test_without_a_schema_a_numbered_list_is_asked_for() -> None:
    oracle = Oracle("none")
    run(failures(1), oracle, json_schema=False)
    [job] = oracle.jobs
    assert job.json_schema is None
    said = (
        "You write the rules of conduct of an AI assistant. You answer with a numbered list of rules and nothing else."
    )
    assert job.chat[0].content == said
    assert job.chat[1].content.endswith('If the rules above cover everything, write "none".')


def test_the_papers_text_goes_without_a_schema_and_asks_nothing_more() -> None:
    oracle = Oracle(f"1. {LOCKS}\n2. {DOORS}", same="yes")
    assert len(run(failures(1), oracle, prompt="paper.yaml", ask_cosine=0.0).met) == 2
    assert oracle.jobs[0].json_schema is None
    assert oracle.asked == []


# -- what merges --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("says", "merges", "reason"),
    [("yes", True, DOORS), ("no", False, ""), ("Hard to tell.", False, "did not say whether")],
)
def test_the_oracle_is_asked_about_principles_that_are_alike(says: str, merges: bool, reason: str) -> None:
    known = Constitution(principles=(principle(SCAMS), principle(LOCKS)))
    oracle = Oracle(f"1. {DOORS}", same=says)
    found = run(failures(1), oracle, known, duplicate_cosine=0.8)
    assert oracle.asked == [
        f"Rule 1: {LOCKS}\nRule 2: {DOORS}\n\nDo both rules ask for the same thing? Answer yes or no."
    ]
    assert len(found.constitution.principles) == (2 if merges else 3)
    [entry] = found.ledger
    assert (entry.event, entry.into) == (("merged", principle(LOCKS).id) if merges else ("proposed", None))
    assert (entry.value is not None and 0.2 <= entry.value < 0.8) == merges
    assert reason in entry.reason


@pytest.mark.parametrize(
    "settings",
    [
        {"ask_cosine": None, "duplicate_cosine": 0.8},
        {"ask_cosine": 0.79, "duplicate_cosine": 0.8},
        {"duplicate_cosine": 0.1},
    ],
    ids=["switched off", "not alike", "as good as equal"],
)
def test_nothing_is_asked_where_the_words_decide(settings: dict[str, Any]) -> None:
    oracle = Oracle(f"1. {DOORS}", same="yes")
    found = run(failures(1), oracle, Constitution(principles=(principle(LOCKS),)), **settings)
    assert oracle.asked == []
    assert [e.event for e in found.ledger] == ["merged" if settings["duplicate_cosine"] == 0.1 else "proposed"]


def test_there_is_one_question_for_a_principle_however_many_are_alike() -> None:
    known = Constitution(principles=tuple(principle(f"Do not open the {x} door of strangers.") for x in "abcdef"))
    oracle = Oracle("1. Do not open the back door of strangers.\n2. Do not open the front gate of strangers.")
    run(failures(1), oracle, known, duplicate_cosine=1.0, ask_cosine=0.0)
    assert len(oracle.asked) == 2


def test_an_oracle_that_cannot_be_asked_merges_nothing() -> None:
    class Writer(Oracle):
        def choose(self, chats: Sequence[Chat], options: Sequence[str]) -> list[Choice]:
            raise NotApplicable("it only writes")

    found = run(failures(1), Writer(f"1. {LOCKS}\n2. {DOORS}"), duplicate_cosine=0.8)
    assert [p.text for p in found.met] == [LOCKS, DOORS]
    assert "it only writes" in found.ledger[1].reason


def test_a_talkative_oracle_is_cut_to_what_was_asked_for() -> None:
    says = "\n".join(f"{n}. {text}" for n, text in enumerate([LOCKS, SCAMS, OPEN], 1))
    assert [p.text for p in run(failures(1), Oracle(says), per_call=2).met] == [LOCKS, SCAMS]


def test_a_long_reply_is_shown_by_its_beginning() -> None:
    oracle = Oracle("none")
    run([failure("How?", " ".join(f"word{n}" for n in range(300)))], oracle)
    assert "word59" in oracle.shown[0]
    assert "word60" not in oracle.shown[0]


def test_a_principle_keeps_its_id_and_says_whether_it_forbids() -> None:
    [first] = run(failures(1), Oracle(f"1. {LOCKS}")).met
    [again] = run(failures(3), Oracle(f"- {LOCKS}")).met
    assert first == again
    assert first.framing == "dont"
    assert run(failures(1), Oracle(f"1. {SCAMS}")).met[0].framing == "do"
