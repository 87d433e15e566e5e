"""What causal and encoder-decoder models share: the decode loop, choose, and how work is batched.

Generation is our own loop, because draws must belong to rows: each row has one uniform number a token,
turned into a token by the inverse CDF after top-p, so that a draw does not depend on its neighbours.
"""

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from iteralign.errors import ModelError
from iteralign.models.base import Job, Model, choice_from, spellings
from iteralign.models.chat import ChatFormat, Prompt
from iteralign.records import Chat, Choice, Reply

Member = tuple[int, int, list[int]]  # which context, which answer, the tokens of the continuation
Groups = dict[Prompt, list[tuple[int, list[int]]]]

TOKENS_A_ROW = 64  # scoring holds at most batch x this many padded tokens at once
ASKED_TOKENS_A_ROW = 256  # choosing needs no logits but the last, so that it holds more
TOP_K_SLICE = 512  # top-p is cut inside this slice; a row whose slice holds too little is sorted whole


class Decoding(ABC):
    """Replies being written, one a row: `logits` (rows, V) are those of each one's next token."""

    logits: torch.Tensor

    @abstractmethod
    def select(self, rows: torch.Tensor) -> None:
        """Go on with these rows; one may be named several times."""

    @abstractmethod
    def step(self, tokens: torch.Tensor) -> None:
        """Every row goes on by its token."""


class TorchModel(Model):
    """`module` may be trained in place by others; `rename` is called when its weights changed."""

    def __init__(self, module: Any, tokenizer: Any, name: str, form: ChatFormat, batch: int) -> None:
        self.module = module.eval()
        self.tokenizer = tokenizer
        self.format = form
        self.batch = batch
        self._name = name
        said = getattr(module.generation_config, "eos_token_id", None)
        self._ends = {*form.text_end, *form.end_ids, *([said] if isinstance(said, int) else said or ())}

    @property
    def name(self) -> str:
        return self._name

    def rename(self, name: str) -> None:
        self._name = name

    @property
    def context_length(self) -> int:
        return int(getattr(self.module.config, "max_position_embeddings", 0) or 1 << 20)

    @abstractmethod
    def room(self, prompt: Prompt) -> int:
        """How many new tokens fit behind it; below zero where the prompt itself does not fit."""

    @abstractmethod
    def begin(self, prompts: Sequence[Prompt]) -> Decoding:
        """All read; their `begun` are equally long."""

    @abstractmethod
    def next_logits(self, prompts: Sequence[Prompt]) -> torch.Tensor:
        """As `begin`, for one token only."""

    # -- generate ---------------------------------------------------------------------------

    @property
    def takes_turns(self) -> bool:
        return not self.format.plain

    def opening(self, text: str, tokens: int) -> str:
        """Cut where a character ends: a token may hold a part of one."""
        return str(self.tokenizer.decode(self.format.said(text)[:tokens])).strip(" ").rstrip("\ufffd")

    @torch.inference_mode()
    def generate(self, jobs: Sequence[Job]) -> list[Reply]:
        replies: dict[int, Reply] = {}
        ready: dict[int, Prompt] = {}
        for i, job in enumerate(jobs):
            prompt = self.format.prompt(job.chat)
            room = self.room(prompt)
            if room < job.sampling.max_new_tokens:
                replies[i] = Reply(
                    text="",
                    finish="failed",
                    error=f"prompt of {len(prompt.ids)} tokens leaves {room} of the {self.context_length} that the "
                    f"model holds, but max_new_tokens is {job.sampling.max_new_tokens}",
                    prompt_tokens=len(prompt.ids),
                )
            else:
                ready[i] = prompt
        for part in self._batches(ready):
            made = self._decode_batch([ready[i] for i in part], [jobs[i] for i in part])
            self.meter.add(sum(r.prompt_tokens for r in made), sum(r.tokens for r in made), len(made))
            replies.update(zip(part, made, strict=True))
        return [replies[i] for i in range(len(jobs))]

    def _batches(self, prompts: Mapping[int, Prompt]) -> Iterator[list[int]]:
        """In their order, those that can be decoded together."""
        alike: dict[int, list[int]] = defaultdict(list)
        for i, prompt in prompts.items():
            alike[len(prompt.begun)].append(i)
        for group in alike.values():
            for start in range(0, len(group), self.batch):
                yield group[start : start + self.batch]

    def _decode_batch(self, prompts: list[Prompt], jobs: list[Job]) -> list[Reply]:
        device = self.module.device
        limit = [job.sampling.max_new_tokens for job in jobs]
        draws = np.stack([np.random.Generator(np.random.Philox(key=j.seed)).random(max(limit)) for j in jobs])
        temperature = torch.tensor([j.sampling.temperature for j in jobs], device=device)
        top_p = torch.tensor([j.sampling.top_p for j in jobs], device=device)
        top_k = torch.tensor([j.sampling.top_k or 0 for j in jobs], device=device)
        ends = self._ends

        distinct = sorted(set(prompts))  # equal chats are read once
        decoding = self.begin(distinct)
        index = [distinct.index(p) for p in prompts]
        if index != list(range(len(distinct))):
            decoding.select(torch.tensor(index, device=device))

        out: list[list[int]] = [[] for _ in jobs]
        finish = ["length"] * len(jobs)
        alive = list(range(len(jobs)))
        for t in range(max(limit)):
            u = torch.tensor(draws[alive, t], dtype=torch.float32, device=device)
            rows = torch.tensor(alive, device=device)
            tokens = draw(decoding.logits, temperature[rows], top_p[rows], u, top_k[rows])
            keep: list[int] = []
            for k, (row, token) in enumerate(zip(alive, tokens.tolist(), strict=True)):
                if token in ends:
                    finish[row] = "stop"
                    continue
                out[row].append(token)
                if self.format.next_turn_in(out[row]):
                    finish[row] = "stop"
                elif len(out[row]) < limit[row]:
                    keep.append(k)
            if not keep:
                break
            if len(keep) < len(alive):
                kept = torch.tensor(keep, device=device)
                decoding.select(kept)
                tokens = tokens[kept]
                alive = [alive[k] for k in keep]
            decoding.step(tokens)
        return [
            Reply(
                text=self.format.own_turn(self.tokenizer.decode(ids, skip_special_tokens=True)),
                finish="stop" if end == "stop" else "length",
                prompt_tokens=len(prompt.ids),
                tokens=len(ids),
            )
            for ids, end, prompt in zip(out, finish, prompts, strict=True)
        ]

    # -- choose -----------------------------------------------------------------------------

    @torch.inference_mode()
    def choose(self, chats: Sequence[Chat], options: Sequence[str]) -> list[Choice]:
        first = self._first_tokens(options)
        prompts = [self.format.prompt(c) for c in chats]
        choices: dict[int, Choice] = {}
        for i, prompt in enumerate(prompts):
            if self.room(prompt) < 0:
                error = f"a question of {len(prompt.ids)} tokens, but the model holds {self.context_length}"
                choices[i] = Choice(probabilities=None, answer=None, mass=None, error=error)
        asked = [i for i in range(len(chats)) if i not in choices]
        self.meter.add(sum(len(prompts[i].ids) for i in asked), 0, len(asked))
        for k, logits in self.each_next([prompts[i] for i in asked]):
            probabilities = torch.softmax(logits.float(), dim=-1)
            rather = self.tokenizer.decode([int(probabilities.argmax())])
            choices[asked[k]] = choice_from({o: float(probabilities[ids].sum()) for o, ids in first.items()}, rather)
        return [choices[i] for i in range(len(chats))]

    def each_next(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, torch.Tensor]]:
        """Each prompt's index and the logits (V,) of what follows it, in any order."""
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))
        for part in self._shorter(self._batches({i: prompts[i] for i in order}), prompts):
            yield from zip(part, self.next_logits([prompts[i] for i in part]), strict=True)

    def _shorter(self, batches: Iterator[list[int]], prompts: Sequence[Prompt]) -> Iterator[list[int]]:
        """Batches of long prompts in parts: padded tokens stay in a budget. The last of a batch is its longest."""
        for batch in batches:
            rows = max(1, self.batch * ASKED_TOKENS_A_ROW // len(prompts[batch[-1]].ids))
            for start in range(0, len(batch), rows):
                yield batch[start : start + rows]

    def _first_tokens(self, options: Sequence[str]) -> dict[str, list[int]]:
        """The tokens that each option's spellings begin with. One that two options share (a lone space before
        ` yes` and ` no`) tells nothing and is left out."""
        first = {o: {self.tokenizer.encode(s, add_special_tokens=False)[0] for s in spellings(o)} for o in options}
        taken = Counter(token for ids in first.values() for token in ids)
        own = {option: sorted(t for t in ids if taken[t] == 1) for option, ids in first.items()}
        if not all(own.values()):
            raise ModelError(f"the options {list(options)} begin with the same token for {self.name}: use other words")
        return own

    # -- batches of tokens ------------------------------------------------------------------

    def _padded(self, sequences: Sequence[Sequence[int]], left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask (rows, width)."""
        width = max(map(len, sequences))
        ids = torch.full((len(sequences), width), self.format.pad_id)
        mask = torch.zeros((len(sequences), width), dtype=torch.long)
        for i, s in enumerate(sequences):
            at = slice(width - len(s), width) if left else slice(0, len(s))
            ids[i, at] = torch.tensor(s)
            mask[i, at] = 1
        return ids.to(self.module.device), mask.to(self.module.device)

    # -- loglikelihoods ---------------------------------------------------------------------

    @torch.inference_mode()
    def loglikelihoods(self, pairs: Sequence[tuple[Chat | str, str]]) -> list[list[float]]:
        """A token that spans the border of context and continuation is scored as it occurs in the whole text.

        Contexts that several continuations share are computed once.
        """
        answers: list[list[float]] = [[] for _ in pairs]
        groups: Groups = defaultdict(list)
        for i, (context, continuation) in enumerate(pairs):
            prompt, after = self.format.pair(context, continuation)
            if self.room(prompt) < len(after):
                raise ModelError(
                    f"{self.name} holds {self.context_length} tokens, too few to score {len(prompt.ids)} of context "
                    f"and {len(after)} of {continuation[:40]!r}: use a model with a longer context"
                )
            groups[prompt].append((i, after))
            self.meter.add(len(prompt.ids) + len(after), 0)
        if groups:
            self.score_groups(groups, answers)
        return answers

    def score_groups(self, groups: Groups, answers: list[list[float]]) -> None:
        """Fills in the answers of all groups, in padded batches."""
        for part in self._filled(groups):
            members = [(k, i, after) for k, c in enumerate(part) for i, after in groups[c]]
            self.score(part, members, answers)

    @abstractmethod
    def score(self, contexts: Sequence[Prompt], members: Sequence[Member], answers: list[list[float]]) -> None:
        """Fills in the answers of the members."""

    def _filled(self, groups: Groups) -> Iterator[list[Prompt]]:
        """Contexts in batches filled by tokens: padded context and continuation tokens stay in a budget,
        because the vocabulary's logits (tokens x V) decide the memory."""

        def cost(part: list[Prompt]) -> int:
            members = [len(after) for c in part for _, after in groups[c]]
            return max(len(c.ids) for c in part) * len(part) + 2 * max(members) * len(members)

        part: list[Prompt] = []
        for context in sorted(groups, key=lambda c: (len(c.ids), max(len(a) for _, a in groups[c]))):
            if part and cost([*part, context]) > self.batch * TOKENS_A_ROW:
                yield part
                part = []
            part.append(context)
        if part:
            yield part


def token_loglikelihoods(logits: torch.Tensor, ids: Sequence[int]) -> list[float]:
    """Of ids (T) under logits (T, V). Row by row: the vocabulary in fp32 is large."""
    at = torch.tensor(ids, device=logits.device)
    return torch.log_softmax(logits.float(), dim=-1).gather(1, at[:, None])[:, 0].tolist()


def draw(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_p: torch.Tensor,
    u: torch.Tensor,
    top_k: torch.Tensor | None = None,
) -> torch.Tensor:
    """One token a row by the inverse CDF: logits (B, V), temperature, top_p, u and top_k (B,) -> (B,).

    Temperature 0 takes the likeliest token. Of the `top_k` likeliest (0: of all, and at most TOP_K_SLICE), renormalised,
    the token that crosses `top_p` is kept.
    """
    greedy = temperature == 0
    if bool(greedy.all()):
        return logits.argmax(-1)
    scaled = logits.float() / temperature.masked_fill(greedy, 1.0)[:, None]
    logz = scaled.logsumexp(-1, keepdim=True)
    top, index = scaled.topk(min(TOP_K_SLICE, scaled.shape[-1]), dim=-1)
    p = (top - logz).exp()
    whole = torch.ones_like(greedy)
    if top_k is not None and bool(top_k.any()):
        whole = top_k == 0
        few = p.masked_fill(torch.arange(p.shape[-1], device=p.device) >= top_k[:, None], 0.0)
        p = torch.where(whole[:, None], p, few / few.sum(-1, keepdim=True))
    token = inverse_cdf(p, index, top_p, u)
    wide = (whole & (p.sum(-1) < top_p)).nonzero()[:, 0]
    if len(wide):  # these rows alone: equal logits come in another order here, and a draw must not see its neighbours
        top, index = scaled[wide].sort(dim=-1, descending=True, stable=True)
        token[wide] = inverse_cdf((top - logz[wide]).exp(), index, top_p[wide], u[wide])
    return torch.where(greedy, logits.argmax(-1), token)


def inverse_cdf(p: torch.Tensor, index: torch.Tensor, top_p: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Tokens at u of the probabilities p (B, K), which fall from left to right, cut at top_p."""
    below = p.cumsum(-1) - p
    p = p.masked_fill(below >= top_p[:, None], 0.0)
    cdf = p.cumsum(-1)
    at = (cdf < (u * cdf[:, -1])[:, None]).sum(-1, keepdim=True).clamp(max=p.shape[-1] - 1)
    return index.gather(1, at)[:, 0]
