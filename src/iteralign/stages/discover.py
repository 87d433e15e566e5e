"""Failures in, principles out: the oracle reads (prompt, reply) pairs and writes what they broke (section 4.3)."""

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from iteralign.config import DiscoverConfig
from iteralign.errors import NotApplicable
from iteralign.models.base import Job, Model
from iteralign.models.human import HumanModel
from iteralign.prompts import PromptFile, load_prompt
from iteralign.records import Chat, Choice, Constitution, LedgerEntry, Principle, Verdict, Wants, digest
from iteralign.seeds import seed_for
from iteralign.similarity import clusters, cosines
from iteralign.stages.lists import read_list
from iteralign.stages.respond import sampling_of

REPLY_WORDS = 60  # of each reply that the oracle is shown
CLUSTERED = 8  # times as many failures as are shown; of more, clusters are looked for among so many drawn ones


class FailedCall(NamedTuple):
    """A call of the oracle that gave no reply: what its group of failures shares was not learnt."""

    group: int
    error: str


class Discovery(NamedTuple):
    """The constitution after the round, this round's principles in it (new, or met again), and what happened.

    `calls` counts the groups that were shown; a call that failed is no "no new principles".
    """

    constitution: Constitution
    met: tuple[Principle, ...]
    ledger: tuple[LedgerEntry, ...]
    calls: int
    failed: tuple[FailedCall, ...]


def discover(
    failures: Sequence[Verdict],
    oracle: Model,
    constitution: Constitution,
    config: DiscoverConfig,
    seed: int,
    round: int,
) -> Discovery:
    """Groups of at most `group_size` failures, one call each; near-duplicates merge into an older principle.

    An empty list is a good answer. Each ledger entry names its evidence: the ids of the prompts shown. A prompt
    file with `propose` is the paper's: sent as it stands, without a schema, a cut or a question. People are shown all
    groups at one sitting, in plain words, and what they write is taken line by line, all of it.
    """
    prompts = load_prompt(config.prompt)
    paper, people = "propose" in prompts.tree, isinstance(oracle, HumanModel)
    form = principles_schema(config.per_call) if config.json_schema and not paper and not people else None
    groups = group_failures(failures, config, seed_for(seed, round, "discover"))[: config.max_calls]
    principles = list(constitution.principles)
    met: dict[str, Principle] = {}
    ledger: list[LedgerEntry] = []
    failed: list[FailedCall] = []

    def job(number: int) -> Job:
        chat = shown(groups[number], principles, prompts, config, json=form is not None)
        own_seed = seed_for(seed, round, "discover", number)
        return Job(chat=chat, sampling=sampling_of(config.sampling), seed=own_seed, json_schema=form)

    sitting = oracle.generate([job(n) for n in range(len(groups))]) if people else None
    for number, group in enumerate(groups):
        kind = kind_of(group[0])
        reply = sitting[number] if sitting else oracle.generate([job(number)])[0]
        if reply.finish == "failed":
            failed.append(FailedCall(number, reply.error or "no reply"))
            continue
        evidence = tuple(v.response.prompt.id for v in group)
        for text in rules_in(reply.text, oracle, None if paper else config.per_call):
            principle = Principle(id=digest(text, kind, length=12), text=text, framing=framing_of(text), kind=kind)
            older, cosine, said = merge(principle, principles, oracle, prompts, config)
            if older is None:
                principles.append(principle)
            ledger.append(
                LedgerEntry(
                    principle=principle.id,
                    event="merged" if older else "proposed",
                    round=round,
                    evidence=evidence,
                    into=older.id if older else None,
                    value=cosine if older else None,
                    reason=said,
                )
            )
            met.setdefault((older or principle).id, older or principle)
    kept = principles if config.accumulate else list(met.values())
    after = Constitution(principles=tuple(kept))
    return Discovery(after, tuple(met.values()), tuple(ledger), len(groups), tuple(failed))


def shown(
    group: Sequence[Verdict], found: Sequence[Principle], prompts: PromptFile, config: DiscoverConfig, json: bool
) -> Chat:
    """A group's failures as the oracle reads them, with what was found before, so that it is not found again."""
    kind, replies = kind_of(group[0]), [v.response for v in group]
    pairs = [{"prompt": r.prompt.question, "reply": " ".join(r.reply.text.split()[:REPLY_WORDS])} for r in replies]
    known = [p.text for p in found if p.kind == kind]
    key = "propose" if "propose" in prompts.tree else ("unhelpful" if kind == "answer" else "harmful")
    return prompts.chat(key, pairs=pairs, known=known, count=config.per_call, json=json)


def rules_in(text: str, oracle: Model, most: int | None) -> list[str]:
    """At most `most` of the list that a model wrote. Of what people typed every line; the one word "none" is none."""
    if not isinstance(oracle, HumanModel):
        return read_list(text)[:most]
    lines = [line.removeprefix("- ") for line in text.splitlines()]
    return [] if [line.strip(' ."').lower() for line in lines] == ["none"] else lines


def principles_schema(count: int) -> dict[str, Any]:
    """An object with a list of at most `count` texts; strict, as servers want it."""
    texts = {"type": "array", "items": {"type": "string"}, "maxItems": count}
    return {
        "type": "object",
        "properties": {"principles": texts},
        "required": ["principles"],
        "additionalProperties": False,
    }


class Merge(NamedTuple):
    """`into` is None for a new principle; `said` is the ledger's reason."""

    into: Principle | None
    cosine: float = 0.0
    said: str = ""


def merge(
    principle: Principle, known: Sequence[Principle], oracle: Model, prompts: PromptFile, config: DiscoverConfig
) -> Merge:
    """Which older principle of the same kind a new one merges into.

    The oldest whose TF-IDF cosine is at least `duplicate_cosine`; failing that, the nearest, if its cosine is at
    least `ask_cosine` and the oracle says yes to the file's question `same`. No readable answer is a no. So there
    is at most one question for a principle.
    """
    near = similar(principle, known)
    for older, cosine in near:
        if cosine >= config.duplicate_cosine:
            return Merge(older, round(cosine, 4), principle.text)
    if not near or config.ask_cosine is None or not asks(prompts):
        return Merge(None)
    nearest, cosine = max(near, key=lambda pair: pair[1])
    if cosine < config.ask_cosine:
        return Merge(None)
    choice = ask_same(nearest, principle, oracle, prompts)
    if choice.answer == "yes":
        return Merge(nearest, round(cosine, 4), principle.text)
    unread = f"the oracle did not say whether it is the same as {nearest.id}: {choice.error}"
    return Merge(None, said=unread if choice.answer is None else "")


def asks(prompts: PromptFile) -> bool:
    """Whether principles that are alike are asked about with this prompt file."""
    return "same" in prompts.tree and "propose" not in prompts.tree


def ask_same(older: Principle, new: Principle, oracle: Model, prompts: PromptFile) -> Choice:
    try:
        return oracle.choose([prompts.chat("same", a=older.text, b=new.text)], ("yes", "no"))[0]
    except NotApplicable as error:
        return Choice(probabilities=None, answer=None, mass=None, error=str(error))


def kind_of(failure: Verdict) -> Wants:
    return "answer" if failure.fault == "unhelpful" or failure.response.prompt.wants == "answer" else "decline"


def framing_of(text: str) -> Literal["do", "dont"]:
    negative = text.lower().startswith(("do not", "don't", "never", "avoid", "refuse", "decline"))
    return "dont" if negative else "do"


def group_failures(failures: Sequence[Verdict], config: DiscoverConfig, seed: int) -> list[list[Verdict]]:
    """Failures of one kind that belong together, at most `group_size` each; the largest groups first,
    both kinds by turns."""
    by_kind: dict[Wants, list[Verdict]] = defaultdict(list)
    for failure in failures:
        by_kind[kind_of(failure)].append(failure)
    queues: list[list[list[Verdict]]] = []
    for kind in ("decline", "answer"):
        members = by_kind.get(kind, [])
        groups = split_groups(members, config, seed)
        chunks = [g[i : i + config.group_size] for g in groups for i in range(0, len(g), config.group_size)]
        queues.append(sorted(chunks, key=len, reverse=True))
    merged: list[list[Verdict]] = []
    for i in range(max(map(len, queues), default=0)):
        merged += [q[i] for q in queues if i < len(q)]
    return merged


def split_groups(failures: list[Verdict], config: DiscoverConfig, seed: int) -> list[list[Verdict]]:
    if config.group_by == "none" or len(failures) <= config.group_size:
        return [failures] if failures else []
    if config.group_by == "category":
        by_category: dict[str, list[Verdict]] = defaultdict(list)
        for f in failures:
            by_category[f.response.prompt.category].append(f)
        return packed(sorted(by_category.values(), key=len, reverse=True), config.group_size)
    if len(failures) > (most := CLUSTERED * config.max_calls * config.group_size):
        failures = random.Random(seed).sample(failures, most)
    texts = [f"{f.response.prompt.question} {f.response.reply.text}" for f in failures]
    count = -(-len(failures) // config.group_size)
    labels = clusters(texts, count, seed)
    return [[f for f, label in zip(failures, labels, strict=True) if label == k] for k in range(count)]


def packed(groups: list[list[Verdict]], size: int) -> list[list[Verdict]]:
    """Small categories share a group as long as it fits in one call."""
    bins: list[list[Verdict]] = []
    for group in groups:
        fitting = next((b for b in bins if len(b) + len(group) <= size), None)
        if fitting is None:
            bins.append(list(group))
        else:
            fitting += group
    return bins


def similar(principle: Principle, known: Sequence[Principle]) -> list[tuple[Principle, float]]:
    """Known principles of the same kind, the oldest first, each with its TF-IDF cosine to a new one."""
    same = [k for k in known if k.kind == principle.kind]
    if not same:
        return []
    near = cosines([principle.text, *(k.text for k in same)], words="pairs", damped=True)[0, 1:]
    return [(k, float(c)) for k, c in zip(same, near, strict=True)]
