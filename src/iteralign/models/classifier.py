"""A model with a classification head: which of its labels an exchange, or a reply alone, has."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from iteralign.config import SequenceClassifierConfig
from iteralign.errors import ModelError, NotApplicable
from iteralign.models.base import LEAST_MASS, Job, Model, choice_from
from iteralign.models.device import pick_device, pick_dtype
from iteralign.models.weights import load_tokenizer, weights_digest
from iteralign.records import Chat, Choice, Reply


class SequenceClassifier(Model):
    """A chat of a question and its reply is read as a pair of texts, a single message as one text. What is too long
    loses its end."""

    def __init__(self, module: Any, tokenizer: Any, name: str, batch: int = 32) -> None:
        self.module = module.eval()
        self.tokenizer = tokenizer
        self.batch = batch
        self._name = name
        self.labels = {str(label): int(i) for i, label in module.config.id2label.items()}
        self.several = module.config.problem_type == "multi_label_classification"

    @property
    def name(self) -> str:
        return self._name

    def generate(self, jobs: Sequence[Job]) -> list[Reply]:
        raise NotApplicable(f"{self.name} is a classifier and writes nothing: give this role a language model")

    @torch.inference_mode()
    def choose(self, chats: Sequence[Chat], options: Sequence[str]) -> list[Choice]:
        """Probabilities among the options. ModelError: an option is none of its labels."""
        if unknown := [o for o in options if o not in self.labels]:
            raise ModelError(f"{self.name} has no label {', '.join(unknown)}: its labels are {', '.join(self.labels)}")
        found: list[Choice] = []
        for at in range(0, len(chats), self.batch):
            logits = self._logits(chats[at : at + self.batch])
            p = torch.sigmoid(logits) if self.several else torch.softmax(logits, dim=-1)
            least = 0.0 if self.several else LEAST_MASS  # labels that do not exclude each other may all be absent
            found += [choice_from({o: float(row[self.labels[o]]) for o in options}, least=least) for row in p]
        return found

    def _logits(self, chats: Sequence[Chat]) -> torch.Tensor:
        texts = [tuple(m.content for m in chat) for chat in chats]
        pairs = all(len(t) == 2 for t in texts)
        columns = [[t[k] for t in texts] for k in range(2)] if pairs else [["\n".join(t) for t in texts]]
        most = min(int(self.tokenizer.model_max_length), positions(self.module))
        ids = self.tokenizer(*columns, padding=True, truncation=True, max_length=most, return_tensors="pt")
        self.meter.add(int(ids["attention_mask"].sum()), 0, len(chats))
        return self.module(**ids.to(self.module.device)).logits.float()


def positions(module: Any) -> int:
    """How many tokens it reads: RoBERTa counts them from behind its padding token's, and so has fewer than positions."""
    most = int(getattr(module.config, "max_position_embeddings", None) or 512)
    numbered = (m for name, m in module.named_modules() if name.endswith("position_embeddings"))
    padding = next((p for m in numbered if (p := getattr(m, "padding_idx", None)) is not None), None)
    return most if padding is None else most - padding - 1


def load_classifier(config: SequenceClassifierConfig, source: str) -> SequenceClassifier:
    """A folder or hub id. dtype auto is float32: classifiers are small, and their thresholds were set in it."""
    device = pick_device(config.device)
    try:
        module, loaded = AutoModelForSequenceClassification.from_pretrained(
            source,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=config.trust_remote_code,
            output_loading_info=True,
        )
        tokenizer = load_tokenizer(source, config.trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"cannot load a classifier from {source}: {error}") from error
    if loaded["missing_keys"]:
        raise ModelError(
            f"{source} has no classification head ({', '.join(sorted(loaded['missing_keys'])[:3])} would be random): name "
            "a classifier, or take type: transformers for a guard model that answers with a label"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    module.config.pad_token_id = tokenizer.pad_token_id  # or a decoder's head looks at the padding of a batch
    name = f"classifier:{weights_digest(dict(module.named_parameters()))}"
    dtype = torch.float32 if config.dtype == "auto" else pick_dtype(config.dtype, device)
    return SequenceClassifier(module.to(device=device, dtype=dtype), tokenizer, name, config.batch)
