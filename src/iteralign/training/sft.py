"""Supervised fine-tuning (section 4.5) by TRL's SFTTrainer, in place on the policy's own tensors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import Trainer
from trl.trainer.sft_config import SFTConfig as TRLConfig

from iteralign.config import SFTConfig
from iteralign.errors import ModelError
from iteralign.models.decoding import TorchModel
from iteralign.models.seq2seq import Seq2SeqModel
from iteralign.models.weights import fill, load_weights
from iteralign.records import Checkpoint, Row
from iteralign.training.constrained import constrained_trainer, with_reference
from iteralign.training.in_place import Task, Watch, placed, train_in_place
from iteralign.training.labelled import LabelledSFTTrainer
from iteralign.training.rows import encode
from iteralign.training.seq2seq import seq2seq_trainer


def sft(
    engine: TorchModel,
    start: str,
    rows: Sequence[Row],
    config: SFTConfig,
    folder: Path,
    seed: int,
    watch: Watch | None = None,
) -> Checkpoint:
    """Train `engine` on `rows` from the weights at `start` and write the checkpoint to `folder`.

    `start` is what `load_weights` reads: a checkpoint folder, or the base's own source.
    """
    if (config.deepen.share or config.constrain.tokens) and isinstance(engine, Seq2SeqModel):
        raise ModelError(
            "sft.deepen and sft.constrain look at the first tokens of a decoder-only policy's answer, and this one is an "
            "encoder-decoder"
        )
    encoded = encode(rows, engine.format, config.max_length, config.reply_tokens, config.revision_tokens)
    if not encoded.rows:
        raise ModelError(
            f"all {len(rows)} training rows are longer than sft.max_length {config.max_length} tokens: raise it"
        )

    rows_of = encoded.rows
    if config.constrain.tokens:
        fill(engine.module, load_weights(start))
        rows_of = with_reference(engine, rows_of, config.constrain)

    def make(module: Any, shared: dict[str, Any], optimizer: torch.optim.Optimizer | None) -> Trainer:
        if config.constrain.tokens:
            return constrained_trainer(module, engine, rows_of, config.constrain, shared, optimizer)
        return make_trainer(module, engine, rows_of, shared, optimizer)

    longest = max(len(row["input_ids"]) for row in encoded.rows)
    task = Task(make, len(encoded.rows), longest, encoded.cut, encoded.rejected, "sft")
    return train_in_place(engine, start, task, config, folder, seed, watch)


def make_trainer(
    module: Any,
    engine: TorchModel,
    rows: list[dict[str, Any]],
    shared: dict[str, Any],
    optimizer: torch.optim.Optimizer | None = None,
) -> Trainer:
    """`rows` as `encode` makes them; `shared`: the arguments that every trainer takes."""
    if isinstance(engine, Seq2SeqModel):
        return seq2seq_trainer(module, engine, rows, shared, optimizer)
    return LabelledSFTTrainer(
        model=module,
        args=placed(TRLConfig(**shared, max_length=None, dataset_kwargs={"skip_prepare_dataset": True}), module),
        train_dataset=Dataset.from_list(rows),
        processing_class=engine.tokenizer,
        optimizers=(optimizer, None),
    )
