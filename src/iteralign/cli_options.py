"""Options that several commands share."""

from typing import Annotated

import typer

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
