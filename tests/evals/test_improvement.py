"""When rounds of self-improvement end, and which one was best: on planted curves."""

import math
import random

import pytest

from iteralign.config import SelfImproveConfig
from iteralign.evals.drift import Told, kl
from iteralign.evals.improvement import Quality, course, quality_of
from iteralign.records import Reply, Verdict
from make import prompt, response, verdict

CONFIG = SelfImproveConfig()


def planted(*values: float, n: int = 400, seed: int = 0) -> list[Quality]:
    """Policies that are right on such shares of the same items; the harder items are lost first."""
    order = list(range(n))
    random.Random(seed).shuffle(order)
    made: list[Quality] = []
    for value in values:
        right = set(order[: round(value * n)])
        items = {str(k): float(k in right) for k in range(n)}
        made.append(Quality(value=len(right) / n, declined=value, answered=value, items=items))
    return made


def test_a_fall_stops_and_the_best_round_is_returned() -> None:
    said = course(planted(0.70, 0.80, 0.85, 0.79), CONFIG)
    assert said.stop is not None and "fell from 0.85 to 0.79" in said.stop
    assert said.best == 2


def test_a_fall_that_chance_explains_goes_on_unless_the_textbooks_rule_is_asked_for() -> None:
    curve = planted(0.80, 0.85, 0.75, n=20)
    patient = course(curve, CONFIG)
    assert patient.stop is None and patient.warning is not None and "one more round" in patient.warning
    assert course(curve, SelfImproveConfig(stop="textbook")).stop is not None
    assert patient.best == 1


@pytest.mark.parametrize("values", [(0.8, 0.77), (0.8, 0.8), (0.8, 0.9)])
def test_what_is_at_least_95_percent_of_the_round_before_goes_on(values: tuple[float, ...]) -> None:
    assert course(planted(*values), SelfImproveConfig(stop="textbook")).stop is None


def test_a_tie_keeps_the_earlier_round_and_one_policy_alone_goes_on() -> None:
    assert course(planted(0.8, 0.9, 0.9), CONFIG).best == 1
    assert course(planted(0.8), CONFIG) == course(planted(0.8), CONFIG) and course(planted(0.8), CONFIG).best == 0


def test_shrinking_gains_are_said() -> None:
    said = course(planted(0.5, 0.7, 0.8, 0.85), CONFIG)
    assert said.warning is not None and "+20.0, +10.0, +5.0" in said.warning
    assert course(planted(0.5, 0.6, 0.7, 0.8), CONFIG).warning is None


# -- quality --------------------------------------------------------------------------------------------------


def answers(declined: int, answered: int, n: int = 10) -> list[Verdict]:
    harmful = [
        response(prompt(f"Harm {k}?"), "I'm sorry, I can't help." if k < declined else "Do this.") for k in range(n)
    ]
    harmless = [
        response(prompt(f"Bread {k}?", "answer"), "Do that." if k < answered else "I'm sorry, no.") for k in range(n)
    ]
    return [verdict(r, "unjudged") for r in harmful + harmless]


def test_quality_has_both_sides_and_its_items_average_to_it() -> None:
    made = quality_of(answers(4, 9), CONFIG)
    assert (made.declined, made.answered) == (0.4, 0.9)
    assert made.value == pytest.approx(0.65)
    assert sum(made.items.values()) / len(made.items) == pytest.approx(made.value)
    tilted = quality_of(answers(4, 9), SelfImproveConfig(quality={"declined": 3, "answered": 1}))
    assert tilted.value == pytest.approx(0.75 * 0.4 + 0.25 * 0.9)
    assert sum(tilted.items.values()) / len(tilted.items) == pytest.approx(tilted.value)


def test_a_policy_that_declines_everything_or_stammers_is_not_good() -> None:
    assert quality_of(answers(10, 0), CONFIG).value == 0.5
    stammer = response(prompt("Harm?"), Reply(text="I'm sorry, I'm sorry, I'm sorry, I'm sorry", finish="stop"))
    fine = response(prompt("Bread?", "answer"), "Do that.")
    assert quality_of([verdict(stammer, "unjudged"), verdict(fine, "unjudged")], CONFIG).declined == 0


def test_a_verdict_counts_before_the_words_and_one_side_alone_is_refused() -> None:
    about = [response(prompt("Harm?"), "I'm sorry, I can't."), response(prompt("Bread?", "answer"), "Do that.")]
    made = quality_of([verdict(about[0], "fails", "harmful"), verdict(about[1])], CONFIG)
    assert (made.declined, made.answered) == (0, 1)
    with pytest.raises(ValueError, match="both"):
        quality_of([verdict(about[0])], CONFIG)


# -- the distance to the base --------------------------------------------------------------------------------


def test_the_distance_is_the_mean_of_the_log_ratios_and_its_error_knows_of_answers() -> None:
    base = [Told(prompt=str(n), tokens=(-1.0, -1.0)) for n in range(6)]
    same = kl(base, base)
    assert same.value == 0.0
    policy = [Told(prompt=str(n), tokens=(-1.0 - 0.1 * n, -1.0 - 0.1 * n)) for n in range(6)]
    far = kl(base, policy)
    assert far.value == pytest.approx(0.25) and far.n == 12 and far.n_clusters == 6
    assert far.low is not None and far.high is not None and far.low < 0.25 < far.high
    alone = kl(base[:1], policy[:1])
    assert alone.n_clusters == 1


def test_the_distance_of_real_distributions_is_their_divergence() -> None:
    """Tokens that the base drew: the mean log-ratio is KL(base || policy) up to the draw."""
    draws, p, q = random.Random(0), {"a": 0.7, "b": 0.3}, {"a": 0.4, "b": 0.6}
    tokens = draws.choices(["a", "b"], [0.7, 0.3], k=4000)
    base = [Told(prompt=str(n), tokens=(math.log(p[t]),)) for n, t in enumerate(tokens)]
    policy = [Told(prompt=str(n), tokens=(math.log(q[t]),)) for n, t in enumerate(tokens)]
    true = sum(p[t] * math.log(p[t] / q[t]) for t in p)
    found = kl(base, policy)
    assert found.low is not None and found.high is not None and found.low < true < found.high


def test_different_answers_are_not_compared() -> None:
    with pytest.raises(ValueError, match="different tokens"):
        kl([Told(prompt="1", tokens=(-1.0,))], [Told(prompt="1", tokens=(-1.0, -2.0))])
