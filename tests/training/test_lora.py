"""LoRA: what it moves and what it leaves, merged at the end of a round or kept apart as peft's own adapter."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from iteralign.config import LoraConfig, SFTConfig, TransformersConfig
from iteralign.errors import ConfigError, ModelError
from iteralign.models.base import Job, Model, Sampling
from iteralign.models.decoding import TorchModel
from iteralign.models.weights import load_weights
from iteralign.records import Checkpoint, Reply, user
from iteralign.training.policy import BASE, Engine, Line, Policy, train
from make import BREAD_ROWS as ROWS
from tiny import tiny_folder, tiny_tokenizer

MERGED = SFTConfig(learning_rate=1e-2, epochs=2, batch=2, lora=LoraConfig(rank=4, dropout=0.1))
KEPT = MERGED.model_copy(update={"lora": LoraConfig(rank=4, dropout=0.1, keep=True)})
DTYPES = ["bfloat16", "float32"]


def start(base: Path, dtype: str = "float32") -> Policy:
    return Policy(Engine(TransformersConfig(model=str(base), dtype=dtype, device="cpu"), threads=1), BASE)  # type: ignore[arg-type]


def at(base: Path, checkpoint: Checkpoint, dtype: str = "float32") -> Model:
    return start(base, dtype).engine.at(checkpoint)


def held(model: Model) -> dict[str, torch.Tensor]:
    assert isinstance(model, TorchModel)
    return {n: p.detach().clone() for n, p in model.module.named_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def said(model: Model) -> list[Reply]:
    sampling = Sampling(temperature=0.7, top_p=0.9, max_new_tokens=12)
    return model.generate([Job(chat=user("How do I bake bread?"), sampling=sampling, seed=n) for n in range(3)])


def written(policy: Policy) -> dict[str, torch.Tensor]:
    return load_weights(str(policy.checkpoint.path))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_folder(tmp_path / "base", tie_word_embeddings=True)


# -- merged at the end of a round -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_round_changes_the_linear_layers_by_the_product_in_fp32_and_nothing_else(
    base: Path, tmp_path: Path, dtype: str
) -> None:
    before = load_weights(base)
    policy = train(start(base, dtype), ROWS, MERGED, tmp_path / "merged", seed=1)
    after = written(policy)
    apart = train(start(base, dtype), ROWS, KEPT, tmp_path / "kept", seed=1)
    adapter = load_file(tmp_path / "kept/adapter_model.safetensors")
    assert {t.dtype for t in adapter.values()} == {torch.float32}
    linear = {n for n in before if "proj" in n}
    assert {n for n in before if not torch.equal(before[n], after[n])} == linear
    for name in linear:
        layer = f"base_model.model.{name.removesuffix('.weight')}"
        product = adapter[f"{layer}.lora_B.weight"] @ adapter[f"{layer}.lora_A.weight"] * (32 / 4)
        assert torch.equal(after[name], before[name] + product)
    assert policy.checkpoint.digest == apart.checkpoint.digest
    assert isinstance(policy.model, TorchModel)
    for name, parameter in policy.model.module.named_parameters():
        assert parameter.requires_grad
        assert torch.equal(parameter, after[name].to(parameter.dtype)), name


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_next_round_puts_on_a_fresh_adapter(base: Path, tmp_path: Path, dtype: str) -> None:
    first = train(start(base, dtype), ROWS, MERGED, tmp_path / "c1", seed=1)
    once = written(first)
    second = train(first, ROWS, MERGED, tmp_path / "c2", seed=2)
    twice = written(second)
    changes = [twice[n] - once[n] for n in once if "proj" in n]
    assert all(0 < int(torch.linalg.matrix_rank(c, rtol=1e-4)) <= 4 for c in changes)
    full = train(second, ROWS, MERGED.model_copy(update={"lora": None}), tmp_path / "c3", seed=3)
    assert all(not torch.equal(t, twice[n]) for n, t in written(full).items()), "something stayed frozen"
    resumed = Policy(start(base, dtype).engine, first.checkpoint)
    assert train(resumed, ROWS, MERGED, tmp_path / "c4", seed=2).checkpoint.digest == second.checkpoint.digest


# -- kept apart -----------------------------------------------------------------------------------------


def test_the_checkpoint_is_an_adapter_that_peft_and_transformers_load(base: Path, tmp_path: Path) -> None:
    policy = train(start(base), ROWS, KEPT, tmp_path / "c", seed=1)
    assert not (tmp_path / "c/model.safetensors").exists()
    settings = json.loads((tmp_path / "c/adapter_config.json").read_text())
    assert Path(settings["base_model_name_or_path"]) == base
    assert (settings["r"], settings["lora_alpha"], settings["task_type"]) == (4, 32, "CAUSAL_LM")
    assert AutoTokenizer.from_pretrained(str(tmp_path / "c")).chat_template
    weights = written(policy)
    ids = torch.tensor([policy.model.format.encode(user("How do I bake bread?"))])  # type: ignore[attr-defined]
    with torch.no_grad():
        ours = policy.model.module(ids).logits  # type: ignore[attr-defined]
        plain = AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32)
        for loaded in (
            PeftModel.from_pretrained(plain, str(tmp_path / "c")),
            AutoModelForCausalLM.from_pretrained(str(tmp_path / "c"), dtype=torch.float32),
        ):
            assert torch.allclose(loaded(ids).logits, ours, atol=1e-4)
            assert not torch.allclose(
                AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32)(ids).logits, ours, atol=1e-2
            )
    peft = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32), str(tmp_path / "c")
    ).merge_and_unload()
    assert all(torch.allclose(p, weights[n], atol=1e-6) for n, p in peft.named_parameters())


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_resumed_run_has_the_weights_name_and_draws_of_an_uninterrupted_one(
    base: Path, tmp_path: Path, dtype: str
) -> None:
    first = start(base, dtype)
    before = (first.model.name, said(first.model), held(first.model))
    second = train(first, ROWS, KEPT, tmp_path / "c1", seed=1)
    after = (second.model.name, said(second.model), held(second.model))
    third = train(second, ROWS, KEPT, tmp_path / "c2", seed=2)
    assert len({before[0], after[0], third.model.name}) == 3
    for policy, seen in ((first, before), (second, after)):  # a rollback, and a new process
        for again in (policy.model, at(base, policy.checkpoint, dtype)):
            assert again.name == seen[0]
            assert said(again) == seen[1]
            assert same(held(again), seen[2])
    resumed = Policy(start(base, dtype).engine, second.checkpoint)
    assert train(resumed, ROWS, KEPT, tmp_path / "c3", seed=2).checkpoint.digest == third.checkpoint.digest
    adapters = [load_file(tmp_path / c / "adapter_model.safetensors") for c in ("c2", "c3")]
    assert same(*adapters)
    settings = [(tmp_path / c / "adapter_config.json").read_bytes() for c in ("c2", "c3")]
    assert settings[0] == settings[1]


def test_the_next_round_goes_on_with_the_same_adapter(base: Path, tmp_path: Path) -> None:
    first = train(start(base), ROWS, KEPT, tmp_path / "c1", seed=1)
    slow = KEPT.model_copy(update={"learning_rate": 1e-9, "epochs": 1})
    second = train(first, ROWS, slow, tmp_path / "c2", seed=2)
    one, two = (load_file(tmp_path / c / "adapter_model.safetensors") for c in ("c1", "c2"))
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[n], two[n], atol=1e-6) for n in one)
    assert Path(json.loads((tmp_path / "c2/adapter_config.json").read_text())["base_model_name_or_path"]) == base
    assert second.checkpoint.parent == first.checkpoint.path
    fresh = train(first, ROWS, slow.model_copy(update={"start": "base"}), tmp_path / "c3", seed=2)
    assert all(torch.allclose(t, load_weights(base)[n], atol=1e-4) for n, t in written(fresh).items())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rounds", [1, 2])
def test_a_backtracked_policy_is_an_adapter_too(base: Path, tmp_path: Path, dtype: str, rounds: int) -> None:
    before = start(base, dtype)
    for n in range(rounds - 1):
        before = train(before, ROWS, KEPT, tmp_path / f"c{n}", seed=n)
    old = held(before.model)
    weights_before = load_weights(before.engine.source(before.checkpoint))
    after = train(before, ROWS, KEPT, tmp_path / "after", seed=9)
    new = held(after.model)
    line = Line(before, after)
    assert same(held(line.at(0.0)), old)
    assert same(held(line.at(1.0)), new)
    searched = held(line.at(0.5))
    middle = line.save(0.5, tmp_path / "half")
    assert (tmp_path / "half/adapter_config.json").exists()
    assert (middle.rows, middle.steps, middle.loss) == (
        after.checkpoint.rows,
        after.checkpoint.steps,
        after.checkpoint.loss,
    )
    again = at(base, middle, dtype)
    assert same(held(again), searched)
    assert again.name == before.engine.at(middle).name == f"transformers:{middle.digest}"
    assert not same(searched, old)
    assert not same(searched, new)
    if rounds == 1:  # from B = 0 it is the very line of the weights
        half = load_weights(str(middle.path))
        for name, end in written(after).items():
            assert torch.allclose(half[name], torch.lerp(weights_before[name], end, 0.5), atol=1e-6)
    line.at(0.25)
    assert same(held(after.model), new), "the engine forgot that it had been moved"
    further = train(Policy(line.engine, middle), ROWS, KEPT, tmp_path / "further", seed=10)
    assert further.checkpoint.parent == str(tmp_path / "half")


def test_an_adapter_is_a_policy_to_start_from(base: Path, tmp_path: Path) -> None:
    made = train(start(base), ROWS, KEPT, tmp_path / "mine", seed=1)
    weights = written(made)
    policy = start(tmp_path / "mine")
    assert same(held(policy.model), weights)
    whole = train(policy, ROWS, MERGED.model_copy(update={"lora": None}), tmp_path / "c", seed=2)
    assert (tmp_path / "c/model.safetensors").exists()
    assert written(whole).keys() == weights.keys()


def test_layers_that_are_stored_transposed(tmp_path: Path) -> None:
    """GPT-2's linear layers are (in, out), some of them square: a wrong way round would not show in the shape."""
    base = tiny_folder(tmp_path / "base")
    config = GPT2Config(vocab_size=400, n_positions=256, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(base)
    policy = train(start(base), ROWS, KEPT, tmp_path / "c", seed=1)
    loaded = AutoModelForCausalLM.from_pretrained(str(tmp_path / "c"), dtype=torch.float32).eval()
    ids = torch.tensor([tiny_tokenizer().encode("How do I bake bread?")])
    assert isinstance(policy.model, TorchModel)
    with torch.no_grad():
        assert torch.allclose(loaded(ids).logits, policy.model.module(ids).logits, atol=1e-4)


# -- what goes wrong ------------------------------------------------------------------------------------


def test_another_rank_than_the_adapters_is_an_error(base: Path, tmp_path: Path) -> None:
    first = train(start(base), ROWS, KEPT, tmp_path / "c", seed=1)
    other = KEPT.model_copy(update={"lora": LoraConfig(rank=8, keep=True)})
    with pytest.raises(ConfigError, match=r"rank 4 and alpha 32, but the config's lora has rank 8"):
        train(first, ROWS, other, tmp_path / "d", seed=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, r"not plain LoRA on linear layers \(use_dora\).*merge_and_unload"),
        ({"base_model_name_or_path": "/nowhere/base"}, "needs its base at /nowhere/base, which is not there"),
    ],
)
def test_an_adapter_that_we_cannot_merge_says_why(
    base: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    made = train(start(base), ROWS, KEPT, tmp_path / "c", seed=1)
    path = tmp_path / "c/adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ModelError, match=message):
        at(base, made.checkpoint)
