"""Failures in, revisions out: the policy rewrites its own answer under the principles (section 4.4).

A step may first ask whether the principle is broken ("no" keeps the reply), then critique, then rewrite.
Each failure gets several candidates; the judge rules on each, and what passes may be trained on.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

from iteralign.config import ReviseConfig
from iteralign.judges.base import Judge, degenerate, words
from iteralign.judges.rubric import quality
from iteralign.models.base import Job, Model
from iteralign.prompts import PromptFile, load_prompt
from iteralign.records import Chat, Principle, Reply, Response, Revision, Step, Verdict, Wants
from iteralign.seeds import seed_for
from iteralign.similarity import cosines, thinned
from iteralign.stages.discover import kind_of
from iteralign.stages.respond import sampling_of

NEAR_COPY = 0.9  # TF-IDF cosine from which two revisions say the same


class Draft(NamedTuple):
    failure: Verdict
    candidate: int
    steps: tuple[Step, ...]
    reply: Reply


def schedule(failure: Verdict, principles: Sequence[Principle], config: ReviseConfig, seed: int) -> list[Principle]:
    """The principles that one failure is revised under: of its kind, nearest first by shared words, at most
    `max_principles` (0: all), in a seeded random order (the paper's is random, over all of the round's). Or as many as
    `draws` says, drawn with replacement (constitutional AI: Bai et al. 2022, section 3.1)."""
    own = [p for p in principles if p.kind in (kind_of(failure), "unknown")] or list(principles)
    if config.draws is not None:
        return random.Random(seed).choices(own, k=config.draws)
    if config.max_principles and len(own) > config.max_principles:
        text = f"{failure.response.prompt.question} {failure.response.reply.text}"
        near = cosines([text, *(p.text for p in own)], words="content")[0, 1:]
        ranked = sorted(range(len(own)), key=lambda i: (-near[i], i))
        own = [own[i] for i in ranked[: config.max_principles]]
    random.Random(seed).shuffle(own)
    return own


def revise(
    failures: Sequence[Verdict],
    policy: Model,
    principles: Sequence[Principle],
    config: ReviseConfig,
    seed: int,
    round: int,
    as_kind: Wants | None = None,
    critic: Model | None = None,
) -> list[Draft]:
    """`candidates` drafts a failure, in order; each step's draw belongs to (round, prompt, candidate, step). `as_kind`:
    all are rewritten as failures of this kind are. `critic`: who writes the critiques, the policy by default."""
    prompts = load_prompt(config.prompt)
    drafts = [Draft(f, c, (), f.response.reply) for f in failures for c in range(config.candidates)]
    plans = [
        schedule(
            d.failure, principles, config, seed_for(seed, round, "order", d.failure.response.prompt.id, d.candidate)
        )
        for d in drafts
    ]
    for depth in range(max(map(len, plans), default=0)):
        at = [i for i, plan in enumerate(plans) if depth < len(plan) and drafts[i].reply.finish != "failed"]
        stepped = step(
            [drafts[i] for i in at],
            [plans[i][depth] for i in at],
            policy,
            critic or policy,
            prompts,
            config,
            as_kind,
            [
                seed_for(seed, round, "revise", drafts[i].failure.response.prompt.id, drafts[i].candidate, depth)
                for i in at
            ],
        )
        for i, draft in zip(at, stepped, strict=True):
            drafts[i] = draft
    return drafts


def step(
    drafts: list[Draft],
    principles: list[Principle],
    policy: Model,
    critic: Model,
    prompts: PromptFile,
    config: ReviseConfig,
    as_kind: Wants | None,
    seeds: list[int],
) -> list[Draft]:
    """One principle for each draft: check, critique, rewrite (the first two where the config asks for them). Candidates
    that stand at the same reply and principle share a critique."""
    values = [
        {
            "prompt": d.failure.response.prompt.question,
            "reply": d.reply.text.strip(),
            "principle": p.text,
            "critique": "",
            "critique_request": p.critique or f"Say how the reply breaks this principle: {p.text}",
            "revision_request": p.revision or f"Write a reply that keeps this principle: {p.text}",
        }
        for d, p in zip(drafts, principles, strict=True)
    ]
    kept = [False] * len(drafts)
    if config.check:
        choices = policy.choose([prompts.chat("check", **v) for v in values], ("yes", "no"))
        kept = [c.answer == "no" for c in choices]
    todo = [i for i, keep in enumerate(kept) if not keep]
    if config.critique:
        asked = {i: prompts.chat("critique", **values[i]) for i in todo}
        jobs: dict[Chat, Job] = {}
        for i, chat in asked.items():
            jobs.setdefault(chat, Job(chat=chat, sampling=sampling_of(config.sampling), seed=seeds[i] ^ 1))
        said = dict(zip(jobs, critic.generate(list(jobs.values())), strict=True))
        for i, chat in asked.items():
            values[i]["critique"] = said[chat].text.strip()
    rewrites = [
        Job(
            chat=prompts.chat(key_for(prompts, as_kind or kind_of(drafts[i].failure)), **values[i]),
            sampling=sampling_of(config.sampling),
            seed=seeds[i],
        )
        for i in todo
    ]
    replies = dict(zip(todo, policy.generate(rewrites), strict=True))
    return [
        d._replace(
            steps=(*d.steps, Step(principle=p.id, critique=values[i]["critique"], reply=replies.get(i))),
            reply=replies.get(i, d.reply),
        )
        for i, (d, p) in enumerate(zip(drafts, principles, strict=True))
    ]


def key_for(prompts: PromptFile, kind: Wants) -> str:
    return "revise" if "revise" in prompts.tree else ("answer" if kind == "answer" else "decline")


def malformed(reply: Reply, config: ReviseConfig) -> str | None:
    """Why a draft is no good whatever it says: form rules that need no judge. Refusal words play no part."""
    if reply.finish != "stop":
        return f"did not come to an end ({reply.finish})"
    why = degenerate(reply.text)
    tokens = words(reply.text)
    if why is None and len(tokens) < config.min_words:
        why = f"only {len(tokens)} words"
    if why is None and len(set(tokens)) < config.min_distinct * len(tokens):
        why = "too few distinct words"
    if why is None and tokens.count("sorry") > 1:
        why = "apologises more than once"
    return why


def verify(drafts: Sequence[Draft], judge: Judge, policy_name: str, config: ReviseConfig) -> list[Revision]:
    """The judge rules on every well-formed draft; with `accept: all` all that are well formed are accepted.

    `keep: best` accepts the surest passing candidate of a failure, `all` every passing one.
    """
    flaws = [malformed(d.reply, config) if any(s.reply for s in d.steps) else "was not rewritten" for d in drafts]
    sound = [i for i, why in enumerate(flaws) if why is None]
    responses = [
        Response(prompt=drafts[i].failure.response.prompt, reply=drafts[i].reply, policy=policy_name) for i in sound
    ]
    judged = config.accept == "passing"
    verdicts = dict(zip(sound, judge(responses), strict=True)) if judged else {}
    passing = [i for i in sound if not judged or verdicts[i].label == "passes"]
    chosen = set(passing)
    if config.keep == "best":
        ranks = {i: quality(verdicts[i]) if judged else 0.0 for i in passing}
        by_failure = {
            drafts[i].failure.id: i for i in sorted(passing, key=lambda i: (ranks[i], -i))
        }  # the first of equals
        chosen = set(by_failure.values())

    def reason(i: int) -> str:
        if flaws[i] is not None:
            return str(flaws[i])
        if i in verdicts and verdicts[i].label != "passes":
            return verdicts[i].reason
        return "" if i in chosen else "another candidate was surer"

    return [
        Revision(
            origin=d.failure.response,
            before=d.failure,
            candidate=d.candidate,
            steps=d.steps,
            after=verdicts.get(i),
            accepted=i in chosen,
            reason=reason(i),
        )
        for i, d in enumerate(drafts)
    ]


def drop_near_copies(revisions: Sequence[Revision], limit: int) -> list[Revision]:
    """Accepted revisions less those that say nearly what `limit` earlier ones of the round already say."""
    accepted = [r for r in revisions if r.accepted]
    return [accepted[i] for i in thinned([r.reply.text for r in accepted], NEAR_COPY, limit)]
