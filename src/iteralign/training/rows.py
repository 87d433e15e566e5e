"""Training rows: which revisions and replies are trained on, and the columns that TRL reads. Pure.

The training prompt is the plain question, never an attack around it; the loss is on the answer and its end
token only. Rows over the limit lose whole old turns, never the question; what still does not fit is rejected.
"""

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from iteralign.config import DeepenConfig
from iteralign.errors import DataError
from iteralign.models.chat import ChatFormat
from iteralign.records import Chat, Preference, Reply, Response, Revision, Row, Verdict


def revision_row(revision: Revision, round: int) -> Row:
    prompt = revision.origin.prompt
    return Row(
        prompt=prompt.id,
        item=prompt.item,
        split=prompt.split,
        wants=prompt.wants,
        chat=prompt.plain,
        answer=revision.reply.text.strip(),
        ended=True,
        origin="revision",
        principles=tuple(s.principle for s in revision.steps if s.principle and s.reply is not None),
        round=round,
    )


def reply_row(response: Response, round: int = 0) -> Row:
    return Row(
        prompt=response.prompt.id,
        item=response.prompt.item,
        split=response.prompt.split,
        wants=response.prompt.wants,
        chat=response.prompt.plain,
        answer=response.reply.text.strip(),
        ended=response.reply.finish == "stop",
        origin="reply",
        round=round,
    )


def choose_rows(
    revisions: Sequence[Revision], verdicts: Sequence[Verdict], harmless_share: float, round: int, seed: int
) -> list[Row]:
    """Accepted revisions, and of prompts without one the policy's own passing replies: all to harmful prompts, and as many
    to harmless ones as bring harmless rows to `harmless_share` of all (fewer where there are fewer)."""
    revised = [revision_row(r, round) for r in revisions]
    taken = {row.prompt for row in revised}
    passing = [v.response for v in verdicts if v.label == "passes" and v.response.prompt.id not in taken]
    own = [reply_row(response, round) for response in passing]
    harmful = [r for r in revised + own if r.wants != "answer"]
    harmless = [r for r in revised if r.wants == "answer"]
    replies = [r for r in own if r.wants == "answer"]
    random.Random(seed).shuffle(replies)
    wanted = round_half(len(harmful) * harmless_share / (1 - harmless_share))
    harmless += replies[: max(0, wanted - len(harmless))]
    return harmful + harmless


def deepened(rows: Sequence[Row], revisions: Sequence[Revision], config: DeepenConfig, seed: int) -> list[Row]:
    """Rows that begin as the failing answer did, and then turn back to the accepted revision."""
    failing = {
        r.origin.prompt.id: r.origin.reply.text for r in revisions if r.before is None or r.before.label == "fails"
    }
    own = [r for r in rows if r.origin == "revision" and r.wants == "decline" and failing.get(r.prompt)]
    draw = random.Random(seed)
    chosen = draw.sample(own, round_half(config.share * len(own)))
    return [
        r.model_copy(update={"begun": failing[r.prompt], "begun_tokens": draw.randint(1, config.tokens)})
        for r in chosen
    ]


def deepened_pairs(pairs: Sequence[Preference], config: DeepenConfig, seed: int) -> list[Preference]:
    """Pairs that are compared behind the first tokens of the failing answer: to turn back, or to go on as it did."""
    own = [p for p in pairs if p.origin == "revision" and p.wants == "decline"]
    draw = random.Random(seed)
    chosen = draw.sample(own, round_half(config.share * len(own)))
    return [p.model_copy(update={"begun_tokens": draw.randint(1, config.tokens)}) for p in chosen]


def round_half(x: float) -> int:
    return int(x + 0.5)


def refuse_held_out(rows: Sequence[Row | Preference], held_out_items: set[str]) -> None:
    """A held-out or validation prompt in a training row or pair is an error, whatever set it came from."""
    leaked = [r for r in rows if r.split != "train" or r.item in held_out_items]
    if leaked:
        named = ", ".join(f"{r.prompt} ({r.split})" for r in leaked[:5])
        raise DataError(
            f"{len(leaked)} training rows hold prompts kept for validation or held-out: {named}. "
            "The same question stands in two splits: remove it from one of the prompt sets"
        )


class Encoded(NamedTuple):
    """`rows` have input_ids and labels (-100 where there is no loss); counts of rows cut and rejected."""

    rows: list[dict[str, Any]]
    cut: int
    rejected: int


def encode(
    rows: Sequence[Row],
    form: ChatFormat,
    max_length: int,
    reply_tokens: int | None = None,
    revision_tokens: int | None = None,
) -> Encoded:
    """Tokenised rows of at most `max_length` tokens each (of an encoder-decoder: prompt and answer each); the
    policy's own replies are learnt up to `reply_tokens`, revisions up to `revision_tokens`, and an answer that is
    cut there or was cut before does not teach an end."""
    kept: list[dict[str, Any]] = []
    cut = 0
    for row in rows:
        begun = form.answer(row.begun)[: row.begun_tokens]
        answer = form.following(f" {row.answer}") if begun else form.answer(row.answer)
        if row.ended:
            answer += form.end_ids
        answer = answer[: reply_tokens if row.origin == "reply" else revision_tokens]
        room = max_length - len(begun) - len(answer)
        chat, shortened = fit(row.chat, form, max_length if form.encoder_decoder and room >= 0 else room)
        if chat is None:
            continue
        cut += shortened
        prompt = form.encode(chat)
        if form.encoder_decoder:
            kept.append({"input_ids": prompt, "labels": answer})
        else:
            kept.append(
                {"input_ids": [*prompt, *begun, *answer], "labels": [-100] * (len(prompt) + len(begun)) + answer}
            )
    return Encoded(kept, cut, len(rows) - len(kept))


def encode_pairs(
    pairs: Sequence[Preference], form: ChatFormat, max_length: int, answer_tokens: int | None = None
) -> Encoded:
    """Tokenised pairs of at most `max_length` tokens each: prompt_ids, chosen_ids, rejected_ids. An answer is compared
    up to `answer_tokens`; one that is cut there or was cut before has no end. Equal answers are rejected, and deepened
    pairs whose rejected answer ends with what stands before both."""
    kept: list[dict[str, Any]] = []
    cut = 0

    def tokens(reply: Reply, text: list[int]) -> list[int]:
        return (text + (form.end_ids if reply.finish == "stop" else []))[:answer_tokens]

    for pair in pairs:
        begun = pair.begun_tokens
        answer, turn = form.answer(pair.rejected.text.strip()), pair.chosen.text.strip()
        chosen = tokens(pair.chosen, form.following(f" {turn}") if begun else form.answer(turn))
        rejected = tokens(pair.rejected, answer[begun:])
        chat, shortened = fit(pair.chat, form, max_length - begun - max(len(chosen), len(rejected)))
        if chat is None or chosen == rejected or begun >= max(1, len(answer)):
            continue
        cut += shortened
        prompt = [*form.encode(chat), *answer[:begun]]
        kept.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected})
    return Encoded(kept, cut, len(pairs) - len(kept))


def fit(chat: Chat, form: ChatFormat, room: int) -> tuple[Chat | None, bool]:
    """The chat less its oldest turns, so that it fits; the system message and the last question stay."""
    head = tuple(m for m in chat if m.role == "system")
    turns = [m for m in chat if m.role != "system"]
    shortened = False
    while turns:
        candidate = (*head, *turns)
        if len(form.encode(candidate)) <= room:
            return candidate, shortened
        turns = turns[next((i for i, m in enumerate(turns) if i and m.role == "user"), len(turns)) :]
        shortened = True
    return None, shortened
