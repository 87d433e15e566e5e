"""Direct preference optimisation (Rafailov et al. 2023, eq. 7) by TRL's DPOTrainer, in place on the policy's tensors.

The reference's log-probabilities are computed once, before training, from any weights: no second model is held.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import Trainer
from trl.trainer.dpo_config import DPOConfig as TRLConfig
from trl.trainer.dpo_trainer import DPOTrainer

from iteralign.config import DPOConfig
from iteralign.errors import ModelError, NothingFits
from iteralign.models.decoding import TorchModel
from iteralign.models.seq2seq import Seq2SeqModel
from iteralign.models.weights import fill, load_weights
from iteralign.records import Checkpoint, Preference
from iteralign.training.in_place import Task, Watch, placed, train_in_place
from iteralign.training.one_row import answer_in_one_row, log_probs, reads_in_one_row
from iteralign.training.rows import deepened_pairs, encode_pairs


class PairTrainer(DPOTrainer):
    """On rows that are tokens already, with the reference's log-probabilities in them. On a CPU both answers of a pair are
    read in one row."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        answer_in_one_row(self.model)

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        return dataset


def dpo(
    engine: TorchModel,
    start: str,
    reference: str,
    pairs: Sequence[Preference],
    config: DPOConfig,
    folder: Path,
    seed: int,
    watch: Watch | None = None,
) -> Checkpoint:
    """Train `engine` on pairs from the weights at `start`, held near those at `reference` by beta, and write the
    checkpoint to `folder`. Both are what `load_weights` reads. ModelError: an encoder-decoder, or no pair that fits."""
    if isinstance(engine, Seq2SeqModel):
        raise ModelError(
            "DPO compares answers token by token of a decoder-only policy, and this one is an encoder-decoder: use "
            "learn: sft"
        )
    both = [*pairs, *deepened_pairs(pairs, config.deepen, seed)]
    encoded = encode_pairs(both, engine.format, config.max_length, config.answer_tokens)
    if not encoded.rows:
        raise NothingFits(
            f"none of {len(pairs)} pairs fits dpo.max_length {config.max_length} with two different answers: raise it"
        )
    fill(engine.module, load_weights(reference))
    rows = with_reference(engine, encoded.rows, config.batch)

    def make(module: Any, shared: dict[str, Any], optimizer: torch.optim.Optimizer | None) -> Trainer:
        return PairTrainer(
            model=module,
            args=placed(
                TRLConfig(
                    **shared,
                    beta=config.beta,
                    label_smoothing=config.label_smoothing,
                    loss_type=["sigmoid", "sft"] if config.sft else ["sigmoid"],
                    loss_weights=[1.0, config.sft] if config.sft else None,
                    max_length=None,
                    precompute_ref_log_probs=True,
                ),
                module,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=engine.tokenizer,
            optimizers=(optimizer, None),
        )

    longest = max(len(r["prompt_ids"]) + max(len(r["chosen_ids"]), len(r["rejected_ids"])) for r in rows)
    task = Task(make, len(rows), longest, encoded.cut, encoded.rejected, "dpo")
    return train_in_place(engine, start, task, config, folder, seed, watch)


def with_reference(engine: TorchModel, rows: Sequence[dict[str, Any]], batch: int) -> list[dict[str, Any]]:
    """The rows with ref_chosen_logps and ref_rejected_logps: sums of natural logs over an answer's tokens, by the
    weights that the engine holds now."""
    logps = {
        side: answer_logps(engine, [(r["prompt_ids"], r[f"{side}_ids"]) for r in rows], batch)
        for side in ("chosen", "rejected")
    }
    return [
        {**row, "ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
        for row, chosen, rejected in zip(rows, logps["chosen"], logps["rejected"], strict=True)
    ]


@torch.no_grad()
def answer_logps(engine: TorchModel, pairs: Sequence[tuple[list[int], list[int]]], batch: int) -> list[float]:
    """log P(answer | prompt) of token lists."""
    module, found = engine.module, list[float]()
    module.eval()
    together = reads_in_one_row(module)
    for at in range(0, len(pairs), batch):
        part = pairs[at : at + batch]
        width = max(len(p) + len(a) for p, a in part)
        ids = torch.full((len(part), width), engine.format.pad_id)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for n, (prompt, answer) in enumerate(part):
            size = len(prompt) + len(answer)
            ids[n, :size] = torch.tensor([*prompt, *answer])
            mask[n, :size] = 1
            labels[n, len(prompt) : size] = ids[n, len(prompt) : size]
        ids, mask, labels = (t.to(module.device) for t in (ids, mask, labels))
        if together:
            found += log_probs(module, ids, mask, labels).sum(1).tolist()
            continue
        logits, own = module(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1], labels[:, 1:] != -100
        logs = logits[own].float().log_softmax(-1).gather(1, ids[:, 1:][own][:, None])[:, 0]
        found += logs.new_zeros(own.shape).masked_scatter(own, logs).sum(1).tolist()
    return found
