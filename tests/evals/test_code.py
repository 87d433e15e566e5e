"""HumanEval: only with the user's word; right programs pass, wrong ones fail, and none gets out of its child process."""

import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from iteralign.errors import ConfigError
from iteralign.evals import confined
from iteralign.evals.code import (
    Limits,
    Problem,
    function_of,
    humaneval_scores,
    read_humaneval,
    run_humaneval,
    run_program,
)
from iteralign.models.base import Job
from iteralign.models.scripted import ScriptedModel
from iteralign.records import Reply

pytestmark = pytest.mark.skipif(os.name != "posix", reason="limits on a process need a POSIX system")

DATA = Path(os.environ.get("ITERALIGN_TEST_DATA", "")) / "capability" / "humaneval"
SHORT = Limits(cpu=2, wall=20)
ADD = Problem(
    "t/0",
    'def add(a, b):\n    """Sum of two numbers."""\n',
    "add",
    "def check(candidate):\n    assert candidate(2, 3) == 5\n",
)


def outcome(source: str, limits: Limits = SHORT) -> str:
    ran = run_program(source, limits)
    assert ran.passed == (ran.reason == "")
    return ran.reason


def answers(text: str) -> ScriptedModel:
    return ScriptedModel(generate=lambda job: text)


# -- the score ----------------------------------------------------------------------------------------


def test_without_the_users_word_nothing_is_generated_or_run() -> None:
    def generate(job: Job) -> str:
        raise AssertionError("the model was asked")

    with pytest.raises(ConfigError, match=r"runs programs that the model wrote.*--allow-code"):
        run_humaneval([ADD], ScriptedModel(generate=generate), allow_code=False)


def test_right_passes_wrong_fails_and_no_answer_is_unscored() -> None:
    texts = {"t/0": "\n    return a + b\n```\nThis adds them.", "t/1": "\n    return a - b\n", "t/2": ""}
    items = [ADD._replace(id=name, prompt=f"# {name}\n{ADD.prompt}") for name in texts]

    def generate(job: Job) -> Reply:
        name = next(n for n in texts if n in job.chat[-1].content)
        failed = name == "t/2"
        return Reply(text=texts[name], finish="failed" if failed else "stop", error="no room" if failed else None)

    rows = run_humaneval(items, ScriptedModel(generate=generate), allow_code=True, limits=SHORT)
    assert [row.passed for row in rows] == [1.0, 0.0, None]
    assert rows[1].reason.startswith("AssertionError")
    [score] = humaneval_scores(rows)
    assert (score.value, score.n, score.n_unscored) == (0.5, 2, 1)
    assert "pass@1" in score.variant and "limits" in score.variant


@pytest.mark.parametrize(
    "after",
    ["```\nHere `f` gives 1.", "print(add(1, 2))", "if __name__ == '__main__':\n    add(1, 2)", "This adds them."],
)
def test_what_is_no_part_of_the_function_is_left_off(after: str) -> None:
    assert function_of(f"\n    x = 1\n\n    return x\n\n\n{after}") == "\n    x = 1\n\n    return x\n"


def test_a_function_that_it_calls_belongs_to_it() -> None:
    helped = "\n    return twice(a) + ONE\n\n\nONE = 1\n\n\ndef twice(x):\n    return 2 * x\n"
    assert function_of(helped) == helped


def test_a_child_that_cannot_be_confined_runs_nothing_and_says_so() -> None:
    with pytest.raises(ConfigError, match="cannot be confined here"):
        run_program("", Limits(memory=1 << 70))


@pytest.mark.skipif(not DATA.is_dir(), reason="the public HumanEval file is not here (ITERALIGN_TEST_DATA)")
def test_the_published_solutions_of_the_first_problems_pass() -> None:
    items = read_humaneval(DATA)
    assert len(items) == 164
    rows = [json.loads(x) for x in gzip.decompress((DATA / "HumanEval.jsonl.gz").read_bytes()).splitlines()]
    solved = {r["task_id"]: r["canonical_solution"] for r in rows}
    model = ScriptedModel(
        generate=lambda job: next(solved[i.id] for i in items if i.prompt.rstrip() in job.chat[-1].content)
    )
    assert [row.reason for row in run_humaneval(items[:6], model, allow_code=True)] == [""] * 6


# -- the child process --------------------------------------------------------------------------------


def test_an_endless_loop_ends_by_its_cpu_seconds() -> None:
    assert "CPU" in outcome("while True: pass", Limits(cpu=1, wall=60))


def test_a_program_that_only_waits_ends_by_the_clock() -> None:
    start = time.monotonic()
    assert outcome("import time; time.sleep(600)", Limits(wall=3)) == "ran longer than 3 s"
    assert time.monotonic() - start < 30


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a process to its memory")
def test_a_memory_bomb_fails_as_such() -> None:
    assert outcome("x = bytearray(1 << 30)").startswith("MemoryError")
    assert outcome("x = []\nwhile True: x.append(bytearray(1 << 24))").startswith("MemoryError")


@pytest.mark.parametrize(
    "source",
    [
        "import os; os.fork()",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.system('true')",
        "import os; os.execv('/bin/true', ['true'])",
        "import socket; socket.socket()",
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')",
        "import ctypes; ctypes.CDLL(None)",
        "import os, signal; os.kill(os.getppid(), 0)",
        "import threading; threading.Thread(target=print).start()",
    ],
)
def test_no_processes_no_network_no_signals(source: str) -> None:
    assert outcome(source) != ""


def test_files_outside_cannot_be_read_written_listed_or_deleted(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("mine")
    for source in (
        f"open({str(secret)!r}).read()",
        f"open({str(secret)!r}, 'w')",
        f"open({str(tmp_path / 'new')!r}, 'w')",
        f"import os; os.listdir({str(tmp_path)!r})",
        f"import os; os.remove({str(secret)!r})",
        f"import os; os.symlink({str(secret)!r}, 'link'); open('link').read()",
        f"import os; os.chdir({str(tmp_path)!r})",
    ):
        assert outcome(source).startswith("PermissionError"), source
    assert secret.read_text() == "mine" and [p.name for p in tmp_path.iterdir()] == ["secret.txt"]


def test_its_own_folder_is_empty_and_can_be_written_up_to_the_limit() -> None:
    assert outcome("import os; assert os.listdir('.') == []; open('a', 'w').write('x'); open('a').read()") == ""
    assert outcome("open('a', 'wb').write(bytes(1 << 22))").startswith("OSError")


def test_the_environment_of_the_parent_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "secret")
    assert outcome("import os; assert 'MY_API_KEY' not in os.environ; assert 'secret' not in str(os.environ)") == ""
    assert outcome("import os; open(f'/proc/{os.getppid()}/environ', 'rb').read()") != ""


def test_a_program_that_leaves_before_its_test_has_not_passed() -> None:
    for source in ("import os; os._exit(0)", "import sys; sys.exit(0)", "raise SystemExit"):
        assert outcome(source + "\nassert False") != ""


SEARCHES = """
import gc, json, os, sys
def locals_of(frame):
    while frame is not None:
        yield dict(frame.f_locals)
        frame = frame.f_back
try:
    1 / 0
except ZeroDivisionError as error:
    found = [*locals_of(sys._getframe()), *locals_of(error.__traceback__.tb_frame), vars(sys.modules['__main__'])]
found += [x for seen in list(found) for x in seen.values() if isinstance(x, dict)]
for nonce in {str(x['nonce']) for x in found if 'nonce' in x}:
    for fd in range(3, 32):
        try:
            os.write(fd, (json.dumps({'nonce': nonce, 'failed': None}) + '\\n').encode())
        except OSError:
            pass
os._exit(0)
"""


def test_a_program_that_looks_through_the_frames_finds_nothing_to_forge_a_pass_with() -> None:
    assert outcome(SEARCHES) == "left early with exit code 0"
    assert outcome("import gc; gc.get_objects()").startswith("PermissionError")
    assert outcome("import collections; assert collections.namedtuple('P', 'x')(1).x == 1") == ""


def test_what_a_program_prints_is_thrown_away() -> None:
    assert outcome("for _ in range(100000): print('x' * 100)", Limits(cpu=10, wall=60)) == ""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's guards are Linux's")
def test_the_kernels_guards_hold_where_the_hook_is_not_there(tmp_path: Path) -> None:
    """The same child without Python's hook: what it is refused, the kernel refuses."""
    secret = tmp_path / "secret.txt"
    secret.write_text("mine")
    (tmp_path / "work").mkdir()
    code = f"""
import importlib.util, json, os, sys
spec = importlib.util.spec_from_file_location('confined', {str(confined.__file__)!r})
confined = importlib.util.module_from_spec(spec); spec.loader.exec_module(confined)
confined.hook = lambda here, library: (lambda event, args: None)
guards = confined.confine({{'cpu': 5, 'memory': 1 << 29, 'file': 1 << 20}})
import socket
def tried(what):
    try:
        what()
    except OSError as error:
        return error.errno
    return None
print(json.dumps([guards, tried(os.fork), tried(socket.socket), tried(lambda: os.kill(os.getppid(), 0)),
    tried(lambda: open({str(secret)!r})), tried(lambda: open({str(secret)!r}, 'w')), tried(lambda: open('own', 'w')),
    tried(lambda: os.chmod({str(secret)!r}, 0)), tried(lambda: os.listdir({str(tmp_path)!r}))]))
"""
    done = subprocess.run(
        [sys.executable, "-P", "-s", "-S", "-B", "-c", code], cwd=tmp_path / "work", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    guards, fork, sock, kill, read, write, own, chmod, listed = json.loads(done.stdout)
    assert fork is not None and own is None
    if "seccomp" in guards:
        assert (fork, sock, kill, chmod) == (1, 1, 1, 1)
    if "landlock" in guards:
        assert (read, write, listed) == (13, 13, 13)
    if not {"seccomp", "landlock"} & set(guards):
        pytest.skip("this kernel has neither seccomp nor Landlock")
