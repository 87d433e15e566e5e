"""A domain pack on the screen: what it holds, and what is wrong with it."""

from collections import Counter
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from iteralign.data.pack import FIELDS, KINDS
from iteralign.data.pack_check import Checked, PackRow
from iteralign.data.splits import SPLITS
from iteralign.report.wording import clean


def print_pack(folder: Path, checked: Checked, console: Console | None = None) -> None:
    """Questions by file, kind and split, then by category and kind, then every fault on a line of its own."""
    console = console or Console()
    console.print(Text(str(folder), style="bold"))
    console.print(_by_split(checked.rows))
    console.print(_by_category(checked.rows))
    if checked.form is None:
        said = "Too few questions to say whether their form alone tells the sides apart"
    else:
        said = (
            "How well the form tells harmful from harmless (AUC; 0.5: not at all): the first two words"
            f" {checked.form.opening:.2f}, the number of words {checked.form.length:.2f}"
        )
    console.print(Text(said))
    for fault in checked.faults:
        name, style = ("warning", "yellow") if fault.warning else ("error", "red")
        # as long as it is: a line that a terminal breaks can still be searched for and copied
        console.print(Text(name.ljust(8), style=style) + Text(clean(f"{fault.where}: {fault.said}")), soft_wrap=True)
    if not checked.faults:
        console.print(Text("no faults", style="green"))


def _by_split(rows: tuple[PackRow, ...]) -> Table:
    table = Table("file, kind", "n", *SPLITS, "mean words", box=SIMPLE)
    for column in table.columns[1:]:
        column.justify = "right"
    for file in FIELDS:
        own = [row for row in rows if row.file == file]
        if not own:
            table.add_row(file, "0")
        for kind in sorted({row.kind for row in own}):
            alike = [row for row in own if row.kind == kind]
            splits = Counter(row.split for row in alike)
            words = sum(len(row.text("question").split()) for row in alike) / len(alike)
            table.add_row(
                Text(clean(file if kind == "red_team" else f"{file}, {kind or 'no kind'}")),
                str(len(alike)),
                *(str(splits[split]) for split in SPLITS),
                f"{words:.1f}",
            )
    return table


def _by_category(rows: tuple[PackRow, ...]) -> Table:
    kinds = ("red_team", *KINDS)
    table = Table("category", *kinds, box=SIMPLE)
    for column in table.columns[1:]:
        column.justify = "right"
    found = Counter((row.text("category"), row.kind) for row in rows)
    for category in dict.fromkeys(row.text("category") for row in rows):
        table.add_row(Text(clean(category)), *(str(found[category, kind] or "") for kind in kinds))
    return table
