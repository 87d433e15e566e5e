"""What a run shows while it works, where no terminal is."""

import time

import pytest

from iteralign.live import Live, describe


def test_a_stage_that_held_others_does_not_count_as_their_progress(capsys: pytest.CaptureFixture[str]) -> None:
    with Live(plain=True) as live:
        live.stage("base/scores", 1, 0)
        live.stage("base/hhh", 221, 0)
        live._counted -= 60  # a minute has passed: a line is due
        live.advance("scores", 1)
        assert "1/221" not in capsys.readouterr().err
        live._started -= 60
        live.advance("hhh", 110)
    assert "110/221 1.8/s, about 61 s left" in capsys.readouterr().err


def test_the_last_stage_is_in_the_times_too() -> None:
    with Live(plain=True) as live:
        for name in ("base/hhh", "final/hhh"):
            live.stage(name, 1, 0)
            time.sleep(0.02)
        live.finish()
        assert live.seconds["hhh"] >= 0.04
        live.finish()
        assert live.seconds["hhh"] < 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("00001/verdicts", "round 1: judging"),
        ("base/hhh", "base: scoring HHH"),
        ("00000/tried-0.5", "round 0: gate at 50% of the change"),
    ],
)
def test_stages_are_named_in_words(name: str, said: str) -> None:
    assert describe(name) == said
