"""LoRA by peft: an adapter put on a module for training, and taken off again as tensors."""

import json
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from transformers.pytorch_utils import Conv1D

from iteralign.config import LoraConfig as Settings
from iteralign.errors import ConfigError
from iteralign.models.adapters import Adapter


def wrap(module: Any, settings: Settings, start: Adapter | None, task: str | None = None) -> PeftModel:
    """An adapter on all linear layers, fresh or going on from `start`; its weights train in fp32. `task`: peft's name of
    what the module does; a classifier's head (SEQ_CLS) is trained whole."""
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules="all-linear" if start is None else start.settings["target_modules"],
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in module.modules()),  # GPT-2's layers are (in, out)
        task_type=task or ("SEQ_2_SEQ_LM" if module.config.is_encoder_decoder else "CAUSAL_LM"),
    )
    if start is not None and (start.settings["r"], start.settings["lora_alpha"]) != (settings.rank, settings.alpha):
        raise ConfigError(
            f"the adapter to go on with has rank {start.settings['r']} and alpha {start.settings['lora_alpha']}, but "
            f"the config's lora has rank {settings.rank} and alpha {settings.alpha}: make them equal, or lora.keep false"
        )
    wrapped = get_peft_model(module, config)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            parameter.data = parameter.data.float()
    if start is not None:
        set_peft_model_state_dict(wrapped, start.tensors)
    return wrapped  # type: ignore[return-value]


def unwrap(wrapped: Any, base: str) -> tuple[Any, Adapter]:
    """The module as it was before, all of it to be trained again, and the adapter that it wore."""
    tensors = {n: t.detach().cpu().clone() for n, t in get_peft_model_state_dict(wrapped).items()}
    settings = json.loads(json.dumps(wrapped.peft_config["default"].to_dict(), default=sorted))
    module = wrapped.unload()
    module.disable_input_require_grads()
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    return module, Adapter(base, settings, tensors)
