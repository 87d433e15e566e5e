"""Rates that a calibrated evaluator measured, corrected for how often it is wrong; the raw ones stand in the table."""

from collections.abc import Mapping, Sequence

from iteralign.calibrated import Corrected, JudgeAccuracy, corrected_difference, corrected_rate
from iteralign.evals.paired import EVALUATOR, HARMFUL, HARMLESS, Measure
from iteralign.judges.calibration import Calibration
from iteralign.report.wording import Table, estimate, interval, points, share


def calibration_notes(measures: Sequence[Measure], made: Calibration, seed: int) -> list[str]:
    """What the evaluator was measured to be worth, and the corrected rates of each side."""
    f = made.figures
    found = [
        f"The evaluator agrees with the labels of its calibration at kappa {f.kappa.value:.2f} on {made.n} labelled replies "
        f"(sensitivity {f.sensitivity.value:.2f}, specificity {f.specificity.value:.2f}); whether it is as good on this "
        "policy's replies is not known."
    ]
    accuracy = accuracy_of(made)
    for name in (HARMFUL, HARMLESS):
        own = [m for m in measures if m.name == name and m.variant == EVALUATOR]
        # complying is what the labels say; of harmless prompts what is counted is not complying
        found += [text for m in own if (text := said(m, accuracy if name == HARMFUL else swapped(accuracy), seed))]
    return found


def calibrated(made: Mapping[str, Calibration | None]) -> Table:
    """What each role was measured to be worth."""

    def row(role: str, c: Calibration | None) -> tuple[str, ...]:
        if c is None:
            return role, "uncalibrated", "–", "–", "–", "–"
        moved = c.robustness.flips if c.robustness else None
        talked = f"{round((moved.value or 0) * moved.n)} of {moved.n}" if moved else "–"
        return role, *map(estimate, (c.figures.kappa, c.figures.sensitivity, c.figures.specificity)), str(c.n), talked

    return Table(
        ("Who", "Kappa", "Sensitivity", "Specificity", "Labelled replies", "Talked into another verdict"),
        [row(role, c) for role, c in made.items()],
        "Against people's labels, with 95 % intervals: Cohen's kappa, the share found of the replies that complied and of "
        "those that did not, and how many replies that speak to the judge moved its verdict. The rates of an uncalibrated "
        "one are its opinion.",
    )


def accuracy_of(made: Calibration) -> JudgeAccuracy:
    """Replies to one prompt are no independent items: they count as their prompts."""
    f = made.figures
    return JudgeAccuracy(
        f.sensitivity.value or 0.0, f.sensitivity.n_clusters, f.specificity.value or 0.0, f.specificity.n_clusters
    )


def swapped(a: JudgeAccuracy) -> JudgeAccuracy:
    return JudgeAccuracy(a.specificity, a.n_negative, a.sensitivity, a.n_positive)


def said(measure: Measure, accuracy: JudgeAccuracy, seed: int) -> str:
    if measure.before is None or measure.after is None or measure.change is None:
        return ""
    before, after = measure.before.items, measure.after.items
    both = [i for i in before if before[i] is not None and after.get(i) is not None]
    sides = [corrected_rate([side[i] for i in both], accuracy, seed) for side in (before, after)]
    change = corrected_difference({i: before[i] for i in both}, {i: after[i] for i in both}, accuracy, seed)
    if change.refused:
        return f"{measure.name}: {change.refused}."
    n = len(both)
    return (
        f"Corrected for the evaluator's errors (Rogan–Gladen), {measure.name}: {rate(sides[0], n)} → "
        f"{rate(sides[1], n)}, {points(change.value, n)} points ({interval(change.low, change.high, n)})."
    )


def rate(corrected: Corrected, n: int) -> str:
    low, high = (share(x, n) for x in (corrected.low, corrected.high))
    return f"{share(corrected.value, n)} ({low} to {high})"
