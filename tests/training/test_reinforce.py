"""RLOO and GRPO on a tiny model: a planted reward rises, the penalty holds it back, what it cannot do is named."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from iteralign.config import RLConfig
from iteralign.errors import ConfigError, ModelError
from iteralign.models.weights import fill, load_weights
from iteralign.records import Response
from iteralign.training.reinforce import reinforce
from make import prompt
from tiny import tiny_folder, tiny_model, tiny_seq2seq, tiny_seq2seq_folder

PROMPTS = [
    prompt(f"How do I make {noun}?") for noun in ["bread", "soup", "cake", "tea", "rice", "beans", "pasta", "salad"]
]
FAST = RLConfig.model_validate(
    {
        "learning_rate": 3e-3,
        "schedule": "constant",
        "warmup_ratio": 0.0,
        "epochs": 50,
        "batch": 16,
        "samples": 8,
        "beta": 0.0,
        "max_length": 96,
        "sampling": {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 8},
    }
)
LETTER = "k"  # in 14 % of what the untrained model says


def has_letter(responses: Sequence[Response]) -> list[float | None]:
    return [float(LETTER in r.reply.text) for r in responses]


def few(config: RLConfig, **changes: Any) -> RLConfig:
    return RLConfig.model_validate({**config.model_dump(), **changes})


def test_rloo_lifts_a_planted_reward_from_below_a_fifth_to_over_four_fifths_in_200_steps(tmp_path: Path) -> None:
    base = str(tiny_folder(tmp_path / "base"))
    engine = tiny_model()
    made = reinforce(engine, base, base, PROMPTS, has_letter, FAST, tmp_path / "made", 0)
    assert made.checkpoint.steps == len(made.rewards) == 200
    assert sum(made.rewards[:3]) / 3 < 0.2 and sum(made.rewards[-10:]) / 10 > 0.8
    assert "forward" not in engine.module.__dict__ and not engine.module.training
    again = tiny_model()
    fill(again.module, load_weights(str(tmp_path / "made")))
    for one, other in zip(engine.module.parameters(), again.module.parameters(), strict=True):
        assert torch.allclose(one, other.to(one.dtype), atol=1e-3), "the checkpoint holds what was trained"


@pytest.mark.parametrize("method", ["rloo", "grpo"])
@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 8}])
def test_both_methods_train_whole_models_and_adapters(tmp_path: Path, method: str, lora: dict[str, int] | None) -> None:
    base = str(tiny_folder(tmp_path / "base"))
    engine = tiny_model(dtype=torch.bfloat16)
    before = [p.clone() for p in tiny_model_at(base).parameters()]
    settings = few(FAST, method=method, lora=lora, epochs=2, beta=0.1, learning_rate=1e-2)
    made = reinforce(engine, base, base, PROMPTS, has_letter, settings, tmp_path / "made", 0)
    assert made.checkpoint.steps == 8 and len(made.kl) > 0
    after = list(engine.module.parameters())
    assert any(not torch.equal(b, a.float()) for b, a in zip(before, after, strict=True))
    assert all(p.requires_grad for p in after) and not [n for n, _ in engine.module.named_parameters() if "lora" in n]


def tiny_model_at(source: str) -> torch.nn.Module:
    engine = tiny_model()
    fill(engine.module, load_weights(source))
    return engine.module


def test_the_penalty_is_towards_the_weights_that_were_named(tmp_path: Path) -> None:
    """At the start the policy is its reference, and nothing is to pay; towards other weights there is."""
    base, other = str(tiny_folder(tmp_path / "base")), str(tiny_folder(tmp_path / "other", seed=5))
    once = few(FAST, epochs=1, beta=0.1)
    same = reinforce(tiny_model(), base, base, PROMPTS, has_letter, once, tmp_path / "a", 0)
    apart = reinforce(tiny_model(), base, other, PROMPTS, has_letter, once, tmp_path / "b", 0)
    assert same.kl[0] == pytest.approx(0.0, abs=1e-3) and apart.kl[0] > 0.5


def test_a_strong_penalty_holds_the_policy_back(tmp_path: Path) -> None:
    base = str(tiny_folder(tmp_path / "base"))
    free = reinforce(tiny_model(), base, base, PROMPTS, has_letter, few(FAST, epochs=15), tmp_path / "a", 0)
    held = reinforce(tiny_model(), base, base, PROMPTS, has_letter, few(FAST, epochs=15, beta=5.0), tmp_path / "b", 0)
    assert sum(held.rewards[-5:]) < sum(free.rewards[-5:])


def test_an_answer_without_a_reward_teaches_nothing_and_none_at_all_is_an_error(tmp_path: Path) -> None:
    base = str(tiny_folder(tmp_path / "base"))

    def half(responses: Sequence[Response]) -> list[float | None]:
        return [None if n % 2 else 1.0 for n, _ in enumerate(responses)]

    made = reinforce(tiny_model(), base, base, PROMPTS, half, few(FAST, epochs=1), tmp_path / "a", 0)
    assert set(made.rewards) == {1.0}
    silent = iter([True, True, False] * 100)
    some = reinforce(
        tiny_model(),
        base,
        base,
        PROMPTS,
        lambda x: [None if next(silent) else 1.0] * len(x),
        few(FAST, epochs=2),
        tmp_path / "s",
        0,
    )
    assert set(some.rewards) == {1.0} and len(some.rewards) < 2 * len(made.rewards), "silent steps are passed over"
    with pytest.raises(ModelError, match="said nothing about the answers of 8 steps in a row"):
        nothing = few(FAST, epochs=20)
        reinforce(tiny_model(), base, base, PROMPTS, lambda x: [None] * len(x), nothing, tmp_path / "b", 0)


def test_the_reward_sees_the_plain_question_and_the_answers_own_text(tmp_path: Path) -> None:
    base, seen = str(tiny_folder(tmp_path / "base")), list[Response]()

    def watch(responses: Sequence[Response]) -> list[float | None]:
        seen.extend(responses)
        return [0.0 for _ in responses]

    reinforce(tiny_model(), base, base, PROMPTS, watch, few(FAST, epochs=1), tmp_path / "a", 0)
    assert {r.prompt.id for r in seen} == {p.id for p in PROMPTS}
    assert len(seen) == len(PROMPTS) * FAST.samples
    assert all("<|im" not in r.reply.text for r in seen)


def test_what_cannot_be_trained_so_is_named(tmp_path: Path) -> None:
    base = str(tiny_folder(tmp_path / "base"))
    with pytest.raises(ModelError, match=r"none of 8 prompts leaves room for 8 new tokens in rl.max_length 16"):
        reinforce(tiny_model(), base, base, PROMPTS, has_letter, few(FAST, max_length=16), tmp_path / "a", 0)
    folder = str(tiny_seq2seq_folder(tmp_path / "t5", "t5"))
    with pytest.raises(ModelError, match="encoder-decoder"):
        reinforce(tiny_seq2seq("t5"), folder, folder, PROMPTS, has_letter, FAST, tmp_path / "b", 0)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"batch": 6, "samples": 4}, "rl.batch is 6"),
        ({"samples": 1, "batch": 4}, "greater than or equal to 2"),
        ({"sampling": {"temperature": 0.0}}, "temperature is 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=named):
        RLConfig.model_validate(wrong)
