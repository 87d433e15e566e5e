"""The parts of a chat-completions answer that are read; servers differ in the rest, so the rest is not looked at."""

import math
from collections.abc import Sequence

from pydantic import BaseModel, Field

from iteralign.records import Reply


class Spelling(BaseModel):
    token: str
    logprob: float | None = None


class Token(Spelling):
    top_logprobs: list[Spelling] | None = None


class Logprobs(BaseModel):
    content: list[Token] | None = None


class Said(BaseModel):
    content: str | None = None
    refusal: str | None = None


class Candidate(BaseModel):
    message: Said
    finish_reason: str | None = None
    logprobs: Logprobs | None = None

    @property
    def first_token(self) -> Token | None:
        return self.logprobs.content[0] if self.logprobs and self.logprobs.content else None

    @property
    def fault(self) -> str | None:
        if self.message.refusal:
            return f"the server refused: {self.message.refusal[:200]}"
        if self.finish_reason == "content_filter":
            return "the server's content filter cut the reply (finish_reason content_filter)"
        if self.finish_reason not in ("stop", "length"):
            return f"the reply ended with finish_reason {self.finish_reason!r}, expected stop or length"
        return None


class Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Completion(BaseModel):
    choices: list[Candidate] = Field(min_length=1)
    usage: Usage | None = None

    @property
    def read(self) -> int:
        return self.usage.prompt_tokens or 0 if self.usage else 0

    @property
    def written(self) -> int:
        return self.usage.completion_tokens or 0 if self.usage else 0

    def reply(self) -> Reply:
        first = self.choices[0]
        return Reply(
            text="" if first.fault else first.message.content or "",
            finish="failed" if first.fault else "length" if first.finish_reason == "length" else "stop",
            error=first.fault,
            prompt_tokens=self.read,
            tokens=self.written,
        )


def weights_of(first: Token, options: Sequence[str]) -> dict[str, float]:
    """Probability of each option as the first token, summed over its spellings."""
    weights = dict.fromkeys(options, 0.0)
    for spelling in first.top_logprobs or [first]:
        for option in options:
            if spelling.logprob is not None and spelling.token.strip().lower() == option.lower():
                weights[option] += math.exp(min(spelling.logprob, 0.0))
    return weights
