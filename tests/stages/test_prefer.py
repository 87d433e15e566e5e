"""Preferences: the winner is the winner whatever the order, a liking for a place leaves no pair, ties leave none."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from datasets import load_dataset

from iteralign.config import PreferConfig
from iteralign.models.scripted import ScriptedModel
from iteralign.records import Chat, Preference, Principle, Reply, Revision, Step, Verdict
from iteralign.stages.prefer import (
    agreement,
    compare,
    contrast_preferences,
    pairs_to_compare,
    preferences,
    revision_preferences,
    sample,
)
from iteralign.store import write_rows
from make import failure, prompt, response, verdict

CONFIG = PreferConfig()
RULES = [Principle(id="kind", text="Be kind.", framing="do", kind="unknown")]


def judge(likes: Callable[[str, str], float]) -> ScriptedModel:
    """P(A) from the two replies as they stand in the question."""

    def choose(chat: Chat, options: Sequence[str]) -> dict[str, float]:
        first, second = chat[-1].content.split("Reply A:")[1].split("Reply B:")
        p = likes(first.strip(), second.split("\n")[0].strip())
        return {options[0]: p, options[1]: 1 - p}

    return ScriptedModel(choose=choose)


PAIRS = [(response(f"Question {n}?", f"good {n}"), response(f"Question {n}?", f"bad {n}")) for n in range(6)]
BY_ID = {r.id: r for pair in PAIRS for r in pair}


def preferred(likes: Callable[[str, str], float], config: PreferConfig = CONFIG) -> list[Preference]:
    return preferences(compare(PAIRS, RULES, judge(likes), config, 0, 0), BY_ID, "judge", 0)


def test_the_winner_is_the_winner_and_a_flipped_judge_flips_every_pair() -> None:
    good = preferred(lambda a, b: 0.9 if a.startswith("good") else 0.1)
    bad = preferred(lambda a, b: 0.1 if a.startswith("good") else 0.9)
    assert [p.chosen.text for p in good] == [f"good {n}" for n in range(6)]
    assert [(p.chosen, p.rejected) for p in bad] == [(p.rejected, p.chosen) for p in good]
    assert all(p.chosen != p.rejected and p.principle == "kind" for p in good + bad)


@pytest.mark.parametrize("p", [0.99, 0.01])
def test_a_judge_that_always_names_one_place_leaves_no_pair_and_is_seen_to_do_so(p: float) -> None:
    compared = compare(PAIRS, RULES, judge(lambda a, b: p), CONFIG, 0, 0)
    assert preferences(compared, BY_ID, "judge", 0) == []
    said = agreement(compared)
    assert (said.n, said.ties, said.unread) == (6, 6, 0)
    assert said.position_bias == pytest.approx(2 * p - 1, abs=1e-3)


def test_the_score_is_half_the_difference_of_the_log_odds() -> None:
    [made, *_] = compare(PAIRS, RULES, judge(lambda a, b: 0.8 if a.startswith("good") else 0.4), CONFIG, 0, 0)
    assert made.orders == (0.8, 0.4)
    assert made.score == pytest.approx((math.log(0.8 / 0.2) - math.log(0.4 / 0.6)) / 2, abs=1e-4)


def test_within_the_margin_it_is_a_tie() -> None:
    likes: Callable[[str, str], float] = lambda a, b: 0.6 if a.startswith("good") else 0.4  # noqa: E731
    assert len(preferred(likes, PreferConfig(margin=0.4))) == 6
    assert preferred(likes, PreferConfig(margin=0.41)) == []


def test_without_probabilities_disagreement_between_the_orders_is_a_tie() -> None:
    stubborn = ScriptedModel(choose=lambda chat, options: "A")
    assert preferences(compare(PAIRS, RULES, stubborn, CONFIG, 0, 0), BY_ID, "judge", 0) == []
    sure = ScriptedModel(choose=lambda chat, options: "A" if "Reply A: good" in chat[-1].content else "B")
    assert len(preferences(compare(PAIRS, RULES, sure, CONFIG, 0, 0), BY_ID, "judge", 0)) == 6


def test_what_cannot_be_read_leaves_no_pair() -> None:
    mute = ScriptedModel(choose=lambda chat, options: "what?")
    compared = compare(PAIRS, RULES, mute, CONFIG, 0, 0)
    assert agreement(compared).unread == 6 and preferences(compared, BY_ID, "judge", 0) == []


def test_a_principle_is_one_for_what_the_prompt_wants() -> None:
    rules = [
        Principle(id=kind, text=f"{kind}.", framing="do", kind=kind)  # type: ignore[arg-type]
        for kind in ("decline", "answer")
    ]
    harmless = [
        (response(prompt(f"Bread {n}?", "answer"), "a"), response(prompt(f"Bread {n}?", "answer"), "b"))
        for n in range(9)
    ]
    assert {c.principle for c in compare(harmless, rules, judge(lambda a, b: 0.7), CONFIG, 0, 0)} == {"answer"}
    drawn = [
        c.principle
        for c in compare(
            PAIRS, RULES * 1 + [RULES[0].model_copy(update={"id": "two"})], judge(lambda a, b: 0.7), CONFIG, 3, 0
        )
    ]
    assert set(drawn) == {"kind", "two"}


# -- which are compared ---------------------------------------------------------------------------------------


def judged(*answers: tuple[str, float]) -> list[Verdict]:
    return [verdict(response("Question?", text), "passes" if p >= 0.5 else "fails", declined=p) for text, p in answers]


def test_the_best_meets_the_worst_or_all_meet_all() -> None:
    samples = judged(("a", 0.2), ("b", 0.9), ("c", 0.6), ("d", 0.1))
    [(best, worst)] = pairs_to_compare(samples, CONFIG)
    assert (best.reply.text, worst.reply.text) == ("b", "d")
    assert len(pairs_to_compare(samples, PreferConfig(pairs="all"))) == 6


def test_equal_unjudged_and_failed_answers_are_not_compared() -> None:
    same = judged(("a", 0.2), ("a ", 0.9))
    assert pairs_to_compare(same, CONFIG) == []
    lost = verdict(response("Question?", Reply(text="", finish="failed", error="gone")), "unjudged", "none")
    assert pairs_to_compare([*judged(("a", 0.2)), lost], PreferConfig(pairs="all")) == []


def test_each_sample_is_a_draw_of_its_own() -> None:
    policy = ScriptedModel(generate=lambda job: f"draw {job.seed % 10**9}")
    made = sample([prompt("One?"), prompt("Two?")], policy, CONFIG, 0, 0)
    assert [r.prompt.question for r in made] == ["One?"] * 4 + ["Two?"] * 4
    assert len({r.reply.text for r in made}) == 8
    assert made == sample([prompt("One?"), prompt("Two?")], policy, CONFIG, 0, 0)


# -- from revisions -------------------------------------------------------------------------------------------


def revised(before: Verdict, text: str, after: Verdict | None, accepted: bool) -> Revision:
    step = Step(principle="kind", critique="", reply=Reply(text=text, finish="stop"))
    return Revision(origin=before.response, before=before, candidate=0, steps=(step,), after=after, accepted=accepted)


def test_an_accepted_revision_stands_over_the_answer_that_failed() -> None:
    bad = failure("How do I steal?", "Like this.")
    good = revised(bad, "I'd rather not.", verdict(response("How do I steal?", "I'd rather not.")), True)
    [made] = revision_preferences([good, revised(bad, "No.", None, False)], 3)
    assert (made.chosen.text, made.rejected.text, made.origin, made.round) == (
        "I'd rather not.",
        "Like this.",
        "revision",
        3,
    )


def test_a_good_answer_stands_over_a_refusal_of_a_harmless_prompt_and_nothing_else() -> None:
    asked = prompt("How do I bake?", "answer")
    good = verdict(response(asked, "Mix and bake."))
    refusal = verdict(response(asked, "I can't."), "fails", "unhelpful")
    fine = verdict(response(asked, "Knead first."))
    [made] = contrast_preferences(
        [revised(good, "I can't.", refusal, False), revised(good, "Knead first.", fine, True)], 0
    )
    assert (made.chosen.text, made.rejected.text, made.wants) == ("Mix and bake.", "I can't.", "answer")


# -- on disk --------------------------------------------------------------------------------------------------


def test_the_file_is_trls_conversational_format_and_reads_back(tmp_path: Path) -> None:
    made = preferred(lambda a, b: 0.9 if a.startswith("good") else 0.1)
    path = tmp_path / "preferences.jsonl"
    write_rows(path, [p.row() for p in made])
    rows = load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    first = rows[0]
    assert first["prompt"] == [{"role": "user", "content": "Question 0?"}]
    assert first["chosen"] == [{"role": "assistant", "content": "good 0"}]
    assert first["rejected"] == [{"role": "assistant", "content": "bad 0"}]
    assert [Preference.from_row(p.row()) for p in made] == made
