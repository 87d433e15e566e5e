"""Commands over the parts; no logic of their own. Exit codes: 2 your mistake, 3 stopped by a gate, 1 a bug."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from iteralign import __version__, cli_constitution, cli_eval, cli_export, cli_judge, cli_pack, cli_probe, cli_review
from iteralign.cli_options import Fresh, Sets, resumable
from iteralign.errors import ConfigError, IteralignError, Stopped, Waiting

if TYPE_CHECKING:
    from iteralign.config import RunConfig

LogFormat = Literal["text", "json"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Find where a language model misbehaves, discover the principles it breaks, revise, train, measure both sides.",
    epilog="Start with: iteralign doctor; iteralign plan configs/demo.yaml; iteralign run configs/demo.yaml. "
    "Exit codes: 0 done, 2 a mistake that you can mend, 3 stopped by a gate, 130 interrupted, 1 a bug.",
)

app.add_typer(cli_judge.app, name="judge")
app.add_typer(cli_constitution.app, name="constitution")
app.add_typer(cli_pack.app, name="pack")

Config = Annotated[
    Path,
    typer.Argument(
        metavar="CONFIG", help="YAML file: a preset such as configs/demo.yaml, or your own", show_default=False
    ),
]


def show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"iteralign {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """What stands before any command."""


@app.command(epilog="Example: iteralign run configs/demo.yaml --set rounds=3 --run-dir runs/three")
def run(
    config: Config,
    set_: Sets = [],  # noqa: B006 - typer reads the default
    run_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="run directory", show_default="runs/<name of the config>")
    ] = None,
    fresh: Fresh = False,
    log_format: Annotated[
        LogFormat, typer.Option(help="text: a display, or lines without a terminal; json: a line of JSON an event")
    ] = "text",
) -> None:
    """Run a recipe, or continue it where it stopped: the same command again goes on."""
    from iteralign.config import load_config
    from iteralign.report import print_summary, write_reports

    settings = load_config(config, set_)
    folder = run_dir or Path("runs") / settings.name
    stopped = run_one(settings, folder, fresh, log_format)
    summary = write_reports(folder)
    if log_format == "json":
        typer.echo(json.dumps({"event": "ended", "stopped": stopped, "report": str(summary.html)}))
    else:
        print_summary(summary)
    if stopped:
        raise Stopped(stopped)


def run_one(
    settings: "RunConfig", folder: Path, fresh: bool = False, log: LogFormat = "text", shared: Path | None = None
) -> str | None:
    """To its end; returns why it was stopped before. `shared`: see `open_`."""
    from iteralign.live import Downloads, Live
    from iteralign.recipes import carry_out
    from iteralign.report.spent import read_spent, total
    from iteralign.runs import open_
    from iteralign.tracking import tracking

    with tracking(settings) as trackers, Live(log=log, trackers=trackers) as live:
        opened = open_(settings, folder, fresh, watch=live, progress=Downloads(live), step=live.training, shared=shared)
        before = total(read_spent(folder))
        live.usage, live.ended = lambda: before.plus(opened.usage), opened.spent
        live.unit = "phase" if settings.phases > 1 else "round"
        live.keep(folder)
        try:
            with resumable():
                return carry_out(opened).stopped
        except Stopped as early:
            return str(early)
        finally:
            live.finish()
            opened.close()


@app.command(epilog="Example: iteralign watch runs/demo")
def watch(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="directory of a run that works elsewhere")],
) -> None:
    """Follow a run from another terminal or process until it ends; Ctrl-C leaves the run alone."""
    from iteralign.live import follow

    with resumable():
        typer.echo(follow(run_dir))


@app.command(epilog="Example: iteralign sweep configs/oracles.yaml --only policy")
def sweep(
    config: Annotated[
        Path, typer.Argument(metavar="SWEEP", help="YAML file with `base` and `variants`", show_default=False)
    ],
    set_: Sets = [],  # noqa: B006
    only: Annotated[
        list[str] | None, typer.Option(metavar="VARIANT", help="run this one now; may be repeated", show_default="all")
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="holds a run directory a variant", show_default="runs/<its name>")
    ] = None,
) -> None:
    """Run a config in several variants, one after the other, and set them side by side; goes on where it stopped.

    What judges and oracles said to one variant is not asked again by the next."""
    from iteralign.config import load_sweep, settled
    from iteralign.report.sweep import print_sweep, read_variants, sweep_markdown, sweep_table
    from iteralign.store import write_text

    variants = load_sweep(config, set_)
    if unknown := set(only or ()) - variants.keys():
        raise ConfigError(f"--only {', '.join(sorted(unknown))}: {config} has {', '.join(variants)}")
    folder = run_dir or Path("runs") / config.stem
    stopped: dict[str, str] = {}
    for name, settings in variants.items():
        if only and name not in only:
            continue
        typer.secho(f"{name}: {folder / settings.name}", bold=True)
        try:
            why = run_one(settled(settings, folder), folder / settings.name, shared=folder / "calls")
        except IteralignError as error:  # the others can still be run
            why = str(error)
        if why:
            stopped[name] = why
            typer.secho(f"{name}: {why}", fg="red", err=True)
    found = read_variants(folder, {name: settings.name for name, settings in variants.items()}, stopped)
    print_sweep(config.stem, found)
    folder.mkdir(parents=True, exist_ok=True)  # where no variant has begun
    write_text(folder / "sweep.md", sweep_markdown(config.stem, sweep_table(found)))
    typer.echo(f"Table: {folder / 'sweep.md'}")
    if stopped:
        raise Stopped(f"{len(stopped)} of {len(variants)} variants did not come to their end: {', '.join(stopped)}")


@app.command(epilog="Example: iteralign plan configs/demo.yaml --set prompts.held_out=120")
def plan(
    config: Config,
    set_: Sets = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="as JSON instead of tables")] = False,
) -> None:
    """Calls, tokens, time, memory and cost of a run, before anything is loaded or fetched."""
    from rich.console import Console

    from iteralign.config import load_config
    from iteralign.plan import plan as forecast
    from iteralign.plan import plan_table

    made = forecast(load_config(config, set_))
    if as_json:
        typer.echo(json.dumps(made.as_dict(), indent=1))
    else:
        Console().print(plan_table(made))


@app.command(epilog="Examples: iteralign pull policy oracle hhh; iteralign pull oracle --from ~/Downloads")
def pull(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="models and data sets of the list, or hub:ORG/REPO; none: shows the list",
            show_default=False,
        ),
    ] = None,
    from_: Annotated[
        Path | None,
        typer.Option("--from", metavar="FOLDER", help="check and adopt local copies instead of fetching"),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="show what there is, and what the cache holds")] = False,
) -> None:
    """Fetch models and data sets into the cache, checked by sha256. The cache: $ITERALIGN_CACHE or ~/.cache/iteralign."""
    from iteralign import sources
    from iteralign.live import Downloads, Live

    if from_ and not names:
        raise ConfigError("--from needs the names of what its folder holds: iteralign pull NAME --from FOLDER")
    if list_ or not names:
        from rich.console import Console
        from rich.table import Table

        table = Table("name", "what", "MB", "licence", "cached", title=str(sources.cache_folder()))
        for source, cached in sources.listing():
            table.add_row(source.name, source.what, megabytes(source.size), source.licence, "yes" if cached else "")
        Console().print(table)
        return
    owners = {source.name: source.owner for source, _ in sources.listing()}
    with Live() as live:
        for name in names:
            path = sources.adopt(name, from_) if from_ else sources.resolve(name, progress=Downloads(live))
            live.note(f"{name}: {path}" + (f"\n  {owners[name]}" if name in owners else ""))


def megabytes(size: int) -> str:
    return f"{size / 1e6:.1f}" if size >= 1e5 else f"{size / 1e6:.2f}"


app.command(
    name="eval", epilog="Example: iteralign eval runs/demo/rounds/00001/checkpoint --suite hhh,truthfulqa,arc_easy@FILE"
)(cli_eval.eval_)
app.command(
    epilog="Examples: iteralign probe runs/demo; iteralign probe my-org/my-model --base my-org/my-base --set probe.prompts=20"
)(cli_probe.probe)


@app.command(epilog="Example: iteralign compare runs/demo/evals/base runs/demo/evals/final")
def compare(
    base: Annotated[
        Path,
        typer.Argument(metavar="BASE", help="folder with stored scores: evals/base of a run, or an eval's directory"),
    ],
    aligned: Annotated[
        Path, typer.Argument(metavar="ALIGNED", help="the same of the other model, measured on the same items")
    ],
    seed: Annotated[int, typer.Option(metavar="N", help="of the bootstrap and the sign flips")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON instead of tables")] = False,
) -> None:
    """Two models on the same items: differences with intervals, paired tests, what this n can find, alignment tax."""
    from iteralign.evals.compare import compare_folders
    from iteralign.report.comparison import print_compared

    made = compare_folders(base, aligned, seed)
    if as_json:
        typer.echo(json.dumps(made.as_dict(), indent=1))
    else:
        print_compared(made)


@app.command(
    epilog="Examples: iteralign report runs/demo; iteralign report runs/cai runs/rlaif; iteralign report --table runs/*"
)
def report(
    run_dirs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR...", help="directories that `iteralign run` made")],
    full: Annotated[bool, typer.Option("--full", help="do not cut harmful text: for your own screen only")] = False,
    table: Annotated[bool, typer.Option("--table", help="the paper's Tables 1 and 2 from these runs instead")] = False,
) -> None:
    """Write report.md and report.html of a run, finished or not, and show its tables; several runs side by side."""
    from iteralign.report import print_summary, summarise, write_reports
    from iteralign.report.paper_tables import print_tables
    from iteralign.report.sweep import print_sweep, side_by_side

    if table:
        return print_tables([summarise(folder) for folder in run_dirs])
    written = [write_reports(folder, full) for folder in run_dirs]
    if len(written) == 1:
        return print_summary(written[0])
    print_sweep(", ".join(str(folder) for folder in run_dirs), side_by_side(written))
    for summary in written:
        typer.echo(f"Report: {summary.html}")


app.command(epilog="Example: iteralign export runs/demo --to my-model --gguf q8_0")(cli_export.export)
app.command(epilog="Example: iteralign review runs/demo --prompts 20 --annotator Ann --annotator Ben")(
    cli_review.review
)


@app.command(epilog="Example: iteralign doctor configs/demo.yaml")
def doctor(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG", help="YAML file: check what its run needs, too", show_default=False),
    ] = None,
    set_: Sets = [],  # noqa: B006
) -> None:
    """Check versions, device, memory, cache, keys and servers. Exit code 2 where something is BAD."""
    from rich.console import Console
    from rich.table import Table

    from iteralign.config import load_config
    from iteralign.doctor import checks

    table = Table("check", "", "found", "what to do")
    if set_ and config is None:
        raise ConfigError("--set changes a config: name one, as in iteralign doctor configs/demo.yaml --set a.b=value")
    found = checks(load_config(config, set_) if config else None)
    for check in found:
        table.add_row(check.name, {True: "ok", False: "BAD", None: "-"}[check.ok], check.said, check.hint)
    Console().print(table)
    if any(check.ok is False for check in found):
        raise typer.Exit(2)


def main() -> None:
    try:
        app()
    except Waiting as error:
        typer.echo(str(error), err=True)
    except IteralignError as error:
        typer.secho(f"{'stopped' if isinstance(error, Stopped) else 'error'}: {error}", fg="red", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
