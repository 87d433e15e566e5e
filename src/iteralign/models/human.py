"""People as oracle or judge (the paper's appendix: domain experts): a question is laid down, and the run waits.

Each question is a file of `people/` in the run directory; what somebody answers there, on the page of `iteralign review`
or by hand, is read by the same command when it is given again.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iteralign.errors import StoreError, Waiting
from iteralign.models.base import Job, Model, read_answer
from iteralign.records import Chat, Choice, Reply, digest
from iteralign.store import write_text

FOLDER = "people"
_MARK = re.compile(r"^\s*(?:[-*•–]|\(?\d{1,2}[.):])\s+")


class HumanModel(Model):
    """All questions of a call are laid down before the run stops, so that a micro-batch is answered at one sitting."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def name(self) -> str:
        return "people"

    def generate(self, jobs: Sequence[Job]) -> list[Reply]:
        return [Reply(text=listed(a), finish="stop") for a in self._ask([(job.chat, ()) for job in jobs])]

    def choose(self, chats: Sequence[Chat], options: Sequence[str]) -> list[Choice]:
        return [read_answer(a, options) for a in self._ask([(chat, tuple(options)) for chat in chats])]

    def _ask(self, questions: Sequence[tuple[Chat, tuple[str, ...]]]) -> list[str]:
        told = [self._told(chat, options) for chat, options in questions]
        if open_ := sum(answer is None for answer in told):
            wanted = "people to decide" if any(options for _, options in questions) else "principles"
            raise Waiting(
                f"waiting for {wanted} (open questions: {open_}, in {self.folder}). Answer them with `iteralign review "
                f"{self.folder.parent}`, then give the same command again"
            )
        return [answer for answer in told if answer is not None]

    def _told(self, chat: Chat, options: tuple[str, ...]) -> str | None:
        messages = [m.row() for m in chat]
        path = self.folder / f"{digest(messages, list(options))}.json"
        if not path.is_file():
            self.folder.mkdir(exist_ok=True, mode=0o700)
            asked = {"chat": messages, "options": list(options), "answer": None}
            write_text(path, json.dumps(asked, ensure_ascii=False, indent=1) + "\n")
        return read_question(path)["answer"]


def read_question(path: Path) -> dict[str, Any]:
    try:
        asked = json.loads(path.read_text(encoding="utf-8"))
        return {"chat": asked["chat"], "options": asked["options"], "answer": asked["answer"] or None}
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is not a question any more ({error}): remove it, and it is asked again") from error


def listed(text: str) -> str:
    """Each line an item of a list, however it begins: whatever reads lists takes all of them."""
    lines = [_MARK.sub("", line).strip() for line in text.splitlines() if line.strip()]
    return "\n".join(f"- {line}" for line in lines)
