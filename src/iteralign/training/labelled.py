"""TRL's SFTTrainer for devices without Triton: the vocabulary's logits at labelled positions only, little padding.

TRL projects every position, the unlabelled prompt too, onto the whole vocabulary, and pads every row to the
longest of its batch: half of a step's time where most answers are short.
"""

from typing import Any

import torch
from torch.nn.functional import cross_entropy
from trl.trainer.sft_trainer import SFTTrainer


class LabelledSFTTrainer(SFTTrainer):
    """The same loss as TRL's `nll`: the mean over the labelled tokens of a batch."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        if return_outputs or not is_plain(model):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        causal = model.get_base_model() if hasattr(model, "peft_config") else model
        lengths = inputs["attention_mask"].sum(dim=1)
        total = torch.zeros((), device=lengths.device)
        for part in by_length(lengths):
            width = int(lengths[part].max())
            ids, mask, labels = (inputs[k][part, :width] for k in ("input_ids", "attention_mask", "labels"))
            labelled = labels[:, 1:] != -100
            hidden = causal.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            logits = causal.get_output_embeddings()(hidden[:, :-1][labelled]).float()
            total = total + cross_entropy(logits, labels[:, 1:][labelled], reduction="sum")
        return total / (
            (inputs["labels"] != -100).sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        )


def by_length(lengths: torch.Tensor) -> list[torch.Tensor]:
    """The rows of a batch, padded on the right, in one part or two: whichever computes the fewest positions.

    A second part counts as `OVERHEAD` positions: what it costs to go through the layers once more.
    """
    order = torch.argsort(lengths)
    widths = lengths[order].tolist()
    n = len(widths)
    cost = {k: k * widths[k - 1] + (n - k) * widths[-1] + (OVERHEAD if k < n else 0) for k in range(1, n + 1)}
    cut = min(cost, key=lambda k: cost[k])
    return [order] if cut == n else [order[:cut], order[cut:]]


OVERHEAD = 32


def is_plain(model: Any) -> bool:
    """Whether logits are the output embedding of the last hidden state and nothing more, on one CPU."""
    config = model.config.get_text_config()
    bent = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_router_logits")
    return model.device.type == "cpu" and not any(getattr(config, name, None) for name in bent)
