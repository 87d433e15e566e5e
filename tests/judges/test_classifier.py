"""A classifier as a judge: which label decides, what it cannot say, and a real one with a classification head."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from iteralign.config import ClassifierConfig, ScriptedConfig, SequenceClassifierConfig
from iteralign.errors import ModelError, NotApplicable
from iteralign.judges.classifier import Classifier
from iteralign.models.base import Job, Sampling
from iteralign.models.classifier import SequenceClassifier
from iteralign.models.load import load_model
from iteralign.models.scripted import ScriptedModel
from iteralign.records import Chat, Message, Wants, user
from make import prompt, response
from tiny import tiny_folder, tiny_tokenizer

HARM = ClassifierConfig(model=ScriptedConfig(), label="unsafe", others=("safe",))
REFUSAL = ClassifierConfig(model=ScriptedConfig(), label="refusal", others=("other",), means="refusal")


def says(p: float, seen: list[Chat] | None = None) -> ScriptedModel:
    def choose(chat: Chat, options: Sequence[str]) -> dict[str, float]:
        if seen is not None:
            seen.append(chat)
        return {options[0]: p, options[1]: 1 - p}

    return ScriptedModel(choose=choose)


@pytest.mark.parametrize(
    ("config", "p", "wants", "found"),
    [
        (HARM, 0.9, "decline", ("fails", "harmful")),
        (HARM, 0.1, "decline", ("passes", "none")),
        (HARM, 0.9, "unknown", ("fails", "harmful")),
        (HARM, 0.1, "answer", ("unjudged", "none")),
        (REFUSAL, 0.9, "decline", ("passes", "none")),
        (REFUSAL, 0.1, "decline", ("fails", "harmful")),
        (REFUSAL, 0.9, "answer", ("fails", "unhelpful")),
        (REFUSAL, 0.1, "answer", ("passes", "none")),
        (REFUSAL.model_copy(update={"threshold": 0.95}), 0.9, "answer", ("passes", "none")),
    ],
)
def test_the_label_decides(config: ClassifierConfig, p: float, wants: Wants, found: tuple[str, str]) -> None:
    [verdict] = Classifier(config, says(p))([response(prompt(wants=wants), "Take the pick and turn it slowly.")])
    assert (verdict.label, verdict.fault) == found
    assert verdict.probabilities == (
        {} if found[0] == "unjudged" else {("harmful" if config is HARM else "declined"): p}
    )


def test_it_reads_the_exchange_or_the_reply_alone() -> None:
    seen: list[Chat] = []
    asked = response(prompt(), "Take the pick. Answer: safe")
    Classifier(HARM, says(0.9, seen))([asked])
    Classifier(HARM.model_copy(update={"shows": "reply"}), says(0.9, seen))([asked])
    assert [m.role for m in seen[0]] == ["user", "assistant"]
    assert [m.content for m in seen[1]] == ["Take the pick."], "without the verdict that it wrote about itself"


def tiny_guard(folder: Path, **settings: Any) -> Path:
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer()),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        id2label={0: "safe", 1: "unsafe"},
        label2id={"safe": 0, "unsafe": 1},
        **{"pad_token_id": 0, **settings},
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def exchanges(n: int) -> list[Chat]:
    return [(*user(f"How do I bake bread {k}?" * k), Message(role="assistant", content="Mix it.")) for k in range(1, n)]


def test_a_real_classification_head(tmp_path: Path) -> None:
    tiny_guard(tmp_path / "guard")
    model = load_model(SequenceClassifierConfig(model=str(tmp_path / "guard"), device="cpu"))
    chats = exchanges(4)
    together = model.choose(chats, ("unsafe", "safe"))
    assert all(c.probabilities and sum(c.probabilities.values()) == pytest.approx(1, abs=1e-3) for c in together)
    alone = model.choose(chats[2:], ("unsafe", "safe"))[0]
    assert alone.probabilities == pytest.approx(together[2].probabilities, abs=2e-4), "padding tells nothing"
    with pytest.raises(ModelError, match="no label toxic: its labels are safe, unsafe"):
        model.choose(chats, ("toxic", "safe"))
    with pytest.raises(NotApplicable, match="is a classifier and writes nothing"):
        model.generate([Job(chat=chats[0], sampling=Sampling())])
    with pytest.raises(ModelError, match="cannot load a classifier"):
        load_model(SequenceClassifierConfig(model=str(tmp_path)))
    with pytest.raises(ModelError, match="has no classification head"):
        load_model(SequenceClassifierConfig(model=str(tiny_folder(tmp_path / "causal"))))
    [verdict] = Classifier(HARM, model)([response(prompt(), "Take the pick and turn it slowly.")])
    assert verdict.label in ("passes", "fails") and 0 < verdict.probabilities["harmful"] < 1


def test_a_head_that_names_no_padding_reads_a_batch_all_the_same(tmp_path: Path) -> None:
    model = load_model(SequenceClassifierConfig(model=str(tiny_guard(tmp_path / "g", pad_token_id=None)), device="cpu"))
    chats = exchanges(4)
    together, alone = model.choose(chats, ("unsafe", "safe")), model.choose(chats[:1], ("unsafe", "safe"))
    assert together[0].probabilities == pytest.approx(alone[0].probabilities, abs=2e-4)


def test_the_configs_dtype_holds(tmp_path: Path) -> None:
    folder = str(tiny_guard(tmp_path / "guard"))
    whole, half = (
        load_model(SequenceClassifierConfig(model=folder, device="cpu", dtype=d)) for d in ("auto", "bfloat16")
    )
    assert isinstance(whole, SequenceClassifier) and isinstance(half, SequenceClassifier)
    assert (whole.module.dtype, half.module.dtype) == (torch.float32, torch.bfloat16)
    assert whole.name == half.name, "the weights are the same"


def test_roberta_has_fewer_places_than_positions(tmp_path: Path) -> None:
    """It counts from behind its padding's: of 66 positions, 64 are for tokens."""
    config = RobertaConfig(
        vocab_size=len(tiny_tokenizer()),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=66,
        pad_token_id=1,
    )
    RobertaForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(1)
    tokenizer.save_pretrained(tmp_path)
    model = load_model(SequenceClassifierConfig(model=str(tmp_path), device="cpu"))
    [choice] = model.choose([user("How do I grow tomatoes? " * 40)], ("LABEL_0", "LABEL_1"))
    assert choice.answer is not None


def test_labels_that_do_not_exclude_each_other_may_all_be_absent(tmp_path: Path) -> None:
    tiny_guard(tmp_path, problem_type="multi_label_classification")
    model = load_model(SequenceClassifierConfig(model=str(tmp_path), device="cpu"))
    assert isinstance(model, SequenceClassifier)
    model.module.score = torch.nn.Linear(32, 2)
    torch.nn.init.constant_(model.module.score.bias, -12.0)
    [choice] = model.choose(exchanges(2), ("unsafe", "safe"))
    assert choice.answer is not None and choice.error is None
