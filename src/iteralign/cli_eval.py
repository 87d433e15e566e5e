"""`iteralign eval`: one model measured; no logic of its own."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from iteralign.cli_options import Fresh, Sets, refuse_modelless, resumable

if TYPE_CHECKING:
    from iteralign.config import RunConfig
    from iteralign.evals.suites import Asked
    from iteralign.evals.written import Allowed
    from iteralign.records import Score


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
            help="held_out, hhh, truthfulqa, truthfulqa_generation, truthfulqa_answers, xstest, arc_easy, hellaswag, "
            "mmlu, gsm8k, humaneval; NAME@PATH reads a copy at hand; lm-eval/TASK is any task of lm-evaluation-harness (extra lm-eval), "
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
    from iteralign.evals.written import Allowed

    settings = settings_for(model, config, set_)
    folder = run_dir or Path("runs") / settings.name
    allowed = Allowed(allow_code, truth_judge, info_judge)
    asked, found = measured(settings, folder, suite, items, allowed, fresh)
    print_scores(model, found)
    for part in asked:
        if part.n < part.of:
            typer.echo(
                f"{part.name}: a sample of {part.n} of {part.of} questions (seed {settings.seed}); --items 0: all"
            )
    typer.echo(f"Answers and scores: {folder}")


def measured(
    settings: "RunConfig", folder: Path, suite: str, items: int | None, allowed: "Allowed", fresh: bool
) -> "tuple[Sequence[Asked], Mapping[str, Sequence[Score]]]":
    """The suites that were asked, and their scores; what is stored already is not asked again."""
    from iteralign.evals.suites import measure, read_suites
    from iteralign.live import Downloads, Live
    from iteralign.runs import open_

    with Live() as live:
        asked = read_suites(suite, items, settings.seed, Downloads(live), allowed)
        opened = open_(settings, folder, fresh, watch=live, progress=Downloads(live), trains=False)
        try:
            with resumable():
                return asked, measure(opened, asked)
        finally:
            opened.close()


def settings_for(model: str, config: Path, set_: list[str]) -> "RunConfig":
    """The config with this model as its policy, named after it."""
    from iteralign.config import load_config

    refuse_modelless(config, load_config(config, set_).policy.type)
    name = re.sub(r"[^\w.-]+", "-", Path(model).name, flags=re.ASCII)
    return load_config(config, [*set_, f"policy.model={json.dumps(model)}", f"name={json.dumps(f'eval-{name}')}"])


def print_scores(title: str, found: "Mapping[str, Sequence[Score]]") -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("metric, variant", ratio=1)
    for heading in ("value", "95 % interval", "n"):
        table.add_column(heading, no_wrap=True, justify="right")
    for name, scores in found.items():
        table.add_section()
        table.add_row(f"[bold]{name}[/bold]")
        for score in scores:
            value, low, high = (shown(v, score.variant) for v in (score.value, score.low, score.high))
            spread = "-" if score.low is None else f"{low} to {high}"
            unscored = f" (+{score.n_unscored} unscored)" if score.n_unscored else ""
            metric = score.name.removeprefix(f"{name}/")
            table.add_row(escape(f"{metric}, {score.variant}"), value, spread, f"{score.n}{unscored}")
    console = Console()
    console.print(f"\n{title}", markup=False, highlight=False, soft_wrap=True)
    console.print(table)


def shown(value: float | None, variant: str) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if "nats" in variant else f"{value:.1%}"
