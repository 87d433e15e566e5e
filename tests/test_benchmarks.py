"""Every benchmark runs with --quick, prints a figure, and ends well only where its results are the same."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "benchmarks").rglob("*.py"))
OVER_5_SECONDS = {
    "choice.py",
    "classifier_judge.py",
    "judge_questions.py",
    "oracle_small.py",
    "pairs.py",
    "parity_lm_eval.py",
    "remote_judge.py",
    "scoring.py",
    "scoring_memory.py",
    "writing.py",
}
NEEDS = {"choice.py": "lm_eval", "parity_lm_eval.py": "lm_eval"}
MOST_SECONDS = 400  # 120 on a free machine; the tests share theirs


def python(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=MOST_SECONDS,
        check=False,
    )


@pytest.mark.parametrize(
    "script",
    [pytest.param(s, id=s.stem, marks=[pytest.mark.slow] if s.name in OVER_5_SECONDS else []) for s in SCRIPTS],
)
def test_a_benchmark_prints_its_figure_and_its_same_result_check(script: Path) -> None:
    if script.name in NEEDS:
        pytest.importorskip(NEEDS[script.name], reason="needs an extra that is not installed")
    done = python(script, "--quick")
    assert done.returncode == 0, done.stderr
    *shown, last = done.stdout.strip().splitlines()
    assert re.search(r"\d\.\d", "\n".join(shown)), "no figure"
    assert last.startswith("same result: yes"), last


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.stem)
def test_a_benchmark_says_what_it_measures_and_has_a_quick_form(script: Path) -> None:
    done = python(script, "--help")
    assert done.returncode == 0, done.stderr
    assert "--quick" in done.stdout
    assert len(done.stdout.split()) > 40, "its docstring says nothing"
