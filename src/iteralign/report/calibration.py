"""A judge's calibration on the terminal: figures beside baselines, the reliability picture, the worst disagreements."""

from collections.abc import Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from iteralign.evals.calibration import SAID, Judged, worst
from iteralign.judges.calibration import Calibration, Figures
from iteralign.report.wording import clean, cut
from iteralign.stats import Estimate

COLUMNS = {
    "accuracy": "accuracy ",
    "kappa": "kappa ",
    "sensitivity": "sensitiv. ",
    "specificity": "specific. ",
    "auc": "AUC ",
    "ece": "ECE ",
}
WIDTH = 24
WORST = 5


def print_calibration(made: Calibration, judged: Sequence[Judged], console: Console | None = None) -> None:
    console = console or Console()
    target = SAID[made.reading.target]
    console.print(f"Which replies {target}: the judge against people, 95 % intervals below")
    table = Table(box=SIMPLE, padding=0, pad_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("n", justify="right", min_width=5)
    for name in COLUMNS.values():
        table.add_column(name, justify="right", no_wrap=True)
    rows: dict[str, Figures] = {"the judge": made.figures, **made.baselines}
    for name, figures in rows.items():
        table.add_row(name, str(figures.accuracy.n), *(shown(getattr(figures, c)) for c in COLUMNS))
    for part in (made.by_source, made.by_category):
        if part:
            table.add_section()
        for name, figures in part.items():
            table.add_row(clean(name), str(figures.accuracy.n), *(shown(getattr(figures, c)) for c in COLUMNS))
    console.print(table)
    console.print(picture(made))
    weights = ", ".join(f"{name} {weight:+.2f}" for name, weight in made.reading.weights.items())
    console.print(
        f"Read on {made.fitted_on} replies, measured on {made.n} of other prompts. Log-odds of yes weighed by {weights}; "
        f"threshold {made.reading.threshold:.3f}: {made.criterion}. {made.seconds_per_verdict:.2f} s a verdict.",
        style="dim",
    )
    for row, p in worst(judged, made.reading, WORST):
        said = "complied" if row.complied else "did not comply"
        console.print(f"  people: {said}; judge: {p:.0%}; {clean(row.source)}; {cut(clean(row.prompt))}")
    if made.refused:
        console.print(Text(f"Refused: {made.refused}", style="red"))


def shown(figure: Estimate) -> str:
    if figure.value is None:
        return "-"
    ends = "" if figure.low is None or figure.high is None else f"\n{figure.low:.2f}–{figure.high:.2f} "
    return f"{figure.value:.3f} {ends}"


def picture(made: Calibration) -> Table:
    """Bins of equally many replies: the judge's mean probability against the share that people say."""
    table = Table("judge says", "people say", "", "replies", box=None, pad_edge=False, title_justify="left")
    for score, share, n in made.reliability:
        line = ["·"] * (WIDTH + 1)
        line[round(share * WIDTH)] = "█"
        at = round(score * WIDTH)
        line[at] = "┃" if line[at] == "·" else "█"
        table.add_row(f"{score:.0%}", f"{share:.0%}", "".join(line), str(n))
    return table
