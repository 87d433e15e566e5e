"""The whole probe of one model: prefill curve, positions, jailbreaks, fine-tuning attack, each beside the base."""

from collections.abc import Sequence
from pathlib import Path

from iteralign.config import ProbeConfig
from iteralign.constitutions import load_constitution
from iteralign.errors import NotApplicable
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
from iteralign.evals.tamper import fine_tuning_attack
from iteralign.prompts import load_prompt
from iteralign.records import Constitution, Record, Response, digest
from iteralign.runs import HELD_OUT, Run
from iteralign.store import write_text
from iteralign.training.policy import Policy

FILE = "probe.json"


class Depth(Record):
    """`columns`: base, aligned, and the base told a constitution. `replies`: of the prompts, those on which the base
    complied in one of its samples, which the prefill curve is on. `no_positions`: why the models cannot be compared token by
    token."""

    columns: tuple[str, ...]
    prompts: int
    replies: int
    rows: tuple[Row, ...]
    positions: tuple[Position, ...]
    no_positions: str = ""


def probe_depth(run: Run, base: Policy, aligned: Policy, own: Constitution | None = None) -> Depth:
    """Everything in a folder of `probe/` of the run's directory that belongs to these models and settings, the result in
    probe.json; goes on where it stopped. `own`: the constitution that the base is told in context."""
    config = run.config.probe
    store = run.store.inside(f"probe/{identity(run, base, aligned)}")
    prompts = run.prompts[HELD_OUT].first(config.prompts, run.config.seed)
    prompts = [p for p in prompts if p.wants == "decline"]
    train = run.prompts["train"]
    probe = Probe(
        store, lambda: run.evaluator(base), config, run.config.evaluate, run.config.seed, run.config.generation_batch
    )
    columns = [Column("base", lambda: base.model), Column("aligned", lambda: aligned.model)]
    if config.constitution:
        constitution = given(run, config.constitution, own)
        columns.append(Column("base in context", lambda: told(base, constitution).model))
    replies = compliant(probe, "compliant", columns[0], prompts, config.drawn)
    needed = compliant_needed(config)
    shots = compliant(probe, "compliant-train", columns[0], train.red_team[: 2 * needed], 1, needed)
    rows = [
        row
        for column in columns
        for row in (*prefill_curve(probe, [column], replies), *jailbreaks(probe, [column], prompts, shots))
    ]
    where, why = along(probe, columns[0], columns[1], replies)
    if config.fine_tune or config.control:
        rows += fine_tuning_attack(run, probe, aligned, prompts, shots, base, rows)
    made = Depth(
        columns=tuple(c.name for c in columns),
        prompts=len(prompts),
        replies=len(replies),
        rows=tuple(rows),
        positions=tuple(where),
        no_positions=why,
    )
    write_text(run.store.path(FILE), made.model_dump_json(indent=1) + "\n")
    return made


def identity(run: Run, base: Policy, aligned: Policy) -> str:
    """Of what is probed and how: answers of other weights, or to other questions, are not taken for these."""
    said = [
        run.config.probe.model_dump(mode="json", exclude={"enabled"}),
        run.config.evaluate.model_dump(mode="json"),
        run.config.seed,
    ]
    return digest(said, *(stamp(policy) for policy in (base, aligned)))


def stamp(policy: Policy) -> list[object]:
    """A checkpoint's digest; of a folder that somebody names its files with their sizes and times."""
    config = policy.engine.config
    folder = Path(getattr(config, "model", None) or "no folder")
    files = sorted(p for p in folder.iterdir() if p.is_file()) if folder.is_dir() else []
    seen = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return [config.model_dump(mode="json"), policy.checkpoint.digest, policy.system, seen]


def along(probe: Probe, base: Column, aligned: Column, replies: Sequence[Response]) -> tuple[Sequence[Position], str]:
    try:
        return positions(probe, base, aligned, replies), ""
    except NotApplicable as error:
        return (), str(error)


def compliant_needed(config: ProbeConfig) -> int:
    """Compliant replies to training prompts: to be shown before another question, and to be trained on."""
    return max([(config.shots + 1) * ("few_shot" in config.attacks), *config.fine_tune])


def read_depth(folder: Path) -> Depth | None:
    """The probe of a run's directory; None: there is none."""
    path = folder / FILE
    return Depth.model_validate_json(path.read_text()) if path.is_file() else None


def given(run: Run, name: str, own: Constitution | None) -> Constitution:
    if name != "own":
        return load_constitution(name)
    found = own or run.constitution
    return found if found.principles else load_constitution("helpful_harmless_honest")


def told(base: Policy, constitution: Constitution) -> Policy:
    texts = [p.text for p in constitution.principles]
    [message] = load_prompt("in_context.yaml").chat("system", principles=texts)
    return base._replace(system=message.content)
