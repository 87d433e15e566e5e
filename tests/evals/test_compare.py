"""Two folders of scores compared: the numbers are the items', and what cannot be compared is refused by name."""

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from scipy.stats import binom, binomtest

from iteralign.cli import app
from iteralign.errors import StoreError
from iteralign.evals.answers import GOLD, PER_TOKEN, TOTAL, Answered, item_scores
from iteralign.evals.benchmarks import HHH_CATEGORIES
from iteralign.evals.compare import Compared, compare_folders
from iteralign.evals.paired import Measure, detectable, pair
from iteralign.evals.scores import make_score
from iteralign.evals.xstest import pair_scores
from iteralign.records import Score, Wants
from iteralign.report.comparison import print_compared
from iteralign.stats import holm
from iteralign.store import write_rows, write_text
from make import prompt, response, verdict

HARMFUL, REFUSED = "harmful compliance", "harmless refused"


def score(name: str, values: Sequence[float | None], variant: str = "evaluator", **more: Any) -> Score:
    return make_score(name, variant, {f"q{i:03d}": v for i, v in enumerate(values)}, **more)


def stored(folder: Path, *scores: Score, rows: Sequence[Answered] = (), config: dict[str, Any] | None = None) -> Path:
    folder.mkdir(parents=True)
    write_text(folder / "scores.json", json.dumps([s.row() for s in scores]))
    if rows:
        write_rows(folder / "items.jsonl", [r.row() for r in rows])
    if config is not None:
        write_text(folder / "config.yaml", yaml.safe_dump(config))
    return folder


def likelihoods(n: int, wins: int, tokens: tuple[int, int] = (4, 5), shift: float = 0.0) -> list[Answered]:
    """`n` HHH items, two to an input; the right option is the likelier one in the first `wins`."""
    totals = [(-4.0 + shift - 0.01 * i, -4.0) for i in range(n)]
    return [
        Answered(
            id=f"h{i}",
            names=(f"hhh/{HHH_CATEGORIES[i % 4]}", "hhh/overall"),
            form="chat",
            question="Which?",
            options=("One.", "Two."),
            right=(0,),
            cluster=f"c{i // 2}",
            total=total,
            tokens=tokens,
            outcomes={PER_TOKEN: float(i < wins), GOLD: total[0] / tokens[0]},
        )
        for i, total in enumerate(totals)
    ]


def on_screen(made: Compared, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_compared(made, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def flat(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    base = score(HARMFUL, [1] * 40 + [0] * 20), score(REFUSED, [0] * 57 + [1] * 2 + [None])
    aligned = score(HARMFUL, [0] * 18 + [1] * 22 + [0] * 18 + [1] * 2), score(REFUSED, [1] * 3 + [0] * 57)
    return stored(tmp_path / "base", *base), stored(tmp_path / "aligned", *aligned)


# -- the numbers ----------------------------------------------------------------------------------


def test_every_number_is_that_of_the_items(two: tuple[Path, Path]) -> None:
    made = compare_folders(*two).as_dict()
    harm, refused = made["measures"]
    assert (harm["before"]["value"], harm["after"]["value"]) == pytest.approx((40 / 60, 24 / 60))
    assert (harm["n"], harm["n_changed"], harm["n_improved"], harm["n_worsened"]) == (60, 20, 18, 2)
    assert harm["difference"] == pytest.approx(-16 / 60)
    assert harm["low"] < harm["difference"] < harm["high"] < 0
    p = float(binomtest(2, 20).pvalue), float(binomtest(2, 5).pvalue)
    assert (harm["p"], refused["p"]) == pytest.approx(p)
    assert (refused["n"], refused["n_unscored"], refused["n_changed"]) == (59, 1, 5)
    adjusted = holm({"harm": p[0], "refused": p[1]})
    assert (harm["p_holm"], refused["p_holm"]) == pytest.approx((adjusted["harm"], adjusted["refused"]))
    assert made["changed"] is True
    assert made["tax"] is None


def test_the_screen_says_the_same(two: tuple[Path, Path]) -> None:
    shown = on_screen(compare_folders(*two))
    [row] = [x for x in shown.splitlines() if "40/60 (67%)" in x]
    assert flat(row).startswith("evaluator 40/60 (67%) 24/60 (40%) 60 0 20 (+18/−2) −27 (")
    assert "<0.001" in row
    assert "uncalibrated" in shown
    assert "2 comparisons" in flat(shown)
    assert "Nothing changed" not in shown
    assert "Alignment tax" not in shown


def test_the_detectable_effect_is_found_with_the_promised_power() -> None:
    before, after = score("x", [1] * 30 + [0] * 70), score("x", [1] * 20 + [0] * 60 + [1] * 20)
    [measure] = pair({("x", "v"): before}, {("x", "v"): after}, 0)[0]
    effect = detectable(measure)
    assert effect is not None
    power = sum(
        float(binom.pmf(m, 100, 0.3) * binom.pmf(up, m, (1 + effect / 0.3) / 2))
        for m in range(101)
        for up in range(m + 1)
        if m and binomtest(up, m).pvalue <= 0.05 and 2 * up > m
    )
    assert power == pytest.approx(0.8, abs=0.002)


def test_few_changes_could_never_have_been_found(two: tuple[Path, Path]) -> None:
    harm, refused = compare_folders(*two).measures
    assert detectable(harm) is not None
    assert detectable(refused) is None
    [row] = [row for row in on_screen(compare_folders(*two)).splitlines() if "2/59" in row]
    assert row.rstrip().endswith("none")


def test_copies_of_an_item_do_not_sharpen_what_could_be_found() -> None:
    def effect(copies: int) -> float | None:
        sides = [[1] * 30 + [0] * 30, [1] * 20 + [0] * 35 + [1] * 5]
        names = {f"q{i:03d}": f"c{i % 60}" for i in range(60 * copies)}
        found = [
            make_score("x", "v", {i: float(v) for i, v in zip(names, side * copies, strict=True)}, names)
            for side in sides
        ]
        return detectable(pair({("x", "v"): found[0]}, {("x", "v"): found[1]}, 0)[0][0])

    once, thrice = effect(1), effect(3)
    assert once is not None
    assert once == pytest.approx(thrice, abs=0.02)


def test_scores_that_are_no_rates_have_a_detectable_effect_too() -> None:
    before, after = [0.1, 0.5, 0.3, 0.9], [0.2, 0.4, 0.6, 0.9]
    [measure] = pair({("mc2", "v"): score("mc2", before)}, {("mc2", "v"): score("mc2", after)}, 0)[0]
    assert measure.change is not None and measure.change.stderr is not None
    assert detectable(measure) == pytest.approx(2.8016 * measure.change.stderr, rel=1e-4)
    assert detectable(Measure("x", "v", None, None)) is None


def test_a_p_that_holm_lifts_over_the_level_is_said_on_a_narrow_screen_too(tmp_path: Path) -> None:
    rows = likelihoods(80, 64), likelihoods(80, 52)
    a, b = (stored(tmp_path / name, *item_scores(r)) for name, r in zip(("a", "b"), rows, strict=True))
    made = compare_folders(a, b)
    overall = made.measures[-1]
    assert overall.change is not None and overall.p_holm is not None
    assert overall.change.p < 0.05 < overall.p_holm
    said = f"hhh/overall (chat, per token): p = {overall.change.p:.3f} by itself, {overall.p_holm:.2f} after Holm's"
    assert said in flat(on_screen(made, 80))


@pytest.mark.parametrize("width", [80, 120])
def test_every_column_of_a_large_table_is_on_the_screen(width: int, tmp_path: Path) -> None:
    def side(name: str, *values: float) -> Path:
        graded = score("truthfulqa/mc2", [v / 2 + 0.1 for v in values], "preamble, probability of the right ones")
        return stored(tmp_path / name, score("arc_easy", values, "plain, per character", chance=0.25), graded)

    made = compare_folders(side("a", *[1] * 90 + [0] * 300), side("b", *[0] * 60 + [1] * 330))
    text = on_screen(made, width)
    assert max(map(len, text.splitlines())) <= width
    for said in ("Finds", "<0.001*", "character", "(+300/−60)", "23.1%", "21.5%"):
        assert said in text, said
    assert len(re.findall(r"\(\+\d\d\.\d to \+\d\d\.\d\)", text.split("Alignment tax")[0])) == 2
    assert "84/390" not in text, "a mean of probabilities is no count"


def test_nothing_changed_is_said_in_words(two: tuple[Path, Path]) -> None:
    made = compare_folders(two[0], two[0])
    assert "Nothing changed: 0 of 60 items moved in 2 measures." in flat(on_screen(made))
    assert made.as_dict()["changed"] is False


def test_the_tax_stands_below_with_the_finer_measure(tmp_path: Path) -> None:
    rows = likelihoods(80, 64), likelihoods(80, 48, shift=-0.4)
    folders = [stored(tmp_path / name, *item_scores(r), rows=r) for name, r in zip(("a", "b"), rows, strict=True)]
    made = compare_folders(folders[0], folders[1])
    assert made.tax is not None
    assert [(x.name, x.percent) for x in made.tax.lines] == [("hhh/overall", pytest.approx(25.0))]
    [line] = made.tax.lines
    assert line.gold is not None
    assert line.gold.difference == pytest.approx(-0.1)  # 0.4 over four tokens
    assert made.as_dict()["tax"]["lines"][0]["percent"] == pytest.approx(25.0)
    shown = flat(on_screen(made))
    assert "80% → 60%" in shown
    assert "25.0% regression" in shown
    assert "gold answer −0.100 nats a token" in shown
    assert "Average tax: +25.0%" in shown
    assert "uncalibrated" not in shown
    assert GOLD not in shown


def test_the_finer_measure_is_that_of_the_same_form(tmp_path: Path) -> None:
    """The letters have none; of two forms each line has its own."""

    def side(name: str, *golds: float) -> Path:
        forms = [score("mc1", [1] * 30 + [0] * 10, f"{f}, {TOTAL}", chance=0.25) for f in ("chat", "preamble, chat")]
        letters = score("mc1", [1] * 30 + [0] * 10, "chat, letters, both orders", chance=0.25)
        finer = [score("mc1", [g] * 40, f"{f}, {GOLD}") for f, g in zip(("chat", "preamble, chat"), golds, strict=True)]
        return stored(tmp_path / name, *forms, letters, *finer)

    made = compare_folders(side("a", -1.0, -1.0), side("b", -1.5, -3.0))
    assert made.tax is not None
    found = {x.variant: x.gold.difference if x.gold else None for x in made.tax.lines}
    assert found == {"chat, total": -0.5, "preamble, chat, total": -2.0, "chat, letters, both orders": None}
    assert made.tax.n_benchmarks == 1
    assert {m.variant for m in made.measures} == set(found)


def test_a_benchmark_without_a_signal_is_listed(tmp_path: Path) -> None:
    rows = likelihoods(80, 42), likelihoods(80, 36)
    folders = [stored(tmp_path / name, *item_scores(r)) for name, r in zip(("a", "b"), rows, strict=True)]
    shown = flat(on_screen(compare_folders(folders[0], folders[1])))
    assert "no signal: the base is not above chance (50.0%)" in shown
    assert "Average tax: none" in shown


# -- where the scores lie -------------------------------------------------------------------------


def test_the_directory_of_an_eval_holds_all_its_suites(tmp_path: Path, two: tuple[Path, Path]) -> None:
    for name, folder in zip(("one", "other"), two, strict=True):
        (tmp_path / name / "evals").mkdir(parents=True)
        folder.rename(tmp_path / name / "evals" / "base")
        stored(tmp_path / name / "evals" / "arc", score("arc", [1, 0, 1, 1], "chat", chance=0.25))
    made = compare_folders(tmp_path / "one", tmp_path / "other")
    assert {m.name for m in made.measures} == {HARMFUL, REFUSED, "arc"}


def test_a_run_has_two_policies_and_one_is_asked_for(tmp_path: Path) -> None:
    for name in ("base", "final"):
        stored(tmp_path / "run" / "evals" / name, score(HARMFUL, [1, 0]))
    with pytest.raises(StoreError, match="two policies: name .*evals/base or .*evals/final"):
        compare_folders(tmp_path / "run", tmp_path / "run")
    made = compare_folders(tmp_path / "run/evals/base", tmp_path / "run/evals/final")
    assert len(made.measures) == 1


def test_metrics_of_one_side_are_named_and_in_no_table(tmp_path: Path) -> None:
    a = stored(tmp_path / "a", score(HARMFUL, [1, 0]), score("arc", [1, 0], "chat"))
    b = stored(tmp_path / "b", score(HARMFUL, [1, 1]), score("mmlu", [1, 0], "chat"))
    made = compare_folders(a, b)
    assert [m.name for m in made.measures] == [HARMFUL]
    shown = flat(on_screen(made))
    assert f"Not compared, only in {a}: arc (chat)." in shown
    assert f"Not compared, only in {b}: mmlu (chat)." in shown


# -- what is refused ------------------------------------------------------------------------------


def test_different_items_are_refused_and_named(tmp_path: Path) -> None:
    a = stored(tmp_path / "a", score(HARMFUL, [1, 0, 1]), score(REFUSED, [1, 0]))
    b = stored(tmp_path / "b", score(HARMFUL, [1, 0, 1, 1]), score(REFUSED, [1, 0, 1]))
    with pytest.raises(StoreError, match=r"harmful compliance \(evaluator\).*only after \(1\): q003.*\(1 more metrics"):
        compare_folders(a, b)


def test_different_variants_are_refused(tmp_path: Path) -> None:
    a = stored(tmp_path / "a", score("hhh/overall", [1, 0], "chat, per token"), score("arc", [1, 0], "chat"))
    b = stored(tmp_path / "b", score("hhh/overall", [1, 0], "chat, total"), score("arc", [1, 0], "chat"))
    with pytest.raises(
        StoreError, match="hhh/overall was measured in different variants: chat, per token in .*chat, total"
    ):
        compare_folders(a, b)


def test_different_tokenizers_are_refused(tmp_path: Path) -> None:
    rows = likelihoods(8, 4), likelihoods(8, 4, tokens=(4, 6))
    folders = [stored(tmp_path / name, *item_scores(r), rows=r) for name, r in zip(("a", "b"), rows, strict=True)]
    with pytest.raises(StoreError, match=r"different tokenizers.*8 of 8 items.*\[4, 5\].*\[4, 6\]"):
        compare_folders(folders[0], folders[1])


def test_another_evaluator_or_other_sampling_is_refused_by_key(tmp_path: Path) -> None:
    def config(model: str = "m", tokens: int = 96, threads: int = 1, layers: int = 0) -> dict[str, Any]:
        evaluator = {"type": "rubric", "model": {"type": "llama_cpp", "model": model, "gpu_layers": layers}}
        return {"evaluator": evaluator, "evaluate": {"max_new_tokens": tokens}, "runtime": {"threads": threads}}

    def side(name: str, **settings: Any) -> Path:
        return stored(tmp_path / name, score(HARMFUL, [1, 0]), config=config(**settings))

    base = side("base")
    assert compare_folders(base, side("elsewhere", threads=8, layers=99)).notes == ()
    with pytest.raises(StoreError, match=r"other settings: evaluator\.model\.model"):
        compare_folders(base, side("judged", model="other"))
    with pytest.raises(StoreError, match=r"other settings: evaluate\.max_new_tokens"):
        compare_folders(base, side("longer", tokens=200))
    unknown = stored(tmp_path / "unknown", score(HARMFUL, [1, 0]))
    assert "is not known" in compare_folders(base, unknown).notes[0]


def test_likelihoods_need_no_evaluator(tmp_path: Path) -> None:
    one, other = ({"evaluator": {"model": x}, "evaluate": {"max_new_tokens": n}} for x, n in (("x", 9), ("y", 99)))
    a = stored(tmp_path / "a", score("arc", [1, 0], "chat", chance=0.25), config=one)
    b = stored(tmp_path / "b", score("arc", [1, 1], "chat", chance=0.25), config=other)
    assert compare_folders(a, b).notes == ()
    written = [
        stored(tmp_path / n, score("gsm8k", [1], "chat", chance=0.0), config=c) for n, c in (("c", one), ("d", other))
    ]
    with pytest.raises(StoreError, match=r"other settings: evaluate\.max_new_tokens\."):
        compare_folders(written[0], written[1])


@pytest.mark.parametrize("damage", ["[{}]", "{", "3"])
def test_damaged_scores_are_named(damage: str, tmp_path: Path, two: tuple[Path, Path]) -> None:
    (two[1] / "scores.json").write_text(damage)
    with pytest.raises(StoreError, match="aligned/scores.json does not hold scores"):
        compare_folders(*two)


def test_folders_without_scores_and_without_a_common_metric(tmp_path: Path, two: tuple[Path, Path]) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="empty holds no scores: expected evals/base"):
        compare_folders(tmp_path / "empty", two[0])
    with pytest.raises(StoreError, match="no folder .*nowhere"):
        compare_folders(two[0], tmp_path / "nowhere")
    arc = stored(tmp_path / "arc", score("arc", [1, 0], "chat"))
    with pytest.raises(StoreError, match=r"share no metric: harmful compliance \(evaluator\).*arc \(chat\)"):
        compare_folders(two[0], arc)


# -- the command ----------------------------------------------------------------------------------


def test_the_command_prints_the_table_or_json(two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    app(["compare", *map(str, two)], standalone_mode=False)
    assert "+18/−2" in capsys.readouterr().out
    app(["compare", *map(str, two), "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(compare_folders(*two).as_dict()))


def test_what_xstest_counts_of_every_type_is_better_when_it_falls() -> None:
    category: dict[Wants, str] = {"answer": "homonyms", "decline": "contrast_homonyms"}
    asked: dict[str, Wants] = {f"{wants}{n}": wants for wants in category for n in range(2)}
    verdicts = [verdict(response(prompt(name, wants, category=category[wants]))) for name, wants in asked.items()]
    better = {s.name: Measure(s.name, s.variant, s, s).higher_is_better for s in pair_scores(verdicts)}
    assert better == {
        "pairs told apart": True,
        "homonyms: safe refused": False,
        "homonyms: unsafe complied with": False,
    }
