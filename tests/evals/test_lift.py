"""What a principle is worth: a useless one is retired after enough pairs and not before, a good one stays."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from iteralign.config import LiftConfig, ReviseConfig, RubricConfig, SelfConfig, load_config
from iteralign.evals.lift import MOST, Lift, Trial, entries, hold_back, lift, passes, to_measure, trials
from iteralign.judges.rubric import Rubric
from iteralign.ledger import read_ledger
from iteralign.models.base import Job
from iteralign.models.scripted import ScriptedModel, ScriptedPolicy, judge_script
from iteralign.plan import plan
from iteralign.recipes.iteralign import iteralign
from iteralign.records import Constitution, LedgerEntry, Principle, Revision, Step, user
from iteralign.report.markdown import markdown_report
from iteralign.report.summary import summarise
from iteralign.runs import open_
from iteralign.store import read_rows
from make import HALF, prompt, response, verdict

SCRIPTED = Path(__file__).parents[2] / "configs/scripted.yaml"
SETTINGS = LiftConfig(budget=8)
GOOD = Principle(id="good", text="Decline what hurts people.", framing="do", kind="decline")
USELESS = Principle(id="useless", text="Write in the present tense.", framing="do", kind="decline")
SPOILS = Principle(id="spoils", text="Decline everything at once.", framing="do", kind="decline")


def pairs(name: str, n: int, mends: float, bare: float, harmless: float = 1.0, seed: int = 0) -> list[Trial]:
    draw = random.Random(seed)

    def hit(p: float) -> float:
        return float(draw.random() < p)

    failures = [
        Trial(principle=name, prompt=f"{k}", side="failure", revised=hit(mends), without=hit(bare)) for k in range(n)
    ]
    other = [
        Trial(principle=name, prompt=f"h{k}", side="harmless", revised=hit(harmless), without=1.0) for k in range(n)
    ]
    return failures + other


# -- the figure -----------------------------------------------------------------------------------------------


def test_a_good_principle_is_accepted_and_a_harmful_one_retired_after_enough_pairs() -> None:
    good, bad = lift("good", pairs("good", 60, 0.8, 0.3)), lift("bad", pairs("bad", 60, 0.3, 0.6))
    assert good.value == pytest.approx(0.5, abs=0.15) and good.outcome(SETTINGS) == "accepted"
    assert bad.value is not None and bad.value < 0 and bad.outcome(SETTINGS) == "retired"
    few = lift("bad", pairs("bad", 20, 0.0, 0.9))
    assert few.high is not None and few.high < 0, "the case is not the one that was meant"
    assert few.outcome(SETTINGS) == "unproven", "twenty pairs retire nothing"


def test_what_it_spoils_on_harmless_answers_is_taken_off() -> None:
    kept, spoilt = lift("p", pairs("p", 80, 0.8, 0.3)), lift("p", pairs("p", 80, 0.8, 0.3, harmless=0.2))
    assert kept.value is not None and spoilt.value is not None
    assert kept.value - spoilt.value == pytest.approx(0.8, abs=0.1)
    assert (kept.outcome(SETTINGS), spoilt.outcome(SETTINGS)) == ("accepted", "retired")


def test_a_useless_principle_goes_where_a_gain_is_asked_for() -> None:
    found = lift("p", pairs("p", 400, 0.5, 0.5))
    assert found.outcome(SETTINGS) == "unproven"
    assert found.outcome(SETTINGS.model_copy(update={"min": 0.2})) == "retired"


def test_the_interval_covers_the_truth() -> None:
    inside = 0
    for seed in range(200):
        found = lift("p", pairs("p", 50, 0.7, 0.4, harmless=0.9, seed=seed))
        assert found.low is not None and found.high is not None
        inside += found.low <= 0.3 - 0.1 <= found.high
    assert 184 <= inside <= 200


def test_unjudged_pairs_enter_nothing() -> None:
    lost = [Trial(principle="p", prompt=f"{k}", side="failure", revised=None, without=1.0) for k in range(50)]
    assert lift("p", lost) == Lift("p", None, None, None, 0)
    assert lift("p", lost).outcome(SETTINGS) == "unproven"
    assert lift("p", [*lost, *pairs("p", 60, 0.8, 0.3)]).n == 60


def test_the_ledger_says_why() -> None:
    made = entries([lift("good", pairs("good", 60, 0.9, 0.1)), lift("bad", pairs("bad", 60, 0.1, 0.9))], SETTINGS, 3)
    assert [(e.principle, e.event, e.round) for e in made] == [("good", "accepted", 3), ("bad", "retired", 3)]
    assert "60 pairs" in made[1].reason and made[1].value is not None and made[1].value < 0


# -- the pairs ------------------------------------------------------------------------------------------------


def policy(asked: list[tuple[str, int]]) -> ScriptedModel:
    """Declines what its principle tells it to, and nothing without one."""

    def answer(job: Job) -> str:
        text = job.chat[-1].content
        asked.append((text.split("\n\n")[0], job.seed))
        declines = text.startswith(SPOILS.text) or (text.startswith(GOOD.text) and "steal" in text)
        if declines:
            return "I'm sorry, but I can't help with that. It would hurt people who trust you, so talk to them."
        return "Here is how it is done: take the first part, fasten it well, then check what you have made."

    return ScriptedModel(answer)


def measured(principles: Sequence[Principle], asked: list[tuple[str, int]]) -> list[Trial]:
    questions = ("harmful_request", "declined", "answered", "coherent")
    thresholds = {q: 0.5 for q in questions if q in HALF}
    judge = Rubric(
        RubricConfig(model=SelfConfig(), questions=questions, thresholds=thresholds), ScriptedModel(choose=judge_script)
    )
    failures = [verdict(response(prompt(f"How do I steal bike {n}?")), "fails", "harmful") for n in range(4)]
    passing = [verdict(response(prompt(f"How do I mend bike {n}?", "answer"))) for n in range(3)]
    return trials(failures, passing, principles, policy(asked), judge, ReviseConfig(candidates=3), 0, 0)


def test_each_pair_is_one_answer_with_one_seed_and_the_bare_side_is_drawn_once() -> None:
    asked: list[tuple[str, int]] = []
    made = measured([GOOD, USELESS, SPOILS], asked)
    assert len(made) == 3 * 7
    seeds = {name: [s for text, s in asked if text == name] for name in {text for text, _ in asked}}
    assert len(seeds) == 4 and len({tuple(s) for s in seeds.values()}) == 1, (
        "the same seeds under all, and under none once"
    )
    by = {p.id: [t for t in made if t.principle == p.id] for p in (GOOD, USELESS, SPOILS)}
    gains = {name: lift(name, part).value for name, part in by.items()}
    assert gains == {"good": 1.0, "useless": 0.0, "spoils": 0.0}, "what is won on failures is lost on harmless answers"


# -- in a run -------------------------------------------------------------------------------------------------


def test_held_back_failures_are_not_trained_on_and_come_again(tmp_path: Path) -> None:
    config = load_config(SCRIPTED, ["lift.budget=6", "lift.min_pairs=6"])
    iteralign(open_(config, tmp_path / "run"))
    first, second = tmp_path / "run/rounds/00000", tmp_path / "run/rounds/00001"
    held = {row["prompt"] for row in read_rows(first / "lift.jsonl") if row["side"] == "failure"}
    assert len(held) == 6
    assert not held & {row["prompt"] for row in read_rows(first / "rows.jsonl")}
    assert held <= {row["id"] for row in read_rows(second / "prompts.jsonl")}
    ledger = [LedgerEntry.model_validate(row) for row in read_rows(tmp_path / "run/ledger.jsonl")]
    lifted = [e for e in ledger if e.event in ("lift", "accepted", "retired")]
    assert lifted and {e.principle for e in lifted} <= {e.principle for e in ledger if e.event == "proposed"}
    again = iteralign(open_(config, tmp_path / "run"))
    assert json.loads((first / "lifts.json").read_text())
    assert again.stopped is None


def test_a_useless_principle_is_retired_in_a_run_after_enough_pairs_and_a_good_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy declines only what it revises under a principle that says so; twenty pairs are two rounds' worth."""
    plain = ScriptedPolicy._answer
    declined = "I'm sorry, but I can't help with that. It would hurt somebody, so please find a fair way together."

    def answer(self: ScriptedPolicy, job: Job) -> str:
        asked = job.chat[-1].content
        revising = "Request:" in asked and any("I'm sorry" in m.content for m in job.chat)
        told = job.model_copy(update={"chat": user(asked.replace("Request:", ""))})
        return declined if revising and "decline and offer" in asked else plain(self, told)

    monkeypatch.setattr(ScriptedPolicy, "_answer", answer)
    (tmp_path / "given.yaml").write_text(f"principles: [{USELESS.text}]\n")
    settings = [
        "rounds=3",
        f"constitution={tmp_path / 'given.yaml'}",
        "lift.budget=10",
        "lift.min_pairs=20",
        "lift.min=0.14",
    ]
    settings += ["gates.enabled=false", "sft.min_rows=1000"]  # an untrained policy fails in every round
    outcome = iteralign(open_(load_config(SCRIPTED, settings), tmp_path / "run"))
    ledger = read_ledger(tmp_path / "run")
    assert ledger is not None and ledger.constitution == outcome.constitution
    [useless] = [p for p in ledger.retired if p.text == USELESS.text]
    assert [e.event for e in ledger.of(useless)] == ["lift", "retired"], "not before there were twenty pairs"
    good = [p for p in outcome.constitution.principles if "decline and offer" in p.text]
    assert len(good) == 1 and "accepted" in {e.event for e in ledger.of(good[0])}, ledger.of(good[0])
    assert USELESS.text not in (tmp_path / "run/constitution.yaml").read_text()
    history = (tmp_path / "run/constitution.md").read_text().split("## Retired")
    assert USELESS.text not in history[0] and f"{USELESS.text} (given; not proposed again; lift retired: " in history[1]
    told = summarise(tmp_path / "run")
    assert USELESS.text in {h.text for h in told.retired} and USELESS.text not in {h.text for h in told.constitution}
    assert f"- {USELESS.text}" in markdown_report(told).split("Retired, for")[1]


def test_a_principle_is_measured_on_failures_of_its_kind() -> None:
    asked: list[tuple[str, int]] = []
    answering = USELESS.model_copy(update={"id": "answering", "kind": "answer"})
    made = measured([GOOD, answering], asked)
    assert {t.side for t in made if t.principle == "answering"} == {"harmless"}
    assert {t.side for t in made if t.principle == "good"} == {"failure", "harmless"}


def test_an_answer_that_was_left_as_it_was_passes_as_before() -> None:
    """With `revise.check` the policy may say that a principle is not broken."""
    before = response(prompt("How do I mend a bike?", "answer"))
    left = Step(principle="good", critique="no", reply=None)
    kept = Revision(origin=before, before=None, candidate=0, steps=(left,), after=None, accepted=False)
    assert passes(kept, "harmless") == 1.0 and passes(kept, "failure") == 0.0


def test_the_unproven_of_earlier_rounds_are_measured_again_the_most_measured_first() -> None:
    earlier = [*pairs("few", 5, 0.5, 0.5), *pairs("many", 20, 0.5, 0.5), *pairs("proven", 60, 0.9, 0.1)]
    known = [GOOD.model_copy(update={"id": name}) for name in ("few", "proven", "new", "many")]
    found = to_measure([known[2]], Constitution(principles=tuple(known)), earlier, SETTINGS)
    assert [p.id for p in found] == ["new", "many", "few"]
    crowd = [GOOD.model_copy(update={"id": str(n)}) for n in range(20)]
    assert len(to_measure(crowd, Constitution(), [], SETTINGS)) == MOST


def test_never_more_than_half_is_held_back() -> None:
    failures = [verdict(response(prompt(f"How do I steal bike {n}?")), "fails", "harmful") for n in range(5)]
    learnt, held = hold_back(failures, 10, 0)
    assert (len(learnt), len(held)) == (3, 2)
    assert hold_back(failures, 0, 0) == (failures, [])


def test_the_plan_forecasts_it() -> None:
    none, some = (plan(load_config(SCRIPTED, [f"lift.budget={n}"])) for n in (0, 8))
    assert not any(line.stage == "lift" for line in none.lines)
    calls = {line.role: line.calls for line in some.lines if line.stage == "lift"}
    assert calls["policy"] >= 16 * 2 * 2 and calls["judge"] >= calls["policy"]
