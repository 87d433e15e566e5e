"""TRL's SFTTrainer with the vocabulary's logits at labelled positions only, for devices without Triton.

There TRL projects every position, the unlabelled prompt too, onto the whole vocabulary: a third of a step's
time where answers are short.
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
        labels = inputs["labels"][:, 1:]
        labelled = labels != -100
        hidden = causal.base_model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
        ).last_hidden_state[:, :-1][labelled]
        logits = causal.get_output_embeddings()(hidden).float()
        total = cross_entropy(logits, labels[labelled], reduction="sum")
        return total / (labelled.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch)


def is_plain(model: Any) -> bool:
    """Whether logits are the output embedding of the last hidden state and nothing more, on one CPU."""
    config = model.config.get_text_config()
    bent = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_router_logits")
    return model.device.type == "cpu" and not any(getattr(config, name, None) for name in bent)
