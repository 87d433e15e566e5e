"""A run directory, read into one frozen record that every report is written from. Nothing is written or run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from iteralign.config import RunConfig, parse
from iteralign.errors import InputError, StoreError
from iteralign.evals.depth import Depth, read_depth
from iteralign.evals.improvement import Curve
from iteralign.evals.paired import Measure
from iteralign.evals.tax import AlignmentTax, alignment_tax
from iteralign.judges.calibration import Calibration, calibration_in
from iteralign.records import Prompt, digest
from iteralign.report.curve import best_checkpoint, read_curve
from iteralign.report.examples import (
    Changed,
    Example,
    Pairs,
    choose_examples,
    read_changed,
    read_verdicts,
    sample_pairs,
)
from iteralign.report.findings import notes, nothing_changed, shows, shows_not
from iteralign.report.history import History, read_constitution
from iteralign.report.measures import Disagreement, disagreements, read_measures
from iteralign.report.opening import asked, learnt, left
from iteralign.report.roles import Role, read_roles, self_notice
from iteralign.report.rounds import Round, checkpoint_of, read_rounds, stop_reason
from iteralign.report.spent import Spent, read_spent
from iteralign.report.wording import clean
from iteralign.store import read_rows


@dataclass(frozen=True)
class Summary:
    """`warnings` stand above the table, `notes` below it; `missing` is what an unfinished run lacks. `unread`: those of the
    warnings that name files of the owner's which cannot be read any more.

    `sentences`: what was asked, what was learnt from it, what came out, what is left, what all this does not show.
    `checkpoint` is None when the policy is still the untouched one. `spent`: time and calls by stage.
    Unless `full`, harmful text in it is already cut: no report can show more than this holds.
    """

    folder: Path
    config: RunConfig
    config_text: str
    full: bool
    roles: tuple[Role, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    sentences: tuple[str, str, str, str, str]
    measures: tuple[Measure, ...]
    disagreements: tuple[Disagreement, ...]
    changed: Changed
    version: str
    constitution: tuple[History, ...]
    retired: tuple[History, ...]
    rounds: tuple[Round, ...]
    calibrations: dict[str, Calibration | None]
    curve: Curve | None
    depth: Depth | None
    examples: tuple[Example, ...]
    pairs: Pairs
    spent: tuple[Spent, ...]
    environment: tuple[tuple[str, str], ...]
    checkpoint: Path | None
    weights: str
    asked: str
    stopped: str | None
    missing: tuple[str, ...]
    unread: tuple[str, ...]

    @property
    def untouched(self) -> str:
        """Why there is no checkpoint."""
        if any(r.state == "kept" for r in self.rounds):
            return "by validation the untouched policy was the best one"
        return "no round was kept, the policy is the untouched one"

    @property
    def shows(self) -> str:
        return self.sentences[2]

    @property
    def shows_not(self) -> str:
        return self.sentences[-1]

    @property
    def tax(self) -> AlignmentTax:
        return alignment_tax(self.measures, {}, self.config.seed)

    @property
    def html(self) -> Path:
        return self.folder / "report.html"

    @property
    def markdown(self) -> Path:
        return self.folder / "report.md"


def summarise(folder: Path, seed: int | None = None, full: bool = False) -> Summary:
    """Read a run. `seed` (the run's own by default) is for bootstrap and sign flips. Raises InputError."""
    config, config_text = read_config(folder)
    seed = config.seed if seed is None else seed
    prompts, problems = read_prompts(folder, config)
    measures, incomparable = read_measures(folder, seed)
    changed, differing = read_changed(folder), disagreements(measures)
    rounds = read_rounds(folder, config, prompts)
    curve = read_curve(folder)
    roles, stopped = read_roles(folder, config), stop_reason(rounds, config.gates) or (curve.stopped if curve else None)
    base, final = (read_verdicts(folder / "evals" / name, prompts) for name in ("base", "final"))
    missing = (*unfinished(folder, config, rounds, stopped), *incomparable)
    unread = tuple(clean(problem) for problem in problems)
    nothing = nothing_changed(measures, changed, rounds)
    constitution = read_constitution(folder, config, full)
    kept = [r for r in rounds if r.state == "kept"]
    calibrations = {role: calibration_in(folder, role) for role in ("judge", "evaluator")}
    calibration = calibrations["evaluator"]
    last = checkpoint_of(folder, kept[-1]) if kept else None
    checkpoint = best_checkpoint(folder, curve) if curve else Path(str(last.path)) if last else None
    return Summary(
        folder=folder,
        config=config,
        config_text=config_text,
        full=full,
        roles=roles,
        warnings=(
            *warnings(roles, stopped, nothing, missing),
            *unread,
            *([curve.warning] if curve and curve.warning else []),
        ),
        notes=notes(measures, changed, rounds, config, calibrations),
        sentences=(
            asked(config, roles, rounds),
            learnt(rounds, constitution.principles),
            shows(measures, nothing, config),
            left(final),
            shows_not(measures, differing, config, nothing, calibration),
        ),
        measures=measures,
        disagreements=differing,
        changed=changed,
        version=constitution.version,
        constitution=constitution.principles,
        retired=constitution.retired,
        rounds=rounds,
        calibrations=calibrations,
        curve=curve,
        depth=read_depth(folder),
        examples=choose_examples(base, final, full) if kept or not config.phases else (),
        pairs=sample_pairs(base, final, full) if kept or not config.phases else Pairs(),
        spent=read_spent(folder),
        environment=read_environment(folder),
        checkpoint=checkpoint,
        weights=last.digest if last and str(checkpoint) == last.path else "",
        asked=asked_digest(folder),
        stopped=stopped,
        missing=missing,
        unread=unread,
    )


def warnings(
    roles: Sequence[Role], stopped: str | None, nothing: str | None, missing: Sequence[str]
) -> tuple[str, ...]:
    """In the order in which they are said; a role that is the policy itself comes first."""
    ended = f"The run was stopped: {stopped}." if stopped else None
    partial = f"This report is partial: {'; '.join(missing)}." if missing else None
    return tuple(clean(w) for w in (self_notice(roles), ended, nothing, partial) if w)


def unfinished(folder: Path, config: RunConfig, rounds: Sequence[Round], stopped: str | None) -> tuple[str, ...]:
    found: list[str] = []
    if not (folder / "evals/base/scores.json").is_file():
        found.append("the untouched policy's scores are missing (evals/base)")
    halted = [r for r in rounds if r.state == "unfinished"]
    found += [f"{r.unit} {r.number} is not finished (next: {r.next_stage})" for r in halted]
    ahead = config.rounds * config.phases - len(rounds)
    final = (folder / "evals/final/scores.json").is_file()
    if ahead and not stopped and not final:
        unit = "phases" if config.phases > 1 else "rounds"
        found.append(f"{ahead} of {config.rounds * config.phases} {unit} have not begun")
    if not final:
        found.append("the final scores are missing (evals/final)")
    return tuple(found)


# -- files --------------------------------------------------------------------------------------


def read_config(folder: Path) -> tuple[RunConfig, str]:
    path = folder / "config.yaml"
    if any(folder.glob("evals/*/asked.json")):
        raise StoreError(
            f"{folder} holds an evaluation that `iteralign eval` made, and no run: one model, with nothing before and "
            f"after. Set it beside that of another model: iteralign compare {folder} OTHER"
        )
    if not path.is_file():
        raise StoreError(f"{folder} holds no config.yaml: it is no run directory. Name one that `iteralign run` made")
    text = path.read_text()
    try:
        tree: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise StoreError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise StoreError(f"{path}: expected a mapping of settings at the top, got {type(tree).__name__}")
    return parse(tree, str(path)), text


def asked_digest(folder: Path) -> str:
    """Of the held-out prompts: two runs with the same were asked the same."""
    path = folder / "evals/base/responses.jsonl"
    return digest(sorted(row["prompt"] for row in read_rows(path)), length=8) if path.is_file() else "–"


def read_prompts(folder: Path, config: RunConfig) -> tuple[dict[str, Prompt], list[str]]:
    """Prompts by id: those stored beside the answers, otherwise read again from the config's sources (an id is a
    hash of the text, so that a changed source can lose a prompt, never swap one)."""
    stored = [*folder.glob("evals/*/prompts.jsonl"), *folder.glob("rounds/*/validation/prompts.jsonl")]
    if stored:
        return {row["id"]: Prompt(**row) for path in stored for row in read_rows(path)}, []
    answers = {r["prompt"] for path in folder.glob("evals/*/responses.jsonl") for r in read_rows(path)}
    if not answers:
        return {}, []
    from iteralign.runs import split_prompts  # only here: reading a report needs no models

    try:
        splits = split_prompts(config)
    except (InputError, OSError) as error:
        return {}, [f"No examples, for the prompt sets cannot be read any more ({error})."]
    kept = (splits["validation"], splits["held_out"])
    prompts = {p.id: p for part in kept for p in (*part.red_team, *part.harmless)}
    lost = len(answers - prompts.keys())
    return prompts, [f"{lost} of {len(answers)} prompts are no longer in the prompt sets."] if lost else []


def read_environment(folder: Path) -> tuple[tuple[str, str], ...]:
    path = folder / "environment.json"
    if not path.is_file():
        return ()
    try:
        facts: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise StoreError(f"{path} is not JSON ({error}): was it changed by hand?") from error
    packages = facts.pop("packages", {})
    facts.pop("command", None)
    plain = [(name.replace("_", " "), str(value)) for name, value in facts.items()]
    return (*plain, *((name, str(version)) for name, version in packages.items() if version))
