"""What is in a run directory is finished and whole: after a kill, a failure, a full disk, a changed config."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from iteralign.errors import StoreError
from iteralign.records import Message
from iteralign.store import Store, ahead, open_run
from make import room_for


class Stage:
    """Makes a record of each number, and remembers which micro-batches it was asked for."""

    def __init__(self, before: Callable[[list[int]], None] = lambda batch: None) -> None:
        self.before = before
        self.asked: list[list[int]] = []

    def __call__(self, batch: list[int]) -> list[Message]:
        self.before(batch)
        self.asked.append(batch)
        return [Message(role="user", content=f"\u2028 {n} " + "x" * 40) for n in batch]


def run(folder: Path, stage: Stage, count: int = 10) -> list[Message]:
    return Store(folder, micro_batch=3).each("made", range(count), stage, lambda row: Message(**row))


def fail_at(*numbers: int) -> Callable[[list[int]], None]:
    def fail(batch: list[int]) -> None:
        if set(batch) & set(numbers):
            raise ValueError("the stage has a bug")

    return fail


def files(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


# -- micro-batches ----------------------------------------------------------------------------------


def test_a_row_of_another_version_is_named_with_its_file(tmp_path: Path) -> None:
    run(tmp_path, Stage())
    path = tmp_path / "made.jsonl"
    rows = path.read_text().split("\n")
    rows[1] = json.dumps({**json.loads(rows[1]), "mood": "good"})
    path.write_text("\n".join(rows) + "\n")

    with pytest.raises(StoreError, match=r"made\.jsonl, row 2, is not what this version writes .*mood.*--fresh"):
        run(tmp_path, Stage())


def test_a_finished_stage_is_read_and_not_run(tmp_path: Path) -> None:
    first = run(tmp_path, Stage())
    assert [m.content.split()[0] for m in first] == [str(n) for n in range(10)]
    again = Stage()
    assert run(tmp_path, again) == first
    assert again.asked == []
    assert files(tmp_path) == {"made.jsonl"}


def test_a_failed_stage_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has a bug"):
        run(tmp_path / "a", Stage(fail_at(7)))
    assert files(tmp_path / "a") == {"made.part"}
    rest = Stage()
    assert run(tmp_path / "a", rest) == run(tmp_path / "b", Stage())
    assert rest.asked == [[6, 7, 8], [9]]
    assert (tmp_path / "a/made.jsonl").read_bytes() == (tmp_path / "b/made.jsonl").read_bytes()


@pytest.mark.parametrize("cut", [1, 20, 150])
def test_a_torn_last_line_is_done_again_and_no_other(tmp_path: Path, cut: int) -> None:
    with pytest.raises(ValueError, match="has a bug"):
        run(tmp_path / "a", Stage(fail_at(7)))
    part = tmp_path / "a/made.part"
    part.write_bytes(part.read_bytes()[:-cut])
    rest = Stage(fail_at(9))
    with pytest.raises(ValueError, match="has a bug"):
        run(tmp_path / "a", rest)
    assert rest.asked == [[3, 4, 5], [6, 7, 8]]
    assert run(tmp_path / "a", Stage()) == run(tmp_path / "b", Stage())


def test_a_killed_rename_leaves_no_second_copy(tmp_path: Path) -> None:
    whole = run(tmp_path, Stage())
    (tmp_path / "made.part").write_text('[{"role": "user", "content": "left over"}]\n')
    assert run(tmp_path, Stage()) == whole
    assert files(tmp_path) == {"made.jsonl"}


def test_an_empty_stage_is_finished_too(tmp_path: Path) -> None:
    assert run(tmp_path, Stage(), count=0) == []
    assert Store(tmp_path).done("made")


def test_a_line_changed_by_hand_is_named(tmp_path: Path) -> None:
    run(tmp_path, Stage())
    final = tmp_path / "made.jsonl"
    final.write_text(final.read_text().replace('"role"', "role", 3).replace("role", '"role"', 2))
    with pytest.raises(StoreError, match=re.escape(f"{final}:3 is not JSON")):
        run(tmp_path, Stage())
    final.rename(tmp_path / "made.part")
    with pytest.raises(StoreError, match=re.escape(f"{tmp_path / 'made.part'}:3 is not JSON")):
        run(tmp_path, Stage())


def test_more_batches_than_the_stage_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has a bug"):
        run(tmp_path, Stage(fail_at(7)))
    with pytest.raises(StoreError, match="holds 2 micro-batches but the stage has 1"):
        run(tmp_path, Stage(), count=3)


def test_an_error_of_the_stage_is_not_taken_for_one_of_the_disk(tmp_path: Path) -> None:
    def unplugged(batch: list[int]) -> None:
        raise ConnectionResetError("the cable is out")

    with pytest.raises(ConnectionResetError, match="the cable is out"):
        run(tmp_path, Stage(unplugged))


# -- a finished stage that lacks some rows ------------------------------------------------------------


class Again(Stage):
    """Its records of the numbers in `bad` are good for nothing, and are to be made again."""

    def __init__(self, *bad: int, before: Callable[[list[int]], None] = lambda batch: None) -> None:
        super().__init__(before)
        self.bad = bad

    def __call__(self, batch: list[int]) -> list[Message]:
        made = super().__call__(batch)
        return [Message(role="user", content="bad") if n in self.bad else m for n, m in zip(batch, made, strict=True)]


def complete(folder: Path, stage: Stage) -> list[Message]:
    def bad(made: list[Message]) -> set[int]:
        return {n for n, m in enumerate(made) if m.content == "bad"}

    return Store(folder, micro_batch=3).each("made", range(10), stage, lambda row: Message(**row), lacking=bad)


def test_rows_that_are_lacking_are_made_again_and_no_others(tmp_path: Path) -> None:
    complete(tmp_path / "a", Again(1, 7, 8))
    assert files(tmp_path / "a") == {"made.jsonl"}
    rest = Again(8)
    complete(tmp_path / "a", rest)
    assert sorted(rest.asked) == [[1], [7, 8]]
    last = Again()
    assert complete(tmp_path / "a", last) == run(tmp_path / "b", Stage())
    assert last.asked == [[8]]
    assert (tmp_path / "a/made.jsonl").read_bytes() == (tmp_path / "b/made.jsonl").read_bytes()
    assert files(tmp_path / "a") == {"made.jsonl"}
    done = Again()
    complete(tmp_path / "a", done)
    assert done.asked == []


def test_a_failure_while_rows_are_made_again_loses_none_of_the_others(tmp_path: Path) -> None:
    complete(tmp_path / "a", Again(1, 7))
    with pytest.raises(ValueError, match="has a bug"):
        complete(tmp_path / "a", Again(before=fail_at(7)))
    assert files(tmp_path / "a") == {"made.part", "made.again"}
    rest = Again()
    assert complete(tmp_path / "a", rest) == run(tmp_path / "b", Stage())
    assert rest.asked == [[7]]
    assert files(tmp_path / "a") == {"made.jsonl"}


def test_a_kill_before_the_old_rows_are_dropped_leaves_no_second_copy(tmp_path: Path) -> None:
    complete(tmp_path, Again(1))
    (tmp_path / "made.again").write_bytes((tmp_path / "made.jsonl").read_bytes())
    assert complete(tmp_path, Again()) == complete(tmp_path, Stage(fail_at(*range(10))))
    assert files(tmp_path) == {"made.jsonl"}


# -- rows that are made meanwhile ---------------------------------------------------------------------


def flow(folder: Path, rows: Iterator[int], stage: Stage) -> Iterator[list[Message]]:
    return Store(folder, micro_batch=3).flow("made", rows, 10, stage, lambda row: Message(**row))


def test_a_micro_batch_is_stored_before_the_rows_of_the_next_are_there(tmp_path: Path) -> None:
    taken: list[int] = []

    def rows() -> Iterator[int]:
        for n in range(10):
            taken.append(n)
            yield n

    made = flow(tmp_path / "a", rows(), Stage())
    assert len(next(made)) == 3 and taken == [0, 1, 2]
    assert len((tmp_path / "a/made.part").read_bytes().splitlines()) == 1
    made.close()  # type: ignore[attr-defined]

    rest = Stage()
    assert [m for part in flow(tmp_path / "a", iter(range(10)), rest) for m in part] == run(tmp_path / "b", Stage())
    assert rest.asked[0] == [3, 4, 5]
    assert (tmp_path / "a/made.jsonl").read_bytes() == (tmp_path / "b/made.jsonl").read_bytes()
    read = iter(range(10))
    assert sum(len(part) for part in flow(tmp_path / "a", read, Stage(fail_at(*range(10))))) == 10
    assert next(read, None) is None, "what the rows are joined with is read, though the stage is finished"


# -- results of the whole set -----------------------------------------------------------------------


def test_once_is_made_once_and_returned_as_it_reads_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.once("gate", lambda: {"reasons": ("a \u2028 b",)}) == {"reasons": ["a \u2028 b"]}
    assert store.once("gate", lambda: pytest.fail("made again")) == {"reasons": ["a \u2028 b"]}


def test_a_failed_once_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        Store(tmp_path).once("gate", lambda: 1 / 0)
    assert files(tmp_path) == set()


# -- a full disk ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 150, 400, 650])
def test_a_full_disk_is_one_clear_error_and_loses_nothing(tmp_path: Path, size: int) -> None:
    stage = Stage()
    with room_for(size), pytest.raises(StoreError, match=r"cannot write .*made.*same command") as caught:
        run(tmp_path / "a", stage)
    assert "\n" not in str(caught.value)
    assert "made.jsonl" not in files(tmp_path / "a")
    before = len(stage.asked)
    assert run(tmp_path / "a", stage) == run(tmp_path / "b", Stage())
    assert len(stage.asked) <= 4 + 1, "only the micro-batch that could not be written is done again"
    assert before >= 1
    assert files(tmp_path / "a") == {"made.jsonl"}


def test_a_full_disk_leaves_no_half_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with room_for(1000), pytest.raises(StoreError, match="cannot write"):
        store.once("scores", lambda: "x" * 5000)
    assert files(tmp_path) == set()
    with room_for(10), pytest.raises(StoreError, match="cannot write"):
        open_run(tmp_path / "run", {"name": "a rather long name"})
    assert open_run(tmp_path / "run", {"name": "a rather long name"}) == tmp_path / "run"


# -- the run directory ------------------------------------------------------------------------------


def test_a_run_directory_is_its_owners_only(tmp_path: Path) -> None:
    folder = open_run(tmp_path / "deep/run", {"seed": 1})
    assert folder.stat().st_mode & 0o777 == 0o700
    assert Store(folder).inside("rounds/00000").folder.stat().st_mode & 0o777 == 0o700


def test_the_same_config_goes_on_and_another_is_refused_by_its_keys(tmp_path: Path) -> None:
    config = {"seed": 1, "sft": {"learning_rate": 2e-6, "lora": None}, "names": ["é"]}
    open_run(tmp_path / "run", config)
    assert open_run(tmp_path / "run", json.loads(json.dumps(config))) == tmp_path / "run"
    other = {"sft": {"learning_rate": 1e-5, "lora": {"rank": 4}}, "names": ["é"], "seed": 1, "rounds": 2}
    with pytest.raises(StoreError) as caught:
        open_run(tmp_path / "run", other)
    said = str(caught.value)
    assert "rounds, sft.learning_rate, sft.lora" in said
    assert "seed" not in said
    assert "--fresh" in said


def test_fresh_moves_the_old_run_aside_however_often(tmp_path: Path) -> None:
    for n in range(4):
        folder = open_run(tmp_path / "run", {"n": n}, fresh=True)
        (folder / "work.txt").write_text(str(n))
    kept = sorted((p / "work.txt").read_text() for p in tmp_path.iterdir())
    assert kept == ["0", "1", "2", "3"]
    assert (tmp_path / "run/work.txt").read_text() == "3"


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for fresh in (False, True):
        with pytest.raises(StoreError, match="not a run directory"):
            open_run(tmp_path, {"seed": 1}, fresh)
    assert files(tmp_path) == {"thesis.tex"}


def test_a_kill_while_the_config_is_written_does_not_lock_the_directory(tmp_path: Path) -> None:
    (tmp_path / "config.yaml.tmp").write_text("se")
    assert open_run(tmp_path, {"seed": 1}) == tmp_path
    assert files(tmp_path) == {"config.yaml"}


def test_a_place_that_cannot_be_a_directory_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file/run"):
        with pytest.raises(StoreError, match=re.escape(str(place))):
            open_run(place, {"seed": 1})


# -- running ahead ----------------------------------------------------------------------------------


def test_ahead_gives_everything_in_order() -> None:
    assert list(ahead(iter(range(50)), 3)) == list(range(50))
    assert list(ahead(iter(()), 3)) == []


def test_ahead_is_at_most_n_items_before_its_reader() -> None:
    made: list[int] = []

    def produce() -> Iterator[int]:
        for n in range(20):
            made.append(n)
            yield n

    for read, _ in enumerate(ahead(produce(), 3), 1):
        time.sleep(0.002)
        assert read <= len(made) <= read + 3


def test_ahead_overlaps_with_its_reader() -> None:
    second_made = threading.Event()

    def produce() -> Iterator[int]:
        yield 1
        second_made.set()
        yield 2

    reader = ahead(produce(), 1)
    assert next(reader) == 1
    assert second_made.wait(5), "nothing was made while the reader was at work"


def test_ahead_raises_the_producers_error_after_its_items() -> None:
    def produce() -> Iterator[int]:
        yield 1
        raise StoreError("disk full")

    read: list[int] = []
    with pytest.raises(StoreError, match="disk full"):
        read.extend(ahead(produce(), 2))
    reader = ahead(produce(), 2)
    assert next(reader) == 1
    with pytest.raises(StoreError, match="disk full"):
        next(reader)


def test_ahead_stops_its_producer_when_the_reader_leaves() -> None:
    made: list[int] = []
    closed = threading.Event()

    def produce() -> Iterator[int]:
        try:
            for n in range(1000):
                made.append(n)
                yield n
        finally:
            closed.set()

    reader = ahead(produce(), 2)
    next(reader)
    reader.close()
    assert closed.wait(5)
    assert len(made) < 10


def test_a_reader_that_leaves_waits_for_what_is_being_made() -> None:
    finished: list[int] = []

    def produce() -> Iterator[int]:
        for n in range(10):
            time.sleep(0.05)
            finished.append(n)
            yield n

    reader = ahead(produce(), 1)
    next(reader)
    reader.close()
    before = len(finished)
    time.sleep(0.2)
    assert len(finished) == before, "it was still at work"
