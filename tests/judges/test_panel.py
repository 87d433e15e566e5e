"""A panel: the majority decides, a tie does not, and a judge that cannot judge has no vote."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from iteralign.config import PanelConfig, RunConfig, load_config, members
from iteralign.errors import ConfigError
from iteralign.evals.calibration import calibrate_judge
from iteralign.judges.base import Judge
from iteralign.judges.panel import Panel, votes
from iteralign.plan import plan
from iteralign.recipes.iteralign import iteralign
from iteralign.records import Fault, Label, Response, Verdict
from iteralign.report.roles import read_roles
from iteralign.runs import open_
from make import prompt, response

SCRIPTED = Path(__file__).parents[2] / "configs" / "scripted.yaml"
FOUND: dict[str, tuple[Label, Fault]] = {
    "p": ("passes", "none"),
    "u": ("unjudged", "none"),
    "i": ("fails", "incoherent"),
}
PANEL = [
    "judge={type: panel, judges: [{type: rubric, model: {type: scripted, script: judge}, questions: [declined, answered]},"
    " {type: rubric, model: {type: scripted, script: judge}, questions: [answered]},"
    " {type: rubric, model: {type: scripted, script: judge}, questions: [declined]}]}"
]


class Says(Judge):
    """p: passes, u: unjudged, i: incoherent, anything else: harmful."""

    def __init__(self, letter: str) -> None:
        self.letter = letter

    @property
    def name(self) -> str:
        return f"says {self.letter}"

    def __call__(self, responses: Sequence[Response]) -> list[Verdict]:
        label, fault = FOUND.get(self.letter, ("fails", "harmful"))
        return [self.verdict(r, label, fault, "as told", {"answered": 0.5}) for r in responses]


@pytest.mark.parametrize(
    ("labels", "label", "fault"),
    [
        ("ppf", "passes", "none"),
        ("pff", "fails", "harmful"),
        ("pf", "unjudged", "none"),
        ("uuf", "fails", "harmful"),
        ("upf", "unjudged", "none"),
        ("uuu", "unjudged", "none"),
        ("iih", "fails", "incoherent"),
    ],
)
def test_the_majority_of_those_that_could_judge_decides(labels: str, label: Label, fault: Fault) -> None:
    panel = Panel([Says(x) for x in labels])
    [verdict] = panel([response(prompt(), "Take the pick and turn it slowly.")])
    assert (verdict.label, verdict.fault) == (label, fault)
    assert len(votes(verdict.probabilities)) == len(labels) - labels.count("u")
    assert verdict.probabilities["answered"] == pytest.approx(0.5)
    assert verdict.judge == panel.name


def test_its_name_is_that_of_all_its_judges() -> None:
    assert Panel([Says("p"), Says("f")]).name != Panel([Says("p"), Says("u")]).name


def test_a_panel_takes_the_judges_place_in_a_run_its_plan_and_its_report(tmp_path: Path) -> None:
    config = load_config(SCRIPTED, [*PANEL, "rounds=1"])
    assert len(members(config.judge)) == 3
    lines = [line for line in plan(config).lines if line.stage == "judge"]
    assert len(lines) == 3 and all(line.role == "judge" for line in lines)
    run = open_(config, tmp_path / "run")
    iteralign(run)
    run.close()
    judge = next(role for role in read_roles(tmp_path / "run", config) if role.name == "judge")
    assert judge.what.startswith("the majority of 3: ") and "Krippendorff's alpha" in judge.what


def test_a_panel_that_holds_the_evaluator_is_refused_and_one_of_one_too() -> None:
    judges = (
        "judge.judges=[{type: paper, model: {type: scripted, script: evaluator}}, {type: paper, model: {type: self}}]"
    )
    for wrong in (["judge.type=panel", "judge.judges=[]"], [*PANEL, judges, "evaluator.type=paper"]):
        with pytest.raises(ConfigError):
            load_config(SCRIPTED, wrong)


def test_its_judges_are_measured_one_by_one(tmp_path: Path) -> None:
    config = load_config(SCRIPTED, PANEL)
    assert isinstance(config, RunConfig) and isinstance(config.judge, PanelConfig)
    with pytest.raises(ConfigError, match="one by one"):
        calibrate_judge([], config.judge, "complied", tmp_path)
