"""Supervised fine-tuning (section 4.5) by TRL's SFTTrainer, in place on the policy's own tensors.

bf16 weights are never trained without fp32 masters: at the paper's learning rate of 2e-6 nearly every
update would round away. The checkpoint is written in the masters' dtype.
"""

import math
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback, set_seed
from trl.trainer.sft_config import SFTConfig as TRLConfig
from trl.trainer.sft_trainer import SFTTrainer

from iteralign.config import SFTConfig
from iteralign.errors import ModelError
from iteralign.models.transformers import TransformersModel
from iteralign.models.weights import load_weights, save_checkpoint, weights_digest
from iteralign.records import Checkpoint, Row
from iteralign.training.rows import encode

Watch = Callable[[int, int], None]


class MasterAdamW(torch.optim.AdamW):
    """AdamW on fp32 masters of a module's parameters: gradients go up, updated weights come down."""

    def __init__(
        self, parameters: Sequence[torch.nn.Parameter], masters: Sequence[torch.Tensor], **settings: Any
    ) -> None:
        self.pairs = [(p, m) for p, m in zip(parameters, masters, strict=True) if p.requires_grad]
        super().__init__([m for _, m in self.pairs], **settings)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for parameter, master in self.pairs:
            master.grad = None if parameter.grad is None else parameter.grad.float()
        loss = super().step(closure)
        for parameter, master in self.pairs:
            parameter.copy_(master)
            master.grad = None
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        for parameter, _ in self.pairs:
            parameter.grad = None


def sft(
    engine: TransformersModel,
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
    encoded = encode(rows, engine.format, config.max_length, config.reply_tokens)
    if not encoded.rows:
        raise ModelError(
            f"all {len(rows)} training rows are longer than sft.max_length {config.max_length} tokens: raise it"
        )
    set_seed(seed % 2**32)  # numpy takes no more
    module = engine.module
    masters = {n: w.to(module.device) for n, w in load_weights(start).items()}
    named = dict(module.named_parameters())
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(masters[name])
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of the libraries about each other
        trained = module if config.lora is None else with_lora(module, config)
        trainer = make_trainer(trained, engine, encoded.rows, config, masters if config.lora is None else {}, seed)
        if watch is not None:
            trainer.add_callback(Progress(watch))
        result = trainer.train()
    if config.lora is not None:
        engine.module = merge_lora(trained, masters)
    engine.module.eval()
    loss = float(result.training_loss)
    final = {n: masters[n] for n in named}
    if not (math.isfinite(loss) and all(bool(w.isfinite().all()) for w in final.values())):
        raise ModelError(
            f"training did not converge (loss {loss}, or weights that are not finite): lower sft.learning_rate "
            f"(now {config.learning_rate})"
        )
    save_checkpoint(engine, final, folder)
    digest = weights_digest(final)
    engine.rename(f"transformers:{digest}")
    return Checkpoint(
        path=str(folder),
        parent=start,
        digest=digest,
        rows=len(encoded.rows),
        cut=encoded.cut,
        rejected=encoded.rejected,
        steps=int(result.global_step),
        loss=round(loss, 4),
    )


def make_trainer(
    module: Any,
    engine: TransformersModel,
    rows: list[dict[str, Any]],
    config: SFTConfig,
    masters: dict[str, torch.Tensor],
    seed: int,
) -> SFTTrainer:
    steps = -(-len(rows) // config.batch) * config.epochs
    arguments = TRLConfig(
        output_dir=tempfile.gettempdir(),
        per_device_train_batch_size=config.batch,
        num_train_epochs=config.epochs,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.schedule,
        warmup_steps=round(config.warmup_ratio * steps),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        gradient_checkpointing=engine.module.device.type == "cuda",
        bf16=False,
        fp16=False,
        use_cpu=engine.module.device.type == "cpu",
        save_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,  # it would hide a loss that is not finite
        report_to=[],
        disable_tqdm=True,
        seed=seed % 2**32,
        data_seed=seed % 2**32,
        dataloader_pin_memory=False,
    )
    optimizer = None
    if masters and next(module.parameters()).dtype != torch.float32:
        named = list(module.named_parameters())
        optimizer = MasterAdamW(
            [p for _, p in named],
            [masters[n] for n, _ in named],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )
    elif masters:  # fp32 weights are their own masters
        for name, parameter in module.named_parameters():
            masters[name] = parameter.data
    trainer = SFTTrainer(
        model=module,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=engine.tokenizer,
        optimizers=(optimizer, None),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


class Progress(TrainerCallback):
    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.watch(state.global_step, state.max_steps)


def with_lora(module: Any, config: SFTConfig) -> Any:
    """The module with a fresh adapter on all linear layers; adapter weights train in fp32."""
    from peft import LoraConfig, get_peft_model

    assert config.lora is not None
    settings = LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    wrapped = get_peft_model(module, settings)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
    return wrapped


def merge_lora(wrapped: Any, masters: dict[str, torch.Tensor]) -> Any:
    """Adds each adapter's product to its master in fp32 and takes the adapter off again."""
    with torch.no_grad():
        for name, layer in wrapped.base_model.model.named_modules():
            if hasattr(layer, "get_delta_weight") and "default" in getattr(layer, "lora_A", {}):
                masters[f"{name}.weight"] += layer.get_delta_weight("default").float()
    module = wrapped.unload()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(masters[name])
            parameter.requires_grad_(True)
    return module
