"""Log-likelihoods of many continuations in one row of tokens, in which each token sees its own ancestors only.

What several texts begin with stands in the row once: a preamble, a question, the beginning of an answer. What all
texts of a row begin with stays in the cache for the next row. Little is padded, and no cache is copied.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from iteralign.models.chat import Prompt

CPU_TOKENS = 512  # of a row: attention costs tokens x tokens, and from here on a CPU gains nothing by more
STEP = 64  # rows are as long as multiples of this: what is compiled and kept for a length is needed again
PROBE_TOKENS = 8

Members = list[tuple[int, list[int]]]  # which answer, the tokens of the continuation
Places = list[tuple[int, list[int], list[int]]]  # which answer, its tokens, where their logits stand


class Branch(NamedTuple):
    """A context with (some of) the continuations that follow it."""

    ids: tuple[int, ...]
    members: Members


class Tree:
    """A row being laid out; its roots stand at position `start`. A node is the place of a token in the row."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.depths: list[int] = []
        self._children: dict[tuple[int, int], int] = {}

    def grow(self, at: int, tokens: Sequence[int]) -> list[int]:
        """The nodes of the tokens that follow node `at` (-1: the cache), one after the other."""
        path: list[int] = []
        for token in tokens:
            node = self._children.get((at, token))
            if node is None:
                node = self._children[at, token] = len(self.tokens)
                self.tokens.append(token)
                self.parents.append(at)
                self.depths.append(self.start if at < 0 else self.depths[at] + 1)
            path.append(node)
            at = node
        return path

    def pad(self) -> None:
        """By tokens that no other sees."""
        for _ in range(-len(self.tokens) % STEP):
            self.tokens.append(self.tokens[0])
            self.parents.append(-1)
            self.depths.append(self.start)

    def mask(self, dtype: torch.dtype) -> torch.Tensor:
        """(1, 1, tokens, start + tokens): 0 where a token sees another, the least number elsewhere."""
        size = len(self.tokens)
        sees = torch.eye(size, dtype=torch.bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                sees[node] |= sees[parent]
        mask = torch.zeros(size, self.start + size, dtype=dtype)
        mask[:, self.start :].masked_fill_(~sees, torch.finfo(dtype).min)
        return mask[None, None]


def score_packed(module: Any, groups: Mapping[Prompt, Members], answers: list[list[float]], budget: int) -> None:
    """Fills in the answers of all groups."""
    for logits, places in read_packed(module, groups, budget):
        for answer, after, at in places:
            answers[answer] = loglikelihoods(logits, at, after)


def next_packed(module: Any, prompts: Sequence[Prompt], budget: int) -> Iterator[tuple[int, torch.Tensor]]:
    """Each prompt's index and the logits (V,) of what follows it, in the order in which they are read."""
    groups: dict[Prompt, Members] = defaultdict(list)
    for i, prompt in enumerate(prompts):
        groups[prompt].append((i, [0]))  # the last token of a continuation is not laid into the row
    for logits, places in read_packed(module, groups, budget):
        for i, _, (at,) in places:
            yield i, logits[at]


def read_packed(module: Any, groups: Mapping[Prompt, Members], budget: int) -> Iterator[tuple[torch.Tensor, Places]]:
    """Logits (asked, V), and of each answer its tokens and their rows of the logits.

    A row of the model holds about `budget` tokens, and at least one context.
    """
    cache, cached = DynamicCache(config=module.config), ()
    for part in rows(groups, budget):
        first = part[0].ids
        # the last token of a context is never taken from the cache: it says what comes next
        shared = min(common(first, part[-1].ids), min(len(b.ids) for b in part) - 1)
        kept = min(common(cached, first), shared)
        cache = shortened(cache, len(cached) - kept, module)
        tree = Tree(kept)
        grown = [(branch, tree.grow(-1, branch.ids[kept:])[-1]) for branch in part]
        places = [
            (answer, after, [end, *tree.grow(end, after[:-1])])
            for branch, end in grown
            for answer, after in branch.members
        ]
        asked = sorted({node for _, _, nodes in places for node in nodes})
        at = {node: row for row, node in enumerate(asked)}
        tree.pad()
        logits = forward(module, tree, cache, [*asked, *asked[:1] * (-len(asked) % STEP)])
        yield logits, [(answer, after, [at[n] for n in nodes]) for answer, after, nodes in places]
        # the row begins with what all of its texts share, because the first of them was laid out first
        cached, spare = first[:shared], len(tree.tokens) - (shared - kept)
        cache = shortened(cache, spare, module)


def forward(module: Any, tree: Tree, cache: DynamicCache, asked: Sequence[int]) -> torch.Tensor:
    """Logits (asked, V); the row's keys and values join the cache."""
    device = module.device
    return module(
        input_ids=torch.tensor([tree.tokens], device=device),
        position_ids=torch.tensor([tree.depths], device=device),
        attention_mask=tree.mask(module.dtype).to(device),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=torch.tensor(asked, device=device),
    ).logits[0]


def loglikelihoods(logits: torch.Tensor, rows: Sequence[int], ids: Sequence[int]) -> list[float]:
    """Of ids under these rows of logits (asked, V)."""
    own = logits[torch.tensor(rows, device=logits.device)].float()
    at = torch.tensor(ids, device=logits.device)
    return (own.gather(1, at[:, None])[:, 0] - own.logsumexp(-1)).tolist()


def shortened(cache: DynamicCache, tokens: int, module: Any) -> DynamicCache:
    """Less its last tokens."""
    if tokens == 0:
        return cache
    if tokens == cache.get_seq_length():
        return DynamicCache(config=module.config)
    cache.crop(-tokens)
    return cache


def rows(groups: Mapping[Prompt, Members], budget: int) -> Iterator[list[Branch]]:
    """Contexts in an order in which neighbours begin alike, as many together as fill a row."""
    part: list[Branch] = []
    size = 0
    for branch in branches(groups, budget):
        new = len(branch.ids) - (common(part[-1].ids, branch.ids) if part else 0)
        cost = new + sum(len(after) - 1 for _, after in branch.members)
        if part and size + cost > budget:
            yield part
            part, size = [], 0
        part.append(branch)
        size += cost
    if part:
        yield part


def branches(groups: Mapping[Prompt, Members], budget: int) -> Iterator[Branch]:
    """Continuations that alone would fill more than a row are split."""
    for prompt in sorted(groups):
        members: Members = []
        for answer, after in groups[prompt]:
            if members and sum(len(a) for _, a in members) + len(after) > budget:
                yield Branch(prompt.ids, members)
                members = []
            members.append((answer, after))
        yield Branch(prompt.ids, members)


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


@torch.inference_mode()
def packs(module: Any) -> bool:
    """Whether this architecture takes such rows: it has full attention only, and on a few tokens they give what plain
    rows give. Sliding windows, recurrent layers and ALiBi do not."""
    layers = DynamicCache(config=module.config).layers
    if any(type(layer) is not DynamicLayer for layer in layers):
        return False
    if getattr(module.config, "_attn_implementation", None) not in ("sdpa", "eager"):
        return False
    size = module.get_input_embeddings().num_embeddings
    row = [(7 * n + 3) % size for n in range(4 * PROBE_TOKENS)]
    one, two, three, four = (row[n : n + PROBE_TOKENS] for n in range(0, len(row), PROBE_TOKENS))
    groups = {Prompt((*one, *two)): [(0, three), (1, four)], Prompt((*one, *three)): [(2, two), (3, four)]}
    found: list[list[float]] = [[] for _ in range(4)]
    try:
        score_packed(module, groups, found, len(row))
    except (TypeError, ValueError, RuntimeError, IndexError):
        return False
    most = 1e-3 if module.dtype == torch.float32 else 0.5  # a wrong mask is off by far more, a rounded logit by less
    for prompt, members in groups.items():
        for answer, after in members:
            ids = torch.tensor([[*prompt.ids, *after]], device=module.device)
            logits = module(input_ids=ids, use_cache=False).logits[0]
            plain = loglikelihoods(logits, range(len(prompt.ids) - 1, ids.shape[1] - 1), after)
            if not all(abs(a - b) <= most for a, b in zip(plain, found[answer], strict=True)):
                return False
    return True
