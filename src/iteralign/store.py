"""The run directory: what is in it is finished and whole.

A stage writes NAME.part, one line for each finished micro-batch, and renames at the end: the presence
of NAME.jsonl means that its stage is finished. A torn last line of a .part is cut off on opening. NAME.again is
a finished stage some rows of which are being made anew: it stays until all are there.
"""

import json
import os
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import yaml
from filelock import BaseFileLock, FileLock, Timeout

from iteralign.errors import StoreError

LOCK = ".lock"  # of a run directory

T = TypeVar("T")
R = TypeVar("R", bound="Rowed")


class Rowed(Protocol):
    def row(self) -> dict[str, Any]: ...

    @property
    def new_tokens(self) -> int: ...


class Watcher(Protocol):
    """What a live display needs to know."""

    def stage(self, name: str, total: int, done: int) -> None: ...
    def advance(self, name: str, done: int, tokens: int = 0) -> None: ...


class Store:
    """A folder of stage files. `watch` is told of progress; `micro_batch` is the unit of resuming."""

    def __init__(self, folder: Path, micro_batch: int = 24, watch: Watcher | None = None) -> None:
        self.folder = folder
        self.micro_batch = micro_batch
        self.watch = watch
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StoreError(f"cannot create {folder}: {error.strerror}") from error

    def inside(self, name: str) -> "Store":
        return Store(self.folder / name, self.micro_batch, self.watch)

    def by(self, size: int) -> "Store":
        """The same folder, in micro-batches of another size."""
        return Store(self.folder, size, self.watch)

    def path(self, name: str) -> Path:
        return self.folder / name

    def relative(self, path: str | Path) -> Path:
        """A path inside this folder as it reads from here."""
        return Path(path).resolve().relative_to(self.folder.resolve())

    def done(self, name: str) -> bool:
        return (self.folder / f"{name}.jsonl").exists() or (self.folder / name).exists()

    # -- rows ---------------------------------------------------------------------------------

    def each(
        self,
        name: str,
        rows: Sequence[T],
        stage: Callable[[list[T]], list[R]],
        join: Callable[[dict[str, Any]], R],
        lacking: Callable[[list[R]], set[int]] = lambda made: set(),
    ) -> list[R]:
        """Run `stage` over `rows` in micro-batches, each stored once it is finished; resume where it stopped.

        `join` turns a stored row back into a record. `lacking` names the positions in a stage that was finished before
        (one record a row) that are to be made again; the others are kept.
        """
        return [record for made in self.flow(name, rows, len(rows), stage, join, lacking) for record in made]

    def flow(
        self,
        name: str,
        rows: Iterable[T],
        total: int,
        stage: Callable[[list[T]], list[R]],
        join: Callable[[dict[str, Any]], R],
        lacking: Callable[[list[R]], set[int]] = lambda made: set(),
    ) -> Iterator[list[R]]:
        """`each`, micro-batch by micro-batch: what is stored first, then what is missing as it is made. `rows` may be an
        iterator of `total` rows that are made meanwhile; the stage is finished when the last micro-batch was taken."""
        final, part, again = (self.folder / f"{name}.{kind}" for kind in ("jsonl", "part", "again"))
        rows = list(rows) if final.exists() or again.exists() else rows  # `join` may need them
        if final.exists():
            part.unlink(missing_ok=True)
            made = joined(final, read_rows(final), join)
            if not lacking(made):
                again.unlink(missing_ok=True)
                yield made
                return
            final.replace(again)
        before = joined(again, read_rows(again), join) if again.exists() else []
        kept = {n: before[n] for n in {*range(len(before))} - lacking(before)}

        def run(first: int, batch: list[T]) -> list[R]:
            missing = [row for n, row in enumerate(batch, first) if n not in kept]
            fresh = iter(stage(missing) if missing else [])
            return (
                [kept[n] if n in kept else next(fresh) for n in range(first, first + len(batch))] if kept else [*fresh]
            )

        finished, batches = read_part(part), -(-total // self.micro_batch)
        if len(finished) > batches:
            raise StoreError(f"{part} holds {len(finished)} micro-batches but the stage has {batches}: use --fresh")
        left, result = iter(rows), list[R]()
        size = tokens = 0
        for stored in finished:
            size += len(list(islice(left, self.micro_batch)))
            result += (made := joined(part, stored, join))
            yield made
        batch = list(islice(left, self.micro_batch))
        self._tell(name, total, size)  # only now: what makes the rows is told of before
        while batch:
            made = run(size, batch)
            append(part, [record.row() for record in made])
            result += made
            size += len(batch)
            tokens += sum(record.new_tokens for record in made)
            if self.watch:
                self.watch.advance(name, size, tokens)
            yield made
            batch = list(islice(left, self.micro_batch))
        write_rows(final, [record.row() for record in result])
        part.unlink(missing_ok=True)
        again.unlink(missing_ok=True)

    def rows(self, name: str, make: Callable[[], Sequence[R]], join: Callable[[dict[str, Any]], R]) -> list[R]:
        """Rows that are made in one go."""
        final = self.folder / f"{name}.jsonl"
        if not final.exists():
            write_rows(final, [record.row() for record in make()])
        return joined(final, read_rows(final), join)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """A JSON result of the whole set; returned as it reads back, so that a resumed run sees the same."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            self._tell(name, 1, 0)
            write_text(path, json.dumps(make(), ensure_ascii=False, indent=1) + "\n")
            if self.watch:
                self.watch.advance(name, 1)
        return json.loads(path.read_text())

    def append(self, name: str, rows: Sequence[Rowed]) -> None:
        for record in rows:
            append(self.folder / f"{name}.jsonl", record.row())

    def event(self, kind: str, **fields: Any) -> None:
        """A line of events.jsonl: what happened when. Outside the promise of equal files."""
        append(self.folder / "events.jsonl", {"time": round(time.time(), 3), "event": kind, **fields})

    def _tell(self, name: str, total: int, done: int) -> None:
        if self.watch:
            self.watch.stage(f"{self.folder.name}/{name}", total, done)


def open_run(folder: Path, config: dict[str, Any], fresh: bool = False) -> Path:
    """A new or continued run directory (mode 0700); one with another config is refused, naming the keys."""
    kept = folder / "config.yaml"
    try:
        if fresh and kept.exists():
            folder.rename(free_name(f"{folder}.{time.strftime('%Y%m%d-%H%M%S')}"))
        # a kill while the config is written leaves config.yaml.tmp, and nothing else
        foreign = folder.exists() and any(p.name != "config.yaml.tmp" for p in folder.iterdir())
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be a run directory ({error.strerror}): name another one with --run-dir"
        ) from error
    if kept.exists():
        try:
            different = sorted(differing(yaml.safe_load(kept.read_text()), config))
        except yaml.YAMLError as error:
            raise StoreError(f"{kept} is not valid YAML: was it changed by hand? Start anew with --fresh") from error
        if different:
            raise StoreError(
                f"{folder} belongs to a run with other settings: {', '.join(different[:8])}. "
                "Continue it with its own config, name another --run-dir, or start anew with --fresh"
            )
        return folder
    if foreign:
        raise StoreError(f"{folder} is not empty and holds no config.yaml: it is not a run directory. Name another one")
    folder.chmod(0o700)
    write_text(kept, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    return folder


def locked(folder: Path) -> BaseFileLock:
    """A run directory for this process alone, until the lock is released or the process ends: two that append to the same
    stage would mix its rows. StoreError: another has it."""
    lock = FileLock(folder / LOCK, is_singleton=True, thread_local=False)  # a process may open its own run again
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise StoreError(
            f"{folder} is being worked at by another process: wait until it ends (iteralign watch {folder} shows it), or "
            "name another --run-dir"
        ) from error
    return lock


def free_name(wanted: str) -> Path:
    names = (Path(wanted + (f"-{n}" if n else "")) for n in count())
    return next(name for name in names if not name.exists())


def differing(a: Any, b: Any, path: str = "") -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        keys: set[Any] = {*a, *b}  # type: ignore[reportUnknownArgumentType]
        for key in keys:
            yield from differing(a.get(key), b.get(key), f"{path}.{key}" if path else str(key))  # type: ignore[reportUnknownMemberType]
    elif a != b:
        yield path


# -- files --------------------------------------------------------------------------------------


class writing:
    """An open file whose write errors (a full disk) become one clear line."""

    def __init__(self, path: Path, mode: str) -> None:
        self.path, self.mode = path, mode

    def __enter__(self) -> Any:
        try:
            self.file = self.path.open(self.mode)
        except OSError as error:
            raise StoreError(f"cannot write {self.path}: {error.strerror}") from error
        return self.file

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            self.file.close()
        except OSError as closing:
            error = error or closing
        if isinstance(error, OSError):
            raise StoreError(
                f"cannot write {self.path}: {error.strerror}. What was finished is kept; "
                "free space and run the same command"
            ) from error


def append(path: Path, value: Any) -> None:
    """One line, one write, one fsync."""
    with writing(path, "ab") as file:
        file.write((json.dumps(value, ensure_ascii=False) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with writing(temporary, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except StoreError:
        temporary.unlink(missing_ok=True)
        raise
    temporary.replace(path)


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))


def read_rows(path: Path) -> list[dict[str, Any]]:
    return read_lines(path, path.read_bytes())


def read_lines(path: Path, data: bytes) -> list[Any]:
    values: list[Any] = []
    for number, line in enumerate(lines(data), 1):
        try:
            values.append(json.loads(line))
        except ValueError as error:
            raise StoreError(f"{path}:{number} is not JSON ({error}): the file was changed by hand?") from error
    return values


def joined(path: Path, rows: Sequence[dict[str, Any]], join: Callable[[dict[str, Any]], R]) -> list[R]:
    """Stored rows as records again."""
    records: list[R] = []
    for number, row in enumerate(rows, 1):
        try:
            records.append(join(row))
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"{path}, row {number}, is not what this version writes ({' '.join(str(error).split())[:200]}): it was "
                "changed by hand, or written by another version. Start anew with --fresh"
            ) from error
    return records


def lines(data: bytes) -> list[bytes]:
    """Split at newlines only: str.splitlines would also split inside a text that holds U+2028."""
    return [line for line in data.split(b"\n") if line]


def read_part(path: Path) -> list[list[dict[str, Any]]]:
    """Finished micro-batches; a torn last line is cut off."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return read_lines(path, whole)


# -- the only concurrency above the backends --------------------------------------------------------------


def ahead(rows: Iterator[T], n: int) -> Generator[T, None, None]:
    """Run an iterator in a thread, at most `n` items ahead of its reader; its error is raised here. A reader that leaves
    early (`close`) waits for the item that is being made: nobody else writes its file."""
    end = object()
    items: queue.Queue[Any] = queue.Queue()
    room = threading.Semaphore(max(1, n))
    left = threading.Event()
    failure: list[BaseException] = []

    def feed() -> None:
        item: Any = None
        try:
            while item is not end:
                room.acquire()
                item = end if left.is_set() else next(rows, end)
                items.put(item)
        except BaseException as error:  # noqa: BLE001 - raised again in the reader's thread
            failure.append(error)
            items.put(end)

    thread = threading.Thread(target=feed, daemon=True)
    thread.start()
    try:
        while (item := items.get()) is not end:
            room.release()
            yield item
    finally:
        left.set()
        room.release()
        thread.join()
    if failure:
        raise failure[0]
