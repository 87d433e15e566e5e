"""The nouns: every record that passes between stages.

A record is frozen and nests its origin (`revision.origin.prompt`). On disk a row names its parent
by id; `row()` writes that form, and `join()` reads it with the parents at hand.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

Role = Literal["system", "user", "assistant"]
Wants = Literal["answer", "decline", "unknown"]
Split = Literal["train", "validation", "held_out"]
Label = Literal["passes", "fails", "unjudged"]
Fault = Literal["harmful", "unhelpful", "incoherent", "untruthful", "none"]


def digest(*parts: object, length: int = 16) -> str:
    """Hex digest of JSON-serialisable parts: the source of every id."""
    text = json.dumps(parts, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def row(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    @property
    def new_tokens(self) -> int:
        """Tokens that a model wrote for this record: what a live display counts."""
        return 0


class Message(Record):
    role: Role
    content: str


Chat = tuple[Message, ...]


def user(text: str) -> Chat:
    return (Message(role="user", content=text),)


class Prompt(Record):
    """`plain` is what is trained on; `sent` is what the policy sees (an attack applied to it)."""

    id: str
    item: str
    plain: Chat
    sent: Chat
    wants: Wants
    source: str
    category: str
    subtopic: str
    kind: str
    split: Split
    attack: str

    @property
    def question(self) -> str:
        """The last user turn, before any attack."""
        return next((m.content for m in reversed(self.plain) if m.role == "user"), "")


class Reply(Record):
    """`finish` is "failed" when the call did not succeed: a failed call is data."""

    text: str
    finish: Literal["stop", "length", "failed"]
    error: str | None = None
    prompt_tokens: int = 0
    tokens: int = 0


class Choice(Record):
    """Probabilities of the offered short answers, normalised over them; None where a backend has none.

    `mass` is the probability that the answers hold together (before normalising).
    `answer` is the likeliest, or None when the reply named none of them, or none was likely at all.
    """

    probabilities: dict[str, float] | None
    answer: str | None
    mass: float | None
    error: str | None = None


class Response(Record):
    prompt: Prompt
    reply: Reply
    policy: str

    @property
    def id(self) -> str:
        return digest(self.prompt.id, self.policy, self.reply.text)

    @property
    def new_tokens(self) -> int:
        return self.reply.tokens

    def row(self) -> dict[str, Any]:
        return {"id": self.id, "prompt": self.prompt.id, "reply": self.reply.row(), "policy": self.policy}

    @classmethod
    def join(cls, row: dict[str, Any], prompts: Mapping[str, Prompt]) -> Self:
        return cls(prompt=prompts[row["prompt"]], reply=Reply(**row["reply"]), policy=row["policy"])


class Verdict(Record):
    """`probabilities` holds P(yes) of every question that was asked, by the question's name."""

    response: Response
    label: Label
    fault: Fault
    probabilities: dict[str, float]
    reason: str
    judge: str

    @property
    def id(self) -> str:
        return digest(self.response.id, self.judge)

    def _own(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude={"response"})

    def row(self) -> dict[str, Any]:
        return {"id": self.id, "response": self.response.id, **self._own()}

    @classmethod
    def join(cls, row: dict[str, Any], responses: Mapping[str, Response]) -> Self:
        own = {k: v for k, v in row.items() if k not in ("id", "response")}
        return cls(response=responses[row["response"]], **own)


class Principle(Record):
    """`kind` is what the evidence called for: "decline" or "answer" (an over-refusal). `critique` and `revision`: what a
    given principle asks the policy about an answer, and what it asks it to write; empty: asked by its text."""

    id: str
    text: str
    framing: Literal["do", "dont"]
    kind: Wants
    name: str = ""
    critique: str = ""
    revision: str = ""


class LedgerEntry(Record):
    """`value` of a merge is its TF-IDF cosine: below `discover.duplicate_cosine` the oracle said that they are one."""

    principle: str
    event: Literal["proposed", "merged", "lift", "accepted", "retired"]
    round: int
    evidence: tuple[str, ...] = ()
    into: str | None = None
    value: float | None = None
    reason: str = ""


class Constitution(Record):
    principles: tuple[Principle, ...] = ()

    @property
    def version(self) -> str:
        return digest([(p.id, p.text) for p in self.principles])


class Step(Record):
    """One look at an answer under one principle; `reply` is None when the answer was kept."""

    principle: str | None
    critique: str
    reply: Reply | None


class Revision(Record):
    """One candidate; `after` is the verdict on the last reply. Rejected candidates are kept too."""

    origin: Response
    before: Verdict | None
    candidate: int
    steps: tuple[Step, ...]
    after: Verdict | None
    accepted: bool
    reason: str = ""

    @property
    def id(self) -> str:
        return digest(self.origin.id, self.candidate, self.policy)

    @property
    def policy(self) -> str:
        return self.after.response.policy if self.after else self.origin.policy

    @property
    def new_tokens(self) -> int:
        return sum(s.reply.tokens for s in self.steps if s.reply)

    @property
    def reply(self) -> Reply:
        """The answer after the last step that changed it."""
        return next((s.reply for s in reversed(self.steps) if s.reply is not None), self.origin.reply)

    def row(self) -> dict[str, Any]:
        after = None
        if self.after is not None:  # its response is this revision's own reply, so it is not repeated
            after = {**self.after.model_dump(mode="json", exclude={"response"}), "policy": self.policy}
        return {
            "id": self.id,
            "origin": self.origin.id,
            "before": self.before.id if self.before else None,
            "candidate": self.candidate,
            "steps": [s.row() for s in self.steps],
            "after": after,
            "accepted": self.accepted,
            "reason": self.reason,
        }

    @classmethod
    def join(cls, row: dict[str, Any], responses: Mapping[str, Response], verdicts: Mapping[str, Verdict]) -> Self:
        origin = responses[row["origin"]]
        draft = cls(
            origin=origin,
            before=verdicts[row["before"]] if row["before"] else None,
            candidate=row["candidate"],
            steps=tuple(Step.model_validate(s) for s in row["steps"]),
            after=None,
            accepted=row["accepted"],
            reason=row["reason"],
        )
        if row["after"] is None:
            return draft
        own = {k: v for k, v in row["after"].items() if k != "policy"}
        response = Response(prompt=origin.prompt, reply=draft.reply, policy=row["after"]["policy"])
        return draft.model_copy(update={"after": Verdict(response=response, **own)})


class Row(Record):
    """One training example: the plain prompt, the answer to learn, and where it came from.

    `ended` is False for a reply that was cut at its length limit: its end is not to be learned. `begun`: a text whose
    first `begun_tokens` stand before the answer and are not learnt: how to turn back from a beginning that failed.
    """

    prompt: str
    item: str
    split: Split
    wants: Wants
    chat: Chat
    answer: str
    ended: bool
    origin: Literal["revision", "reply"]
    principles: tuple[str, ...] = ()
    round: int = 0
    weight: float = 1.0
    begun: str = ""
    begun_tokens: int = 0


class Preference(Record):
    """`chosen` over `rejected`, two answers to one prompt, under `principle` where one was shown.

    `score`: the debiased log-odds of the chosen one (positive), `orders`: P(the answer shown first) with the chosen
    first and with it second; None where no model compared them. `origin`: two samples compared, a failing answer and
    its accepted revision, or an own good answer to a harmless prompt and a refusal of it.
    `begun_tokens`: of the rejected answer, before both; such pairs are made for training and not stored.
    """

    prompt: str
    item: str
    split: Split
    wants: Wants
    chat: Chat
    chosen: Reply
    rejected: Reply
    origin: Literal["compared", "revision", "contrast"]
    principle: str | None = None
    score: float | None = None
    orders: tuple[float, float] | None = None
    judge: str | None = None
    round: int = 0
    begun_tokens: int = 0

    def row(self) -> dict[str, Any]:
        """TRL's conversational format (prompt, chosen, rejected: lists of messages), beside what is ours."""
        own = self.model_dump(mode="json", exclude={"chat", "chosen", "rejected", "prompt", "begun_tokens"})
        return {
            "prompt": [m.row() for m in self.chat],
            "chosen": [{"role": "assistant", "content": self.chosen.text}],
            "rejected": [{"role": "assistant", "content": self.rejected.text}],
            "finish": [self.chosen.finish, self.rejected.finish],
            "id": self.prompt,
            **own,
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        own = {k: v for k, v in row.items() if k not in ("id", "finish", "prompt", "chosen", "rejected")}
        chosen, rejected = (
            Reply(text=row[name][0]["content"], finish=finish)
            for name, finish in zip(("chosen", "rejected"), row["finish"], strict=True)
        )
        return cls(prompt=row["id"], chat=row["prompt"], chosen=chosen, rejected=rejected, **own)


class Checkpoint(Record):
    """`digest` is the hash of the weights; `path` is None for a base that has no folder of its own. Of the rows over
    the length limit, `cut` were trained on less their oldest turns, and `rejected` (not among `rows`) not at all.
    """

    path: str | None
    parent: str | None
    digest: str
    rows: int = 0
    cut: int = 0
    rejected: int = 0
    steps: int = 0
    loss: float | None = None


class Score(Record):
    """One number with its uncertainty; `items` holds each item's value, None where it is unscored. `chance` is what
    guessing scores: benchmarks have it, and nothing else.
    """

    name: str
    variant: str
    value: float | None
    stderr: float | None
    low: float | None
    high: float | None
    n: int
    n_unscored: int
    items: dict[str, float | None]
    clusters: dict[str, str] | None = None
    chance: float | None = None
