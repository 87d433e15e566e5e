"""A model that is told principles in its system message: what a constitution does without any training."""

from collections.abc import Sequence
from functools import cached_property

from iteralign.models.base import Job, Model
from iteralign.models.usage import Meter
from iteralign.records import Chat, Choice, Message, Reply, digest


class InContext(Model):
    """`inner`, with `system` in front of every chat; a chat's own system message follows it. Plain text is left alone."""

    def __init__(self, inner: Model, system: str) -> None:
        self.inner = inner
        self.system = system

    @property
    def name(self) -> str:
        return f"{self.inner.name}+system:{digest(self.system, length=8)}"

    @cached_property
    def meter(self) -> Meter:
        return self.inner.meter

    def told(self, chat: Chat) -> Chat:
        own = "\n\n".join(m.content for m in chat if m.role == "system")
        text = f"{self.system}\n\n{own}" if own else self.system
        return (Message(role="system", content=text), *(m for m in chat if m.role != "system"))

    def generate(self, jobs: Sequence[Job]) -> list[Reply]:
        return self.inner.generate([job.model_copy(update={"chat": self.told(job.chat)}) for job in jobs])

    def choose(self, chats: Sequence[Chat], options: Sequence[str]) -> list[Choice]:
        return self.inner.choose([self.told(chat) for chat in chats], options)

    def loglikelihoods(self, pairs: Sequence[tuple[Chat | str, str]]) -> list[list[float]]:
        told = [(c if isinstance(c, str) else self.told(c), continuation) for c, continuation in pairs]
        return self.inner.loglikelihoods(told)

    @property
    def takes_turns(self) -> bool:
        return self.inner.takes_turns

    def opening(self, text: str, tokens: int) -> str:
        return self.inner.opening(text, tokens)

    def rest(self) -> None:
        self.inner.rest()

    def close(self) -> None:
        self.inner.close()
