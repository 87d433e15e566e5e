"""An encoder-decoder (T5, BART) in this process: the encoder reads the chat, the decoder writes the reply."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutput

from iteralign.errors import ModelError
from iteralign.models.chat import ChatFormat, Prompt
from iteralign.models.decoding import Decoding, Member, TorchModel, token_loglikelihoods
from iteralign.records import Chat


class Seq2SeqFormat(ChatFormat):
    """Without a template the encoder reads a single question as it stands, which is what T5 and BART were taught,
    and several turns as Human:/Assistant:. An assistant message at the end is where the decoder goes on.

    `start`: the token that the decoder begins with; the tokenizer's own first tokens (BART's <s>) follow it.
    """

    encoder_decoder = True

    def __init__(self, tokenizer: Any, template: str | None, start: int) -> None:
        super().__init__(tokenizer, template)
        self.stop_texts = []
        around = self.encode_text("")
        self.opening = around[:-1] if around[-1:] == self.text_end else around
        self.start = start

    def render(self, chat: Chat) -> str:
        turns = [m for m in chat if m.role != "system"]
        if self.plain and len(turns) < 2:
            return "\n\n".join(m.content for m in chat)
        return super().render(chat)

    def prompt(self, chat: Chat) -> Prompt:
        return self.pair(chat, "")[0]

    def pair(self, context: Chat | str, continuation: str) -> tuple[Prompt, list[int]]:
        """The continuation follows what the assistant has said already; else it begins the reply, without the
        space in front that a decoder never sees there."""
        said = ""
        if isinstance(context, str):
            ids = self.encode_text(context)
        else:
            said = context[-1].content if context[-1].role == "assistant" else ""
            ids = self.encode(context[:-1] if said else context)
        begun = self.encode_text(said, special=False)
        whole = self.encode_text(said + continuation if said else continuation.lstrip(), special=False)
        prompt = Prompt(tuple(ids or self.text_end), (self.start, *self.opening, *whole[: len(begun)]))
        if continuation and len(whole) <= len(begun):
            raise ModelError(f"the continuation {continuation[:40]!r} has no token of its own")
        return prompt, whole[len(begun) :]

    def answer(self, text: str) -> list[int]:
        return [*self.opening, *self.said(text)]

    def said(self, text: str) -> list[int]:
        return self.encode_text(text, special=False)


class Writing(Decoding):
    def __init__(self, module: Any, read: torch.Tensor, mask: torch.Tensor, begun: torch.Tensor) -> None:
        self.module, self.read, self.mask = module, read, mask
        self.cache: Any = None
        self._forward(begun)

    def select(self, rows: torch.Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.logits, self.read, self.mask = self.logits[rows], self.read[rows], self.mask[rows]

    def step(self, tokens: torch.Tensor) -> None:
        self._forward(tokens[:, None])

    def _forward(self, ids: torch.Tensor) -> None:
        out = self.module(
            encoder_outputs=BaseModelOutput(last_hidden_state=self.read),  # type: ignore[arg-type]
            attention_mask=self.mask,
            decoder_input_ids=ids,
            past_key_values=self.cache,
            use_cache=True,
        )
        self.logits, self.cache = out.logits[:, -1], out.past_key_values


class Seq2SeqModel(TorchModel):
    def __init__(self, module: Any, tokenizer: Any, name: str, batch: int = 32, template: str | None = None) -> None:
        configs = (module.config, module.generation_config)
        starts = [s for c in configs if (s := getattr(c, "decoder_start_token_id", None)) is not None]
        if not starts:
            raise ModelError(f"the config of {name} names no decoder_start_token_id: set it in its config.json")
        tokenizer.padding_side = "right"  # a trainer pads labels on the same side, and the decoder starts on the left
        super().__init__(module, tokenizer, name, Seq2SeqFormat(tokenizer, template, int(starts[0])), batch)

    def room(self, prompt: Prompt) -> int:
        """Question and reply have the model's whole length each."""
        spare = self.context_length - len(prompt.ids)
        return spare if spare < 0 else self.context_length - len(prompt.begun)

    def _read(self, prompts: Sequence[Prompt]) -> tuple[torch.Tensor, torch.Tensor]:
        """What the encoder makes of them (rows, width, size), and its mask. Right-padded: BART counts positions."""
        ids, mask = self._padded([p.ids for p in prompts])
        return self.module.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state, mask

    def begin(self, prompts: Sequence[Prompt]) -> Writing:
        return Writing(self.module, *self._read(prompts), self._padded([p.begun for p in prompts])[0])

    def next_logits(self, prompts: Sequence[Prompt]) -> torch.Tensor:
        return self.begin(prompts).logits

    def score(self, contexts: Sequence[Prompt], members: Sequence[Member], answers: list[list[float]]) -> None:
        read, mask = self._read(contexts)
        rows = torch.tensor([k for k, _, _ in members], device=self.module.device)
        ids, _ = self._padded([[*contexts[k].begun, *after[:-1]] for k, _, after in members])
        logits = self.module(
            encoder_outputs=BaseModelOutput(last_hidden_state=read[rows]),  # type: ignore[arg-type]
            attention_mask=mask[rows],
            decoder_input_ids=ids,
            use_cache=False,
        ).logits
        for r, (k, i, after) in enumerate(members):
            start = len(contexts[k].begun) - 1
            answers[i] = token_loglikelihoods(logits[r, start : start + len(after)], after)
