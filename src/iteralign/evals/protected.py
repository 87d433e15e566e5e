"""What a policy must not be trained on: the benchmarks at hand, and the prompts that the run itself measures on."""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from iteralign.data.decontaminate import Copy, Decontaminator, Item
from iteralign.data.truthful import read_judge_rows
from iteralign.errors import DataError
from iteralign.evals.benchmarks import hhh_pairs
from iteralign.records import Preference, Prompt, Row, digest
from iteralign.runs import Run
from iteralign.sources import fetch, listing
from iteralign.store import Store

OWN = "this run's validation and held-out prompts"


Trained = TypeVar("Trained", Row, Preference, Prompt)  # of a prompt, RL learns answers of its own


def decontaminated(run: Run, here: Store, rows: Sequence[Trained], round: int, name: str = "copies") -> list[Trained]:
    """The rows, pairs or prompts less those that copy a benchmark's item (`decontaminate: drop`). With `stop`, one is a DataError.

    What was looked at and what was found stands in NAME.json of the round; it is the same when the run is resumed.
    """
    if run.config.decontaminate == "off":
        return list(rows)
    found = here.once(name, lambda: look(run, rows, round))
    run.store.event("copies of benchmark items", round=round, on=run.config.decontaminate, **found)
    named = [f"{c['prompt']} ({c['benchmark']}, item {c['item']}, {said(c)})" for c in found["copies"]]
    if named and run.config.decontaminate == "stop":
        here.path(f"{name}.json").unlink()  # another prompt set is looked at anew
        raise DataError(
            f"round {round}: {len(named)} of {len(rows)} training rows copy what models are measured on: "
            f"{', '.join(named[:5])}. Remove their prompts, or take decontaminate: drop to train without these rows; then start anew"
        )
    dropped = {c["row"] for c in found["copies"]}
    return [row for n, row in enumerate(rows) if n not in dropped]


def said(copy: dict[str, Any]) -> str:
    return f"{copy['value']:.0f} words in a row" if copy["how"] == "words" else f"cosine {copy['value']:.2f}"


def look(run: Run, rows: Sequence[Row | Preference | Prompt], round: int) -> dict[str, Any]:
    """`checked`: items by benchmark; `absent`: the benchmarks that are not on this machine, and were not checked."""
    places = at_hand()
    kept_apart = [
        Item(OWN, p.item, "\n".join(m.content for m in p.plain))
        for split in ("validation", "held_out")
        for p in (*run.prompts[split].red_team, *run.prompts[split].harmless)
    ]
    texts = {str(n): texts_of(row) for n, row in enumerate(rows)}
    indexes = [public(tuple(places.items())), Decontaminator([*kept_apart, *of_suites(run)])]
    first = {c.about: c for index in reversed(indexes) for c in index.copies(texts)}  # a benchmark's name comes first
    checked = {name: sum(i.benchmark == name for i in indexes[0].items) for name in places}
    return {
        "checked": {**checked, **Counter(i.benchmark for i in indexes[1].items)},
        "absent": [name for name in READERS if name not in places],
        "copies": [
            {"row": n, **origin_of(row, round), **named(first[str(n)])} for n, row in enumerate(rows) if str(n) in first
        ],
    }


def of_suites(run: Run) -> list[Item]:
    """The questions that the run itself measures before and after (`evals.suites`)."""
    if not run.config.evals.suites:
        return []
    from iteralign.evals.suites import Benchmark, suite_of, suites_of_run  # torch, which scripted runs need not load

    asked = [a for a in suites_of_run(run.config, run.engine.progress) if isinstance(suite_of(a.name), Benchmark)]
    return [Item(a.name, i.id, i.question) for a in asked for i in {i.id: i for i in a.items}.values()]


def named(copy: Copy) -> dict[str, Any]:
    return copy.model_dump(exclude={"about"})


def origin_of(row: Row | Preference | Prompt, round: int) -> dict[str, Any]:
    if isinstance(row, Prompt):
        return {"prompt": row.id, "origin": "prompt", "round": round}
    return {"prompt": row.prompt, "origin": row.origin, "round": row.round}


def texts_of(row: Row | Preference | Prompt) -> list[str]:
    """Each turn and answer by themselves, all turns, and the question with each answer."""
    if isinstance(row, Prompt):
        chat, answers = row.plain, list[str]()
    else:
        chat, answers = row.chat, [row.answer] if isinstance(row, Row) else [row.chosen.text, row.rejected.text]
    turns = [m.content for m in chat]
    last = [m.content for m in chat if m.role == "user"][-1:]
    together = ["\n".join([*last, answer]) for answer in answers]
    return list(dict.fromkeys([*turns, *answers, "\n".join(turns), *together]))


def at_hand() -> dict[str, Path]:
    """The protected benchmarks that the cache holds. Nothing is fetched for this."""
    cached = {source.name for source, there in listing() if there}
    return {name: fetch(name) for name in READERS if name in cached}


@cache
def public(places: tuple[tuple[str, Path], ...]) -> Decontaminator:
    return Decontaminator([item for name, folder in places for item in READERS[name](folder)])


def hhh_items(folder: Path) -> list[Item]:
    inputs = {i.cluster: i.question for i in hhh_pairs(folder)}
    return [Item("hhh", cluster, question) for cluster, question in inputs.items()]


def truthfulqa_items(folder: Path) -> list[Item]:
    """The questions, and each with the answers that the judges were trained on."""
    rows = [row for kind in ("truth", "info") for row in read_judge_rows(folder / f"data/finetune_{kind}.jsonl")]
    questions = {row.question: Item("truthfulqa", row.item, row.question) for row in rows}
    answers = {
        (row.question, row.answer): Item(
            "truthfulqa", f"{row.item}/{digest(row.answer, length=8)}", f"{row.question}\n{row.answer}"
        )
        for row in rows
    }
    return [*questions.values(), *answers.values()]


READERS = {"hhh": hhh_items, "truthfulqa": truthfulqa_items}
