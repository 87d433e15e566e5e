"""A model that only measures what it is asked: calls and tokens, for the plan."""

import os.path
from collections.abc import Iterator, Sequence
from itertools import count

from iteralign.config import LlamaCppConfig, ModelConfig, OpenAIConfig, TransformersConfig
from iteralign.models.base import Job, Model
from iteralign.records import Chat, Choice, Reply

CHARACTERS_A_TOKEN = 4.0  # SmolLM2's tokenizer: 3.8 to 4.0 on our templates, 4.2 on HHH, 4.4 on the starter questions
CHAT_TOKENS, TURN_TOKENS = 25, 6  # of its chat template; Qwen's has as many
REPLY_SHARE = 0.8  # SmolLM2's answers fill 96 % of 64 tokens, its revisions 75 % of 56
DECODED_TOKENS = 8  # of an answer that is read as text, where a server gives no log-probabilities


class Tally(Model):
    """`calls`, `prompt` and `new` tokens; `read`: prompt tokens less what the backend of `config` computes once.

    Its replies are of numbers, as long as replies are taken to be; it picks the first option.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.calls = 0
        self.prompt = self.read = self.new = 0.0
        self.writes = False
        self._last = ""
        self._seen: set[str] = set()
        self._fillers = fillers()

    @property
    def name(self) -> str:
        return "tally"

    def generate(self, jobs: Sequence[Job]) -> list[Reply]:
        replies: list[Reply] = []
        self.writes = True
        for job in jobs:
            self._ask(job.chat)
            new = REPLY_SHARE * job.sampling.max_new_tokens
            self.new += new
            replies.append(Reply(text=filler(new, next(self._fillers)), finish="stop"))
        return replies

    def choose(self, chats: Sequence[Chat], options: Sequence[str]) -> list[Choice]:
        decoded = isinstance(self.config, OpenAIConfig) and not self.config.logprobs
        for chat in chats:
            self._ask(chat)
            self.new += DECODED_TOKENS if decoded else 1
        picked = {option: float(option == options[0]) for option in options}
        return [Choice(probabilities=picked, answer=options[0], mass=1.0) for _ in chats]

    def loglikelihoods(self, pairs: Sequence[tuple[Chat | str, str]]) -> list[list[float]]:
        for context, continuation in pairs:
            self._ask(context)
            tokens = len(continuation) / CHARACTERS_A_TOKEN
            self.prompt += tokens
            self.read += tokens
        return [[-1.0] for _ in pairs]

    def _ask(self, chat: Chat | str) -> None:
        text, tokens = text_of(chat), tokens_of(chat)
        self.calls += 1
        self.prompt += tokens
        if isinstance(self.config, LlamaCppConfig):  # reads on from where this chat leaves the one before it
            common = len(os.path.commonprefix([text, self._last]))
            self.read += tokens - common / CHARACTERS_A_TOKEN
        elif not (isinstance(self.config, TransformersConfig) and text in self._seen):  # equal chats: read once
            self.read += tokens
        self._last = text
        self._seen.add(text)


def text_of(chat: Chat | str) -> str:
    return chat if isinstance(chat, str) else "\n".join(message.content for message in chat)


def tokens_of(chat: Chat | str) -> float:
    template = 0 if isinstance(chat, str) else CHAT_TOKENS + TURN_TOKENS * len(chat)
    return template + len(text_of(chat)) / CHARACTERS_A_TOKEN


def fillers() -> Iterator[int]:
    """Where each filler begins to count: no two share an opening, which a prefix cache would have for nothing."""
    return count(10_000, 100)


def filler(tokens: float, start: int = 10_000) -> str:
    """A text of so many tokens, no word of which comes twice: nothing about it is degenerate."""
    length = max(1, round(tokens * CHARACTERS_A_TOKEN))
    words = " ".join(str(number) for number in range(start, start + length // 6 + 1))
    return words[:length]
