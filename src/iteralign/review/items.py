"""What people are shown: a run's answers before and after, one at a time, blind to which model gave them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, Literal

from iteralign.config import RunConfig
from iteralign.errors import StoreError
from iteralign.records import Record, Verdict, Wants, digest
from iteralign.report.examples import read_verdicts
from iteralign.report.summary import read_config, read_prompts
from iteralign.report.wording import clean
from iteralign.runs import Run, open_
from iteralign.store import read_rows

Side = Literal["before", "after"]
Label = Literal["passes", "fails", "unjudged"]
FOLDERS: dict[Side, str] = {"before": "base", "after": "final"}


class Item(Record):
    """One answer. `said` is the evaluator's label and `judged` the judge's, where it was asked, which no rater sees; `prompt`
    pairs the two answers to one."""

    id: str
    prompt: str
    side: Side
    wants: Wants
    category: str
    question: str
    answer: str
    said: Label
    judged: Label | None = None


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


def judged_items(run: Path, items: Sequence[Item]) -> list[Item]:
    """The items with what the run's judge says of them. It is asked about all held-out answers, so that what is kept in
    evals/review serves any number of prompts."""
    config, _ = read_config(run)
    prompts, _ = read_prompts(run, config)
    shown = {i.id for i in items}
    verdicts = [v for name in FOLDERS.values() for v in read_verdicts(run / "evals" / name, prompts)]
    by_id = {v.response.id: v.response for v in verdicts}
    with opened(config, run) as there:
        store = there.store.inside("evals/review")
        made = store.each(
            "verdicts",
            list(by_id.values()),
            lambda part: there.judge(there.base)(part),
            lambda row: Verdict.join(row, by_id),
        )
    labels = {item(side, v).id: v.label for side in FOLDERS for v in made}
    return [i.model_copy(update={"judged": labels[i.id]}) if i.id in shown else i for i in items]


@contextmanager
def opened(config: RunConfig, run: Path) -> Iterator[Run]:
    there = open_(config, run, trains=False)
    try:
        yield there
    finally:
        there.close()


def read_generated(before: Path, after: Path, n: int | None = None) -> list[Item]:
    """The answers that two evaluations wrote to the same questions, as `iteralign eval --suite truthfulqa_answers` keeps them.
    Raises StoreError: no such answers in one of them, or no question in both."""
    sides: dict[Side, dict[str, dict[str, Any]]] = {"before": written(before), "after": written(after)}
    shared = [i for i in sides["before"] if i in sides["after"]]
    if not shared:
        raise StoreError(f"{before} and {after} hold answers to different questions: evaluate both on the same suite")
    Random(0).shuffle(shared)
    kept = shared[:n]
    return [generated(side, sides[side][i]) for side in FOLDERS for i in kept]


def written(folder: Path) -> dict[str, dict[str, Any]]:
    """Rows of a suite whose questions were answered in words, by id."""
    found = [row for path in sorted(folder.glob("evals/*/items.jsonl")) for row in read_rows(path)]
    rows = {str(row["id"]): row for row in found if {"question", "answer", "true", "informative"} <= row.keys()}
    if not rows:
        raise StoreError(
            f"{folder} holds no written answers: make some with iteralign eval MODEL --suite truthfulqa_answers"
        )
    return rows


def generated(side: Side, row: dict[str, Any]) -> Item:
    known = [row["true"], row["informative"]]
    label: Label = "unjudged" if None in known else "passes" if all(x >= 0.5 for x in known) else "fails"
    question, text = clean(row["question"]), clean(row["answer"])
    identity = digest(side, row["id"], row["answer"])
    return Item(
        id=identity,
        prompt=str(row["id"]),
        side=side,
        wants="unknown",
        category=clean(row["category"]),
        question=question,
        answer=text,
        said=label,
    )


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
