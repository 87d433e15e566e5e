"""`iteralign review`: the page where people rate answers and decide about principles; no logic of its own."""

import getpass
from pathlib import Path
from typing import Annotated

import typer

from iteralign.errors import ConfigError


def review(
    run_dir: Annotated[
        Path, typer.Argument(metavar="RUN_DIR", help="directory of a finished run; or of an evaluation, with --beside")
    ],
    beside: Annotated[
        Path | None,
        typer.Option(
            metavar="EVAL_DIR",
            help="rate what two evaluations wrote, RUN_DIR's before and these after (truthfulqa_answers)",
        ),
    ] = None,
    judge: Annotated[
        bool, typer.Option("--judge", help="ask the run's judge, too, to set it beside the people")
    ] = False,
    who: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="whose decisions yours are", show_default="your login")
    ] = None,
    prompts: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="rate both answers to N held-out prompts", show_default="all")
    ] = None,
    annotator: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="make a link for them at once; may be repeated")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free")] = 8765,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="where to listen; another one lets others in who have a link")
    ] = "127.0.0.1",
    name: Annotated[
        list[str] | None, typer.Option("--name", metavar="HOST", help="a name that others reach it under")
    ] = None,
    export: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write labels for `judge calibrate` and end")
    ] = None,
) -> None:
    """Rate a run's answers, blind to which model gave them, and review its principles, on a local web page."""
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"iteralign review needs its extra ({error.name}): pip install 'iteralign[review]'"
        ) from error
    from iteralign.review.serve import open_pages, serve, write_labels

    pages = open_pages(run_dir, prompts, beside, judge, who or login())
    if export:
        rows, silent = write_labels(pages, export)
        typer.echo(
            f"{rows} labels: {export}" + (f" ({silent} ratings do not say whether it complied)" if silent else "")
        )
        return
    for who in annotator or ():
        pages.book.invite(who)
    serve(pages, host, port, name or ())


def login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name; KeyError: before Python 3.13
        return "owner"
