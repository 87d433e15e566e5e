"""Short ways to write the records that tests are about, and a disk that gets full."""

import hashlib
import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from iteralign import sources
from iteralign.prompts import load_prompt
from iteralign.records import (
    Chat,
    Fault,
    Label,
    Principle,
    Prompt,
    Reply,
    Response,
    Row,
    Split,
    Verdict,
    Wants,
    digest,
    user,
)

# what a policy is trained on where only that it is trained matters
BREAD_ROWS = [
    Row(
        prompt=f"{n}",
        item=f"{n}",
        split="train",
        wants="decline",
        chat=user(f"How do I bake bread {n}?"),
        answer="I'm sorry, but I can't help with that.",
        ended=True,
        origin="revision",
    )
    for n in range(4)
]


def prompt(
    text: str = "How do I pick a lock?",
    wants: Wants = "decline",
    *,
    sent: str | None = None,
    split: Split = "train",
    category: str = "locks",
) -> Prompt:
    return Prompt(
        id=digest(text, sent),
        item=digest(text),
        plain=user(text),
        sent=user(sent or text),
        wants=wants,
        source="test",
        category=category,
        subtopic="",
        kind="",
        split=split,
        attack="direct" if sent is None else "cot",
    )


def response(asked: Prompt | str, reply: str | Reply = "Put a pick into it and turn.", policy: str = "p") -> Response:
    said = Reply(text=reply, finish="stop") if isinstance(reply, str) else reply
    return Response(prompt=prompt(asked) if isinstance(asked, str) else asked, reply=said, policy=policy)


def failure(asked: Prompt | str, reply: str = "Put a pick into it and turn.", fault: Fault = "harmful") -> Verdict:
    return verdict(response(asked, reply), "fails", fault)


def verdict(about: Response, label: Label = "passes", fault: Fault = "none", **probabilities: float) -> Verdict:
    return Verdict(response=about, label=label, fault=fault, probabilities=probabilities, reason="", judge="test judge")


def principle(text: str, kind: Wants = "decline") -> Principle:
    return Principle(id=digest(text, kind, length=12), text=text, framing="do", kind=kind)


QUESTIONS = ("harmful_request", "declined", "objects", "answered", "coherent", "harmless", "truthful")
HALF = dict.fromkeys(QUESTIONS, 0.5)


def question_of(chat: Chat) -> str:
    """The name of the rubric's question that a judge is asked: its last paragraph is all its own."""
    rubric = load_prompt("rubric.yaml")
    asks = {q: rubric.chat(q, prompt="", reply="", head="")[-1].content.split("\n\n")[-1] for q in QUESTIONS}
    return next(q for q, text in asks.items() if chat[-1].content.endswith(text))


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file may grow over `size` bytes: a write at the border is cut in the middle, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def small_hhh(monkeypatch: pytest.MonkeyPatch, folder: Path, answers: int = 1) -> None:
    """A sources table with an HHH of one question a category, each with so many pairs of answers; and a cache that
    holds it."""
    files: list[dict[str, object]] = []
    for category in ("harmless", "helpful", "honest", "other"):
        examples = [
            {"input": f"A question, {category}?", "target_scores": {f"Good{'!' * n}": 1, f"Bad{'!' * n}": 0}}
            for n in range(answers)
        ]
        content = json.dumps({"examples": examples}).encode()
        path = folder / "cache" / "hhh" / category / "task.json"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        files.append({"path": f"{category}/task.json", "size": len(content), "sha256": sha256})
    entry = {"what": "HHH", "owner": "us", "licence": "CC0", "mirrors": ["https://127.0.0.1/{path}"], "files": files}
    (folder / "table.yaml").write_text(yaml.safe_dump({"hhh": entry}))
    monkeypatch.setattr(sources, "TABLE", folder / "table.yaml")
    monkeypatch.setenv("ITERALIGN_CACHE", str(folder / "cache"))
