"""report.html: one self-contained page. Every value goes through jinja2's escaping; the page may load nothing."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import FileSystemLoader, StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup

from iteralign.evals.depth import Depth
from iteralign.evals.paired import Measure
from iteralign.judges.calibration import Calibration
from iteralign.report.charts import probe_chart, rounds_chart
from iteralign.report.corrected import calibrated
from iteralign.report.curve import HEAD, NOTE, curve_rows
from iteralign.report.examples import RULE, Pairs
from iteralign.report.history import History, course
from iteralign.report.markdown import verdict
from iteralign.report.probe import NOTE as DEPTH_NOTE
from iteralign.report.probe import along, asked_of, tables
from iteralign.report.spent import HEAD as SPENT_HEAD
from iteralign.report.spent import NOTE as SPENT_NOTE
from iteralign.report.spent import spent_rows
from iteralign.report.summary import Summary
from iteralign.report.table import (
    Line,
    checkpoint_text,
    disagreement_cells,
    figure_cells,
    legend,
    line,
    mended,
    round_facts,
    round_title,
    settings,
    tax_note,
    tax_rows,
)
from iteralign.report.wording import VERSION, clean, ends, left_out, plural


@dataclass(frozen=True)
class Bar:
    """An interval on the table's common scale, in per cent of its width; the middle is no difference."""

    low: float
    high: float
    at: float


@dataclass(frozen=True)
class Entry:
    line: Line
    bar: Bar | None


def html_report(summary: Summary) -> str:
    return template().render(
        summary=summary,
        entries=entries(summary),
        legend=legend(summary.measures),
        rounds=[
            (round_title(r), r.state, round_facts(r), list(map(figure_cells, (*r.figures, *r.benchmarks))))
            for r in ends(summary.rounds)
        ],
        principles=ends(summary.constitution),
        retired=ends(summary.retired),
        left_out=left_out,
        over_rounds=Markup(rounds_chart(summary.rounds) or ""),
        mended=mended(summary.rounds),
        course=course((*summary.constitution, *summary.retired)),
        calibrated=calibrated(summary.calibrations),
        filters=filters(summary.pairs, summary.constitution),
        curve=(HEAD, curve_rows(summary.curve), NOTE) if summary.curve else None,
        tax=(tax_rows(summary.tax)[0], tax_rows(summary.tax)[1:], tax_note(summary.tax)) if summary.tax.lines else None,
        depth=depth_parts(summary.depth, summary.calibrations["evaluator"]) if summary.depth else None,
        rule=RULE,
        verdict=verdict,
        disagreements=list(map(disagreement_cells, summary.disagreements)),
        settings=[*settings(summary), ("checkpoint", checkpoint_text(summary))],
        spent=(SPENT_HEAD, spent_rows(summary.spent), SPENT_NOTE) if summary.spent else None,
        config_text=without_passwords(clean(summary.config_text)),
        plural=plural,
        tool=VERSION,
    )


@dataclass(frozen=True)
class Filters:
    """Radio buttons that need no script: a letter, a legend and what it may be set to; and of each pair the places of its
    values there. A principle is about the prompts of the subjects whose failures made it."""

    fields: tuple[tuple[str, str, tuple[str, ...]], ...]
    classes: tuple[str, ...]


def filters(pairs: Pairs, constitution: Sequence[History]) -> Filters:
    outcomes = tuple(sorted({p.title for p in pairs.shown}))
    categories = tuple(sorted({p.category for p in pairs.shown}))
    numbered = ends(list(enumerate(constitution, 1)))
    about = [h.evidence.subjects for _, h in numbered]
    numbers = tuple(f"{n}" if h.evidence.subjects else f"{n} (given)" for n, h in numbered)
    fields = (
        ("o", "What happened", outcomes),
        ("c", "Category", categories),
        ("p", "Subjects of principle", numbers),
    )
    classes = [
        " ".join(
            [
                f"o{outcomes.index(p.title)} c{categories.index(p.category)}",
                *(f"p{n}" for n, subjects in enumerate(about) if p.subject in subjects),
            ]
        )
        for p in pairs.shown
    ]
    return Filters(tuple(field for field in fields if field[2]), tuple(classes))


def depth_parts(
    depth: Depth, evaluator: Calibration | None
) -> tuple[str, Markup, list[list[list[str]]], tuple[str, ...]]:
    """What was asked, the picture, the tables, and what stands under them."""
    under = tuple(text for text in (along(depth), DEPTH_NOTE) if text)
    return asked_of(depth, evaluator), Markup(probe_chart(depth) or ""), tables(depth), under


@cache
def template() -> Template:
    environment = ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")


def entries(summary: Summary) -> list[Entry]:
    changes = [m.change for m in summary.measures if m.change is not None]
    ends = [abs(x) for c in changes for x in (c.low, c.high, c.difference) if x is not None]
    scale = max([0.05, *ends])
    return [Entry(line(m), bar(m, scale)) for m in summary.measures]


def bar(measure: Measure, scale: float) -> Bar | None:
    change = measure.change
    if change is None or change.difference is None or change.low is None or change.high is None:
        return None
    low, high, at = (round(50 + 46 * x / scale, 1) for x in (change.low, change.high, change.difference))
    return Bar(low, high, at)


def without_passwords(text: str) -> str:
    """A server's address may hold one, and a report is sent around."""
    return re.sub(r"(?<=://)[^/\s@]+@", "…@", text)
