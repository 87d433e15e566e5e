"""report.md: the same report for a pull request or a mail. What others wrote is escaped, never interpreted."""

import re
from collections.abc import Iterable, Sequence

from iteralign.evals.depth import Depth
from iteralign.evals.tax import AlignmentTax
from iteralign.judges.calibration import Calibration
from iteralign.report.corrected import calibrated
from iteralign.report.curve import HEAD, NOTE, curve_rows
from iteralign.report.examples import RULE, Answer
from iteralign.report.history import course
from iteralign.report.probe import NOTE as DEPTH_NOTE
from iteralign.report.probe import along, asked_of, tables
from iteralign.report.spent import HEAD as SPENT_HEAD
from iteralign.report.spent import NOTE as SPENT_NOTE
from iteralign.report.spent import spent_rows
from iteralign.report.summary import Summary
from iteralign.report.table import (
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
from iteralign.report.wording import Table, ends, left_out, plural

_MARKS = re.compile(r"[\\`*_{}\[\]#|~$]")
_LINE_STARTS = re.compile(r"^(\d+)?((?(1)[.)](?=\s|$)|[-+=]))")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;", "://": "&#58;//", "www.": "www&#46;"}


def escaped(text: str) -> str:
    """Text as it stands, on one line, within a line: no markup, HTML, link or mention comes of it."""
    text = _MARKS.sub(r"\\\g<0>", " ".join(text.split()))
    for mark, entity in _ENTITIES.items():
        text = text.replace(mark, entity)
    return text


def line_of(text: str) -> str:
    """The same where it begins a line: nor a list, nor a heading's underline."""
    return _LINE_STARTS.sub(lambda m: f"{m[1] or ''}\\{m[2]}", escaped(text))


def quoted(text: str) -> list[str]:
    """A reply as a block quote; its lines stay lines."""
    lines = [line_of(part) for part in text.split("\n") if part.strip()] or ["(empty)"]
    return [f"> {part}{'  ' if n < len(lines) else ''}" for n, part in enumerate(lines, 1)]


def rows(head: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    table = [head, ["---"] * len(head), *([escaped(cell) for cell in row] for row in body)]
    return [f"| {' | '.join(row)} |" for row in table] + [""]


def markdown_report(summary: Summary) -> str:
    parts = [
        [f"# {escaped(summary.config.name)}: before → after", ""],
        [x for warning in summary.warnings for x in (f"> **{escaped(warning)}**", "")],
        [x for sentence in summary.sentences for x in (line_of(sentence), "")],
        comparison(summary),
        section(mended(summary.rounds), 2, "Over the rounds"),
        constitution(summary),
        examples(summary),
        disagreement(summary),
        rounds(summary),
        improvement(summary),
        tax_section(summary.tax),
        depth_section(summary.depth, summary.calibrations["evaluator"]) if summary.depth else [],
        section(calibrated(summary.calibrations), 2, "How far judge and evaluator can be trusted"),
        surroundings(summary),
    ]
    return "\n".join(x for part in parts for x in part).rstrip() + "\n"


def comparison(summary: Summary) -> list[str]:
    head = ("Metric", "By", "Before", "After", "n", "Unjudged", "Changed", "Difference (95%)", "p", "Holm p")
    body = [
        (
            x.group,
            x.label,
            x.before,
            x.after,
            x.n,
            x.unscored,
            x.changed,
            x.both,
            x.p,
            x.p_holm + ("*" if x.direction else ""),
        )
        for x in map(line, summary.measures)
    ]
    table = rows(head, body) if body else ["Nothing has been measured yet.", ""]
    under = [line_of(legend(summary.measures)), ""] if body else []
    return [*table, *under, *(f"- {line_of(note)}" for note in summary.notes), ""]


def constitution(summary: Summary) -> list[str]:
    found = [f"## Constitution `{summary.version}`: {plural(len(summary.constitution), 'principle')}", ""]
    shown = ends(summary.constitution)
    if text := left_out(len(summary.constitution), "principle"):
        found += [text, ""]
    for side in dict.fromkeys(p.side for p in shown):
        found += [f"On the {side} side:", ""]
        found += [f"- {line_of(p.text)} *({escaped(p.story)})*" for p in shown if p.side == side]
        found.append("")
    if summary.retired:
        found += ["Retired, for they were measured to do no good:", ""]
        found += [f"- {line_of(p.text)} *({escaped(p.story)})*" for p in ends(summary.retired)]
        found += ["", *([text, ""] if (text := left_out(len(summary.retired), "principle")) else [])]
    later = course((*summary.constitution, *summary.retired))
    return [*found, *section(later, 3, "From general to specific?")] if len(later.rows) > 1 else found


def section(table: Table, level: int, title: str) -> list[str]:
    under = [line_of(table.note), ""] if table.note else []
    return [f"{'#' * level} {title}", "", *rows(table.head, table.rows), *under] if table.rows else []


def improvement(summary: Summary) -> list[str]:
    if summary.curve is None:
        return []
    return ["## Improvement", "", *rows(HEAD, curve_rows(summary.curve)), line_of(NOTE), ""]


def tax_section(tax: AlignmentTax, level: int = 2) -> list[str]:
    if not tax.lines:
        return []
    head, *body = tax_rows(tax)
    return [f"{'#' * level} Alignment tax", "", *rows(head, body), line_of(tax_note(tax)), ""]


def depth_section(depth: Depth, evaluator: Calibration | None = None) -> list[str]:
    body = [line for head, *body in tables(depth) for line in rows(head, body)]
    where = [line_of(told), ""] if (told := along(depth)) else []
    return ["## How deep it is", "", line_of(asked_of(depth, evaluator)), "", *body, *where, line_of(DEPTH_NOTE), ""]


def rounds(summary: Summary) -> list[str]:
    found = ["## Rounds", "", *([text, ""] if (text := left_out(len(summary.rounds), "round")) else [])]
    for r in ends(summary.rounds):
        found += [f"### {escaped(round_title(r))}", ""]
        found += [f"- **{escaped(name)}**: {escaped(text)}" for name, text in round_facts(r)]
        found.append("")
        if r.figures or r.benchmarks:
            shown = (*r.figures, *r.benchmarks)
            found += rows(("Validation", "Untouched", "After this round", "n"), map(figure_cells, shown))
    return found


def examples(summary: Summary) -> list[str]:
    if not summary.examples:
        return []
    found = ["## Answers before and after", "", escaped(RULE), ""]
    for shown in summary.examples:
        found += [f"### {escaped(shown.title)}", "", f"Prompt ({escaped(f'{shown.side}; {shown.category}')}):", ""]
        found += [*quoted(shown.question), ""]
        for when, answer in (("Before", shown.before), ("After", shown.after)):
            found += [f"{when}: {escaped(verdict(answer))}", "", *quoted(answer.text), ""]
    return found


def verdict(answer: Answer) -> str:
    matched = "a refusal" if answer.word_match else "no refusal"
    reason = f" ({answer.reason})" if answer.reason else ""
    return f"{answer.outcome}{reason}; by word match {matched}{'' if answer.ended else '; ran into the token limit'}"


def disagreement(summary: Summary) -> list[str]:
    if not summary.disagreements:
        return []
    body = map(disagreement_cells, summary.disagreements)
    return [
        "## Where evaluator and word match differ",
        "",
        *rows(("Counted as", "Answers that differ", "Counted"), body),
    ]


def surroundings(summary: Summary) -> list[str]:
    found = ["## Settings and environment", "", *rows(("Setting", "Value"), settings(summary))]
    if summary.spent:
        found += [*rows(SPENT_HEAD, spent_rows(summary.spent)), SPENT_NOTE, ""]
    found += [f"- {escaped(name)}: {escaped(value)}" for name, value in summary.environment]
    return [*found, f"- checkpoint: {escaped(checkpoint_text(summary))}", "- all settings: `config.yaml`", ""]
