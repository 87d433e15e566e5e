"""A causal model in this process: what it draws, chooses and scores is what a plain forward pass says."""

from collections.abc import Sequence

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast

from iteralign.errors import ModelError
from iteralign.models.base import Job, Sampling
from iteralign.models.chat import ChatFormat
from iteralign.models.decoding import draw
from iteralign.models.transformers import LEAST_SHARED, TransformersModel
from iteralign.records import Chat, Message, Reply, user
from tiny import END, START, TEMPLATE, TEXTS, tiny_model, tiny_tokenizer

GREEDY = Sampling(temperature=0, max_new_tokens=24)
WARM = Sampling(temperature=0.9, top_p=0.95, max_new_tokens=16)
MODEL = tiny_model()
LONG = "How do I grow tomatoes in a small garden, and how do I mend a bicycle? " * 2
CHATS = [user(text) for text in (*TEXTS, "Hi", LONG)]


def jobs(chats: Sequence[Chat], sampling: Sampling = WARM, seed: int = 0) -> list[Job]:
    return [Job(chat=c, sampling=sampling, seed=seed + n) for n, c in enumerate(chats)]


def talkative(end_bias: float) -> TransformersModel:
    """Its end token is likelier, so that replies end at different lengths."""
    model = tiny_model()
    head = torch.nn.Linear(32, len(model.tokenizer))
    with torch.no_grad():
        head.weight.copy_(model.module.lm_head.weight)
        head.bias.zero_()
        head.bias[model.tokenizer.eos_token_id] = end_bias
    model.module.lm_head = head
    return model


@torch.no_grad()
def logits_after(model: TransformersModel, ids: list[int]) -> torch.Tensor:
    return model.module(torch.tensor([ids])).logits[0].float()


# -- generate -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 32])
@pytest.mark.parametrize("end_bias", [0.0, 2.0])
def test_greedy_is_what_transformers_generates(batch: int, end_bias: float) -> None:
    model = talkative(end_bias)
    model.batch = batch
    replies = model.generate(jobs(CHATS, GREEDY))
    settings = GenerationConfig(do_sample=False, max_new_tokens=24, eos_token_id=0, pad_token_id=0)
    finishes: set[str] = set()
    for chat, reply in zip(CHATS, replies, strict=True):
        ids = model.format.encode(chat)
        made = model.module.generate(torch.tensor([ids]), generation_config=settings)[0, len(ids) :].tolist()
        ended = made[-1] == 0
        assert reply == Reply(
            text=model.tokenizer.decode(made, skip_special_tokens=True),
            finish="stop" if ended else "length",
            prompt_tokens=len(ids),
            tokens=len(made) - ended,
        )
        finishes.add(reply.finish)
    assert finishes == ({"stop", "length"} if end_bias else {"length"}), "the case is not the one that was meant"


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_a_draw_does_not_depend_on_its_neighbours(batch: int) -> None:
    model = talkative(3.0)
    work = [*jobs(CHATS), *jobs(CHATS, seed=100), *jobs(CHATS[:2], GREEDY), Job(chat=CHATS[3], sampling=WARM, seed=3)]
    alone = [model.generate([job])[0] for job in work]
    model.batch = batch
    assert model.generate(work) == alone
    assert model.generate(work[::-1]) == alone[::-1]
    assert len({r.tokens for r in alone}) > 3


def test_worked_examples_before_all_questions_are_read_once_and_change_no_reply(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = talkative(3.0)
    shown = [
        Message(role="user", content="one two three four five six seven"),
        Message(role="assistant", content="eight"),
    ]
    chats = [(*shown, *shown, *chat) for chat in CHATS[:4]]
    work = [*jobs(chats), *jobs(chats, GREEDY)]
    alone = [model.generate([job])[0] for job in work]
    read: list[tuple[int, int]] = []
    forward = model.module.forward
    monkeypatch.setattr(model.module, "forward", lambda **k: read.append(tuple(k["input_ids"].shape)) or forward(**k))
    assert model.generate(work) == alone
    (rows, shared), (all_rows, rest) = read[:2]
    assert rows == 1 and all_rows == 4 and shared >= LEAST_SHARED and rest < shared


def test_a_longer_neighbour_does_not_move_a_draw() -> None:
    short = Job(chat=CHATS[0], sampling=WARM, seed=1)
    long = short.model_copy(update={"sampling": WARM.model_copy(update={"max_new_tokens": 40})})
    one, both = MODEL.generate([short]), MODEL.generate([long, short])
    assert both[1] == one[0]
    assert both[0].tokens == 40


def test_equal_chats_with_different_seeds_differ() -> None:
    replies = MODEL.generate([Job(chat=CHATS[0], sampling=WARM, seed=s) for s in (*range(8), 2**63 - 1, 0)])
    assert len({r.text for r in replies}) == 9
    assert replies[0] == replies[-1]


def test_the_draws_follow_the_models_probabilities() -> None:
    """Inverse CDF: with many seeds each first token comes as often as its share of the top-p mass says."""
    n, sampling = 4000, Sampling(temperature=0.5, top_p=0.6, max_new_tokens=1)
    ids = MODEL.format.encode(CHATS[0])
    p = torch.softmax(logits_after(MODEL, ids)[-1] / 0.5, -1)
    order = p.argsort(descending=True)
    kept = order[: int((p[order].cumsum(0) < 0.6).sum()) + 1]
    expected = {MODEL.tokenizer.decode([t]): float(p[t] / p[kept].sum()) for t in kept}
    replies = MODEL.generate([Job(chat=CHATS[0], sampling=sampling, seed=s) for s in range(n)])
    counts = {text: sum(r.text == text for r in replies) / n for text in {r.text for r in replies}}
    assert set(counts) <= set(expected)
    for text, share in expected.items():
        assert counts.get(text, 0.0) == pytest.approx(share, abs=4 * (share / n) ** 0.5 + 1e-3)


def test_an_open_assistant_turn_is_continued() -> None:
    model = tiny_model()
    chat = (*CHATS[0], Message(role="assistant", content="Sow them"))
    assert model.format.render(chat).endswith("<|im_start|>assistant\nSow them")
    ids = model.format.encode(chat)
    [reply] = model.generate(jobs([chat], GREEDY))
    assert reply.text.startswith(model.tokenizer.decode([int(logits_after(model, ids)[-1].argmax())]))


def test_a_prompt_without_room_fails_alone_and_says_so() -> None:
    too_long = user("garden " * 300)
    replies = MODEL.generate(jobs([CHATS[0], too_long, CHATS[1]]))
    assert [r.finish == "failed" for r in replies] == [False, True, False]
    assert replies[1].text == ""
    assert "256 that the model holds" in str(replies[1].error)
    assert [replies[0], replies[2]] == [MODEL.generate([job])[0] for job in jobs([CHATS[0], too_long, CHATS[1]])[::2]]
    room = 256 - len(MODEL.format.encode(CHATS[0]))
    for tokens, finish in ((room, "length"), (room + 1, "failed")):
        [reply] = MODEL.generate(jobs([CHATS[0]], Sampling(temperature=0, max_new_tokens=tokens)))
        assert reply.finish == finish


def test_nothing_asked_is_nothing_answered() -> None:
    assert MODEL.generate([]) == []
    assert MODEL.choose([], ("yes", "no")) == []
    assert MODEL.loglikelihoods([]) == []


def test_a_base_model_speaks_in_plain_turns_and_stops_before_the_next_one() -> None:
    model = tiny_model(template=None)
    assert model.format.render(user("How?")) == "Human: How?\n\nAssistant:"
    words = model.tokenizer.encode(" Well, so.\n\nHuman: And then? And", add_special_tokens=False)
    follow(model, words)
    [reply] = model.generate(jobs([user("How?")], GREEDY))
    assert reply.text.strip() == "Well, so."
    assert reply.finish == "stop"


def test_a_turn_ends_with_the_token_that_the_template_writes_after_it() -> None:
    """Gemma's turns end with <end_of_turn>, its texts with <eos>: the one is trained, both stop a reply."""
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = START
    end, other = tokenizer.encode(END), tokenizer.encode(START)
    form = ChatFormat(tokenizer)
    assert (form.end_ids, form.text_end) == (end, other)
    words = tokenizer.encode("Well, so.")
    for stop in (end, other):
        module = tiny_model().module
        module.generation_config.eos_token_id = None
        model = TransformersModel(module, tokenizer, "gemma")
        follow(model, [*words, *stop, *words])
        [reply] = model.generate(jobs([user("How?")], GREEDY))
        assert (reply.text, reply.finish) == ("Well, so.", "stop")


def test_the_models_own_generation_config_names_further_ends() -> None:
    module = tiny_model().module
    word = tiny_tokenizer().encode(" tomatoes")[:1]
    module.generation_config.eos_token_id = [0, *word]
    model = TransformersModel(module, tiny_tokenizer(), "several ends")
    follow(model, [*tiny_tokenizer().encode("Well, so."), *word])
    [reply] = model.generate(jobs([user("How?")], GREEDY))
    assert (reply.text, reply.finish) == ("Well, so.", "stop")


def follow(model: TransformersModel, ids: list[int]) -> None:
    """Makes the model say these tokens, whatever it is asked."""
    forward, said = model.module.forward, iter(ids)

    def scripted(*args: object, **kwargs: object) -> object:
        out = forward(*args, **kwargs)
        out.logits[:] = 0.0
        out.logits[:, -1, next(said)] = 10.0
        return out

    model.module.forward = scripted


# -- the draw itself ----------------------------------------------------------------------------------


def test_top_k_draws_among_the_likeliest_alone() -> None:
    logits = torch.randn(1, 900, generator=torch.Generator().manual_seed(0)).expand(64, -1)
    u = torch.rand(64, generator=torch.Generator().manual_seed(1))
    ones = torch.ones(64)
    for k in (1, 5, 512):
        found = draw(logits, ones, ones, u, torch.full((64,), k))
        assert set(found.tolist()) <= set(logits[0].topk(k).indices.tolist())
    few = draw(logits, ones, ones, u, torch.full((64,), 5))
    assert len(set(few.tolist())) > 1, "and not the likeliest of them alone"
    mixed = draw(logits, ones, ones, u, torch.tensor([5, 0] * 32))
    assert torch.equal(mixed[::2], few[::2]) and torch.equal(mixed[1::2], draw(logits, ones, ones, u)[1::2])
    expected = logits[0].softmax(-1).topk(5).values
    many = draw(
        logits[:1].expand(4000, -1),
        torch.ones(4000),
        torch.ones(4000),
        torch.linspace(0, 0.9999, 4000),
        torch.full((4000,), 5),
    )
    counts = torch.stack([(many == i).float().mean() for i in logits[0].topk(5).indices])
    assert torch.allclose(counts, expected / expected.sum(), atol=0.002)


def drawn(logits: torch.Tensor, u: list[float], top_p: float = 0.9, temperature: float = 1.0) -> list[int]:
    n = len(logits)
    return draw(logits, torch.full((n,), temperature), torch.full((n,), top_p), torch.tensor(u)).tolist()


def test_top_p_keeps_the_token_that_crosses_it() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    assert [drawn(logits, [u], top_p=0.6)[0] for u in (0.0, 0.62, 0.63, 0.999999)] == [0, 0, 1, 1]
    assert [drawn(logits, [u], top_p=0.4)[0] for u in (0.0, 0.999999)] == [0, 0]
    assert [drawn(logits, [u], top_p=1.0)[0] for u in (0.49, 0.51, 0.79, 0.81, 1.0)] == [0, 1, 1, 2, 2]


def test_a_flat_neighbour_does_not_change_the_order_of_ties() -> None:
    """bf16 logits tie often; a row that is cut inside the slice must not see how the others are sorted."""
    generator = torch.Generator().manual_seed(0)
    peaked = torch.round(torch.randn(6, 4000, generator=generator)) * 4
    flat = torch.zeros(1, 4000)
    for u in (0.1, 0.35, 0.6, 0.85):
        alone = [drawn(row[None], [u])[0] for row in peaked]
        assert drawn(peaked, [u] * 6) == alone
        assert drawn(torch.cat([peaked, flat]), [u] * 7)[:6] == alone


# -- choose -------------------------------------------------------------------------------------------


def test_choose_sums_the_spellings_of_each_option() -> None:
    choices = MODEL.choose(CHATS, ("yes", "no"))
    for chat, choice in zip(CHATS, choices, strict=True):
        p = torch.softmax(logits_after(MODEL, MODEL.format.encode(chat))[-1], -1)

        def total(*spellings: str, p: torch.Tensor = p) -> float:
            return float(p[sorted({MODEL.tokenizer.encode(s)[0] for s in spellings})].sum())

        yes, no = total("yes", "Yes", "YES", " yes", " Yes", " YES"), total("no", "No", "NO", " no", " No", " NO")
        assert choice.mass == pytest.approx(yes + no, abs=2e-4)
        assert choice.probabilities is not None
        assert choice.probabilities["yes"] == pytest.approx(yes / (yes + no), abs=2e-4)
        assert choice.answer == ("yes" if yes > no else "no")


def test_a_prefix_that_chats_share_changes_nothing() -> None:
    shared = [user(f"{LONG} {text}") for text in ("Yes?", "No?", "Is it so, or is it not?", "")]
    alone = [MODEL.choose([chat], ("yes", "no"))[0] for chat in shared]
    for chats in (shared, shared[::-1], [shared[0]] * 3):
        together = MODEL.choose(chats, ("yes", "no"))
        expected = [alone[shared.index(chat)] for chat in chats]
        for one, other in zip(together, expected, strict=True):
            assert one.answer == other.answer
            assert one.probabilities == pytest.approx(other.probabilities, abs=2e-4)
            assert one.mass == pytest.approx(other.mass, abs=2e-4)


def test_options_that_begin_alike_cannot_be_told_apart() -> None:
    with pytest.raises(ModelError, match="begin with the same token"):
        MODEL.choose(CHATS, ("qqa", "qqb"))


def test_spellings_that_share_their_first_token_are_left_out() -> None:
    """Llama-2 writes ` yes` and ` no` with the same first token, a lone space; `yes` and `no` still differ."""
    words = {w: n for n, w in enumerate(["<eos>", " ", "yes", "no", "Yes", "No", "YES", "NO", "?"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    spaced = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")
    assert spaced.encode(" yes") == [1, 2]
    model = TransformersModel(tiny_model().module, spaced, "spaced")
    [choice] = model.choose([user("Q")], ("yes", "no"))
    p = torch.softmax(logits_after(model, model.format.encode(user("Q")))[-1], -1)
    assert choice.mass == pytest.approx(float(p[2:8].sum()), abs=2e-4)


def test_a_question_longer_than_the_context_is_no_answer() -> None:
    first, second = MODEL.choose([user("garden " * 300), CHATS[0]], ("yes", "no"))
    assert (first.answer, first.probabilities) == (None, None)
    assert "256" in str(first.error)
    assert second == MODEL.choose([CHATS[0]], ("yes", "no"))[0]


# -- loglikelihoods -----------------------------------------------------------------------------------


def naive(model: TransformersModel, context: Chat | str, continuation: str) -> list[float]:
    before, after = model.format.encode_pair(context, continuation)
    log_p = torch.log_softmax(logits_after(model, before + after), -1)
    return [float(log_p[len(before) - 1 + k, token]) for k, token in enumerate(after)]


PAIRS: list[tuple[Chat | str, str]] = [
    *((chat, text) for chat in CHATS for text in ("Yes.", "Yes, sow them in spring.", "No", LONG)),
    (CHATS[0], "Yes, sow them in spring, and water them."),
    ("How do I grow", " tomatoes?"),
    ("How do I grow ", "tomatoes?"),
    ("", "How do I grow tomatoes?"),
    ("How do I bake", " bread, and how do I write a letter to my aunt?"),
]


@pytest.mark.parametrize("batch", [1, 2, 32])
def test_loglikelihoods_are_those_of_a_plain_forward_pass(batch: int) -> None:
    model = tiny_model(batch=batch)
    found = model.loglikelihoods(PAIRS)
    for (context, continuation), values in zip(PAIRS, found, strict=True):
        assert values == pytest.approx(naive(model, context, continuation), abs=1e-4)
    assert model.loglikelihoods(PAIRS[::-1])[::-1] == [pytest.approx(v, abs=1e-4) for v in found]


def test_a_plain_context_is_scored_as_it_is_written() -> None:
    """The space at the border goes with the word behind it, and an empty context is the end-of-text token."""
    form = ChatFormat(tiny_tokenizer())
    assert form.encode_pair("How do I ", "grow") == form.encode_pair("How do I", " grow")
    assert form.encode_pair("", "grow")[0] == [form.tokenizer.eos_token_id]
    with pytest.raises(ModelError, match="no token of its own"):
        form.encode_pair("How", "")


def test_a_pair_longer_than_the_context_is_an_error_and_no_number() -> None:
    with pytest.raises(ModelError, match="256"):
        MODEL.loglikelihoods([(CHATS[0], "yes"), (user("garden " * 300), "yes")])


# -- the chat -----------------------------------------------------------------------------------------


def test_a_template_that_is_demanded_must_be_there() -> None:
    with pytest.raises(ModelError, match="no chat template, but the config demands one.*template: plain"):
        ChatFormat(tiny_tokenizer(template=None), "chat")
    assert ChatFormat(tiny_tokenizer(), "plain").render(user("How?")) == "Human: How?\n\nAssistant:"


NO_SYSTEM = "{% if messages[0].role != 'user' %}{{ raise_exception('no ' + messages[0].role) }}{% endif %}"


def test_a_template_that_refuses_a_chat_says_which_roles() -> None:
    form = ChatFormat(tiny_tokenizer(template=NO_SYSTEM + TEMPLATE))
    said = Message(role="assistant", content="x")
    with pytest.raises(ModelError, match=r"no assistant.*roles \['assistant', 'user'\]"):
        form.render((said, *user("y")))
    with pytest.raises(ModelError, match=r"no system.*roles \['system', 'assistant'\]"):
        form.render((Message(role="system", content="y"), said))


def test_a_template_without_a_systems_turn_has_it_in_the_first_question() -> None:
    """Gemma's raises for one, and a chat with principles in front must be asked all the same."""
    form, known = (ChatFormat(tiny_tokenizer(template=t + TEMPLATE)) for t in (NO_SYSTEM, ""))
    told, turns = Message(role="system", content="Be kind."), (*user("How?"), Message(role="assistant", content="So."))
    assert form.render((told, *user("How?"))) == known.render(user("Be kind.\n\nHow?"))
    assert form.render((told, *turns, *user("Why?"))) == known.render(
        (*user("Be kind.\n\nHow?"), *turns[1:], *user("Why?"))
    )
    assert known.render((told, *user("How?"))) != known.render(user("Be kind.\n\nHow?"))


@pytest.mark.parametrize("said", ["Sow them in spring.", " Sow them in spring."], ids=["as trained", "as drawn"])
def test_a_plain_reply_is_scored_trained_and_begun_with_one_space(said: str) -> None:
    model = tiny_model(template=None)
    form, text = model.format, "Human: How?\n\nAssistant: Sow them in spring."
    before, after = form.encode_pair(user("How?"), said)
    assert (form.tokenizer.decode(before + after), form.answer(said)) == (text, after)
    assert form.tokenizer.decode(form.encode(user("How?")) + form.answer(said)) == text
    first = model.opening(said, 1)
    assert first and "Sow them in spring.".startswith(first)
    assert form.encode((*user("How?"), Message(role="assistant", content=first))) == [*before, after[0]]


def test_a_plain_reply_of_sentencepiece_has_no_token_for_a_space_alone() -> None:
    words = ["<eos>", "▁", "?", *(f"▁{w}" for w in ("Human:", "How?", "Assistant:", "Sow", "them."))]
    parts = Tokenizer(models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="?"))
    parts.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])  # as Llama-2's
    parts.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    form = ChatFormat(PreTrainedTokenizerFast(tokenizer_object=parts, eos_token="<eos>"))
    assert form.tokenizer.convert_ids_to_tokens(form.answer("Sow them.")) == ["▁Sow", "▁them."]


def test_a_model_says_its_name() -> None:
    model = tiny_model(seed=3)
    assert model.name == "tiny:3"
    model.rename("other")
    assert model.name == "other"
    assert MODEL.context_length == 256
