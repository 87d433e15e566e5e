"""A GGUF file in this process through xllamacpp (llama.cpp). One sequence at a time: on a CPU more gain nothing.

What only reads (choose, loglikelihoods) is left to torch where that is faster: `LlamaCppConfig.scoring`. So is
writing, where there are many replies to write at once: `LlamaCppConfig.writing`.
"""

import json
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from iteralign.config import LlamaCppConfig
from iteralign.errors import ModelError
from iteralign.models.base import Job, Model, choice_from, response_format
from iteralign.records import Chat, Choice, Reply, digest
from iteralign.sizes import scored_by_torch


class LlamaCppModel(Model):
    """The prefix that consecutive chats share is kept in the cache, so questions about one reply are cheap.

    The first chat of every call is read whole: a micro-batch gives the same numbers whatever came before it.
    """

    def __init__(self, config: LlamaCppConfig, path: Path, threads: int = 0) -> None:
        self.config = config
        self.path = path
        self.threads = threads
        self._first = True  # of a call
        stat = path.stat()
        self._name = f"llama_cpp:{path.stem}:{digest(path.name, stat.st_size, length=6)}"

    @cached_property
    def server(self) -> Any:
        """llama.cpp itself; ModelError where it cannot load the file.

        It is let go as soon as torch is to work again. Both use OpenMP, and its threads beside torch's are more than
        there are cores: OpenMP then puts threads to sleep between two operations, and torch trains at two thirds and
        generates at half its speed (2 cores, 135M parameters). To load it again takes a second (1 GB).
        """
        import xllamacpp as llama  # compiled, without types

        xllamacpp: Any = llama
        params = xllamacpp.CommonParams()
        params.model.path = str(self.path)
        params.n_ctx = self.config.context
        params.n_parallel = 1
        params.n_gpu_layers = self.config.gpu_layers
        params.verbosity = -1
        params.warmup = False
        params.fit_params = self.config.gpu_layers != 0  # what fits on a GPU is searched for by loading several times
        params.cache_ram_mib = 0  # no hidden cache of earlier prompts: it would make results depend on history
        if self.threads:
            params.cpuparams.n_threads = self.threads
            params.cpuparams_batch.n_threads = self.threads
        params.endpoint_metrics = True
        try:
            made = xllamacpp.Server(params)
        except RuntimeError as error:
            raise ModelError(f"llama.cpp cannot load {self.path}: {error}") from error
        # one that is let go before its loop has served anything may wait for that loop for ever (1 in 400)
        made.handle_metrics()
        return made

    @property
    def name(self) -> str:
        return self._name

    def generate(self, jobs: Sequence[Job]) -> list[Reply]:
        if self.config.writing == "torch" and self.scorer is not None and not any(j.json_schema for j in jobs):
            return self.scorer.generate(jobs)
        self._first = True
        made = [self._one(job) for job in jobs]
        if scored_by_torch(self.config):
            vars(self).pop("server", None)
        return made

    def _one(self, job: Job) -> Reply:
        form = {} if job.json_schema is None else {"response_format": response_format(job.json_schema)}
        answer = self._ask(
            job.chat,
            max_tokens=job.sampling.max_new_tokens,
            temperature=job.sampling.temperature,
            top_p=job.sampling.top_p,
            top_k=job.sampling.top_k or 0,
            min_p=0.0,
            seed=job.seed % 2**32,
            **form,
        )
        if isinstance(answer, str):
            return Reply(text="", finish="failed", error=answer)
        choice, usage = answer["choices"][0], answer["usage"]
        return Reply(
            text=choice["message"].get("content") or "",
            finish="stop" if choice["finish_reason"] == "stop" else "length",
            prompt_tokens=usage["prompt_tokens"],
            tokens=usage["completion_tokens"],
        )

    @cached_property
    def scorer(self) -> Model | None:
        """The same weights in torch, where that reads faster. Architectures that transformers lacks stay here."""
        if not scored_by_torch(self.config):
            return None
        import torch

        from iteralign.models.transformers import TransformersModel
        from iteralign.models.weights import load_module, load_tokenizer, unpacked

        if self.threads:
            torch.set_num_threads(self.threads)
        try:
            folder = unpacked(self.path, torch.bfloat16)
        except ModelError:
            if self.config.scoring == "torch":
                raise
            return None
        scorer = TransformersModel(load_module(folder, torch.bfloat16), load_tokenizer(folder), self.name)
        scorer.meter = self.meter
        return scorer

    def loglikelihoods(self, pairs: Sequence[tuple[Chat | str, str]]) -> list[list[float]]:
        return super().loglikelihoods(pairs) if self.scorer is None else self.scorer.loglikelihoods(pairs)

    def choose(self, chats: Sequence[Chat], options: Sequence[str]) -> list[Choice]:
        if self.scorer is not None:
            return self.scorer.choose(chats, options)
        self._first = True
        return [self._choose(chat, options) for chat in chats]

    def _choose(self, chat: Chat, options: Sequence[str]) -> Choice:
        answer = self._ask(chat, max_tokens=1, temperature=0.0, logprobs=True, top_logprobs=20)
        if isinstance(answer, str):
            return Choice(probabilities=None, answer=None, mass=None, error=answer)
        weights = dict.fromkeys(options, 0.0)
        # a reply that is at its end at once has none
        first = (answer["choices"][0].get("logprobs") or {}).get("content")
        likeliest = first[0]["top_logprobs"] if first else []
        for token in likeliest:
            spelled = token["token"].strip().lower()
            for option in options:
                if spelled == option.lower():
                    weights[option] += math.exp(token["logprob"])
        return choice_from(weights, likeliest[0]["token"] if likeliest else None)

    def _ask(self, chat: Chat, **settings: Any) -> dict[str, Any] | str:
        """The server's answer, or what it said was wrong with this request."""
        request = {"messages": [m.model_dump() for m in chat], "cache_prompt": not self._first, **settings}
        answer = self.server.handle_chat_completions(request)
        if isinstance(answer, str | bytes):
            answer = json.loads(answer)
        if "choices" not in answer:
            error = answer.get("error", answer)
            return str(error.get("message", error) if isinstance(error, dict) else error)
        self._first = False
        self.meter.add(answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"])
        return answer

    def rest(self) -> None:
        for name in ("scorer", "server"):
            vars(self).pop(name, None)

    def close(self) -> None:
        self.rest()
