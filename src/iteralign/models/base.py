"""What every model can be asked: generate, choose, loglikelihoods. A batch in, results in order."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from pydantic import Field

from iteralign.errors import NotApplicable
from iteralign.models.usage import Meter
from iteralign.records import Chat, Choice, Record, Reply

# Of probability. The judge that ships gives its answers 0.88 and more together; a model that thinks or writes a newline
# first gives them 1e-7, and what is left there says nothing.
LEAST_MASS = 1e-3


class Sampling(Record):
    """temperature 0 is greedy; `top_k` None takes all tokens; `max_new_tokens` counts tokens of the reply."""

    temperature: float = Field(default=0.7, ge=0)
    top_p: float = Field(default=0.9, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=1, le=512)
    max_new_tokens: int = Field(default=256, ge=1)


class Job(Record):
    """One reply to draw. A chat that ends with an assistant message is continued.

    `seed` belongs to the row: the same job gives the same draw whatever its neighbours are. `json_schema` is
    what the reply should be; a backend that cannot hold a model to it writes text, so the chat says it in words too.
    """

    chat: Chat
    sampling: Sampling
    seed: int = 0
    json_schema: dict[str, Any] | None = None


class Model(ABC):
    """Synchronous; batching, concurrency and retries are private to a backend.

    A call that fails comes back as data (`finish="failed"`, `Choice.error`); errors that concern
    every call (no key, no quota, no server) raise `ModelError`.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """The model's identity: it changes with its weights."""

    @cached_property
    def meter(self) -> Meter:
        """What was asked of it so far; a wrapper's is that of the model inside."""
        return Meter()

    @abstractmethod
    def generate(self, jobs: Sequence[Job]) -> list[Reply]: ...

    @abstractmethod
    def choose(self, chats: Sequence[Chat], options: Sequence[str]) -> list[Choice]:
        """Which of the short `options` follows each chat, with probabilities where there are any."""

    def loglikelihoods(self, pairs: Sequence[tuple[Chat | str, str]]) -> list[list[float]]:
        """Natural-log probability of each token of the continuation, given the chat or the plain text."""
        raise NotApplicable(
            f"{self.name} has no exact log-likelihoods; benchmarks that need them run on a `transformers` model"
        )

    @property
    def takes_turns(self) -> bool:
        """Whether earlier turns of a chat are told from its last by a template of the model's own."""
        return True

    def opening(self, text: str, tokens: int) -> str:
        """The first tokens of a text, as text: what an answer can be made to begin with. NotApplicable: the backend
        cannot continue an answer."""
        raise NotApplicable(f"{self.name} cannot be made to begin an answer: probe a `transformers` model")

    def rest(self) -> None:
        """Free what is large and quick to have again: somebody else needs the memory."""

    def close(self) -> None:
        """Free what the model holds. Closing twice is allowed."""


def response_format(schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON schema as chat-completions servers take it."""
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def spellings(option: str) -> list[str]:
    """The ways a short answer is written: `yes`, `Yes`, ` yes`, ` Yes`, `YES`."""
    forms = (option, option.capitalize(), option.upper())
    return list(dict.fromkeys(space + form for form in forms for space in ("", " ")))


def choice_from(weights: dict[str, float], rather: str | None = None, least: float = LEAST_MASS) -> Choice:
    """A Choice from the probability of each option. Below `least` together they are no answer, whichever is the
    likeliest, and only who compares options has a use for their probabilities. `rather`: how the reply would begin."""
    mass = sum(weights.values())
    error = None
    if mass < least or not mass > 0:
        error = "none of the offered answers was likely" + (f" ({mass:.0e} together)" if mass > 0 else "")
        error += "" if rather is None else f": it would rather begin with {rather[:40]!r}"
    return Choice(
        probabilities={o: round(w / mass, 4) for o, w in weights.items()} if mass > 0 else None,
        answer=None if error else max(weights, key=lambda o: weights[o]),
        mass=round(min(mass, 1.0), 4),
        error=error,
    )


def read_answer(text: str, options: Sequence[str]) -> Choice:
    """A Choice from a decoded reply, for backends without probabilities: its first word must be an option."""
    word = text.strip().strip("*\"'`.,:;!()[] \n").split()
    first = word[0].strip("*\"'`.,:;!()[]").lower() if word else ""
    found = [o for o in options if o.lower() == first]
    if not found:
        return Choice(
            probabilities=None, answer=None, mass=None, error=f"expected one of {list(options)}, got {text[:40]!r}"
        )
    return Choice(probabilities=None, answer=found[0], mass=None)
