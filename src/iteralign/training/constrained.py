"""Constrained SFT (Qi et al. 2024, arXiv 2406.05946, eq. 3): the first tokens of an answer stay near what they were.

Whether an answer declines shows in its first tokens, and fine-tuning on a few other rows moves these first. Here a
token's pull fades as its likelihood leaves that under the weights that training began with.
"""

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from torch.nn.functional import logsigmoid
from transformers import Trainer, TrainingArguments

from iteralign.config import ConstrainConfig
from iteralign.models.decoding import TorchModel
from iteralign.training.in_place import placed

UNLABELLED = -100


class ConstrainedTrainer(Trainer):
    """On rows of `with_reference`; the mean over a batch's labelled tokens, as plain SFT's."""

    beta = 1.0

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        out = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
        labels = inputs["labels"][:, 1:]
        labelled = labels != UNLABELLED
        logp = out.logits[:, :-1][labelled].float().log_softmax(-1).gather(1, labels[labelled][:, None])[:, 0]
        first, reference = (inputs[k][:, 1:][labelled] for k in ("first", "reference"))
        count = labelled.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        loss = losses(logp, reference, first, self.beta).sum() / count
        return (loss, out) if return_outputs else loss


def losses(logp: torch.Tensor, reference: torch.Tensor, first: torch.Tensor, beta: float) -> torch.Tensor:
    """Of each token, from its log-probability now and under the reference: -(2 / beta) log sigmoid(beta (logp -
    reference)) for the first ones, whose gradient is cross-entropy's at the start; -logp, the limit for beta 0, for the
    others."""
    return torch.where(first, -2 / beta * logsigmoid(beta * (logp - reference)), -logp)


def constrained_trainer(
    module: Any,
    engine: TorchModel,
    rows: list[dict[str, Any]],
    config: ConstrainConfig,
    shared: dict[str, Any],
    optimizer: torch.optim.Optimizer | None = None,
) -> Trainer:
    pads = {"input_ids": engine.format.pad_id, "labels": UNLABELLED, "reference": 0.0, "first": False}

    def collate(part: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        width = max(len(row["input_ids"]) for row in part)
        batch = {
            name: torch.tensor([[*row[name], *[pad] * (width - len(row[name]))] for row in part])
            for name, pad in pads.items()
        }
        lengths = torch.tensor([len(row["input_ids"]) for row in part])
        return {**batch, "attention_mask": (torch.arange(width) < lengths[:, None]).long()}

    trainer = ConstrainedTrainer(
        model=module,
        args=placed(TrainingArguments(**shared, remove_unused_columns=False), module),
        train_dataset=Dataset.from_list(rows),
        data_collator=collate,
        optimizers=(optimizer, None),
    )
    trainer.beta = config.beta
    return trainer


@torch.no_grad()
def with_reference(engine: TorchModel, rows: Sequence[dict[str, Any]], config: ConstrainConfig) -> list[dict[str, Any]]:
    """The rows of `encode` with `reference`, the log-probability of each labelled token by the weights that the engine
    holds now, and `first`: whether it is one of the first `config.tokens` of its answer."""
    engine.module.eval()
    made: list[dict[str, Any]] = []
    for row in rows:
        ids = torch.tensor([row["input_ids"]], device=engine.module.device)
        logs = engine.module(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
        told = logs.gather(1, ids[0, 1:, None])[:, 0].tolist()
        labelled = [label != UNLABELLED for label in row["labels"]]
        start = labelled.index(True)
        made.append(
            {
                **row,
                "reference": [0.0, *(x if own else 0.0 for x, own in zip(told, labelled[1:], strict=True))],
                "first": [own and n < start + config.tokens for n, own in enumerate(labelled)],
            }
        )
    return made
