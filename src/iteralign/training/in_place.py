"""Training in place: the policy's own tensors under fp32 masters, by any of transformers' trainers.

bf16 weights are never trained without fp32 masters: at the paper's learning rate of 2e-6 nearly every
update would round away. The checkpoint is written in the masters' dtype.
"""

import math
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.adamw import adamw
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from iteralign.config import TrainConfig
from iteralign.errors import ModelError
from iteralign.models.adapters import is_adapter, merge, read_adapter
from iteralign.models.decoding import TorchModel
from iteralign.models.weights import base_of, fill, load_weights, save, weights_digest
from iteralign.records import Checkpoint
from iteralign.training.lora import unwrap, wrap

Watch = Callable[[int, int], None]
Arguments = TypeVar("Arguments", bound=TrainingArguments)
Make = Callable[[Any, dict[str, Any], torch.optim.Optimizer | None], Trainer]
SHORT = 128  # tokens
PIECE = 1 << 18  # numbers: of five such pieces a core's cache holds its part


class Task(NamedTuple):
    """What is trained on: `make` is given the module, the arguments that every trainer takes and an optimizer (None:
    the trainer's own). `longest`: tokens of the longest of `rows`; `section`: where the config names its settings."""

    make: Make
    rows: int
    longest: int
    cut: int
    rejected: int
    section: str


class MasterAdamW(torch.optim.AdamW):
    """AdamW on fp32 masters of a module's parameters: gradients go up, updated weights come down.

    Piece by piece: a piece's gradient, moments and weights stay in the processor's cache from one to the next, and no
    gradient in fp32 is ever held whole. All of it together is a step's memory traffic, which is what a step waits for.
    """

    def __init__(
        self, parameters: Sequence[torch.nn.Parameter], masters: Sequence[torch.Tensor], **settings: Any
    ) -> None:
        self.pairs = [(p, m) for p, m in zip(parameters, masters, strict=True) if p.requires_grad]
        super().__init__([m for _, m in self.pairs], **settings)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None if closure is None else closure()
        [group] = self.param_groups
        for parameter, master in self.pairs:
            if parameter.grad is not None:
                self._update(parameter, master, group)
        return loss

    def _update(self, parameter: torch.nn.Parameter, master: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[master]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=master.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(master), torch.zeros_like(master)
        count, beta = state["step"], group["betas"]
        assert parameter.grad is not None
        whole = (master, parameter.grad, state["exp_avg"], state["exp_avg_sq"], parameter.data)
        small = master.device.type == "cpu" and all(t.is_contiguous() for t in whole)
        for own, gradient, mean, square, low in zip(
            *(t.view(-1).split(PIECE) if small else [t] for t in whole), strict=True
        ):
            adamw(
                [own],
                [gradient.float()],
                [mean],
                [square],
                [],
                [count.clone()],  # it is counted up for each piece, and a parameter has made one step
                fused=True,
                amsgrad=False,
                maximize=False,
                beta1=beta[0],
                beta2=beta[1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
            )
            low.copy_(own)
        count += 1

    def zero_grad(self, set_to_none: bool = True) -> None:
        for parameter, _ in self.pairs:
            parameter.grad = None


def train_in_place(
    engine: TorchModel,
    start: str,
    task: Task,
    config: TrainConfig,
    folder: Path,
    seed: int,
    watch: Watch | None = None,
) -> Checkpoint:
    """Train `engine` from the weights at `start` and write the checkpoint to `folder`.

    `start` is what `load_weights` reads: a checkpoint folder, or the base's own source. ModelError: the loss or a
    weight is not finite.
    """
    set_seed(seed % 2**32)  # numpy takes no more
    module, lora = engine.module, config.lora
    adapter = read_adapter(start) if lora is not None and lora.keep and is_adapter(start) else None
    base = start if adapter is None else base_of(adapter)
    masters = {n: w.to(module.device) for n, w in load_weights(base).items()}
    fill(module, masters)
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of the libraries about each other
        trained = module if lora is None else wrap(module, lora, adapter)
        optimizer = optimizer_for(trained, config, masters if lora is None else {})
        trainer = task.make(trained, arguments(config, module.device, task.rows, seed), optimizer)
        trainer.remove_callback(PrinterCallback)
        if watch is not None:
            trainer.add_callback(Progress(watch))
        with attention_for(task.longest, module.device):
            result = trainer.train()
    if lora is not None:
        engine.module, adapter = unwrap(trained, str(Path(base).absolute()) if Path(base).exists() else base)
        masters = merge(masters, adapter)
        fill(engine.module, masters)
    engine.module.__dict__.pop("forward", None)  # TRL puts one of its own before the model's
    engine.module.eval()
    loss = float(result.training_loss)
    final = {n: masters[n] for n, _ in engine.module.named_parameters()}
    if not (math.isfinite(loss) and all(bool(w.isfinite().all()) for w in final.values())):
        raise ModelError(
            f"training did not converge (loss {loss}, or weights that are not finite): lower "
            f"{task.section}.learning_rate (now {config.learning_rate})"
        )
    save(engine, final, adapter if lora is not None and lora.keep else None, folder)
    digest = weights_digest(final)
    engine.rename(f"transformers:{digest}")
    return Checkpoint(
        path=str(folder),
        parent=start,
        digest=digest,
        rows=task.rows,
        cut=task.cut,
        rejected=task.rejected,
        steps=int(result.global_step),
        loss=round(loss, 4),
    )


def attention_for(longest: int, device: torch.device) -> AbstractContextManager[Any]:
    """On a CPU the backward pass of flash attention costs a third of a short row's; plain products cost less there,
    and memory that grows with the square of the length."""
    return sdpa_kernel(SDPBackend.MATH) if longest <= SHORT and device.type == "cpu" else nullcontext()


def optimizer_for(module: Any, config: TrainConfig, masters: dict[str, torch.Tensor]) -> torch.optim.Optimizer | None:
    """On the masters where there are some; fp32 weights are their own, and go into `masters`."""
    named = list(module.named_parameters())
    if masters and next(module.parameters()).dtype != torch.float32:
        return MasterAdamW(
            [p for _, p in named],
            [masters[n] for n, _ in named],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
        )
    masters.update({name: parameter.data for name, parameter in named if name in masters})
    return None


def arguments(config: TrainConfig, device: torch.device, rows: int, seed: int) -> dict[str, Any]:
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


def placed(made: Arguments, module: Any) -> Arguments:
    """transformers would move a module to the first GPU and spread it over all that it sees: it stays where it is."""
    if module.device.type == "cuda":
        torch.cuda.set_device(module.device)
        made.__dict__.update(_n_gpu=1, _setup_devices=module.device)
    return made


class Progress(TrainerCallback):
    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.watch(state.global_step, state.max_steps)
