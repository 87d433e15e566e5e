"""Rounds of self-improvement side by side: quality on both sides, on what was trained on, and the distance to the base."""

from pathlib import Path

from iteralign.evals.improvement import Curve, Point

HEAD = ("Policy", "Quality", "Harmful declined", "Harmless answered", "On prompts trained on", "KL to the base (95%)")
NOTE = (
    "On validation prompts. Quality: the weighted sum of the two sides (self_improve.quality); the best round is kept (*). "
    "KL: nats a token, on answers that the untouched policy drew."
)


def read_curve(folder: Path) -> Curve | None:
    path = folder / "curve.json"
    return Curve.model_validate_json(path.read_text()) if path.is_file() else None


def curve_rows(curve: Curve) -> list[tuple[str, ...]]:
    return [cells(point, n == curve.best) for n, point in enumerate(curve.points)]


def cells(point: Point, best: bool) -> tuple[str, ...]:
    name = "untouched" if point.round is None else f"after round {point.round}"
    kl = "–" if point.kl is None else f"{point.kl:.3f}"
    if point.kl_low is not None and point.kl_high is not None:
        kl += f" ({point.kl_low:.3f} to {point.kl_high:.3f})"
    seen = "–" if point.seen is None else f"{point.seen:.0%}"
    return name + "*" * best, f"{point.value:.0%}", f"{point.declined:.0%}", f"{point.answered:.0%}", seen, kl


def best_checkpoint(folder: Path, curve: Curve) -> Path | None:
    """None: the untouched policy is the best."""
    own = curve.points[curve.best].checkpoint
    return folder / own if own else None
