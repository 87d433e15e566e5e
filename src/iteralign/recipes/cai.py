"""Constitutional AI, supervised phase (Bai et al. 2022, arXiv 2212.08073, section 3): answer, critique and rewrite under
given principles, train on what passes. By DPO the rewriting of a failing answer is preferred to it."""

from collections.abc import Sequence

from iteralign.errors import ConfigError
from iteralign.evals.suite import evaluate, on_validation
from iteralign.recipes.steps import (
    Outcome,
    Standing,
    enough,
    learn,
    pairs_of,
    respond_and_judge,
    rewrite,
    select,
    write_constitution,
)
from iteralign.records import Preference, Revision, Verdict
from iteralign.runs import Run
from iteralign.stages.revise import drop_near_copies
from iteralign.store import Store
from iteralign.training.policy import Policy


def cai(run: Run) -> Outcome:
    config, now = run.config, Standing(run.base)
    if not run.constitution.principles:
        raise ConfigError("the recipe cai revises under given principles: name a file of some with `constitution`")
    evaluate(run, now.policy, "base")
    on_validation(run, run.store.inside("evals/validation"), lambda: run.base.model)
    for r in range(config.rounds):
        here = run.store.inside(f"rounds/{r:05d}")
        verdicts = respond_and_judge(run, here, now.policy, r)
        revisions = critique_and_revise(run, here, now.policy, verdicts, r)
        rows = select(run, here, revisions, verdicts, now.pool, r) if "sft" in config.learn else []
        pairs = pairs_of_failing(run, here, now.policy, revisions, verdicts, r) if config.cai_by_pairs else []
        if enough(run, rows, pairs, r):
            now = learn(run, here, now, rows, r, pairs)
        if now.stopped:
            break
    evaluate(run, now.policy, "final")
    write_constitution(run, run.constitution)
    return Outcome(now.policy, run.constitution, now.stopped)


def critique_and_revise(run: Run, here: Store, policy: Policy, verdicts: Sequence[Verdict], r: int) -> list[Revision]:
    """Every answer, good or bad, is criticised and rewritten `revise.draws` times; unless `revise.accept` is all
    only what the judge passes is kept. Without `revise.passing` what passes already is learnt as it is, as answers to harmless prompts
    are in section 3.2."""
    labels = ("fails", "passes") if run.config.revise.passing else ("fails",)
    chosen = [v for v in verdicts if v.label in labels]
    revisions = rewrite(run, here, policy, chosen, run.constitution.principles, r)
    return drop_near_copies(revisions, run.config.revise.max_near_copies)


def pairs_of_failing(
    run: Run, here: Store, policy: Policy, revisions: Sequence[Revision], verdicts: Sequence[Verdict], r: int
) -> list[Preference]:
    """Of all that is rewritten, only an answer that fails is worth less than its rewriting."""
    failing = [x for x in revisions if x.before is not None and x.before.label == "fails"]
    return pairs_of(run, here, policy, failing, verdicts, r)


__all__ = ["cai"]
