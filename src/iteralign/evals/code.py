"""HumanEval pass@1 (Chen et al. 2021, arXiv 2107.03374): a model's programs are run, each in a confined child process.

Running what a model wrote is never done unasked: without the user's word (`--allow-code`) nothing here starts.
"""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from iteralign.data.files import read_rows
from iteralign.data.question import text_of
from iteralign.errors import ConfigError, DataError
from iteralign.evals.scores import make_score
from iteralign.models.base import Job, Model, Sampling
from iteralign.records import Message, Record, Score

CHILD = Path(__file__).with_name("confined.py")
WARNING = (
    "HumanEval runs programs that the model wrote, on this machine. Each runs in a child process of its own, with "
    "limits on CPU seconds, memory, file size and time, an empty temporary folder, a clean environment, and neither "
    "network nor further processes (by seccomp and Landlock where the kernel has them; elsewhere only by a hook in "
    "Python, which stops ordinary code but not code written to break out)"
)


class Problem(NamedTuple):
    """`prompt` ends with the function's docstring; `test` defines `check`, which is called with `entry_point`."""

    id: str
    prompt: str
    entry_point: str
    test: str


@dataclass(frozen=True)
class Limits:
    """Seconds of CPU and by the clock, bytes of memory and of a file. A slow machine must not fail a right program."""

    cpu: int = 10
    wall: int = 40
    memory: int = 1 << 29
    file: int = 1 << 20


class Ran(NamedTuple):
    """`guards`: what confined it, by name (see evals/confined.py)."""

    passed: bool
    reason: str
    guards: tuple[str, ...]


class Program(Record):
    """One problem's completion and how its test ended; `passed` is None when the model gave no answer at all."""

    id: str
    completion: str
    passed: float | None
    reason: str
    guards: tuple[str, ...]


def read_humaneval(place: Path) -> list[Problem]:
    """HumanEval.jsonl.gz, or the folder that holds it: 164 problems."""
    path = place / "HumanEval.jsonl.gz" if place.is_dir() else place
    columns = ("task_id", "prompt", "entry_point", "test")
    items = [Problem(*(text_of(row, c) for c in columns)) for row in read_rows(path)]
    if not items:
        raise DataError(f"{path}: no problems: expected rows with {', '.join(columns)}")
    return items


def run_humaneval(
    items: Sequence[Problem], model: Model, allow_code: bool, limits: Limits | None = None, max_new_tokens: int = 384
) -> list[Program]:
    """Greedy completions, each run against its problem's test. ConfigError without `allow_code`: nothing is generated."""
    require_permission(allow_code)
    sampling = Sampling(temperature=0.0, max_new_tokens=max_new_tokens)
    replies = model.generate([Job(chat=opening(i), sampling=sampling) for i in items])
    rows: list[Program] = []
    for item, reply in zip(items, replies, strict=True):
        if reply.finish == "failed":
            said = f"no reply: {reply.error}"
            rows.append(Program(id=item.id, completion="", passed=None, reason=said, guards=()))
            continue
        completion = function_of(reply.text)
        ran = run_program(assembled(item, completion), limits or Limits())
        passed = float(ran.passed)
        rows.append(
            Program(id=item.id, completion=completion, passed=passed, reason=ran.reason, guards=tuple(ran.guards))
        )
    return rows


def humaneval_scores(rows: Sequence[Program]) -> list[Score]:
    guards = sorted({g for row in rows for g in row.guards})
    variant = f"pass@1, greedy, chat with the function begun; run under {', '.join(guards) or 'nothing: none ran'}"
    return [make_score("humaneval", variant, {row.id: row.passed for row in rows})]


def require_permission(allowed: bool) -> None:
    if not allowed:
        raise ConfigError(f"{WARNING}. Say --allow-code if you want that, or leave this benchmark out")
    if os.name != "posix":
        raise ConfigError("HumanEval needs a POSIX system (Linux, macOS): here no limits can be put on a process")


def opening(item: Problem) -> tuple[Message, ...]:
    """The answer is begun with the function's head, so that base and chat models complete the same text."""
    asked = "Complete this Python function. Write nothing but its code.\n\n```python\n" + item.prompt.rstrip() + "\n```"
    begun = "```python\n" + item.prompt.rstrip()
    return (Message(role="user", content=asked), Message(role="assistant", content=begun))


_DEFINES = re.compile(r"(?:async )?def |class |@|import |from |\w+(?:: [^=]+)? = |[)\]}]")


def function_of(reply: str) -> str:
    """The function's body and what is defined after it, up to the first other line that is not indented: the end of
    the code block, a remark, a call."""
    kept: list[str] = []
    for n, line in enumerate(reply.split("\n")):
        if n and line and not line[0].isspace() and not _DEFINES.match(line):
            break
        kept.append(line)
    return "\n".join(kept).rstrip() + "\n"


def assembled(item: Problem, completion: str) -> str:
    joint = "" if completion.startswith("\n") else "\n"
    return f"{item.prompt.rstrip()}{joint}{completion}\n\n{item.test}\n\ncheck({item.entry_point})\n"


def run_program(source: str, limits: Limits) -> Ran:
    """Whether the program ran to its end within the limits. Its process group is killed in any case.

    ConfigError: the child process could not be confined, so nothing was run.
    """
    nonce = secrets.token_hex(16)
    task = json.dumps({"program": source, "nonce": nonce, "limits": asdict(limits)}).encode()
    flags = ("-P", "-s", "-S", "-B")  # no other folder, site or packages; nothing is written beside the library
    with (
        tempfile.TemporaryDirectory(prefix="iteralign-code-", ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as said,
        tempfile.TemporaryFile() as wrong,
    ):
        child = subprocess.Popen(
            [sys.executable, *flags, str(CHILD)],
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=wrong,
            cwd=folder,
            env={"HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"},
            start_new_session=True,
        )
        timed_out = False
        try:
            child.communicate(task, timeout=limits.wall)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        said.seek(0)
        wrong.seek(0)
        lines = parsed(said.read(limits.file))
        if not lines and not timed_out:
            last = wrong.read(4096).decode(errors="replace").strip().splitlines()
            raise ConfigError(f"a child process for code cannot be confined here: {last[-1] if last else 'no reason'}")
    guards = tuple(lines[0].get("guards", ())) if lines else ()
    ended = next((line for line in lines[1:] if line.get("nonce") == nonce), None)
    if ended is not None:
        return Ran(ended["failed"] is None, ended["failed"] or "", guards)
    if timed_out:
        return Ran(False, f"ran longer than {limits.wall} s", guards)
    code = child.returncode
    if code < 0:
        over = f" (more than {limits.cpu} s of CPU)" if -code in (signal.SIGXCPU, signal.SIGKILL) else ""
        return Ran(False, f"killed by {signal.Signals(-code).name}{over}", guards)
    return Ran(False, f"left early with exit code {code}", guards)


def parsed(data: bytes) -> list[dict[str, Any]]:
    """The lines that the child wrote; what a program wrote between them is passed over."""
    found: list[dict[str, Any]] = []
    for line in data.split(b"\n"):
        with suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict):
                found.append(value)
    return found
