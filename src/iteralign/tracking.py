"""Numbers of a run to TensorBoard, Weights & Biases, MLflow, Trackio, …: accelerate's trackers. Of texts the principles, and
those where it is asked for alone."""

import json
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from iteralign.config import RunConfig
from iteralign.errors import ConfigError

TRAININGS = {"trained": "training", "trained-dpo": "training-dpo", "trained-rl": "training-rl"}


class Trackers:
    """Told of a run directory whenever something in it was finished, they log what is new there, step by step: step 0 is
    the untouched policy, step n what training n - 1 made of it (`rounds/`: a round; of self_improve half a one, which is CAI
    or RLAIF). They are begun when there is something to log, in its `tracking/`."""

    def __init__(self, kinds: Sequence[Any], name: str, texts: bool) -> None:
        self.kinds, self.name, self.texts = kinds, name, texts
        self.started, self.begun = False, list[Any]()
        self.logged: set[tuple[int, str]] = set()

    def __call__(self, folder: Path) -> None:
        for step, values in measured(folder, self.texts):  # in order: a tracker may drop what comes late
            new = {name: value for name, value in values.items() if (step, name) not in self.logged}
            self.logged |= {(step, name) for name in new}
            if new and not self.started:
                self._start(folder)
            for tracker in list(self.begun) if new else ():
                try:
                    tracker.log(new, step=step)
                except Exception as error:  # noqa: BLE001 # of another's package or server: no reason to end a run
                    warnings.warn(f"nothing more goes to {tracker.name}, which failed: {error}", stacklevel=2)
                    self.begun.remove(tracker)

    def _start(self, folder: Path) -> None:
        self.started = True
        places = [{"logging_dir": folder / "tracking"} if k.requires_logging_directory else {} for k in self.kinds]
        self.begun = [kind(self.name, **place) for kind, place in zip(self.kinds, places, strict=True)]
        for tracker in self.begun:
            tracker.start()


@contextmanager
def tracking(config: RunConfig) -> Iterator[Trackers | None]:
    """None where the config names no tracker. Raises ConfigError: no such tracker, or its package is not installed."""
    if not config.runtime.trackers:
        yield None
        return
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    there = {str(name) for name in get_available_trackers()}
    for name in config.runtime.trackers:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise ConfigError(
                f"runtime.trackers: no tracker {name!r}: expected some of {', '.join(LOGGER_TYPE_TO_CLASS)}"
            )
        if name not in there:
            raise ConfigError(f"runtime.trackers: {name} needs its package: pip install {name}")
    PartialState()  # accelerate's trackers ask it which process they are in
    found = Trackers(
        [LOGGER_TYPE_TO_CLASS[name] for name in config.runtime.trackers], config.name, config.runtime.tracker_texts
    )
    try:
        yield found
    finally:
        for tracker in found.begun:
            tracker.finish()


def measured(folder: Path, texts: bool = False) -> list[tuple[int, dict[str, float | str]]]:
    """What is measured so far, by step: figures of the gates, training, principles (`texts`: a line each, too), scores
    before and after."""
    steps: dict[int, dict[str, float | str]] = {0: scores(folder, "base")}
    for place in sorted((folder / "rounds").glob("*")):
        steps[int(place.name) + 1] = of_round(place, texts)
    steps[max(steps)] |= scores(folder, "final")
    return [(step, values) for step, values in steps.items() if values]


def scores(folder: Path, name: str) -> dict[str, float | str]:
    found: Any = read(folder / f"evals/{name}/scores.json") or []
    return {named(s["name"], s["variant"]): s["value"] for s in found if s["value"] is not None}


def named(name: str, variant: str) -> str:
    """As MLflow takes names, the strictest of them."""
    return re.sub(r"[^\w\-. :/]", "", f"{name}/{variant}")


def of_round(place: Path, texts: bool) -> dict[str, float | str]:
    values: dict[str, float | str] = {}
    if (gate := read(place / "gate.json")) is not None:
        values |= {f"validation/{name}": value for name, value in gate["figures"].items() if value is not None}
        values |= {"round/kept": float(gate["kept"]), "round/share": gate["share"]}
    for stage, name in TRAININGS.items():
        made = read(place / f"{stage}.json") or {}
        made = made.get("checkpoint", made)
        values |= {f"{name}/{x}": made[x] for x in ("rows", "steps", "loss") if made.get(x) is not None}
    if (found := read(place / "principles.json")) is not None:
        principles = found["constitution"]["principles"]
        values["round/principles"] = float(len(principles))
        if texts:
            values["constitution"] = "\n".join(f"- {p['text']}" for p in principles)
    return values


def read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else None
