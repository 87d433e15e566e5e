"""`iteralign judge …`: commands about judges; no logic of their own."""

from pathlib import Path
from typing import Annotated

import typer

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
