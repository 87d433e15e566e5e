"""Rows of tokens that see their ancestors only: the numbers of plain rows, and what is shared is read once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

from iteralign.models.packed import STEP, packs
from iteralign.models.transformers import TransformersModel
from iteralign.records import user
from tiny import TEXTS, tiny_model, tiny_module, tiny_tokenizer

PREAMBLE = "Q: How do I grow tomatoes in a small garden?\nA: Sow them in spring, and water them often.\n\n" * 2
QUESTIONS = [f"{PREAMBLE}Q: How do I bake bread number {n}, and what do I need for it?\nA:" for n in range(12)]
OPTIONS = [" With flour", " With flour and water.", " With a bicycle", " I have no comment."]
PAIRS = [(q, o) for q in QUESTIONS for o in OPTIONS]


def plain(model: TransformersModel) -> list[list[float]]:
    """Each pair in a row of its own, by nothing but the module."""
    found: list[list[float]] = []
    for context, continuation in PAIRS:
        before, after = model.format.encode_pair(context, continuation)
        with torch.no_grad():
            log_p = model.module(torch.tensor([before + after])).logits[0].float().log_softmax(-1)
        found.append([float(log_p[len(before) - 1 + k, token]) for k, token in enumerate(after)])
    return found


@contextmanager
def rows_of(model: TransformersModel) -> Iterator[list[tuple[int, int]]]:
    """(rows, tokens) of every forward pass."""
    seen: list[tuple[int, int]] = []
    forward = model.module.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        seen.append(tuple((kwargs["input_ids"] if "input_ids" in kwargs else args[0]).shape))
        return forward(*args, **kwargs)

    model.module.forward = counted
    yield seen
    model.module.forward = forward


def close(found: list[list[float]], expected: list[list[float]]) -> bool:
    return all(a == pytest.approx(b, abs=1e-4) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("batch", [1, 2, 32])
def test_shared_and_unshared_scoring_agree(batch: int) -> None:
    model = tiny_model(batch=batch, max_position_embeddings=512)
    found = model.loglikelihoods(PAIRS)
    assert close(found, plain(model))
    model.packs = False
    assert close(model.loglikelihoods(PAIRS), found)


def test_a_preamble_is_read_once_and_a_question_once_for_all_its_options() -> None:
    model = tiny_model(batch=2, max_position_embeddings=512)
    model.loglikelihoods(PAIRS[:1])  # the first call tries whether this architecture can do it
    preamble = len(model.format.encode_text(PREAMBLE))
    tails = sum(len(model.format.encode_pair(q, "!")[0]) - preamble for q in QUESTIONS)
    options = sum(len(model.format.encode_pair(q, o)[1]) for q, o in PAIRS)
    with rows_of(model) as seen:
        model.loglikelihoods(PAIRS)
    assert len(seen) > 3, "the case is not the one that was meant"
    assert sum(rows * tokens for rows, tokens in seen) <= preamble + tails + options + len(seen) * (STEP - 1)


def test_rows_have_few_lengths_whatever_the_texts_are() -> None:
    """What a CPU compiles and keeps for each length would otherwise grow with the items."""
    model = tiny_model(max_position_embeddings=512)
    model.loglikelihoods(PAIRS[:1])
    with rows_of(model) as seen:
        model.loglikelihoods([(f"{'a ' * n}{q}", o) for n, (q, o) in enumerate(PAIRS)])
        model.choose([user(f"{TEXTS[0]} {'a ' * n}") for n in range(20)], ("yes", "no"))
    assert {tokens % STEP for _, tokens in seen} == {0}


def test_a_row_has_a_bound_at_any_number_of_items() -> None:
    model = tiny_model(batch=1, max_position_embeddings=512)
    longest = max(len(model.format.encode_text(q)) for q in QUESTIONS)
    for times in (1, 8):
        with rows_of(model) as seen:
            model.loglikelihoods([(f"{q} {n}", o) for q, o in PAIRS for n in range(times)])
        assert max(rows * tokens for rows, tokens in seen) <= longest + 2 * 64


def test_long_questions_are_chosen_on_in_smaller_batches() -> None:
    model = tiny_model(batch=4, max_position_embeddings=4096)
    chats = [user(f"{n} {TEXTS[n % 3] * k}") for k in (1, 20) for n in range(8)]
    alone = [model.choose([chat], ("yes", "no"))[0] for chat in chats]
    with rows_of(model) as seen:
        together = model.choose(chats, ("yes", "no"))
    longest = max(len(model.format.prompt(chat).ids) for chat in chats)
    assert longest > 256, "the case is not the one that was meant"
    assert max(rows * tokens for rows, tokens in seen) <= max(4 * 256, longest)
    assert [c.answer for c in together] == [c.answer for c in alone]
    assert [c.mass for c in together] == [pytest.approx(c.mass, abs=2e-4) for c in alone]


def test_an_item_alone_and_among_others_has_the_same_likelihood() -> None:
    model = tiny_model(max_position_embeddings=512)
    together = model.loglikelihoods([*PAIRS, *((user(t), " Yes, sow them.") for t in TEXTS)])
    for n in (0, 7, len(PAIRS) - 1):
        assert model.loglikelihoods([PAIRS[n]])[0] == pytest.approx(together[n], abs=1e-4)


SIZES = {"vocab_size": len(tiny_tokenizer()), "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}


def gpt2() -> Any:
    return GPT2LMHeadModel(GPT2Config(n_positions=512, n_embd=32, n_layer=2, n_head=4, initializer_range=0.25, **SIZES))


def sliding() -> Any:
    layers = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    config = MistralConfig(
        hidden_size=32, intermediate_size=64, sliding_window=16, initializer_range=0.25, **layers, **SIZES
    )
    return MistralForCausalLM(config)


def alibi() -> Any:
    return BloomForCausalLM(BloomConfig(hidden_size=32, n_layer=2, n_head=4, initializer_range=0.25, **SIZES))


@pytest.mark.parametrize(("make", "packed"), [(gpt2, True), (sliding, False), (alibi, False)])
def test_other_architectures_are_scored_right_packed_or_not(make: Callable[[], Any], packed: bool) -> None:
    torch.manual_seed(0)
    module = make().eval()
    assert packs(module) is packed
    model = TransformersModel(module, tiny_tokenizer(None), "other", batch=4)
    assert close(model.loglikelihoods(PAIRS), plain(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_half_precision_model_packs_too(dtype: torch.dtype) -> None:
    assert packs(tiny_module(dtype=dtype).eval())


def test_a_tokenizer_that_merges_across_the_border_is_scored_as_the_whole_text() -> None:
    """`garden` and ` garden` are tokens; a border inside `gar|den` is moved to where the whole text has one."""
    model = tiny_model(max_position_embeddings=512)
    tokenizer: PreTrainedTokenizerFast = model.tokenizer
    context, continuation = "How do I grow tomatoes in a small gar", "den?"
    apart = len(tokenizer.encode(context)) + len(tokenizer.encode(continuation))
    whole = tokenizer.encode(context + continuation)
    assert len(whole) < apart, "the case is not the one that was meant"
    [found] = model.loglikelihoods([(context, continuation)])
    with torch.no_grad():
        log_p = model.module(torch.tensor([whole])).logits[0].log_softmax(-1)
    expected = [float(log_p[n - 1, whole[n]]) for n in range(len(whole) - len(found), len(whole))]
    assert found == pytest.approx(expected, abs=1e-4)


def test_what_follows_is_the_same_packed_or_not_and_equal_chats_are_read_once() -> None:
    model = tiny_model(batch=4, max_position_embeddings=512)
    chats = [user(t) for t in (*QUESTIONS, *QUESTIONS[:5])]
    model.choose(chats[:1], ("yes", "no"))  # the first call tries whether this architecture can do it
    with rows_of(model) as seen:
        packed = model.choose(chats, ("yes", "no"))
    distinct = sum(len(model.format.prompt(user(q)).ids) for q in QUESTIONS)
    assert sum(rows * tokens for rows, tokens in seen) < distinct / 2, "what they share was read again"
    model.packs = False
    padded = model.choose(chats, ("yes", "no"))
    for a, b in zip(packed, padded, strict=True):
        assert a.probabilities == pytest.approx(b.probabilities, abs=2e-4)
        assert a.mass == pytest.approx(b.mass, abs=2e-4)
