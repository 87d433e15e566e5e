"""The doctor names what would break a run, and calls nothing broken that works."""

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from iteralign import doctor
from iteralign.cli import app
from iteralign.config import RunConfig, load_config
from iteralign.doctor import TESTED, Check, checks

ROOT = Path(__file__).parents[1]
SCRIPTED = ROOT / "configs" / "scripted.yaml"


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache, and a hub on a port of this machine that nobody listens on."""
    monkeypatch.setenv("ITERALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", closed_port())
    monkeypatch.delenv("A_KEY", raising=False)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to a core")
def test_cores_are_those_that_this_process_may_use() -> None:
    """A job of a cluster is given some of a machine's; with a thread for each of the machine's all of them wait."""
    bound = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from iteralign.sizes import cores; print(cores())"
    assert subprocess.run([sys.executable, "-c", bound], capture_output=True, text=True, check=True).stdout == "1\n"


def closed_port() -> str:
    with socket.socket() as here:
        here.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{here.getsockname()[1]}"


@pytest.fixture
def server() -> Iterator[str]:
    """Its models are for those who bring the key `right`; it keeps the paths it was asked for."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers.get("Authorization") in (None, "Bearer right")
            self.send_response(200 if known and self.path == "/v1/models" else 401)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        threading.Thread(target=web.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{web.server_port}/v1"
        web.shutdown()


def scripted(*overrides: str) -> RunConfig:
    return load_config(SCRIPTED, overrides)


def remote(url: str, key: str) -> RunConfig:
    return scripted(f"oracle={{type: openai, model: big, base_url: '{url}', key_env: {key}}}")


def named(found: list[Check], start: str) -> Check:
    [check] = [check for check in found if check.name.startswith(start)]
    return check


def broken(config: RunConfig) -> list[Check]:
    return [check for check in checks(config) if check.ok is False]


def test_nothing_is_broken_on_a_machine_that_runs_the_tests() -> None:
    found = checks(scripted())
    assert [check for check in found if check.ok is False] == []
    assert named(found, "config").ok is True
    assert "192 train, 64 validation, 128 held_out" in named(found, "prompts pack:starter/red_team").said
    assert named(found, "hub").ok is None, "without a network a run still works"
    assert re.search(r"\d ms in bfloat16|GB|mps", named(found, "device").said)


def test_the_exit_code_says_whether_something_is_broken(tmp_path: Path) -> None:
    whole = CliRunner().invoke(app, ["doctor", str(SCRIPTED)])
    assert whole.exit_code == 0, whole.output
    keyless = f"oracle: {{type: openai, model: big, base_url: '{closed_port()}/v1', key_env: A_KEY}}"
    text = SCRIPTED.read_text().replace("oracle: {type: scripted, script: oracle}", keyless)
    (tmp_path / "bad.yaml").write_text(text)
    bad = CliRunner().invoke(app, ["doctor", str(tmp_path / "bad.yaml")])
    assert bad.exit_code == 2
    assert "A_KEY" in bad.output


def test_a_missing_key_is_named(server: str) -> None:
    found = checks(remote(server, "A_KEY"))
    assert named(found, "key A_KEY").ok is False
    assert "environment variable A_KEY is not set" in named(found, "key A_KEY").said
    assert named(found, f"server {server}").ok is True, "the server itself answers"


def test_a_key_is_checked_and_never_shown(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "right")
    assert broken(remote(server, "A_KEY")) == []
    monkeypatch.setenv("A_KEY", "wrong-secret")
    [refused] = broken(remote(server, "A_KEY"))
    assert "HTTP 401" in refused.said
    assert "A_KEY" in refused.hint
    assert "wrong-secret" not in repr(checks(remote(server, "A_KEY")))


def test_a_server_that_is_not_there_is_named() -> None:
    url = closed_port()
    [away] = broken(remote(f"{url}/v1", "null"))
    assert away.name == f"server {url}/v1"
    assert "base_url" in away.hint


def test_an_address_that_is_none_is_named() -> None:
    [wrong] = broken(remote("localhost:8000", "null"))
    assert "expected an address such as" in wrong.said


def test_a_broken_line_is_named_with_its_place_and_once(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text('{"prompt": "How?"}\n{"prompt"\n')
    [wrong] = broken(scripted(f"prompts.red_team=[{{source: {tmp_path}/own.jsonl, wants: decline}}]"))
    assert wrong.name.startswith("prompts")
    assert "own.jsonl:2" in wrong.said


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("judge.prompt=nowhere.yaml", "nowhere.yaml"),
        ("policy={type: transformers, model: /not/here}", "there is no such path"),
        ("policy={type: llama_cpp, model: oracle}", "cannot be trained"),
        ("discover.prompt=rubric.yaml", "harmful"),
    ],
)
def test_what_the_run_would_stumble_on_is_named(override: str, said: str) -> None:
    assert [check for check in broken(scripted(override)) if said in check.said]


def test_splits_that_are_too_small_are_told(tmp_path: Path) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text("".join(f'{{"prompt": "Question {n}?", "split": "train"}}\n' for n in range(5)))
    found = checks(scripted(f"prompts.red_team=[{{source: {few}, wants: decline}}]"))
    told = {check.said: check.ok for check in found if check.name == "splits"}
    assert told["5 red_team prompts in train, and a round asks for 24"] is None, "a run takes the five"
    assert told["0 red_team prompts in held_out, and the evaluation asks for 20"] is False


def test_one_sided_runs_are_told() -> None:
    found = checks(scripted("prompts.harmless=[]", "prompts.harmless_per_round=0"))
    assert [c.ok for c in found if "prompts.harmless is empty" in c.said] == [None]
    assert [c for c in found if c.ok is False] == []


def test_what_will_be_fetched_is_told_with_its_size() -> None:
    found = checks(scripted("policy={type: transformers, model: policy}"))
    policy = named(found, "policy")
    assert (policy.ok, policy.hint) == (None, "iteralign pull policy")
    assert "98.4 MB" in policy.said


def test_a_cache_that_cannot_be_written_to_is_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("ITERALIGN_CACHE", str(tmp_path / "file" / "cache"))
    assert named(checks(), "cache").ok is False
    monkeypatch.setenv("ITERALIGN_CACHE", str(tmp_path / "new" / "cache"))
    assert named(checks(), "cache") == Check(
        "cache",
        None,
        f"{tmp_path}/new/cache holds none of the embedded models",
        "iteralign pull policy oracle hhh",
    )
    assert not (tmp_path / "new").exists(), "looking changes nothing"


def test_memory_that_cannot_be_enough_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "available_memory", lambda: 2_000_000_000)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    config = scripted("policy={type: transformers, model: policy, device: cpu}")
    assert named(checks(config), "memory").ok is False
    assert named(checks(scripted()), "memory").ok is True


def test_packages_are_compared_with_the_tested_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    constraints = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    assert TESTED.items() <= constraints.items()
    monkeypatch.setitem(TESTED, "rich", "0.1")
    monkeypatch.setitem(TESTED, "not-a-package-of-anybody", "1.0")
    found = checks(scripted())
    assert (named(found, "rich").ok, named(found, "not-a-package").ok) == (None, False)
    assert "tested with 0.1" in named(found, "rich").said
    assert named(found, "config").said == "not looked at yet"
