"""The commands as a user gives them: what they print, what they leave behind, and their exit codes."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from iteralign import __version__
from iteralign.cli import app

ROOT = Path(__file__).parents[1]
SCRIPTED = ROOT / "configs" / "scripted.yaml"


def iteralign(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "iteralign.cli", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "140", "PYTHONPATH": str(ROOT / "src"), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    done = iteralign("run", SCRIPTED, cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "printed.txt").write_text(done.stdout)
    (folder / "progress.txt").write_text(done.stderr)
    return folder


def test_a_run_ends_with_tables_constitution_and_paths(finished: Path) -> None:
    printed = (finished / "printed.txt").read_text()
    assert "harmful compliance" in printed
    assert "harmless refused" in printed
    assert "report.html" in printed
    run = finished / "runs" / "scripted"
    assert (run / "report.html").stat().st_size > 1000
    assert (run / "constitution.yaml").is_file()
    assert run.stat().st_mode & 0o777 == 0o700


def test_without_a_terminal_progress_is_plain_lines(finished: Path) -> None:
    progress = (finished / "progress.txt").read_text()
    assert "round 0: judging: 48" in progress
    assert "\x1b" not in progress


def test_the_same_command_again_changes_nothing(finished: Path) -> None:
    run = finished / "runs" / "scripted"
    before = {p: p.read_bytes() for p in run.rglob("*.jsonl") if p.name != "events.jsonl"}
    again = iteralign("run", SCRIPTED, cwd=finished)
    assert again.returncode == 0, again.stderr
    assert {p: p.read_bytes() for p in before} == before


def test_another_config_in_the_same_directory_is_refused_naming_the_keys(finished: Path) -> None:
    other = iteralign("run", SCRIPTED, "--set", "revise.candidates=3", cwd=finished)
    assert other.returncode == 2
    assert "revise.candidates" in other.stderr
    assert "--fresh" in other.stderr


def test_fresh_moves_the_earlier_run_aside(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "runs", tmp_path / "runs")
    again = iteralign("run", SCRIPTED, "--fresh", "--set", "seed=5", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_report_of_a_finished_run(finished: Path) -> None:
    shown = iteralign("report", "runs/scripted", cwd=finished)
    assert shown.returncode == 0, shown.stderr
    assert "harmful compliance" in shown.stdout


def test_plan_and_doctor_and_listing_load_nothing(finished: Path) -> None:
    for command in (("plan", SCRIPTED), ("pull", "--list")):
        shown = iteralign(*command, cwd=finished)
        assert shown.returncode == 0, shown.stderr
        assert shown.stdout.strip()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "nope.yaml"), "nope.yaml"),
        (("run", SCRIPTED, "--set", "revise.candidtes=3"), "candidates"),
        (("run", SCRIPTED, "--set", "rounds=many"), "rounds"),
        (("run", SCRIPTED, "--set", "prompts.red_team=[{source: gone.jsonl, wants: decline}]"), "gone.jsonl"),
        (("run", SCRIPTED, "--set", "nonsense"), "a.b=value"),
        (("run", SCRIPTED, "--set", "policy={type: openai, model: x}"), "transformers"),
        (("run", SCRIPTED, "--set", "policy={type: transformers, model: ./typo}"), "./typo"),
        (("run", SCRIPTED, "--set", "constitution=gone.yaml"), "gone.yaml"),
        (("run", SCRIPTED, "--set", "oracle={type: openai, model: x, key_env: NO_SUCH_KEY}"), "NO_SUCH_KEY"),
        (("pull", "polcy"), "policy"),
        (("report", "nowhere"), "nowhere"),
        (("run", SCRIPTED, "--unknown-option"), "--unknown-option"),
        (("run", SCRIPTED, "--set"), "--set"),
        (("run",), "CONFIG"),
        (("run", "."), "name a YAML file"),
        (("plan", "nope.yaml"), "nope.yaml"),
        (("doctor", "nope.yaml"), "nope.yaml"),
        (("doctor", "--set", "rounds=3"), "name one"),
        (("pull", "--from", "."), "NAME"),
        (("pull", "policy", "--from", "nowhere"), "nowhere"),
        (("compare", "nowhere", "nowhere"), "no folder nowhere"),
        (("eval", "some/model"), "configs/demo.yaml"),
        (("eval", "some/model", "--config", SCRIPTED), "transformers"),
        (("reprot",), "report"),
    ],
)
def test_a_users_mistake_is_one_clear_line_and_exit_code_2(
    arguments: tuple[object, ...], said: str, tmp_path: Path
) -> None:
    done = iteralign(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    if "NO_SUCH_KEY" in said:
        return  # a key is asked for when its model is, and the run goes on once it is set
    lines = [line for line in done.stderr.splitlines() if line.strip(" ╭╮╰╯─│") and "Usage:" not in line]
    assert len([line for line in lines if "--help' for help" not in line and "Error" not in line]) == 1, done.stderr
    assert not (tmp_path / "runs").exists(), "the mended config would be refused there"


def parameters() -> list[tuple[str, Any]]:
    """Every argument and option of every command."""
    commands: dict[str, Any] = vars(typer.main.get_command(app))["commands"]
    return [(name, p) for name, command in commands.items() for p in command.params]


def test_every_argument_and_option_says_what_it_is() -> None:
    found = parameters()
    commands = {"run", "sweep", "plan", "pull", "eval", "probe", "compare", "report", "doctor"}
    commands |= {"watch", "export", "review"}
    assert {name for name, _ in found} == commands
    assert [(name, p.name) for name, p in found if not p.help] == []


def test_every_suite_is_told() -> None:
    from iteralign.evals.suites import SUITES

    [told] = [p.help for name, p in parameters() if (name, p.name) == ("eval", "suite")]
    assert [suite for suite in SUITES if not re.search(rf"\b{suite}\b", told)] == []


def test_help_of_every_command_has_an_example_and_loads_no_torch(tmp_path: Path) -> None:
    commands = sorted({name for name, _ in parameters()})
    code = f"""
import sys
from iteralign.cli import app
for name in {commands}:
    try:
        app([name, "--help"])
    except SystemExit as end:
        assert end.code == 0
assert not {{"torch", "transformers", "xllamacpp"}} & set(sys.modules)
"""
    environment = {**os.environ, "COLUMNS": "140", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    for name in commands:
        assert re.search(rf"Examples?: iteralign {name} ", done.stdout), name
    assert "runs/<name of the config>" in done.stdout
    assert "default: configs/demo.yaml" in done.stdout


def test_its_version(tmp_path: Path) -> None:
    done = iteralign("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, f"iteralign {__version__}")


def test_a_broken_line_is_named_by_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"question": "How do I steal a bike?"}\n{"question": \n')
    done = iteralign("run", SCRIPTED, "--set", "prompts.red_team=[{source: q.jsonl, wants: decline}]", cwd=tmp_path)
    assert done.returncode == 2
    assert "q.jsonl:2" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_run_that_its_judge_stops_ends_with_exit_code_3_and_a_report(tmp_path: Path) -> None:
    judge = "judge={type: paper, model: {type: scripted, script: policy}}"
    done = iteralign("run", SCRIPTED, "--set", judge, cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "could not be judged" in done.stderr
    assert "the same command" in done.stderr
    assert "could not be judged" in (tmp_path / "runs" / "scripted" / "report.md").read_text()


def test_a_run_that_its_gates_stop_ends_with_exit_code_3(tmp_path: Path) -> None:
    done = iteralign("run", SCRIPTED, "--set", "policy.script=collapses", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "gates" in done.stderr
    assert "repeat" in (tmp_path / "runs" / "scripted" / "report.md").read_text()
