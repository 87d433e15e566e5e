"""A chat as a causal model reads it: the tokenizer's own template, or plain turns for base models."""

from contextlib import suppress
from typing import Any, NamedTuple

from jinja2.exceptions import TemplateError

from iteralign.errors import ModelError
from iteralign.records import Chat, Message

NAMES = {"user": "Human", "assistant": "Assistant"}
TURN = f"{NAMES['assistant']}:"  # what a plain reply follows, with a space between
STOP_TOKENS = 12  # the last tokens of a reply, in which the beginning of a user's turn is looked for


class Prompt(NamedTuple):
    """What a model reads. `begun`: what the decoder of an encoder-decoder holds before its first new token."""

    ids: tuple[int, ...]
    begun: tuple[int, ...] = ()


def spaced(text: str) -> str:
    """As it follows a plain turn's name; what a model wrote there brings its space along."""
    return text if text[:1].isspace() else f" {text}"


def folded(chat: Chat) -> Chat:
    """Its system messages as the beginning of the first question; without a question as it is."""
    head = "\n\n".join(m.content for m in chat if m.role == "system")
    turns = [m for m in chat if m.role != "system"]
    if not head or not turns or turns[0].role != "user":
        return chat
    return (Message(role="user", content=f"{head}\n\n{turns[0].content}"), *turns[1:])


class ChatFormat:
    """`template`: None = the tokenizer's if it has one, else plain; "chat" demands one; "plain" ignores it."""

    encoder_decoder = False  # whether prompt and reply are read and written apart

    def __init__(self, tokenizer: Any, template: str | None = None) -> None:
        if template == "chat" and not tokenizer.chat_template:
            raise ModelError(
                f"{tokenizer.name_or_path or 'the model'} has no chat template, but the config demands one "
                "(template: chat). Set template: plain for Human:/Assistant: turns."
            )
        self.tokenizer = tokenizer
        self.plain = template == "plain" or not tokenizer.chat_template
        self.stop_texts = ["\n\nHuman:"] if self.plain else []
        self.text_end: list[int] = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
        self.end_ids = self.text_end if self.plain else self._turn_end() or self.text_end

    @property
    def pad_id(self) -> int:
        pad, end = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        return int(pad if pad is not None else end if end is not None else 0)

    def _turn_end(self) -> list[int]:
        """The special token that the template writes after an assistant's turn: not every model ends its turns
        with its end-of-text token (Gemma, Phi-3)."""
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
        try:
            whole = str(self.tokenizer.apply_chat_template(turns, tokenize=False))
        except (TemplateError, ValueError):
            return []
        after = self.tokenizer.encode(whole.rpartition("!")[2].strip(), add_special_tokens=False)
        special = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return after[:1] if set(after[:1]) <= special else []

    def render(self, chat: Chat) -> str:
        """The text up to where the reply begins; a chat that ends with an assistant message is left open."""
        if self.plain:
            turns = "".join(
                m.content if m.role == "system" else f"\n\n{NAMES[m.role]}: {m.content}" for m in chat
            ).lstrip("\n")
            return turns if chat[-1].role == "assistant" else f"{turns}\n\n{TURN}"
        try:
            return self._by_template(chat)
        except (TemplateError, ValueError) as error:
            without = folded(chat)
            with suppress(TemplateError, ValueError):
                if without != chat:  # there are templates that know no system's turn (Gemma)
                    return self._by_template(without)
            raise ModelError(
                f"the model's chat template refuses this chat ({error}): roles {[m.role for m in chat]}"
            ) from error

    def _by_template(self, chat: Chat) -> str:
        ends_open, messages = chat[-1].role == "assistant", [m.model_dump() for m in chat]
        return str(
            self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=not ends_open, continue_final_message=ends_open
            )
        )

    def next_turn_in(self, ids: list[int]) -> bool:
        """Whether a reply has just begun to speak for the user, which a base model does at the end of its turn."""
        return any(stop in self.tokenizer.decode(ids[-STOP_TOKENS:]) for stop in self.stop_texts)

    def own_turn(self, text: str) -> str:
        for stop in self.stop_texts:
            text = text.split(stop)[0]
        return text

    def encode(self, chat: Chat) -> list[int]:
        return self.encode_text(self.render(chat), special=self.plain)

    def prompt(self, chat: Chat) -> Prompt:
        return Prompt(tuple(self.encode(chat)))

    def pair(self, context: Chat | str, continuation: str) -> tuple[Prompt, list[int]]:
        before, after = self.encode_pair(context, continuation)
        return Prompt(tuple(before)), after

    def answer(self, text: str) -> list[int]:
        """A reply as it follows its prompt, without its end."""
        return self.said(text)

    def said(self, text: str) -> list[int]:
        """The reply's own tokens."""
        return self.following(spaced(text)) if self.plain else self.encode_text(text, special=False)

    def following(self, text: str) -> list[int]:
        """A text behind another one: SentencePiece would put a space of its own before one that stands alone."""
        before, whole = (self.encode_text(t, special=False) for t in (TURN, TURN + text))
        return whole[len(before) :] if whole[: len(before)] == before else self.encode_text(text, special=False)

    def encode_text(self, text: str, special: bool = True) -> list[int]:
        """A rendered template brings its own special tokens; plain text gets the tokenizer's (BOS)."""
        return list(self.tokenizer.encode(text, add_special_tokens=special))

    def encode_pair(self, context: Chat | str, continuation: str) -> tuple[list[int], list[int]]:
        special = isinstance(context, str) or self.plain
        text = context if isinstance(context, str) else self.render(context)
        if self.plain and continuation and text.endswith(TURN) and not isinstance(context, str):
            continuation = spaced(continuation)
        if isinstance(context, str):
            trailing = len(text) - len(text.rstrip())
            text, continuation = text[: len(text) - trailing], text[len(text) - trailing :] + continuation
        start = len(self.encode_text(text, special))
        whole = self.encode_text(text + continuation, special)
        if start == 0:  # an empty context is scored from the end-of-text token, as is customary
            whole, start = [*self.text_end, *whole], len(self.text_end)
        if start >= len(whole):
            raise ModelError(f"the continuation {continuation[:40]!r} has no token of its own")
        return whole[:start], whole[start:]
