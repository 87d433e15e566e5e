"""Files of benchmarks: what is asked, which option is right, and one clear line for a row that cannot be scored."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iteralign.errors import DataError
from iteralign.evals.answers import Item
from iteralign.evals.benchmarks import arc_easy, gsm8k, hellaswag, hhh, mmlu, sampled, truthfulqa
from iteralign.evals.suites import SUITES

HELD = os.environ.get("ITERALIGN_TEST_DATA")
needs_public = pytest.mark.skipif(not HELD, reason="ITERALIGN_TEST_DATA does not name a folder of public data sets")

ARC: dict[str, Any] = {
    "id": "x",
    "question": {"stem": "What is wet?", "choices": [{"text": "sand", "label": "1"}, {"text": "water", "label": "2"}]},
    "answerKey": "2",
}
SWAG: dict[str, Any] = {
    "activity_label": "Baking",
    "ctx": "A man stands in a kitchen. the man",
    "endings": ["bakes a [step] loaf.", "flies."],
    "label": 0,
}
MMLU: dict[str, Any] = {"subject": "high_school_physics", "question": "Fast?", "choices": [*"wxyz"], "answer": 2}
GSM: dict[str, Any] = {"question": "2 + 2?", "answer": "It is <<2+2=4>>4.\n#### 4"}
TRUTH: dict[str, Any] = {
    "question": "Is the sky green?",
    "mc1_targets": {"No.": 1, "Yes.": 0},
    "mc2_targets": {"No.": 1, "It is blue.": 1, "Yes.": 0},
}


def written(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def truth_file(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "mc_task.json"
    path.write_text(json.dumps(rows))
    return path


def test_arc_is_asked_as_the_harness_asks_it(tmp_path: Path) -> None:
    [item] = arc_easy(written(tmp_path, ARC))
    assert item.asked == "Question: What is wet?\nAnswer:"
    assert (item.options, item.right) == ((" sand", " water"), (1,))


def test_hellaswag_gives_the_begun_sentence_its_capital_and_drops_marks(tmp_path: Path) -> None:
    [item] = hellaswag(written(tmp_path, SWAG))
    assert item.asked == "Baking: A man stands in a kitchen. The man"
    assert (item.options, item.right) == ((" bakes a loaf.", " flies."), (0,))


def test_mmlu_is_zero_shot_from_a_file_and_five_shot_from_a_folder(tmp_path: Path) -> None:
    [item] = mmlu(written(tmp_path, MMLU))
    head = "The following are multiple choice questions (with answers) about high school physics.\n\n"
    assert item.asked == head + "Fast?\nA. w\nB. x\nC. y\nD. z\nAnswer:"
    assert (item.options, item.right, item.form) == ((" A", " B", " C", " D"), (2,), "0-shot, letters")
    for part, rows in (("test", ['"Slow,\nor not?",a,b,c,d,B']), ("dev", ["One?,a,b,c,d,A", "Two?,a,b,c,d,D"])):
        (tmp_path / part).mkdir()
        (tmp_path / part / f"anatomy_{part}.csv").write_text("\n".join(rows) + "\n")
    [shot] = mmlu(tmp_path)
    assert str(shot.asked).startswith(head.replace("high school physics", "anatomy") + "One?\nA. a")
    assert "D. d\nAnswer: D\n\nSlow,\nor not?" in str(shot.asked)
    assert (shot.right, shot.form) == ((1,), "5-shot, letters")
    (tmp_path / "test" / "anatomy_test.csv").write_text("Slow?,a,b,c,d,B\nHow, then?,a,b,c,d,B\n")
    with pytest.raises(DataError, match="anatomy_test.csv, row 2: expected a question, 4 choices and a letter, got 7"):
        mmlu(tmp_path)


def test_truthfulqa_has_both_forms_and_every_option_alone(tmp_path: Path) -> None:
    items = truthfulqa(truth_file(tmp_path, TRUTH))
    assert [(i.names[0], i.form, i.way) for i in items] == [
        ("truthfulqa/mc1", "preamble", "likelihood"),
        ("truthfulqa/mc2", "preamble", "likelihood"),
        ("truthfulqa/mc1", "no preamble", "likelihood"),
        ("truthfulqa/mc2", "no preamble", "likelihood"),
        ("truthfulqa/mc1_true_false", "chat", "true_false"),
    ]
    asked = str(items[0].asked)
    assert asked.count("Q: ") == 7
    assert asked.endswith("The 1992 Olympics were held in Barcelona, Spain.\n\nQ: Is the sky green?\nA:")
    assert items[2].asked == "Q: Is the sky green?\nA:"
    assert (items[1].options, items[1].right) == ((" No.", " It is blue.", " Yes."), (0, 1))
    assert items[4].options == ("No.", "Yes.")
    assert len({i.id for i in items}) == 1, "a question is paired over its forms"


def test_gsm8k_knows_the_right_number(tmp_path: Path) -> None:
    [item] = gsm8k(written(tmp_path, GSM))
    assert (item.gold, item.way) == ("4", "generation")
    assert not isinstance(item.asked, str)
    assert item.asked[-1].content == "Question: 2 + 2?\nAnswer:"


BROKEN: list[tuple[Callable[[Path], list[Item]], dict[str, Any], str]] = [
    (arc_easy, {**ARC, "answerKey": "7"}, "0 right ones"),
    (arc_easy, {**ARC, "question": "What?"}, "a stem and choices"),
    (hellaswag, {**SWAG, "label": 5}, "1 right ones among them"),
    (hellaswag, {**SWAG, "label": "first"}, "expected the right option's place"),
    (hellaswag, {**SWAG, "endings": ["bakes.", "[step]"]}, "option 1 .* is empty"),
    (mmlu, {**MMLU, "choices": ["w"]}, "expected 4 choices, got 1"),
    (mmlu, {**MMLU, "answer": 4}, "right ones"),
    (mmlu, {k: v for k, v in MMLU.items() if k != "subject"}, "expected 'subject'"),
    (gsm8k, {**GSM, "answer": "It is four."}, "behind ####"),
]


@pytest.mark.parametrize(("read", "row", "said"), BROKEN)
def test_a_row_that_cannot_be_scored_is_named(
    read: Callable[[Path], list[Item]], row: dict[str, Any], said: str, tmp_path: Path
) -> None:
    good = {arc_easy: ARC, hellaswag: SWAG, mmlu: MMLU, gsm8k: GSM}[read]
    path = written(tmp_path, good, row)
    with pytest.raises(DataError, match=said) as raised:
        read(path)
    assert f"{path}:2" in str(raised.value)


@pytest.mark.parametrize(
    ("example", "said"),
    [
        (
            {"input": "How?", "target_scores": {"So.": 1, "Not so.": 1}},
            "row 2: an item has 2 right options, expected 1",
        ),
        ({"input": "How?", "target_scores": ["So."]}, "row 2: expected options with 1 or 0"),
        ({"target_scores": {"So.": 1, "Not so.": 0}}, "row 2: expected 'input'"),
    ],
)
def test_an_hhh_item_that_cannot_be_scored_is_named(example: dict[str, Any], said: str, tmp_path: Path) -> None:
    good = {"input": "Why?", "target_scores": {"So.": 1, "Not so.": 0}}
    (tmp_path / "harmless").mkdir()
    (tmp_path / "harmless" / "task.json").write_text(json.dumps({"examples": [good, example]}))
    with pytest.raises(DataError, match=f"harmless/task.json, {said}"):
        hhh(tmp_path)


@pytest.mark.parametrize(
    ("targets", "said"), [({"No.": 0, "Yes.": 0}, "0 right ones"), ({"No.": 1, "Yes.": 1}, "2 right options")]
)
def test_an_mc1_item_has_one_right_option(targets: dict[str, int], said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        truthfulqa(truth_file(tmp_path, {**TRUTH, "mc1_targets": targets}))


@pytest.mark.parametrize("read", [arc_easy, hellaswag, mmlu, gsm8k, truthfulqa, hhh])
def test_a_missing_file_is_named(read: Callable[[Path], list[Item]], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone"):
        read(tmp_path / "gone.jsonl")


def test_a_sample_is_the_same_for_every_model_and_holds_whole_questions(tmp_path: Path) -> None:
    items = truthfulqa(truth_file(tmp_path, *({**TRUTH, "question": f"Is {n} odd?"} for n in range(40))))
    one = sampled(items, 10, seed=0)
    assert one == sampled(items[::-1], 10, seed=0)[::-1]
    assert len(one) == 50
    assert {i.id for i in one} != {i.id for i in sampled(items, 10, seed=1)}
    assert sampled(items, None, 0) == items == sampled(items, 1000, 0)


def test_of_equal_rows_one_is_asked(tmp_path: Path) -> None:
    assert len(sampled(arc_easy(written(tmp_path, ARC, ARC)), None, 0)) == 1


@needs_public
@pytest.mark.parametrize(
    ("name", "place", "questions"),
    [
        ("hhh", "bigbench_hhh", 221),
        ("truthfulqa", "truthfulqa", 817),
        ("arc_easy", "capability/arc_easy/ARC-Easy-Test.jsonl", 2376),
        ("hellaswag", "capability/hellaswag/hellaswag_val.sample1000.jsonl", 1000),
        ("mmlu", "capability/mmlu/mmlu_test.sample570.jsonl", 568),  # two questions stand there twice
        ("gsm8k", "capability/gsm8k/test.jsonl", 1319),
    ],
)
def test_the_public_files_are_read_whole(name: str, place: str, questions: int) -> None:
    items = SUITES[name].read(Path(str(HELD)) / place)  # type: ignore[union-attr]
    assert len({i.id for i in items}) == questions
