"""Any task of lm-evaluation-harness, by its public API, on a model that is loaded already (extra `lm-eval`)."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from math import log
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from iteralign.errors import ConfigError, ModelError, NotApplicable
from iteralign.evals.scores import make_score
from iteralign.models.base import Job, Model, Sampling
from iteralign.models.chat import ChatFormat, Prompt
from iteralign.models.decoding import TOKENS_A_ROW
from iteralign.models.transformers import TransformersModel
from iteralign.records import Chat, Score, user
from iteralign.seeds import seed_for

Ids = Sequence[int]
MAX_NEW_TOKENS = 256  # the harness's own default
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_KNOWN = {*_LENGTHS, "until", "do_sample", "temperature", "top_p"}


def run_harness(tasks: Sequence[str], model: Model, limit: int | None = None, own: Path | None = None) -> list[Score]:
    """Scores of the tasks as they are defined, each item's value kept. `limit`: documents of each task; `own`: a folder
    of task files of your own.

    Raises ConfigError for an unknown task or a missing package, NotApplicable for what is no causal model in this
    process.
    """
    lm_eval = installed()
    manager = known_tasks(tasks, own)
    results: dict[str, Any] = lm_eval.simple_evaluate(
        model=wrapped(model),
        tasks=list(tasks),
        limit=limit,
        bootstrap_iters=0,
        log_samples=True,
        task_manager=manager,
    )
    return harness_scores(results, lm_eval.__version__)


def known_tasks(tasks: Sequence[str], own: Path | None = None) -> Any:
    """The harness's TaskManager; with `own`, of the tasks in that folder alone. ConfigError: a task that is not there."""
    manager = manager_of(str(own.resolve()) if own else None)
    for task in tasks:
        if not manager.match_tasks([task]):
            near = get_close_matches(task, manager.all_tasks, n=1)
            raise ConfigError(
                f"lm-evaluation-harness has no task {task!r}{f': did you mean {near[0]!r}?' if near else ''} "
                "(`lm-eval ls tasks` lists them)"
            )
    return manager


@cache
def manager_of(own: str | None) -> Any:
    """It reads the files of all tasks: 10 s for the harness's own."""
    installed()
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    return TaskManager(include_path=own, include_defaults=own is None)


def installed() -> Any:
    try:
        import lm_eval  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            f"tasks of lm-evaluation-harness need the package lm-eval ({error}): pip install 'iteralign[lm-eval]'"
        ) from error
    return lm_eval


def wrapped(model: Model) -> Any:
    """`model` as the harness's `LM`: the same weights, tokenizer and batches; nothing is loaded again."""
    installed()
    from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]
    from lm_eval.utils import (  # pyright: ignore[reportMissingImports]
        get_rolling_token_windows,
        make_disjoint_window,
    )

    causal = causal_only(model)

    class Wrapped(LM):
        def loglikelihood(self, requests: Any) -> list[tuple[float, bool]]:
            return likelihoods(causal, [r.args for r in requests])

        def loglikelihood_rolling(self, requests: Any) -> list[float]:
            windows: list[tuple[int, tuple[Ids, Ids]]] = []
            for n, request in enumerate(requests):
                tokens, first = causal.format.encode_text(request.args[0]), causal.format.text_end[0]
                parts = get_rolling_token_windows(tokens, first, causal.context_length, 1)
                windows += [(n, make_disjoint_window(part)) for part in parts]
            totals = [0.0] * len(requests)
            for (n, _), (total, _) in zip(windows, scored(causal, [pair for _, pair in windows]), strict=True):
                totals[n] += total
            return totals

        def generate_until(self, requests: Any) -> list[str]:
            return completions(causal, [r.args for r in requests])

    return Wrapped()


def causal_only(model: Model) -> TransformersModel:
    if not isinstance(model, TransformersModel):
        raise NotApplicable(f"{model.name} is no causal model in this process: the harness's tasks need one")
    return model


# -- the three kinds of request -----------------------------------------------------------------------------


def likelihoods(model: TransformersModel, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
    """Of each (context, continuation): the natural-log likelihood, and whether greedy decoding would write it.

    Contexts that continuations share are computed once. An empty context is the end-of-text token, or the token
    that the tokenizer begins a text with.
    """
    found = model.loglikelihoods(pairs)
    tokens = [model.format.pair(*pair) for pair in pairs]
    by_context: defaultdict[Prompt, list[int]] = defaultdict(list)
    for n, (prompt, _) in enumerate(tokens):
        by_context[prompt].append(n)
    unsure = [n for group in by_context.values() for n in maybe_greedy(group, tokens, found, len(model.tokenizer))]
    looked_at = scored(model, [(tokens[n][0].ids, tokens[n][1]) for n in unsure])
    greedy = {n for n, (_, is_greedy) in zip(unsure, looked_at, strict=True) if is_greedy}
    return [(sum(x), n in greedy) for n, x in enumerate(found)]


def maybe_greedy(
    group: Sequence[int], tokens: Sequence[tuple[Prompt, Ids]], found: Sequence[Sequence[float]], size: int
) -> list[int]:
    """Those continuations of one context that may be the greedy one: the likelier where two part ways, and no token
    less likely than chance. So seldom more than one has to be looked at again."""
    left = [n for n in group if min(found[n]) >= -log(size)]

    def beaten(n: int) -> bool:
        for other in group:
            at = next((i for i, (a, b) in enumerate(zip(tokens[n][1], tokens[other][1], strict=False)) if a != b), None)
            if at is not None and found[other][at] > found[n][at]:
                return True
        return False

    return [n for n in left if not beaten(n)]


@torch.inference_mode()
def scored(model: TransformersModel, pairs: Sequence[tuple[Ids, Ids]]) -> list[tuple[float, bool]]:
    """Of each (context, continuation), in tokens: the log-likelihood, and whether every token is the likeliest."""
    results: dict[int, tuple[float, bool]] = {}
    order = sorted(range(len(pairs)), key=lambda n: len(pairs[n][0]) + len(pairs[n][1]), reverse=True)
    at = 0
    while at < len(order):
        width = sum(map(len, pairs[order[at]]))
        part = order[at : at + max(1, model.batch * TOKENS_A_ROW // width)]
        texts = [torch.tensor([*pairs[n][0], *pairs[n][1]][:-1]) for n in part]
        ids = pad_sequence(texts, batch_first=True, padding_value=model.format.pad_id).to(model.module.device)
        mask = pad_sequence([torch.ones_like(t) for t in texts], batch_first=True).to(ids.device)
        logits = model.module(input_ids=ids, attention_mask=mask).logits
        for row, n in enumerate(part):
            before, after = len(pairs[n][0]), torch.tensor(list(pairs[n][1]), device=ids.device)
            chances = torch.log_softmax(logits[row, before - 1 : before - 1 + len(after)].float(), dim=-1)
            total = float(chances.gather(1, after[:, None]).sum())
            results[n] = (total, bool((chances.argmax(-1) == after).all()))
        at += len(part)
    return [results[n] for n in range(len(pairs))]


class RawText(ChatFormat):
    """A text as it stands, without turns. The newest `room` tokens are read; a reply ends at any of `stops`."""

    def __init__(self, tokenizer: Any, stops: Sequence[str], room: int) -> None:
        super().__init__(tokenizer, "plain")
        self.stop_texts = [stop for stop in stops if stop]
        self.limit = room

    def render(self, chat: Chat) -> str:
        return chat[-1].content

    def encode(self, chat: Chat) -> list[int]:
        return self.encode_text(self.render(chat))[-self.limit :]


def completions(model: TransformersModel, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Of each (context, settings) what the model writes up to a stop. NotApplicable: a setting that is not known."""
    alike: defaultdict[str, list[int]] = defaultdict(list)
    for n, (_, settings) in enumerate(requests):
        alike[json.dumps(settings, sort_keys=True)].append(n)
    texts: dict[int, str] = {}
    for key, places in alike.items():
        settings = json.loads(key)
        if unknown := set(settings) - _KNOWN:
            raise NotApplicable(
                f"a task asks to generate with {', '.join(sorted(unknown))}, which this model has not; it has "
                f"{', '.join(sorted(_KNOWN))}"
            )
        sampling, room = sampling_of(settings), model.context_length
        if room <= sampling.max_new_tokens:
            raise ModelError(
                f"{model.name} holds {room} tokens, and a task asks for {sampling.max_new_tokens} new ones"
            )
        until = settings.get("until") or []
        stops = [until] if isinstance(until, str) else list(until)
        raw = TransformersModel(model.module, model.tokenizer, model.name, model.batch, "plain")
        raw.meter = model.meter
        raw.format = RawText(model.tokenizer, stops, room - sampling.max_new_tokens)
        jobs = [Job(chat=user(requests[n][0]), sampling=sampling, seed=seed_for(0, "lm-eval", n)) for n in places]
        texts.update(zip(places, (reply.text for reply in raw.generate(jobs)), strict=True))
    return [texts[n] for n in range(len(requests))]


def sampling_of(settings: Mapping[str, Any]) -> Sampling:
    """Greedy unless the task says do_sample."""
    length = next((int(settings[name]) for name in _LENGTHS if settings.get(name) is not None), MAX_NEW_TOKENS)
    if not settings.get("do_sample"):
        return Sampling(temperature=0.0, max_new_tokens=length)
    return Sampling(
        temperature=float(settings.get("temperature", 1.0)),
        top_p=float(settings.get("top_p", 1.0)),
        max_new_tokens=length,
    )


# -- its results as scores ----------------------------------------------------------------------------------


def harness_scores(results: Mapping[str, Any], version: str) -> list[Score]:
    """One score a task, metric and filter. Where the harness's number is not the mean of items (perplexity, BLEU)
    its own number stands, with its standard error and without items."""
    scores: list[Score] = []
    for task, samples in results["samples"].items():
        values: defaultdict[tuple[str, str], dict[str, Any]] = defaultdict(dict)
        for sample in samples:
            for metric in sample["metrics"]:
                item = f"{sample['doc_id']}:{str(sample.get('doc_hash', ''))[:8]}"
                values[metric, sample.get("filter", "none")][item] = sample[metric]
        shots = results.get("n-shot", {}).get(task)
        form = "" if shots is None else f", {shots}-shot"
        for (metric, filter_), items in values.items():
            said = "" if filter_ == "none" else f", {filter_}"
            variant = f"lm-eval {version}, {metric}{said}{form}"
            reported = results["results"].get(task, {})
            value, stderr = (reported.get(f"{name},{filter_}") for name in (metric, f"{metric}_stderr"))
            scores.append(task_score(f"lm-eval/{task}", variant, items, number(value), number(stderr)))
    return scores


def task_score(name: str, variant: str, items: dict[str, Any], value: float | None, stderr: float | None) -> Score:
    numbers = {item: number(x) for item, x in items.items()}
    if all(x is not None for x in numbers.values()):
        score = make_score(name, variant, numbers)
        if value is None or (score.value is not None and abs(score.value - value) < 1e-6):
            return score
    return Score(
        name=name,
        variant=variant,
        value=value,
        stderr=stderr,
        low=None,
        high=None,
        n=len(items),
        n_unscored=0,
        items={},
    )


def number(value: Any) -> float | None:
    """A plain number as it is; of a tuple, a text or "N/A" none."""
    return float(value) if isinstance(value, int | float) else None
