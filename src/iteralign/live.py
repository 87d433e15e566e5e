"""What a run shows while it works: stage, round, counts, speed, time left. Rich on a terminal, else plain lines."""

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

WORDS = {
    "prompts": "drawing prompts",
    "responses": "answering",
    "verdicts": "judging",
    "principles": "discovering principles",
    "revisions": "revising and verifying",
    "rows": "choosing rows",
    "copies": "looking for copies of benchmark items",
    "trained": "fine-tuning",
    "refusals": "writing refusals to contrast with",
    "compared": "comparing answers",
    "agreement": "counting ties",
    "preferences": "choosing pairs",
    "trained-dpo": "fine-tuning on pairs",
    "reward": "training a reward model",
    "trained-rl": "reinforcing by the reward",
    "rewarded": "answering after the reward",
    "rewarded-verdicts": "judging what the reward made",
    "reward-check": "looking for reward hacking",
    "gate": "checking the gates",
    "scores": "scoring",
    "hhh": "scoring HHH",
    "items": "answering",
    "dtype": "measuring which dtype is faster",
    "backtracked": "keeping a part of the change",
}


class Live:
    """A `store.Watcher`. `tokens` is told by the models' owner how many tokens a stage has made."""

    def __init__(self, console: Console | None = None, plain: bool | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.plain = not self.console.is_terminal if plain is None else plain
        self.seconds: dict[str, float] = {}
        self._name = ""
        self._started = self._counted = time.monotonic()
        self._begin = 0
        self._total = 0
        self._progress: Progress | None = None
        self._task: Any = None
        if not self.plain:
            self._progress = Progress(
                TextColumn("{task.description:<46}"),
                BarColumn(bar_width=18),
                MofNCompleteColumn(),
                TextColumn("{task.fields[speed]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
            )

    def __enter__(self) -> "Live":
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()
        if self._progress:
            self._progress.stop()

    def stage(self, name: str, total: int, done: int) -> None:
        self.finish()
        self._name, self._total, self._begin = name, total, done
        self._started = self._counted = time.monotonic()
        if self._progress:
            if self._task is not None:
                self._progress.update(self._task, visible=False)
            self._task = self._progress.add_task(describe(name), total=total, completed=done, speed="")
        else:
            kept = f" ({done} kept from before)" if done else ""
            print(f"[{clock()}] {describe(name)}: {total}{kept}", file=sys.stderr, flush=True)

    def advance(self, name: str, done: int, tokens: int = 0) -> None:
        if name != self._name.rpartition("/")[2]:  # the end of a stage that held others: they have told all
            return
        now = time.monotonic()
        speed = (
            f"{tokens / (now - self._started):.0f} tok/s" if tokens else rate(done - self._begin, now - self._started)
        )
        if self._progress and self._task is not None:
            self._progress.update(self._task, completed=done, speed=speed)
        elif now - self._counted > 20 and done < self._total:
            left = (now - self._started) / max(1, done - self._begin) * (self._total - done)
            print(f"[{clock()}]   {done}/{self._total} {speed}, about {left:.0f} s left", file=sys.stderr, flush=True)
            self._counted = now

    def training(self, step: int, steps: int) -> None:
        if self._progress and self._task is not None:
            self._progress.update(self._task, total=steps, completed=step)
        else:
            self._total, self._begin = steps, 0
            self.advance(self._name.rpartition("/")[2], step)

    def note(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, style="dim")

    def finish(self) -> None:
        """The stage under way has ended: its time counts."""
        if self._name:
            stage = self._name.rsplit("/", 1)[-1]
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - self._started
            self._name = ""


def describe(name: str) -> str:
    """ "00001/verdicts" → "round 1: judging"; "base/hhh" → "base: scoring HHH"."""
    folder, _, stage = name.rpartition("/")
    where = f"round {int(folder)}" if folder.isdigit() else folder
    share = stage.removeprefix("tried-")
    said = f"gate at {float(share):.0%} of the change" if share != stage else WORDS.get(stage, stage)
    return f"{where}: {said}" if where else said


def rate(count: int, seconds: float) -> str:
    return f"{count / seconds:.1f}/s" if seconds > 0.5 and count else ""


def clock() -> str:
    return time.strftime("%H:%M:%S")


class Downloads:
    """Progress of downloads: a line when one begins to take time, and one for each tenth after that."""

    def __init__(self, live: Any) -> None:
        self.live = live
        self.begun: dict[str, tuple[float, int]] = {}
        self.told: dict[str, int] = {}

    def __call__(self, name: str, done: int, total: int) -> None:
        start, first = self.begun.setdefault(name, (time.monotonic(), done))
        seconds, tenth = time.monotonic() - start, 10 * done // max(total, 1)
        if seconds < 1 or done == first or self.told.get(name) == tenth:
            return
        self.told[name] = tenth
        left = (total - done) * seconds / (done - first)
        self.live.note(f"fetching {name}: {done / 1e6:.0f} of {total / 1e6:.0f} MB, about {left:.0f} s left")
