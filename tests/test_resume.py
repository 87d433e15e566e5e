"""A killed run goes on to the same files; a round that fails its gates is undone; a stopped run says why."""

import gc
import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from chat_server import Answer, Asked, fails, says, serving

from iteralign.config import SFTConfig, load_config
from iteralign.errors import ModelError, Stopped, StoreError
from iteralign.models.scripted import ScriptedPolicy
from iteralign.recipes.iteralign import Outcome, iteralign
from iteralign.report import summarise
from iteralign.runs import open_
from iteralign.store import read_rows
from iteralign.training.rows import reply_row
from iteralign.training.sft import sft
from make import response, verdict
from tiny import tiny_folder, tiny_model

TESTS = Path(__file__).parent
SMALL = [
    "prompts.red_team_per_round=7",
    "prompts.harmless_per_round=5",
    "runtime.micro_batch=4",
    "runtime.threads=1",
    "prompts.validation=4",
    "prompts.held_out=5",
]


GIVEN = "constitution=helpful_harmless_honest"
CAI = ["recipe=cai", GIVEN, "revise.draws=2", "revise.critique=true", "revise.prompt=cai.yaml"]
RLAIF = ["recipe=rlaif", GIVEN, "learn=dpo", "policy.script=wavers", "prefer.sampling.max_new_tokens=20"]
SELF = [*RLAIF, "recipe=self_improve", "learn=sft+dpo", "revise.prompt=cai.yaml", "revise.draws=1"]


def run(folder: Path, *settings: str) -> Outcome:
    return iteralign(open_(load_config(TESTS.parent / "configs/scripted.yaml", [*SMALL, *settings]), folder))


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def killed(folder: Path, step: int, *settings: str) -> Any:
    command = [sys.executable, TESTS / "killed.py", folder, str(step), *SMALL, *settings]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    # of each kill: the exit of the run that went on, half files that the kill left, files that differ at the end
    assert {at: end for at, end in told["ends"].items() if end != "0 [] []"} == {}
    assert (told["status"], told["again"]) == (0, []), "a run that was killed again and again"
    return told


# -- kill -9 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "settings", "least", "made"),
    [
        (5, [], 15, ["rounds/00001/gate.json", "rounds/00001/checkpoint/scripted.json", "evals/final/scores.json"]),
        (12, ["overrefuses", "rounds=1"], 6, ["rounds/00000/backtracked.json", "rounds/00000/gate.json"]),
        (12, ["policy.script=collapses", "rounds=3"], 6, ["rounds/00001/gate.json", "evals/final/scores.json"]),
        (12, ["overrefuses", "gates.margin=0.7", "rounds=1"], 6, ["rounds/00000/backtracked.json"]),
        (9, [*CAI, "rounds=1"], 6, ["rounds/00000/revisions.jsonl", "rounds/00000/trained.json"]),
        (9, [*RLAIF, "rounds=1"], 6, ["rounds/00000/preferences.jsonl", "rounds/00000/trained-dpo.json"]),
        (9, [*RLAIF, "learn=rl", "rounds=1"], 6, ["rounds/00000/reward.json", "rounds/00000/reward-check.json"]),
        (16, [*SELF, "rounds=1"], 6, ["rounds/00000/trained.json", "evals/round-0/responses.jsonl"]),
        (12, ["learn=sft+dpo", "rounds=1"], 6, ["rounds/00000/refusals.jsonl", "rounds/00000/trained-dpo.json"]),
    ],
    ids=["two rounds", "backtracked", "collapses", "margin", "cai", "rlaif", "rl", "self_improve", "sft+dpo"],
)
def test_killed_anywhere_a_run_goes_on_to_the_same_files(
    tmp_path: Path, step: int, settings: list[str], least: int, made: list[str]
) -> None:
    told = killed(tmp_path, step, *settings)
    assert {f"run/{name}" for name in made} <= set(told["files"]), "the run is not the one that was meant"
    assert len(told["ends"]) >= least
    assert told["kills"] >= 4 or step >= 12


def test_killed_around_a_real_training_step_the_weights_are_the_same(tmp_path: Path) -> None:
    """A tiny real model in bf16: the process that goes on has loaded what the other one held in memory."""
    rows = [
        reply_row(verdict(response(f"How do I mend {n}?", "I can't help with that.")).response, 0) for n in range(8)
    ]
    settings = SFTConfig(learning_rate=1e-2, epochs=20)
    sft(tiny_model(), str(tiny_folder(tmp_path / "raw")), rows, settings, tmp_path / "base", seed=0)
    policy = f"{{type: transformers, model: {tmp_path / 'base'}, dtype: bfloat16, device: cpu}}"
    short = ["respond.max_new_tokens=12", "evaluate.max_new_tokens=12", "revise.sampling.max_new_tokens=12"]
    once = ["rounds=1", "runtime.micro_batch=64", "gates.enabled=false"]
    told = killed(tmp_path, 17, f"policy={policy}", *short, *once)
    assert "run/rounds/00000/checkpoint/model.safetensors" in told["files"]
    assert len(told["ends"]) >= 3


def test_a_run_directory_that_was_moved_goes_on(tmp_path: Path) -> None:
    whole, _ = run(tmp_path / "old"), run(tmp_path / "one", "rounds=1")
    for name in ("evals/final", "rounds/00001"):  # as if it had been killed after the first round
        shutil.rmtree(tmp_path / "old" / name)
    shutil.copytree(tmp_path / "one/rounds/00000/checkpoint", tmp_path / "old/rounds/00000/checkpoint")
    (tmp_path / "old").rename(tmp_path / "new")
    again = run(tmp_path / "new")
    assert again.policy.checkpoint.digest == whole.policy.checkpoint.digest
    assert Path(str(again.policy.checkpoint.path)).is_relative_to(tmp_path / "new")


# -- gates --------------------------------------------------------------------------------------------


def test_a_policy_that_collapses_is_rolled_back_and_two_in_a_row_end_the_run(tmp_path: Path) -> None:
    outcome = run(tmp_path, "policy.script=collapses", "rounds=4", "sft.rows=pool")
    assert outcome.stopped is not None
    assert outcome.stopped.startswith("2 rounds in a row failed their gates, the last (round 1): ")
    assert "answers repeat themselves" in outcome.stopped
    assert outcome.policy.checkpoint.path is None, "not rolled back to the base"
    for r in range(2):
        gate = read(tmp_path / f"rounds/{r:05d}/gate.json")
        assert not gate["kept"]
        assert any("answers repeat themselves: 8% of their words are distinct" in reason for reason in gate["reasons"])
        assert list((tmp_path / f"rounds/{r:05d}").glob("checkpoint*")) == []
        rows = read_rows(tmp_path / f"rounds/{r:05d}/rows.jsonl")
        assert {row["round"] for row in rows} == {r}, "rows of the failed round stayed in the pool"
    assert not (tmp_path / "rounds/00002").exists()
    base, final = (read(tmp_path / f"evals/{name}/scores.json") for name in ("base", "final"))
    assert base == final


def test_a_policy_that_collapses_later_goes_back_to_its_last_good_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = ScriptedPolicy._answer
    monkeypatch.setattr(
        ScriptedPolicy, "_answer", lambda self, job: "oh " * 12 if self.learnt > 2 else answer(self, job)
    )
    outcome = run(tmp_path, "rounds=4")
    assert [read(tmp_path / f"rounds/0000{r}/gate.json")["kept"] for r in range(3)] == [True, False, False]
    assert outcome.stopped is not None
    assert outcome.policy.checkpoint.path == str(tmp_path / "rounds/00000/checkpoint")
    assert Path(outcome.policy.checkpoint.path).is_dir()
    assert list(tmp_path.glob("rounds/*/checkpoint*")) == [tmp_path / "rounds/00000/checkpoint"]


def test_with_a_margin_less_than_the_largest_share_that_passes_is_kept_and_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = ScriptedPolicy._answer
    refusal = "I'm sorry, but I can't help with that, so ask a friend."
    monkeypatch.setattr(ScriptedPolicy, "_answer", lambda self, job: refusal if self.learnt > 1 else answer(self, job))
    shares: dict[str, float] = {}
    for margin in ("1.0", "0.7"):
        outcome = run(tmp_path / margin, "rounds=1", f"gates.margin={margin}")
        assert outcome.policy.checkpoint.path is not None
        gate = read(tmp_path / margin / "rounds/00000/gate.json")
        assert gate["kept"] and gate == read(tmp_path / margin / f"rounds/00000/tried-{gate['share']:g}.json")
        shares[margin] = gate["share"]
    assert 0 < shares["0.7"] < shares["1.0"] < 1
    assert shares["0.7"] == pytest.approx(0.7 * shares["1.0"], abs=0.006)


def test_the_margin_holds_where_the_whole_change_passes_too(tmp_path: Path) -> None:
    run(tmp_path, "rounds=1", "gates.margin=0.7")
    gate = read(tmp_path / "rounds/00000/gate.json")
    assert gate["kept"] and gate["share"] == 0.7
    assert read(tmp_path / "rounds/00000/tried-1.json")["kept"]


def test_a_change_that_passes_while_less_of_it_fails_passed_by_luck(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy that refuses too much at 85 % of the change, and not at the whole of it."""
    answer = ScriptedPolicy._answer
    large = ("rounds=1", "prompts.red_team_per_round=48")
    model = run(tmp_path / "whole", *large).policy.model
    assert isinstance(model, ScriptedPolicy)
    whole = model.learnt
    refusal = "I'm sorry, but I can't help with that, so ask a friend."
    monkeypatch.setattr(
        ScriptedPolicy,
        "_answer",
        lambda self, job: refusal if 0.5 * whole < self.learnt < whole else answer(self, job),
    )
    outcome = run(tmp_path / "run", *large, "gates.margin=0.85")
    here = tmp_path / "run/rounds/00000"
    assert read(here / "tried-1.json")["kept"] and not read(here / "tried-0.85.json")["kept"]
    assert outcome.policy.checkpoint.path is not None
    assert 0.3 < read(here / "gate.json")["share"] <= 0.5
    assert summarise(tmp_path / "run").rounds[0].reasons[0].startswith("at 85% of the weight change: refusal of")


def test_a_rolled_back_round_leaves_the_next_one_the_old_policy(tmp_path: Path) -> None:
    outcome = run(tmp_path, "policy.script=collapses", "gates.failures_in_a_row=3")
    assert outcome.stopped is None
    assert outcome.policy.checkpoint.path is None
    replies = [row["reply"]["text"] for row in read_rows(tmp_path / "rounds/00001/responses.jsonl")]
    assert replies
    assert not any(text.startswith("the the") for text in replies)


def test_with_gates_off_the_collapse_is_kept_but_still_told(tmp_path: Path) -> None:
    outcome = run(tmp_path, "policy.script=collapses", "gates.enabled=false", "rounds=1")
    assert outcome.stopped is None
    assert outcome.policy.checkpoint.path is not None
    assert read(tmp_path / "rounds/00000/gate.json")["reasons"]


def test_the_pool_gathers_the_rows_of_kept_rounds(tmp_path: Path) -> None:
    run(tmp_path, "sft.rows=pool")
    first, second = (read_rows(tmp_path / f"rounds/0000{r}/rows.jsonl") for r in range(2))
    assert second[: len(first)] == first
    assert {row["round"] for row in second} == {0, 1}


# -- what stops a run before it is trained --------------------------------------------------------------


def test_a_judge_that_cannot_judge_stops_the_run_before_training(tmp_path: Path) -> None:
    with pytest.raises(Stopped, match=r"12 of 12 responses could not be judged.*Nothing was trained") as caught:
        run(tmp_path, "judge={type: paper, model: {type: scripted, script: policy}}")
    assert caught.value.exit_code == 3
    assert {p.name for p in (tmp_path / "rounds/00000").iterdir()} == {
        "prompts.jsonl",
        "responses.jsonl",
        "verdicts.jsonl",
    }


def test_the_same_command_asks_a_judge_that_was_away_again(tmp_path: Path) -> None:
    """A judge on a server that answers the first five questions only; then it is back."""
    asked: list[str] = []

    def behave(away: bool, question: Asked, times: int) -> Answer:
        asked.append(question.text)
        if away and len(asked) > 5:
            return says("The judge is at lunch.")
        declines = "can't help with that" in question.text
        return says("yes" if "sensible" in question.text or declines == ("they cannot" in question.text) else "no")

    with serving() as server:
        model = f"{{type: openai, model: j, key_env: null, base_url: '{server.url}', concurrency: 1, logprobs: false}}"
        settings = [f"judge={{type: rubric, model: {model}, questions: [declined, answered, coherent]}}", "rounds=1"]
        server.behaviour = partial(behave, True)
        with pytest.raises(Stopped, match=r"10 of 12 responses.*the same command asks the judge for them again"):
            run(tmp_path / "run", *settings)
        judged = {row["id"]: row for row in verdict_rows(tmp_path / "run") if row["label"] != "unjudged"}
        assert len(judged) == 2
        assert (tmp_path / "run/rounds/00000/verdicts.jsonl").exists(), "its report says why it stopped"
        server.behaviour = partial(behave, False)
        outcome = run(tmp_path / "run", *settings)
        whole = run(tmp_path / "whole", *settings)
    assert outcome.policy.checkpoint.digest == whole.policy.checkpoint.digest
    assert {row["id"]: row for row in verdict_rows(tmp_path / "run")}.items() >= judged.items()
    for path in (tmp_path / "whole/rounds").glob("*/*.jsonl"):
        assert path.read_bytes() == (tmp_path / "run" / path.relative_to(tmp_path / "whole")).read_bytes(), path
    assert not list((tmp_path / "run").rglob("*.again"))


def test_an_evaluator_that_is_away_at_the_gate_rolls_nothing_back(tmp_path: Path) -> None:
    """It answers until the round is trained, then it is away; then it is back."""

    def behave(away: bool, question: Asked, times: int) -> Answer:
        away = away and (tmp_path / "run/rounds/00000/trained.json").exists()
        return says("At lunch." if away else "yes" if "can't help" in question.text else "no")

    with serving() as server:
        model = f"{{type: openai, model: e, key_env: null, base_url: '{server.url}', concurrency: 1, logprobs: false}}"
        settings = [f"evaluator={{type: rubric, model: {model}, prompt: evaluator.yaml, questions: [declined]}}"]
        settings += ["rounds=1", "evals.held_out=false", "prompts.validation=30", "prompts.red_team_per_round=96"]
        settings += ["revise.max_near_copies=100", "gates.max_unjudged=0"]
        server.behaviour = partial(behave, True)
        with pytest.raises(Stopped, match=r"validation of 00000: \d+ of 60 responses could not be judged"):
            run(tmp_path / "run", *settings)
        server.behaviour = partial(behave, False)
        outcome = run(tmp_path / "run", *settings)
        whole = run(tmp_path / "whole", *settings)
    assert outcome.policy.checkpoint.digest == whole.policy.checkpoint.digest != "base"
    for path in (*(tmp_path / "whole/rounds").rglob("*.jsonl"), tmp_path / "whole/rounds/00000/gate.json"):
        assert path.read_bytes() == (tmp_path / "run" / path.relative_to(tmp_path / "whole")).read_bytes(), path


def verdict_rows(folder: Path) -> list[dict[str, Any]]:
    return read_rows(folder / "rounds/00000/verdicts.jsonl")


def test_an_oracle_that_fails_in_every_call_stops_the_run_and_is_asked_again(tmp_path: Path) -> None:
    def oracle(asked: Asked, times: int) -> Answer:
        return fails(500, "out of memory") if broken else says("1. Do not help anybody to harm or rob other people.")

    place = tmp_path / "rounds/00000"
    with serving() as server:
        broken, server.behaviour = True, oracle
        model = f"oracle={{type: openai, model: tiny, base_url: '{server.url}', key_env: null, retries: 0}}"
        settings = (model, "discover.group_size=3", "rounds=1")
        with pytest.raises(
            ModelError, match=r"round 0: the oracle failed in 3 of 3 calls; the first: .*memory"
        ) as caught:
            run(tmp_path, *settings)
        assert caught.value.exit_code == 2
        assert not (place / "principles.json").exists()
        told = [e for e in read_rows(tmp_path / "events.jsonl") if e["event"] == "oracle call failed"]
        assert [(e["round"], e["group"]) for e in told] == [(0, 0), (0, 1), (0, 2)]
        assert all("out of memory" in e["error"] for e in told)
        kept = (place / "verdicts.jsonl").read_bytes()
        broken = False
        assert run(tmp_path, *settings).constitution.principles
        assert len(server.asked) == 6
    assert (place / "verdicts.jsonl").read_bytes() == kept
    assert read(place / "principles.json")["failed"] == []


def test_no_prompt_kept_apart_is_in_any_stage_of_a_round(tmp_path: Path) -> None:
    run(tmp_path)
    paths = [tmp_path / f"evals/{name}/responses.jsonl" for name in ("base", "final", "validation")]
    measured = {row["prompt"] for path in paths for row in read_rows(path)}
    assert len(measured) == 2 * (5 + 4)
    for path in (tmp_path / "rounds").glob("*/*.jsonl"):
        for row in read_rows(path):
            assert not measured & {str(row.get("prompt")), str(row.get("id"))}, path
            assert row.get("split", "train") == "train"


def test_a_run_directory_is_worked_at_by_one_process_at_a_time(tmp_path: Path) -> None:
    place = tmp_path / "run"
    run(place, "rounds=1")
    gc.collect()  # the run lets its directory go
    before = {p: p.read_bytes() for p in place.rglob("*") if p.is_file()}
    hold = f"from pathlib import Path; from iteralign.store import locked; kept = locked(Path({str(place)!r})); print(); input()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline()
        for fresh in (False, True):
            with pytest.raises(StoreError, match="worked at by another process"):
                open_(load_config(TESTS.parent / "configs/scripted.yaml", [*SMALL, "rounds=1"]), place, fresh)
        other.kill()
    assert {p: p.read_bytes() for p in place.rglob("*") if p.is_file()} == before
    run(place, "rounds=1")
