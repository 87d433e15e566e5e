"""What a run shows while it works, where no terminal is."""

import io
import json
import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from rich.console import Console

from iteralign.config import load_config
from iteralign.errors import ConfigError, ModelError, StoreError, Waiting
from iteralign.live import PROGRESS, Live, describe, follow, standing
from iteralign.models.usage import Usage
from iteralign.store import read_rows
from iteralign.tracking import Trackers, measured, tracking

ROOT = Path(__file__).parents[1]
SCRIPTED = ROOT / "configs/scripted.yaml"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src")}


def test_a_stage_that_held_others_does_not_count_as_their_progress(capsys: pytest.CaptureFixture[str]) -> None:
    with Live(plain=True) as live:
        live.stage("base/scores", 1, 0)
        live.stage("base/hhh", 221, 0)
        live._counted -= 60  # a minute has passed: a line is due
        live.advance("scores", 1)
        assert "1/221" not in capsys.readouterr().err
        live._started -= 60
        live.advance("hhh", 110)
    assert "110/221 1.8/s, about 61 s left" in capsys.readouterr().err


def test_every_stage_tells_once_what_it_took() -> None:
    told: list[tuple[str, float, Usage]] = []
    asked = Usage()
    with Live(plain=True) as live:
        live.usage, live.ended = lambda: asked, lambda *spent: told.append(spent)
        for name in ("base/hhh", "final/hhh"):
            live.stage(name, 1, 0)
            asked = asked.plus(Usage(calls=2, read=30, written=4))
            time.sleep(0.02)
        live.finish()
        live.finish()
    assert [(name, usage) for name, _, usage in told] == [("hhh", Usage(2, 30, 4))] * 2
    assert all(seconds >= 0.02 for _, seconds, _ in told)


def test_what_it_cost_so_far_stands_beside_the_speed(capsys: pytest.CaptureFixture[str]) -> None:
    with Live(plain=True) as live:
        live.usage = lambda: Usage(dollars=1.234)
        live.stage("00000/responses", 100, 0)
        live._counted -= 60
        live._started -= 60
        live.advance("responses", 30, tokens=600)
    assert "30/100 10 tok/s $1.23, about" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("00001/verdicts", "round 1: judging"),
        ("base/hhh", "base: scoring HHH"),
        ("00000/tried-0.5", "round 0: gate at 50% of the change"),
    ],
)
def test_stages_are_named_in_words(name: str, said: str) -> None:
    assert describe(name) == said


# -- from elsewhere -------------------------------------------------------------------------------------


def start(folder: Path, *more: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "iteralign.cli", "run", str(SCRIPTED), "--run-dir", str(folder), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT)


def test_a_run_is_followed_from_another_process_to_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with start(tmp_path / "run") as process:
        while not (tmp_path / "run" / PROGRESS).exists():
            assert process.poll() is None
            time.sleep(0.01)
        said = follow(tmp_path / "run", Live(plain=True), 0.01)
        process.communicate()
    assert said.endswith("the run has ended")
    shown = capsys.readouterr().err
    assert "round 0: " in shown and "round 1: " in shown
    assert re.search(r"round 1 kept: harmful compliance \d+%, harmless refused \d+%; \d principle", shown)


def test_a_phase_of_self_improvement_is_no_round(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = ("recipe=self_improve", "constitution=helpful_harmless_honest", "learn=sft+dpo", "rounds=1")
    with start(tmp_path / "run", *(x for setting in sets for x in ("--set", setting))) as process:
        while not (tmp_path / "run" / PROGRESS).exists():
            assert process.poll() is None
            time.sleep(0.01)
        follow(tmp_path / "run", Live(plain=True), 0.01)
        process.communicate()
    shown = capsys.readouterr().err
    assert "phase 0: " in shown and "phase 0 kept: " in shown and "round 0" not in shown


def test_a_run_that_was_killed_is_not_waited_for(tmp_path: Path) -> None:
    with start(tmp_path / "run") as process:
        while not (tmp_path / "run/rounds").exists():
            time.sleep(0.01)
        process.kill()
        process.communicate()
    assert "the run was stopped in " in follow(tmp_path / "run", Live(plain=True))
    with pytest.raises(StoreError, match=r"holds no progress\.json"):
        follow(tmp_path)


def told(folder: Path, **more: object) -> None:
    """A run of this very process that works."""
    fields = {"pid": os.getpid(), "stage": "00000/trained", "total": 37, "done": 4, "speed": "120 tok/s $1.50"}
    (folder / PROGRESS).write_text(json.dumps({**fields, "seconds_left": 62, "state": "working", **more}))


class Watching(Live):
    """Writes what comes next when it has been told what is."""

    def __init__(self, folder: Path, then: list[dict[str, object]]) -> None:
        super().__init__(plain=True)
        self.place, self.then = folder, then

    def advance(self, *asked: Any, **more: Any) -> None:
        self._counted -= 60  # a line is due
        super().advance(*asked, **more)
        told(self.place, **self.then.pop(0))


def test_who_watches_sees_speed_cost_and_time_left_and_a_training_that_counts_its_steps_late(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told(tmp_path, total=1, done=0, speed="", seconds_left=None)
    said = follow(tmp_path, Watching(tmp_path, [{}, {"state": "ended"}]), 0.0)
    shown = capsys.readouterr().err
    assert "round 0: fine-tuning: 1\n" in shown and "round 0: fine-tuning: 37 (4 kept from before)" in shown
    assert "4/37 120 tok/s $1.50, about 62 s left" in shown and said.endswith("the run has ended")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyboardInterrupt(), "the run was stopped in round 0: judging; the same"),
        (ModelError("no luck"), "the run was stopped in round 0: judging; the same"),
        (Waiting("people"), "the run waits for people: iteralign review"),
        (None, "the run has ended"),
    ],
)
def test_who_watches_is_told_how_it_ended(error: BaseException | None, said: str, tmp_path: Path) -> None:
    with suppress(KeyboardInterrupt, ModelError, Waiting), Live(plain=True) as live:
        live.keep(tmp_path)
        live.stage("00000/verdicts", 10, 0)
        if error:
            raise error
    assert said in follow(tmp_path, Live(plain=True))
    with Live(plain=True) as live:
        live.keep(tmp_path)
        assert json.loads((tmp_path / PROGRESS).read_text())["state"] == "working", "the same run goes on"


def test_a_directory_that_a_run_may_not_have_is_left_as_it_is(tmp_path: Path) -> None:
    """An empty one it may have, one with other files not; and of another run's it writes nothing."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "work").mkdir()
    (tmp_path / "work/thesis.tex").write_text("years of work")
    for name, code in (("empty", 0), ("work", 2)):
        with start(tmp_path / name) as process:
            process.communicate()
        assert process.returncode == code
    assert [p.name for p in (tmp_path / "work").iterdir()] == ["thesis.tex"]
    told(tmp_path / "empty")
    before = {p: p.read_bytes() for p in (tmp_path / "empty").rglob("*") if p.is_file()}
    more = ("--set", "seed=8", "--set", "runtime.trackers=[tensorboard]")
    with start(tmp_path / "empty", *more) as process:
        process.communicate()
    assert process.returncode == 2
    assert {p: p.read_bytes() for p in (tmp_path / "empty").rglob("*") if p.is_file()} == before


def test_who_watches_a_run_that_starts_afresh_waits_for_the_new_directory(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    told(folder)

    def afresh() -> None:
        time.sleep(0.2)
        folder.rename(tmp_path / "aside")
        time.sleep(0.3)
        folder.mkdir()
        told(folder, state="ended")

    other = Thread(target=afresh)
    other.start()
    assert follow(folder, Live(plain=True), 0.01).endswith("the run has ended")
    other.join()


def test_what_an_earlier_start_has_cost_counts(tmp_path: Path) -> None:
    """A run that goes on begins with what stands in events.jsonl."""
    folder = tmp_path / "run"
    with start(folder, "--set", "rounds=1") as process:
        process.communicate()
    (folder / "evals/final/verdicts.jsonl").unlink()
    spent = {
        "event": "stage",
        "stage": "verdicts",
        "seconds": 1.0,
        "time": 1.0,
        **Usage(calls=2, dollars=1.5)._asdict(),
    }
    with (folder / "events.jsonl").open("a") as file:
        file.write(json.dumps(spent) + "\n")
    with start(folder, "--set", "rounds=1") as process:
        process.communicate()
    assert json.loads((folder / PROGRESS).read_text())["dollars"] == 1.5


def test_on_a_terminal_there_are_bars() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Live(console) as live:
        live.usage = lambda: Usage(dollars=1.234)
        live.stage("00000/responses", 100, 40)
        live.advance("responses", 70, tokens=600)
        live.note("1 principle")
        live.stage("00000/verdicts", 100, 0)
        live.advance("verdicts", 100)
    assert isinstance(console.file, io.StringIO)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())
    assert "1 principle" in shown and "round 0: judging" in shown and "100/100" in shown and "$1.23" in shown


def test_no_harm_at_all_is_not_taken_for_an_unknown_figure(tmp_path: Path) -> None:
    place = tmp_path / "rounds/00000"
    place.mkdir(parents=True)
    figures = {"harmful_compliance": 0.0, "harmful_compliance_words": 0.12, "benign_refusal_words": 0.05}
    (place / "gate.json").write_text(json.dumps({"kept": True, "figures": figures}))
    assert standing(tmp_path) == "round 0 kept: harmful compliance 0%, harmless refused 5%"


def test_every_line_is_json_where_that_is_asked_for(tmp_path: Path) -> None:
    with start(tmp_path / "run", "--log-format", "json") as process:
        out, _ = process.communicate()
    told = [json.loads(line) for line in out.splitlines()]
    assert {"stage", "note", "ended"} <= {t["event"] for t in told}
    assert [t["stage"] for t in told if t["event"] == "stage"].count("00001/responses") == 1
    assert told[-1] == {"event": "ended", "stopped": None, "report": str(tmp_path / "run/report.html")}


# -- trackers -------------------------------------------------------------------------------------------


def test_numbers_and_no_text_go_to_a_tracker(tmp_path: Path) -> None:
    with start(tmp_path / "run", "--set", "runtime.trackers=[tensorboard]") as process:
        process.communicate()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    [place] = {path.parent for path in (tmp_path / "run/tracking").rglob("events*")}
    events = EventAccumulator(str(place))
    events.Reload()
    names = events.Tags()["scalars"]
    assert [(e.step, e.value) for e in events.Scalars("validation/benign_refusal")] == [
        (
            n + 1,
            pytest.approx(
                json.loads((tmp_path / f"run/rounds/0000{n}/gate.json").read_text())["figures"]["benign_refusal"]
            ),
        )
        for n in range(2)
    ]
    assert [e.step for e in events.Scalars("harmful compliance/evaluator")] == [0, 2]
    kinds = ("harmful compliance/evaluator", "validation/benign_refusal", "training/rows")
    by_time = sorted((e.wall_time, e.step) for name in kinds for e in events.Scalars(name))
    assert [step for _, step in by_time] == sorted(step for _, step in by_time), "each step after the one before it"
    assert "round/principles" in names
    questions = {p["plain"][-1]["content"] for p in read_rows(tmp_path / "run/rounds/00000/prompts.jsonl")}
    told = b"".join(path.read_bytes() for path in place.rglob("*") if path.is_file())
    assert [q for q in questions if q.encode() in told] == []


def test_principles_go_to_a_tracker_where_that_is_asked_for(tmp_path: Path) -> None:
    asked = ("--set", "runtime.trackers=[tensorboard]", "--set", "runtime.tracker_texts=true")
    with start(tmp_path / "run", *asked) as process:
        process.communicate()
    files = b"".join(path.read_bytes() for path in (tmp_path / "run/tracking").rglob("*") if path.is_file())
    found = json.loads((tmp_path / "run/rounds/00001/principles.json").read_text())["constitution"]["principles"]
    assert found and all(p["text"].encode() in files for p in found)


def test_every_training_is_logged_and_the_base_first(tmp_path: Path) -> None:
    made: dict[str, object] = {"rows": 8, "steps": 4, "loss": 0.5}
    first, second = tmp_path / "rounds/00000", tmp_path / "rounds/00001"
    for place in (first, second, tmp_path / "evals/base"):
        place.mkdir(parents=True)
    (first / "trained.json").write_text(json.dumps(made))
    (second / "trained-dpo.json").write_text(json.dumps({**made, "rows": 9}))
    (second / "trained-rl.json").write_text(json.dumps({"checkpoint": {**made, "rows": 7}, "rewards": []}))
    (tmp_path / "evals/base/scores.json").write_text(json.dumps([{"name": "a", "variant": "b", "value": 0.5}]))
    steps = measured(tmp_path)
    assert [step for step, _ in steps] == [0, 1, 2]
    assert steps[0][1] == {"a/b": 0.5} and steps[1][1]["training/rows"] == 8
    assert (steps[2][1]["training-dpo/rows"], steps[2][1]["training-rl/rows"]) == (9, 7)


def test_an_unknown_tracker_is_named(tmp_path: Path) -> None:
    config = load_config(SCRIPTED, ["runtime.trackers=[wandbb]"])
    with pytest.raises(ConfigError, match=r"no tracker 'wandbb': expected some of .*wandb"), tracking(config):
        pass
    config = load_config(SCRIPTED, ["runtime.trackers=[aim]"])
    with pytest.raises(ConfigError, match="aim needs its package: pip install aim"), tracking(config):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_is_no_other_run(tmp_path: Path) -> None:
    with start(tmp_path / "run") as process:
        process.communicate()
    with start(tmp_path / "run", "--set", "runtime.trackers=[tensorboard]") as process:
        process.communicate()
    assert process.returncode == 0


def test_a_tracker_that_fails_is_left_out_and_ends_no_run(tmp_path: Path) -> None:
    class Broken:
        name, requires_logging_directory = "broken", False

        def __init__(self, run: str) -> None:
            self.run = run

        def start(self) -> None: ...

        def log(self, values: dict[str, float], step: int) -> None:
            raise RuntimeError("no route to its server")

    (tmp_path / "evals/base").mkdir(parents=True)
    score = {"name": "harmless refused (look-alike)", "variant": "hhh (chat, per token)", "value": 0.5}
    (tmp_path / "evals/base/scores.json").write_text(json.dumps([score]))
    trackers = Trackers([Broken], "run", False)
    with pytest.warns(UserWarning, match="nothing more goes to broken, which failed: no route"):
        trackers(tmp_path)
    trackers(tmp_path)
    assert trackers.begun == [] and list(measured(tmp_path)[0][1]) == ["harmless refused look-alike/hhh chat per token"]
