"""Prompts in, responses out: the policy answers what it was sent; and what a judge says of it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext

from iteralign.config import JudgeConfig, OpenAIConfig, SamplingConfig, members
from iteralign.models.base import Job, Model, Sampling
from iteralign.records import Prompt, Response, Verdict
from iteralign.seeds import seed_for
from iteralign.store import Store, ahead

AHEAD = 2  # micro-batches of answers that wait for the judge


def sampling_of(config: SamplingConfig) -> Sampling:
    return Sampling(**config.model_dump())


def respond(prompts: Sequence[Prompt], policy: Model, config: SamplingConfig, seed: int, round: int) -> list[Response]:
    """One response a prompt. The draw belongs to the row: (seed, round, prompt)."""
    jobs = [
        Job(chat=p.sent, sampling=sampling_of(config), seed=seed_for(seed, round, "respond", p.id)) for p in prompts
    ]
    replies = policy.generate(jobs)
    return [Response(prompt=p, reply=r, policy=policy.name) for p, r in zip(prompts, replies, strict=True)]


def answered(
    store: Store,
    prompts: Sequence[Prompt],
    answer: Callable[[list[Prompt]], list[Response]],
    batch: int,
    name: str = "responses",
) -> Iterator[list[Response]]:
    """Every prompt answered, resumably, `batch` at a time."""
    by_id = {p.id: p for p in prompts}
    return store.by(batch).flow(name, prompts, len(prompts), answer, lambda row: Response.join(row, by_id))


def answered_and_judged(
    store: Store,
    prompts: Sequence[Prompt],
    answer: Callable[[list[Prompt]], list[Response]],
    judge: Callable[[list[Response]], list[Verdict]],
    *,
    batch: int,
    elsewhere: bool,
    names: tuple[str, str] = ("responses", "verdicts"),
    lacking: Callable[[list[Verdict]], set[int]] = lambda made: set(),
) -> list[Verdict]:
    """Every prompt answered and every answer judged, resumably. A judge that computes `elsewhere` reads the first answers
    while the policy writes the next; one that shares this machine waits until all are there."""
    by_id: dict[str, Response] = {}
    answers = answered(store, prompts, answer, batch, names[0])  # begun by whoever reads it
    with closing(ahead(answers, AHEAD)) if elsewhere else nullcontext(iter([*answers])) as made:

        def one_by_one() -> Iterator[Response]:
            for part in made:
                by_id.update({r.id: r for r in part})
                yield from part

        judged = store.flow(names[1], one_by_one(), len(prompts), judge, lambda row: Verdict.join(row, by_id), lacking)
        return [verdict for part in judged for verdict in part]


def computes_elsewhere(judge: JudgeConfig) -> bool:
    """Whether all that it asks are servers."""
    return all(isinstance(one.model, OpenAIConfig) for one in members(judge))
