"""Fine-tuning a tiny real model: what is learnt, in which precision, and what the checkpoint holds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from iteralign.config import LoraConfig, SFTConfig, TransformersConfig
from iteralign.errors import ModelError, StoreError
from iteralign.models.base import Job, Sampling
from iteralign.models.load import load_transformers
from iteralign.models.transformers import TransformersModel
from iteralign.models.weights import load_weights, save
from iteralign.records import Checkpoint, Message, Row, user
from iteralign.training.in_place import arguments
from iteralign.training.labelled import LabelledSFTTrainer, by_length, is_plain
from iteralign.training.lora import wrap
from iteralign.training.rows import encode
from iteralign.training.sft import make_trainer, sft
from make import prompt, room_for
from tiny import tiny_folder, tiny_model

SEED = 2**62 + 12345  # as large as seeds_for makes them
ROWS = [
    Row(
        prompt=str(n),
        item=str(n),
        split="train",
        wants="decline",
        chat=prompt(f"How do I {what}?").plain,
        answer=f"I'm sorry, but I can't help with {what}." + " Ask your aunt." * (n % 3),
        ended=True,
        origin="revision",
    )
    for n, what in enumerate(["bake bread", "mend a bicycle", "write a letter", "grow tomatoes"] * 2)
]
PAPER = {"learning_rate": 2e-6, "epochs": 1, "batch": 8, "warmup_ratio": 0.0}


def train(
    tmp_path: Path, name: str = "checkpoint", dtype: torch.dtype = torch.float32, seed: int = SEED, **config: Any
) -> tuple[TransformersModel, Checkpoint]:
    tied = {"tie_word_embeddings": True}
    start = tmp_path / "base"
    if not start.exists():
        tiny_folder(start, **tied)
    engine = tiny_model(dtype=dtype, **tied)
    settings = SFTConfig(**{**PAPER, **config})
    return engine, sft(engine, str(start), ROWS, settings, tmp_path / name, seed)


def greedy(engine: TransformersModel, texts: Sequence[str]) -> list[str]:
    sampling = Sampling(temperature=0, max_new_tokens=20)
    return [r.text for r in engine.generate([Job(chat=user(t), sampling=sampling) for t in texts])]


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> float:
    moved = sum(int((before[n] != after[n]).sum()) for n in after)
    return moved / sum(t.numel() for t in after.values())


# -- what the trainer is given ------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_trainers_batch_learns_the_answer_and_its_end_and_no_padding() -> None:
    engine = tiny_model()
    encoded = encode(ROWS, engine.format, 512).rows
    trainer = make_trainer(
        engine.module, engine, encoded, arguments(SFTConfig(batch=8), engine.module.device, len(encoded), SEED)
    )
    [batch] = list(trainer.get_train_dataloader())
    assert engine.tokenizer.pad_token_id == engine.tokenizer.eos_token_id, "the case in which the end gets lost"
    answers = {r.answer for r in ROWS}
    for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        learnt = labels[labels != -100]
        assert learnt[-1] == engine.tokenizer.eos_token_id
        assert (learnt == engine.tokenizer.eos_token_id).sum() == 1
        assert engine.tokenizer.decode(learnt[:-1]) in answers
        assert torch.equal(ids[labels != -100], learnt)
        assert (labels[mask == 0] == -100).all()


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4, alpha=8)])
def test_loss_and_gradients_are_trls_own(lora: LoraConfig | None) -> None:
    """Logits at labelled positions only, and long rows by themselves, are a matter of speed (training/labelled.py)."""
    engine = tiny_model(tie_word_embeddings=True)
    module = engine.module if lora is None else wrap(engine.module, lora, None)
    long = ROWS[0].model_copy(update={"answer": " ".join([ROWS[0].answer] * 6)})
    encoded = encode([*ROWS[1:], long], engine.format, 512).rows
    assert len(by_length(torch.tensor([len(row["input_ids"]) for row in encoded]))) == 2
    trainer = make_trainer(module, engine, encoded, arguments(SFTConfig(batch=8), module.device, len(encoded), SEED))
    batch = next(iter(trainer.get_train_dataloader()))
    found: list[tuple[float, dict[str, torch.Tensor]]] = []
    for compute_loss in (trainer.compute_loss, super(LabelledSFTTrainer, trainer).compute_loss):
        module.zero_grad()
        loss = compute_loss(module, dict(batch), num_items_in_batch=(batch["labels"] != -100).sum())
        loss.backward()
        gradients = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
        found.append((loss.item(), gradients))
    (ours, our_gradients), (trls, trl_gradients) = found
    assert ours == pytest.approx(trls, rel=1e-5)
    assert our_gradients.keys() == trl_gradients.keys() and our_gradients
    for name, gradient in our_gradients.items():
        torch.testing.assert_close(gradient, trl_gradients[name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("lengths", "parts"),
    [([50, 48, 120, 52], [[1, 0, 3], [2]]), ([50, 48, 60, 52], [[1, 0, 3, 2]]), ([7], [[0]])],
)
def test_long_rows_of_a_batch_go_by_themselves_where_that_saves_enough(
    lengths: list[int], parts: list[list[int]]
) -> None:
    assert [part.tolist() for part in by_length(torch.tensor(lengths))] == parts


def test_a_model_that_bends_its_logits_keeps_trls_loss() -> None:
    module = tiny_model().module
    assert is_plain(module)
    module.config.final_logit_softcapping = 30.0
    assert not is_plain(module)


def test_it_learns_what_it_is_shown(tmp_path: Path) -> None:
    engine, _ = train(tmp_path, learning_rate=1e-2, epochs=40)
    said = greedy(engine, ["How do I bake bread?", "How do I mend a bicycle?"])
    assert [s[:36] for s in said] == ["I'm sorry, but I can't help with bak", "I'm sorry, but I can't help with men"]


# -- precision ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_one_step_at_the_papers_rate_changes_nearly_every_weight(tmp_path: Path, dtype: torch.dtype) -> None:
    engine, made = train(tmp_path, dtype=dtype)
    assert made.steps == 1
    base, trained = load_weights(tmp_path / "base"), load_weights(str(made.path))
    assert changed(base, trained) > 0.9
    held = dict(engine.module.named_parameters())
    for name, parameter in held.items():
        assert parameter.dtype == dtype
        assert torch.equal(parameter, trained[name].to(dtype)), f"{name} is not what was written"
    if dtype == torch.bfloat16:
        rounded = {n: t.to(dtype) for n, t in base.items()}
        assert changed(rounded, held) < 0.5, "bf16 alone would have lost the step: the test shows nothing"


def test_masters_go_on_in_the_next_round_from_where_they_were(tmp_path: Path) -> None:
    engine, first = train(tmp_path, dtype=torch.bfloat16)
    base = load_weights(tmp_path / "base")
    second = sft(engine, str(first.path), ROWS, SFTConfig(**PAPER), tmp_path / "second", SEED)  # type: ignore[arg-type]
    steps = [load_weights(str(c.path))["model.norm.weight"] - base["model.norm.weight"] for c in (first, second)]
    assert second.parent == first.path
    assert steps[1].abs().mean() > 1.5 * steps[0].abs().mean()


# -- the checkpoint -----------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4)], ids=["full", "lora"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_checkpoint_is_a_plain_fp32_model_that_says_the_same(
    tmp_path: Path, dtype: torch.dtype, lora: LoraConfig | None
) -> None:
    engine, made = train(tmp_path, dtype=dtype, learning_rate=1e-3, lora=lora)
    loaded = AutoModelForCausalLM.from_pretrained(str(made.path))
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    masters = load_weights(str(made.path))
    assert {n: p.shape for n, p in loaded.named_parameters()} == {n: t.shape for n, t in masters.items()}
    assert all(torch.equal(p, masters[n]) for n, p in loaded.named_parameters())
    assert not [n for n in masters if "lora" in n]
    assert AutoTokenizer.from_pretrained(str(made.path)).chat_template == engine.tokenizer.chat_template

    config = TransformersConfig(model="unused", dtype=str(dtype).removeprefix("torch."), device="cpu")  # type: ignore[arg-type]
    again = load_transformers(config, str(made.path), threads=1)
    assert isinstance(again, TransformersModel)
    assert again.name == engine.name == f"transformers:{made.digest}"
    questions = ["How do I bake bread?", "Tell me a story."]
    assert greedy(again, questions) == greedy(engine, questions)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_lora_is_merged_into_every_linear_layer_and_leaves_no_adapter(tmp_path: Path, dtype: torch.dtype) -> None:
    engine, made = train(tmp_path, dtype=dtype, learning_rate=1e-2, lora=LoraConfig(rank=4))
    base, trained = load_weights(tmp_path / "base"), load_weights(str(made.path))
    moved = {n for n in trained if not torch.equal(base[n], trained[n])}
    assert moved == {n for n in trained if "proj" in n}
    assert set(dict(engine.module.named_parameters())) == set(base)
    assert type(engine.module).__name__ == "LlamaForCausalLM"
    assert all(p.requires_grad for p in engine.module.parameters())
    assert not engine.module.training


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    config = {"epochs": 2, "batch": 3, "learning_rate": 1e-3}
    digests = [train(tmp_path, f"c{n}", seed=seed, **config)[1].digest for n, seed in enumerate((SEED, SEED, 1))]
    assert digests[0] == digests[1] != digests[2]
    lora = [train(tmp_path, f"l{n}", lora=LoraConfig(rank=4), **config)[1].digest for n in range(2)]
    assert lora[0] == lora[1] not in digests


def test_training_starts_from_its_start_and_not_from_what_the_engine_holds(tmp_path: Path) -> None:
    fresh, from_fresh = train(tmp_path, "a")
    other = tiny_model(seed=5, tie_word_embeddings=True)
    other.generate([Job(chat=user("Hi"), sampling=Sampling(max_new_tokens=3))])
    from_other = sft(other, str(tmp_path / "base"), ROWS, SFTConfig(**PAPER), tmp_path / "b", SEED)  # type: ignore[arg-type]
    assert from_other.digest == from_fresh.digest
    assert greedy(other, ["How?"]) == greedy(fresh, ["How?"])


def test_a_full_disk_is_one_clear_error_and_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    engine, made = train(tmp_path)
    kept = load_weights(str(made.path))
    for place in (tmp_path / "checkpoint", tmp_path / "base/config.json/checkpoint"):
        with room_for(10_000), pytest.raises(StoreError, match=f"cannot write {place}.*same command"):
            save(engine, kept, None, place)
    assert all(torch.equal(t, kept[n]) for n, t in load_weights(str(made.path)).items())
    assert {p.name for p in tmp_path.iterdir()} == {"base", "checkpoint"}


# -- what goes wrong ----------------------------------------------------------------------------------


def test_rows_that_are_all_too_long_are_an_error_that_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"all 8 training rows are longer than sft\.max_length 16"):
        train(tmp_path, max_length=16)


def test_the_checkpoint_counts_the_rows_that_were_cut_or_left_out(tmp_path: Path) -> None:
    engine, start = tiny_model(), str(tiny_folder(tmp_path / "base"))
    long = ROWS[0].model_copy(update={"answer": "word " * 200})
    talk = (*user("word " * 40), Message(role="assistant", content="Yes."), *ROWS[0].chat)
    rows = [*ROWS, long, ROWS[1].model_copy(update={"chat": talk})]
    made = sft(engine, start, rows, SFTConfig(**PAPER, max_length=96), tmp_path / "checkpoint", SEED)
    assert (made.rows, made.cut, made.rejected) == (9, 1, 1)
    assert sft(engine, start, ROWS, SFTConfig(**PAPER), tmp_path / "whole", SEED).rejected == 0


@pytest.mark.parametrize("epochs", [1, 3])
def test_weights_that_are_not_finite_are_not_written(tmp_path: Path, epochs: int) -> None:
    with pytest.raises(ModelError, match=r"did not converge.*lower sft\.learning_rate"):
        train(tmp_path, learning_rate=1e39, epochs=epochs)
    assert not (tmp_path / "checkpoint").exists()


def test_training_says_how_far_it_is_and_nothing_else(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[int, int]] = []
    tiny_folder(tmp_path / "base")
    capfd.readouterr()
    settings = SFTConfig(**{**PAPER, "batch": 4, "epochs": 2})  # type: ignore[arg-type]
    sft(tiny_model(), str(tmp_path / "base"), ROWS, settings, tmp_path / "c", SEED, lambda a, b: told.append((a, b)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    out, err = capfd.readouterr()
    assert out == ""
    assert "Warning" not in err
