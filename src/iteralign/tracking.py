"""Numbers of a run to TensorBoard, Weights & Biases, MLflow, Trackio, …: accelerate's trackers. Of texts the principles, and
those where it is asked for alone."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from iteralign.config import RunConfig
from iteralign.errors import ConfigError


class Trackers:
    """Told of a run directory whenever something in it was finished, they log what is new there: step 0 is the untouched
    policy, step n the policy after round n - 1. They are begun when there is something to log, in its `tracking/`."""

    def __init__(self, kinds: Sequence[Any], name: str, texts: bool) -> None:
        self.kinds, self.name, self.texts = kinds, name, texts
        self.begun: list[Any] = []
        self.logged: set[tuple[int, str]] = set()

    def __call__(self, folder: Path) -> None:
        for step, values in [*numbers(folder), *(principles(folder) if self.texts else [])]:
            new = {name: value for name, value in values.items() if (step, name) not in self.logged}
            self.logged |= {(step, name) for name in new}
            for tracker in self._trackers(folder) if new else ():
                tracker.log(new, step=step)

    def _trackers(self, folder: Path) -> list[Any]:
        if not self.begun:
            places = [{"logging_dir": folder / "tracking"} if k.requires_logging_directory else {} for k in self.kinds]
            self.begun = [kind(self.name, **place) for kind, place in zip(self.kinds, places, strict=True)]
            for tracker in self.begun:
                tracker.start()
        return self.begun


@contextmanager
def tracking(config: RunConfig, folder: Path) -> Iterator[Trackers | None]:
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
        found(folder)
        for tracker in found.begun:
            tracker.finish()


def numbers(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """What is measured so far, by step: figures of the gates, rows trained on, principles, scores before and after."""
    found: list[tuple[int, dict[str, float]]] = []
    for place in sorted((folder / "rounds").glob("*")):
        values: dict[str, float] = {}
        if (gate := read(place / "gate.json")) is not None:
            values |= {f"validation/{name}": value for name, value in gate["figures"].items() if value is not None}
            values |= {"round/kept": float(gate["kept"]), "round/share": gate["share"]}
        if (trained := read(place / "trained.json")) is not None:
            values |= {
                f"training/{name}": trained[name] for name in ("rows", "steps", "loss") if trained[name] is not None
            }
        if (principles := read(place / "principles.json")) is not None:
            values["round/principles"] = float(len(principles["constitution"]["principles"]))
        found.append((int(place.name) + 1, values))
    last = found[-1][0] if found else 0
    for name, step in (("base", 0), ("final", last)):
        scores: Any = read(folder / f"evals/{name}/scores.json") or []
        told = {f"{s['name']} ({s['variant']})": s["value"] for s in scores if s["value"] is not None}
        found.append((step, told))
    return [(step, values) for step, values in found if values]


def principles(folder: Path) -> list[tuple[int, dict[str, str]]]:
    """The constitution after each round's discovery, a principle a line, by step."""
    found: list[tuple[int, dict[str, str]]] = []
    for place in sorted((folder / "rounds").glob("*")):
        if (made := read(place / "principles.json")) is not None:
            lines = "\n".join(f"- {p['text']}" for p in made["constitution"]["principles"])
            found.append((int(place.name) + 1, {"constitution": lines}))
    return found


def read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else None
