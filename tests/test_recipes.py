"""The recipes beside IterAlign, end to end on scripted models: what they learn, what they leave behind, what they refuse."""

import json
from pathlib import Path
from typing import Any

import pytest

from iteralign.config import load_config
from iteralign.errors import ConfigError, NothingFits
from iteralign.plan import plan
from iteralign.prompts import load_prompt
from iteralign.recipes import recipe
from iteralign.recipes.steps import Outcome
from iteralign.recipes.training import judged
from iteralign.records import Wants
from iteralign.report import write_reports
from iteralign.runs import open_
from iteralign.store import read_rows
from make import prompt, response, verdict

SCRIPTED = Path(__file__).parents[1] / "configs/scripted.yaml"
GIVEN = "constitution=helpful_harmless_honest"
CAI = ["recipe=cai", GIVEN, "revise.draws=2", "revise.critique=true", "revise.prompt=cai.yaml"]
CAI_DPO = [*CAI, "learn=dpo"]
RLAIF = ["recipe=rlaif", GIVEN, "learn=dpo", "policy.script=wavers"]
DPO = ["learn=dpo"]
BOTH = ["learn=sft+dpo"]
RL = ["recipe=rlaif", GIVEN, "learn=rl", "policy.script=wavers"]


def run(folder: Path, *settings: str) -> Outcome:
    config = load_config(SCRIPTED, settings)
    opened = open_(config, folder)
    try:
        return recipe(config.recipe)(opened)
    finally:
        opened.close()


def rates(folder: Path, name: str) -> dict[str, float]:
    rows = json.loads((folder / f"evals/{name}/scores.json").read_text())
    return {row["name"]: row["value"] for row in rows if row["variant"] == "word match"}


@pytest.mark.parametrize(
    "settings", [CAI, CAI_DPO, RLAIF, DPO, BOTH, RL], ids=["cai", "cai dpo", "rlaif", "dpo", "sft+dpo", "rl"]
)
def test_every_recipe_learns_to_decline_and_keeps_harmless_answers(settings: list[str], tmp_path: Path) -> None:
    """The scripted policy's skill is a number: how many rows or pairs taught it to decline, 8 where it wavers."""
    outcome = run(tmp_path, *settings)
    assert outcome.stopped is None and outcome.policy.checkpoint.path is not None
    learnt = json.loads((Path(outcome.policy.checkpoint.path) / "scripted.json").read_text())["learnt"]
    assert learnt >= 5 + (8 if settings in (RLAIF, RL) else 0)
    before, after = rates(tmp_path, "base"), rates(tmp_path, "final")
    assert after["harmful compliance"] <= before["harmful compliance"]
    assert after["harmless refused"] == before["harmless refused"] == 0
    assert [p.name for p in tmp_path.glob("rounds/*/checkpoint*")] == [Path(outcome.policy.checkpoint.path).name]


@pytest.mark.parametrize(
    "settings", [CAI, CAI_DPO, RLAIF, DPO, BOTH, RL], ids=["cai", "cai dpo", "rlaif", "dpo", "sft+dpo", "rl"]
)
def test_the_report_and_the_plan_know_the_recipe(settings: list[str], tmp_path: Path) -> None:
    run(tmp_path, *settings, "rounds=1")
    summary = write_reports(tmp_path)
    assert not summary.missing and summary.rounds[0].state == "kept"
    text = summary.markdown.read_text()
    assert ("Preference pairs" in text) == (settings is not CAI)
    assert ("Training rows" in text) == (settings in (CAI, BOTH))
    assert ("Comparisons" in text) == (settings in (RLAIF, RL))
    assert ("Reward hacking" in text) == ("mean reward" in text) == (settings is RL)
    made = plan(load_config(SCRIPTED, [*settings, "rounds=1"]))
    stages = {line.stage for line in made.lines}
    assert ("prefer" in stages) == (settings in (RLAIF, RL)) and ("reinforce" in stages) == (settings is RL)
    assert ("contrast" in stages) == (settings in (CAI_DPO, DPO, BOTH))
    assert made.training.rows >= summary.rounds[0].trained.rows > 0  # type: ignore[union-attr]


def test_cai_criticises_under_each_drawn_principle_and_trains_on_the_last_answer(tmp_path: Path) -> None:
    run(tmp_path, *CAI, "rounds=1", "revise.candidates=1")
    revisions = read_rows(tmp_path / "rounds/00000/revisions.jsonl")
    assert len(revisions) == 48 and {len(r["steps"]) for r in revisions} == {2}
    assert all(step["critique"] for r in revisions for step in r["steps"])
    run(tmp_path / "failing", *CAI, "rounds=1", "revise.candidates=1", "revise.passing=false")
    labels = {v["response"]: v["label"] for v in read_rows(tmp_path / "failing/rounds/00000/verdicts.jsonl")}
    rewritten = {r["origin"] for r in read_rows(tmp_path / "failing/rounds/00000/revisions.jsonl")}
    assert rewritten == {response for response, label in labels.items() if label == "fails"} != set(labels)
    others = {line.stage for line in plan(load_config(SCRIPTED, [*CAI, "revise.critic=oracle"])).lines}
    assert "critique" in others and "critique" not in {x.stage for x in plan(load_config(SCRIPTED, CAI)).lines}
    run(tmp_path / "critic", *CAI, "rounds=1", "revise.candidates=1", "revise.critic=oracle")
    apart = read_rows(tmp_path / "critic/rounds/00000/revisions.jsonl")
    assert {s["critique"] for r in apart for s in r["steps"]}.isdisjoint(
        s["critique"] for r in revisions for s in r["steps"]
    )
    last = {r["steps"][-1]["reply"]["text"] for r in revisions if r["accepted"]}
    rows = [row for row in read_rows(tmp_path / "rounds/00000/rows.jsonl") if row["origin"] == "revision"]
    assert rows and {row["answer"] for row in rows} <= last


def test_without_verification_every_well_formed_answer_is_trained_on(tmp_path: Path) -> None:
    run(tmp_path, *CAI, "rounds=1", "revise.candidates=1", "revise.accept=all", "revise.max_near_copies=99")
    accepted = [r for r in read_rows(tmp_path / "rounds/00000/revisions.jsonl") if r["accepted"]]
    assert len(accepted) == 48 and all(r["after"] is None for r in accepted)


def test_no_preference_on_a_held_out_prompt_and_all_can_be_traced(tmp_path: Path) -> None:
    run(tmp_path, *RLAIF, "rounds=1")
    here = tmp_path / "rounds/00000"
    pairs, compared = read_rows(here / "preferences.jsonl"), read_rows(here / "compared.jsonl")
    prompts = {row["id"]: row for row in read_rows(here / "prompts.jsonl")}
    assert pairs and {p["split"] for p in pairs} == {"train"}
    assert {p["id"] for p in pairs} <= prompts.keys() and {p["id"] for p in pairs} <= {c["prompt"] for c in compared}
    answers = {(r["prompt"], r["reply"]["text"]) for r in read_rows(here / "responses.jsonl")}
    for pair in pairs:
        for side in ("chosen", "rejected"):
            assert (pair["id"], pair[side][0]["content"]) in answers
    agreed: dict[str, Any] = json.loads((here / "agreement.json").read_text())
    assert agreed["n"] == len(compared) and len(pairs) == agreed["n"] - agreed["ties"] - agreed["unread"]


def test_a_round_without_a_usable_pair_changes_nothing_and_is_no_mistake(tmp_path: Path) -> None:
    outcome = run(tmp_path, *RLAIF, "policy.script=policy", "rounds=1")  # it always complies: nothing to tell apart
    assert outcome.stopped is None and outcome.policy.checkpoint.path is None
    summary = write_reports(tmp_path)
    assert summary.rounds[0].state == "no pairs" and not summary.missing
    assert rates(tmp_path, "base") == rates(tmp_path, "final")


@pytest.mark.parametrize("name", ["cai", "rlaif"])
def test_given_principles_are_needed(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="given principles.*constitution"):
        run(tmp_path, f"recipe={name}", "learn=dpo" if name == "rlaif" else "learn=sft")


@pytest.mark.parametrize(
    "wrong",
    [
        ["recipe=rlaif", GIVEN, "learn=sft"],
        ["recipe=cai", GIVEN, "learn=rl"],
        ["learn=rl"],
        ["recipe=self_improve", GIVEN, "learn=rl"],
        ["prefer.samples=1"],
    ],
)
def test_a_recipe_refuses_what_it_cannot_learn_by(wrong: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"set learn: |samples"):
        load_config(SCRIPTED, wrong)


def test_the_judge_can_be_the_reward_but_not_where_it_is_the_policy_itself(tmp_path: Path) -> None:
    outcome = run(tmp_path, *RL, "rl.reward=judge", "rounds=1")
    assert outcome.stopped is None and not (tmp_path / "rounds/00000/reward-check.json").exists()
    trained = json.loads((tmp_path / "rounds/00000/trained-rl.json").read_text())
    assert trained["rewards"][-1] > trained["rewards"][0] >= 0
    assert not (tmp_path / "rounds/00000/reward.json").exists()
    assert not (tmp_path / "rounds/00000/responses.jsonl").exists(), "no preferences are needed, and none are paid for"
    assert not write_reports(tmp_path).missing
    assert "prefer" not in {line.stage for line in plan(load_config(SCRIPTED, [*RL, "rl.reward=judge"])).lines}
    with pytest.raises(ConfigError, match="type: self"):
        load_config(SCRIPTED, [*RL, "rl.reward=judge", "judge.model={type: self}"])


@pytest.mark.parametrize(
    ("probabilities", "wants"), [({}, "decline"), ({"harmful": 0.2}, "decline"), ({"answered": 0.95}, "unknown")]
)
def test_whatever_a_judge_tells_besides_an_answer_that_passes_earns_more(
    probabilities: dict[str, float], wants: Wants
) -> None:
    asked = response(prompt(wants=wants))
    less = {name: 1 - p for name, p in probabilities.items()}
    good, bad = judged(verdict(asked, "passes", **less)), judged(verdict(asked, "fails", "harmful", **probabilities))
    assert good is not None and bad is not None and good > 0.5 > bad
    assert judged(verdict(asked, "unjudged")) is None and judged(verdict(asked, "fails", "incoherent")) == 0.0


def test_of_reward_models_the_latest_stays(tmp_path: Path) -> None:
    run(tmp_path, *RL, "rounds=2")
    made = [p.parent.name for p in tmp_path.glob("rounds/*/reward-model")]
    assert len(list(tmp_path.glob("rounds/*/reward.json"))) >= len(made) == 1


def test_rows_of_earlier_rounds_are_learnt_again_behind_a_phase_of_preferences(tmp_path: Path) -> None:
    run(tmp_path, *SELF, "sft.rows=pool")
    first, second = (read_rows(tmp_path / f"rounds/0000{n}/rows.jsonl") for n in (0, 2))
    assert first and {row["answer"] for row in first} <= {row["answer"] for row in second}


def test_a_resumed_run_needs_no_model_for_rounds_that_are_over(tmp_path: Path) -> None:
    """The policy itself compares, and the checkpoints of the rounds before the last one are gone."""
    settings = [*RLAIF, "rounds=3", "prefer.model={type: self}"]
    digest = run(tmp_path, *settings).policy.checkpoint.digest
    assert run(tmp_path, *settings).policy.checkpoint.digest == digest


@pytest.mark.parametrize(
    "settings",
    [
        ["learn=sft+dpo", "dpo.lora={rank: 2, keep: true}"],
        ["learn=sft+dpo", "sft.lora={rank: 2, keep: true}", "dpo.lora={rank: 2}"],
    ],
)
def test_an_adapter_is_not_kept_apart_from_weights_that_are_deleted(settings: list[str]) -> None:
    with pytest.raises(ConfigError, match="for all of them, or for none"):
        load_config(SCRIPTED, settings)
    load_config(SCRIPTED, ["learn=sft+dpo", "sft.lora={rank: 2, keep: true}", "dpo.lora={rank: 2, keep: true}"])
    load_config(SCRIPTED, ["learn=dpo", "dpo.lora={rank: 2, keep: true}"])


def test_in_context_measures_the_principles_without_training(tmp_path: Path) -> None:
    outcome = run(tmp_path, "recipe=in_context", GIVEN)
    assert outcome.policy.checkpoint.path is None and not (tmp_path / "rounds").exists()
    before, after = rates(tmp_path, "base"), rates(tmp_path, "final")
    assert after["harmful compliance"] < before["harmful compliance"]  # the scripted policy keeps what it is told
    summary = write_reports(tmp_path)
    assert not summary.missing and summary.examples
    text = summary.markdown.read_text()
    assert "nothing was trained" in text and "system message" in text
    made = plan(load_config(SCRIPTED, ["recipe=in_context", GIVEN]))
    assert made.training.rows == 0 and {line.stage for line in made.lines} <= {"held-out", "hhh"}


# -- rounds of self-improvement -------------------------------------------------------------------------------

SELF = [
    "recipe=self_improve",
    GIVEN,
    "learn=sft+dpo",
    "policy.script=wavers",
    "revise.draws=1",
    "revise.prompt=cai.yaml",
]


@pytest.mark.parametrize("way", ["sft+dpo", "dpo"])
def test_each_round_is_cai_then_rlaif_and_the_best_one_is_measured(tmp_path: Path, way: str) -> None:
    outcome = run(tmp_path, *SELF, f"learn={way}")
    assert outcome.stopped is None
    assert (tmp_path / "rounds/00000/rows.jsonl").exists() == (way == "sft+dpo")
    assert (tmp_path / "rounds/00000/preferences.jsonl").exists() == (way == "dpo")
    assert (tmp_path / "rounds/00001/preferences.jsonl").exists()
    names = {p.parent.name for p in tmp_path.glob("rounds/*/gate.json")}
    assert {"00000", "00002"} <= names <= {"00000", "00001", "00002", "00003"}
    events = [row for row in read_rows(tmp_path / "events.jsonl") if row["event"] == "quality"]
    curve, best = events[-1]["curve"], events[-1]["best"]
    assert len(curve) == 3 and curve[best] == max(curve)
    final = {row["policy"] for row in read_rows(tmp_path / "evals/final/responses.jsonl")}
    kept = "evals/validation" if best == 0 else f"evals/round-{best - 1}"
    assert final == {row["policy"] for row in read_rows(tmp_path / kept / "responses.jsonl")}
    summary = write_reports(tmp_path)
    assert not summary.missing
    assert str(summary.checkpoint or "").startswith(str(outcome.policy.checkpoint.path or ""))


def test_the_curve_shows_quality_on_both_kinds_of_prompts_and_the_distance_to_the_base(tmp_path: Path) -> None:
    run(tmp_path, *SELF, "self_improve.seen=6", "self_improve.drift=4")
    points = json.loads((tmp_path / "curve.json").read_text())["points"]
    assert [p["round"] for p in points] == [None, 0, 1]
    assert all(0 <= p["seen"] <= 1 for p in points)
    assert points[0]["kl"] == 0 and all(p["kl"] is not None for p in points)
    text = write_reports(tmp_path).markdown.read_text()
    assert "## Improvement" in text and "untouched" in text and "after round 1" in text


def test_a_policy_that_collapses_leaves_the_best_round(tmp_path: Path) -> None:
    outcome = run(
        tmp_path, *SELF, "policy.script=collapses", "gates.enabled=false", "rounds=3", "self_improve.stop=textbook"
    )
    assert outcome.stopped is not None and "fell from" in outcome.stopped
    assert outcome.policy.checkpoint.path is None, "the untouched policy was best"
    assert list(tmp_path.glob("rounds/*/checkpoint*")) == []


def test_the_report_says_why_self_improvement_stopped_before_its_last_round(tmp_path: Path) -> None:
    run(tmp_path, *SELF, "policy.script=collapses", "gates.enabled=false", "rounds=3", "self_improve.stop=textbook")
    summary = write_reports(tmp_path)
    assert summary.stopped is not None and "quality fell from" in summary.stopped
    assert any("quality fell from" in warning for warning in summary.warnings)
    assert "quality fell from" in summary.markdown.read_text()


@pytest.mark.parametrize("setting", ["prompts.validation=0", "prompts.harmless=[]"])
def test_self_improvement_asks_for_validation_prompts_of_both_sides(setting: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="validation prompts of both sides: set prompts.validation"):
        run(tmp_path, *SELF, setting)


def test_cai_draws_two_principles_and_criticises_unless_told_otherwise() -> None:
    plain = load_config(SCRIPTED, ["recipe=cai", GIVEN]).revise
    assert (plain.draws, plain.critique, plain.prompt) == (2, True, "cai.yaml")
    told = load_config(SCRIPTED, ["recipe=cai", GIVEN, "revise.draws=1", "revise.critique=false"]).revise
    assert (told.draws, told.critique, told.prompt) == (1, False, "cai.yaml")
    assert load_config(SCRIPTED).revise.draws is None


def test_a_revision_is_written_with_the_reply_and_its_critique_in_sight() -> None:
    values = {
        "prompt": "How?",
        "reply": "So it goes.",
        "critique": "Too short.",
        "revision_request": "Write a longer one.",
    }
    asked = load_prompt("cai.yaml").chat("revise", principle="", critique_request="", **values)
    last = asked[-1].content
    assert [last.index(text) for text in values.values()] == sorted(last.index(text) for text in values.values())


def test_pairs_of_which_none_can_be_trained_on_are_no_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: object, **__: object) -> object:
        raise NothingFits("none of 24 pairs fits dpo.max_length 8 with two different answers: raise it")

    monkeypatch.setattr("iteralign.recipes.training.train_on_pairs", nothing)
    outcome = run(tmp_path, *RLAIF, "rounds=2")
    assert outcome.policy.checkpoint.path is None and outcome.stopped is None
    summary = write_reports(tmp_path)
    assert [r.state for r in summary.rounds] == ["no pairs", "no pairs"] and not summary.missing
    assert all("fits dpo.max_length 8" in r.reasons[0] for r in summary.rounds)
    monkeypatch.undo()
    again = run(tmp_path, *RLAIF, "rounds=2")
    assert again.policy.checkpoint.path is None, "what had no pairs has none when it is resumed"


def test_reward_hacking_is_looked_for_on_answers_drawn_alike(tmp_path: Path) -> None:
    run(tmp_path, *RL, "rounds=1", "prefer.sampling.max_new_tokens=33")
    here = tmp_path / "rounds/00000"
    before, after = (read_rows(here / f"{name}.jsonl") for name in ("unrewarded", "rewarded"))
    assert [row["prompt"] for row in before] == [row["prompt"] for row in after]
    assert {row["policy"] for row in before} == {row["policy"] for row in read_rows(here / "responses.jsonl")}
    assert json.loads((here / "reward-check.json").read_text())["n"] == len(before)


def test_preferences_may_be_of_the_policy_before_its_cai_phase(tmp_path: Path) -> None:
    run(tmp_path, *SELF, "rounds=1", "self_improve.preferences_from=before_sft")
    first, second = (read_rows(tmp_path / f"rounds/0000{n}/responses.jsonl") for n in (0, 1))
    assert {row["policy"] for row in first} == {row["policy"] for row in second}


def test_failing_samples_may_be_paired_with_their_revisions_too(tmp_path: Path) -> None:
    """And refusals of harmless prompts are asked for, as many; the scripted policy gives none."""
    run(tmp_path, *RLAIF, "policy.script=policy", "prefer.revised=true", "rounds=1")
    pairs = read_rows(tmp_path / "rounds/00000/preferences.jsonl")
    revised = [p for p in pairs if p["origin"] == "revision"]
    assert revised and len({p["prompt"][0]["content"] for p in revised}) == len(revised), (
        "one failing sample of each prompt"
    )
    asked = read_rows(tmp_path / "rounds/00000/refusals.jsonl")
    assert 0 < len(asked) <= len(revised)
    stages = {line.stage for line in plan(load_config(SCRIPTED, [*RLAIF, "prefer.revised=true"])).lines}
    assert {"revise", "contrast"} <= stages


@pytest.mark.parametrize("recipe_settings", [CAI, RLAIF, SELF], ids=["cai", "rlaif", "self_improve"])
def test_a_recipe_under_given_principles_says_where_they_are_missing(
    recipe_settings: list[str], tmp_path: Path
) -> None:
    (tmp_path / "none.yaml").write_text("principles: []\n")
    with pytest.raises(ConfigError, match="name a file"):
        run(tmp_path / "run", *recipe_settings, f"constitution={tmp_path / 'none.yaml'}")
    assert not (tmp_path / "run/evals").exists(), "before anything is spent"
