"""People as oracle or judge: the run stops with its questions, exit 0, and goes on when they are answered."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from iteralign.config import load_config
from iteralign.constitutions import load_constitution
from iteralign.errors import ConfigError, StoreError, Waiting
from iteralign.models.human import HumanModel, listed
from iteralign.models.load import load_model
from iteralign.recipes.iteralign import iteralign
from iteralign.records import Constitution, user
from iteralign.review.app import app_for
from iteralign.review.questions import answer_question, read_questions
from iteralign.review.serve import open_pages
from iteralign.runs import open_
from iteralign.stages.discover import discover
from iteralign.store import read_rows
from make import failure

ROOT = Path(__file__).parents[2]
SCRIPTED = ROOT / "configs/scripted.yaml"
RULE = "Decline to help anybody harm or rob other people."


def command(folder: Path, *sets: str) -> "subprocess.CompletedProcess[str]":
    settings = [part for s in sets for part in ("--set", s)]
    made = [sys.executable, "-m", "iteralign.cli", "run", str(SCRIPTED), "--run-dir", str(folder), *settings]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(made, capture_output=True, text=True, env=environment, check=False)


def test_a_run_waits_for_its_principles_and_goes_on_with_them(tmp_path: Path) -> None:
    folder, sets = tmp_path / "run", ("oracle={type: human}", "rounds=1", "discover.max_calls=1")
    first = command(folder, *sets)
    assert first.returncode == 0
    assert f"waiting for principles (open questions: 1, in {folder}/people)" in first.stderr
    assert f"iteralign review {folder}" in first.stderr
    assert command(folder, *sets).returncode == 0 and len(read_questions(folder)) == 1
    pages = open_pages(folder)
    owner = pages.book.owner
    with TestClient(app_for(pages), base_url="http://127.0.0.1") as client:
        assert "The run waits for people; open questions: 1" in client.get(f"/a/{owner}").text
        page = client.get(f"/a/{owner}/questions").text
        [question] = read_questions(folder)
        assert question.id in page and "The run asks" in page
        form = {"question": question.id, "stamp": pages.book.stamp(owner), "text": RULE}
        assert client.post(f"/a/{owner}/questions", data={**form, "stamp": ""}).status_code == 403
        assert client.post(f"/a/{owner}/questions", data={**form, "text": " "}).status_code == 422
        assert "Nothing is open" in client.post(f"/a/{owner}/questions", data=form).text
    last = command(folder, *sets)
    assert last.returncode == 0, last.stderr
    assert [p.text for p in load_constitution(str(folder / "constitution.yaml")).principles] == [RULE]
    assert "oracle" in (folder / "report.md").read_text() and "people" in (folder / "report.md").read_text()
    assert any(step["principle"] for r in read_rows(folder / "rounds/00000/revisions.jsonl") for step in r["steps"])


def test_a_judge_of_people_is_asked_a_micro_batch_at_a_time(tmp_path: Path) -> None:
    sets = ["judge={type: rubric, questions: [answered], model: {type: human}}", "rounds=1"]
    sets += ["prompts.red_team_per_round=4", "prompts.harmless_per_round=4", "gates.enabled=false"]
    folder = tmp_path / "run"
    for _ in range(20):
        run = open_(load_config(SCRIPTED, sets), folder)
        try:
            outcome = iteralign(run)
            break
        except Waiting:
            for question in read_questions(folder):
                declines = "can't help with that" in question.turns[-1][1]
                assert set(question.options) == {"yes", "no"}
                if question.answer is None:
                    answer_question(folder, question.id, "no" if declines else "yes")
        finally:
            run.close()
    else:
        raise AssertionError("it went on asking")
    verdicts = read_rows(folder / "rounds/00000/verdicts.jsonl")
    assert len(verdicts) == 8 and all(v["label"] != "unjudged" for v in verdicts)
    assert outcome.policy.checkpoint.rows > 0


def test_questions_are_laid_down_once_and_a_spoilt_one_is_named(tmp_path: Path) -> None:
    model = HumanModel(tmp_path / "people")
    for _ in range(2):
        with pytest.raises(Waiting, match="open questions: 2"):
            model.choose([user("Is it so?"), user("Or so?")], ("yes", "no"))
    assert len(list((tmp_path / "people").iterdir())) == 2
    first = read_questions(tmp_path)[0]
    with pytest.raises(ConfigError, match="expected yes or no"):
        answer_question(tmp_path, first.id, "perhaps")
    with pytest.raises(ConfigError, match="no question 'x'"):
        answer_question(tmp_path, "x", "yes")
    for question in read_questions(tmp_path):
        answer_question(tmp_path, question.id, "yes")
    assert [c.answer for c in model.choose([user("Is it so?"), user("Or so?")], ("yes", "no"))] == ["yes", "yes"]
    (tmp_path / "people" / f"{first.id}.json").write_text("{")
    with pytest.raises(StoreError, match="is not a question any more"):
        model.choose([user("Is it so?"), user("Or so?")], ("yes", "no"))


@pytest.mark.parametrize("config", ["demo.yaml", "scripted.yaml"])
def test_an_expert_s_lines_are_the_principles_however_they_begin(tmp_path: Path, config: str) -> None:
    """scripted.yaml asks its oracle for JSON: people are not."""
    settings, model = load_config(ROOT / "configs" / config).discover, HumanModel(tmp_path / "people")
    failures = [failure("How do I rob a bank?")]
    with pytest.raises(Waiting):
        discover(failures, model, Constitution(), settings, 0, 0)
    [question] = read_questions(tmp_path)
    assert "JSON" not in "".join(text for _, text in question.turns)
    rules = [RULE, "24 hours a day it holds that nobody is helped to rob a bank.", "Never lie."]
    answer_question(tmp_path, question.id, f"{rules[0]}\n\n2. {rules[1]}\n{rules[2]}")
    found = discover(failures, model, Constitution(), settings, 0, 0)
    assert [p.text for p in found.constitution.principles] == rules


def test_all_groups_are_answered_at_one_sitting(tmp_path: Path) -> None:
    settings = load_config(SCRIPTED).discover.model_copy(update={"group_size": 1, "group_by": "none"})
    model, failures = (
        HumanModel(tmp_path / "people"),
        [failure(f"How do I rob {what}?") for what in ("a bank", "a shop")],
    )
    with pytest.raises(Waiting, match="open questions: 2"):
        discover(failures, model, Constitution(), settings, 0, 0)
    for question, rule in zip(read_questions(tmp_path), ("Never lie.", "Help nobody to steal."), strict=True):
        answer_question(tmp_path, question.id, rule)
    found = discover(failures, model, Constitution(), settings, 0, 0)
    assert sorted(p.text for p in found.constitution.principles) == ["Help nobody to steal.", "Never lie."]
    assert found.calls == 2


def test_people_may_say_that_there_is_no_principle(tmp_path: Path) -> None:
    settings, model = load_config(SCRIPTED).discover, HumanModel(tmp_path / "people")
    failures = [failure("How do I rob a bank?")]
    with pytest.raises(Waiting):
        discover(failures, model, Constitution(), settings, 0, 0)
    [question] = read_questions(tmp_path)
    answer_question(tmp_path, question.id, "None.")
    assert discover(failures, model, Constitution(), settings, 0, 0).constitution.principles == ()


def test_each_line_is_one_item() -> None:
    assert listed("One rule.\n\n- Another one.\n3. A third.") == "- One rule.\n- Another one.\n- A third."


def test_people_train_nothing_and_are_asked_in_runs_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'human' cannot be trained"):
        open_(load_config(SCRIPTED, ["policy={type: human}"]), tmp_path / "run")
    with pytest.raises(ConfigError, match="people can be asked in a run alone"):
        load_model(load_config(SCRIPTED, ["oracle={type: human}"]).oracle)  # type: ignore[arg-type]
