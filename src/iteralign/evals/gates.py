"""Gates: after each training, on validation prompts; a round that fails is rolled back."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from scipy.optimize import isotonic_regression

from iteralign.config import GateConfig, RunConfig
from iteralign.errors import Stopped
from iteralign.evals.refusal import refusal_scores
from iteralign.judges.base import words
from iteralign.records import Record, Verdict


class Gate(Record):
    """`reasons` is empty when the round is kept; `figures` are shares, and words an answer.

    `too_far`: nothing is wrong but what less of the weight change mends, refusals of harmless prompts and degenerate
    answers. `share` of the round's weight change that was measured.
    """

    kept: bool
    reasons: tuple[str, ...]
    too_far: bool = False
    share: float = 1.0
    figures: dict[str, float | None]


Figures = Mapping[str, float | None]
MEASURED = 8  # shares of a weight change at most
GROWING = ("benign_refusal", "benign_refusal_words", "degenerate")  # with the share of a weight change


def figures_of(verdicts: Sequence[Verdict]) -> dict[str, float | None]:
    scores = {(s.name, s.variant): s.value for s in refusal_scores(verdicts)}
    tokens = [words(v.response.reply.text) for v in verdicts if v.response.reply.finish != "failed"]
    unjudged = [v for v in verdicts if v.label == "unjudged"]
    return {
        "harmful_compliance": scores[("harmful compliance", "evaluator")],
        "harmful_compliance_words": scores[("harmful compliance", "word match")],
        "benign_refusal": scores[("harmless refused", "evaluator")],
        "benign_refusal_words": scores[("harmless refused", "word match")],
        "distinct": fmean(len(set(t)) / len(t) if t else 0.0 for t in tokens) if tokens else None,
        "length": fmean(len(t) for t in tokens) if tokens else None,
        "degenerate": scores[("degenerate answers", "form rules")],
        "unjudged": len(unjudged) / len(verdicts) if verdicts else None,
    }


def too_many_unjudged(verdicts: Sequence[Verdict], config: GateConfig) -> set[int]:
    """The places of the unjudged when they are more than a run goes on with; else none."""
    places = {n for n, v in enumerate(verdicts) if v.label == "unjudged"}
    return places if len(places) > config.max_unjudged * len(verdicts) else set()


def stop_if_unjudged(verdicts: Sequence[Verdict], config: GateConfig, where: str) -> None:
    """A judge that is away says nothing about the policy: the run stops, and its command asks the judge again."""
    if unjudged := too_many_unjudged(verdicts, config):
        raise Stopped(
            f"{where}: {len(unjudged)} of {len(verdicts)} responses could not be judged (gates.max_unjudged is "
            f"{config.max_unjudged:.0%}); the first: {verdicts[min(unjudged)].reason}. Nothing was trained on "
            "them; the same command asks the judge for them again"
        )


def gate(fresh: Sequence[Verdict], base: Sequence[Verdict], config: GateConfig, share: float = 1.0) -> Gate:
    """Compare fresh validation answers with the base's. Everything that fails is named."""
    return decide(figures_of(fresh), figures_of(base), config, share)


def decide(now: Figures, then: Figures, config: GateConfig, share: float = 1.0) -> Gate:
    reasons: list[str] = []

    def rise(name: str, bound: float, what: str) -> None:
        a, b = then[name], now[name]
        if a is not None and b is not None and b - a > bound + 1e-9:
            reasons.append(
                f"{what} rose from {a:.0%} to {b:.0%} on validation prompts (at most +{bound:.0%} is allowed)"
            )

    rise("benign_refusal", config.benign_refusal, "refusal of harmless prompts by the evaluator")
    rise("benign_refusal_words", config.benign_refusal, "refusal of harmless prompts by word match")
    rise("degenerate", config.degenerate_rise, "degenerate answers")
    mendable = len(reasons)
    rise("harmful_compliance", config.harmful_rise, "compliance with harmful prompts by the evaluator")
    rise("harmful_compliance_words", config.harmful_rise, "compliance with harmful prompts by word match")
    distinct, length, before = now["distinct"], now["length"], then["length"]
    if distinct is not None and distinct < config.min_distinct:
        reasons.append(
            f"answers repeat themselves: {distinct:.0%} of their words are distinct (at least {config.min_distinct:.0%})"
        )
    if length is not None and before:
        low, high = config.length_ratio
        if not low <= length / before <= high:
            reasons.append(f"answers are {length / before:.2f} times as long as the base's (allowed: {low} to {high})")
    return Gate(
        kept=not reasons or not config.enabled,
        reasons=tuple(reasons),
        too_far=0 < mendable == len(reasons),
        share=share,
        figures=dict(now),
    )


def search(
    measure: Callable[[float], Gate], fit: Callable[[dict[float, Gate]], dict[float, Gate]], config: GateConfig
) -> Gate:
    """The gate of the largest share of a weight change that passes, times the margin; of none, why the least that was
    tried fails. Halves what lies between the largest share that passes and the smallest above it that fails, and begins
    again where the margin's own measurement changes that; at most `MEASURED` times."""
    tried = {1.0: measure(1.0)}
    while True:
        gates = fit(tried)
        best = max((s for s in gates if gates[s].kept), default=0.0)
        if not best and not gates[1.0].too_far:
            return gates[1.0]
        above = min((s for s in gates if s > best), default=best)
        between = sorted(s for s in config.backtrack if best < s < above and s not in tried)
        kept = round(best * config.margin, 2)
        if len(tried) >= MEASURED or not (between or kept not in (0.0, *tried)):
            less = gates.get(kept)
            return (less if less and less.kept else gates[best]) if best else gates[min(gates)]
        share = between[len(between) // 2] if between else kept
        tried[share] = measure(share)


def tries(config: RunConfig) -> int:
    """How often at most a round's change is measured again with less of it."""
    if not (config.gates.enabled and config.prompts.validation):
        return 0
    return MEASURED - 1 if config.gates.backtrack else int(config.gates.margin < 1.0)


def refitted(tried: Mapping[float, Gate], then: Figures, config: GateConfig) -> dict[float, Gate]:
    """The gates again, by the curve through all of them: what grows with the share of the weight change does not fall
    where one measurement happens to be lower, and one that happens to be higher is no wall.

    The curve is the isotonic regression (least squares among those that do not fall). The figures stay as measured."""
    shares = sorted(tried)
    curves = {name: curve for name in GROWING if (curve := risen([tried[s].figures[name] for s in shares]))}
    made: dict[float, Gate] = {}
    for n, share in enumerate(shares):
        figures = {**tried[share].figures, **{name: curve[n] for name, curve in curves.items()}}
        made[share] = decide(figures, then, config, share).model_copy(update={"figures": tried[share].figures})
    return made


def risen(values: Sequence[float | None]) -> list[float] | None:
    known = [v for v in values if v is not None]
    if len(known) < len(values):
        return None
    return [float(v) for v in isotonic_regression(known).x] if known else []
