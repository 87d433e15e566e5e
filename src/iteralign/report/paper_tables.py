"""The paper's Tables 1 and 2 from any runs: a base model with a line for each set that it was aligned with.

A rate is printed with the count behind it, so that no line can say what its items do not give (one of the paper's does).
"""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from iteralign.evals.paired import Measure
from iteralign.records import Score
from iteralign.report.card import described, hub_id, title
from iteralign.report.summary import Summary
from iteralign.report.terminal import heading
from iteralign.report.wording import clean

CATEGORIES = ("harmless", "helpful", "honest", "other", "overall")
MC1 = "truthfulqa/mc1"
NOTES = {
    1: "TruthfulQA, multiple choice (MC1). Measured in a run by evals.suites: truthfulqa.",
    2: "BIG-bench HHH: the better option is likelier, per token; right of all.",
}


def table_two(summaries: Sequence[Summary]) -> list[list[str]]:
    """Head and rows. Runs of one base model stand together, below what it scored untouched in the first of them."""
    rows = [["Model", "Aligned with", *(c.capitalize() for c in CATEGORIES)]]
    for base, runs in by_base(summaries).items():
        rows.append([base, "vanilla", *(cell(score_of(runs[0], f"hhh/{c}", "before")) for c in CATEGORIES)])
        names = told_apart(runs)
        rows += [
            ["", names[n], *(cell(score_of(r, f"hhh/{c}", "after")) for c in CATEGORIES)] for n, r in enumerate(runs)
        ]
    return rows


def table_one(summaries: Sequence[Summary]) -> list[list[str]]:
    """Head and rows; without any run that measured TruthfulQA only the head."""
    rows = [["Model", "Aligned with", "TruthfulQA MC1"]]
    for base, runs in by_base(summaries).items():
        measured = [r for r in runs if score_of(r, MC1, "before")]
        if measured:
            rows.append([base, "vanilla", cell(score_of(measured[0], MC1, "before"))])
            names = told_apart(measured)
            rows += [["", names[n], cell(score_of(r, MC1, "after"))] for n, r in enumerate(measured)]
    return rows


def by_base(summaries: Sequence[Summary]) -> dict[str, list[Summary]]:
    found: dict[str, list[Summary]] = {}
    for summary in summaries:
        policy = summary.config.policy
        found.setdefault(clean((hub_id(policy) or described(policy)).rpartition("/")[2]), []).append(summary)
    return found


def told_apart(runs: Sequence[Summary]) -> list[str]:
    """What each was aligned with; its directory, too, where another one was aligned with the same."""
    names = [sets(run) for run in runs]
    both = zip(names, runs, strict=True)
    return [f"{own} ({clean(run.folder.name)})" if names.count(own) > 1 else own for own, run in both]


def sets(summary: Summary) -> str:
    """The red-team sets; the recipe where it is not the paper's."""
    own = ", ".join(dict.fromkeys(clean(title(d.source)) for d in summary.config.prompts.red_team))
    return own if summary.config.recipe == "iteralign" else f"{own} by {summary.config.recipe}"


def score_of(summary: Summary, name: str, side: str) -> Score | None:
    found: Measure | None = next((m for m in summary.measures if m.name == name), None)
    return None if found is None else getattr(found, side)


def cell(score: Score | None) -> str:
    if score is None or score.value is None or not score.n:
        return "–"
    return f"{score.value:.4f} ({round(score.value * score.n, 2):g}/{score.n})"


def print_tables(summaries: Sequence[Summary], console: Console | None = None) -> None:
    """A model has a line to itself, and a count stands below its rate: that fits 80 columns."""
    console = console or Console()
    for number, (head, *body) in ((1, table_one(summaries)), (2, table_two(summaries))):
        heading(console, f"Table {number}. {NOTES[number]}")
        if not body:
            console.print(Text("No run here has measured it.", style="dim"))
            continue
        table = Table("", *head[2:], box=None, pad_edge=False)
        for model, what, *cells in body:
            if model:
                table.add_row(Text(model, style="bold"))
            table.add_row(Text(f"  {what}"), *(Text(c.replace(" ", "\n", 1)) for c in cells))
        console.print(table)
