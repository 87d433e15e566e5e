"""Held-out answers before and after: how many differ, and three that are shown, chosen by a rule."""

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from iteralign.judges.refusal import refuses
from iteralign.records import Prompt, Response, Verdict
from iteralign.report.wording import clean, cut, shortened
from iteralign.store import read_rows

QUESTION_WORDS = 120
MOST = 400  # pairs in a report, which has to stay small enough to be sent around:
ROOM = 2_000_000  # bytes of all of them as HTML
ANSWER_CHARACTERS = 2_000  # of one answer
RULE = (
    "Chosen by a fixed rule, not by hand: a harmful request that changed from complied to declined; a harmless one "
    "answered both times; and the worst change there is, or where nothing got worse a failure that remains. "
    "Ties go to the lowest item id."
)


@dataclass(frozen=True)
class Answer:
    """`text` is as it may be shown; `hidden` says that harmful text was cut (or, in a full report, was not).
    `ended` is False for a reply that ran into its token limit."""

    text: str
    hidden: bool
    ended: bool
    outcome: str
    word_match: bool
    reason: str


@dataclass(frozen=True)
class Example:
    """`category` is as it is shown, with the kind; `subject` names side and category alone."""

    title: str
    side: str
    category: str
    subject: str
    question: str
    before: Answer
    after: Answer


@dataclass(frozen=True)
class Pairs:
    """Held-out answers before and after, titled by what happened to them: `shown` of `total`, the lowest item ids."""

    shown: tuple[Example, ...] = ()
    total: int = 0


class Pair(NamedTuple):
    before: Verdict
    after: Verdict

    @property
    def prompt(self) -> Prompt:
        return self.before.response.prompt

    @property
    def outcomes(self) -> tuple[str, str]:
        return outcome(self.before), outcome(self.after)

    @property
    def differs(self) -> bool:
        return self.before.response.reply.text != self.after.response.reply.text

    @property
    def matched(self) -> tuple[bool, bool]:
        return refuses(self.before.response.reply.text), refuses(self.after.response.reply.text)


@dataclass(frozen=True)
class Changed:
    """Held-out answers that were given before and after, and how many of them differ."""

    total: int
    differ: int


def outcome(verdict: Verdict) -> str:
    """A verdict in a word, in XSTest's sense of comply."""
    if verdict.label == "unjudged":
        return "unjudged"
    if verdict.label == "passes":
        return {"decline": "declined", "answer": "answered", "unknown": "passed"}[verdict.response.prompt.wants]
    return {
        "harmful": "complied",
        "unhelpful": "refused",
        "incoherent": "incoherent",
        "untruthful": "untrue",
        "none": "failed",
    }[verdict.fault]


def may_be_harmful(verdict: Verdict) -> bool:
    """Whether a text is cut: found harmful, or given to a request that is not known to be harmless, unless
    evaluator and word match agree that it is a refusal."""
    response = verdict.response
    if verdict.fault == "harmful":
        return True
    return response.prompt.wants != "answer" and not (verdict.label == "passes" and refuses(response.reply.text))


def read_verdicts(folder: Path, prompts: dict[str, Prompt]) -> list[Verdict]:
    """Verdicts of a finished stage whose prompts are known, joined by the ids in the rows."""
    if not (folder / "verdicts.jsonl").is_file():
        return []
    rows = read_rows(folder / "responses.jsonl")
    responses = {row["id"]: Response.join(row, prompts) for row in rows if row["prompt"] in prompts}
    return [Verdict.join(v, responses) for v in read_rows(folder / "verdicts.jsonl") if v["response"] in responses]


def read_changed(folder: Path) -> Changed:
    sides = [folder / "evals" / name / "responses.jsonl" for name in ("base", "final")]
    if not all(path.is_file() for path in sides):
        return Changed(0, 0)
    before, after = ({row["prompt"]: row["reply"]["text"] for row in read_rows(path)} for path in sides)
    shared = before.keys() & after.keys()
    return Changed(len(shared), sum(before[i] != after[i] for i in shared))


def paired(before: Sequence[Verdict], after: Sequence[Verdict]) -> list[Pair]:
    """In the order of their items."""
    later = {v.response.prompt.id: v for v in after}
    pairs = [Pair(v, later[v.response.prompt.id]) for v in before if v.response.prompt.id in later]
    return sorted(pairs, key=lambda pair: pair.prompt.item)


def sample_pairs(before: Sequence[Verdict], after: Sequence[Verdict], full: bool) -> Pairs:
    pairs, shown, room = paired(before, after), list[Example](), ROOM
    for p in pairs[:MOST]:
        made = example(" → ".join(p.outcomes), p, full)
        room -= sum(len(html.escape(text).encode()) for text in (made.question, made.before.text, made.after.text))
        if room < 0 and not full:
            break
        shown.append(made)
    return Pairs(tuple(shown), len(pairs))


def choose_examples(before: Sequence[Verdict], after: Sequence[Verdict], full: bool) -> tuple[Example, ...]:
    pairs = paired(before, after)
    shown: list[Example] = []
    used: set[str] = set()
    for slot in (IMPROVED, KEPT, WORST):
        for title, wanted in slot:
            pair = next((p for p in pairs if p.prompt.id not in used and wanted(p)), None)
            if pair is not None:
                used.add(pair.prompt.id)
                shown.append(example(title, pair, full))
                break
    return tuple(shown)


def example(title: str, pair: Pair, full: bool) -> Example:
    side = {"decline": "harmful", "answer": "harmless", "unknown": "unlabelled"}[pair.prompt.wants]
    kind = {"look_alike": "look-alike, ", "ordinary": "ordinary, "}.get(pair.prompt.kind, "")
    return Example(
        title=title,
        side=side,
        category=clean(kind + (pair.prompt.category or pair.prompt.source)),
        subject=subject(pair.prompt),
        question=clean(pair.prompt.question) if full else shortened(clean(pair.prompt.question), QUESTION_WORDS),
        before=answer(pair.before, full),
        after=answer(pair.after, full),
    )


def subject(prompt: Prompt) -> str:
    return f"{prompt.wants}: {clean(prompt.category or prompt.source)}"


def answer(verdict: Verdict, full: bool) -> Answer:
    text, hidden = clean(verdict.response.reply.text), may_be_harmful(verdict)
    return Answer(
        text=text.strip() if full else cut(text) if hidden else limited(text.strip()),
        hidden=hidden,
        ended=verdict.response.reply.finish != "length",
        outcome=outcome(verdict),
        word_match=refuses(verdict.response.reply.text),
        reason=cut(clean(verdict.reason)),
    )


def limited(text: str) -> str:
    left = len(text) - ANSWER_CHARACTERS
    return text if left <= 0 else f"{text[:ANSWER_CHARACTERS].rstrip()} … ({left} more characters)"


# -- the rule: of each slot the first line that some pair fits ------------------------------------

Slot = Sequence[tuple[str, Callable[[Pair], bool]]]


def _turned(pair: Pair, before: str, after: str) -> bool:
    return pair.outcomes == (before, after)


def _wants(pair: Pair, wants: str) -> bool:
    return pair.prompt.wants == wants


IMPROVED: Slot = (
    ("What the run is for", lambda p: _turned(p, "complied", "declined") and p.matched == (False, True)),
    ("What the run is for", lambda p: _turned(p, "complied", "declined")),
    ("No harmful request changed to declined; one whose answer differs", lambda p: _wants(p, "decline") and p.differs),
    ("No answer to a harmful request differs", lambda p: _wants(p, "decline")),
)
KEPT: Slot = (
    (
        "What must stay",
        lambda p: _turned(p, "answered", "answered") and p.differs and p.prompt.kind == "look_alike",
    ),
    ("What must stay", lambda p: _turned(p, "answered", "answered") and p.differs),
    ("What must stay", lambda p: _turned(p, "answered", "answered")),
    ("No harmless request was answered both times", lambda p: _wants(p, "answer")),
)
WORST: Slot = (
    ("The worst change: a harmless request is refused now", lambda p: _turned(p, "answered", "refused")),
    ("The worst change: a harmful request is complied with now", lambda p: _turned(p, "declined", "complied")),
    (
        "The worst change: the answer is no sensible text any more",
        lambda p: p.outcomes[1] == "incoherent" != p.outcomes[0],
    ),
    (
        "The worst change: an answer that passed fails now",
        lambda p: p.before.label == "passes" and p.after.label == "fails",
    ),
    (
        "By the evaluator nothing got worse; by word match this harmless request is refused now",
        lambda p: _wants(p, "answer") and p.matched == (False, True),
    ),
    ("Nothing got worse; this failure remains", lambda p: p.outcomes[1] == "complied"),
    ("Nothing got worse; this failure remains", lambda p: p.after.label == "fails"),
    ("Nothing got worse, and nothing fails; one more", lambda p: True),
)
