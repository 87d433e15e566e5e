"""A model whose finished calls are kept in SQLite, so that nothing is paid for twice. Failures are never kept."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from iteralign.errors import StoreError
from iteralign.models.base import Job, Model
from iteralign.models.usage import Meter
from iteralign.records import Chat, Choice, Record, Reply, digest

T = TypeVar("T")
A = TypeVar("A", bound=Record)
PATIENCE = 30.0  # seconds that another writer of the file is waited for


class CachedModel(Model):
    """`inner` asked only for what `path` does not hold; each batch is one transaction (all or nothing).

    Threads may share it, and processes may share the file. Closing it closes `inner` too.
    """

    def __init__(self, inner: Model, path: Path) -> None:
        self.inner = inner
        self.path = path
        self._lock = threading.Lock()
        with clear_errors(path):
            self._calls = open_calls(path)

    @property
    def name(self) -> str:
        return self.inner.name

    @cached_property
    def meter(self) -> Meter:
        return self.inner.meter

    def generate(self, jobs: Sequence[Job]) -> list[Reply]:
        # a schema is part of the key only where there is one: calls kept before jobs had any are still found
        asked = [
            job.model_dump(mode="json", exclude={"json_schema"} if job.json_schema is None else {}) for job in jobs
        ]
        keys = [digest("generate", self.name, job, length=64) for job in asked]
        return self._through(keys, jobs, self.inner.generate, Reply, lambda reply: reply.finish == "failed")

    def choose(self, chats: Sequence[Chat], options: Sequence[str]) -> list[Choice]:
        asked = [[message.row() for message in chat] for chat in chats]
        keys = [digest("choose", self.name, chat, list(options), length=64) for chat in asked]
        return self._through(
            keys,
            chats,
            lambda missing: self.inner.choose(missing, options),
            Choice,
            lambda choice: choice.error is not None and choice.probabilities is None,
        )

    def loglikelihoods(self, pairs: Sequence[tuple[Chat | str, str]]) -> list[list[float]]:
        return self.inner.loglikelihoods(pairs)

    def rest(self) -> None:
        self.inner.rest()

    def close(self) -> None:
        with self._lock:
            self._calls.close()
        self.inner.close()

    def _through(
        self,
        keys: Sequence[str],
        items: Sequence[T],
        ask: Callable[[list[T]], list[A]],
        record: type[A],
        failed: Callable[[A], bool],
    ) -> list[A]:
        stored = self._read(keys, record)
        missing = {key: item for key, item in zip(keys, items, strict=True) if key not in stored}
        made = dict(zip(missing, ask(list(missing.values())), strict=True)) if missing else {}
        self._write({key: answer.model_dump_json() for key, answer in made.items() if not failed(answer)})
        found = {**stored, **made}
        return [found[key] for key in keys]

    def _read(self, keys: Sequence[str], record: type[A]) -> dict[str, A]:
        with self._lock, clear_errors(self.path):
            rows = [
                self._calls.execute("SELECT key, value FROM calls WHERE key = ?", (key,)).fetchone() for key in keys
            ]
            return {row[0]: record.model_validate_json(row[1]) for row in rows if row is not None}

    def _write(self, values: dict[str, str]) -> None:
        if values:
            with self._lock, clear_errors(self.path), self._calls:
                self._calls.executemany("INSERT OR IGNORE INTO calls VALUES (?, ?)", values.items())


def open_calls(path: Path) -> sqlite3.Connection:
    calls = sqlite3.connect(path, timeout=PATIENCE, check_same_thread=False)
    try:
        write_ahead(calls)  # a killed writer leaves the last whole transaction
        calls.execute("CREATE TABLE IF NOT EXISTS calls (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID")
    except sqlite3.Error:
        calls.close()
        raise
    return calls


def write_ahead(calls: sqlite3.Connection) -> None:
    """SQLite waits for no lock while it changes a file's mode, and two variants of a sweep may open one file at once."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            calls.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.02)


@contextmanager
def clear_errors(path: Path) -> Iterator[None]:
    """Errors of the file as one clear line."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.OperationalError as error:
        raise StoreError(
            f"cannot use {path}: {error}. Check the disk, and that no other program holds the file"
        ) from error
    except (sqlite3.DatabaseError, ValidationError) as error:
        what = error.title if isinstance(error, ValidationError) else error
        raise StoreError(
            f"{path} is damaged or not ours ({what}). It only keeps finished calls: move it away and run the "
            "same command; what is missing is asked again"
        ) from error
