"""Supervised fine-tuning of encoder-decoder policies by transformers' Seq2SeqTrainer, on the same rows."""

from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments

from iteralign.models.decoding import TorchModel
from iteralign.training.in_place import placed


def seq2seq_trainer(
    module: Any,
    engine: TorchModel,
    rows: list[dict[str, Any]],
    arguments: dict[str, Any],
    optimizer: torch.optim.Optimizer | None,
) -> Seq2SeqTrainer:
    """The encoder reads a row's input_ids, the decoder learns its labels."""
    if arguments["gradient_checkpointing"] and isinstance(module, PeftModel):
        module.enable_input_require_grads()  # type: ignore[operator] # as TRL does: the frozen input has no gradient
    return Seq2SeqTrainer(
        model=module,
        args=placed(Seq2SeqTrainingArguments(**arguments), module),
        train_dataset=Dataset.from_list(rows),
        data_collator=DataCollatorForSeq2Seq(engine.tokenizer),
        processing_class=engine.tokenizer,
        optimizers=(optimizer, None),
    )
