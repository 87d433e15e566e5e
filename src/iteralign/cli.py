"""Commands over the parts; no logic of their own. Exit codes: 2 your mistake, 3 stopped by a gate, 1 a bug."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from iteralign.errors import IteralignError, Stopped

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Find where a language model misbehaves, discover the principles it breaks, revise, train, measure both sides.",
)

Config = Annotated[Path, typer.Argument(help="YAML file, e.g. configs/demo.yaml")]
Sets = Annotated[list[str], typer.Option("--set", help="a.b=value, parsed as YAML; may be repeated")]
RunDir = Annotated[Path | None, typer.Option(help="run directory (default: runs/<config name>)")]


@app.command()
def run(
    config: Config,
    set_: Sets = [],  # noqa: B006 - typer reads the default
    run_dir: RunDir = None,
    fresh: Annotated[bool, typer.Option(help="move an earlier run of this directory aside and start anew")] = False,
) -> None:
    """Run a recipe, or continue it where it stopped."""
    from iteralign.config import load_config
    from iteralign.live import Live
    from iteralign.recipes.iteralign import iteralign
    from iteralign.report import print_summary, write_reports
    from iteralign.runs import open_

    settings = load_config(config, set_)
    folder = run_dir or Path("runs") / settings.name
    with Live() as live:
        opened = open_(settings, folder, fresh, watch=live, progress=Downloads(live), step=live.training)
        try:
            outcome = iteralign(opened)
        except KeyboardInterrupt:
            typer.secho("\ninterrupted: what is finished is kept. Run the same command to go on", err=True)
            raise typer.Exit(130) from None
        finally:
            opened.close()
            opened.store.event("seconds", **{k: round(v, 1) for k, v in live.seconds.items()})
    print_summary(write_reports(folder))
    if outcome.stopped:
        raise Stopped(outcome.stopped)


@app.command()
def plan(
    config: Config,
    set_: Sets = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Calls, tokens, time, memory and cost of a run, before anything is loaded."""
    from rich.console import Console

    from iteralign.config import load_config
    from iteralign.plan import plan as forecast
    from iteralign.plan import plan_table

    made = forecast(load_config(config, set_))
    if as_json:
        typer.echo(json.dumps(made.as_dict(), indent=1))
    else:
        tables: Any = plan_table(made)
        for table in tables if isinstance(tables, list | tuple) else [tables]:
            Console().print(table)


@app.command()
def pull(
    names: Annotated[list[str] | None, typer.Argument(help="names of models and data sets; --list shows them")] = None,
    from_: Annotated[Path | None, typer.Option("--from", help="check and adopt local copies in this folder")] = None,
    list_: Annotated[bool, typer.Option("--list", help="what there is, and what the cache holds")] = False,
) -> None:
    """Fetch models and data sets into the cache, checked by sha256."""
    from iteralign import sources
    from iteralign.live import Live

    if list_ or not names:
        from rich.console import Console
        from rich.table import Table

        table = Table("name", "what", "MB", "licence", "cached", title=str(sources.cache_folder()))
        for source, cached in sources.listing():
            table.add_row(source.name, source.what, f"{source.size / 1e6:.1f}", source.licence, "yes" if cached else "")
        Console().print(table)
        return
    owners = {source.name: source.owner for source, _ in sources.listing()}
    with Live() as live:
        for name in names:
            path = sources.adopt(name, from_) if from_ else sources.fetch(name, progress=Downloads(live))
            live.note(f"{name}: {path}" + (f"\n  {owners[name]}" if name in owners else ""))


@app.command(name="eval")
def eval_(
    model: Annotated[str, typer.Argument(help="folder, hub id or name of the sources table")],
    config: Annotated[Path, typer.Option(help="whose prompts, evaluator and sampling to use")] = Path(
        "configs/demo.yaml"
    ),
    set_: Sets = [],  # noqa: B006
    run_dir: RunDir = None,
) -> None:
    """Held-out compliance and refusal, and HHH, of one model."""
    from rich.console import Console
    from rich.table import Table

    from iteralign.config import load_config
    from iteralign.evals.suite import evaluate
    from iteralign.live import Live
    from iteralign.runs import open_

    name = Path(model).name
    settings = load_config(config, [*set_, f"policy.model={json.dumps(model)}", f"name={json.dumps(f'eval-{name}')}"])
    with Live() as live:
        opened = open_(settings, run_dir or Path("runs") / settings.name, watch=live, progress=Downloads(live))
        try:
            scores = evaluate(opened, opened.base, "base")
        finally:
            opened.close()
    table = Table("metric", "variant", "value", "95 % interval", "n", "unscored", title=model)
    for score in scores:
        value = "-" if score.value is None else f"{score.value:.1%}"
        interval = "-" if score.low is None else f"{score.low:.1%} to {score.high:.1%}"
        table.add_row(score.name, score.variant, value, interval, str(score.n), str(score.n_unscored))
    Console().print(table)


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(help="run directory")],
    full: Annotated[bool, typer.Option(help="do not cut harmful text: for your own screen only")] = False,
) -> None:
    """Write report.md and report.html of a run, finished or not, and show its tables."""
    from iteralign.report import print_summary, write_reports

    print_summary(write_reports(run_dir, full))


@app.command()
def doctor(
    config: Annotated[Path | None, typer.Argument(help="check what this config needs, too")] = None,
) -> None:
    """Check versions, device, memory, cache, keys and servers."""
    from rich.console import Console
    from rich.table import Table

    from iteralign.config import load_config
    from iteralign.doctor import checks

    table = Table("check", "", "found", "what to do")
    found = checks(load_config(config) if config else None)
    for check in found:
        table.add_row(check.name, {True: "ok", False: "BAD", None: "-"}[check.ok], check.said, check.hint)
    Console().print(table)
    if any(check.ok is False for check in found):
        raise typer.Exit(2)


class Downloads:
    """Progress of downloads: a line when one begins to take time, and one for each tenth after that."""

    def __init__(self, live: Any) -> None:
        self.live = live
        self.begun: dict[str, tuple[float, int]] = {}
        self.told: dict[str, int] = {}

    def __call__(self, name: str, done: int, total: int) -> None:
        start, first = self.begun.setdefault(name, (time.monotonic(), done))
        seconds, tenth = time.monotonic() - start, 10 * done // max(total, 1)
        if seconds < 1 or done == first or self.told.get(name) == tenth:
            return
        self.told[name] = tenth
        left = (total - done) * seconds / (done - first)
        self.live.note(f"fetching {name}: {done / 1e6:.0f} of {total / 1e6:.0f} MB, about {left:.0f} s left")


def main() -> None:
    try:
        app()
    except IteralignError as error:
        typer.secho(f"{'stopped' if isinstance(error, Stopped) else 'error'}: {error}", fg="red", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
