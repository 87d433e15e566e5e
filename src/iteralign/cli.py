"""Commands over the parts; no logic of their own. Exit codes: 2 your mistake, 3 stopped by a gate, 1 a bug."""

import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iteralign import __version__, cli_constitution, cli_judge
from iteralign.errors import ConfigError, IteralignError, Stopped

if TYPE_CHECKING:
    from iteralign.config import RunConfig
    from iteralign.records import Score

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

Config = Annotated[
    Path,
    typer.Argument(
        metavar="CONFIG", help="YAML file: a preset such as configs/demo.yaml, or your own", show_default=False
    ),
]
Sets = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="another value for a key of the config, e.g. rounds=3 or policy.model=./my-model; may be repeated",
        show_default=False,
    ),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="move what the run directory holds aside and start anew")]


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
) -> None:
    """Run a recipe, or continue it where it stopped: the same command again goes on."""
    from iteralign.config import load_config
    from iteralign.live import Live
    from iteralign.recipes.iteralign import iteralign
    from iteralign.report import print_summary, write_reports
    from iteralign.runs import open_

    settings = load_config(config, set_)
    folder = run_dir or Path("runs") / settings.name
    with Live() as live:
        opened = open_(settings, folder, fresh, watch=live, progress=Downloads(live), step=live.training)
        stopped = None
        try:
            stopped = iteralign(opened).stopped
        except Stopped as early:
            stopped = str(early)
        except KeyboardInterrupt:
            typer.secho("\ninterrupted: what is finished is kept. Run the same command to go on", err=True)
            raise typer.Exit(130) from None
        finally:
            live.finish()
            opened.close()
            opened.store.event("seconds", **{k: round(v, 1) for k, v in live.seconds.items()})
    print_summary(write_reports(folder))
    if stopped:
        raise Stopped(stopped)


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
    from iteralign.live import Live

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


@app.command(
    name="eval", epilog="Example: iteralign eval runs/demo/rounds/00001/checkpoint --suite hhh,truthfulqa,arc_easy@FILE"
)
def eval_(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="folder, hub id (ORG/REPO) or name of `iteralign pull --list`")
    ],
    config: Annotated[
        Path, typer.Option(metavar="CONFIG", help="YAML file whose prompts, evaluator and sampling are used")
    ] = Path("configs/demo.yaml"),
    suite: Annotated[
        str,
        typer.Option(
            metavar="NAME,…",
            help="held_out, hhh, truthfulqa, truthfulqa_generation, xstest, arc_easy, hellaswag, mmlu, gsm8k, "
            "humaneval; NAME@PATH reads a copy at hand; lm-eval/TASK is any task of lm-evaluation-harness (extra lm-eval), "
            "@FOLDER one of your own",
        ),
    ] = "held_out,hhh",
    items: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="questions of each benchmark, drawn by the config's seed; 0: all",
            show_default="200 of arc_easy, hellaswag, mmlu, gsm8k; all of the others",
        ),
    ] = None,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="let humaneval run the programs that the model writes, each confined")
    ] = False,
    truth_judge: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="of `judge train-truth`, for truthfulqa_generation")
    ] = None,
    info_judge: Annotated[str | None, typer.Option(metavar="FOLDER", help="the same, of informativeness")] = None,
    set_: Sets = [],  # noqa: B006
    run_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="where answers and scores are kept", show_default="runs/eval-<model's name>"),
    ] = None,
    fresh: Fresh = False,
) -> None:
    """Measure one model, however it was trained, into DIR/evals/NAME/{items.jsonl,scores.json,model-index.json}.

    The same command again shows the stored scores; a model that changed under the same name needs --fresh.
    """
    from iteralign.evals.suites import measure, read_suites
    from iteralign.evals.written import Allowed
    from iteralign.live import Live
    from iteralign.runs import open_

    settings = settings_for(model, config, set_)
    folder = run_dir or Path("runs") / settings.name
    with Live() as live:
        allowed = Allowed(allow_code, truth_judge, info_judge)
        asked = read_suites(suite, items, settings.seed, Downloads(live), allowed)
        opened = open_(settings, folder, fresh, watch=live, progress=Downloads(live))
        try:
            found = measure(opened, asked)
        except KeyboardInterrupt:
            typer.secho("\ninterrupted: what is finished is kept. Run the same command to go on", err=True)
            raise typer.Exit(130) from None
        finally:
            opened.close()
    print_scores(model, found)
    for part in asked:
        if part.n < part.of:
            typer.echo(
                f"{part.name}: a sample of {part.n} of {part.of} questions (seed {settings.seed}); --items 0: all"
            )
    typer.echo(f"Answers and scores: {folder}")


def settings_for(model: str, config: Path, set_: list[str]) -> "RunConfig":
    """The config with this model as its policy, named after it."""
    from iteralign.config import load_config

    own = load_config(config, set_).policy.type
    if own != "transformers":
        raise ConfigError(f"{config}: its policy is of type {own}, and eval needs a transformers one: give --config")
    name = re.sub(r"[^\w.-]+", "-", Path(model).name, flags=re.ASCII)
    return load_config(config, [*set_, f"policy.model={json.dumps(model)}", f"name={json.dumps(f'eval-{name}')}"])


def print_scores(title: str, found: "Mapping[str, Sequence[Score]]") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("suite", "metric", "variant", "value", "95 % interval", "n", "unscored", title=title)
    for name, scores in found.items():
        for score in scores:
            value, low, high = (shown(v, score.variant) for v in (score.value, score.low, score.high))
            spread = "-" if score.low is None else f"{low} to {high}"
            metric = score.name.removeprefix(f"{name}/")
            table.add_row(name, metric, score.variant, value, spread, str(score.n), str(score.n_unscored))
    Console().print(table)


def shown(value: float | None, variant: str) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if "nats" in variant else f"{value:.1%}"


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


@app.command(epilog="Example: iteralign report runs/demo")
def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="directory that `iteralign run` made")],
    full: Annotated[bool, typer.Option("--full", help="do not cut harmful text: for your own screen only")] = False,
) -> None:
    """Write report.md and report.html of a run, finished or not, and show its tables."""
    from iteralign.report import print_summary, write_reports

    print_summary(write_reports(run_dir, full))


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
