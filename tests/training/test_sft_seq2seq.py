"""Fine-tuning tiny encoder-decoders: the end is learnt, padding is not, and a checkpoint is what it was."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from iteralign.config import LoraConfig, SFTConfig, TransformersConfig
from iteralign.errors import ModelError
from iteralign.models.base import Job, Model, Sampling
from iteralign.models.decoding import TorchModel
from iteralign.models.load import load_transformers
from iteralign.models.seq2seq import Seq2SeqModel
from iteralign.models.weights import load_weights, save
from iteralign.records import Reply, Row, user
from iteralign.training.in_place import arguments
from iteralign.training.policy import BASE, Engine, Line, Policy, train
from iteralign.training.rows import encode
from iteralign.training.sft import make_trainer, sft
from tiny import tiny_seq2seq, tiny_seq2seq_folder

KINDS = ["t5", "bart"]
DTYPES = ["bfloat16", "float32"]
WHATS = ["bake bread", "mend a bicycle", "write a letter", "grow tomatoes"]
ROWS = [
    Row(
        prompt=str(n),
        item=str(n),
        split="train",
        wants="decline",
        chat=user(f"How do I {what}?"),
        answer=f"I'm sorry, but I can't help with {what}." + " Ask your aunt." * (n % 2),
        ended=True,
        origin="revision",
    )
    for n, what in enumerate(WHATS)
]
HIGH = {"learning_rate": 1e-2, "epochs": 80, "batch": 4, "warmup_ratio": 0.0}
SOME = SFTConfig(learning_rate=3e-3, epochs=2, batch=2)


def asked(model: Model, temperature: float = 0.0) -> list[Reply]:
    sampling = Sampling(temperature=temperature, max_new_tokens=48)
    return model.generate([Job(chat=r.chat, sampling=sampling, seed=n) for n, r in enumerate(ROWS)])


def policy(base: Path, dtype: str) -> Policy:
    return Policy(Engine(TransformersConfig(model=str(base), dtype=dtype, device="cpu"), threads=1), BASE)  # type: ignore[arg-type]


def held(model: Model) -> dict[str, torch.Tensor]:
    assert isinstance(model, TorchModel)
    return {n: p.detach().clone() for n, p in model.module.named_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_decoder_learns_the_answer_and_its_end_and_no_padding(kind: str) -> None:
    engine = tiny_seq2seq(kind)
    engine.tokenizer.padding_side = "left"
    engine = Seq2SeqModel(engine.module, engine.tokenizer, "again")
    encoded = encode(ROWS, engine.format, 64)
    trainer = make_trainer(
        engine.module, engine, encoded.rows, arguments(SFTConfig(batch=4), engine.module.device, len(encoded.rows), 0)
    )
    [batch] = list(trainer.get_train_dataloader())
    assert len({len(r["labels"]) for r in encoded.rows}) > 1
    for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        learnt = labels[labels != -100]
        assert torch.equal(labels[: len(learnt)], learnt)
        assert engine.tokenizer.decode(learnt, skip_special_tokens=True) in {r.answer for r in ROWS}
        assert learnt.tolist() == engine.tokenizer(text_target=engine.tokenizer.decode(learnt, True)).input_ids
        assert learnt[-1] == engine.tokenizer.eos_token_id
        question = engine.tokenizer.decode(ids[mask == 1], skip_special_tokens=True)
        assert list(engine.format.prompt(user(question)).ids) == ids[mask == 1].tolist()


def test_question_and_answer_have_the_limit_each(tmp_path: Path) -> None:
    form = tiny_seq2seq().format
    sizes = [(len(r["input_ids"]), len(r["labels"])) for r in encode(ROWS, form, 512).rows]
    limit = max(map(max, sizes))
    assert limit < max(map(sum, sizes))
    assert encode(ROWS, form, limit).rejected == 0
    assert encode(ROWS, form, limit - 1).rejected > 0
    with pytest.raises(ModelError, match=r"all 4 training rows are longer than sft\.max_length 16"):
        sft(tiny_seq2seq(), "unread", [r.model_copy(update={"answer": "garden " * 99}) for r in ROWS],
            SFTConfig(max_length=16), tmp_path / "c", 0)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_it_says_what_it_was_shown_and_ends(tmp_path: Path, kind: str) -> None:
    base = tiny_seq2seq_folder(tmp_path / "base", kind)
    engine = tiny_seq2seq(kind)
    told: list[tuple[int, int]] = []
    config = SFTConfig(**HIGH)  # type: ignore[arg-type]
    made = sft(engine, str(base), ROWS, config, tmp_path / "c", 2**62, lambda a, b: told.append((a, b)))
    assert (told[0], told[-1]) == ((1, made.steps), (made.steps, made.steps))
    replies = asked(engine)
    assert [r.text for r in replies] == [r.answer for r in ROWS]
    assert {r.finish for r in replies} == {"stop"}


@pytest.mark.parametrize("kind", KINDS)
def test_lora_reaches_the_encoder_and_the_decoder(tmp_path: Path, kind: str) -> None:
    def likelihood() -> float:
        lists = engine.loglikelihoods([(r.chat, r.answer) for r in ROWS])
        return sum(map(sum, lists)) / sum(map(len, lists))

    base = tiny_seq2seq_folder(tmp_path / "base", kind)
    engine, before = tiny_seq2seq(kind), load_weights(base)
    untrained = likelihood()
    config = SFTConfig(**HIGH, lora=LoraConfig(rank=16))  # type: ignore[arg-type]
    made = sft(engine, str(base), ROWS, config, tmp_path / "c", 0)
    assert likelihood() > untrained / 3
    after = load_weights(str(made.path))
    moved = {n for n in after if not torch.equal(before[n], after[n])}
    linear = {f"{n}.weight" for n, m in engine.module.named_modules() if isinstance(m, torch.nn.Linear)}
    assert moved == linear - {"lm_head.weight"}
    assert all(p.requires_grad for p in engine.module.parameters())
    assert set(held(engine)) == set(before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_one_small_step_is_not_lost_in_bf16(tmp_path: Path, kind: str, dtype: str) -> None:
    base = tiny_seq2seq_folder(tmp_path / "base", kind)
    engine = tiny_seq2seq(kind, dtype=getattr(torch, dtype))
    config = SFTConfig(learning_rate=2e-6, epochs=1, batch=4, warmup_ratio=0.0)
    made = sft(engine, str(base), ROWS, config, tmp_path / "c", 0)
    before, after = load_weights(base), load_weights(str(made.path))
    moved = {n: float((before[n] != after[n]).float().mean()) for n in after}
    assert sum(m > 0.5 for m in moved.values()) > 0.8 * len(moved), moved
    for name, parameter in held(engine).items():
        assert torch.equal(parameter, after[name].to(parameter.dtype))


def own_head(folder: Path) -> Path:
    """As T5 1.1 and FLAN-T5 are published: the output layer has weights of its own."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    head = torch.randn(tensors["shared.weight"].shape, generator=torch.Generator().manual_seed(3))
    save_file({**tensors, "lm_head.weight": head}, path, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("kind", ["t5", "t5 1.1", "bart", "bart untied"])
def test_the_checkpoint_is_a_plain_model_that_says_the_same(tmp_path: Path, kind: str) -> None:
    settings: dict[str, Any] = {"tie_word_embeddings": kind in KINDS}
    base = tiny_seq2seq_folder(tmp_path / "base", kind.split()[0], torch.float32, **settings)
    first = policy(own_head(base) if kind == "t5 1.1" else base, "float32")
    made = train(first, ROWS, SOME, tmp_path / "c", seed=0)
    engine = made.model
    assert isinstance(engine, Seq2SeqModel)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(str(made.checkpoint.path))
    for module in (loaded, engine.module):
        assert (module.lm_head.weight is module.get_encoder().embed_tokens.weight) == (kind in KINDS)
        assert getattr(module.config, "scale_decoder_outputs", None) == {"t5": True, "t5 1.1": False}.get(kind)
    tokenizer = AutoTokenizer.from_pretrained(str(made.checkpoint.path))
    batch = tokenizer("How do I bake bread?", text_target="Ask your aunt.", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, engine.module(**batch).logits)
    config = TransformersConfig(model="unused", dtype="float32", device="cpu")
    again = load_transformers(config, str(made.checkpoint.path), threads=1)
    assert again.name == engine.name == f"transformers:{made.checkpoint.digest}"
    assert asked(again, 0.7) == asked(engine, 0.7)


def test_what_a_model_holds_beside_its_parameters_is_kept(tmp_path: Path) -> None:
    engine = tiny_seq2seq("bart")
    engine.module.final_logits_bias.copy_(torch.arange(float(engine.module.final_logits_bias.numel()))[None])
    weights = {n: p.detach() for n, p in engine.module.named_parameters()}
    save(engine, weights, None, tmp_path / "c")
    assert load_weights(tmp_path / "c").keys() == weights.keys()
    loaded = AutoModelForSeq2SeqLM.from_pretrained(str(tmp_path / "c"))
    assert torch.equal(loaded.final_logits_bias, engine.module.final_logits_bias)


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4, keep=True)], ids=["full", "adapter kept"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_has_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, kind: str, dtype: str, lora: LoraConfig | None
) -> None:
    settings = {"dropout_rate": 0.1} if kind == "t5" else {"dropout": 0.1}  # as both are published
    base = tiny_seq2seq_folder(tmp_path / "base", kind, **settings)
    config = SOME.model_copy(update={"lora": lora})
    first = policy(base, dtype)
    held_first = held(first.model)
    second = train(first, ROWS, config, tmp_path / "c1", seed=1)
    said = asked(second.model, 0.7)
    third = train(second, ROWS, config, tmp_path / "c2", seed=2)
    assert same(held(first.model), held_first)
    resumed = Policy(policy(base, dtype).engine, second.checkpoint)
    assert resumed.model.name == second.model.name
    assert asked(resumed.model, 0.7) == said
    assert train(resumed, ROWS, config, tmp_path / "c3", seed=2).checkpoint.digest == third.checkpoint.digest
    line = Line(second, third)
    middle = line.save(0.5, tmp_path / "half")
    assert policy(base, dtype).engine.at(middle).name == line.engine.at(middle).name
