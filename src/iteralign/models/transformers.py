"""A causal language model in this process, by Hugging Face transformers: generate, choose, loglikelihoods."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from transformers import DynamicCache

from iteralign.models.chat import ChatFormat, Prompt
from iteralign.models.decoding import (
    ASKED_TOKENS_A_ROW,
    TOKENS_A_ROW,
    Decoding,
    Groups,
    Member,
    TorchModel,
    token_loglikelihoods,
)
from iteralign.models.packed import CPU_TOKENS, common, next_packed, packs, score_packed

LEAST_SHARED = 16  # tokens; a shorter beginning is not worth a pass of its own


class Causal(Decoding):
    def __init__(self, module: Any, logits: torch.Tensor, cache: DynamicCache, mask: torch.Tensor) -> None:
        self.module, self.logits, self.cache, self.mask = module, logits, cache, mask

    def select(self, rows: torch.Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.logits, self.mask = self.logits[rows], self.mask[rows]

    def step(self, tokens: torch.Tensor) -> None:
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        position = self.mask.sum(1, keepdim=True) - 1
        self.logits = self.module(
            input_ids=tokens[:, None], attention_mask=self.mask, position_ids=position, past_key_values=self.cache
        ).logits[:, -1]


class TransformersModel(TorchModel):
    def __init__(self, module: Any, tokenizer: Any, name: str, batch: int = 32, template: str | None = None) -> None:
        super().__init__(module, tokenizer, name, ChatFormat(tokenizer, template), batch)

    def room(self, prompt: Prompt) -> int:
        return self.context_length - len(prompt.ids)

    def begin(self, prompts: Sequence[Prompt]) -> Causal:
        """Left-padded, so that every row's last logits stand at the end. What all of them begin with, as worked examples
        do, is read once."""
        texts = [p.ids for p in prompts]
        shared = common(min(texts), max(texts)) if len(prompts) > 1 else 0
        shared = min(shared, min(map(len, texts)) - 1)
        if shared < LEAST_SHARED:
            shared, cache = 0, DynamicCache(config=self.module.config)
        else:
            cache = self.begin([Prompt(prompts[0].ids[:shared])]).cache
            cache.batch_repeat_interleave(len(prompts))
        ids, rest = self._padded([p.ids[shared:] for p in prompts], left=True)
        mask = torch.cat([rest.new_ones(len(prompts), shared), rest], dim=1)
        position = (mask.cumsum(1) - 1).clamp(min=0)[:, shared:]
        out = self.module(
            input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=cache, logits_to_keep=1
        )
        return Causal(self.module, out.logits[:, -1], cache, mask)

    def next_logits(self, prompts: Sequence[Prompt]) -> torch.Tensor:
        return self.begin(prompts).logits

    def each_next(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, torch.Tensor]]:
        if self.packs:
            return next_packed(self.module, prompts, self._row_tokens(ASKED_TOKENS_A_ROW))
        return super().each_next(prompts)

    def score_groups(self, groups: Groups, answers: list[list[float]]) -> None:
        if self.packs:
            score_packed(self.module, groups, answers, self._row_tokens(TOKENS_A_ROW))
        else:
            super().score_groups(groups, answers)

    @cached_property
    def packs(self) -> bool:
        return packs(self.module)

    def _row_tokens(self, each: int) -> int:
        budget = self.batch * each
        return min(budget, CPU_TOKENS) if self.module.device.type == "cpu" else budget

    def score(self, contexts: Sequence[Prompt], members: Sequence[Member], answers: list[list[float]]) -> None:
        read = self.begin(contexts)
        read.select(torch.tensor([k for k, _, _ in members], device=self.module.device))
        ids, seen = self._padded([after for _, _, after in members])
        logits = read.logits[:, None]
        if ids.shape[1] > 1:
            full = torch.cat([read.mask, seen], dim=1)
            position = (full.cumsum(1) - 1).clamp(min=0)[:, read.mask.shape[1] :]
            out = self.module(
                input_ids=ids[:, :-1],
                attention_mask=full[:, :-1],
                position_ids=position[:, :-1],
                past_key_values=read.cache,
            )
            logits = torch.cat([logits, out.logits], dim=1)
        for r, (_, i, after) in enumerate(members):
            answers[i] = token_loglikelihoods(logits[r, : len(after)], after)
