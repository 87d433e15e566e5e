"""A checkpoint → one GGUF file, which llama.cpp, Ollama and LM Studio load: Llama, Mistral and Qwen, f16 or Q8_0.

llama.cpp's own convert_hf_to_gguf.py knows every architecture; it needs a checkout of llama.cpp. What is written here is
tried in llama.cpp before it gets its name: it must read the same tokens as the checkpoint's tokenizer, and answer.
"""

import json
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType, get_tensor_name_map, quants
from transformers import AutoConfig

from iteralign.config import LlamaCppConfig
from iteralign.errors import ModelError
from iteralign.models.base import Job, Sampling
from iteralign.models.llama_cpp import LlamaCppModel
from iteralign.models.weights import load_tokenizer, load_weights
from iteralign.records import user

Quantization = Literal["f16", "q8_0"]
FORMATS: dict[str, tuple[GGMLQuantizationType, LlamaFileType]] = {
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
ARCHITECTURES = {
    "llama": MODEL_ARCH.LLAMA,
    "mistral": MODEL_ARCH.LLAMA,
    "qwen2": MODEL_ARCH.QWEN2,
    "qwen3": MODEL_ARCH.QWEN3,
}
NAMES = {MODEL_ARCH.LLAMA: "llama", MODEL_ARCH.QWEN2: "qwen2", MODEL_ARCH.QWEN3: "qwen3"}
ELSE = "convert the exported folder with llama.cpp's convert_hf_to_gguf.py, which knows every architecture"
# How a text is split before byte pairs are merged; llama.cpp knows the ways by name.
SPLITS = {r"\p{N}{1,3}": "llama-bpe", r"|\p{N}|": "qwen2"}
PROBES = (
    "How do I bake bread?",
    "It's 12:30 on 2024-10-05, and it'll cost $1234.56!",
    "  two spaces,\n\na blank line\tand a tab\n",
    "Grüße, naïve café, Ωmega, привет, 你好, 🙂",
    "def f(x):\n    return x**2  # squared",
)


def write_gguf(folder: Path, target: Path, kind: Quantization) -> Path:
    """The checkpoint of a folder as `target`, whole or not at all. Raises ModelError where it cannot be one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    try:
        write(folder, part, kind)
        check(folder, part)
        part.rename(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def write(folder: Path, target: Path, kind: Quantization) -> None:
    config = AutoConfig.from_pretrained(folder)
    if config.model_type not in ARCHITECTURES:
        raise ModelError(f"no GGUF of a {config.model_type} model: expected {', '.join(ARCHITECTURES)}; {ELSE}")
    if config.rope_parameters.get("rope_type", "default") != "default":
        raise ModelError(f"no GGUF of a model whose rope_type is {config.rope_parameters['rope_type']!r}; {ELSE}")
    arch, weights = ARCHITECTURES[config.model_type], load_weights(folder)
    writer = GGUFWriter(target, NAMES[arch])
    add_shape(writer, config, kind)
    add_tokenizer(writer, folder, config)
    add_tensors(writer, config, weights, arch, FORMATS[kind][0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_shape(writer: GGUFWriter, config: Any, kind: Quantization) -> None:
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_rope_dimension_count(head_size)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(FORMATS[kind][1])


def add_tokenizer(writer: GGUFWriter, folder: Path, config: Any) -> None:
    """Byte-level BPE, as it stands in tokenizer.json."""
    tokenizer = load_tokenizer(folder)
    told = json.loads(tokenizer.backend_tokenizer.to_str())
    model = told["model"]
    if model["type"] != "BPE" or model.get("byte_fallback"):
        raise ModelError(f"no GGUF with a tokenizer that is no byte-level BPE ({model['type']}); {ELSE}")
    added = {t["id"]: t for t in told["added_tokens"]}
    known = {i: text for text, i in model["vocab"].items()} | {i: t["content"] for i, t in added.items()}
    kinds = [
        TokenType.UNUSED
        if i not in known
        else (TokenType.CONTROL if added[i]["special"] else TokenType.USER_DEFINED)
        if i in added
        else TokenType.NORMAL
        for i in range(config.vocab_size)
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split_of(told))
    writer.add_token_list([known.get(i, f"[PAD{i}]") for i in range(config.vocab_size)])
    writer.add_token_types(kinds)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in model["merges"]])
    for add, token in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if token is not None:
            add(token)
    writer.add_add_bos_token(tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def split_of(told: Mapping[str, Any]) -> str:
    """llama.cpp's name for a way of splitting."""
    split = told["pre_tokenizer"] or {}
    parts = split.get("pretokenizers", [split])
    patterns = [p["pattern"].get("Regex", "") for p in parts if p.get("type") == "Split"]
    if any(p.get("type") == "Digits" and p.get("individual_digits") for p in parts):
        return "smollm"
    if not patterns and any(p.get("type") == "ByteLevel" and p.get("use_regex") for p in parts):
        return "gpt-2"
    found = [name for mark, name in SPLITS.items() if any(mark in pattern for pattern in patterns)]
    if not found:
        raise ModelError(f"no GGUF with a tokenizer that splits by {patterns or split.get('type')}; {ELSE}")
    return found[0]


def add_tensors(
    writer: GGUFWriter, config: Any, weights: Mapping[str, torch.Tensor], arch: MODEL_ARCH, kind: GGMLQuantizationType
) -> None:
    """Matrices in the format asked for; vectors, and matrices whose rows do not fill its blocks, less compressed."""
    names = get_tensor_name_map(arch, config.num_hidden_layers)
    for name, tensor in weights.items():
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if known is None:
            raise ModelError(f"no GGUF of a model with a tensor {name}; {ELSE}")
        if arch == MODEL_ARCH.LLAMA and ".q_proj." in name:
            tensor = interleaved(tensor, config.num_attention_heads)
        elif arch == MODEL_ARCH.LLAMA and ".k_proj." in name:
            tensor = interleaved(tensor, config.num_key_value_heads)
        data = tensor.contiguous().numpy()
        own = GGMLQuantizationType.F32 if tensor.dim() == 1 else kind
        if own == GGMLQuantizationType.Q8_0 and tensor.shape[-1] % 32:
            own = GGMLQuantizationType.F16
        stored: Any = quants.quantize(data, own) if own != GGMLQuantizationType.F32 else data.astype(np.float32)
        writer.add_tensor(known, stored, raw_dtype=own)


def interleaved(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """llama.cpp rotates neighbouring pairs of a head, transformers its two halves."""
    parts = tensor.view(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return parts.transpose(1, 2).reshape(tensor.shape)


def check(folder: Path, path: Path) -> None:
    """llama.cpp loads the file, splits texts into the checkpoint's tokens, and answers. Raises ModelError."""
    tokenizer, model = load_tokenizer(folder), LlamaCppModel(LlamaCppConfig(type="llama_cpp", model=str(path)), path)
    try:
        for text in PROBES:
            ours = tokenizer(text, add_special_tokens=False)["input_ids"]
            theirs = tokens(model.server.listening_address, text)
            if ours != theirs:
                raise ModelError(f"llama.cpp splits {text!r} into other tokens: {theirs} instead of {ours}; {ELSE}")
        [reply] = model.generate([Job(chat=user(PROBES[0]), sampling=Sampling(temperature=0.0, max_new_tokens=8))])
        if reply.finish == "failed" or not reply.text.strip():
            raise ModelError(f"llama.cpp loads the file and answers nothing with it ({reply.error or 'empty'})")
    finally:
        model.close()


def tokens(address: str, text: str) -> list[int]:
    asked = urllib.request.Request(
        f"{address}/tokenize",
        data=json.dumps({"content": text, "add_special": False}).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return json.load(answer)["tokens"]
