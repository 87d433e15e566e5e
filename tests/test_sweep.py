"""Several runs from one file: what each becomes, that they go on where they stopped, and the table of all of them."""

import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from iteralign.config import load_sweep, settled
from iteralign.errors import ConfigError, StoreError
from test_config import SCRIPTED, SWEEPS

SWEEP = f"""
base: {SCRIPTED}
set: {{rounds: 1, lift.budget: 4}}
variants:
  as it is: null
  no rules of its own: {{oracle: {{type: self}}, seed: 7}}
"""


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    path = tmp_path / "two.yaml"
    path.write_text(SWEEP)
    return path


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.name)
def test_every_shipped_sweep_is_read_and_its_variants_differ(path: Path) -> None:
    made = list(load_sweep(path).values())
    assert len({c.model_copy(update={"name": "x"}).model_dump_json() for c in made}) == len(made) > 1


def test_a_variant_is_the_base_with_what_all_and_what_it_changes(sweep: Path) -> None:
    made = load_sweep(sweep, ["respond.max_new_tokens=9"])
    assert {c.rounds for c in made.values()} == {1} and {c.respond.max_new_tokens for c in made.values()} == {9}
    assert [c.oracle.type for c in made.values()] == ["scripted", "self"]
    assert [c.name for c in made.values()] == ["as-it-is", "no-rules-of-its-own"]


def test_a_variant_takes_what_another_one_discovered(sweep: Path, tmp_path: Path) -> None:
    text = sweep.read_text().replace(
        "variants:", 'variants:\n  told: {recipe: in_context, constitution: "variant:as it is"}'
    )
    (tmp_path / "two.yaml").write_text(text)
    told = load_sweep(tmp_path / "two.yaml")["told"]
    with pytest.raises(
        StoreError, match="takes the constitution of 'as it is', which has not written .* run that variant first"
    ):
        settled(told, tmp_path / "out")
    (tmp_path / "out/as-it-is").mkdir(parents=True)
    (tmp_path / "out/as-it-is/constitution.yaml").write_text("principles: []")
    assert settled(told, tmp_path / "out").constitution == str(tmp_path / "out/as-it-is/constitution.yaml")
    (tmp_path / "two.yaml").write_text(text.replace("variant:as it is", "variant:as it was"))
    with pytest.raises(
        ConfigError, match="told takes the constitution of 'as it was': the variants are told, as it is"
    ):
        load_sweep(tmp_path / "two.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rounds: 2", "no sweep"),
        ("base: x.yaml\nvariants: {a: null}", "variants"),
        ("base: x.yaml\nvariants: {a: null, b: null}", "no config file"),
        (SWEEP.replace("seed: 7", "sed: 7"), "did you mean 'seed'"),
        (SWEEP.replace("no rules of its own", "as-it-is"), "same folder name"),
        ("base: [", "not valid YAML"),
    ],
)
def test_a_wrong_sweep_is_named(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_sweep(path)


def test_the_runs_stand_side_by_side_and_are_not_made_twice(sweep: Path, tmp_path: Path) -> None:
    def run(*more: str) -> str:
        command = [
            sys.executable,
            "-m",
            "iteralign.cli",
            "sweep",
            str(sweep),
            "--run-dir",
            str(tmp_path / "out"),
            *more,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    first = run("--only", "as it is")
    assert "no rules of its own: not run" in first
    trained = tmp_path / "out/as-it-is/rounds/00000/trained.json"
    made = trained.stat().st_mtime_ns
    said = run()
    assert trained.stat().st_mtime_ns == made
    for row in ("harmful compliance, word match", "principles found", "lift on failures", "oracle calls, failed"):
        assert said.count(row) == 2, row
    table = (tmp_path / "out/sweep.md").read_text()
    assert "as it is" in table and "no rules of its own" in table and "principles found" in table


@pytest.mark.parametrize("gone", [1, 2])
def test_variants_that_cannot_be_run_leave_the_others_and_the_table(sweep: Path, tmp_path: Path, gone: int) -> None:
    lost = "{prompts: {red_team: [{source: gone.jsonl, wants: decline}]}, seed: %d}"
    kept = "" if gone == 2 else "  as it is: null\n"
    told = "".join(f"  gone {n}: {lost % n}\n" for n in range(gone))
    sweep.write_text(SWEEP[: SWEEP.index("  as it is")] + told + kept)
    command = [sys.executable, "-m", "iteralign.cli", "sweep", str(sweep), "--run-dir", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 3 and f"{gone} of 2 variants did not come to their end: gone 0" in done.stderr
    assert "Traceback" not in done.stderr and "gone.jsonl" in done.stderr
    assert ("as it is" in (tmp_path / "out/sweep.md").read_text()) == bool(kept)


def test_an_unknown_variant_is_named(sweep: Path) -> None:
    command = [sys.executable, "-m", "iteralign.cli", "sweep", str(sweep), "--only", "other"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2 and "as it is" in done.stderr


def test_what_a_judge_said_to_one_variant_is_not_asked_again_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "alike.yaml"
    path.write_text(f"base: {SCRIPTED}\nset: {{rounds: 1}}\nvariants: {{one: null, other: {{sft.epochs: 3}}}}\n")
    kept: list[int] = []
    for name in ("one", "other"):
        command = [sys.executable, "-m", "iteralign.cli", "sweep", str(path), "--run-dir", str(tmp_path / "out")]
        done = subprocess.run([*command, "--only", name], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        files = [sqlite3.connect(path) for path in (tmp_path / "out/calls").glob("*.sqlite")]
        kept.append(sum(calls.execute("SELECT count(*) FROM calls").fetchone()[0] for calls in files))
    assert 0 < kept[0] == kept[1], "the other's answers are the same, and its judge was asked nothing"


def test_what_the_probes_measured_stands_side_by_side(sweep: Path, tmp_path: Path) -> None:
    probe = "probe: {enabled: true, prompts: 4, prefill: [0, 1], attacks: [role_play], fine_tune: [3], control: 0}"
    sweep.write_text(sweep.read_text().replace("lift.budget: 4", f"lift.budget: 4, {probe}"))
    command = [sys.executable, "-m", "iteralign.cli", "sweep", str(sweep), "--run-dir", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in (tmp_path / "out/sweep.md").read_text().splitlines() if " | " in line]
    told = {row[0].lstrip("| "): row[1] for row in rows}
    for name in ("answer begun with 0 tokens", "answer begun with 1 token", "attack: direct", "attack: role\\_play"):
        assert re.fullmatch(r"\d/4 \(\d+%\) → \d/4 \(\d+%\)", told[name]), name
    assert re.fullmatch(r"\d/4 \(\d+%\)", told["fine-tuned on 3 compliant rows"])
