"""Constrained SFT on a tiny model: the loss is the paper's, the first tokens stay near the start, the others are learnt."""

from pathlib import Path

import pytest
import torch

from iteralign.config import ConstrainConfig, SFTConfig
from iteralign.errors import ModelError
from iteralign.models.weights import fill, load_weights
from iteralign.training.constrained import losses, with_reference
from iteralign.training.rows import encode
from iteralign.training.sft import sft
from make import BREAD_ROWS
from tiny import tiny_folder, tiny_model, tiny_seq2seq, tiny_seq2seq_folder

FAST = SFTConfig(learning_rate=1e-2, epochs=20, batch=4, max_length=128, warmup_ratio=0.0)
FIRST = ConstrainConfig(tokens=3, beta=20.0)


def test_the_loss_of_a_first_token_begins_as_cross_entropy_and_fades() -> None:
    logp = torch.tensor([-2.0, -1.0, -2.0], requires_grad=True)
    made = losses(logp, torch.tensor([-2.0, -2.0, -2.0]), torch.tensor([True, True, False]), beta=2.0)
    made.sum().backward()
    assert made[0].item() == pytest.approx(0.6931, abs=1e-4) and made[2].item() == 2.0
    assert logp.grad is not None
    at_start, above, other = (-logp.grad).tolist()
    assert at_start == pytest.approx(1.0) and other == pytest.approx(1.0), "cross-entropy's gradient"
    assert above == pytest.approx(2 / (1 + 2.718281828**2), abs=1e-4), "2 sigmoid(-beta x)"


def rise(folder: Path, constrain: ConstrainConfig) -> tuple[float, float]:
    """How much likelier training made an answer's first three tokens and the others, nats a token."""
    base = str(tiny_folder(folder / "base"))
    engine = tiny_model()
    fill(engine.module, load_weights(base))
    rows = encode(BREAD_ROWS, engine.format, 128).rows
    before = with_reference(engine, rows, FIRST)
    sft(engine, base, BREAD_ROWS, FAST.model_copy(update={"constrain": constrain}), folder / "made", 0)
    after = with_reference(engine, rows, FIRST)

    def mean(first: bool) -> float:
        places = [
            (row["reference"][n], then["reference"][n])
            for row, then in zip(before, after, strict=True)
            for n, label in enumerate(row["labels"])
            if label != -100 and row["first"][n] is first
        ]
        return sum(b - a for a, b in places) / len(places)

    return mean(True), mean(False)


def test_the_first_tokens_stay_near_the_start_and_the_others_are_learnt(tmp_path: Path) -> None:
    plain_first, plain_rest = rise(tmp_path / "plain", ConstrainConfig())
    first, rest = rise(tmp_path / "constrained", FIRST)
    assert plain_first > 1.0 and plain_rest > 1.0, "the case is not the one that was meant"
    assert first < 0.5 * plain_first
    assert rest > 0.7 * plain_rest


def test_an_encoder_decoder_is_refused_by_name(tmp_path: Path) -> None:
    base = str(tiny_seq2seq_folder(tmp_path / "base", "t5"))
    with pytest.raises(ModelError, match="sft.constrain.*encoder-decoder"):
        sft(tiny_seq2seq("t5"), base, BREAD_ROWS, FAST.model_copy(update={"constrain": FIRST}), tmp_path / "made", 0)
