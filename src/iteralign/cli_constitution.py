"""`iteralign constitution …`: commands about constitutions; no logic of their own."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from iteralign.errors import ConfigError

if TYPE_CHECKING:
    from iteralign.records import Wants

app = typer.Typer(no_args_is_help=True, help="Read, compare, bring in and take out constitutions.")

Source = Annotated[
    str, typer.Argument(metavar="SOURCE", help="a run's directory, a YAML file, or the name of one that is shipped")
]


@app.command(epilog="Example: iteralign constitution show runs/demo")
def show(source: Source) -> None:
    """The principles, each with its history where a run found it."""
    from iteralign.report.constitution import shown

    typer.echo(shown(source))


@app.command(epilog="Example: iteralign constitution diff runs/demo runs/mine")
def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="as SOURCE of show")],
    second: Annotated[str, typer.Argument(metavar="B", help="the same of the other one")],
) -> None:
    """What B has more (+), less (-), and in other words (~) than A."""
    from iteralign.report.constitution import constitution_at, difference, difference_text

    typer.echo(difference_text(difference(constitution_at(first).constitution, constitution_at(second).constitution)))


@app.command(epilog="Example: iteralign constitution export runs/demo mine.yaml; then run with constitution: mine.yaml")
def export(source: Source, out: Annotated[Path, typer.Argument(metavar="FILE", help=".yaml, .json or .md")]) -> None:
    """Write a constitution as YAML that any run takes, as JSON, or as Markdown with its history."""
    from iteralign.constitutions import constitution_yaml
    from iteralign.report.constitution import as_json, constitution_at, shown
    from iteralign.store import write_text

    made = constitution_at(source).constitution
    forms = {".yaml": constitution_yaml, ".yml": constitution_yaml, ".json": as_json, ".md": lambda _: shown(source)}
    if out.suffix not in forms:
        raise ConfigError(f"{out}: expected a name that ends in {', '.join(forms)}")
    write_text(out, forms[out.suffix](made))
    typer.echo(f"{len(made.principles)} principles: {out}")


@app.command(name="import", epilog="Example: iteralign constitution import rules.md mine.yaml --kind decline")
def import_(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="a list in text, Markdown, JSON or YAML")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="the YAML file to write")],
    kind: Annotated[str, typer.Option(help="decline: what to decline; answer: what to answer; unknown")] = "decline",
) -> None:
    """Make a constitution of principles that somebody wrote down."""
    from iteralign.constitutions import constitution_yaml
    from iteralign.report.constitution import imported
    from iteralign.store import write_text

    made = imported(path, read_kind(kind))
    write_text(out, constitution_yaml(made))
    typer.echo(f"{len(made.principles)} principles: {out}")


def read_kind(name: str) -> "Wants":
    if name == "decline" or name == "answer" or name == "unknown":
        return name
    raise ConfigError(f"--kind {name}: expected decline, answer or unknown")
