"""`iteralign pack …`: commands about domain packs; no logic of their own."""

from pathlib import Path
from typing import Annotated

import typer

from iteralign.errors import DataError

app = typer.Typer(no_args_is_help=True, help="Make and check domain packs: questions to decline, questions to answer.")


@app.command(epilog="Example: iteralign pack new my_domain")
def new(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="where it is written; must not be there, or empty")],
) -> None:
    """Write a pack to fill: examples to replace, rules for raters, a datasheet."""
    from iteralign.data.pack import FIELDS, PAGES, new_pack

    new_pack(folder)
    typer.echo(
        f"{folder}: {', '.join((*FIELDS, *PAGES))}\n"
        f"Replace the examples and fill in the pages, then: iteralign pack check {folder}\n"
        "In a config:\n"
        "  prompts:\n"
        f'    red_team: [{{source: "pack:{folder}/red_team", wants: decline}}]\n'
        f'    harmless: [{{source: "pack:{folder}/harmless", wants: answer}}]'
    )


@app.command(epilog="Examples: iteralign pack check my_domain; iteralign pack check starter")
def check(
    pack: Annotated[str, typer.Argument(metavar="PACK", help="a pack's folder, or the name of one that is shipped")],
) -> None:
    """Count a pack's questions and name every fault by file and line. Exit code 2 where one must be mended."""
    from iteralign.data.pack import pack_folder
    from iteralign.data.pack_check import check_pack
    from iteralign.report.pack import print_pack

    folder = pack_folder(pack, pack)
    checked = check_pack(folder)
    print_pack(folder, checked)
    if checked.errors:
        count = "1 error" if checked.errors == 1 else f"{checked.errors} errors"
        raise DataError(f"{pack}: {count}. Mend the lines named above, then check again")
