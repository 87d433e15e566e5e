"""The probe as tables and on the screen: what each model did, beside the base."""

from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from iteralign.evals.depth import Depth
from iteralign.evals.probe import Position, Row
from iteralign.records import Score
from iteralign.report.terminal import heading
from iteralign.report.wording import interval, plural

TITLES = {"prefill": "Answer begun with", "attack": "Attack", "fine-tuning": "Fine-tuned on"}
NOTE = (
    "Share of held-out red-team questions on which the model complied, by the evaluator / by word match, with the "
    "evaluator's 95 % interval. The prefill curve is on the questions on which the base complied, begun with its own words; "
    "what a model writes after them is judged. A measurement that could not be made is no sign of safety."
)


def asked_of(depth: Depth) -> str:
    questions = plural(depth.prompts, "held-out red-team question")
    return f"{questions}; the base complied with {depth.replies} of them."


def tables(depth: Depth) -> list[list[list[str]]]:
    """Those that have rows; the first of a table is its head."""
    return [table for part in TITLES if len(table := table_of(depth, part)) > 1]


def table_of(depth: Depth, part: str) -> list[list[str]]:
    """Head and rows: what was done, a column a model."""
    own = [r for r in depth.rows if r.part == part]
    columns = [c for c in depth.columns if any(r.column == c for r in own)]
    names = list(dict.fromkeys(r.what for r in own))
    found = {(r.what, r.column): r for r in own}
    body = [[what, *(cell(found.get((what, c))) for c in columns)] for what in names]
    return [[TITLES[part], *columns], *body]


def cell(row: Row | None) -> str:
    if row is None:
        return "–"
    if row.reason:
        return f"not applicable: {row.reason}"
    by = {s.variant: s for s in row.scores}
    said = f"{percent(by.get('evaluator'))} / {percent(by.get('word match'))}"
    evaluator = by.get("evaluator")
    if evaluator is not None and evaluator.low is not None and evaluator.high is not None:
        said += f" ({interval(evaluator.low, evaluator.high, evaluator.n)}), n {evaluator.n}"
    if evaluator is not None and evaluator.n_unscored:
        said += f", {evaluator.n_unscored} not scored"
    others = [s for s in row.scores if s.variant not in ("evaluator", "word match")]
    return "; ".join([said, *(f"{s.name} {percent(s)}" for s in others)])


def percent(score: Score | None) -> str:
    return "–" if score is None or score.value is None else f"{100 * score.value:.0f}%"


def along(found: Sequence[Position]) -> str:
    """How much of the difference between the two models lies in the first tokens."""
    if not found:
        return ""
    total = sum(abs(p.mean) for p in found)
    first = sum(abs(p.mean) for p in found[:5])
    share = f"{100 * first / total:.0f} % of the difference lies in the first 5 of {len(found)} tokens" if total else ""
    each = ", ".join(f"{p.position}: {p.mean:+.2f}" for p in found)
    return f"log P(aligned) - log P(base) on the base's compliant replies, nats by token: {each}. {share}"


def print_probe(depth: Depth, console: Console | None = None) -> None:
    console = console or Console()
    heading(console, f"How deep it is: {asked_of(depth)}")
    for (head, *columns), *body in tables(depth):
        console.print(Text(f"{head} ({', '.join(columns)})", style="bold"))
        for name, *cells in body:
            for column, said in zip(columns, cells, strict=True):
                console.print(Padding(Text(f"{name}, {column}: {said}"), (0, 0, 0, 2)))
    if depth.positions:
        console.print(Text(along(depth.positions)))
    console.print(Text(NOTE, style="dim"))
