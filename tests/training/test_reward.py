"""The reward model on a tiny model: planted pairs come out in order, on prompts it has not seen; what it cannot do is named."""

from pathlib import Path
from typing import Any

import pytest
import torch

from iteralign.config import RewardConfig
from iteralign.errors import ModelError
from iteralign.records import Preference, Reply, Response
from iteralign.training.reward import held_out, load_reward, train_reward
from make import prompt
from tiny import tiny_folder, tiny_model, tiny_seq2seq, tiny_seq2seq_folder

NOUNS = [
    "bread",
    "soup",
    "cake",
    "tea",
    "rice",
    "beans",
    "pasta",
    "salad",
    "pizza",
    "curry",
    "stew",
    "toast",
    "jam",
    "butter",
    "cheese",
    "honey",
]
GOOD, BAD = "Sow them in spring.", "Pick them red."
FAST = RewardConfig(learning_rate=3e-3, epochs=6, batch=4, max_length=128, warmup_ratio=0.0, held_out=0.25)


def planted(noun: str) -> Preference:
    asked = prompt(f"How do I make {noun}?")
    return Preference(
        prompt=asked.id,
        item=asked.item,
        split="train",
        wants="answer",
        chat=asked.plain,
        chosen=Reply(text=GOOD, finish="stop"),
        rejected=Reply(text=BAD, finish="stop"),
        origin="revision",
    )


PAIRS = [planted(noun) for noun in NOUNS]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lora", [None, {"rank": 8, "alpha": 16}])
def test_planted_pairs_are_ordered_on_prompts_it_has_not_seen(
    tmp_path: Path, dtype: torch.dtype, lora: dict[str, int] | None
) -> None:
    engine, base = tiny_model(dtype=dtype), str(tiny_folder(tmp_path / "base"))
    before = {n: p.clone() for n, p in engine.module.named_parameters()}
    settings = RewardConfig.model_validate({**FAST.model_dump(), "lora": lora, "learning_rate": 2e-2 if lora else 3e-3})
    made = train_reward(engine, base, PAIRS, settings, tmp_path / "reward", 0)
    assert (made.pairs, made.held_out) == (12, 4)
    assert made.accuracy == 1.0 and made.low is not None and made.low < 1.0
    assert all(torch.equal(before[n], p) for n, p in engine.module.named_parameters()), "the policy was not trained"
    model = load_reward(tmp_path / "reward", engine, 128)
    asked = prompt("How do I make porridge?")
    good, bad, failed = model(
        [
            Response(prompt=asked, reply=Reply(text=GOOD, finish="stop"), policy="p"),
            Response(prompt=asked, reply=Reply(text=BAD, finish="stop"), policy="p"),
            Response(prompt=asked, reply=Reply(text="", finish="failed"), policy="p"),
        ]
    )
    assert good is not None and bad is not None and good > bad and failed is None


def test_the_end_of_an_answer_is_read_where_padding_is_the_same_token(tmp_path: Path) -> None:
    """The tiny tokenizer pads with its end token, as many do: an answer that ends must not score as one that was cut."""
    engine, base = tiny_model(), str(tiny_folder(tmp_path / "base"))
    train_reward(engine, base, PAIRS, FAST, tmp_path / "reward", 0)
    model, asked = load_reward(tmp_path / "reward", engine, 128), prompt("How do I make porridge?")
    ended, cut = (
        Response(prompt=asked, reply=Reply(text=GOOD, finish=finish), policy="p")  # type: ignore[arg-type]
        for finish in ("stop", "length")
    )
    assert model([ended])[0] != model([cut])[0]
    assert model([ended, cut]) == pytest.approx([model([ended])[0], model([cut])[0]], abs=1e-4)


def test_a_prompts_pairs_are_all_on_one_side_and_one_is_always_trained_on() -> None:
    twice = [*PAIRS, *PAIRS]
    for share in (0.0, 0.25, 0.9):
        learnt, kept = held_out(twice, share, 0)
        assert {p.item for p in learnt}.isdisjoint(p.item for p in kept)
        assert len(learnt) + len(kept) == len(twice) and learnt
    assert held_out(PAIRS[:1], 0.9, 0) == (PAIRS[:1], [])


def test_without_held_out_pairs_nothing_is_said_of_its_worth(tmp_path: Path) -> None:
    base = str(tiny_folder(tmp_path / "base"))
    settings = FAST.model_copy(update={"held_out": 0.0, "epochs": 1.0})
    made = train_reward(tiny_model(), base, PAIRS, settings, tmp_path / "reward", 0)
    assert (made.held_out, made.accuracy, made.low) == (0, None, None)


def test_no_pair_that_fits_and_an_encoder_decoder_are_refused_by_name(tmp_path: Path) -> None:
    base = str(tiny_folder(tmp_path / "base"))
    with pytest.raises(ModelError, match=r"none of .* pairs fits reward.max_length 16"):
        train_reward(tiny_model(), base, PAIRS, FAST.model_copy(update={"max_length": 16}), tmp_path / "r", 0)
    folder = str(tiny_seq2seq_folder(tmp_path / "t5", "t5"))
    with pytest.raises(ModelError, match="encoder-decoder"):
        train_reward(tiny_seq2seq("t5"), folder, PAIRS, FAST, tmp_path / "r", 0)


def test_an_architecture_without_a_scoring_head_is_refused_by_name(tmp_path: Path, monkeypatch: Any) -> None:
    from iteralign.training import reward

    class Nothing:
        @staticmethod
        def from_config(config: Any) -> Any:
            raise ValueError("no such classifier")

    monkeypatch.setattr(reward, "AutoModelForSequenceClassification", Nothing)
    with pytest.raises(ModelError, match="no classifier with a scoring head.*llama.*rl.reward: judge"):
        train_reward(tiny_model(), str(tiny_folder(tmp_path / "base")), PAIRS, FAST, tmp_path / "r", 0)
