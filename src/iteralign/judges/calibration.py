"""What a judge was measured to be worth on replies that people labelled, and how its answers are read since."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from iteralign.config import Calibrated
from iteralign.errors import ConfigError
from iteralign.records import Record
from iteralign.stats import Estimate

EMBEDDED = Path(__file__).with_name("embedded.json")
LEAST, MOST = 1e-4, 1 - 1e-4  # a probability of 0 or 1 has no log-odds


T = TypeVar("T")
Target = Literal["complied", "harmful"]  # did the reply do what was asked; did it do so with something harmful


class Reading(Record):
    """P(target) from a judge's answers: a logistic regression on their log-odds of yes; from `threshold` on, yes."""

    target: Target
    weights: dict[str, float]
    bias: float
    threshold: float

    def chance(self, answers: Mapping[str, float]) -> float:
        """`answers`: the probability of yes by question. KeyError: a question was not asked."""
        total = self.bias + sum(weight * log_odds(answers[name]) for name, weight in self.weights.items())
        return 1 / (1 + math.exp(-total)) if total > -700 else 0.0


class Figures(Record):
    """Against people's labels; sensitivity: of the replies of the target, how many the judge found."""

    accuracy: Estimate
    kappa: Estimate
    sensitivity: Estimate
    specificity: Estimate
    auc: Estimate
    ece: Estimate


class Robustness(Record):
    """What replies of ours that speak to the judge did to its verdict on them. `flips`: the share that moved it,
    clustered by what was put in; `by_kind`: how many of how many. `plain_right` of `plain`: untouched, judged rightly."""

    flips: Estimate
    to_yes: int
    to_no: int
    by_kind: dict[str, tuple[int, int]]
    plain_right: int
    plain: int


class Calibration(Record):
    """`judge`: its model and questions. `fitted_on`, `n`: replies of the half that the reading was fitted on, and of
    the other one, which all figures are of. `reliability`: bins of mean score, share of the target, replies.
    `seconds_per_verdict`: None where all were there already; `dollars_per_verdict`: None of what costs nothing, or has no
    price. `refused` says why such a judge must not be used."""

    judge: str
    reading: Reading
    criterion: str
    labels: str
    fitted_on: int
    n: int
    figures: Figures
    by_source: dict[str, Figures]
    by_category: dict[str, Figures]
    reliability: list[tuple[float, float, int]]
    baselines: dict[str, Figures]
    robustness: Robustness | None = None
    seconds_per_verdict: float | None
    dollars_per_verdict: float | None = None
    refused: str | None = None


def log_odds(p: float) -> float:
    p = min(max(p, LEAST), MOST)
    return math.log(p / (1 - p))


def read_calibration(path: Path) -> Calibration:
    """ConfigError: no such file, or not one that `iteralign judge calibrate` wrote."""
    return parsed(path, lambda tree: Calibration.model_validate(tree))


def parsed(path: Path, make: Callable[[Any], T]) -> T:
    try:
        return make(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(
            f"no calibration at {path} ({error.strerror}): make it with iteralign judge calibrate"
        ) from error
    except (ValueError, KeyError) as error:
        why = str(error).splitlines()[0]
        raise ConfigError(
            f"{path} is not a calibration ({why}): make it anew with iteralign judge calibrate"
        ) from error


def calibration_of(config: Calibrated, instrument: str) -> Calibration | None:
    """What a config's judge was measured to be worth; None: uncalibrated. ConfigError: it must not be used, or the
    calibration is another judge's."""
    if config.calibration is None:
        return None
    if config.calibration == "embedded":
        shipped = parsed(EMBEDDED, lambda tree: {k: Calibration.model_validate(c) for k, c in tree.items()})
        if instrument not in shipped:
            raise ConfigError(
                f"calibration: embedded is of {', '.join(shipped) or 'no judge yet'}, but this judge is {instrument}: measure it with "
                "iteralign judge calibrate, or leave `calibration` out"
            )
        made = shipped[instrument]
    else:
        made = read_calibration(Path(config.calibration).expanduser())
    if made.judge != instrument:
        raise ConfigError(
            f"the calibration {config.calibration} is of {made.judge}, but this judge is {instrument}: calibrate it, or "
            "leave `calibration` out"
        )
    if made.refused:
        raise ConfigError(f"calibration {config.calibration}: this judge must not be used: {made.refused}")
    kappa = made.figures.kappa.value
    if (kappa is None or kappa < config.min_kappa) and not config.accept_below_min_kappa:
        raise ConfigError(
            f"calibration {config.calibration}: this judge agrees with people at kappa "
            f"{'unknown' if kappa is None else f'{kappa:.2f}'}, below min_kappa {config.min_kappa}. Use a better judge, "
            "or say accept_below_min_kappa: true"
        )
    return made


def reading_of(config: Calibrated, instrument: str) -> Reading | None:
    """How the judge's answers are read, where it was measured on whether replies complied."""
    made = calibration_of(config, instrument)
    return made.reading if made and made.reading.target == "complied" else None


def file_of(role: str) -> str:
    """Where a run keeps the calibration of its judge or evaluator."""
    return f"calibration-{role}"


def calibration_in(folder: Path, role: str = "evaluator") -> Calibration | None:
    """Of a run's directory; None: uncalibrated."""
    path = folder / f"{file_of(role)}.json"
    return read_calibration(path) if path.is_file() else None
