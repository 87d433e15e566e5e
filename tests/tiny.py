"""A tiny Llama, T5 and BART with a byte-level tokenizer, made in code in a moment: real parts that know nothing."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from iteralign.models.seq2seq import Seq2SeqModel
from iteralign.models.transformers import TransformersModel

START, END = "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXTS = [
    "How do I grow tomatoes in a small garden? Sow them in spring, water them often, and pick them red.",
    "I'm sorry, but I can't help with that. user assistant system yes Yes YES no No NO",
    "Tell me how to bake bread, how to mend a bicycle, and how to write a letter to my aunt.",
]


@cache
def _trained() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, min_frequency=1, special_tokens=[END, START], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def tiny_tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """Its padding token is its end token, as in many real ones: that must not hide the end from training."""
    copy = Tokenizer.from_str(_trained().to_str())
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=copy, eos_token=END, pad_token=END)
    tokenizer.chat_template = template
    return tokenizer


def tiny_module(seed: int = 0, dtype: torch.dtype = torch.float32, **settings: Any) -> LlamaForCausalLM:
    """Weights are drawn wide, so that next-token probabilities differ clearly."""
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer()),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.25,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        dtype=dtype,
        **{"max_position_embeddings": 256, **settings},
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).to(dtype)


def tiny_model(
    seed: int = 0, dtype: torch.dtype = torch.float32, batch: int = 32, template: str | None = TEMPLATE, **settings: Any
) -> TransformersModel:
    """`template` None makes a base model, which speaks in plain Human:/Assistant: turns."""
    return TransformersModel(tiny_module(seed, dtype, **settings), tiny_tokenizer(template), f"tiny:{seed}", batch)


def tiny_folder(folder: Path, seed: int = 0, dtype: torch.dtype = torch.bfloat16, **settings: Any) -> Path:
    """A folder that `from_pretrained` loads; in bf16, as most models are published."""
    tiny_module(seed, dtype, **settings).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


# -- encoder-decoders -----------------------------------------------------------------------------------


def tiny_seq2seq_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """As T5's (an end after every text, padding apart) and BART's (a token in front; the end is the padding too)."""
    copy = Tokenizer.from_str(_trained().to_str())
    around = f"$A {END}" if kind == "t5" else f"{START} $A {END}"
    copy.post_processor = processors.TemplateProcessing(single=around, special_tokens=[(END, 0), (START, 1)])
    return PreTrainedTokenizerFast(tokenizer_object=copy, eos_token=END, pad_token=START if kind == "t5" else END)


def tiny_seq2seq_module(kind: str = "t5", seed: int = 0, dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    size = len(tiny_tokenizer())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "t5":
            config = T5Config(
                vocab_size=size,
                d_model=32,
                d_kv=8,
                d_ff=64,
                num_layers=2,
                num_heads=4,
                initializer_factor=2.0,
                eos_token_id=0,
                pad_token_id=1,
                decoder_start_token_id=1,
                **{"dropout_rate": 0.0, **settings},
            )
            return T5ForConditionalGeneration(config).to(dtype)
        layers = {f"{part}_{what}": n for part in ("encoder", "decoder") for what, n in SIZES.items()}
        bart = BartConfig(
            vocab_size=size,
            d_model=32,
            init_std=0.25,
            bos_token_id=1,
            eos_token_id=0,
            pad_token_id=0,
            decoder_start_token_id=0,
            forced_eos_token_id=None,
            **{"dropout": 0.0, "max_position_embeddings": 256, **layers, **settings},
        )
        return BartForConditionalGeneration(bart).to(dtype)


SIZES = {"layers": 2, "attention_heads": 4, "ffn_dim": 64}


def tiny_seq2seq(
    kind: str = "t5", seed: int = 0, dtype: torch.dtype = torch.float32, batch: int = 32, **settings: Any
) -> Seq2SeqModel:
    module = tiny_seq2seq_module(kind, seed, dtype, **settings)
    return Seq2SeqModel(module, tiny_seq2seq_tokenizer(kind), f"tiny-{kind}:{seed}", batch)


def tiny_seq2seq_folder(folder: Path, kind: str = "t5", dtype: torch.dtype = torch.bfloat16, **settings: Any) -> Path:
    tiny_seq2seq_module(kind, 0, dtype, **settings).save_pretrained(folder)
    tiny_seq2seq_tokenizer(kind).save_pretrained(folder)
    return folder
