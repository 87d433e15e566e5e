"""Prompts in, responses out: the policy answers what it was sent."""

from collections.abc import Sequence

from iteralign.config import SamplingConfig
from iteralign.models.base import Job, Model, Sampling
from iteralign.records import Prompt, Response
from iteralign.seeds import seed_for


def sampling_of(config: SamplingConfig) -> Sampling:
    return Sampling(**config.model_dump())


def respond(prompts: Sequence[Prompt], policy: Model, config: SamplingConfig, seed: int, round: int) -> list[Response]:
    """One response a prompt. The draw belongs to the row: (seed, round, prompt)."""
    jobs = [
        Job(chat=p.sent, sampling=sampling_of(config), seed=seed_for(seed, round, "respond", p.id)) for p in prompts
    ]
    replies = policy.generate(jobs)
    return [Response(prompt=p, reply=r, policy=policy.name) for p, r in zip(prompts, replies, strict=True)]
