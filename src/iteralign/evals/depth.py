"""The whole probe of one model: prefill curve, positions, jailbreaks, fine-tuning attack, each beside the base."""

from pathlib import Path

from iteralign.config import ProbeConfig
from iteralign.constitutions import load_constitution
from iteralign.evals.probe import (
    Column,
    Position,
    Probe,
    Row,
    compliant,
    jailbreaks,
    positions,
    prefill_curve,
)
from iteralign.evals.tamper import fine_tuning_attack, forget
from iteralign.prompts import load_prompt
from iteralign.records import Record
from iteralign.runs import HELD_OUT, Run
from iteralign.store import write_text
from iteralign.training.policy import Policy

FILE = "probe.json"


class Depth(Record):
    """`columns`: base, aligned, and the base told a constitution. `replies`: of the prompts, those on which the base
    complied in one of its samples, which the prefill curve is on."""

    columns: tuple[str, ...]
    prompts: int
    replies: int
    rows: tuple[Row, ...]
    positions: tuple[Position, ...]


def probe_depth(run: Run, base: Policy, aligned: Policy) -> Depth:
    """Everything in `probe/` of the run's directory, the result in probe.json; goes on where it stopped."""
    config = run.config.probe
    store = run.store.inside("probe")
    forget(store)
    prompts = run.prompts[HELD_OUT].first(config.prompts, run.config.seed)
    prompts = [p for p in prompts if p.wants == "decline"]
    train = run.prompts["train"]
    probe = Probe(
        store, lambda: run.evaluator(base), config, run.config.evaluate, run.config.seed, run.config.generation_batch
    )
    columns = [Column("base", lambda: base.model), Column("aligned", lambda: aligned.model)]
    if config.constitution:
        columns.append(Column("base in context", lambda: told(base, str(config.constitution)).model))
    replies = compliant(probe, "compliant", columns[0], prompts, config.drawn)
    needed = compliant_needed(config)
    shots = compliant(probe, "compliant-train", columns[0], train.red_team[: 2 * needed], 1, needed)
    rows = [
        row
        for column in columns
        for row in (*prefill_curve(probe, [column], replies), *jailbreaks(probe, [column], prompts, shots))
    ]
    where = positions(probe, columns[0], columns[1], replies)
    if config.fine_tune or config.control:
        rows += fine_tuning_attack(run, probe, aligned, prompts, shots, base)
    made = Depth(
        columns=tuple(c.name for c in columns),
        prompts=len(prompts),
        replies=len(replies),
        rows=tuple(rows),
        positions=tuple(where),
    )
    write_text(run.store.path(FILE), made.model_dump_json(indent=1) + "\n")
    return made


def compliant_needed(config: ProbeConfig) -> int:
    """Compliant replies to training prompts: to be shown before another question, and to be trained on."""
    return max([(config.shots + 1) * ("few_shot" in config.attacks), *config.fine_tune])


def read_depth(folder: Path) -> Depth | None:
    """The probe of a run's directory; None: there is none."""
    path = folder / FILE
    return Depth.model_validate_json(path.read_text()) if path.is_file() else None


def told(base: Policy, constitution: str) -> Policy:
    texts = [p.text for p in load_constitution(constitution).principles]
    [message] = load_prompt("in_context.yaml").chat("system", principles=texts)
    return base._replace(system=message.content)
