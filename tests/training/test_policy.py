"""One engine, many checkpoints: it always holds, and is named after, the weights that were asked for."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from iteralign.config import LlamaCppConfig, ScriptedConfig, SFTConfig, TransformersConfig
from iteralign.errors import ConfigError
from iteralign.models.base import Job, Model, Sampling
from iteralign.models.transformers import TransformersModel
from iteralign.records import Checkpoint, Reply, user
from iteralign.store import Store
from iteralign.training.policy import (
    BASE,
    Engine,
    Line,
    Policy,
    drop_checkpoint,
    drop_checkpoints,
    refuse_untrainable,
    train,
)
from make import BREAD_ROWS as ROWS
from tiny import tiny_folder, tiny_module, tiny_tokenizer

SFT = SFTConfig(learning_rate=3e-3, epochs=2, batch=2)
DTYPES = ["bfloat16", "float32"]


def engine(base: Path, dtype: str = "bfloat16") -> Engine:
    return Engine(TransformersConfig(model=str(base), dtype=dtype, device="cpu"), threads=1)  # type: ignore[arg-type]


def replies(model: Model) -> list[Reply]:
    sampling = Sampling(temperature=0.7, top_p=0.9, max_new_tokens=12)
    return model.generate([Job(chat=user("How do I bake bread?"), sampling=sampling, seed=n) for n in range(3)])


def weights(model: Model) -> dict[str, torch.Tensor]:
    assert isinstance(model, TransformersModel)
    return {n: p.detach().clone() for n, p in model.module.named_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_folder(tmp_path / "base", tie_word_embeddings=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_resumed_run_has_the_weights_name_and_draws_of_an_uninterrupted_one(
    base: Path, tmp_path: Path, dtype: str
) -> None:
    there = engine(base, dtype)
    first = Policy(there, BASE)
    before = (first.model.name, replies(first.model), weights(first.model))
    second = train(first, ROWS, SFT, tmp_path / "c1", seed=2**62)
    after = (second.model.name, replies(second.model), weights(second.model))
    third = train(second, ROWS, SFT, tmp_path / "c2", seed=3)
    assert len({before[0], after[0], third.model.name}) == 3

    for policy, seen in ((first, before), (second, after)):  # a rollback, and a new process
        for again in (policy.model, engine(base, dtype).at(policy.checkpoint)):
            assert again.name == seen[0]
            assert replies(again) == seen[1]
            assert same(weights(again), seen[2])
    resumed = Policy(engine(base, dtype), second.checkpoint)
    assert train(resumed, ROWS, SFT, tmp_path / "c2-again", seed=3).checkpoint.digest == third.checkpoint.digest


def test_from_base_every_round_starts_at_the_base(base: Path, tmp_path: Path) -> None:
    config = SFT.model_copy(update={"start": "base"})
    first = train(Policy(engine(base), BASE), ROWS, config, tmp_path / "c1", seed=1)
    second = train(first, ROWS, config, tmp_path / "c2", seed=1)
    assert second.checkpoint.digest == first.checkpoint.digest
    assert train(first, ROWS, SFT, tmp_path / "c3", seed=1).checkpoint.digest != first.checkpoint.digest


def test_no_model_is_loaded_before_it_is_asked_for(tmp_path: Path) -> None:
    policy = Policy(engine(tmp_path / "nowhere"), BASE)
    policy.engine.close()
    with pytest.raises(Exception, match="nowhere"):
        _ = policy.model


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_line_between_two_policies(base: Path, tmp_path: Path, dtype: str) -> None:
    before = Policy(engine(base, dtype), BASE)
    old = weights(before.model)
    after = train(before, ROWS, SFT, tmp_path / "c", seed=1)
    new = weights(after.model)
    line = Line(before, after)
    assert same(weights(line.at(0.0)), old)
    assert same(weights(line.at(1.0)), new)
    middle = line.save(0.5, tmp_path / "half")
    half = weights(before.engine.at(middle))
    assert not same(half, old)
    assert not same(half, new)
    again = engine(base, dtype).at(middle)
    assert same(weights(again), half)
    assert again.name == before.engine.at(middle).name
    line.at(0.25)
    assert same(weights(after.model), new), "the engine forgot that it had been moved"


# -- files that others wrote --------------------------------------------------------------------------


def rewritten(folder: Path, change: Any) -> Path:
    path = folder / "model.safetensors"
    tensors = {n: t.clone() for n, t in load_file(path).items()}
    save_file(change(tensors), path, metadata={"format": "pt"})
    return folder


def with_copy_of_the_head(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}


def gpt2(folder: Path) -> Path:
    """GPT-2's file on the hub names its tensors without the prefix that the module gives them."""
    tiny_folder(folder)
    config = GPT2Config(vocab_size=400, n_positions=256, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return rewritten(folder, lambda ts: {n.removeprefix("transformer."): t for n, t in ts.items()})


@pytest.mark.parametrize("kind", ["tied head written twice", "names without prefix", "in two files"])
def test_a_base_as_others_write_it_is_trained_and_restored(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "base"
    if kind == "names without prefix":
        gpt2(folder)
    elif kind == "in two files":
        tiny_module().save_pretrained(folder, max_shard_size="60KB")
        tiny_tokenizer().save_pretrained(folder)
        assert not (folder / "model.safetensors").exists()
    else:
        rewritten(tiny_folder(folder, tie_word_embeddings=True), with_copy_of_the_head)
    first = Policy(engine(folder), BASE)
    name, held = first.model.name, weights(first.model)
    second = train(first, ROWS, SFT, tmp_path / "c", seed=1)
    assert same(weights(first.model), held)
    assert first.model.name == name
    assert second.model.name != name
    assert engine(folder).at(second.checkpoint).name == second.model.name


# -- checkpoints --------------------------------------------------------------------------------------


def test_only_what_is_kept_stays_of_a_rounds_checkpoints(tmp_path: Path) -> None:
    here = Store(tmp_path / "rounds/00000")
    for name in ("checkpoint", "checkpoint-0.5", "validation"):
        here.path(name).mkdir()
    kept = Checkpoint(path=str(here.path("checkpoint-0.5")), parent=None, digest="x")
    drop_checkpoints(here, keep=Policy(Engine(ScriptedConfig()), kept))
    assert {p.name for p in here.folder.iterdir()} == {"checkpoint-0.5", "validation"}
    drop_checkpoints(here, keep=None)
    assert {p.name for p in here.folder.iterdir()} == {"validation"}
    drop_checkpoint(BASE)
    drop_checkpoint(kept)


def test_a_model_that_cannot_be_trained_is_no_policy() -> None:
    with pytest.raises(ConfigError, match="'llama_cpp' cannot be trained: use transformers"):
        refuse_untrainable(LlamaCppConfig(model="oracle"))


def test_a_share_is_mixed_once_and_then_at_hand(base: Path, tmp_path: Path) -> None:
    """A gate asks for it before every micro-batch; the checkpoints may be large, and are read once."""
    there = engine(base)
    first = Policy(there, BASE)
    line = Line(first, train(first, ROWS, SFT, tmp_path / "c", seed=1))
    half = weights(line.at(0.5))
    shutil.rmtree(tmp_path / "c")
    assert same(weights(line.at(0.5)), half)
    assert not same(weights(line.at(0.25)), half), "both ends are kept for the next share"


def test_float16_is_not_trained() -> None:
    with pytest.raises(ConfigError, match="float16 cannot be trained"):
        refuse_untrainable(TransformersConfig(model="m", dtype="float16"))
