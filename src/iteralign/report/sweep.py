"""The runs of a sweep side by side: both sides, what each oracle found, time and cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from iteralign.evals.lift import Trial
from iteralign.evals.paired import DEGENERATE, EVALUATOR, HARMFUL, HARMLESS, HHH, WORD_MATCH, Measure
from iteralign.evals.probe import Row
from iteralign.models.usage import Usage
from iteralign.report.markdown import escaped, rows
from iteralign.report.measures import find
from iteralign.report.spent import cost, total
from iteralign.report.summary import Summary, summarise
from iteralign.report.terminal import heading
from iteralign.report.wording import clean, count, duration, interval, p_value, plural, points
from iteralign.similarity import cosines
from iteralign.stats import mean
from iteralign.store import read_rows

ALIKE = 0.5  # TF-IDF cosine from which two constitutions' principles say the same
ROWS = (
    ("harmful compliance, evaluator", HARMFUL, EVALUATOR),
    ("harmful compliance, word match", HARMFUL, WORD_MATCH),
    ("harmless refused, evaluator", HARMLESS, EVALUATOR),
    ("harmless refused, word match", HARMLESS, WORD_MATCH),
    ("degenerate answers", DEGENERATE, None),
    ("HHH, per token", HHH, None),
)
PARTS = {"prefill": "answer begun with", "attack": "attack:", "fine-tuning": "fine-tuned on"}


@dataclass(frozen=True)
class Variant:
    """A run of a sweep; `summary` is None where it has not begun, and `why` says what stopped it."""

    name: str
    summary: Summary | None
    why: str | None = None


def read_variants(folder: Path, names: Mapping[str, str], stopped: Mapping[str, str]) -> list[Variant]:
    """`names`: a variant's folder by its name."""
    return [
        Variant(name, summarise(folder / own) if (folder / own / "config.yaml").is_file() else None, stopped.get(name))
        for name, own in names.items()
    ]


def side_by_side(summaries: Sequence[Summary]) -> list[Variant]:
    """Any runs, named by their folders; by the whole path where two of these have one name."""
    names = [s.folder.resolve().name for s in summaries]
    return [Variant(n if names.count(n) == 1 else str(s.folder), s) for n, s in zip(names, summaries, strict=True)]


def sweep_table(variants: Sequence[Variant]) -> list[list[str]]:
    """Head and rows: a measure a row, a variant that has begun a column."""
    found = [v for v in variants if v.summary is not None]
    table = [["", *(v.name for v in found)]]
    for label, name, variant in ROWS:
        measures = [find(v.summary.measures, name, variant) if v.summary else None for v in found]
        if any(measures):
            table.append([label, *(before_after(m) for m in measures)])
    for part, label in PARTS.items():
        for what in dict.fromkeys(r.what for v in found for r in probed(v, part)):
            table.append([f"{label} {what}", *(compliance(v, part, what) for v in found)])
    constitutions = [[h.text for h in v.summary.constitution] for v in found if v.summary]
    table.append(["principles found", *(str(len(own)) for own in constitutions)])
    table.append(["of these also found by another", *agreement(constitutions)])
    table.append(["lift on failures, points", *(lifts(v.summary, "failure") for v in found if v.summary)])
    table.append(["lift on harmless answers", *(lifts(v.summary, "harmless") for v in found if v.summary)])
    table.append(["oracle calls, failed", *(calls(v.summary) for v in found if v.summary)])
    table.append(["rounds kept", *(kept(v.summary) for v in found if v.summary)])
    table.append(
        [
            "time",
            *(duration(sum(s.seconds for s in v.summary.spent)) for v in found if v.summary),
        ]
    )
    table.append(["tokens read, written", *(tokens(total(v.summary.spent)) for v in found if v.summary)])
    table.append(["cost", *(cost(total(v.summary.spent)) for v in found if v.summary)])
    table.append(["stopped", *(clean(v.why or (v.summary.stopped if v.summary else "") or "") for v in found)])
    return [row for row in table if row is table[0] or any(cell not in ("", "–") for cell in row[1:])]


def probed(variant: Variant, part: str) -> list[Row]:
    """What its probe measured."""
    depth = variant.summary.depth if variant.summary else None
    return [r for r in depth.rows if r.part == part] if depth else []


def compliance(variant: Variant, part: str, what: str) -> str:
    """Harmful compliance of the base and of the aligned model, by the evaluator; only the aligned one is fine-tuned."""
    rows = [r for r in probed(variant, part) if r.what == what]
    if not rows:
        return "–"
    values = {r.column: next((s for s in r.scores if s.variant == EVALUATOR), None) for r in rows}
    wanted = [values.get(column) for column in (("aligned",) if part == "fine-tuning" else ("base", "aligned"))]
    return " → ".join("–" if s is None else count(s.value, s.n) for s in wanted)


def before_after(measure: Measure | None) -> str:
    if measure is None or measure.before is None or measure.after is None or measure.change is None:
        return "–"
    n, change = measure.change.n, measure.change
    return (
        f"{count(change.before.value, n)} → {count(change.after.value, n)}; {points(change.difference, n)} "
        f"({interval(change.low, change.high, n)}), p {p_value(change.p)}"
    )


def agreement(constitutions: Sequence[Sequence[str]]) -> list[str]:
    """Of each constitution's principles, how many have their like in another one."""
    texts = [text for own in constitutions for text in own]
    owner = [n for n, own in enumerate(constitutions) for _ in own]
    if not texts or len(constitutions) < 2:
        return ["–"] * len(constitutions)
    near = cosines(texts, words="content") >= ALIKE
    places = range(len(texts))
    met = [any(near[i, j] and owner[j] != owner[i] for j in places) for i in places]
    return [
        f"{sum(met[i] for i in places if owner[i] == n)}/{len(own)}" if own else "–"
        for n, own in enumerate(constitutions)
    ]


def lifts(summary: Summary, side: str) -> str:
    """What principles changed, over all trials of the run: of answers of one kind, the share that the judge passes with
    one less without. Trials on one answer are a cluster."""
    trials = [Trial(**row) for path in sorted(summary.folder.glob("rounds/*/lift.jsonl")) for row in read_rows(path)]
    own = [t for t in trials if t.side == side and t.revised is not None and t.without is not None]
    found = mean([(t.revised or 0.0) - (t.without or 0.0) for t in own], [t.prompt for t in own])
    if found.value is None:
        return "–"
    return f"{points(found.value, found.n)} ({interval(found.low, found.high, found.n)}), {plural(found.n, 'pair')}"


def calls(summary: Summary) -> str:
    return f"{sum(r.oracle_calls for r in summary.rounds)}, {sum(r.oracle_failed for r in summary.rounds)}"


def tokens(usage: Usage) -> str:
    return f"{usage.read:,}, {usage.written:,}" if usage.calls else ""


def kept(summary: Summary) -> str:
    c = summary.config
    unit = " phases" if c.phases > 1 else ""
    return f"{sum(r.state == 'kept' for r in summary.rounds)} of {c.rounds * c.phases}{unit}"


def sweep_markdown(title: str, table: Sequence[Sequence[str]]) -> str:
    """The table for a pull request: sweep.md."""
    note = (
        "Before → after on held-out prompts; difference in points (95 % interval), p of the paired test, not adjusted "
        "for the number of runs. Lift: with a principle less without one, of the answers that the judge passes. "
        "Time: what the judge or the oracle was asked in an earlier variant was at hand."
    )
    return "\n".join([f"# {escaped(title)}", "", *rows(table[0], table[1:]), note, ""])


def print_sweep(title: str, variants: Sequence[Variant], console: Console | None = None) -> None:
    """A run below the other where the columns do not fit."""
    console = console or Console()
    heading(console, title)
    head, *body = sweep_table(variants)
    for n, name in enumerate(head[1:], 1):
        console.print(Text(name, style="bold"))
        for row in body:
            if row[n]:
                console.print(Text(f"  {row[0]}: {row[n]}"))
    for variant in variants:
        if variant.summary is None:
            console.print(Text(f"{variant.name}: not run{f' ({variant.why})' if variant.why else ''}", style="yellow"))
