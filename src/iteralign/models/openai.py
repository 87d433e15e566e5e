"""Any OpenAI-compatible server, by the official SDK.

What would fail every call (a key, a quota, no server) stops the run; what fails once is data.
"""

import email.utils
import logging
import math
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from random import Random
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import openai
from pydantic import ValidationError

from iteralign.config import OpenAIConfig
from iteralign.errors import ConfigError, ModelError, NotApplicable
from iteralign.models.base import Job, Model, choice_from, read_answer, response_format
from iteralign.models.completion import Completion, weights_of
from iteralign.models.usage import Meter
from iteralign.records import Chat, Choice, Reply, digest

T = TypeVar("T")
R = TypeVar("R")

OPENAI_URL = "https://api.openai.com/v1"
CONNECT_SECONDS = 10.0  # a host that does not even answer the dial is not waited for as long as a slow reply
LONGEST_BACKOFF = 30.0
LONGEST_WAIT = 120.0  # a server that asks for more (a daily limit) would hold the run up for hours
ANSWER_TOKENS = 8
FEWER_LOGPROBS = {20: 5, 5: 0}  # some servers stop at 5; 0 = this server gives none
PASSING = {408, 409, 425, 429}
QUOTA = {"insufficient_quota", "billing_not_active", "billing_hard_limit_reached"}
OPTIONAL = ("max_tokens", "seed", "top_p", "temperature")  # what some model or server does not take
NOT_TAKEN = re.compile(
    r"unsupported|not supported|not support|unrecognized|unknown|not permitted|extra_forbidden|deprecated",
    re.IGNORECASE,
)
NO_SCHEMA = re.compile(r"response.?format|json.?schema", re.IGNORECASE)  # each server refuses it in its own words
FLAGGED = re.compile(r"flagged|moderation|content.?policy|safety", re.IGNORECASE)
UNREACHED = {"ConnectError", "ConnectTimeout"}  # the transport's classes; the SDK does not export them

log = logging.getLogger(__name__)


class OpenAIModel(Model):
    """The very first call goes alone: a bad key, or a parameter that the server does not take, is met once."""

    def __init__(self, config: OpenAIConfig, backoff: float = 0.5) -> None:
        self.config = config
        self.backoff = backoff
        self.base_url = url_of(config)
        self.meter = Meter(config.price, paid=True)
        key = key_of(config)
        self._secret = None if config.key_env is None else re.compile(rf"(?<!\w){re.escape(key[:8])}[\w*.\-]*")
        self._client = openai.OpenAI(
            api_key=key,
            base_url=self.base_url,
            timeout=openai.Timeout(config.timeout, connect=min(config.timeout, CONNECT_SECONDS)),
            max_retries=0,
            default_headers={"Authorization": f"Bearer {key}"},  # or OPENAI_CUSTOM_HEADERS could put another here
        )
        # The SDK takes these from the environment; a run must not depend on what the config does not name.
        self._client.organization = self._client.project = self._client.admin_api_key = None
        self._pool = ThreadPoolExecutor(config.concurrency, thread_name_prefix="openai")
        self._lock = threading.Lock()
        self._first = threading.Lock()
        self._warm = False
        self._answered = False
        self._refused: set[str] = set()
        self._logprobs = max(FEWER_LOGPROBS) if config.logprobs else 0

    @property
    def name(self) -> str:
        where = "" if self.config.base_url is None else f"@{digest(self.base_url, length=8)}"
        return f"openai:{self.config.model}{where}"

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    # -- the calls --------------------------------------------------------------------------

    def generate(self, jobs: Sequence[Job]) -> list[Reply]:
        self._check(job.chat for job in jobs)
        return self._each(jobs, self._reply)

    def choose(self, chats: Sequence[Chat], options: Sequence[str]) -> list[Choice]:
        """By the log-probabilities of the first token; without them, one decoded answer and no probabilities."""
        self._check(chats)
        return self._each(chats, lambda chat, turn: self._choice(chat, options, turn))

    def _check(self, chats: Any) -> None:
        if any(chat and chat[-1].role == "assistant" for chat in chats):
            raise NotApplicable(
                f"{self.name} cannot continue a chat that ends with an assistant message: the chat-completions "
                "call of a server always starts a new reply. Use a `transformers` or `llama_cpp` model for this"
            )

    def _request(self, chat: Chat, max_tokens: int, temperature: float) -> dict[str, Any]:
        messages = [message.model_dump() for message in chat]
        model = self.config.model
        return {"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": temperature}

    def _reply(self, job: Job, turn: "Turn") -> Reply:
        request = self._request(job.chat, job.sampling.max_new_tokens, job.sampling.temperature)
        if job.json_schema is not None:
            request["response_format"] = response_format(job.json_schema)
        if job.sampling.top_k is not None:  # no parameter of OpenAI's own; vLLM, SGLang and llama.cpp's server take it
            request["extra_body"] = {"top_k": job.sampling.top_k}
        # 31 bits of the seed, because some servers hold it in 32 with a sign.
        outcome = self._call({**request, "top_p": job.sampling.top_p, "seed": job.seed % (1 << 31)}, turn)
        if isinstance(outcome, Failure):
            return Reply(text="", finish="failed", error=outcome.said)
        return outcome.reply()

    def _choice(self, chat: Chat, options: Sequence[str], turn: "Turn") -> Choice:
        while top := self._logprobs:
            outcome = self._call({**self._request(chat, 1, 0.0), "logprobs": True, "top_logprobs": top}, turn)
            if isinstance(outcome, Failure):
                if outcome.status not in (400, 403, 422):
                    return unread(outcome.said)
                if "logprob" in outcome.said.lower():
                    self._expect(FEWER_LOGPROBS[top])
                    continue
                decoded = self._decoded(chat, options, turn)
                if decoded.answer is not None:  # so the log-probabilities were what it refused
                    self._expect(0)
                return decoded
            reply = outcome.reply()
            if reply.finish == "failed":
                return unread(reply.error or "")
            if first := outcome.choices[0].first_token:
                return choice_from(weights_of(first, options), first.token)
            if reply.text:  # an empty reply has no token to give a probability of; this one had
                self._expect(0)
            break
        return self._decoded(chat, options, turn)

    def _decoded(self, chat: Chat, options: Sequence[str], turn: "Turn") -> Choice:
        outcome = self._call(self._request(chat, ANSWER_TOKENS, 0.0), turn)
        if isinstance(outcome, Failure):
            return unread(outcome.said)
        reply = outcome.reply()
        if reply.finish == "failed":
            return unread(reply.error or "")
        if reply.finish == "length" and not reply.text:
            return unread(f"no text within {ANSWER_TOKENS} tokens: a model that reasons first cannot be asked this way")
        return read_answer(reply.text, options)

    def _expect(self, logprobs: int) -> None:
        with self._lock:
            if logprobs < self._logprobs:
                self._logprobs = logprobs
                if logprobs == 0:
                    log.warning("%s gives no log-probabilities: answers are read without probabilities", self.base_url)

    # -- a batch ----------------------------------------------------------------------------

    def _each(self, items: Sequence[T], ask: "Callable[[T, Turn], R]") -> list[R]:
        """`ask` of each item, at most `concurrency` at once over all batches; results in order."""
        batch = Batch(min(len(items), self.config.concurrency))
        turns = [(item, Turn(batch, Random(i))) for i, item in enumerate(items)]
        results: list[R] = []
        with self._first:
            if turns and not self._warm:
                results.append(ask(*turns[0]))
                self._warm = True
        futures = [self._pool.submit(ask, *turn) for turn in turns[len(results) :]]
        try:
            for finished in wait(futures, return_when=FIRST_EXCEPTION).done:
                finished.result()
            return results + [future.result() for future in futures]
        finally:  # an error of one call, or Ctrl-C: those that wait or are queued are given up
            batch.stop.set()
            for future in futures:
                future.cancel()

    def _call(self, request: dict[str, Any], turn: "Turn") -> "Completion | Failure":
        """One call with its retries. Raises ModelError for what would fail every other call too."""
        attempt = 0
        while True:
            if turn.batch.stop.is_set():
                return Failure("given up, because another call stopped the run")
            sent = self._accepted(request)
            outcome = self._send(sent)
            if isinstance(outcome, Completion):
                self._answered = turn.batch.reached = True
                self.meter.add(outcome.read, outcome.written)
                return outcome
            if outcome.reached:
                turn.batch.reached = True
            if what := self._fatal(outcome, sent):
                raise turn.batch.ends_with(what)
            if self._learn(outcome, sent):
                continue
            if not outcome.passing or attempt == self.config.retries:
                break
            turn.batch.stop.wait(self._delay(outcome, attempt, turn.jitter))
            attempt += 1
        if not outcome.reached and turn.batch.nobody_there():
            where = f"no server at {self.base_url}: is it running, and is base_url right?"
            raise turn.batch.ends_with(f"{where} ({outcome.said})")
        return outcome if attempt == 0 else replace(outcome, said=f"{outcome.said} (after {attempt + 1} attempts)")

    def _delay(self, failure: "Failure", attempt: int, jitter: Random) -> float:
        backoff = min(self.backoff * 2**attempt, LONGEST_BACKOFF) * jitter.uniform(0.5, 1.0)
        return backoff + (failure.wait or 0.0)

    # -- one request ------------------------------------------------------------------------

    def _accepted(self, request: dict[str, Any]) -> dict[str, Any]:
        """The request without what this server has refused."""
        sent = {name: value for name, value in request.items() if name not in self._refused}
        if "max_tokens" in self._refused:
            sent["max_completion_tokens"] = request["max_tokens"]
        return sent

    def _learn(self, failure: "Failure", sent: dict[str, Any]) -> bool:
        """Whether the server refused a parameter that it can do without; it is left out from here on."""
        if failure.status not in (400, 422):
            return False
        if "response_format" in sent and NO_SCHEMA.search(failure.said):
            name = "response_format"
        elif not NOT_TAKEN.search(failure.said):
            return False
        else:
            name = next((p for p in OPTIONAL if p in sent and re.search(rf"\b{p}\b", failure.said)), None)
        if name is None:
            return False
        with self._lock:
            if name not in self._refused and name != "max_tokens":
                log.warning("%s does not take %s: its own default is used (%s)", self.base_url, name, failure.said)
            self._refused.add(name)
        return True

    def _send(self, sent: dict[str, Any]) -> "Completion | Failure":
        try:
            content = self._client.chat.completions.with_raw_response.create(**sent).content
        except openai.APIStatusError as error:
            return self._refusal(error)
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            said = f"{error.message.rstrip('.').lower()} ({type(cause).__name__}: {cause})"
            return Failure(self._line(said), passing=True, reached=type(cause).__name__ not in UNREACHED)
        except UnicodeError as error:  # half a character (a lone surrogate) has no encoding
            return Failure(
                f"the chat cannot be sent as UTF-8: {error.reason if isinstance(error, UnicodeEncodeError) else error}"
            )
        try:
            return Completion.model_validate_json(content)
        except ValidationError:
            return Failure(self._line(f"not a chat completion: {content.decode(errors='replace')}"), passing=True)

    def _refusal(self, error: openai.APIStatusError) -> "Failure":
        body: Any = error.body
        message = body.get("message") if isinstance(body, dict) else None
        said = self._line(f"HTTP {error.status_code}: {message or error.message}")
        passing = error.status_code in PASSING or error.status_code >= 500
        wait_for = retry_after(error.response.headers) if passing else None
        if wait_for is not None and wait_for > LONGEST_WAIT:
            said, passing = f"{said} (it asks to wait {wait_for:.0f} s)", False
        return Failure(said, error.status_code, frozenset((str(error.code), str(error.type))), passing, wait=wait_for)

    def _fatal(self, failure: "Failure", sent: dict[str, Any]) -> str | None:
        """What to do about a failure that every other call would meet too."""
        status, said = failure.status, failure.said
        # 403 is also how moderation and "no log-probabilities for you" come; a key that has worked is not refused.
        about_request = self._answered or FLAGGED.search(said) or ("logprobs" in sent and "logprob" in said.lower())
        if status == 401 or (status == 403 and not about_request):
            key = self.config.key_env
            do = f"check the key in {key}" if key else "it wants a key: name the variable that holds it by key_env"
            return f"{self.base_url} does not let us in: {do}, and what it may use. It said: {said}"
        if status == 404:
            return (
                f"{self.base_url} has no model {self.config.model!r} (or base_url is not the API's root, which mostly "
                f"ends in /v1); {self.base_url}/models lists what it has. It said: {said}"
            )
        if status == 402 or (status == 429 and failure.codes & QUOTA):
            return (
                f"the quota at {self.base_url} is used up: add credit or raise the limit, then run the same command; "
                f"what is finished is kept. It said: {said}"
            )
        return None

    def _line(self, text: str) -> str:
        """One short line for an error; servers echo keys, so the key is taken out."""
        if self._secret is not None:
            text = self._secret.sub("[key]", text)
        text = " ".join(text.split())
        return text if len(text) <= 300 else text[:300] + " …"


# -- what is known while a batch runs ---------------------------------------------------------------


class Batch:
    """The calls of one batch: one can stop the others, and together they know whether a server is there."""

    def __init__(self, lanes: int) -> None:
        self.stop = threading.Event()
        self.reached = False
        self._lanes = lanes
        self._missed = 0
        self._lock = threading.Lock()

    def ends_with(self, what: str) -> ModelError:
        self.stop.set()
        return ModelError(what)

    def nobody_there(self) -> bool:
        """Counts a call that met no server; true once a full house of them did, and none met one."""
        with self._lock:
            self._missed += 1
            return not self.reached and self._missed >= self._lanes


class Turn(NamedTuple):
    batch: Batch
    jitter: Random


@dataclass(frozen=True)
class Failure:
    """Why a request failed. `passing`: worth another try; `wait`: seconds that the server asks for."""

    said: str
    status: int | None = None
    codes: frozenset[str] = frozenset()
    passing: bool = False
    reached: bool = True
    wait: float | None = None


def unread(error: str) -> Choice:
    return Choice(probabilities=None, answer=None, mass=None, error=error)


# -- what the config and the headers say -------------------------------------------------------------


def url_of(config: OpenAIConfig) -> str:
    if config.base_url is None:
        return OPENAI_URL
    try:
        parts = urlsplit(config.base_url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, half an IPv6 address
        sound = False
    if not sound:
        raise ConfigError(f"base_url {config.base_url!r}: expected an address such as http://127.0.0.1:8000/v1")
    return config.base_url.rstrip("/")


def key_of(config: OpenAIConfig) -> str:
    if config.key_env is None:
        return "no-key-needed"
    key = os.environ.get(config.key_env, "").strip()
    if not key:
        raise ConfigError(
            f"no key for model {config.model!r}: the environment variable {config.key_env} is not set. Set it, name "
            "another one by key_env, or give key_env: null for a server that needs none"
        )
    if not re.fullmatch(r"[!-~]+", key):  # or the HTTP library would complain, with the key in its message
        raise ConfigError(f"the key in {config.key_env} holds spaces or characters that are not ASCII: copy it anew")
    return key


def retry_after(headers: Any) -> float | None:
    """Seconds that a server asks to wait, from Retry-After (a number or a date) or retry-after-ms."""
    for header, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(header, "")) * unit
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(seconds, 0.0)
    date = email.utils.parsedate_tz(headers.get("retry-after", ""))
    return None if date is None else max(email.utils.mktime_tz(date) - time.time(), 0.0)
