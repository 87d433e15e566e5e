"""Two policies side by side on the screen: every metric before → after, what the n could find, the alignment tax."""

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from iteralign.evals.compare import Compared
from iteralign.evals.paired import EVALUATOR, Measure, detectable
from iteralign.evals.tax import AlignmentTax, Tax
from iteralign.report.corrected import calibration_notes
from iteralign.report.examples import Changed
from iteralign.report.findings import UNCALIBRATED, nothing_changed
from iteralign.report.table import legend
from iteralign.report.terminal import heading, print_comparison
from iteralign.report.wording import clean, interval, p_value, plural, points, share

FINDS = (
    "Finds: the smallest true difference, in points, that this n would show at p < 0.05 (unadjusted) with probability "
    "0.8, if as many items change as did; –: no item changed; none: not even if all of them changed one way."
)
TAX = (
    "Percent of the base's own score: (base − aligned)/base. Beside it the paired difference in points with its 95% "
    "interval. Without a signal a line is in no average."
)
GOLD = " Gold answer: how the log-likelihood of the right option changed; above 0 it is likelier than before."


def print_compared(compared: Compared, console: Console | None = None) -> None:
    console = console or Console()
    heading(console, clean(f"{compared.base} → {compared.aligned}"))
    print_comparison(compared.measures, console, ("Finds", finds))
    console.print(Text(f"{legend(compared.measures)} {FINDS}", style="dim"))
    for note in notes(compared):
        console.print(Text(f"· {clean(note)}", style="dim"))
    if compared.tax:
        print_tax(compared.tax, console)
    if nothing := nothing_changed(compared.measures, Changed(0, 0), ()):
        console.print(Text(nothing, style="bold"))


def notes(compared: Compared) -> list[str]:
    judged = any(m.variant == EVALUATOR for m in compared.measures)
    alone = [
        f"{m.name} ({m.variant}): p = {p_value(m.change.p)} by itself, {p_value(m.p_holm)} after Holm's adjustment."
        for m in compared.measures
        if m.only_unadjusted and m.change
    ]
    left_out = [f"Not compared, {x}." for x in compared.one_sided]
    made = compared.calibration
    worth = calibration_notes(compared.measures, made, 0) if made else [UNCALIBRATED]
    return [*alone, *(worth if judged else []), *compared.notes, *left_out]


def finds(measure: Measure) -> str:
    change = measure.change
    if change is None or not change.n_changed:
        return "–"
    effect = detectable(measure)
    return "none" if effect is None else points(effect, change.n).lstrip("+")


def print_tax(tax: AlignmentTax, console: Console) -> None:
    heading(console, "Alignment tax")
    for x in tax.lines:
        console.print(Padding(Text(tax_line(x)), (0, 0, 0, 2)))
    console.print(Padding(Text(f"Average tax: {average(tax)}", style="bold"), (0, 0, 0, 2)))
    console.print(Text(TAX + (GOLD if any(x.gold for x in tax.lines) else ""), style="dim"))


def tax_line(x: Tax) -> str:
    n = x.change.n
    sides = f"{share(x.change.before.value, n)} → {share(x.change.after.value, n)}"
    said = x.no_signal or f"{abs(x.percent or 0.0):.1f}% {worded(x)}"
    moved = f"{points(x.change.difference, n)} points ({interval(x.change.low, x.change.high, n)}), n = {n}"
    return f"{x.name} ({x.variant}): {sides}, {said}; {moved}{gold(x)}"


def worded(x: Tax) -> str:
    return "either way" if x.direction == "none" else str(x.direction)


def gold(x: Tax) -> str:
    """The finer measure, in natural log per token."""
    change = x.gold
    if change is None or change.difference is None:
        return ""
    ends = "" if change.low is None or change.high is None else f" ({change.low:+.3f} to {change.high:+.3f})"
    return f"; gold answer {change.difference:+.3f} nats a token{ends}".replace("-", "−")


def average(tax: AlignmentTax) -> str:
    if tax.average is None:
        return "none, for no benchmark has a signal"
    ends = "" if tax.low is None or tax.high is None else f" (95% {tax.low:+.1f} to {tax.high:+.1f})"
    over = plural(tax.n_benchmarks, "benchmark")
    return f"{tax.average:+.1f}%{ends} over {over}; positive is a regression".replace("-", "−")
