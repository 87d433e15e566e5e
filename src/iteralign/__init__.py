"""Iterative constitutional alignment of language models: discover principles from failures, revise, train, measure."""

from pathlib import Path
from typing import TYPE_CHECKING

from iteralign.config import RunConfig, load_config
from iteralign.errors import IteralignError

if TYPE_CHECKING:
    from iteralign.recipes.iteralign import Outcome

__version__ = "0.1.0"
__all__ = ["IteralignError", "RunConfig", "load_config", "run"]


def run(config: RunConfig, folder: str | Path, fresh: bool = False) -> "Outcome":
    """Run a configuration in a run directory, or continue it there, and write its report."""
    from iteralign.recipes import carry_out
    from iteralign.report import write_reports
    from iteralign.runs import open_

    opened = open_(config, Path(folder), fresh)
    try:
        outcome = carry_out(opened)
    finally:
        opened.close()
    write_reports(Path(folder))
    return outcome
