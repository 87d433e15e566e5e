"""Supervised fine-tuning (section 4.5) by TRL's SFTTrainer, in place on the policy's own tensors.

bf16 weights are never trained without fp32 masters: at the paper's learning rate of 2e-6 nearly every
update would round away. The checkpoint is written in the masters' dtype.
"""

import math
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PrinterCallback, Trainer, TrainerCallback, set_seed
from trl.trainer.sft_config import SFTConfig as TRLConfig

from iteralign.config import SFTConfig
from iteralign.errors import ModelError
from iteralign.models.adapters import is_adapter, merge, read_adapter
from iteralign.models.decoding import TorchModel
from iteralign.models.seq2seq import Seq2SeqModel
from iteralign.models.weights import base_of, fill, load_weights, save, weights_digest
from iteralign.records import Checkpoint, Row
from iteralign.training.labelled import LabelledSFTTrainer
from iteralign.training.lora import unwrap, wrap
from iteralign.training.rows import encode
from iteralign.training.seq2seq import seq2seq_trainer

Watch = Callable[[int, int], None]
SHORT = 128  # tokens


class MasterAdamW(torch.optim.AdamW):
    """AdamW on fp32 masters of a module's parameters: gradients go up, updated weights come down.

    The masters' gradients keep their memory: to allocate it anew costs more than to fill it.
    """

    def __init__(
        self, parameters: Sequence[torch.nn.Parameter], masters: Sequence[torch.Tensor], **settings: Any
    ) -> None:
        self.pairs = [(p, m) for p, m in zip(parameters, masters, strict=True) if p.requires_grad]
        self.gradients: list[torch.Tensor | None] = [None] * len(self.pairs)
        super().__init__([m for _, m in self.pairs], **settings)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for n, (parameter, master) in enumerate(self.pairs):
            if parameter.grad is None:
                master.grad = None
                continue
            kept = self.gradients[n]
            self.gradients[n] = master.grad = torch.empty_like(master) if kept is None else kept
            master.grad.copy_(parameter.grad)
        loss = super().step(closure)
        for parameter, master in self.pairs:
            parameter.copy_(master)
            master.grad = None
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        for parameter, _ in self.pairs:
            parameter.grad = None


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
    encoded = encode(rows, engine.format, config.max_length, config.reply_tokens, config.revision_tokens)
    if not encoded.rows:
        raise ModelError(
            f"all {len(rows)} training rows are longer than sft.max_length {config.max_length} tokens: raise it"
        )
    set_seed(seed % 2**32)  # numpy takes no more
    module, lora = engine.module, config.lora
    adapter = read_adapter(start) if lora is not None and lora.keep and is_adapter(start) else None
    base = start if adapter is None else base_of(adapter)
    masters = {n: w.to(module.device) for n, w in load_weights(base).items()}
    fill(module, masters)
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of the libraries about each other
        trained = module if lora is None else wrap(module, lora, adapter)
        trainer = make_trainer(trained, engine, encoded.rows, config, masters if lora is None else {}, seed)
        if watch is not None:
            trainer.add_callback(Progress(watch))
        with attention_for(encoded.rows, module.device):
            result = trainer.train()
    if lora is not None:
        engine.module, adapter = unwrap(trained, str(Path(base).absolute()) if Path(base).exists() else base)
        masters = merge(masters, adapter)
        fill(engine.module, masters)
    engine.module.eval()
    loss = float(result.training_loss)
    final = {n: masters[n] for n, _ in engine.module.named_parameters()}
    if not (math.isfinite(loss) and all(bool(w.isfinite().all()) for w in final.values())):
        raise ModelError(
            f"training did not converge (loss {loss}, or weights that are not finite): lower sft.learning_rate "
            f"(now {config.learning_rate})"
        )
    save(engine, final, adapter if lora is not None and lora.keep else None, folder)
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


def attention_for(rows: Sequence[dict[str, Any]], device: torch.device) -> AbstractContextManager[Any]:
    """On a CPU the backward pass of flash attention costs a third of a short row's; plain products cost less there,
    and memory that grows with the square of the length."""
    short = max(len(row["input_ids"]) for row in rows) <= SHORT
    return sdpa_kernel(SDPBackend.MATH) if short and device.type == "cpu" else nullcontext()


def make_trainer(
    module: Any,
    engine: TorchModel,
    rows: list[dict[str, Any]],
    config: SFTConfig,
    masters: dict[str, torch.Tensor],
    seed: int,
) -> Trainer:
    shared = arguments(config, engine.module.device, len(rows), seed)
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
    if isinstance(engine, Seq2SeqModel):
        trainer = seq2seq_trainer(module, engine, rows, shared, optimizer)
    else:
        trainer = LabelledSFTTrainer(
            model=module,
            args=TRLConfig(**shared, max_length=None, dataset_kwargs={"skip_prepare_dataset": True}),
            train_dataset=Dataset.from_list(rows),
            processing_class=engine.tokenizer,
            optimizers=(optimizer, None),
        )
    trainer.remove_callback(PrinterCallback)
    return trainer


def arguments(config: SFTConfig, device: torch.device, rows: int, seed: int) -> dict[str, Any]:
    """What every trainer of transformers is told."""
    steps = -(-rows // config.batch) * config.epochs
    return dict(
        output_dir=tempfile.gettempdir(),
        per_device_train_batch_size=config.batch,
        num_train_epochs=config.epochs,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.schedule,
        warmup_steps=round(config.warmup_ratio * steps),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        gradient_checkpointing=device.type == "cuda",
        bf16=False,
        fp16=False,
        use_cpu=device.type == "cpu",
        save_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,  # it would hide a loss that is not finite
        report_to=[],
        disable_tqdm=True,
        seed=seed % 2**32,
        data_seed=seed % 2**32,
        dataloader_pin_memory=False,
    )


class Progress(TrainerCallback):
    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.watch(state.global_step, state.max_steps)
