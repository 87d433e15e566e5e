"""A run opened for review, and served until somebody stops it."""

import json
import socket
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import typer
import uvicorn

from iteralign.errors import ConfigError
from iteralign.models.human import FOLDER
from iteralign.records import Constitution
from iteralign.report.constitution import constitution_at
from iteralign.review.app import LOCAL, Pages, app_for
from iteralign.review.book import Book
from iteralign.review.items import Item, judged_items, read_generated, read_items
from iteralign.review.results import labelled_rows
from iteralign.store import write_text

BOOK = "review.sqlite"


def open_pages(
    run: Path, prompts: int | None = None, beside: Path | None = None, judge: bool = False, who: str = "owner"
) -> Pages:
    """Of a run; or with `beside`, of the written answers of two evaluations. `judge`: the run's judge is asked about the
    answers, too. Raises StoreError where the folder is no finished run, nor one that waits for people."""
    if beside is not None:
        if judge:
            raise ConfigError("--judge asks the judge of a run, and evaluations set --beside each other have none")
        return Pages(run, read_generated(run, beside, prompts), Constitution(), Book(run / BOOK), "", who)
    items, constitution = read_run(run, prompts)
    if judge:
        items = judged_items(run, items)
    pages = Pages(run, items, constitution, Book(run / BOOK), "", who)
    pages.again = partial(read_run, run, prompts)
    if constitution.principles and pages.book.decisions():
        pages.write()  # a kill may have come between the last decision and its file
    return pages


def read_run(run: Path, prompts: int | None) -> tuple[list[Item], Constitution]:
    """Its answers and its principles; none of either where it waits for people."""
    answered = (run / "evals/final/verdicts.jsonl").is_file()
    waiting = (run / FOLDER).is_dir() and not answered
    found = (run / "constitution.yaml").is_file()
    items = read_items(run, prompts) if answered or not (waiting or found) else []
    return items, constitution_at(str(run)).constitution if found else Constitution()


def write_labels(pages: Pages, path: Path) -> tuple[int, int]:
    rows, silent = labelled_rows(pages.items, pages.book.ratings())
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return len(rows), silent


def serve(pages: Pages, host: str, port: int, names: Sequence[str]) -> None:
    """Says the links, then serves. ConfigError: the address cannot be had."""
    try:
        listening = socket.create_server((host, port))
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}. Name another with --port") from error
    port = listening.getsockname()[1]
    shown = names[0] if names else host if host in LOCAL else socket.gethostname()
    pages.address = f"http://{shown}:{port}"
    hosts = {*LOCAL, *names, host, shown}
    typer.echo(f"{len(pages.items)} answers. Yours alone: {pages.address}/a/{pages.book.owner}")
    for annotator in pages.book.annotators():
        typer.echo(f"{annotator.name}: {pages.address}/r/{annotator.token}")
    if host not in LOCAL:
        typer.secho("Whoever reaches this machine and has a link gets in; nobody without one.", fg="yellow")
    typer.echo("Ctrl-C ends it; what was said is kept.")
    config = uvicorn.Config(app_for(pages, sorted(hosts)), log_level="warning", access_log=False, server_header=False)
    uvicorn.Server(config).run(sockets=[listening])
