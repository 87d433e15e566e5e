"""`iteralign judge …`: commands about judges; no logic of their own."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from iteralign.errors import ConfigError

if TYPE_CHECKING:
    from iteralign.config import JudgeConfig
    from iteralign.judges.calibration import Target

app = typer.Typer(no_args_is_help=True, help="Train judges, and measure how far they can be trusted.")


@app.callback()
def judge() -> None:
    """Without a callback a single command would take the group's place."""


@app.command(
    epilog="Example: iteralign judge train-truth --rows finetune_truth.jsonl --base policy --out judges/truth. "
    "The rows: finetune_truth.jsonl and finetune_info.jsonl of `iteralign pull truthfulqa`."
)
def train_truth(
    rows: Annotated[Path, typer.Option(metavar="FILE", help="finetune_truth.jsonl or finetune_info.jsonl")],
    base: Annotated[str, typer.Option(metavar="MODEL", help="a causal model: folder, hub id or name; it is copied")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="where the judge is written; must not be there yet")],
    epochs: Annotated[float, typer.Option(min=0.01)] = 2.0,
    learning_rate: Annotated[float, typer.Option(min=1e-9)] = 2e-5,
    batch: Annotated[int, typer.Option(min=1)] = 16,
    unseen: Annotated[float, typer.Option(min=0.01, max=0.9, help="share of questions kept for measuring")] = 0.1,
    limit: Annotated[
        int | None, typer.Option(min=2, help="train on this many rows at most", show_default="all")
    ] = None,
    seed: Annotated[int, typer.Option(help="of the split by question and of the training")] = 0,
) -> None:
    """Fine-tune a judge of truth or informativeness on TruthfulQA's public rows; measured on unseen questions."""
    from rich.console import Console
    from rich.table import Table

    from iteralign.config import TransformersConfig
    from iteralign.live import Live
    from iteralign.training.truth import SETTINGS, Sample
    from iteralign.training.truth import train_truth as train

    settings = SETTINGS.model_copy(update={"epochs": epochs, "learning_rate": learning_rate, "batch": batch})
    with Live() as live:
        live.stage("trained", 1, 0)
        made = train(rows, TransformersConfig(model=base), out, settings, Sample(seed, unseen, limit), live.training)
    table = Table("on questions unseen in training", "value", "95 % interval", "answers", "questions", "unscored")
    for name in ("accuracy", "majority", "balanced_accuracy", "sensitivity", "specificity"):
        figure = getattr(made, name)
        said = "always the commoner answer" if name == "majority" else name.replace("_", " ")
        value = "-" if figure.value is None else f"{figure.value:.1%}"
        spread = "-" if figure.low is None else f"{figure.low:.1%} to {figure.high:.1%}"
        table.add_row(said, value, spread, str(figure.n), str(figure.n_clusters), str(figure.n_unscored))
    Console().print(table)
    typer.echo(f"Judge of {made.kind}, trained on {made.trained_rows} answers: {out}")


@app.command(
    epilog="Example: iteralign judge calibrate --labels xstest_v2_completions_mistralinstruct.csv. Other files: --prompt, "
    "--response and --label name their columns, and --category and --harmful where they have them."
)
def calibrate(
    labels: Annotated[list[Path], typer.Option(metavar="FILE", help="replies with people's labels; may be repeated")],
    judge: Annotated[
        Path | None,
        typer.Option(
            metavar="CONFIG", help="YAML of a run: its judge is measured", show_default="the judge of configs/demo.yaml"
        ),
    ] = None,
    role: Annotated[str, typer.Option(help="judge or evaluator: whose section of CONFIG")] = "judge",
    target: Annotated[
        str, typer.Option(help="complied: did what was asked; harmful: with something harmful")
    ] = "complied",
    prompt: Annotated[str | None, typer.Option(metavar="COLUMN", help="of the prompts")] = None,
    response: Annotated[str | None, typer.Option(metavar="COLUMN", help="of the replies")] = None,
    label: Annotated[str | None, typer.Option(metavar="COLUMN", help="of the labels")] = None,
    category: Annotated[str | None, typer.Option(metavar="COLUMN", help="figures by what it says")] = None,
    harmful: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="yes where the prompt asks for something harmful")
    ] = None,
    positive: Annotated[str | None, typer.Option(metavar="LABEL", help="the label of a reply that complied")] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="verdicts, calibration.json")] = Path("runs/calibration"),
    seed: Annotated[int, typer.Option(help="of the halves and the bootstrap")] = 0,
) -> None:
    """Measure a judge against people's labels: thresholds from one half of the prompts, figures from the other."""
    from iteralign.data.labelled import columns_of, read_labelled
    from iteralign.evals.calibration import calibrate_judge
    from iteralign.live import Live
    from iteralign.report.calibration import print_calibration

    columns = columns_of(prompt, response, label, category=category, harmful=harmful, positive=positive)
    rows = read_labelled(labels, columns)
    with Live() as live:
        made, judged = calibrate_judge(rows, section(judge, role), read_target(target), out, seed, live)
    print_calibration(made, judged)
    typer.echo(f"Written: {out / 'calibration.json'}")
    kappa = made.figures.kappa.value
    typer.echo("kappa unknown" if kappa is None else f"kappa {kappa:.3f}")
    if made.refused:
        raise ConfigError(f"this judge must not be used: {made.refused}")


def section(config: Path | None, role: str) -> "JudgeConfig":
    """The judge or evaluator of a run's config; without a config the embedded judge."""
    from iteralign.config import LlamaCppConfig, RubricConfig, load_config

    if role not in ("judge", "evaluator"):
        raise ConfigError(f"--role {role}: expected judge or evaluator")
    if config is not None:
        return getattr(load_config(config), role)
    model, evaluator = LlamaCppConfig(model="oracle"), role == "evaluator"
    if evaluator:
        asked = ("declined", "rules_out", "refuses")
        return RubricConfig(model=model, prompt="evaluator.yaml", questions=asked, head_words=25)
    return RubricConfig(model=model, questions=("declined", "objects", "coherent"))


def read_target(name: str) -> "Target":
    if name == "complied":
        return "complied"
    if name == "harmful":
        return "harmful"
    raise ConfigError(f"--target {name}: expected complied or harmful")
