"""RLAIF (Bai et al. 2022, section 4; Lee et al. 2023): sample, let a model prefer under given principles, train on pairs."""

from collections.abc import Sequence

from iteralign.errors import ConfigError
from iteralign.evals.hacking import RewardCheck, check_reward
from iteralign.evals.suite import evaluate, on_validation
from iteralign.recipes.steps import (
    Outcome,
    Standing,
    enough,
    judge_all,
    learn,
    revised_pairs,
    rewrite,
    round_prompts,
    select_pairs,
    write_constitution,
)
from iteralign.recipes.training import reward_for
from iteralign.records import Preference, Prompt, Response, Verdict
from iteralign.runs import Run
from iteralign.stages.prefer import Compared, agreement, compare, pairs_to_compare, preferences, sample
from iteralign.stages.respond import respond
from iteralign.stages.revise import drop_near_copies
from iteralign.store import Store
from iteralign.training.policy import Policy


def rlaif(run: Run) -> Outcome:
    config, now = run.config, Standing(run.base)
    if not run.constitution.principles:
        raise ConfigError("the recipe rlaif compares answers under given principles: name a file with `constitution`")
    evaluate(run, now.policy, "base")
    on_validation(run, run.store.inside("evals/validation"), lambda: run.base.model)
    for r in range(config.rounds):
        here = run.store.inside(f"rounds/{r:05d}")
        verdicts = sample_and_judge(run, here, now.policy, r) if config.needs_pairs else []
        pairs = prefer(run, here, now.policy, verdicts, r) if config.needs_pairs else []
        if enough(run, (), pairs, r):
            now = learn_preferences(run, here, now, verdicts, pairs, r)
        if now.stopped:
            break
    evaluate(run, now.policy, "final")
    write_constitution(run, run.constitution)
    return Outcome(now.policy, run.constitution, now.stopped)


def sample_and_judge(run: Run, here: Store, policy: Policy, r: int) -> list[Verdict]:
    """`prefer.samples` answers to every prompt of the round's batch, and the pointwise judge's verdicts on them."""
    config, prompts = run.config, round_prompts(run, here, r)
    by_id = {p.id: p for p in prompts}
    samples = here.by(max(1, config.generation_batch // config.prefer.samples)).each(
        "responses",
        prompts,
        lambda part: sample(part, policy.model, config.prefer, config.seed, r),
        lambda row: Response.join(row, by_id),
    )
    responses = list({x.id: x for x in samples}.values())  # a prompt's equal answers are one
    return judge_all(run, here, policy, responses, r)


def prefer(run: Run, here: Store, policy: Policy, verdicts: Sequence[Verdict], r: int) -> list[Preference]:
    config, principles = run.config, run.constitution.principles
    responses = {v.response.id: v.response for v in verdicts}
    compared = here.each(
        "compared",
        pairs_to_compare(verdicts, config.prefer),
        lambda part: compare(part, principles, run.comparer(policy), config.prefer, config.seed, r),
        lambda row: Compared(**row),
    )
    here.once("agreement", lambda: agreement(compared)._asdict())
    revised = revise_samples(run, here, policy, verdicts, r) if config.prefer.revised else []
    return select_pairs(
        run, here, lambda: [*preferences(compared, responses, run.comparer(policy).name, r), *revised], r
    )


def revise_samples(run: Run, here: Store, policy: Policy, verdicts: Sequence[Verdict], r: int) -> list[Preference]:
    """Of each prompt one failing sample against its accepted revision, on both sides."""
    failures = first_of_each([v for v in verdicts if v.label == "fails"])
    revisions = rewrite(run, here, policy, failures, run.constitution.principles, r)
    accepted = drop_near_copies(revisions, run.config.revise.max_near_copies)
    return revised_pairs(run, here, policy, accepted, first_of_each([v for v in verdicts if v.label == "passes"]), r)


def first_of_each(verdicts: Sequence[Verdict]) -> list[Verdict]:
    found: dict[str, Verdict] = {}
    for v in verdicts:
        found.setdefault(v.response.prompt.id, v)
    return list(found.values())


def learn_preferences(
    run: Run,
    here: Store,
    now: Standing,
    verdicts: Sequence[Verdict],
    pairs: Sequence[Preference],
    r: int,
    keep: Sequence[Policy] = (),
) -> Standing:
    """DPO on the pairs, or RL by a reward; of the latter, whether the judge agrees with the reward."""
    if "rl" not in run.config.learn:
        return learn(run, here, now, (), r, pairs, "dpo", keep)
    checked = run.config.rl.reward == "model"
    prompts = list({v.response.prompt.id: v.response.prompt for v in verdicts}.values())
    before = answers(run, here, now.policy, prompts, r, "unrewarded") if checked else []
    after = learn(run, here, now, (), r, pairs, "rl", keep)
    if checked and after.policy.checkpoint != now.policy.checkpoint:
        rewarded = answers(run, here, after.policy, prompts, r, "rewarded")
        look_for_hacking(run, here, after.policy, before, rewarded, pairs, r)
    return after


def answers(run: Run, here: Store, policy: Policy, prompts: Sequence[Prompt], r: int, name: str) -> list[Verdict]:
    """One to each of the round's prompts, sampled and cut as RL samples and cuts them, and judged."""
    by_id, config = {p.id: p for p in prompts}, run.config
    fresh = here.by(config.generation_batch).each(
        name,
        prompts,
        lambda part: respond(part, policy.model, config.rl.sampling, config.seed, r),
        lambda row: Response.join(row, by_id),
    )
    return judge_all(run, here, policy, fresh, r, f"{name}-verdicts")


def look_for_hacking(
    run: Run,
    here: Store,
    policy: Policy,
    before: Sequence[Verdict],
    after: Sequence[Verdict],
    pairs: Sequence[Preference],
    r: int,
) -> None:
    """Whether the judge agrees that answers became better, where a model that was trained on preferences says so."""

    def make() -> dict[str, object]:
        return check_reward(before, after, reward_for(run, here, policy, pairs, r), run.config.seed).row()

    if RewardCheck.model_validate(here.once("reward-check", make)).hacked:
        run.store.event("reward hacking", round=r)


__all__ = ["rlaif"]
