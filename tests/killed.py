"""Runs the recipe in children that are killed at their k-th write; other children go on. Prints what then differs.

python killed.py FOLDER STEP SETTING…   every STEP-th write is a place to die; where they are close, one run also
dies again and again
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from iteralign.config import RunConfig, load_config
from iteralign.models.scripted import ScriptedPolicy
from iteralign.recipes import recipe
from iteralign.runs import open_

OUTSIDE_THE_PROMISE = {"environment.json", "events.jsonl", "calls.sqlite"}


class Death:
    """Kills this process at a write: the line is torn, or whole but not yet counted; or right after a rename."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.torn = at % 3 == 0
        self.replace = Path.replace

    def fsync(self, file: int) -> None:
        self.left -= 1
        if self.left == 0:
            if self.torn:
                os.ftruncate(file, max(0, os.fstat(file).st_size - 9))
            os.kill(os.getpid(), signal.SIGKILL)

    def rename(self, path: Path, target: Path) -> Path:
        moved = self.replace(path, target)
        self.fsync(0) if not self.torn else None
        return moved


def run(folder: Path, config: RunConfig, death: Death | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    os.fsync = death.fsync if death else lambda file: None  # a kill loses nothing that was written, synced or not
    if death is not None:
        Path.replace = lambda path, target: death.rename(path, target)  # type: ignore[method-assign]
    recipe(config.recipe)(open_(config, Path("run")))


def child(folder: Path, config: RunConfig, death: Death | None = None) -> int:
    """The exit status of a run in a process of its own; negative when a signal ended it."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            run(folder, config, death)
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def files(folder: Path) -> dict[str, bytes]:
    inside = (p for p in (folder / "run").rglob("*") if p.is_file() and p.name not in OUTSIDE_THE_PROMISE)
    return {str(p.relative_to(folder)): content(p) for p in inside}


def content(path: Path) -> bytes:
    """The bytes; of weights their digest, because safetensors writes its header's entries in any order."""
    if path.suffix != ".safetensors":
        return path.read_bytes()
    from iteralign.models.weights import load_weights, weights_digest

    return weights_digest(load_weights(path.parent)).encode()


def difference(a: dict[str, bytes], b: dict[str, bytes]) -> list[str]:
    return sorted(name for name in {*a, *b} if a.get(name) != b.get(name))


def refuse_too_much() -> None:
    """A policy that declines everything once it has learnt: the gate goes back along its weight change."""
    answer = ScriptedPolicy._answer

    def declining(self: ScriptedPolicy, job: Any) -> str:
        return "I'm sorry, but I can't help with that, so ask a friend." if self.learnt > 1 else answer(self, job)

    ScriptedPolicy._answer = declining  # type: ignore[method-assign]


def main(folder: Path, step: int, settings: list[str]) -> None:
    if "overrefuses" in settings:
        settings.remove("overrefuses")
        refuse_too_much()
    if any("transformers" in setting for setting in settings):
        import iteralign.training.sft  # noqa: F401 - once for all children
    config = load_config(Path(__file__).parents[1] / "configs/scripted.yaml", settings)
    assert child(folder / "whole", config) == 0
    whole = files(folder / "whole")

    ends: dict[int, str] = {}
    at = 1
    while (status := child(folder / f"{at}", config, Death(at))) == -signal.SIGKILL:
        left = files(folder / f"{at}")
        half = [n for n in left if n in whole and not n.endswith((".part", "ledger.jsonl")) and left[n] != whole[n]]
        resumed = child(folder / f"{at}", config)
        ends[at] = f"{resumed} {half} {difference(files(folder / f'{at}'), whole)}"
        at += step
    assert status == 0, f"killed at no write, but exit {status}"

    kills = 0
    while step < 12 and (status := child(folder / "again", config, Death(5 + 2 * kills))) == -signal.SIGKILL:
        kills += 1
    again = difference(files(folder / "again"), whole) if kills else []
    print(json.dumps({"files": sorted(whole), "ends": ends, "kills": kills, "status": status, "again": again}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
