"""Rounds of self-improvement: (CAI → RLAIF → measure) again and again, until quality falls; the best round is kept."""

from iteralign.errors import ConfigError
from iteralign.evals.drift import kl, told
from iteralign.evals.improvement import Curve, Point, Quality, course, quality_of
from iteralign.evals.suite import answers_to, evaluate, on_validation
from iteralign.recipes.cai import critique_and_revise, pairs_of_failing
from iteralign.recipes.rlaif import learn_preferences, prefer, sample_and_judge
from iteralign.recipes.steps import (
    Outcome,
    Standing,
    enough,
    learn,
    respond_and_judge,
    round_prompts,
    select,
    write_constitution,
)
from iteralign.records import Response
from iteralign.runs import VALIDATION, Run
from iteralign.stages.respond import respond
from iteralign.store import write_text
from iteralign.training.policy import Policy, drop_checkpoint


def self_improve(run: Run) -> Outcome:
    config, now = run.config, Standing(run.base)
    if not run.constitution.principles:
        raise ConfigError("the recipe self_improve works under given principles: name a file with `constitution`")
    sides = run.prompts[VALIDATION]
    if not (config.prompts.validation and sides.red_team and sides.harmless):
        raise ConfigError(
            "the recipe self_improve goes by its quality on validation prompts of both sides: set prompts.validation, and name "
            "harmless prompts beside the red-team ones"
        )
    evaluate(run, now.policy, "base")
    curve, policies, stopped = [measure(run, run.base, None)], [run.base], None
    points = [point(run, run.base, curve[0], None)]
    for r in range(config.rounds):
        now = one_round(run, now, r, keep=policies)
        policies.append(now.policy)
        curve.append(measure(run, now.policy, r))
        points.append(point(run, now.policy, curve[-1], r))
        said = course(curve, config.self_improve, config.seed)
        run.store.event("quality", round=r, curve=[q.value for q in curve], best=said.best, warning=said.warning)
        stopped = now.stopped or (f"round {r}: {said.stop}" if said.stop else None)
        made = Curve(points=tuple(points), best=said.best, warning=said.warning, stopped=stopped)
        write_text(run.store.path("curve.json"), made.model_dump_json(indent=1))
        if stopped:
            break
    best = policies[course(curve, config.self_improve, config.seed).best]
    for policy in policies:
        if policy.checkpoint.digest != best.checkpoint.digest:
            drop_checkpoint(policy.checkpoint)
    evaluate(run, best, "final")
    write_constitution(run, run.constitution)
    return Outcome(best, run.constitution, stopped)


def one_round(run: Run, now: Standing, r: int, keep: list[Policy]) -> Standing:
    """CAI in one folder, by SFT unless `learn` has none, RLAIF in the next; each passes the gates by itself."""
    first, second = (run.store.inside(f"rounds/{2 * r + n:05d}") for n in (0, 1))
    before, way = now.policy, "dpo" if run.config.cai_by_pairs else "sft"
    verdicts = respond_and_judge(run, first, now.policy, 2 * r)
    revisions = critique_and_revise(run, first, now.policy, verdicts, 2 * r)
    rows = select(run, first, revisions, verdicts, now.pool, 2 * r) if way == "sft" else []
    revised = pairs_of_failing(run, first, now.policy, revisions, verdicts, 2 * r) if way == "dpo" else []
    from_before = run.config.needs_pairs and run.config.self_improve.preferences_from == "before_sft"
    samples = sample_and_judge(run, second, before, 2 * r + 1) if from_before else []
    if enough(run, rows, revised, 2 * r, way):
        now = learn(run, first, now, rows, 2 * r, revised, by=way, keep=keep)
    if now.stopped:
        return now
    if run.config.needs_pairs and not from_before:
        samples = sample_and_judge(run, second, now.policy, 2 * r + 1)
    pairs = prefer(run, second, now.policy, samples, 2 * r + 1) if run.config.needs_pairs else []
    if enough(run, (), pairs, 2 * r + 1, "rl" if "rl" in run.config.learn else "dpo"):
        now = learn_preferences(run, second, now, samples, pairs, 2 * r + 1, keep)
    return now


def measure(run: Run, policy: Policy, r: int | None) -> Quality:
    """On validation prompts; the untouched policy's answers are those that the gates compare with."""
    store = run.store.inside("evals/validation" if r is None else f"evals/round-{r}")
    return quality_of(on_validation(run, store, lambda: policy.model), run.config.self_improve)


def point(run: Run, policy: Policy, quality: Quality, r: int | None) -> Point:
    """A policy's quality, its distance to the base, and its quality on prompts that were trained on."""
    config, where = run.config.self_improve, "base" if r is None else f"round-{r}"
    place = policy.checkpoint.path and str(run.store.relative(policy.checkpoint.path))
    found = Point(
        round=r, value=quality.value, declined=quality.declined, answered=quality.answered, checkpoint=place or None
    )
    if config.drift:
        fixed = run.store.inside("evals/drift")
        prompts = run.prompts[VALIDATION].first(config.drift, run.config.seed)
        by_id, drawn = (
            {p.id: p for p in prompts},
            run.config.evaluate.model_copy(update={"temperature": 1.0, "top_p": 1.0, "top_k": None}),
        )
        samples = fixed.each(
            "samples",
            prompts,
            lambda part: respond(part, run.base.model, drawn, run.config.seed, -1),
            lambda row: Response.join(row, by_id),
        )
        base = told(fixed, "base", samples, lambda: run.base.model)
        far = kl(base, told(fixed, where, samples, lambda: policy.model)) if r is not None else None
        moved = far is not None and bool(far.value)
        found = found.model_copy(
            update={"kl": far.value, "kl_low": far.low, "kl_high": far.high} if far and moved else {"kl": 0.0}
        )
    if config.seen:
        store = run.store.inside(f"evals/seen-{where}")
        first = round_prompts(run, run.store.inside("rounds/00000"), 0)
        sides = [[p for p in first if p.wants == wants][: config.seen] for wants in ("decline", "answer")]
        verdicts = answers_to(run, store, [p for side in sides for p in side], lambda: policy.model)
        found = found.model_copy(update={"seen": quality_of(verdicts, config).value})
    return found


__all__ = ["self_improve"]
