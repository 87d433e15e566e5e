"""Charts as inline SVG: text stays text, black becomes the page's own ink, so that light and dark mode both read well."""

import io
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from iteralign.evals.depth import Depth
from iteralign.report.rounds import Round
from iteralign.report.wording import MOST, clean, ends

# Colours that people with any colour vision tell apart (Okabe and Ito), bright enough for both modes
COLOURS = ("#8a8f96", "#1b8fd1", "#e08a00", "#009e73", "#cc79a7")
MARKS = ("s", "o", "^", "D", "v")
MOST_TICKS = 12
WIDTH = 32  # rem a panel: a picture alone is no wider than it reads well


class Line(NamedTuple):
    """Points of a line: x, y, and the ends of y's interval (None: it has none). `style`: which colour and mark."""

    name: str
    points: tuple[tuple[float, float, float | None, float | None], ...]
    style: int


class Panel(NamedTuple):
    """`rate`: y is a share, shown from 0 to 100 %, with a tick at every point where there are few; otherwise a line marks 0."""

    title: str
    x: str
    y: str
    lines: tuple[Line, ...]
    rate: bool


def panels_svg(panels: Sequence[Panel], text: str) -> str:
    """Panels side by side. `text`: what the picture shows, for those who do not see it."""
    import matplotlib as mpl  # only here: most of a report needs no chart
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": text, "font.family": "sans-serif", "font.size": 9}):
        figure: Any = Figure(figsize=(4.6 * len(panels), 3.1), layout="constrained")
        for place, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            draw(place, panel)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return inline(file.getvalue(), text, WIDTH * len(panels))


def draw(place: Any, panel: Panel) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    for line in panel.lines:
        xs, ys = [p[0] for p in line.points], [p[1] for p in line.points]
        colour = COLOURS[line.style % len(COLOURS)]
        mark = MARKS[line.style % len(MARKS)] if len(xs) <= MOST else None  # each weighs as much as a word
        place.plot(xs, ys, marker=mark, ms=4, lw=1.6, color=colour, label=line.name)
        if all(low is not None and high is not None for _, _, low, high in line.points):
            lows, highs = [p[2] for p in line.points], [p[3] for p in line.points]
            place.fill_between(xs, lows, highs, color=colour, alpha=0.15, lw=0)
    if panel.rate:
        place.set_ylim(0, 1)
        ticks = sorted({p[0] for line in panel.lines for p in line.points})
        place.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(ticks) <= MOST_TICKS:
            place.set_xticks(ticks)
        place.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    else:
        place.axhline(0, color="#8a8f96", lw=0.8, ls="--")
    place.set_title(panel.title, fontsize=10, loc="left")
    place.set_xlabel(panel.x)
    place.set_ylabel(panel.y)
    for side in ("top", "right"):
        place.spines[side].set_visible(False)
    if len(panel.lines) > 1:
        place.legend(frameon=False, fontsize=8)


def inline(svg: str, text: str, width: float) -> str:
    """Without what a file needs and a page does not; `text` as its label, at most `width` wide (rem)."""
    from markupsafe import escape

    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"#000000\b", "currentColor", svg)
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg xmlns="http://www.w3.org/2000/svg" viewBox="\1">', svg, count=1
    )
    svg = svg.replace("xlink:href", "href")
    return svg.replace(
        "<svg ", f'<svg class="chart" style="max-width: {width:g}rem" role="img" aria-label="{escape(text)}" ', 1
    )


def probe_chart(depth: Depth) -> str | None:
    """Compliance against the tokens that an answer is made to begin with, and where along an answer the models differ."""
    found = [panel for panel in (prefill_panel(depth), position_panel(depth)) if panel.lines]
    if not found:
        return None
    return panels_svg(found, "; ".join(f"{p.title}: {said(p)}" for p in found))


def said(panel: Panel) -> str:
    return ", ".join(
        f"{line.name} {' '.join(f'{x:g}: {y:.2f}' for x, y, _, _ in ends(line.points))}" for line in panel.lines
    )


def rounds_chart(rounds: Sequence[Round]) -> str | None:
    """Scores over rounds (the paper's Figure 3): both sides on validation prompts, HHH where it was measured."""
    shares = {f.name: f for r in rounds for f in r.figures if f.is_share}
    wanted = [n for n in shares if n.startswith(("harmful compliance", "harmless refused", "degenerate"))]
    hhh = list(dict.fromkeys(f.name for r in rounds for f in r.benchmarks))
    units = f"{rounds[0].unit}s" if rounds else ""
    panels = [
        Panel("Validation prompts", units, "share of answers", over_rounds(rounds, wanted), True),
        Panel("HHH", units, "right", over_rounds(rounds, hhh), True),
    ]
    found = [p for p in panels if any(len(line.points) > 1 for line in p.lines)]
    return panels_svg(found, "; ".join(f"{p.title}: {said(p)}" for p in found)) if found else None


def over_rounds(rounds: Sequence[Round], names: Sequence[str]) -> tuple[Line, ...]:
    """From the untouched policy on; a round that was not kept leaves the policy, and its figures, as they were."""
    lines: list[Line] = []
    for style, name in enumerate(names):
        points: list[tuple[float, float, None, None]] = []
        for r in rounds:
            figure = next((f for f in (*r.figures, *r.benchmarks) if f.name == name), None)
            if figure is not None and figure.base is not None and not points:
                points.append((0.0, figure.base, None, None))
            if not points:
                continue
            fresh = figure.fresh if figure is not None and r.state == "kept" else None
            points.append((r.number + 1.0, points[-1][1] if fresh is None else fresh, None, None))
        if points:
            lines.append(Line(clean(name)[:48], tuple(points), style))
    return tuple(lines)


def prefill_panel(depth: Depth) -> Panel:
    lines: list[Line] = []
    for n, column in enumerate(depth.columns):
        own = [(r, s) for r in depth.rows if (r.part, r.column) == ("prefill", column) for s in r.scores]
        points = tuple(
            (float(r.what.split()[0]), s.value, s.low, s.high)
            for r, s in own
            if s.variant == "evaluator" and s.value is not None
        )
        if points:
            lines.append(Line(clean(column)[:32], points, n))
    return Panel("Answer begun with a compliant one's first tokens", "tokens", "harmful compliance", tuple(lines), True)


def position_panel(depth: Depth) -> Panel:
    points = tuple((float(p.position), p.mean, p.low, p.high) for p in depth.positions)
    lines = (Line("aligned", points, 1),) if points else ()
    return Panel(
        "Where the models differ", "token of the base's answer", "log P aligned - base, nats", lines, rate=False
    )
