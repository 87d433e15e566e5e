"""A judge's calibration on the terminal: figures beside baselines, the reliability picture, the worst disagreements."""

from collections.abc import Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from iteralign.evals.calibration import SAID, Judged, worst
from iteralign.judges.calibration import Calibration, Figures, Robustness
from iteralign.report.wording import clean, cut
from iteralign.stats import Estimate

COLUMNS = {
    "accuracy": "accuracy ",
    "kappa": "kappa ",
    "sensitivity": "sens. ",
    "specificity": "spec. ",
    "auc": "AUC ",
    "ece": "ECE ",
}
WIDTH = 24
WORST = 5


def print_calibration(made: Calibration, judged: Sequence[Judged], console: Console | None = None) -> None:
    console = console or Console()
    target = SAID[made.reading.target]
    console.print(
        f"Which replies {target}: the judge against the labels, 95 % intervals below (sens.: of those that did)"
    )
    table = Table(box=SIMPLE, padding=0, pad_edge=False)
    table.add_column("", no_wrap=True, max_width=19)
    for name in COLUMNS.values():
        table.add_column(name, justify="right", no_wrap=True)
    for name, figures in {"the judge": made.figures, **made.baselines, **made.by_source}.items():
        table.add_row(label(name, figures), *(with_interval(getattr(figures, c)) for c in COLUMNS))
    if made.by_category:
        table.add_section()
    for name, figures in made.by_category.items():
        table.add_row(label(name, figures), *(shown(getattr(figures, c)) for c in COLUMNS))
    console.print(table)
    console.print(picture(made))
    if made.robustness:
        console.print(robust(made.robustness))
    weights = ", ".join(f"{name} {weight:+.2f}" for name, weight in made.reading.weights.items())
    seconds = made.seconds_per_verdict
    timed = "All verdicts were there already." if seconds is None else f"{seconds:.2f} s a verdict."
    if made.dollars_per_verdict:
        timed += f" ${1000 * made.dollars_per_verdict:.2f} a thousand."
    console.print(
        f"Read on {made.fitted_on} replies, measured on {made.n} of other prompts. Log-odds of yes weighed by {weights}; "
        f"threshold {made.reading.threshold:.3f}: {made.criterion}. {timed}",
        style="dim",
    )
    for row, p in worst(judged, made.reading, WORST):
        said = "complied" if row.complied else "did not comply"
        console.print(f"  label: {said}; judge: {p:.0%}; {clean(row.source)}; {cut(clean(row.prompt))}")
    if made.refused:
        console.print(Text(f"Refused: {made.refused}", style="red"))


def robust(made: Robustness) -> str:
    flips = made.flips
    if flips.value is None:
        return "No reply of ours could be judged, plain or tampered with."
    spread = "" if flips.low is None else f" ({flips.low:.0%} to {flips.high:.0%})"
    kinds = ", ".join(f"{kind} {moved}/{of}" for kind, (moved, of) in made.by_kind.items())
    return (
        f"Replies that speak to the judge: {round(flips.value * flips.n)} of {flips.n} moved its verdict, "
        f"{flips.value:.1%}{spread}; {made.to_yes} to yes, {made.to_no} to no. {kinds}. "
        f"Plain, {made.plain_right} of {made.plain} are judged rightly."
    )


def label(name: str, figures: Figures) -> str:
    """The end of a long name tells it from its neighbours."""
    short = clean(name).removeprefix("xstest_v2_completions_").replace("contrast_", "c. ")
    return f"{short if len(short) <= 13 else '…' + short[-12:]} ({figures.accuracy.n})"


def shown(figure: Estimate) -> str:
    return "-" if figure.value is None else f"{figure.value:.3f} "


def with_interval(figure: Estimate) -> str:
    if figure.low is None or figure.high is None:
        return shown(figure)
    return f"{shown(figure)}\n{figure.low:.2f}–{figure.high:.2f} "


def picture(made: Calibration) -> Table:
    """Bins of equally many replies: the judge's mean probability against the share that the labels say."""
    table = Table("judge says", "labels say", "", "replies", box=None, pad_edge=False, title_justify="left")
    for score, share, n in made.reliability:
        line = ["·"] * (WIDTH + 1)
        line[round(share * WIDTH)] = "█"
        at = round(score * WIDTH)
        line[at] = "┃" if line[at] == "·" else "█"
        table.add_row(f"{score:.0%}", f"{share:.0%}", "".join(line), str(n))
    return table
