"""The end of a run on the screen: both sides, what they show, the constitution, three answers, the paths."""

from collections.abc import Callable, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from iteralign.evals.paired import Measure
from iteralign.report.curve import HEAD, curve_rows
from iteralign.report.examples import Answer, Example
from iteralign.report.spent import cost, total
from iteralign.report.summary import Summary
from iteralign.report.table import Line, checkpoint_text, legend, line, round_facts, round_title
from iteralign.report.wording import duration, ends, left_out, plural, shortened

WIDE = 110  # from here on there is room for counts beside the shares
SHORTEST = 12  # of the column of names
ANSWER_WORDS = 60
COLOURS = {"better": "green", "worse": "red", "": ""}


def print_summary(summary: Summary, console: Console | None = None) -> None:
    """Everything is printed as Text: a reply that looks like markup stays what it is."""
    console = console or Console()
    heading(console, f"{summary.config.name}: before → after")
    for warning in summary.warnings:
        console.print(Text(f"! {warning}", style="bold yellow"))
    if summary.measures:
        print_comparison(summary.measures, console)
        console.print(Text(legend(summary.measures), style="dim"))
    for note in summary.notes:
        console.print(Text(f"· {note}", style="dim"))
    heading(console, "What this shows, and what it does not")
    for sentence in (summary.shows, summary.shows_not):
        console.print(Text(sentence))
    print_constitution(summary, console)
    print_curve(summary, console)
    print_rounds(summary, console)
    print_examples(summary, console)
    print_paths(summary, console)


def heading(console: Console, text: str) -> None:
    console.print()
    console.print(Text(text, style="bold"))


def print_comparison(
    measures: Sequence[Measure], console: Console, more: tuple[str, Callable[[Measure], str]] | None = None
) -> None:
    """Groups have a line to themselves, so that a long name widens no column. `more`: one more column, head and cell."""
    wide = console.width >= WIDE
    lines = [line(m) for m in measures]
    head = ("", "Before", "After", "n", "Unjudged", "Changed", "Difference (95%)", "p", *(["Holm p"] if wide else []))
    body = [cells(row, wide) for row in lines]
    if more:
        head, body = (*head, more[0]), [(*row, more[1](m)) for row, m in zip(body, measures, strict=True)]
    (head, *body), widths = fitted([head, *body], console.width)
    console.print(table_row(head, widths, "bold"))
    console.print(Text("─" * min(console.width, sum(widths) + len(widths) - 1), style="dim"))
    group = None
    for row, texts in zip(lines, body, strict=True):
        if row.group != group:
            console.print(Text(row.group, style="bold"))
            group = row.group
        console.print(table_row(texts, widths, COLOURS[row.direction]))


def fitted(rows: Sequence[tuple[str, ...]], room: int) -> tuple[list[tuple[str, ...]], list[int]]:
    """The rows and their columns' widths. Where they are wider than the room, what stands in brackets goes below its
    number, and then long names are broken."""

    def too_wide() -> int:
        return max(0, sum(widths) + len(widths) - 1 - room)

    widths = widths_of(rows)
    if too_wide():
        rows = [(name, *(cell.replace(" (", "\n(", 1) for cell in more)) for name, *more in rows]
        widths = widths_of(rows)
        widths[0] -= min(too_wide(), max(0, widths[0] - SHORTEST))
    return list(rows), widths


def widths_of(rows: Sequence[tuple[str, ...]]) -> list[int]:
    return [max(cell_len(part) for cell in column for part in cell.split("\n")) for column in zip(*rows, strict=True)]


def table_row(texts: Sequence[str], widths: Sequence[int], style: str) -> Table:
    table = Table.grid(padding=(0, 1, 0, 0))
    for n, width in enumerate(widths):
        table.add_column(justify="right" if n else "left", width=width)
    name, *more = texts
    indent = len(name) - len(name.lstrip())  # kept where a name is broken
    table.add_row(Padding(Text(name.lstrip()), (0, 0, 0, indent)), *map(Text, more), style=style)
    return table


def cells(row: Line, wide: bool) -> tuple[str, ...]:
    sides = (row.before, row.after) if wide else (row.before_share, row.after_share)
    mark = "*" if row.direction else " "
    p = (row.p, row.p_holm + mark) if wide else (row.p + mark,)
    return f"  {row.label}", *sides, row.n, row.unscored, row.changed, row.both, *p


def print_constitution(summary: Summary, console: Console) -> None:
    heading(console, f"Constitution {summary.version}: {plural(len(summary.constitution), 'principle')}")
    for number, principle in ends(list(enumerate(summary.constitution, 1))):
        text = Text(f"{number}. {principle.text} ")
        console.print(Padding(text.append(f"({principle.story})", style="dim"), (0, 0, 0, 2)))
    if told := left_out(len(summary.constitution), "principle"):
        console.print(Text(told, style="dim"))


def print_curve(summary: Summary, console: Console) -> None:
    if summary.curve is None:
        return
    heading(console, "Improvement")
    for name, *texts in curve_rows(summary.curve):
        said = [f"{what.lower()} {text}" for what, text in zip(HEAD[1:], texts, strict=True) if text != "–"]
        console.print(Padding(Text(f"{name}: {'; '.join(said)}"), (0, 0, 0, 2)))


def print_rounds(summary: Summary, console: Console) -> None:
    heading(console, "Rounds")
    for r in ends(summary.rounds):
        wanted = (
            "Because",
            "In spite of",
            "Backtracked",
            "Weight change",
            "Failures",
            "Unjudged",
            "Principles",
            "Oracle",
            "Revisions",
            "Training rows",
            "Preference pairs",
            "Comparisons",
            "Reward",
            "Reward hacking",
            "Over sft.max_length",
        )
        facts = [f"{name.lower()}: {text}" for name, text in round_facts(r) if name in wanted]
        console.print(Padding(Text("; ".join([round_title(r), *facts])), (0, 0, 0, 2)))
    if told := left_out(len(summary.rounds), "round"):
        console.print(Text(told, style="dim"))


def print_examples(summary: Summary, console: Console) -> None:
    if summary.examples:
        heading(console, "Answers before and after")
    for shown in summary.examples:
        print_example(shown, console, summary.full)


def print_example(shown: Example, console: Console, full: bool) -> None:
    console.print(Padding(Text(f"{shown.title} ({shown.side}; {shown.category})", style="italic"), (0, 0, 0, 2)))
    console.print(Padding(Text(f"Prompt: {shortened(shown.question, ANSWER_WORDS)}"), (0, 0, 0, 4)))
    for when, answer in (("Before", shown.before), ("After", shown.after)):
        console.print(Padding(answer_text(when, answer, full), (0, 0, 0, 4)))


def answer_text(when: str, answer: Answer, full: bool) -> Text:
    text = answer.text if full else shortened(answer.text, ANSWER_WORDS)
    limit = "" if answer.ended else ", ran into the token limit"
    return Text(f"{when} ({answer.outcome}{limit}): ", style="bold").append(text or "(empty)", style="not bold")


def print_paths(summary: Summary, console: Console) -> None:
    """One path a line and never wrapped, so that it can be copied."""
    console.print()
    if long := [f"{s.stage} {duration(s.seconds)}" for s in summary.spent if s.seconds >= 1]:
        console.print(Text(f"Time: {', '.join(long)}", style="dim"))
    if paid := cost(total(summary.spent)):
        console.print(Text(f"Cost: {paid}", style="dim"))
    checkpoint = checkpoint_text(summary) if summary.checkpoint is None else str(summary.checkpoint)
    for name, path in (("Checkpoint", checkpoint), ("Report", summary.html), ("", summary.markdown)):
        console.print(Text(f"{name:<12}{path}"), soft_wrap=True)
