"""What a round trains on at most, and how long that takes: for the plan."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from iteralign.config import RunConfig, TrainConfig
from iteralign.records import Prompt
from iteralign.sizes import training_time
from iteralign.tally import REPLY_SHARE, tokens_of
from iteralign.training.rows import round_half

HARMLESS_FAILING = 0.10


@dataclass(frozen=True)
class Training:
    """All rounds together: rows, pairs or sampled answers, and steps, at most; `tokens` counts each row once an epoch."""

    rows: int
    steps: int
    tokens: int
    seconds: float | None
    basis: str


def failing_of(harmless: Sequence[object]) -> int:
    return math.ceil(HARMLESS_FAILING * len(harmless))


class Learnt(NamedTuple):
    """What a round trains on at most: rows or pairs, and tokens of one pass over them."""

    size: int
    tokens: float


def rows_of_round(config: RunConfig, batch: Sequence[Prompt]) -> Learnt:
    """As `choose_rows` takes them: everything harmful, and harmless ones up to their share. CAI rewrites
    all answers, or those that fail."""
    sft, revise = config.sft, config.revise
    each = 1 if revise.keep == "best" else revise.candidates
    harmless = [p for p in batch if p.wants == "answer"]
    every = config.recipe in ("cai", "self_improve") and revise.passing
    rewritten = len(harmless) if every else failing_of(harmless)
    revised = each * rewritten
    harmful = each * (len(batch) - len(harmless))
    share = round_half(harmful * sft.harmless_share / (1 - sft.harmless_share))
    replies = max(0, min(share - revised, len(harmless) - rewritten))
    reply = min(REPLY_SHARE * config.respond.max_new_tokens, sft.reply_tokens or math.inf)
    revision = min(REPLY_SHARE * revise.sampling.max_new_tokens, sft.revision_tokens or math.inf)
    rows = harmful + revised + replies
    row = question_tokens(batch) + ((harmful + revised) * revision + replies * reply) / max(1, rows)
    return Learnt(rows, rows * min(sft.max_length, row))


def pairs_of_round(config: RunConfig, batch: Sequence[Prompt]) -> Learnt:
    """Of compared samples, and of revisions."""
    prefer, count, answer, size, tokens = config.prefer, 0, 0.0, 0, 0.0
    if config.recipe in ("rlaif", "self_improve"):
        count = len(batch) * (prefer.samples * (prefer.samples - 1) // 2 if prefer.pairs == "all" else 1)
        answer = REPLY_SHARE * prefer.sampling.max_new_tokens
    if prefer.revised or config.recipe in ("iteralign", "cai"):
        size, tokens = revised_pairs_of_round(config, batch)
    return Learnt(count + size, pair_tokens(config, batch, count, answer) + tokens)


def revised_pairs_of_round(config: RunConfig, batch: Sequence[Prompt]) -> Learnt:
    """Revisions of failing answers, and as many contrast pairs as `prefer.contrast` says."""
    harmless = [p for p in batch if p.wants == "answer"]
    revised = len(batch) - len(harmless) + failing_of(harmless)
    count = revised + min(round(config.prefer.contrast * revised), len(harmless))
    return Learnt(count, pair_tokens(config, batch, count, REPLY_SHARE * config.revise.sampling.max_new_tokens))


def pair_tokens(config: RunConfig, batch: Sequence[Prompt], count: int, answer: float) -> float:
    """A pair's question is read once, and both answers after it: training/one_row.py."""
    answer = min(answer, config.dpo.answer_tokens or math.inf)
    return count * min(2 * config.dpo.max_length, question_tokens(batch) + 2 * answer)


def answers_of_round(config: RunConfig, batch: Sequence[Prompt]) -> Learnt:
    """Of RL: what is sampled in one pass over the prompts, and read once a prompt, all its answers after it."""
    rl = config.rl
    each = question_tokens(batch) + rl.samples * REPLY_SHARE * rl.sampling.max_new_tokens
    return Learnt(len(batch) * rl.samples, len(batch) * min(rl.samples * rl.max_length, each))


def question_tokens(batch: Sequence[Prompt]) -> float:
    return sum(tokens_of(p.plain) for p in batch) / len(batch)


def training_of(config: RunConfig, batch: Sequence[Prompt]) -> Training:
    rows = steps = 0
    tokens = 0.0

    def add(own: Learnt, settings: TrainConfig, times: int = 1) -> None:
        nonlocal rows, steps, tokens
        rows, tokens = rows + times * own.size, tokens + times * own.tokens * settings.epochs
        steps += math.ceil(math.ceil(times * own.size / settings.batch) * settings.epochs)

    for r in range(config.rounds if config.phases else 0):
        if "sft" in config.learn:
            add(rows_of_round(config, batch), config.sft, r + 1 if config.sft.rows == "pool" else 1)
        if "dpo" in config.learn:
            add(pairs_of_round(config, batch), config.dpo)
        if config.recipe == "self_improve" and config.cai_by_pairs:
            add(revised_pairs_of_round(config, batch), config.dpo)
        if "rl" in config.learn:
            add(answers_of_round(config, batch), config.rl)
            if config.rl.reward == "model":
                add(pairs_of_round(config, batch), config.reward)
    time = training_time(config.policy, round(tokens))
    return Training(rows, steps, round(tokens), time.seconds, time.basis)
