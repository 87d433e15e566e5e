"""Answers in, preferences out: a model says which of two answers keeps a principle better, in both orders (RLAIF)."""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from iteralign.config import PreferConfig
from iteralign.judges.base import as_data, chance
from iteralign.judges.calibration import log_odds
from iteralign.judges.rubric import quality
from iteralign.models.base import Job, Model
from iteralign.prompts import load_prompt
from iteralign.records import Chat, Preference, Principle, Prompt, Record, Response, Revision, Verdict
from iteralign.seeds import seed_for
from iteralign.stages.respond import sampling_of

Pair = tuple[Response, Response]


class Compared(Record):
    """Two answers to one prompt by their ids, and P(the one shown first) in both orders; None: no readable answer.
    `score`: the log-odds of `first`, freed of position; a tie within the margin is 0."""

    prompt: str
    first: str
    second: str
    principle: str
    orders: tuple[float, float] | None
    score: float | None


def sample(prompts: Sequence[Prompt], policy: Model, config: PreferConfig, seed: int, round: int) -> list[Response]:
    """`samples` answers a prompt, side by side; each draw belongs to (seed, round, prompt, candidate)."""
    jobs = [
        Job(chat=p.sent, sampling=sampling_of(config.sampling), seed=seed_for(seed, round, "sample", p.id, n))
        for p in prompts
        for n in range(config.samples)
    ]
    replies = policy.generate(jobs)
    own = [p for p in prompts for _ in range(config.samples)]
    return [Response(prompt=p, reply=r, policy=policy.name) for p, r in zip(own, replies, strict=True)]


def pairs_to_compare(verdicts: Sequence[Verdict], config: PreferConfig) -> list[Pair]:
    """Of each prompt's samples: the best and the worst by the pointwise judge, or every two. Samples that are unjudged
    or failed, and pairs that say the same, are left out."""
    by_prompt: dict[str, list[Verdict]] = {}
    for v in verdicts:
        if v.label != "unjudged" and v.response.reply.finish != "failed":
            by_prompt.setdefault(v.response.prompt.id, []).append(v)
    found: list[Pair] = []
    for own in by_prompt.values():
        if config.pairs == "all":
            found += [(a.response, b.response) for a, b in combinations(own, 2)]
            continue
        ranked = sorted(own, key=lambda v: (v.label == "passes", v.fault != "incoherent", quality(v)))
        if len(ranked) > 1:
            found.append((ranked[-1].response, ranked[0].response))
    return [(a, b) for a, b in found if a.reply.text.strip() != b.reply.text.strip()]


def compare(
    pairs: Sequence[Pair],
    principles: Sequence[Principle],
    judge: Model,
    config: PreferConfig,
    seed: int,
    round: int,
) -> list[Compared]:
    """Each pair under a principle drawn by seed, in both orders.

    score = (logit P(A | a, b) - logit P(A | b, a)) / 2: a liking for the first place is in both terms, and goes away.
    Without probabilities an answer counts as sure, so that disagreement between the orders is a tie.
    """
    prompts = load_prompt(config.prompt)
    drawn = [principle_for(a, principles, seed_for(seed, round, "principle", a.id, b.id)) for a, b in pairs]

    def chat(first: Response, second: Response, principle: Principle) -> Chat:
        texts = as_data(first.reply.text), as_data(second.reply.text)
        return prompts.chat(
            "prefer", prompt=first.prompt.question, principle=principle.text, first=texts[0], second=texts[1]
        )

    chats = [c for (a, b), p in zip(pairs, drawn, strict=True) for c in (chat(a, b, p), chat(b, a, p))]
    choices = judge.choose(chats, ("A", "B"))
    made: list[Compared] = []
    for n, ((a, b), principle) in enumerate(zip(pairs, drawn, strict=True)):
        said = chance(choices[2 * n], "A"), chance(choices[2 * n + 1], "A")
        orders = None if said[0] is None or said[1] is None else (said[0], said[1])
        score = None if orders is None else (log_odds(orders[0]) - log_odds(orders[1])) / 2
        if score is not None and abs(score) < config.margin:
            score = 0.0
        made.append(
            Compared(
                prompt=a.prompt.id,
                first=a.id,
                second=b.id,
                principle=principle.id,
                orders=orders,
                score=None if score is None else rounded(score),
            )
        )
    return made


def principle_for(response: Response, principles: Sequence[Principle], seed: int) -> Principle:
    """One of those for what the prompt wants, or of no kind; of all where there is none."""
    own = [p for p in principles if p.kind in (response.prompt.wants, "unknown")] or list(principles)
    return own[seed % len(own)]


def rounded(score: float) -> float:
    """To the digits that resuming keeps."""
    return round(score, 4)


def preferences(
    compared: Sequence[Compared], responses: dict[str, Response], judge: str, round: int
) -> list[Preference]:
    """Ties and pairs without a readable answer leave none."""
    made: list[Preference] = []
    for c in compared:
        if not c.score or c.orders is None:
            continue
        a, b = responses[c.first], responses[c.second]
        won = c.score > 0
        made.append(
            preference(
                a.prompt,
                *((a, b) if won else (b, a)),
                origin="compared",
                principle=c.principle,
                score=abs(c.score),
                orders=c.orders if won else (c.orders[1], c.orders[0]),
                judge=judge,
                round=round,
            )
        )
    return made


def preference(prompt: Prompt, chosen: Response, rejected: Response, **more: object) -> Preference:
    return Preference(
        prompt=prompt.id,
        item=prompt.item,
        split=prompt.split,
        wants=prompt.wants,
        chat=prompt.plain,
        chosen=chosen.reply,
        rejected=rejected.reply,
        **more,  # type: ignore[reportArgumentType]
    )


def revision_preferences(revisions: Sequence[Revision], round: int) -> list[Preference]:
    """The accepted revision over the answer that failed, on both sides."""
    return [
        preference(
            r.origin.prompt,
            Response(prompt=r.origin.prompt, reply=r.reply, policy=r.policy),
            r.origin,
            origin="revision",
            principle=next((s.principle for s in reversed(r.steps) if s.reply is not None), None),
            judge=r.after.judge if r.after else None,
            round=round,
        )
        for r in revisions
        if r.accepted and r.reply.text.strip() != r.origin.reply.text.strip()
    ]


def contrast_preferences(refusals: Sequence[Revision], round: int) -> list[Preference]:
    """An own good answer to a harmless prompt over a refusal of it: one that the judge fails as unhelpful."""
    return [
        preference(
            r.origin.prompt,
            r.origin,
            Response(prompt=r.origin.prompt, reply=r.reply, policy=r.policy),
            origin="contrast",
            judge=r.after.judge,
            round=round,
        )
        for r in refusals
        if r.after is not None and r.after.fault == "unhelpful"
    ]


class Agreement(NamedTuple):
    """Of `n` compared pairs: `ties` within the margin, `unread` without an answer; `position_bias`: how much likelier
    the answer in the first place is chosen than the other, 0 to ±1 (mean of both orders' P(A), less one half, twice)."""

    n: int
    ties: int
    unread: int
    position_bias: float | None


def agreement(compared: Sequence[Compared]) -> Agreement:
    read = [c.orders for c in compared if c.orders is not None]
    bias = sum(a + b - 1 for a, b in read) / len(read) if read else None
    return Agreement(
        len(compared),
        sum(c.score == 0 for c in compared),
        len(compared) - len(read),
        None if bias is None else rounded(bias),
    )
