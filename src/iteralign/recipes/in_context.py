"""The baseline without training: the same policy, told the given principles in its system message."""

from iteralign.errors import ConfigError
from iteralign.evals.depth import told
from iteralign.evals.suite import evaluate
from iteralign.recipes.steps import Outcome, write_constitution
from iteralign.runs import Run


def in_context(run: Run) -> Outcome:
    if not run.constitution.principles:
        raise ConfigError("the recipe in_context tells the policy given principles: name a file with `constitution`")
    policy = told(run.base, run.constitution)
    evaluate(run, run.base, "base")
    evaluate(run, policy, "final")
    write_constitution(run, run.constitution)
    return Outcome(policy, run.constitution, None)


__all__ = ["in_context"]
