"""A batch read in rows in which what texts share stands once: the same log-probabilities and gradients as read plainly."""

from typing import Any

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from iteralign.training.one_row import answer_in_one_row, log_probs, reads_in_one_row, rows
from tiny import tiny_module

SHARED = [5, 9, 14, 3, 8, 11]
TEXTS = [  # tokens, and how many of them are the prompt
    ([*SHARED, 20, 21, 30, 31, 32], 8),
    ([*SHARED, 20, 21, 30, 41], 8),
    ([*SHARED, 22, 50], 7),
    ([60, 61, 62], 1),
]


def batch(left: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    width = max(len(tokens) for tokens, _ in TEXTS) + 1
    ids, mask = torch.zeros(len(TEXTS), width, dtype=torch.long), torch.zeros(len(TEXTS), width, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for n, (tokens, prompt) in enumerate(TEXTS):
        at = width - len(tokens) if left else 0
        ids[n, at : at + len(tokens)] = torch.tensor(tokens)
        mask[n, at : at + len(tokens)] = 1
        labels[n, at + prompt : at + len(tokens)] = torch.tensor(tokens[prompt:])
    return ids, mask, labels


def plainly(module: Any, ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Each text by itself, without padding."""
    found = torch.zeros(ids.shape[0], ids.shape[1] - 1)
    for n in range(len(ids)):
        real = mask[n].bool()
        logs = module(input_ids=ids[n][real][None], use_cache=False).logits[0, :-1].float().log_softmax(-1)
        own = logs.gather(1, ids[n][real][1:, None])[:, 0]
        row = torch.zeros(ids.shape[1]).masked_scatter(real, torch.cat([own.new_zeros(1), own]))[1:]
        found[n] = row * (labels[n, 1:] != -100)
    return found


@pytest.mark.parametrize("left", [False, True])
def test_log_probabilities_and_gradients_are_those_of_texts_read_plainly(left: bool) -> None:
    module = tiny_module()
    ids, mask, labels = batch(left)
    weight = torch.rand(ids.shape[0], ids.shape[1] - 1, generator=torch.Generator().manual_seed(0))
    results: list[tuple[torch.Tensor, list[torch.Tensor]]] = []
    for read in (log_probs, plainly):
        module.zero_grad()
        found = read(module, ids, mask, labels)
        (found * weight).sum().backward()
        results.append((found.detach(), [p.grad.clone() for p in module.parameters() if p.grad is not None]))
    (ours, our_gradients), (theirs, their_gradients) = results
    assert ours.count_nonzero() == 3 + 2 + 1 + 2
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert len(our_gradients) == len(their_gradients) > 10
    for a, b in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)


def test_it_answers_as_trl_asks_and_every_other_call_is_as_before() -> None:
    module = tiny_module()
    ids, mask, labels = batch(False)
    before = module(input_ids=ids, attention_mask=mask).logits
    answer_in_one_row(module)
    said = module(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True, use_cache=False)
    torch.testing.assert_close(said.log_probs, log_probs(module, ids, mask, labels))
    torch.testing.assert_close(module(input_ids=ids, attention_mask=mask).logits, before)


def test_logits_are_divided_by_the_temperature() -> None:
    module = tiny_module()
    ids, mask, labels = batch(False)
    answer_in_one_row(module, temperature=2.0)
    said = module(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
    head = module.get_output_embeddings().weight
    with torch.no_grad():
        head /= 2
    torch.testing.assert_close(said.log_probs, plainly(module, ids, mask, labels), atol=1e-5, rtol=1e-4)


def test_texts_that_fill_more_than_a_row_are_split_and_none_is_lost() -> None:
    texts = sorted([(n, [1, 2, 3, n, *range(n)], [4]) for n in range(5, 25)], key=lambda text: text[1])
    parts = list(rows(texts, budget=40))
    assert [text for part in parts for text in part] == texts and len(parts) > 5
    assert all(len(part) == 1 or 3 + sum(len(t[1]) - 3 for t in part) <= 40 for part in parts)


def test_a_sliding_window_is_read_as_trl_reads() -> None:
    config = MistralConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, sliding_window=4,
    )  # fmt: skip
    assert not reads_in_one_row(MistralForCausalLM(config).eval())


def test_dropout_is_no_hindrance() -> None:
    module = tiny_module(attention_dropout=0.5).train()
    assert reads_in_one_row(module) and module.training
