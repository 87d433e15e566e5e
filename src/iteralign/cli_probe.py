"""`iteralign probe`: how deep a model's alignment goes; no logic of its own."""

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from iteralign.cli_options import Fresh, Sets, resumable
from iteralign.errors import ConfigError


def probe(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="the aligned model: folder, hub id or name of `iteralign pull --list`"),
    ],
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="what it was before", show_default="the config's policy")
    ] = None,
    config: Annotated[
        Path, typer.Option(metavar="CONFIG", help="YAML file whose prompts, evaluator and sampling are used")
    ] = Path("configs/probe.yaml"),
    set_: Sets = [],  # noqa: B006
    run_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="where answers are kept", show_default="runs/probe-<model's name>"),
    ] = None,
    fresh: Fresh = False,
) -> None:
    """Say how deep alignment goes: answers begun for the model, jailbreaks, and a copy trained on a few harmful rows.

    What is put into its mouth are the base's own replies; nothing harmful is shipped, and the trained copy is deleted.
    """
    from iteralign.config import load_config
    from iteralign.evals.depth import probe_depth
    from iteralign.live import Downloads, Live
    from iteralign.report.charts import probe_chart
    from iteralign.report.markdown import depth_section
    from iteralign.report.probe import print_probe
    from iteralign.runs import open_
    from iteralign.store import write_text
    from iteralign.training.policy import BASE, Engine, Policy

    own_type = load_config(config, set_).policy.type
    if own_type != "transformers":
        raise ConfigError(
            f"{config}: its policy is of type {own_type}, and probe needs a transformers one: give --config"
        )
    name = re.sub(r"[^\w.-]+", "-", Path(model).name, flags=re.ASCII)
    own = [*set_, f"name={json.dumps(f'probe-{name}')}", f"probe.base={json.dumps(base)}"]
    aligned = load_config(config, [*own, f"policy.model={json.dumps(model)}"])
    before = load_config(config, [*own, *([f"policy.model={json.dumps(base)}"] if base else [])])
    folder = run_dir or Path("runs") / aligned.name
    with Live() as live:
        opened = open_(aligned, folder, fresh, watch=live, progress=Downloads(live), step=live.training)
        other = Engine(before.policy, opened.engine.threads, Downloads(live), opened.store)
        try:
            with resumable():
                depth = probe_depth(opened, Policy(other, BASE), opened.base)
        finally:
            other.close()
            opened.close()
    write_text(folder / "probe.md", "\n".join(depth_section(depth)))
    if picture := probe_chart(depth):
        write_text(folder / "probe.svg", picture)
    print_probe(depth)
    typer.echo(f"Table: {folder / 'probe.md'}")
