"""Finished remote calls are kept: nothing is asked twice, failures are asked again, a kill loses no batch."""

import math
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from chat_server import ChatServer, fails, says, serving

from iteralign.config import Price
from iteralign.errors import ModelError, NotApplicable, StoreError
from iteralign.models.base import Job, Sampling
from iteralign.models.cached import CachedModel, open_calls
from iteralign.models.usage import Usage
from iteralign.records import Reply, digest, user

YES_NO = ["yes", "no"]


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with serving() as running:
        yield running


def cached(server: ChatServer, folder: Path, model: str = "tiny") -> CachedModel:
    return CachedModel(server.model(model=model, retries=0), folder / "calls.sqlite")


def job(text: str, seed: int = 0, temperature: float = 0.7) -> Job:
    return Job(chat=user(text), sampling=Sampling(temperature=temperature, top_p=0.9, max_new_tokens=256), seed=seed)


def test_what_was_asked_is_counted_and_what_was_kept_is_not(server: ChatServer, tmp_path: Path) -> None:
    """The server says 7 tokens read and 3 written of every call; without a price its cost is unknown, and never 0."""
    model = CachedModel(server.model(price=Price(prompt=2.0, completion=10.0)), tmp_path / "calls.sqlite")
    for _ in range(2):
        model.generate([job("a"), job("b")])
    assert model.meter.usage[:3] == (2, 14, 6) and model.meter.usage.unpriced == 0
    assert model.meter.usage.dollars == pytest.approx((14 * 2.0 + 6 * 10.0) / 1e6)
    unknown = cached(server, tmp_path, model="other")
    unknown.generate([job("a")])
    assert unknown.meter.usage == Usage(1, 7, 3, 0.0, unpriced=1)


def test_a_finished_call_is_not_made_again_in_this_run_or_the_next(server: ChatServer, tmp_path: Path) -> None:
    first = cached(server, tmp_path)
    made = first.generate([job("a"), job("b")])
    assert first.generate([job("b"), job("c"), job("a")])[::2] == [made[1], made[0]]
    assert [asked.text for asked in server.asked] == ["a", "b", "c"]
    first.close()
    assert cached(server, tmp_path).generate([job("a"), job("b")]) == made
    assert len(server.asked) == 3


def test_choices_are_kept_with_their_probabilities(server: ChatServer, tmp_path: Path) -> None:
    server.behaviour = lambda asked, times: says("yes", "length", {"yes": math.log(0.7), "no": math.log(0.2)})
    made = cached(server, tmp_path).choose([user("a")], YES_NO)
    assert made[0].probabilities == {"yes": 0.7778, "no": 0.2222}
    assert cached(server, tmp_path).choose([user("a")], YES_NO) == made
    assert len(server.asked) == 1
    cached(server, tmp_path).choose([user("a")], ["no", "yes"])
    cached(server, tmp_path).generate([job("a")])
    assert len(server.asked) == 3


def test_another_model_seed_sampling_or_text_is_another_call(server: ChatServer, tmp_path: Path) -> None:
    cached(server, tmp_path).generate([job("a"), job("a", seed=1), job("a", temperature=0.1), job("A")])
    cached(server, tmp_path, model="other").generate([job("a")])
    assert len(server.asked) == 5


def test_a_schema_is_part_of_the_call(server: ChatServer, tmp_path: Path) -> None:
    held = [job("a").model_copy(update={"json_schema": {"maxItems": n}}) for n in (2, 3)]
    cached(server, tmp_path).generate([job("a"), *held])
    cached(server, tmp_path).generate([held[1], job("a"), held[0]])
    assert len(server.asked) == 3


def test_calls_that_were_kept_before_jobs_had_schemas_are_still_found(server: ChatServer, tmp_path: Path) -> None:
    asking, asked = cached(server, tmp_path), job("a")
    kept = {"chat": [m.row() for m in asked.chat], "sampling": asked.sampling.row(), "seed": asked.seed}
    with sqlite3.connect(tmp_path / "calls.sqlite") as calls:
        key = digest("generate", asking.name, kept, length=64)
        calls.execute("INSERT INTO calls VALUES (?, ?)", (key, Reply(text="kept", finish="stop").model_dump_json()))
    assert asking.generate([asked])[0].text == "kept"
    assert server.asked == []


def test_the_same_call_twice_in_a_batch_is_made_once(server: ChatServer, tmp_path: Path) -> None:
    replies = cached(server, tmp_path).generate([job("a"), job("b"), job("a")])
    assert [r.text for r in replies] == ["re: a", "re: b", "re: a"]
    assert len(server.asked) == 2


def test_failures_are_asked_again(server: ChatServer, tmp_path: Path) -> None:
    server.behaviour = lambda asked, times: (
        fails(500) if asked.text == "b" and times == 0 else says(f"re: {asked.text}")
    )
    first = cached(server, tmp_path).generate([job("a"), job("b")])
    assert [r.finish for r in first] == ["stop", "failed"]
    assert [r.text for r in cached(server, tmp_path).generate([job("a"), job("b")])] == ["re: a", "re: b"]
    assert [asked.text for asked in server.asked] == ["a", "b", "b"]


def test_choices_without_an_answer_are_asked_again(server: ChatServer, tmp_path: Path) -> None:
    server.behaviour = lambda asked, times: says("", "length", {"Well" if times == 0 else "yes": -0.1})
    assert cached(server, tmp_path).choose([user("a")], YES_NO)[0].error
    assert cached(server, tmp_path).choose([user("a")], YES_NO)[0].answer == "yes"


def test_an_error_of_every_call_reaches_the_caller_and_keeps_what_was_finished(
    server: ChatServer, tmp_path: Path
) -> None:
    cached(server, tmp_path).generate([job("a")])
    server.behaviour = lambda asked, times: fails(402)
    with pytest.raises(ModelError, match="quota"):
        cached(server, tmp_path).generate([job("a"), job("b")])
    assert cached(server, tmp_path).generate([job("a")])[0].text == "re: a"


def test_it_is_the_same_model_by_name_and_by_what_it_cannot_do(server: ChatServer, tmp_path: Path) -> None:
    model = cached(server, tmp_path)
    assert model.name == model.inner.name
    with pytest.raises(NotApplicable):
        model.loglikelihoods([(user("a"), "b")])
    model.close()
    model.close()


def test_threads_may_share_it(server: ChatServer, tmp_path: Path) -> None:
    model = cached(server, tmp_path)
    results: dict[int, list[str]] = {}

    def run(lane: int) -> None:
        results[lane] = [r.text for r in model.generate([job(f"{lane}.{i}") for i in range(5)] + [job("shared")])]

    threads = [threading.Thread(target=run, args=(lane,)) for lane in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {lane: [f"re: {lane}.{i}" for i in range(5)] + ["re: shared"] for lane in range(6)}
    before = len(server.asked)
    again = model.generate([job(f"{lane}.{i}") for lane in range(6) for i in range(5)])
    assert len(again) == 30
    assert len(server.asked) == before


CHILD = """
import sys
from pathlib import Path
from iteralign.config import OpenAIConfig
from iteralign.models.base import Job, Sampling
from iteralign.models.cached import CachedModel, open_calls
from iteralign.models.openai import OpenAIModel
from iteralign.records import user
model = CachedModel(OpenAIModel(OpenAIConfig(model="tiny", base_url=sys.argv[1], key_env=None)), Path(sys.argv[2]))
for batch in range(1000):
    model.generate([Job(chat=user(f"{batch}.{i}"), sampling=Sampling()) for i in range(4)])
    print(batch, flush=True)
"""


def test_a_killed_run_loses_no_finished_batch(server: ChatServer, tmp_path: Path) -> None:
    path = tmp_path / "calls.sqlite"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, server.url, str(path)], stdout=subprocess.PIPE, text=True, env=env
    ) as child:
        assert child.stdout is not None
        done = [int(child.stdout.readline()) for _ in range(3)]
        child.send_signal(signal.SIGKILL)
    before = len(server.asked)
    jobs = [job(f"{batch}.{i}") for batch in done for i in range(4)]
    assert [r.text for r in cached(server, tmp_path).generate(jobs)] == [f"re: {b}.{i}" for b in done for i in range(4)]
    assert len(server.asked) == before
    with sqlite3.connect(path) as calls:
        assert calls.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert calls.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_damaged_file_is_named(server: ChatServer, tmp_path: Path) -> None:
    path = tmp_path / "calls.sqlite"
    path.write_bytes(b"this was a database once" * 400)
    with pytest.raises(StoreError, match=r"calls\.sqlite is damaged or not ours.*move it away"):
        cached(server, tmp_path)


def test_a_file_damaged_in_its_middle_is_named(server: ChatServer, tmp_path: Path) -> None:
    path = tmp_path / "calls.sqlite"
    jobs = [job(f"{i}" + "x" * 500) for i in range(40)]
    model = cached(server, tmp_path)
    model.generate(jobs)
    model.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    with pytest.raises(StoreError, match=r"calls\.sqlite is damaged"):
        cached(server, tmp_path).generate(jobs)


def test_a_row_that_is_not_ours_is_named(server: ChatServer, tmp_path: Path) -> None:
    cached(server, tmp_path).generate([job("a")])
    with sqlite3.connect(tmp_path / "calls.sqlite") as calls:
        calls.execute("UPDATE calls SET value = '{\"words\": 3}'")
    with pytest.raises(StoreError, match="damaged or not ours"):
        cached(server, tmp_path).generate([job("a")])


def test_a_file_that_cannot_be_made_is_named(server: ChatServer, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot use .*calls\.sqlite"):
        cached(server, tmp_path / "missing")


def test_variants_of_a_sweep_may_open_one_file_at_once(tmp_path: Path) -> None:
    for n in range(20):
        start, place = threading.Barrier(8), tmp_path / f"{n}.sqlite"

        def kept(own: int, start: threading.Barrier = start, place: Path = place) -> str:
            start.wait()
            calls = open_calls(place)
            with calls:
                calls.execute("INSERT INTO calls VALUES (?, ?)", (str(own), "said"))
            [mode] = calls.execute("PRAGMA journal_mode").fetchone()
            calls.close()
            return mode

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(kept, range(8))) == {"wal"}
        calls = open_calls(place)
        assert calls.execute("SELECT count(*) FROM calls").fetchone() == (8,), "nobody's calls are lost"
        calls.close()
