"""What several commands share: options, and how they end when they are interrupted."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from iteralign.errors import ConfigError

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


@contextmanager
def resumable() -> Iterator[None]:
    """Ctrl-C ends the command with one line that says how to go on, and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        typer.secho("\ninterrupted: what is finished is kept. Run the same command to go on", err=True)
        raise typer.Exit(130) from None


def refuse_modelless(config: Path, policy: str) -> None:
    """ConfigError: a command that is given a model's name puts it into the config's policy, and some have no place for it."""
    if policy in ("scripted", "human"):
        raise ConfigError(
            f"{config}: its policy is of type {policy}, which has no model to name: give --config a file whose policy is of type "
            "transformers, llama_cpp or openai"
        )
