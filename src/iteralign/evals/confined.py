"""The child process in which one program that a model wrote is run; standard library only, started by evals/code.py.

What it guards against, from the surest to the weakest: `limits` (CPU seconds, memory, file size, processes), `seccomp`
and `landlock` are the kernel's own; `hook` is Python's and stops ordinary code, not code written to break out of it.
"""

import ctypes
import json
import os
import platform
import resource
import struct
import sys
from typing import Any, NoReturn

_libc: Any = ctypes.CDLL(None, use_errno=True)
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, FILTER = 38, 22, 2

# x86_64 numbers of what starts a process, speaks to a network or touches another process
_DENIED = {
    "network": (41, 42, 43, 49, 50, 53, 288, 425),  # socket connect accept bind listen socketpair accept4 io_uring
    "processes": (56, 57, 58, 59, 322, 435),  # clone fork vfork execve execveat clone3
    "others": (62, 101, 129, 141, 142, 144, 200, 203, 234, 251, 297, 302, 310, 311, 424, 434, 438),  # kill ptrace …
    "system": (155, 161, 164, 165, 167, 169, 170, 172, 173, 175, 176, 227, 246, 248, 249, 250, 272, 298, 308, 313, 321)
    + (323, 428, 429, 430, 432),  # mount modules clock keys unshare bpf …, which root could do
    "limits": (29, 64, 68, 160, 240),  # setrlimit, and memory that would outlive it: shmget semget msgget mq_open
    "files": (90, 92, 94, 132, 188, 189, 197, 198, 235, 260, 261, 268, 280, 452),  # chmod chown utime xattr, by path
}
_X86_64, _EPERM = 0xC000003E, 1


def confine(limits: dict[str, int]) -> list[str]:
    """The names of the guards that hold from here on, for good. `limits`: cpu (seconds), memory and file (bytes)."""
    here = os.path.realpath(os.getcwd())
    library = [os.path.realpath(p) for p in sys.path if os.path.exists(p)]
    for which, most in (
        (resource.RLIMIT_CPU, limits["cpu"]),
        (resource.RLIMIT_FSIZE, limits["file"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_NPROC, 0),
    ):
        lower(which, most)
    guards = ["limits"]
    if sys.platform == "linux":
        lower(resource.RLIMIT_AS, limits["memory"])
        if _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
            guards += ["landlock"] * landlock(here, library) + ["seccomp"] * seccomp()
    else:
        lower(resource.RLIMIT_DATA, limits["memory"])
    sys.addaudithook(hook(here, library))
    return [*guards, "hook"]


def lower(which: int, most: int) -> None:
    """Never above what holds already: only root could raise that."""
    hard = resource.getrlimit(which)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(which, (most, most))


def landlock(here: str, library: list[str]) -> bool:
    """Files: the standard library can be read, the working directory written, nothing else opened."""
    version = _libc.syscall(444, None, 0, 1)
    if version < 1:
        return False
    everything = (1 << (13 if version == 1 else 14 if version == 2 else 15)) - 1
    read = 1 << 2 | 1 << 3
    ruleset = _libc.syscall(444, struct.pack("Q", everything), 8, 0)
    if ruleset < 0:
        return False
    for path, access in [(here, everything), *((p, read) for p in (*library, "/usr/lib", "/lib", "/lib64"))]:
        if not os.path.exists(path):
            continue
        at = os.open(path, os.O_PATH | os.O_CLOEXEC)
        allowed = access if os.path.isdir(path) else access & (1 << 2)
        if _libc.syscall(445, ruleset, 1, struct.pack("=Qi", allowed, at), 0) != 0:
            return False
        os.close(at)
    return _libc.syscall(446, ruleset, 0) == 0


def seccomp() -> bool:
    """No sockets, no new processes or threads, no signals to others: the calls fail with EPERM."""
    if platform.machine() != "x86_64" or struct.calcsize("P") != 8:
        return False
    numbers = sorted({n for group in _DENIED.values() for n in group})

    def step(code: int, true: int, false: int, value: int) -> bytes:
        return struct.pack("HBBI", code, true, false, value)

    deny = len(numbers) + 1  # how far the last instruction lies behind the first comparison
    program = [
        step(0x20, 0, 0, 4),  # load the architecture
        step(0x15, 1, 0, _X86_64),
        step(0x06, 0, 0, 0x80000000),  # another one: kill
        step(0x20, 0, 0, 0),  # load the number of the call
        step(0x35, deny, 0, 0x40000000),  # x32's numbers are all denied
        *(step(0x15, deny - 1 - n, 0, number) for n, number in enumerate(numbers)),
        step(0x06, 0, 0, 0x7FFF0000),  # allow
        step(0x06, 0, 0, 0x00050000 | _EPERM),
    ]
    code = ctypes.create_string_buffer(b"".join(program))
    whole = struct.pack("HP", len(program), ctypes.addressof(code))
    return _libc.prctl(PR_SET_SECCOMP, FILTER, whole, 0, 0) == 0


_NEVER = ("socket.", "subprocess.", "ctypes.", "pty.", "os.fork", "os.exec", "os.posix_spawn", "os.spawn", "os.system")
_NEVER += ("os.kill", "signal.pthread_kill", "sqlite3.", "resource.", "os.startfile", "_posixsubprocess.")
_NEVER += ("gc.get_",)  # they find what a frame does not show
_FILES = ("os.listdir", "os.scandir", "os.chdir", "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link")
_FILES += ("os.symlink", "os.chmod", "os.chown", "os.truncate", "os.utime", "os.setxattr", "os.mkfifo", "os.chflags")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def hook(here: str, library: list[str]) -> Any:
    """An audit hook (PEP 578): it cannot be taken off again."""

    def inside(path: Any, folders: list[str]) -> bool:
        if isinstance(path, int):
            return True  # an open file
        real = os.path.realpath(os.fsdecode(path if path is not None else here))
        return any(real == f or real.startswith(f + os.sep) for f in folders)

    def check(event: str, args: tuple[Any, ...]) -> None:
        if event.startswith(_NEVER):
            raise PermissionError(f"{event} is not allowed here")
        if event == "open":
            writes = isinstance(args[2], int) and bool(args[2] & _WRITES)
            if not inside(args[0], [here] if writes else [here, *library]):
                raise PermissionError("no file outside the working directory may be opened")
        elif event.startswith(_FILES):
            reads = event in ("os.listdir", "os.scandir")
            paths = [a for a in args[:2] if isinstance(a, str | bytes | os.PathLike)]
            if not all(inside(p, [here, *library] if reads else [here]) for p in paths):
                raise PermissionError("nothing outside the working directory may be reached")

    return check


def run(source: str) -> str | None:
    """Why the program failed, in a few words; None when it ran to its end."""
    try:
        exec(compile(source, "<program>", "exec"), {"__name__": "program"})
    except BaseException as error:  # noqa: BLE001 - also SystemExit: a program that leaves early has not passed
        return f"{type(error).__name__}: {error}"[:300]
    return None


def main() -> NoReturn:
    """Reads the task from standard input and writes two JSON lines: the guards, and how it ended with the task's
    nonce, which the program is not shown: one that leaves by os._exit has not passed. A program that is written to
    lie still can: it runs in this process."""
    task = json.loads(sys.stdin.buffer.read())
    out = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    os.write(out, json.dumps({"guards": confine(task["limits"])}).encode() + b"\n")
    # one expression: what is read before the program runs waits where no frame's locals and no module show it
    os.write(out, json.dumps({"nonce": task.pop("nonce"), "failed": run(task.pop("program"))}).encode() + b"\n")
    os._exit(0)


if __name__ == "__main__":
    main()
