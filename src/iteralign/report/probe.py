"""The probe as tables and on the screen: what each model did, beside the base."""

from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from iteralign.evals.depth import Depth
from iteralign.evals.probe import Row
from iteralign.judges.calibration import Calibration
from iteralign.records import Score
from iteralign.report.terminal import heading
from iteralign.report.wording import clean, estimate, plural
from iteralign.stats import mean

TITLES = {"prefill": "Answer begun with", "attack": "Attack", "fine-tuning": "Fine-tuned on"}
NOTE = (
    "Share of held-out red-team questions on which the model complied, by the evaluator / by word match, with the "
    "evaluator's 95 % interval. The prefill curve is on the questions on which the base complied, begun with its own words; "
    "what a model writes after them is judged. A measurement that could not be made is no sign of safety."
)
DIRECT = "direct"


def asked_of(depth: Depth, evaluator: Calibration | None) -> str:
    questions = plural(depth.prompts, "held-out red-team question")
    return f"{questions}; the base complied with {depth.replies} of them. {worth(evaluator)}"


def worth(evaluator: Calibration | None) -> str:
    """What stands behind every rate."""
    if evaluator is None:
        return "The evaluator is uncalibrated: no human labels stand behind these rates."
    return f"The evaluator: kappa {estimate(evaluator.figures.kappa)} on {evaluator.n} replies that people labelled."


def tables(depth: Depth) -> list[list[list[str]]]:
    """Those that have rows; the first of a table is its head."""
    made = [*(table_of(depth, part) for part in TITLES), by_category(depth)]
    return [table for table in made if len(table) > 1]


def table_of(depth: Depth, part: str) -> list[list[str]]:
    """Head and rows: what was done, a column a model."""
    own = [r for r in depth.rows if r.part == part]
    columns = [c for c in depth.columns if any(r.column == c for r in own)]
    names = list(dict.fromkeys(r.what for r in own))
    found = {(r.what, r.column): r for r in own}
    body = [[what, *(cell(found.get((what, c))) for c in columns)] for what in names]
    return [[TITLES[part], *columns], *body]


def by_category(depth: Depth) -> list[list[str]]:
    """Under every attack but the plain question: of each category the share of (question, attack) that a model complied
    with. A question's attacks are a cluster."""
    rows = [r for r in depth.rows if r.part == "attack" and r.what != DIRECT]
    columns = [c for c in depth.columns if any(r.column == c for r in rows)]
    names = list(dict.fromkeys(s.variant for r in rows for s in r.categories))
    made = [[f"All attacks, on {name}", *(pooled(rows, c, name) for c in columns)] for name in sorted(names)]
    return [["By category", *columns], *made]


def pooled(rows: Sequence[Row], column: str, category: str) -> str:
    own = [s for r in rows if r.column == column for s in r.categories if s.variant == category]
    known = [(item, value) for s in own for item, value in s.items.items()]
    found = mean([value for _, value in known], [item for item, _ in known])
    if found.value is None:
        return "–"
    spread = "" if found.low is None or found.high is None else f" ({ranged(found.low, found.high)})"
    return f"{100 * found.value:.0f}%{spread}, {found.n} answers to {plural(found.n_clusters, 'question')}"


def cell(row: Row | None) -> str:
    if row is None:
        return "–"
    if row.reason:
        return f"not applicable: {clean(row.reason)}"
    by = {s.variant: s for s in row.scores}
    said = f"{percent(by.get('evaluator'))} / {percent(by.get('word match'))}"
    evaluator = by.get("evaluator")
    if evaluator is not None and evaluator.low is not None and evaluator.high is not None:
        said += f" ({ranged(evaluator.low, evaluator.high)}), n {evaluator.n}"
    if evaluator is not None and evaluator.n_unscored:
        said += f", {evaluator.n_unscored} not scored" + (f" ({clean(row.unscored)})" if row.unscored else "")
    others = [s for s in row.scores if s.variant not in ("evaluator", "word match")]
    return "; ".join([said, *(f"{s.name} {percent(s)}" for s in others)])


def ranged(low: float, high: float) -> str:
    return f"{100 * max(0.0, low):.0f} to {100 * min(1.0, high):.0f}"


def percent(score: Score | None) -> str:
    return "–" if score is None or score.value is None else f"{100 * score.value:.0f}%"


def along(depth: Depth) -> str:
    """How much of the difference between the two models lies in the first tokens."""
    found = depth.positions
    if not found:
        return f"Token by token: not applicable: {clean(depth.no_positions)}." if depth.no_positions else ""
    total = sum(abs(p.mean) for p in found)
    first = sum(abs(p.mean) for p in found[:5])
    share = f"{100 * first / total:.0f} % of the difference lies in the first 5 of {len(found)} tokens" if total else ""
    each = ", ".join(f"{p.position}: {p.mean:+.2f}" for p in found)
    return f"log P(aligned) - log P(base) on the base's compliant replies, nats by token: {each}. {share}"


def print_probe(depth: Depth, evaluator: Calibration | None, console: Console | None = None) -> None:
    """Without the categories, which are many, and stand in the reports."""
    console = console or Console()
    heading(console, f"How deep it is: {asked_of(depth, evaluator)}")
    for (head, *columns), *body in (table for part in TITLES if len(table := table_of(depth, part)) > 1):
        console.print(Text(f"{head} ({', '.join(columns)})", style="bold"))
        for name, *cells in body:
            for column, said in zip(columns, cells, strict=True):
                console.print(Padding(Text(f"{name}, {column}: {said}"), (0, 0, 0, 2)))
    if told := along(depth):
        console.print(Text(told))
    console.print(Text(NOTE, style="dim"))
