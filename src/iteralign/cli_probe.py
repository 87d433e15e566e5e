"""`iteralign probe`: how deep a model's alignment goes; no logic of its own."""

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from iteralign.cli_options import Fresh, Sets, refuse_modelless, resumable
from iteralign.errors import ConfigError


def probe(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="a finished run's directory, or an aligned model: folder, hub id, name of `iteralign pull --list`, or a served "
            "model's name where CONFIG's policy is served",
        ),
    ],
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="what it was before", show_default="the config's policy")
    ] = None,
    config: Annotated[
        Path,
        typer.Option(
            metavar="CONFIG",
            help="YAML file whose prompts, evaluator and sampling are used; of a run its own are, and only `probe` is read here",
        ),
    ] = Path("configs/probe.yaml"),
    set_: Sets = [],  # noqa: B006
    run_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="where answers are kept", show_default="runs/probe-<model's name>"),
    ] = None,
    fresh: Fresh = False,
) -> None:
    """Say how deep alignment goes: answers begun for the model, jailbreaks, and a copy trained on a few harmful rows.

    What is put into its mouth are the base's own replies; nothing harmful is shipped, and the trained copy is deleted. The
    probe of a run goes into its report.
    """
    if (Path(model) / "config.yaml").is_file():
        if base or run_dir or fresh:
            raise ConfigError(
                f"{model} is a run: it has its base and its directory, so leave out --base, --run-dir and --fresh"
            )
        probe_run(Path(model), config, set_)
    else:
        probe_model(model, base, config, set_, run_dir, fresh)


def probe_run(folder: Path, config: Path, set_: list[str]) -> None:
    """The policy that the run ended with, beside the one that it began with."""
    from dataclasses import replace

    from iteralign.config import load_config
    from iteralign.constitutions import load_constitution
    from iteralign.evals.depth import probe_depth
    from iteralign.live import Downloads, Live
    from iteralign.models.weights import load_weights, weights_digest
    from iteralign.records import Checkpoint
    from iteralign.report import write_reports
    from iteralign.report.summary import summarise
    from iteralign.runs import open_
    from iteralign.training.policy import Policy

    settings, found = load_config(config, set_).probe, summarise(folder)
    if found.missing or found.checkpoint is None:
        why = "; ".join(found.missing) or found.untouched
        raise ConfigError(f"{folder}: nothing to probe: {why}")
    with Live() as live:
        opened = open_(found.config, folder, watch=live, progress=Downloads(live), step=live.training)
        run = replace(opened, config=found.config.model_copy(update={"probe": settings}))
        live.usage, live.ended = lambda: opened.usage, opened.spent
        scripted = run.config.policy.type == "scripted"
        weights = "scripted" if scripted else weights_digest(load_weights(str(found.checkpoint)))
        checkpoint = Checkpoint(path=str(found.checkpoint), parent=None, digest=weights)
        try:
            with resumable():
                probe_depth(
                    run, run.base, Policy(run.engine, checkpoint), load_constitution(str(folder / "constitution.yaml"))
                )
        finally:
            live.finish()
            opened.close()
    write_reports(folder)
    shown(folder)
    typer.echo(f"Report: {folder / 'report.html'}")


def probe_model(model: str, base: str | None, config: Path, set_: list[str], run_dir: Path | None, fresh: bool) -> None:
    from iteralign.config import load_config
    from iteralign.evals.depth import probe_depth
    from iteralign.live import Downloads, Live
    from iteralign.runs import open_
    from iteralign.training.policy import BASE, Engine, Policy

    refuse_modelless(config, load_config(config, set_).policy.type)
    name = re.sub(r"[^\w.-]+", "-", Path(model).name, flags=re.ASCII)
    own = [*set_, f"name={json.dumps(f'probe-{name}')}", f"probe.base={json.dumps(base)}"]
    aligned = load_config(config, [*own, f"policy.model={json.dumps(model)}"])
    before = load_config(config, [*own, *([f"policy.model={json.dumps(base)}"] if base else [])])
    folder = run_dir or Path("runs") / aligned.name
    with Live() as live:
        opened = open_(aligned, folder, fresh, watch=live, progress=Downloads(live), step=live.training, trains=False)
        other = Engine(before.policy, opened.engine.threads, Downloads(live), opened.store)
        try:
            with resumable():
                probe_depth(opened, Policy(other, BASE), opened.base)
        finally:
            other.close()
            opened.close()
    shown(folder)
    typer.echo(f"Table: {folder / 'probe.md'}")


def shown(folder: Path) -> None:
    """The probe in a run's directory: on the screen, as a table and as a picture."""
    from iteralign.evals.depth import read_depth
    from iteralign.judges.calibration import calibration_in
    from iteralign.report.charts import probe_chart
    from iteralign.report.markdown import depth_section
    from iteralign.report.probe import print_probe
    from iteralign.store import write_text

    depth, evaluator = read_depth(folder), calibration_in(folder)
    assert depth is not None
    write_text(folder / "probe.md", "\n".join(depth_section(depth, evaluator)))
    if picture := probe_chart(depth):
        write_text(folder / "probe.svg", picture)
    print_probe(depth, evaluator)
