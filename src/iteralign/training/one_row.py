"""Log-probabilities of a batch's answers, read in rows in which what several texts begin with stands once.

For TRL's trainers on a CPU. Both answers of a pair follow one prompt, as all samples of RL do, and all prompts one preamble;
TRL goes through each text whole, padded to the longest, and projects every position of it onto the vocabulary.
"""

from collections.abc import Iterator, Sequence
from functools import wraps
from types import SimpleNamespace
from typing import Any

import torch

from iteralign.models.packed import CPU_TOKENS, Tree, common, packs
from iteralign.training.labelled import is_plain

Text = tuple[int, list[int], list[int]]  # which row of the batch, its tokens, which of them are labelled


def reads_in_one_row(module: Any) -> bool:
    """Whether a module's log-probabilities may be read this way: on a CPU, with full attention and a plain head."""
    training = module.training
    try:
        return is_plain(module) and packs(module.eval())  # dropout would tell two readings apart
    finally:
        module.train(training)


def answer_in_one_row(model: Any, temperature: float = 1.0) -> None:
    """`model(labels=…, fused_lm_head=True)`, as TRL's trainers ask, answers from here on with `log_probs`, if it may; what
    else comes with them in TRL are figures for a log that nobody keeps. Every other call is as before. `model`: in PEFT's
    adapter or without; its logits are divided by `temperature`."""
    module = model.get_base_model() if hasattr(model, "peft_config") else model
    if not reads_in_one_row(module):
        return
    before = module.forward

    @wraps(type(module).forward)
    def forward(*arguments: Any, fused_lm_head: bool = False, **named: Any) -> Any:
        if not fused_lm_head:
            return before(*arguments, **named)
        found = log_probs(module, named["input_ids"], named["attention_mask"], named["labels"], temperature)
        none = torch.zeros_like(found)
        return SimpleNamespace(log_probs=found, entropy=none, mean_logits=none, is_top1=none.bool())

    module.forward = forward


def log_probs(
    module: Any, ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """(batch, length − 1) natural logs in fp32: of each token but the first, 0 where `labels` are -100. All three are
    (batch, length), and texts are padded on either side."""
    found = torch.zeros(ids.shape[0], ids.shape[1] - 1, device=ids.device)
    for part in rows(texts(ids, mask, labels)):
        tree = Tree(0)
        places: list[tuple[int, int, int, int]] = []  # row and column of the batch, the token, the node before it
        for row, tokens, labelled in part:
            path = tree.grow(-1, tokens)
            start = int(mask[row].argmax())
            places += [(row, start + k - 1, tokens[k], path[k - 1]) for k in labelled]
        tree.pad()
        asked = sorted({node for *_, node in places})
        logits = project(module, tree, asked).float() / temperature
        logs = logits - logits.logsumexp(-1, keepdim=True)
        at = {node: n for n, node in enumerate(asked)}
        index = torch.tensor([(row, column, token, at[node]) for row, column, token, node in places], device=ids.device)
        found = found.index_put((index[:, 0], index[:, 1]), logs[index[:, 3], index[:, 2]])
    return found


def project(module: Any, tree: Tree, asked: Sequence[int]) -> torch.Tensor:
    """Logits (asked, vocabulary) of a row's nodes."""
    device = module.device
    hidden = module.base_model(
        input_ids=torch.tensor([tree.tokens], device=device),
        position_ids=torch.tensor([tree.depths], device=device),
        attention_mask=tree.mask(module.dtype).to(device),
        use_cache=False,
    ).last_hidden_state[0]
    return module.get_output_embeddings()(hidden[torch.tensor(asked, device=device)])


def texts(ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor) -> list[Text]:
    """The rows of a batch that have labels, without their padding; those that begin alike beside each other."""
    found: list[Text] = []
    for row in range(ids.shape[0]):
        real = mask[row].bool()
        labelled = [k for k, label in enumerate(labels[row][real].tolist()) if label != -100 and k > 0]
        if labelled:
            found.append((row, ids[row][real].tolist(), labelled))
    return sorted(found, key=lambda text: text[1])


def rows(ordered: Sequence[Text], budget: int = CPU_TOKENS) -> Iterator[list[Text]]:
    """As many texts together as fill about `budget` tokens, at least one."""
    part: list[Text] = []
    size = 0
    for text in ordered:
        new = len(text[1]) - (common(part[-1][1], text[1]) if part else 0)
        if part and size + new > budget:
            yield part
            part, size, new = [], 0, len(text[1])
        part.append(text)
        size += new
    if part:
        yield part
