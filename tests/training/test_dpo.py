"""DPO on a tiny model: the margin rises, the reference is the one asked for, what does not fit is named."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from iteralign.config import DeepenConfig, DPOConfig, SFTConfig, TransformersConfig
from iteralign.errors import ModelError
from iteralign.models.weights import fill, load_weights
from iteralign.records import Preference, Reply
from iteralign.training.dpo import PairTrainer, answer_logps, dpo, with_reference
from iteralign.training.policy import BASE, Engine, Policy, train, train_on_pairs
from iteralign.training.rows import deepened_pairs, encode_pairs
from make import BREAD_ROWS, prompt
from tiny import tiny_folder, tiny_model, tiny_seq2seq, tiny_seq2seq_folder

PAIR = Preference(
    prompt="1",
    item="1",
    split="train",
    wants="decline",
    chat=prompt("How do I bake bread?").plain,
    chosen=Reply(text="I'm sorry, but I can't.", finish="stop"),
    rejected=Reply(text="Mix flour and water.", finish="stop"),
    origin="revision",
)
FAST = DPOConfig(learning_rate=1e-3, epochs=10, batch=2, max_length=128, warmup_ratio=0.0)


def margin(engine: Any) -> float:
    """log P(chosen) - log P(rejected)."""
    [row] = encode_pairs([PAIR], engine.format, 128).rows
    chosen, rejected = answer_logps(engine, [(row["prompt_ids"], row[k]) for k in ("chosen_ids", "rejected_ids")], 2)
    return chosen - rejected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 8}])
def test_one_planted_pair_raises_its_margin(tmp_path: Path, dtype: torch.dtype, lora: dict[str, int] | None) -> None:
    base = str(tiny_folder(tmp_path / "base"))
    engine = tiny_model(dtype=dtype)
    fill(engine.module, load_weights(base))
    before = margin(engine)
    settings = DPOConfig.model_validate({**FAST.model_dump(), "lora": lora, "learning_rate": 1e-2 if lora else 1e-3})
    made = dpo(engine, base, base, [PAIR, PAIR], settings, tmp_path / "made", 0)
    assert margin(engine) > before + 0.5
    assert made.rows == 2 and made.steps == 10 and made.loss is not None and made.loss < math.log(2)
    again = tiny_model(dtype=dtype)
    fill(again.module, load_weights(str(tmp_path / "made")))
    assert margin(again) == pytest.approx(margin(engine), abs=1e-3), "the checkpoint holds what was trained"


def test_the_first_loss_is_ln_2_where_the_reference_is_the_start_and_not_otherwise(tmp_path: Path) -> None:
    """At the reference the two log-ratios are 0, and -log sigmoid(0) = ln 2: the reference was measured as TRL does."""
    base, other = str(tiny_folder(tmp_path / "base")), str(tiny_folder(tmp_path / "other", seed=5))
    engine, once = tiny_model(), FAST.model_copy(update={"epochs": 1.0, "beta": 1.0})
    same = dpo(engine, base, base, [PAIR], once, tmp_path / "a", 0)
    assert same.loss == pytest.approx(math.log(2), abs=1e-3)
    apart = dpo(engine, base, other, [PAIR], once, tmp_path / "b", 0)
    assert apart.loss is not None and abs(apart.loss - math.log(2)) > 0.01


def test_beside_it_the_chosen_answer_is_learnt_by_its_weight(tmp_path: Path) -> None:
    """The first loss is ln 2 and the weight times the chosen answer's mean -log P; and that answer becomes likelier."""
    base = str(tiny_folder(tmp_path / "base"))
    engine = tiny_model()
    [row] = encode_pairs([PAIR], engine.format, 128).rows

    def chosen() -> float:
        return answer_logps(engine, [(row["prompt_ids"], row["chosen_ids"])], 1)[0] / len(row["chosen_ids"])

    fill(engine.module, load_weights(base))
    before = chosen()
    once = FAST.model_copy(update={"epochs": 1.0, "sft": 0.5})
    assert dpo(engine, base, base, [PAIR], once, tmp_path / "a", 0).loss == pytest.approx(
        math.log(2) - 0.5 * before, abs=1e-3
    )
    found: dict[float, float] = {}
    for weight in (0.0, 1.0):
        dpo(engine, base, base, [PAIR, PAIR], FAST.model_copy(update={"sft": weight}), tmp_path / f"{weight}", 0)
        found[weight] = chosen() - before
    assert found[1.0] > found[0.0] and found[1.0] > 0.1


@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 8}, {"rank": 4, "alpha": 8, "keep": True}])
def test_in_the_second_round_the_base_is_another_reference_than_the_rounds_start(
    tmp_path: Path, lora: dict[str, Any] | None
) -> None:
    engine = Engine(TransformersConfig(model=str(tiny_folder(tmp_path / "base")), dtype="float32"))
    first = train(
        Policy(engine, BASE),
        BREAD_ROWS,
        SFTConfig.model_validate({"learning_rate": 1e-2, "lora": lora}),
        tmp_path / "first",
        0,
    )
    losses: dict[str, float | None] = {}
    for reference in ("round", "base"):
        settings = DPOConfig.model_validate(
            {**FAST.model_dump(), "epochs": 1, "beta": 1.0, "lora": lora, "reference": reference}
        )
        made = train_on_pairs(Policy(engine, first.checkpoint), [PAIR], settings, tmp_path / reference, 0)
        losses[reference] = made.checkpoint.loss
    assert losses["round"] == pytest.approx(math.log(2), abs=1e-3)
    assert losses["base"] is not None and abs(losses["base"] - math.log(2)) > 0.01


def test_answers_are_measured_alike_where_they_are_not_read_in_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny_model()
    rows = encode_pairs([PAIR], engine.format, 128).rows
    pairs = [(row["prompt_ids"], row[k]) for row in rows for k in ("chosen_ids", "rejected_ids")]
    together = answer_logps(engine, pairs, 2)
    monkeypatch.setattr("iteralign.training.dpo.reads_in_one_row", lambda module: False)
    assert answer_logps(engine, pairs, 2) == pytest.approx(together, abs=1e-3)
    assert together[0] != pytest.approx(together[1], abs=0.1)


def test_the_model_is_left_as_generation_knows_it(tmp_path: Path) -> None:
    base = str(tiny_folder(tmp_path / "base"))
    engine = tiny_model()
    dpo(engine, base, base, [PAIR], FAST.model_copy(update={"epochs": 1.0}), tmp_path / "made", 0)
    assert "forward" not in engine.module.__dict__ and not engine.module.training


def test_answers_are_compared_up_to_a_length_and_equal_ones_are_left_out(tmp_path: Path) -> None:
    engine = tiny_model()
    form = engine.format
    late = PAIR.model_copy(update={"rejected": Reply(text="I'm sorry, but I can't say.", finish="stop")})
    short = encode_pairs([PAIR, late], form, 128, answer_tokens=2)
    assert (len(short.rows), short.rejected) == (1, 1)
    assert all(len(short.rows[0][k]) == 2 for k in ("chosen_ids", "rejected_ids"))
    cut = PAIR.model_copy(update={"rejected": Reply(text="Mix flour", finish="length")})
    [row] = encode_pairs([cut], form, 128).rows
    assert row["chosen_ids"][-1] == form.end_ids[-1] and row["rejected_ids"][-1] != form.end_ids[-1]
    assert encode_pairs([PAIR], form, 4).rejected == 1


def test_no_pair_that_fits_and_an_encoder_decoder_are_refused_by_name(tmp_path: Path) -> None:
    base = str(tiny_folder(tmp_path / "base"))
    with pytest.raises(ModelError, match="none of 1 pairs fits dpo.max_length 16"):
        dpo(tiny_model(), base, base, [PAIR], DPOConfig(max_length=16), tmp_path / "made", 0)
    folder = str(tiny_seq2seq_folder(tmp_path / "t5", "t5"))
    with pytest.raises(ModelError, match="encoder-decoder"):
        dpo(tiny_seq2seq("t5"), folder, folder, [PAIR], FAST, tmp_path / "made", 0)


def test_the_reference_is_measured_as_trl_measures(tmp_path: Path) -> None:
    from datasets import Dataset
    from trl.trainer.dpo_config import DPOConfig as TRLConfig

    engine = tiny_model()
    rows = with_reference(engine, encode_pairs([PAIR], engine.format, 128).rows, 2)
    trainer = PairTrainer(
        model=engine.module,
        args=TRLConfig(
            output_dir=str(tmp_path),
            precompute_ref_log_probs=True,
            max_length=None,
            use_cpu=True,
            report_to=[],
            bf16=False,
            gradient_checkpointing=False,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=engine.tokenizer,
    )
    batch = trainer.data_collator(rows)
    chosen, rejected = trainer.compute_ref_log_probs(engine.module, batch)
    assert float(chosen) == pytest.approx(rows[0]["ref_chosen_logps"], abs=1e-3)
    assert float(rejected) == pytest.approx(rows[0]["ref_rejected_logps"], abs=1e-3)


def test_a_deepened_pair_compares_turning_back_with_going_on() -> None:
    form = tiny_model().format
    [made] = deepened_pairs([PAIR], DeepenConfig(share=1.0, tokens=2), 0)
    [plain], [row] = encode_pairs([PAIR], form, 128).rows, encode_pairs([made], form, 128).rows
    k = made.begun_tokens
    assert k in (1, 2)
    assert row["prompt_ids"] == plain["prompt_ids"] + plain["rejected_ids"][:k]
    assert row["rejected_ids"] == plain["rejected_ids"][k:]
    assert form.tokenizer.decode(row["chosen_ids"], skip_special_tokens=True) == f" {PAIR.chosen.text}"
    late = PAIR.model_copy(update={"begun_tokens": 100})
    assert encode_pairs([late], form, 128).rejected == 1, "its failing answer is over by then"
    others = [PAIR.model_copy(update={"origin": "contrast"}), PAIR.model_copy(update={"wants": "answer"})]
    assert deepened_pairs(others, DeepenConfig(share=1.0), 0) == []


def test_dpo_learns_deepened_pairs_beside_the_others(tmp_path: Path) -> None:
    base = str(tiny_folder(tmp_path / "base"))
    settings = FAST.model_copy(update={"deepen": DeepenConfig(share=1.0, tokens=2), "epochs": 1.0})
    assert dpo(tiny_model(), base, base, [PAIR, PAIR], settings, tmp_path / "made", 0).rows == 4
