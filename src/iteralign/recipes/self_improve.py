"""Rounds of self-improvement: (CAI → RLAIF → measure) again and again, until quality falls; the best round is kept."""

from iteralign.errors import ConfigError
from iteralign.evals.improvement import Quality, course, quality_of
from iteralign.evals.suite import evaluate, on_validation
from iteralign.recipes.cai import critique_and_revise
from iteralign.recipes.rlaif import prefer, sample_and_judge
from iteralign.recipes.steps import (
    Outcome,
    Standing,
    enough,
    learn,
    respond_and_judge,
    select,
    write_constitution,
)
from iteralign.runs import Run
from iteralign.training.policy import Policy, drop_checkpoint


def self_improve(run: Run) -> Outcome:
    config, now = run.config, Standing(run.base)
    if not run.constitution.principles:
        raise ConfigError("the recipe self_improve works under given principles: name a file with `constitution`")
    evaluate(run, now.policy, "base")
    curve, policies, stopped = [measure(run, run.base, None)], [run.base], None
    for r in range(config.rounds):
        now = one_round(run, now, r, keep=policies)
        policies.append(now.policy)
        curve.append(measure(run, now.policy, r))
        said = course(curve, config.self_improve, config.seed)
        run.store.event("quality", round=r, curve=[q.value for q in curve], best=said.best, warning=said.warning)
        stopped = now.stopped or (f"round {r}: {said.stop}" if said.stop else None)
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
    """CAI in one folder, RLAIF in the next; each passes the gates by itself."""
    first, second = (run.store.inside(f"rounds/{2 * r + n:05d}") for n in (0, 1))
    before = now.policy
    verdicts = respond_and_judge(run, first, now.policy, 2 * r)
    revisions = critique_and_revise(run, first, now.policy, verdicts, 2 * r)
    rows = select(run, first, revisions, verdicts, now.pool, 2 * r)
    sampled_from_before = run.config.self_improve.preferences_from == "before_sft"
    samples = sample_and_judge(run, second, before, 2 * r + 1) if sampled_from_before else None
    if enough(run, rows, (), 2 * r, "sft"):
        now = learn(run, first, now, rows, 2 * r, by="sft", keep=keep)
    if now.stopped:
        return now
    samples = samples or sample_and_judge(run, second, now.policy, 2 * r + 1)
    pairs = prefer(run, second, now.policy, samples, 2 * r + 1)
    if enough(run, (), pairs, 2 * r + 1, "dpo"):
        now = learn(run, second, now, (), 2 * r + 1, pairs, by="dpo", keep=keep)
    return now


def measure(run: Run, policy: Policy, r: int | None) -> Quality:
    """On validation prompts; the untouched policy's answers are those that the gates compare with."""
    store = run.store.inside("evals/validation" if r is None else f"evals/round-{r}")
    return quality_of(on_validation(run, store, lambda: policy.model), run.config.self_improve)


__all__ = ["self_improve"]
