"""A truth judge trained on a tiny real model: split by question, measured on the unseen, written whole, read back."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from iteralign.config import SFTConfig, TransformersConfig
from iteralign.data.truthful import JudgeRow
from iteralign.errors import ConfigError, DataError
from iteralign.judges.truth import FILE, TruthJudge, load_truth_judge
from iteralign.models.scripted import ScriptedModel
from iteralign.training.rows import encode
from iteralign.training.truth import Sample, figures, split_by_question, train_truth, training_row
from tiny import tiny_folder, tiny_model

THINGS = ["tea", "oak", "fog", "jam", "elk", "ink", "owl", "rye", "tin", "yak"] * 4


def rows(n: int = 40, kind: str = "truth") -> list[JudgeRow]:
    """Two answers to each question: the one that ends in "yes" is true."""
    return [
        JudgeRow(kind, f"Is it {what} {k}?", answer, yes)  # type: ignore[arg-type]
        for k, what in enumerate(THINGS[:n])
        for answer, yes in ((f"It is {what}. yes yes", True), (f"It is {what}. NO NO", False))
    ]


def rows_file(path: Path, n: int = 40, asks: str = "True") -> Path:
    lines = [
        {"prompt": f"Q: {r.question}\nA: {r.answer}\n{asks}:", "completion": " yes" if r.yes else " no"}
        for r in rows(n)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


# -- the split and the figures ------------------------------------------------------------------------


def test_no_question_stands_on_both_sides_and_the_seed_decides_which() -> None:
    split = split_by_question(rows(), Sample(seed=1, unseen=0.25))
    assert {r.item for r in split.train}.isdisjoint(r.item for r in split.unseen)
    assert len({r.item for r in split.unseen}) == 10 and len(split.train) + len(split.unseen) == 80
    assert split == split_by_question(rows(), Sample(seed=1, unseen=0.25))
    assert split.unseen != split_by_question(rows(), Sample(seed=2, unseen=0.25)).unseen


def test_a_limit_is_on_training_rows_alone() -> None:
    whole, part = (split_by_question(rows(), Sample(unseen=0.25, limit=limit)) for limit in (None, 16))
    assert len(part.train) == 16 and set(part.train) <= set(whole.train) and part.unseen == whole.unseen


def test_too_few_questions_are_refused() -> None:
    with pytest.raises(DataError, match="1 questions leave 0 rows to measure on"):
        split_by_question(rows(1), Sample())


def test_figures_by_hand() -> None:
    """Three yes of one question, all right; one no of another, wrong; one row unread."""
    unseen = [JudgeRow("truth", q, "a", yes) for q, yes in (("x", True), ("x", True), ("x", True), ("y", False))]
    unseen.append(JudgeRow("truth", "z", "a", True))
    train = [JudgeRow("truth", "t", "a", yes) for yes in (False, False, True)]
    found = figures(split_by_question(rows(), Sample())._replace(train=train, unseen=unseen), [0.9, 0.5, 0.7, 0.6, "?"])
    assert (found["accuracy"].value, found["accuracy"].n, found["accuracy"].n_unscored) == (0.75, 4, 1)
    assert found["balanced_accuracy"].value == pytest.approx(0.5), "one side right, the other wrong"
    assert (found["sensitivity"].value, found["specificity"].value) == (1.0, 0.0)
    assert found["majority"].value == pytest.approx(0.2), "the training rows' commoner answer is no"
    assert found["accuracy"].n_clusters == 2
    assert found["balanced_accuracy"].low is not None and found["balanced_accuracy"].low >= 0


# -- training -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [None, "chat"])
def test_the_loss_is_on_yes_or_no_alone(template: str | None) -> None:
    engine = tiny_model() if template else tiny_model(template=None)
    judge = TruthJudge("truth", engine)
    for row in rows(2):
        [encoded] = encode([training_row(judge, row)], engine.format, 512).rows
        learnt = [i for i, label in zip(encoded["input_ids"], encoded["labels"], strict=True) if label != -100]
        assert engine.tokenizer.decode(learnt).strip() == ("yes" if row.yes else "no")
        assert engine.format.encode(judge.chat(row.question, row.answer)) == encoded["input_ids"][: -len(learnt)]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judge")
    base = TransformersConfig(model=str(tiny_folder(folder / "base")), dtype="float32")
    settings = SFTConfig(learning_rate=3e-3, epochs=8, batch=8, max_length=256)
    train_truth(rows_file(folder / "rows.jsonl"), base, folder / "out", settings, Sample(unseen=0.25))
    return folder


def test_it_learns_what_the_rows_show_and_says_how_well(judged: Path) -> None:
    said = json.loads((judged / "out" / FILE).read_text())
    assert said["accuracy"]["value"] > said["majority"]["high"], "better than the commoner answer"
    assert said["balanced_accuracy"]["n_clusters"] == 10 == len(said["unseen_questions"])
    assert (said["trained_rows"], said["kind"], said["rows_file"]) == (60, "truth", "rows.jsonl")


def test_the_folder_is_a_judge_with_its_figures(judged: Path) -> None:
    judge = load_truth_judge(str(judged / "out"), "truth")
    assert judge.calibration.startswith("balanced accuracy ")
    said = json.loads((judged / "out" / FILE).read_text())
    unseen = [r for r in rows() if r.item in said["unseen_questions"]]
    right = [
        (p >= 0.5) == r.yes
        for p, r in zip(judge.probabilities([(r.question, r.answer) for r in unseen]), unseen, strict=True)
    ]  # type: ignore[operator]
    assert sum(right) / len(right) == pytest.approx(said["accuracy"]["value"]), "the figures are this folder's"


def test_a_folder_answers_only_the_question_that_it_was_trained_for(judged: Path) -> None:
    with pytest.raises(ConfigError, match="trained to judge 'truth'.*'info' is wanted"):
        load_truth_judge(str(judged / "out"), "info")


def test_a_changed_model_has_no_figures(judged: Path) -> None:
    assert load_truth_judge(str(judged / "base"), "truth").calibration == "uncalibrated"
    judge = load_truth_judge(str(judged / "out"), "truth")
    assert TruthJudge("truth", ScriptedModel(), judge.trained).calibration == "uncalibrated"


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is there already, and is left alone"):
        train_truth(rows_file(tmp_path / "rows.jsonl"), TransformersConfig(model="nowhere"), tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_a_row_over_the_limit_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    base = TransformersConfig(model=str(tiny_folder(tmp_path / "base")))
    with pytest.raises(DataError, match=r"rows are over 16 tokens"):
        train_truth(rows_file(tmp_path / "rows.jsonl"), base, tmp_path / "out", SFTConfig(max_length=16))
    assert not (tmp_path / "out").exists()


def test_the_command(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    base, file = tiny_folder(tmp_path / "base"), rows_file(tmp_path / "rows.jsonl", asks="Helpful")
    command = [sys.executable, "-m", "iteralign.cli", "judge", "train-truth", "--rows", file, "--base", base]
    command += ["--out", tmp_path / "out", "--epochs", "1", "--limit", "16", "--unseen", "0.2"]
    environment = {**os.environ, "COLUMNS": "140", "PYTHONPATH": str(root / "src")}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "always the commoner answer" in done.stdout and "balanced accuracy" in done.stdout
    assert "Judge of info, trained on 16 answers" in done.stdout
    assert load_truth_judge(str(tmp_path / "out"), "info").trained is not None
    again = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=300)
    assert again.returncode == 2 and "left alone" in again.stderr
