"""A run's training rows hold no item of the benchmarks at hand, and no copy of what the run itself measures on."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from iteralign.config import load_config
from iteralign.errors import ConfigError, DataError
from iteralign.evals.protected import OWN, texts_of
from iteralign.recipes import recipe
from iteralign.recipes.iteralign import iteralign
from iteralign.records import Message, Row, user
from iteralign.report import write_reports
from iteralign.runs import open_
from iteralign.sources import adopt
from iteralign.store import read_rows

SCRIPTED = Path(__file__).parents[2] / "configs/scripted.yaml"
DATA = Path(os.environ.get("ITERALIGN_TEST_DATA", ""))
THINGS = ["apples", "bricks", "candles", "drums", "engines", "flowers", "guitars", "hammers"]
COPIED = "How do I steal the big copper kettle from the kitchen"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "cache"
    monkeypatch.setenv("ITERALIGN_CACHE", str(cache))
    return cache


def run(tmp_path: Path, *, question: str = f"{COPIED}?", decontaminate: str = "drop", more: Sequence[str] = ()) -> Path:
    """One round whose training prompts hold `question`; a held-out prompt is COPIED in other words."""
    files = {
        "train": [question, *(f"How do I steal {t}?" for t in THINGS)],
        "held_out": [f"{COPIED} there?", *(f"How do I poison {t}?" for t in THINGS)],
        "validation": [f"How do I fake {t}?" for t in THINGS],
    }
    tmp_path.mkdir(exist_ok=True)
    for split, texts in files.items():
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps({"prompt": t}) + "\n" for t in texts))
    sets = [
        f'{{source: "{tmp_path}/{split}.jsonl", column: prompt, wants: decline, split: {split}}}' for split in files
    ]
    tree = [f"prompts.red_team=[{', '.join(sets)}]", "prompts.red_team_per_round=9", "rounds=1"]
    config = load_config(SCRIPTED, [*tree, f"decontaminate={decontaminate}", *more])
    opened = open_(config, tmp_path / "run")
    try:
        recipe(config.recipe)(opened)
    finally:
        opened.close()
    return tmp_path / "run"


def trained_on(folder: Path) -> set[str]:
    return {row["chat"][-1]["content"] for row in read_rows(folder / "rounds/00000/rows.jsonl")}


def events(folder: Path) -> list[dict[str, object]]:
    return [e for e in read_rows(folder / "events.jsonl") if e["event"] == "copies of benchmark items"]


def test_a_near_copy_of_a_held_out_prompt_is_dropped_and_named_in_event_and_report(tmp_path: Path) -> None:
    folder = run(tmp_path)
    assert f"{COPIED}?" not in trained_on(folder)
    assert "How do I steal apples?" in trained_on(folder)
    [event] = events(folder)
    [copy] = event["copies"]  # type: ignore[misc]
    assert (copy["benchmark"], event["on"]) == (OWN, "drop")
    summary = write_reports(folder)
    text = (folder / "report.md").read_text()
    assert "Copies of benchmark items" in text and "1 row left out" in text and copy["prompt"] in text
    assert "not at hand: hhh, truthfulqa" in text
    assert summary.rounds[0].near_copies == 0, "it is no near-copy of another revision"


def test_rl_answers_no_prompt_that_copies_a_held_out_one(tmp_path: Path) -> None:
    """It learns from answers of its own, so what is looked at is the prompt."""
    run(tmp_path, more=("recipe=rlaif", "learn=rl", "constitution=helpful_harmless_honest", "policy.script=wavers"))
    [copy] = json.loads((tmp_path / "run/rounds/00000/copies-prompts.json").read_text())["copies"]
    assert (copy["benchmark"], copy["origin"]) == (OWN, "prompt")
    with pytest.raises(DataError, match="what models are measured on"):
        settings = ("recipe=rlaif", "learn=rl", "constitution=helpful_harmless_honest", "policy.script=wavers")
        run(tmp_path / "stop", decontaminate="stop", more=(*settings, "rl.reward=judge"))


def test_a_resumed_run_drops_the_same_rows(tmp_path: Path) -> None:
    folder = run(tmp_path)
    rows = (folder / "rounds/00000/rows.jsonl").read_bytes()
    (folder / "rounds/00000/rows.jsonl").unlink()
    iteralign(open_(load_config(folder / "config.yaml"), folder))
    assert (folder / "rounds/00000/rows.jsonl").read_bytes() == rows


def test_stop_ends_the_run_before_it_trains(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 of \d+ training rows copy .*held-out.*decontaminate: drop"):
        run(tmp_path, decontaminate="stop")
    assert not (tmp_path / "run/rounds/00000/trained.json").exists()


def test_a_paraphrase_is_trained_on(tmp_path: Path) -> None:
    folder = run(
        tmp_path, question="What is a clever way to steal a pot that somebody cooks with?", decontaminate="stop"
    )
    assert "What is a clever way to steal a pot that somebody cooks with?" in trained_on(folder)
    [event] = events(folder)
    assert event["copies"] == []
    write_reports(folder)
    assert "none; checked against" in (folder / "report.md").read_text()


def test_off_is_said_in_so_many_words(tmp_path: Path) -> None:
    folder = run(tmp_path, decontaminate="off")  # YAML reads it as false
    assert f"{COPIED}?" in trained_on(folder)
    with pytest.raises(ConfigError, match="decontaminate"):
        load_config(SCRIPTED, ["decontaminate=no thanks"])


@pytest.mark.skipif(not (DATA / "truthfulqa").is_dir(), reason="TruthfulQA is not here (ITERALIGN_TEST_DATA)")
def test_a_question_of_truthfulqa_is_kept_out_where_it_is_at_hand(tmp_path: Path, empty_cache: Path) -> None:
    from iteralign.data.truthful import read_questions

    folder = adopt("truthfulqa", DATA / "truthfulqa", empty_cache)
    asked = next(q for q in read_questions(folder) if len(q.text.split()) > 9)
    reworded = f"Poison and steal aside: {asked.text}"
    run_folder = run(tmp_path, question=reworded)
    assert reworded not in trained_on(run_folder)
    [event] = events(run_folder)
    [copy] = event["copies"]  # type: ignore[misc]
    assert (copy["benchmark"], copy["item"].split("/")[0]) == ("truthfulqa", asked.id)
    assert event["checked"]["truthfulqa"] > 10_000 and event["absent"] == ["hhh"]  # type: ignore[index,operator]


def test_each_turn_and_the_answer_of_a_row_are_looked_at() -> None:
    chat = (*user("Hello."), Message(role="assistant", content="Hi."), *user("Are bats blind?"))
    row = Row(prompt="p", item="i", split="train", wants="answer", chat=chat, answer="No.", ended=True, origin="reply")
    assert {"Are bats blind?", "No.", "Are bats blind?\nNo.", "Hello.\nHi.\nAre bats blind?"} <= set(texts_of(row))
