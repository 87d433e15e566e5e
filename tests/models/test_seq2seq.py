"""An encoder-decoder in this process: what it draws, chooses and scores is what transformers' forward pass says."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig

from iteralign.config import TransformersConfig
from iteralign.errors import ModelError
from iteralign.models.base import Job, Sampling
from iteralign.models.load import load_transformers
from iteralign.models.seq2seq import Seq2SeqModel
from iteralign.records import Chat, Message, user
from tiny import TEXTS, tiny_seq2seq, tiny_seq2seq_folder

KINDS = ["t5", "bart"]
GREEDY = Sampling(temperature=0, max_new_tokens=16)
WARM = Sampling(temperature=0.9, top_p=0.95, max_new_tokens=16)
CHATS = [user(text) for text in (*TEXTS, "Hi")]
TALK = (*user("How?"), Message(role="assistant", content="So."), *user("And then?"))
OPEN = (*user("How do I grow tomatoes?"), Message(role="assistant", content="Sow them"))


def jobs(chats: Sequence[Chat], sampling: Sampling = WARM, seed: int = 0) -> list[Job]:
    return [Job(chat=c, sampling=sampling, seed=seed + n) for n, c in enumerate(chats)]


def talkative(kind: str, batch: int = 32) -> Seq2SeqModel:
    """Its end token is likelier, so that replies end at different lengths."""
    model = tiny_seq2seq(kind, batch=batch, tie_word_embeddings=False)
    head = torch.nn.Linear(32, len(model.tokenizer))
    with torch.no_grad():
        torch.nn.init.normal_(head.weight, std=0.35, generator=torch.Generator().manual_seed(1))
        head.bias.zero_()
        head.bias[0] = {"t5": 6.0, "bart": 4.0}[kind]
    model.module.lm_head = head
    return model


@torch.no_grad()
def logits_after(model: Seq2SeqModel, source: Sequence[int], begun: Sequence[int]) -> torch.Tensor:
    return model.module(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([begun])).logits[0].float()


# -- what it reads ------------------------------------------------------------------------------------


def test_the_encoder_reads_the_bare_question_and_the_decoder_goes_on_with_the_reply() -> None:
    t5, bart = tiny_seq2seq("t5"), tiny_seq2seq("bart")
    assert t5.format.render(user("How?")) == "How?"
    assert t5.format.render((Message(role="system", content="Be kind."), *user("How?"))) == "Be kind.\n\nHow?"
    assert t5.format.render(TALK) == "Human: How?\n\nAssistant: So.\n\nHuman: And then?\n\nAssistant:"
    for model, before, begun in ((t5, [], [1]), (bart, [1], [0, 1])):
        words = model.tokenizer.encode("How do I grow tomatoes?", add_special_tokens=False)
        said = model.tokenizer.encode("Sow them", add_special_tokens=False)
        prompt = model.format.prompt(OPEN)
        assert list(prompt.ids) == [*before, *words, 0]
        assert list(prompt.begun) == [*begun, *said]
        assert list(model.format.prompt(OPEN[:1]).begun) == begun


# -- generate -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 32])
def test_greedy_is_what_transformers_generates(kind: str, batch: int) -> None:
    model = talkative(kind, batch)
    chats = [*CHATS, TALK, OPEN, CHATS[0]]
    pad = model.module.config.pad_token_id
    settings = GenerationConfig(do_sample=False, max_new_tokens=16, eos_token_id=0, pad_token_id=pad)
    finishes: set[str] = set()
    for chat, reply in zip(chats, model.generate(jobs(chats, GREEDY)), strict=True):
        source, begun = model.format.prompt(chat)
        made = model.module.generate(
            torch.tensor([source]), decoder_input_ids=torch.tensor([begun]), generation_config=settings
        )[0, len(begun) :].tolist()
        ended = made[-1] == 0
        assert reply.text == model.tokenizer.decode(made, skip_special_tokens=True)
        assert (reply.finish, reply.tokens) == ("stop" if ended else "length", len(made) - ended)
        assert reply.prompt_tokens == len(source)
        finishes.add(reply.finish)
    assert finishes == {"stop", "length"}, "the case is not the one that was meant"


@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_does_not_depend_on_its_neighbours(kind: str) -> None:
    model = talkative(kind)
    work = [*jobs(CHATS), *jobs(CHATS, seed=100), *jobs([OPEN, TALK], GREEDY), Job(chat=OPEN, sampling=WARM, seed=3)]
    alone = [model.generate([job])[0] for job in work]
    for batch in (1, 3, 32):
        model.batch = batch
        assert model.generate(work) == alone
        assert model.generate(work[::-1]) == alone[::-1]
    assert len({r.text for r in alone}) > 6
    assert len({r.tokens for r in alone}) > 3


def test_equal_chats_are_encoded_once() -> None:
    model = tiny_seq2seq("t5")
    encoder, widths = model.module.get_encoder(), []
    encoder.register_forward_hook(lambda _, args, kwargs, out: widths.append(len(out[0])), with_kwargs=True)
    model.generate(jobs([CHATS[0]] * 5))
    assert widths == [1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_without_room_fails_alone_and_says_so(kind: str) -> None:
    model = tiny_seq2seq(kind)
    long = user("garden " * 300)
    if kind == "t5":  # its positions are relative: there is no limit
        assert model.generate([Job(chat=long, sampling=GREEDY)])[0].finish == "length"
        return
    short, failed = model.generate(jobs([CHATS[0], long]))
    assert (short.finish, failed.finish) == ("length", "failed")
    assert "256 that the model holds" in str(failed.error)
    for tokens, finish in ((254, "length"), (255, "failed")):  # beside the two tokens that the decoder begins with
        [reply] = model.generate(jobs([CHATS[0]], Sampling(temperature=0, max_new_tokens=tokens)))
        assert reply.finish == finish
    assert model.choose([long], ("yes", "no"))[0].answer is None
    with pytest.raises(ModelError, match="256"):
        model.loglikelihoods([(long, "yes")])


# -- choose and loglikelihoods ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_choose_sums_the_spellings_of_each_option(kind: str) -> None:
    model = tiny_seq2seq(kind)
    for chat, choice in zip((*CHATS, OPEN), model.choose([*CHATS, OPEN], ("yes", "no")), strict=True):
        p = torch.softmax(logits_after(model, *model.format.prompt(chat))[-1], -1)
        mass = {
            o: float(p[sorted({model.tokenizer.encode(s, add_special_tokens=False)[0] for s in forms})].sum())
            for o, forms in {
                "yes": ("yes", "Yes", "YES", " yes", " Yes", " YES"),
                "no": ("no", "No", "NO", " no", " No", " NO"),
            }.items()
        }
        assert choice.probabilities is not None
        assert choice.probabilities["yes"] == pytest.approx(mass["yes"] / sum(mass.values()), abs=2e-4)
        assert choice.mass == pytest.approx(sum(mass.values()), abs=2e-4)


PAIRS: list[tuple[Chat | str, str]] = [
    *((chat, text) for chat in CHATS for text in ("Yes.", "Yes, sow them in spring.", "No")),
    (OPEN, " in spring."),
    (TALK, "Then pick them red."),
    ("How do I grow", " tomatoes?"),
    ("", "How do I grow tomatoes?"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 32])
def test_loglikelihoods_are_those_of_a_plain_forward_pass(kind: str, batch: int) -> None:
    model = tiny_seq2seq(kind, batch=batch)
    found = model.loglikelihoods(PAIRS)
    for (context, continuation), values in zip(PAIRS, found, strict=True):
        (source, begun), after = model.format.pair(context, continuation)
        assert model.tokenizer.decode(after) == (continuation if context == OPEN else continuation.lstrip())
        log_p = torch.log_softmax(logits_after(model, source, [*begun, *after]), -1)
        assert values == pytest.approx([float(log_p[len(begun) - 1 + k, t]) for k, t in enumerate(after)], abs=1e-4)
    assert model.loglikelihoods(PAIRS[::-1])[::-1] == [pytest.approx(v, abs=1e-4) for v in found]


def test_a_reply_is_scored_as_transformers_own_loss_does() -> None:
    """Mean negative log-likelihood of a whole reply, with `labels` as HF users give them."""
    model = tiny_seq2seq("t5")
    source, answer = "How do I grow tomatoes?", "Sow them in spring."
    batch = model.tokenizer(source, text_target=answer, return_tensors="pt")
    loss = float(model.module(input_ids=batch["input_ids"], labels=batch["labels"]).loss.detach())
    [values] = model.loglikelihoods([(user(source), answer)])
    ids = [*model.format.prompt(user(source)).begun, *model.tokenizer.encode(answer, add_special_tokens=False)]
    end = torch.log_softmax(logits_after(model, batch["input_ids"][0].tolist(), ids)[-1], -1)[0]
    assert -(sum(values) + float(end)) / (len(values) + 1) == pytest.approx(loss, abs=1e-5)


def test_a_continuation_without_tokens_is_an_error() -> None:
    with pytest.raises(ModelError, match="no token of its own"):
        tiny_seq2seq("t5").loglikelihoods([(CHATS[0], " ")])


# -- loading ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_loaded_as_what_it_is(kind: str, tmp_path: Path) -> None:
    folder = tiny_seq2seq_folder(tmp_path / "m", kind, torch.float32)
    model = load_transformers(TransformersConfig(model="unused", dtype="float32", device="cpu"), str(folder), threads=1)
    assert isinstance(model, Seq2SeqModel)
    assert model.generate(jobs(CHATS)) == tiny_seq2seq(kind).generate(jobs(CHATS))
    assert model.generate([]) == model.choose([], ("yes", "no")) == model.loglikelihoods([]) == []


def test_a_model_that_does_not_say_where_its_decoder_starts_is_refused() -> None:
    model = tiny_seq2seq("t5")
    model.module.config.decoder_start_token_id = model.module.generation_config.decoder_start_token_id = None
    with pytest.raises(ModelError, match="names no decoder_start_token_id"):
        Seq2SeqModel(model.module, model.tokenizer, "x")


@pytest.mark.parametrize("kind", KINDS)
def test_an_opening_is_the_replys_own_first_words(kind: str) -> None:
    """BART's decoder reads <s> first: it belongs to no reply."""
    model = tiny_seq2seq(kind)
    first = model.opening("Sow them in spring.", 2)
    assert first and "Sow them in spring.".startswith(first)
