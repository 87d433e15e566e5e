"""What people are shown: a run's answers before and after, one at a time, blind to which model gave them."""

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Literal

from iteralign.errors import StoreError
from iteralign.records import Record, Verdict, Wants, digest
from iteralign.report.examples import read_verdicts
from iteralign.report.summary import read_config, read_prompts
from iteralign.report.wording import clean

Side = Literal["before", "after"]
FOLDERS: dict[Side, str] = {"before": "base", "after": "final"}


class Item(Record):
    """One answer. `said` is the evaluator's label, which no rater sees; `prompt` pairs the two answers to one."""

    id: str
    prompt: str
    side: Side
    wants: Wants
    category: str
    question: str
    answer: str
    said: Literal["passes", "fails", "unjudged"]


def read_items(run: Path, n: int | None = None) -> list[Item]:
    """Both held-out answers to each of `n` prompts (None: all), half of them of each kind. Raises StoreError.

    The prompts are drawn by the run's seed, so that the same command shows the same ones again.
    """
    config, _ = read_config(run)
    prompts, problems = read_prompts(run, config)
    sides: dict[Side, list[Verdict]] = {
        side: read_verdicts(run / "evals" / name, prompts) for side, name in FOLDERS.items()
    }
    if empty := [FOLDERS[side] for side, verdicts in sides.items() if not verdicts]:
        raise StoreError(
            f"{run} has no held-out answers to rate in evals/{' and evals/'.join(empty)}"
            f"{f': {problems[0]}' if problems else ''}. Finish the run first: the same `iteralign run` goes on"
        )
    before, after = ({v.response.prompt.id: v for v in verdicts} for verdicts in sides.values())
    shared = [i for i in before if i in after]
    kept = set(shared if n is None else drawn(shared, before, n, config.seed))
    return [item(side, v) for side in FOLDERS for v in sides[side] if v.response.prompt.id in kept]


def drawn(ids: Sequence[str], verdicts: dict[str, Verdict], n: int, seed: int) -> list[str]:
    """At most n ids, as evenly from both kinds of prompts as they last."""
    harmful = [i for i in ids if verdicts[i].response.prompt.wants == "decline"]
    other = [i for i in ids if verdicts[i].response.prompt.wants != "decline"]
    for part in (harmful, other):
        Random(seed).shuffle(part)
    half = max(n - len(other), min(len(harmful), (n + 1) // 2))
    return harmful[:half] + other[: n - min(half, len(harmful))]


def item(side: Side, verdict: Verdict) -> Item:
    prompt = verdict.response.prompt
    return Item(
        id=digest(side, prompt.id, verdict.response.reply.text),
        prompt=prompt.id,
        side=side,
        wants=prompt.wants,
        category=clean(prompt.category),
        question=clean(prompt.question),
        answer=clean(verdict.response.reply.text),
        said=verdict.label,
    )


def order_for(items: Sequence[Item], annotator: str) -> list[Item]:
    """An order of each annotator's own, the same whenever they come back."""
    return sorted(items, key=lambda i: digest(annotator, i.id))
