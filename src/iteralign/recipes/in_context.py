"""The baseline without training: the same policy, told the given principles in its system message."""

from iteralign.errors import ConfigError
from iteralign.evals.suite import evaluate
from iteralign.prompts import load_prompt
from iteralign.recipes.steps import Outcome, write_constitution
from iteralign.runs import Run


def in_context(run: Run) -> Outcome:
    if not run.constitution.principles:
        raise ConfigError("the recipe in_context tells the policy given principles: name a file with `constitution`")
    [message] = load_prompt("in_context.yaml").chat("system", principles=[p.text for p in run.constitution.principles])
    told = run.base._replace(system=message.content)
    evaluate(run, run.base, "base")
    evaluate(run, told, "final")
    write_constitution(run, run.constitution)
    return Outcome(told, run.constitution, None)


__all__ = ["in_context"]
