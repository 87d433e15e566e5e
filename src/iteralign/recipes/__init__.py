"""The algorithms, one page each. Read `iteralign.py` first."""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iteralign.recipes.iteralign import Outcome
    from iteralign.runs import Run


def recipe(name: str) -> "Callable[[Run], Outcome]":
    """The recipe that a config names: the function of its own name in the module of its own name."""
    return getattr(import_module(f"{__name__}.{name}"), name)


def carry_out(run: "Run") -> "Outcome":
    """The run's recipe, and where `probe.enabled` asks for it, how deep its alignment goes."""
    outcome = recipe(run.config.recipe)(run)
    if run.config.probe.enabled and outcome.policy == run.base:
        run.store.event("no probe", reason="the policy is the untouched one")
    elif run.config.probe.enabled:
        from iteralign.evals.depth import probe_depth

        probe_depth(run, run.base, outcome.policy, outcome.constitution)
    return outcome
