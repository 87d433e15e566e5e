"""What a run shows while it works: stage, round, counts, speed, time left. Rich on a terminal, else plain lines or JSON.

The same stands in progress.json of the run directory, which `iteralign watch` reads from elsewhere.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from iteralign.errors import StoreError, Waiting
from iteralign.models.usage import Usage

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
    "unrewarded": "answering before the reward",
    "unrewarded-verdicts": "judging what came before the reward",
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


PROGRESS = "progress.json"
PATIENCE = 10.0  # seconds: `run --fresh` moves a directory aside before it makes the new one
LogFormat = Literal["text", "json"]
State = Literal["working", "ended", "waiting", "stopped"]


class Live:
    """A `store.Watcher`. `log`: json prints a line of JSON an event to standard output. `trackers` are told of the run
    directory whenever a round has come to something."""

    def __init__(
        self,
        console: Console | None = None,
        plain: bool | None = None,
        log: LogFormat = "text",
        trackers: Callable[[Path], None] | None = None,
    ) -> None:
        self.console = console or Console(stderr=True)
        self.json = log == "json"
        self.plain = not self.console.is_terminal or self.json if plain is None else plain
        self.folder: Path | None = None
        self.trackers = trackers
        self.unit = "round"  # or phase, where a round is two folders (self_improve)
        self._said = ""
        self._written = 0.0
        self.usage: Callable[[], Usage] = Usage  # what the models were asked so far
        self.ended: Callable[[str, float, Usage], None] | None = None  # told of every stage: its name, seconds, usage
        self._before = Usage()
        self._name = self._last = ""
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

    def keep(self, folder: Path) -> None:
        """From here on progress.json is kept in this run directory, which nobody else's run has: who watches must not take
        what an earlier start has left for this one's."""
        self.folder = folder
        self._tell(0)

    def __enter__(self) -> "Live":
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.finish()
        self._track()
        self._tell(0, state="ended" if kind is None else "waiting" if issubclass(kind, Waiting) else "stopped")
        if self._progress:
            self._progress.stop()

    def stage(self, name: str, total: int, done: int) -> None:
        self.finish()
        self._name, self._total, self._begin = name, total, done
        self._last = name
        self._started = self._counted = time.monotonic()
        self._before = self.usage()
        self._stand()
        self._tell(done)
        if self._progress:
            if self._task is not None:
                self._progress.update(self._task, visible=False)
            self._task = self._progress.add_task(describe(name, self.unit), total=total, completed=done, speed="")
        else:
            kept = f" ({done} kept from before)" if done else ""
            self._print(f"{describe(name, self.unit)}: {total}{kept}", "stage", done=done)

    def advance(self, name: str, done: int, tokens: int = 0, told: tuple[str, float] | None = None) -> None:
        """`told`: speed and seconds left, by who knows better."""
        if name != self._name.rpartition("/")[2]:  # the end of a stage that held others: they have told all
            return
        now = time.monotonic()
        speed = (
            f"{tokens / (now - self._started):.0f} tok/s" if tokens else rate(done - self._begin, now - self._started)
        ) + cost(self.usage())
        left = (now - self._started) / max(1, done - self._begin) * (self._total - done)
        speed, left = told or (speed, left)
        self._tell(done, speed, left)
        if self._progress and self._task is not None:
            self._progress.update(self._task, completed=done, speed=speed)
        elif now - self._counted > 20 and done < self._total:
            said = f"  {done}/{self._total} {speed}, about {left:.0f} s left"
            self._print(said, "progress", done=done, speed=speed, seconds_left=round(left), **self._dollars())
            self._counted = now

    def training(self, step: int, steps: int) -> None:
        self._total, self._begin = steps, 0
        if self._progress and self._task is not None:
            self._progress.update(self._task, total=steps)
        self.advance(self._name.rpartition("/")[2], step)

    def note(self, text: str) -> None:
        if self.json:
            self._print(text, "note")
        else:
            self.console.print(text, highlight=False, markup=False, style="dim")

    def _print(self, text: str, event: str, **more: Any) -> None:
        if not self.json:
            print(f"[{clock()}] {text}", file=sys.stderr, flush=True)
            return
        fields = {"stage": self._name, "total": self._total, **more} if event != "note" else {"text": text}
        print(json.dumps({"time": round(time.time(), 3), "event": event, **fields}), flush=True)

    def _stand(self) -> None:
        """What the rounds so far came to, once it is another."""
        said = standing(self.folder, self.unit) if self.folder else ""
        if said != self._said:
            self._said = said
            self.note(said)
            self._track()

    def _track(self) -> None:
        if self.trackers and self.folder:
            self.trackers(self.folder)

    def _tell(self, done: int, speed: str = "", left: float | None = None, state: State = "working") -> None:
        """At most twice a second, and whole: who reads it never finds a half of it."""
        now = time.monotonic()
        if self.folder is None or (left is not None and now - self._written < 0.5):
            return
        self._written = now
        told = {"pid": os.getpid(), "unit": self.unit, "stage": self._last, "total": self._total, "done": done}
        told |= {
            "speed": speed,
            "seconds_left": None if left is None else round(left),
            "state": state,
            **self._dollars(),
        }
        beside = self.folder / (PROGRESS + ".new")
        try:
            beside.write_text(json.dumps(told))
            beside.replace(self.folder / PROGRESS)
        except OSError:  # a display must not end a run; a full disk ends it where its rows are written
            return

    def _dollars(self) -> dict[str, float]:
        spent = self.usage().dollars
        return {"dollars": round(spent, 6)} if spent else {}

    def finish(self) -> None:
        """The stage under way has ended: its time counts."""
        if self._name:
            name, self._name = self._name, ""
            if self.ended:
                self.ended(name.rsplit("/", 1)[-1], time.monotonic() - self._started, self.usage().less(self._before))


def standing(folder: Path, unit: str = "round") -> str:
    """The last round whose gate has decided, on validation prompts, and how many principles there are."""
    parts: list[str] = []
    for gate in sorted(folder.glob("rounds/*/gate.json"))[-1:]:
        told = json.loads(gate.read_text())
        figures = told["figures"]
        by = ((n, figures.get(f"{n}_words") if figures.get(n) is None else figures[n]) for n in SIDES)
        shares = ", ".join(f"{SIDES[name]} {value:.0%}" for name, value in by if value is not None)
        parts.append(f"{unit} {int(gate.parent.name)} {'kept' if told['kept'] else 'rolled back'}: {shares}")
    for place in sorted(folder.glob("rounds/*/principles.json"))[-1:]:
        count = len(json.loads(place.read_text())["constitution"]["principles"])
        parts.append(f"{count} principle{'' if count == 1 else 's'}")
    return "; ".join(parts)


SIDES = {"harmful_compliance": "harmful compliance", "benign_refusal": "harmless refused"}


def describe(name: str, unit: str = "round") -> str:
    """ "00001/verdicts" → "round 1: judging"; "base/hhh" → "base: scoring HHH"."""
    folder, _, stage = name.rpartition("/")
    where = f"{unit} {int(folder)}" if folder.isdigit() else folder
    share = stage.removeprefix("tried-")
    said = f"gate at {float(share):.0%} of the change" if share != stage else WORDS.get(stage, stage)
    return f"{where}: {said}" if where else said


def rate(count: int, seconds: float) -> str:
    return f"{count / seconds:.1f}/s" if seconds > 0.5 and count else ""


def cost(usage: Usage) -> str:
    """So far, where a server has its price."""
    return f" ${usage.dollars:.2f}" if usage.dollars else ""


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


def follow(folder: Path, live: Live | None = None, pause: float = 0.5) -> str:
    """Show what progress.json of a run says until its process has ended; how it ended.

    Raises StoreError where no run has begun.
    """
    shown: tuple[str, int] | None = None
    told = progress_in(folder)
    with live or Live() as display:
        said = ""
        while True:
            display.unit = told.get("unit", "round")
            if told["state"] == "ended":
                return f"{folder}: the run has ended"
            if told["state"] == "waiting":
                return f"{folder}: the run waits for people: iteralign review {folder}; then the same `iteralign run` goes on"
            if told["state"] == "stopped" or not alive(told["pid"]):
                where = f" in {describe(told['stage'], display.unit)}" if told["stage"] else ""
                return f"{folder}: the run was stopped{where}; the same `iteralign run` goes on"
            now_shown = (told["stage"], told["total"])  # a training learns late how many steps it has
            if told["stage"] and now_shown != shown:
                shown = now_shown
                display.stage(*shown, told["done"])
            if shown:
                said_speed = told["speed"], told["seconds_left"] or 0.0
                display.advance(told["stage"].rpartition("/")[2], told["done"], told=said_speed)
            if (now := standing(folder, display.unit)) != said:
                said = now
                display.note(said)
            time.sleep(pause)
            told = progress_in(folder, PATIENCE)


def progress_in(folder: Path, patience: float = 0.0) -> Any:
    """What progress.json says. StoreError: there is none, not even in so many seconds."""
    until = time.monotonic() + patience
    while True:
        try:
            return json.loads((folder / PROGRESS).read_text())
        except (FileNotFoundError, NotADirectoryError) as error:
            if time.monotonic() >= until:
                raise StoreError(
                    f"{folder} holds no {PROGRESS}: no run works there. Start one: iteralign run CONFIG --run-dir {folder}"
                ) from error
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True
