"""The recipe on tiny real policies of every kind that can be trained; oracle and judge are scripted."""

import shutil
from pathlib import Path

import pytest
import torch

from iteralign import load_config, run
from iteralign.config import SFTConfig
from iteralign.models.weights import load_weights
from iteralign.store import read_rows
from iteralign.training.rows import reply_row
from iteralign.training.sft import sft
from make import response, verdict
from tiny import tiny_folder, tiny_model, tiny_seq2seq, tiny_seq2seq_folder

SCRIPTED = Path(__file__).parents[2] / "configs/scripted.yaml"
SHORT = ["respond.max_new_tokens=16", "evaluate.max_new_tokens=12", "revise.sampling.max_new_tokens=24"]
SMALL = [
    "runtime.micro_batch=64",
    "runtime.threads=1",
    "gates.enabled=false",
    "prompts.held_out=4",
    "prompts.validation=4",
]
FEW = ["prompts.red_team_per_round=8", "prompts.harmless_per_round=6"]


@pytest.mark.parametrize("kind", ["t5", "llama with its adapter kept"])
def test_two_rounds_and_the_second_one_again(tmp_path: Path, kind: str) -> None:
    rows = [
        reply_row(verdict(response(f"How do I mend {n}?", "I can't help with that.")).response, 0) for n in range(8)
    ]
    name = kind.split()[0]
    raw = tiny_folder(tmp_path / "raw") if name == "llama" else tiny_seq2seq_folder(tmp_path / "raw", name)
    engine = tiny_model() if name == "llama" else tiny_seq2seq(name)
    sft(engine, str(raw), rows, SFTConfig(learning_rate=1e-2, epochs=20), tmp_path / "base", seed=0)
    policy = f"policy={{type: transformers, model: {tmp_path / 'base'}, dtype: bfloat16, device: cpu}}"
    kept = "kept" in kind
    lora = ["sft.lora={rank: 4, keep: true}"] if kept else []
    config = load_config(SCRIPTED, [policy, *SHORT, *SMALL, *FEW, *lora, "sft.learning_rate=1e-3"])
    whole = run(config, tmp_path / "run")
    checkpoint = whole.policy.checkpoint
    assert checkpoint.path == str(tmp_path / "run/rounds/00001/checkpoint")
    assert read_rows(tmp_path / "run/rounds/00001/rows.jsonl")
    file = "adapter_model.safetensors" if kept else "model.safetensors"
    assert (Path(checkpoint.path) / file).exists()
    weights = load_weights(checkpoint.path)

    one = run(config.model_copy(update={"rounds": 1}), tmp_path / "one")  # stopped after its first round
    folder = tmp_path / "run"
    for place in ("evals/final", "rounds/00001"):
        shutil.rmtree(folder / place)
    shutil.copytree(str(one.policy.checkpoint.path), folder / "rounds/00000/checkpoint")
    again = run(config, folder)
    assert again.policy.checkpoint.digest == checkpoint.digest
    assert all(torch.equal(t, weights[n]) for n, t in load_weights(str(again.policy.checkpoint.path)).items())
