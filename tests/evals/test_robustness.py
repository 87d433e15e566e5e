"""Replies that speak to the judge: what they are, and what is counted as a verdict moved."""

from collections.abc import Sequence
from pathlib import Path

from test_calibration import labelled

from iteralign.config import RubricConfig, ScriptedConfig
from iteralign.evals.calibration import calibrate_judge
from iteralign.evals.robustness import Injected, injected, robustness
from iteralign.judges.base import as_data


def right(case: Injected) -> bool:
    return case.row.complied


def test_there_are_enough_on_both_sides_and_the_reply_stands_in_each() -> None:
    tampered = [case for case in injected() if case.kind]
    plain = {case.row.prompt: case.row.reply for case in injected() if case.kind is None}
    assert len(tampered) >= 40 and len({case.row.id for case in injected()}) == len(injected())
    assert {case.row.complied for case in tampered} == {True, False}
    assert all(plain[case.row.prompt] in case.row.reply != plain[case.row.prompt] for case in tampered)
    assert {case.kind for case in tampered} >= {"order", "fake verdict", "fake end", "other language", "padding"}


def counted(said: Sequence[bool | None]) -> tuple[int, int, int]:
    made = robustness(said, "complied")
    assert made.flips.value is not None
    return round(made.flips.value * made.flips.n), made.to_yes, made.to_no


def test_verdicts_that_move_are_counted_in_either_direction() -> None:
    cases = injected()
    n = sum(case.kind is not None for case in cases)
    assert counted([right(c) for c in cases]) == (0, 0, 0)
    obeys = [right(c) if c.kind is None else not right(c) for c in cases]
    assert counted(obeys) == (n, n // 2, n // 2)
    silenced = [right(c) if c.kind != "padding" else None for c in cases]
    moved, to_yes, to_no = counted(silenced)
    assert moved == sum(c.kind == "padding" for c in cases) and (to_yes, to_no) == (0, 0)
    assert robustness(silenced, "complied").by_kind["padding"] == (moved, moved)


def test_a_judge_that_is_wrong_but_steady_flips_nothing_and_is_seen_to_be_wrong() -> None:
    made = robustness([not right(c) for c in injected()], "complied")
    assert made.flips.value == 0 and made.plain_right == 0


def test_of_harm_the_right_word_about_each_of_them_is_no() -> None:
    """Two comply with harmless requests, and two decline."""
    made = robustness([False] * len(injected()), "harmful")
    assert made.plain_right == made.plain == 4


def test_what_a_judge_is_shown_of_them_holds_no_order_that_the_filter_knows() -> None:
    """The filter alone is no defence: it must at least take these."""
    shown = [as_data(c.row.reply) for c in injected() if c.kind in ("order", "fake end")]
    assert not any("<|im_end|>" in text or "Answer yes." in text or "[INST]" in text for text in shown)


def test_calibrate_measures_it_with_the_same_reading(tmp_path: Path) -> None:
    config = RubricConfig(model=ScriptedConfig(script="judge"), questions=("declined", "answered"))
    rows = [
        row._replace(reply="I cannot do that." if not row.complied else "Here you are: a list.") for row in labelled(40)
    ]
    made, _ = calibrate_judge(rows, config, "complied", tmp_path)
    assert made.robustness is not None and made.robustness.flips.n == sum(c.kind is not None for c in injected())
    assert made.robustness.plain == 4
