"""Files of public benchmarks → items. Plain prompts are lm-evaluation-harness's, zero-shot unless the form says more."""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from iteralign.data.files import Row, existing, read_json, read_rows, read_text, records, type_name
from iteralign.errors import DataError
from iteralign.evals.answers import PER_CHARACTER, PER_TOKEN, SHARE, TOTAL, Item, check_right, last_number
from iteralign.prompts import fill, load_prompt
from iteralign.records import digest, user

HHH_CATEGORIES = ("harmless", "helpful", "honest", "other")
LETTERS = "ABCD"
PROMPTS = "benchmarks.yaml"


def filled(key: str, **values: object) -> str:
    return fill(load_prompt(PROMPTS).get(key), f"{PROMPTS}:{key}", **values)


def field(row: Row, *names: str) -> Any:
    """The first of the columns that the row has."""
    for name in names:
        if row.values.get(name) is not None:
            return row.values[name]
    raise DataError(f"{row.where}: expected {' or '.join(map(repr, names))}, got {', '.join(map(repr, row.values))}")


def text(row: Row, *names: str) -> str:
    value = field(row, *names)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{row.where}: expected a text in {names[0]!r}, got {type_name(value)}")
    return value


# -- HHH (Askell et al. 2021, BIG-bench) --------------------------------------------------------------------


def hhh(folder: Path) -> list[Item]:
    """221 pairs over 102 inputs: by likelihood, and as a choice between two letters."""
    pairs = hhh_pairs(folder)
    return [*pairs, *(item._replace(way="letters", form="chat, letters") for item in pairs)]


def hhh_pairs(folder: Path) -> list[Item]:
    """By likelihood alone."""
    items: list[Item] = []
    for category in HHH_CATEGORIES:
        path = folder / category / "task.json"
        if not path.is_file():
            raise DataError(f"no {path}: expected the BIG-bench folder hhh_alignment; run `iteralign pull hhh`")
        task: Any = read_json(path)
        rows = records(str(path), task.get("examples") if isinstance(task, Mapping) else task)
        items += [hhh_pair(row, category) for row in rows]
    return items


def hhh_pair(row: Row, category: str) -> Item:
    question, targets = text(row, "input"), field(row, "target_scores")
    if not isinstance(targets, Mapping):
        raise DataError(f"{row.where}: expected options with 1 or 0 in 'target_scores', got {type_name(targets)}")
    marks = cast("Mapping[str, Any]", targets)
    options = tuple(marks)
    right = tuple(n for n, option in enumerate(options) if marks[option] == 1)
    if len(right) != 1:
        raise DataError(f"{row.where}: an item has {len(right)} right options, expected 1: {question[:60]!r}")
    item = Item(
        id=digest(category, question, options),
        way="likelihood",
        names=(f"hhh/{category}", "hhh/overall"),
        form="chat",
        question=question,
        options=options,
        right=right,
        asked=user(question),
        cluster=digest(question),
        measures=(PER_TOKEN, TOTAL),
    )
    return check_right(item, row.where)


# -- TruthfulQA (Lin et al. 2022) ---------------------------------------------------------------------------


def truthfulqa(place: Path) -> list[Item]:
    """817 questions: MC1 and MC2 with and without the six-question preamble, and MC1 by P(True). A folder, or mc_task.json."""
    path = existing(place / "data" / "mc_task.json" if place.is_dir() else place)
    rows = list(records(str(path), read_json(path)))
    preamble = filled("truthfulqa_preamble") + "\n\n"
    items: list[Item] = []
    for form, before in (("preamble", preamble), ("no preamble", "")):
        for row in rows:
            asked = before + filled("truthfulqa", question=text(row, "question").strip())
            items.append(truth(row, "mc1", form, asked, (TOTAL,)))
            items.append(truth(row, "mc2", form, asked, (SHARE,)))
    items += [truth(row, "mc1", "chat", "", ())._replace(way="true_false", names=(MC1_TF,)) for row in rows]
    return items


MC1_TF = "truthfulqa/mc1_true_false"


def truth(row: Row, task: str, form: str, asked: str, measures: tuple[str, ...]) -> Item:
    targets: Any = field(row, f"{task}_targets")
    if not isinstance(targets, Mapping):
        raise DataError(f"{row.where}: expected options with 1 or 0 in '{task}_targets', got {type_name(targets)}")
    marks = cast("Mapping[str, Any]", targets)
    question = text(row, "question").strip()
    item = Item(
        id=digest(question),
        way="likelihood",
        names=(f"truthfulqa/{task}",),
        form=form,
        question=question,
        options=tuple(spaced(o) for o in marks) if asked else tuple(marks),
        right=tuple(n for n, o in enumerate(marks) if marks[o] == 1),
        asked=asked,
        measures=measures,
    )
    if task == "mc1" and len(item.right) > 1:
        raise DataError(f"{row.where}: mc1_targets has {len(item.right)} right options, expected 1: {question[:60]!r}")
    return check_right(item, row.where)


def spaced(option: str) -> str:
    """As it follows `Answer:`."""
    return " " + option.strip()


# -- capability -------------------------------------------------------------------------------------------


def arc_easy(path: Path) -> list[Item]:
    """AI2's ARC-Easy-Test.jsonl (Clark et al. 2018)."""
    items: list[Item] = []
    for row in read_rows(existing(path)):
        question: Any = field(row, "question")
        if not isinstance(question, Mapping) or not isinstance(question.get("choices"), list):
            raise DataError(f"{row.where}: expected a question with a stem and choices, got {type_name(question)}")
        stem, choices = str(question.get("stem", "")), cast("list[Mapping[str, Any]]", question["choices"])
        labels = [str(c.get("label")) for c in choices]
        key = str(field(row, "answerKey"))
        right = (labels.index(key),) if key in labels else ()
        asked = filled("arc_easy", question=stem)
        items.append(plain(row, "arc_easy", stem, asked, [str(c.get("text")) for c in choices], right))
    return items


def hellaswag(path: Path) -> list[Item]:
    """Rows with `activity_label`, `ctx` (or `ctx_a` and `ctx_b`), `endings` and `label` (Zellers et al. 2019)."""
    items: list[Item] = []
    for row in read_rows(existing(path)):
        asked = cleaned(f"{text(row, 'activity_label')}: {whole_context(row)}")
        endings: Any = field(row, "endings")
        if not isinstance(endings, Sequence) or isinstance(endings, str):
            raise DataError(f"{row.where}: expected a list of endings, got {type_name(endings)}")
        right = (number(row, "label"),)
        items.append(plain(row, "hellaswag", asked, asked, [cleaned(str(e)) for e in endings], right))
    return items


def whole_context(row: Row) -> str:
    """The begun last sentence has a capital, which the joined `ctx` has not: the harness writes one."""
    if "ctx_a" in row.values and "ctx_b" in row.values:
        return f"{row.values['ctx_a']} {str(row.values['ctx_b']).capitalize()}"
    before, stop, begun = text(row, "ctx").strip().rpartition(". ")
    return before + stop + (begun.capitalize() if stop and begun[:1].islower() else begun)


def cleaned(said: str) -> str:
    """WikiHow's marks, as the harness takes them out."""
    said = re.sub(r"\[.*?\]", "", said.strip().replace(" [title]", ". "))
    return said.replace("  ", " ")


def plain(row: Row, name: str, question: str, asked: str, options: Sequence[str], right: tuple[int, ...]) -> Item:
    """Right by total likelihood (the harness's acc), and by that per character (its acc_norm)."""
    item = Item(
        id=digest(question, list(options)),
        way="likelihood",
        names=(name,),
        form="plain",
        question=question,
        options=tuple(spaced(o) for o in options),
        right=right,
        asked=asked,
        measures=(TOTAL, PER_CHARACTER),
    )
    return check_right(item, row.where)


def number(row: Row, column: str) -> int:
    value = str(field(row, column)).strip()
    value = str(LETTERS.index(value)) if len(value) == 1 and value in LETTERS else value
    if not value.isdigit():
        raise DataError(f"{row.where}: expected the right option's place from 0 in {column!r}, got {value[:20]!r}")
    return int(value)


def mmlu(place: Path) -> list[Item]:
    """Hendrycks et al. 2021: a file of rows with `subject`, zero-shot; or their folder of test/SUBJECT_test.csv,
    five-shot where it has dev/SUBJECT_dev.csv too."""
    if not place.is_dir():
        return [mmlu_item(row, text(row, "subject"), "") for row in read_rows(existing(place))]
    tests = sorted((place / "test").glob("*_test.csv"))
    if not tests:
        raise DataError(
            f"{place}: expected test/SUBJECT_test.csv, and dev/SUBJECT_dev.csv for five-shot. Check the path"
        )
    items: list[Item] = []
    for test in tests:
        subject = test.stem.removesuffix("_test")
        dev = place / "dev" / f"{subject}_dev.csv"
        shots = "".join(shot(row) for row in mmlu_rows(dev)) if dev.is_file() else ""
        items += [mmlu_item(row, subject, shots) for row in mmlu_rows(test)]
    return items


def mmlu_rows(path: Path) -> Iterator[Row]:
    """As published: no header; a question, four choices and the right one's letter."""
    for n, cells in enumerate(filter(None, csv.reader(io.StringIO(read_text(path), newline=""))), 1):
        if len(cells) != 6:
            raise DataError(
                f"{path}, row {n}: expected a question, 4 choices and a letter, got {len(cells)} cells. Quote cells with commas"
            )
        yield Row(f"{path}, row {n}", {"question": cells[0], "choices": cells[1:5], "answer": cells[5]})


def mmlu_options(row: Row) -> list[str]:
    found: Any = row.values.get("choices")
    options = found if isinstance(found, list) else [field(row, f"choice{n}") for n in range(4)]
    if len(options) != 4:
        raise DataError(f"{row.where}: expected 4 choices, got {len(options)}")
    return [str(o) for o in cast("list[Any]", options)]


def mmlu_question(row: Row) -> str:
    return filled("mmlu", question=text(row, "question").strip(), options=mmlu_options(row))


def shot(row: Row) -> str:
    return f"{mmlu_question(row)} {LETTERS[number(row, 'answer')]}\n\n"


def mmlu_item(row: Row, subject: str, shots: str) -> Item:
    question = mmlu_question(row)
    head = filled("mmlu_head", subject=subject.replace("_", " ")) + "\n\n"
    item = Item(
        id=digest(subject, text(row, "question"), mmlu_options(row)),
        way="likelihood",
        names=("mmlu",),
        form="5-shot, letters" if shots else "0-shot, letters",
        question=question,
        options=tuple(spaced(letter) for letter in LETTERS),
        right=(number(row, "answer"),),
        asked=head + shots + question,
    )
    return check_right(item, row.where)


def gsm8k(path: Path) -> list[Item]:
    """Cobbe et al. 2021, zero-shot in the model's chat form; the right number stands behind ####."""
    return [gsm8k_item(row) for row in read_rows(existing(path / "test.jsonl" if path.is_dir() else path))]


def gsm8k_item(row: Row) -> Item:
    question, (_, mark, gold) = text(row, "question").strip(), text(row, "answer").rpartition("####")
    if not mark or last_number(gold) is None:
        raise DataError(f"{row.where}: expected the right number behind #### in 'answer', got {gold[:40]!r}")
    return Item(
        id=digest(question),
        way="generation",
        names=("gsm8k",),
        form="chat, 0-shot",
        question=question,
        options=(),
        right=(),
        asked=load_prompt(PROMPTS).chat("gsm8k", question=question),
        gold=gold.strip(),
    )


# -- samples ----------------------------------------------------------------------------------------------


def sampled(items: Sequence[Item], n: int | None, seed: int) -> list[Item]:
    """All forms of n questions, the same for every model, in the benchmark's order; None: of all."""
    kept = drawn([item.id for item in items], n, seed)
    return list(unique(item for item in items if item.id in kept))


def drawn(ids: Sequence[str], n: int | None, seed: int) -> set[str]:
    """n of the questions, the same for every model; None: all."""
    return set(sorted(set(ids), key=lambda i: digest(seed, "sample", i))[:n])


def unique(items: Sequence[Item] | Iterator[Item]) -> Iterator[Item]:
    """The first of equal questions: an id has one value in a score."""
    seen: set[tuple[object, ...]] = set()
    for item in items:
        key = (item.id, item.names, item.form)
        if key not in seen:
            seen.add(key)
            yield item
