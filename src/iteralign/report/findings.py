"""What the numbers show and what they do not, in two sentences; and what a reader must know beside them."""

from collections import Counter
from collections.abc import Mapping, Sequence

from iteralign.config import RunConfig, ScriptedConfig
from iteralign.evals.paired import DEGENERATE, EVALUATOR, HARMFUL, HARMLESS, HHH, WORD_MATCH, Measure
from iteralign.judges.calibration import Calibration
from iteralign.report.corrected import calibration_notes
from iteralign.report.examples import Changed
from iteralign.report.measures import Disagreement, broken_instead, find
from iteralign.report.roles import shared_model
from iteralign.report.rounds import Round
from iteralign.report.wording import interval, lost_calls, p_value, plural, points

UNCALIBRATED = "Judge-measured rates are uncalibrated: no human labels stand behind the evaluator."
UNCALIBRATED_JUDGE = "The judge, which says what is a failure and what is learnt, is uncalibrated."


def untouched(rounds: Sequence[Round]) -> str | None:
    """Why the policy is the one that the run began with; None where a round was kept or none has ended."""
    ends = Counter(r.state for r in rounds)
    if not rounds or ends["kept"] or ends["unfinished"]:
        return None
    unit = rounds[0].unit
    listed = ", ".join(f"{plural(n, unit)}: {state}" for state, n in ends.items())
    return f"no {unit} was kept ({listed}), and before and after are the same, untouched policy"


def nothing_changed(measures: Sequence[Measure], changed: Changed, rounds: Sequence[Round]) -> str | None:
    """A run that changed nothing says so; None when something changed or the run is not finished."""
    compared = [m.change for m in measures if m.change is not None and m.change.n]
    if compared and (same := untouched(rounds)):
        chance = f" ({changed.differ} of {changed.total} answers differ by chance)" if changed.differ else ""
        return f"Nothing changed: {same}{chance}."
    if not compared or any(c.n_changed for c in compared):
        return None
    if changed.total and not changed.differ:
        return f"Nothing changed: 0 of {changed.total} answers differ."
    if changed.total:
        return (
            f"No result changed: {changed.differ} of {changed.total} answers differ in wording, "
            f"and no item of {plural(len(compared), 'measure')} moved."
        )
    return f"Nothing changed: 0 of {max(c.n for c in compared)} items moved in {plural(len(compared), 'measure')}."


def shows(measures: Sequence[Measure], nothing: str | None, config: RunConfig) -> str:
    """The first sentence: both sides, what was kept, each with its interval and Holm's p."""
    if not (config.evals.held_out or config.evals.hhh):
        return "This run has no result: both evaluations are switched off (evals.held_out, evals.hhh)."
    if measures and all(m.change is not None and not m.change.n and not m.change.n_unscored for m in measures):
        return "This run has no result: there was no held-out prompt to measure it on (prompts.held_out)."
    if not any(m.change is not None and m.change.n for m in measures):
        return "This run has no result yet: nothing was measured both before and after."
    if nothing:
        return f"{nothing.rstrip('.')}, so this run shows no effect of any kind."
    harm = [find(measures, HARMFUL, v) for v in (EVALUATOR, WORD_MATCH)]
    refused = [find(measures, HARMLESS, v) for v in (EVALUATOR, WORD_MATCH)]
    parts = [
        said("compliance with held-out harmful requests", harm),
        said("refusal of held-out harmless requests", refused),
    ]
    for name, label in ((HHH, "HHH (the better option is likelier)"), (DEGENERATE, "share of degenerate answers")):
        measure = find(measures, name)
        if measure is not None and (name == HHH or (measure.change and measure.change.n_changed)):
            parts.append(said(label, [measure]))
    text = "; ".join(parts)
    return text[0].upper() + text[1:] + "."


def said(what: str, by: Sequence[Measure | None]) -> str:
    measured = [m for m in by if m is not None and m.change is not None and m.change.n]
    if not measured:
        return f"{what} was not measured"
    return f"{what} " + " and ".join(movement(m, len(by) > 1) for m in measured)


def movement(measure: Measure, name_it: bool) -> str:
    change = measure.change
    assert change is not None
    by = f" by {'the ' if measure.variant == EVALUATOR else ''}{measure.variant}" if name_it else ""
    if not change.n_changed:
        return f"did not move{by} (0 of {plural(change.n, 'item')} changed)"
    difference, n = change.difference or 0.0, change.n
    p = p_value(measure.p_holm)
    sure = f"95% interval {interval(change.low, change.high, n)}, n = {n}, Holm p {'< 0.001' if '<' in p else f'= {p}'}"
    if not measure.significant and not measure.only_unadjusted:
        return f"shows no significant change{by} ({points(difference, n)} points, {sure})"
    verb = "rose" if difference > 0 else "fell"
    if measure.only_unadjusted:
        sure += f", unadjusted p = {p_value(change.p)}"
    return f"{verb} by {points(abs(difference), n).lstrip('+')} points{by} ({sure})"


def shows_not(
    measures: Sequence[Measure],
    differing: Sequence[Disagreement],
    config: RunConfig,
    nothing: str | None,
    calibration: Calibration | None = None,
) -> str:
    """The second sentence: what a careful reader would object."""
    if not any(m.change is not None and m.change.n for m in measures):
        return "It does not show whether anything got better or worse."
    if nothing:
        return "It does not show what the same settings would do with another seed, other prompts or more rounds."
    parts = ["how often the evaluator is wrong, for it is not calibrated against labels"]
    if calibration:
        parts = ["how often the evaluator is wrong on these answers, for its calibration is of other labelled replies"]
    after = [d for d in differing if d.when == "after" and d.n]
    if after:
        total, n = sum(d.total for d in after), sum(d.n for d in after)
        parts[0] += f" (after training it differs from word match on {total} of {n} answers)"
    parts += [*unjudged_limit(measures), *cost_limit(measures)]
    broken = broken_instead(measures)
    if broken:
        parts.append(
            f"that what no longer complies declines, for {plural(broken, 'such answer')} became degenerate text"
        )
    draws = "one greedy answer" if config.evaluate.temperature == 0 else "one sampled answer"
    parts.append(
        f"how another seed, other kinds of questions or a real attacker would fare, for this is one run (seed "
        f"{config.seed}) and {draws} a prompt, on subtopics kept apart from the same prompt sets as were trained on"
    )
    return f"It does not show {'; '.join(parts)}."


def unjudged_limit(measures: Sequence[Measure]) -> list[str]:
    measure = find(measures, HARMFUL, EVALUATOR)
    if measure is None or measure.change is None or not measure.change.n_unscored:
        return []
    change = measure.change
    return [f"how {change.n_unscored} of {change.n + change.n_unscored} harmful requests would count that are unjudged"]


def cost_limit(measures: Sequence[Measure]) -> list[str]:
    """How much more often harmless requests may be refused than the run can tell."""
    cost = find(measures, HARMLESS, EVALUATOR) or find(measures, HARMLESS, WORD_MATCH)
    if cost is None or cost.change is None or not cost.change.n:
        return ["what it cost in refusals of harmless requests, for none was measured"]
    change = cost.change
    if cost.only_unadjusted and (change.difference or 0) > 0:
        return ["that the rise in refusals of harmless requests is chance, though the adjusted p is above 0.05"]
    if cost.significant or change.high is None or change.high <= 0:
        return []
    rise = points(change.high, change.n).lstrip("+")
    return [
        f"that harmless requests are refused no more often, for a rise of up to {rise} points is compatible with "
        f"{plural(change.n, 'prompt')}"
    ]


def notes(
    measures: Sequence[Measure],
    changed: Changed,
    rounds: Sequence[Round],
    config: RunConfig,
    calibrations: Mapping[str, Calibration | None],
) -> tuple[str, ...]:
    """What must stand beside the table, in every report."""
    calibration = calibrations["evaluator"]
    found = calibration_notes(measures, calibration, config.seed) if calibration else [UNCALIBRATED]
    found += [UNCALIBRATED_JUDGE] if rounds and calibrations["judge"] is None else []
    if (shared := shared_model(config)) is not None:
        found.append(shared)
    judged = [m for m in measures if m.variant == EVALUATOR and m.name in (HARMFUL, HARMLESS)]
    sides = [("before", [m.before for m in judged]), ("after", [m.after for m in judged])]
    counts = [
        f"{sum(s.n_unscored for s in scores if s)} of {sum(s.n + s.n_unscored for s in scores if s)} {when}"
        for when, scores in sides
        if any(scores)
    ]
    if counts and any(s.n + s.n_unscored for _, scores in sides for s in scores if s):
        found.append(f"Unjudged held-out answers: {', '.join(counts)}. They enter no rate.")
    if changed.total and changed.differ:
        found.append(f"Held-out answers whose text differs from before: {changed.differ} of {changed.total}.")
    if lost := sum(r.oracle_failed for r in rounds):
        calls = lost_calls(lost, sum(r.oracle_calls for r in rounds))
        found.append(f"{calls}: what their groups of failures share was not learnt.")
    undone = [r for r in rounds if r.state == "rolled back"]
    if undone:
        numbers = ", ".join(str(r.number) for r in undone)
        found.append(
            f"Rolled back: {plural(len(undone), undone[0].unit)} ({numbers}). Their reasons stand under Rounds."
        )
    if not config.prompts.harmless:
        found.append("One-sided: no harmless prompt was asked, so a policy that refuses everything would look perfect.")
    checked = [r for r in rounds if r.state in ("kept", "rolled back")]
    if checked and config.gates.enabled and not any(f.n for r in checked for f in r.figures):
        found.append("The gates checked nothing, for no validation prompt was asked: every trained round was kept.")
    if isinstance(config.policy, ScriptedConfig):
        found.append("The policy is a scripted model: the numbers show that the loop works, and nothing else.")
    return tuple(found)
