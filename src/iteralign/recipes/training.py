"""A round's training: on rows, on pairs, by a reward. Each is a stage that is done once."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iteralign.judges.rubric import quality
from iteralign.records import Checkpoint, Preference, Prompt, Row, Verdict
from iteralign.runs import Run
from iteralign.seeds import seed_for
from iteralign.store import Store
from iteralign.training.policy import (
    Policy,
    Reward,
    reward_model,
    train,
    train_by_reward,
    train_on_pairs,
    train_reward_model,
)


def fine_tune(run: Run, here: Store, policy: Policy, rows: Sequence[Row], r: int) -> Policy:
    def make() -> dict[str, object]:
        run.roles.rest()  # training is what needs the most memory
        folder, seed = here.path("checkpoint"), seed_for(run.config.seed, r, "train")
        return train(policy, rows, run.config.sft, folder, seed, run.step).checkpoint.row()

    made = here.once("trained", make)
    return Policy(policy.engine, checkpoint_in(here, made))


def fine_tune_on_pairs(run: Run, here: Store, policy: Policy, pairs: Sequence[Preference], r: int) -> Policy:
    def make() -> dict[str, object]:
        run.roles.rest()
        folder, seed = here.path("checkpoint-dpo"), seed_for(run.config.seed, r, "dpo")
        return train_on_pairs(policy, pairs, run.config.dpo, folder, seed, run.step).checkpoint.row()

    made = here.once("trained-dpo", make)
    return Policy(policy.engine, checkpoint_in(here, made))


def checkpoint_in(here: Store, made: dict[str, Any]) -> Checkpoint:
    """A stored checkpoint where its round lies now: the run directory may have been moved."""
    return Checkpoint.model_validate({**made, "path": str(here.path(Path(made["path"]).name))})


def reinforce(
    run: Run, here: Store, policy: Policy, prompts: Sequence[Prompt], pairs: Sequence[Preference], r: int
) -> Policy:
    """RL on the round's prompts, by a reward model that is trained on the round's pairs first, or by the judge."""
    config = run.config.rl

    def make() -> dict[str, object]:
        folder, seed = here.path("checkpoint-rl"), seed_for(run.config.seed, r, "rl")
        if config.reward == "model":
            run.roles.rest()
        reward = reward_for(run, here, policy, pairs, r)
        return train_by_reward(policy, prompts, reward, config, folder, seed, run.step)

    return Policy(policy.engine, checkpoint_in(here, here.once("trained-rl", make)["checkpoint"]))


def reward_for(run: Run, here: Store, policy: Policy, pairs: Sequence[Preference], r: int) -> Reward:
    if run.config.rl.reward == "judge":
        return lambda responses: [judged(v) for v in run.judge(run.base)(responses)]
    folder, config = here.path("reward-model"), run.config.reward
    seed = seed_for(run.config.seed, r, "reward")
    for other in run.store.folder.glob("rounds/*/reward-model"):  # the latest stays
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    here.once("reward", lambda: train_reward_model(policy, pairs, config, folder, seed, run.step))
    return reward_model(policy, folder, config.max_length)


def judged(verdict: Verdict) -> float | None:
    """The verdict says which half of 0 to 1 an answer's reward lies in, and how sure the judge is, where. 0 for one that
    repeats itself, whatever the judge makes of it. None: unjudged."""
    if verdict.label == "unjudged":
        return None
    if verdict.fault == "incoherent":
        return 0.0
    return (quality(verdict) + (verdict.label == "passes")) / 2
