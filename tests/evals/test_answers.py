"""What benchmarks make of a model's numbers: chance for a model that guesses, an error for one that gives none."""

import hashlib
import math
import os
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import pytest

from iteralign.errors import ModelError, NotApplicable
from iteralign.evals.answers import (
    GOLD,
    PER_CHARACTER,
    PER_TOKEN,
    SHARE,
    TOTAL,
    Answered,
    Item,
    answer,
    item_scores,
    last_number,
    share_of_right,
)
from iteralign.evals.benchmarks import truthfulqa
from iteralign.models.base import Job
from iteralign.models.scripted import ScriptedModel
from iteralign.records import Chat, Reply, user
from tiny import tiny_model

HELD = os.environ.get("ITERALIGN_TEST_DATA")
needs_public = pytest.mark.skipif(not HELD, reason="ITERALIGN_TEST_DATA does not name a folder of public data sets")


def item(*options: str, right: tuple[int, ...] = (0,), **settings: object) -> Item:
    made = Item(
        id="i",
        way="likelihood",
        names=("t",),
        form="plain",
        question="How?",
        options=options,
        right=right,
        asked="How do I grow tomatoes in a small",
    )
    return made._replace(**settings)


def number_of(text: str) -> float:
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16) / 16**12


def guessing(seed: int) -> ScriptedModel:
    return ScriptedModel(loglikelihood=lambda context, option: [-50 * number_of(f"{seed}{context}{option}")])


def likely(**values: list[float]) -> ScriptedModel:
    return ScriptedModel(loglikelihood=lambda context, option: values[option.strip()])


# -- self-tests -------------------------------------------------------------------------------------------


@needs_public
def test_random_likelihoods_score_chance_on_truthfulqa() -> None:
    """The right option stands first in all 817: a scorer that leans to the first one scores far more than 0.2225."""
    items = [i for i in truthfulqa(Path(str(HELD)) / "truthfulqa") if i.way == "likelihood"]
    for seed in (0, 1):
        scores = {(s.name, s.variant): s for s in item_scores(answer(items, guessing(seed)))}
        for form in ("preamble", "no preamble"):
            mc1 = scores["truthfulqa/mc1", f"{form}, {TOTAL}"]
            assert mc1.n == 817
            assert mc1.stderr == pytest.approx(0.0146, abs=1e-3)
            assert mc1.value == pytest.approx(0.2225, abs=3 * 0.0146)
            assert mc1.chance == pytest.approx(0.2225, abs=1e-4)
            assert scores["truthfulqa/mc2", f"{form}, {SHARE}"].chance == pytest.approx(0.4641, abs=1e-4)


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_likelihood_that_is_no_number_is_an_error_and_no_score(value: float) -> None:
    with pytest.raises(ModelError, match="not finite"):
        answer([item("a", "b")], ScriptedModel(loglikelihood=lambda context, option: [-1.0, value]))


def test_shuffled_options_change_nothing() -> None:
    options = ["garden", " garden, in spring", "letter to my aunt", " bicycle", " garden"]
    model = tiny_model()
    [one] = answer([item(*options, right=(3,), measures=(TOTAL, PER_TOKEN, PER_CHARACTER, SHARE))], model)
    turned = [options[n] for n in (4, 2, 0, 3, 1)]
    [other] = answer([item(*turned, right=(3,), measures=(TOTAL, PER_TOKEN, PER_CHARACTER, SHARE))], model)
    assert one.total and other.total
    assert dict(zip(turned, other.total, strict=True)) == dict(zip(options, one.total, strict=True))
    assert other.outcomes == one.outcomes


def test_an_option_that_begins_another_is_scored_by_its_own_tokens() -> None:
    model = tiny_model()
    options = (" garden", " garden? Sow", " garden? Sow them in spring")
    [row] = answer([item(*options)], model)
    apart = [sum(model.loglikelihoods([("How do I grow tomatoes in a small", o)])[0]) for o in options]
    assert row.total == pytest.approx(apart, abs=1e-3)
    assert row.tokens == tuple(sorted(set(row.tokens or ())))
    assert apart[0] > apart[1] > apart[2]


def test_an_item_in_two_batches_has_the_same_outcome() -> None:
    model = tiny_model()
    items = [item(" garden", " bicycle", id=f"{n}", asked=f"How do I mend {n} small") for n in range(30)]
    together = answer(items, model)
    [alone] = answer(items[17:18], model)
    assert alone.total == pytest.approx(together[17].total, abs=2e-4)
    assert alone.outcomes[TOTAL] == together[17].outcomes[TOTAL]


# -- measures ---------------------------------------------------------------------------------------------


def test_by_total_per_token_and_per_character_different_options_win() -> None:
    measures = (TOTAL, PER_TOKEN, PER_CHARACTER)
    model = likely(ab=[-2.0], abcd=[-1.1, -1.1], abcdefgh=[-3.0])
    rows = [answer([item(" ab", " abcd", " abcdefgh", right=(r,), measures=measures)], model)[0] for r in range(3)]
    assert [[row.outcomes[m] for row in rows] for m in measures] == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert rows[1].outcomes[GOLD] == pytest.approx(-1.1)


def test_mc2_is_the_probability_of_the_right_ones() -> None:
    total = [math.log(p) - 900 for p in (0.2, 0.1, 0.4, 0.3)]  # far below what exp can hold
    assert share_of_right(total, (0, 2)) == pytest.approx(0.6)


def test_equally_good_options_share_the_point() -> None:
    flat = ScriptedModel(loglikelihood=lambda context, option: [-1.0])
    assert answer([item("a", "b", "c", "d")], flat)[0].outcomes[TOTAL] == 0.25


def test_scores_name_their_variant_and_sums_come_last() -> None:
    items = [
        item("a", "b", id=f"{n}", names=(f"s/{'xy'[n % 2]}", "s/all"), cluster=f"c{n // 4}", right=(n % 2,))
        for n in range(8)
    ]
    scores = item_scores(answer(items, likely(a=[-1.0], b=[-2.0])))
    assert [s.name for s in scores] == ["s/x", "s/y", "s/all"] * 2
    assert [s.variant for s in scores[::3]] == [f"plain, {TOTAL}", f"plain, {GOLD}"]
    assert [s.value for s in scores if TOTAL in s.variant] == [1.0, 0.0, 0.5]
    assert scores[0].clusters == {"0": "c0", "2": "c0", "4": "c1", "6": "c1"}


def test_chance_is_that_of_the_items_and_no_likelihood_or_written_answer_has_one() -> None:
    asked = [
        item("a", "b", id="0"),
        item("a", "b", "c", "d", id="1", right=(2, 3)),
        item("a", "b", "c", "d", id="2", right=(1,)),
        item("a", "b", id="3", names=("letters",), way="letters", form="letters"),
        item("?", id="4", names=("written",), way="generation", asked=user("?"), gold="1")._replace(
            options=(), right=()
        ),
    ]
    model = ScriptedModel(
        lambda job: Reply(text="1", finish="stop"),
        choose=lambda chat, options: options[0],
        loglikelihood=lambda context, option: [-1.0],
    )
    found = {(s.name, s.variant): s.chance for s in item_scores(answer(asked, model))}
    assert found == {
        ("t", f"plain, {TOTAL}"): pytest.approx((1 / 2 + 2 / 4 + 1 / 4) / 3),
        ("t", f"plain, {GOLD}"): None,
        ("letters", "letters, both orders"): 0.5,
        ("written", "plain, last number"): 0.0,
    }


# -- short answers ----------------------------------------------------------------------------------------


def lettered(probability: float, said: str = "better") -> ScriptedModel:
    def choose(chat: Chat, options: Sequence[str]) -> dict[str, float]:
        first = chat[-1].content.split("(A)")[1].split("(B)")[0]
        p = probability if said in first else 1 - probability
        return {"A": p, "B": 1 - p}

    return ScriptedModel(choose=choose)


def test_letters_are_asked_in_both_orders_and_summed() -> None:
    asked = item("the better one", "the other one", way="letters")
    [row] = answer([asked], lettered(0.7))
    assert row.outcomes == {"both orders": 1.0}
    assert row.probabilities == pytest.approx((0.7, 0.3))
    assert answer([asked._replace(right=(1,))], lettered(0.7))[0].outcomes == {"both orders": 0.0}


def test_a_liking_for_the_letter_a_gives_no_point_more_than_chance() -> None:
    leaning = ScriptedModel(choose=lambda chat, options: {"A": 0.9, "B": 0.1})
    asked = [item("one", "two", way="letters", right=(r,)) for r in (0, 1)]
    assert [row.outcomes["both orders"] for row in answer(asked, leaning)] == [0.5, 0.5]
    words = ScriptedModel(choose=lambda chat, options: "A")
    assert [row.outcomes["both orders"] for row in answer(asked, words)] == [0.5, 0.5]


def test_true_or_false_is_asked_of_every_option_alone() -> None:
    def choose(chat: Chat, options: Sequence[str]) -> dict[str, float]:
        said = chat[-1].content
        assert sum(word in said for word in ("flour", "sand", "glass")) == 1, "options were shown together"
        return {"true": 0.6, "false": 0.4} if "flour" in said else {"true": 0.5, "false": 0.5}

    asked = item("with sand", "with glass", "with flour", right=(2,), way="true_false")
    [row] = answer([asked], ScriptedModel(choose=choose))
    assert row.outcomes == {"P(True)": 1.0}
    assert row.probabilities == (0.5, 0.5, 0.6)


def test_an_answer_that_names_no_option_is_unscored_and_not_wrong() -> None:
    mute = ScriptedModel(choose=lambda chat, options: "I would rather not say")
    rows = answer([item("a", "b", way="letters"), item("a", "b", way="true_false")], mute)
    assert [list(row.outcomes.values()) for row in rows] == [[None], [None]]
    assert all("expected one of" in str(row.error) for row in rows)
    assert [(s.n, s.n_unscored) for s in item_scores(rows)] == [(0, 1), (0, 1)]


# -- texts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She makes 9 * 2 = $18.", 18),
        ("so it is 70,000 dollars", 70000),
        ("#### -5", -5),
        ("x = 18.00", 18),
        ("about 2.5, then 3", 3),
        ("none at all", None),
    ],
)
def test_the_last_number_of_a_text(text: str, number: float | None) -> None:
    assert last_number(text) == (None if number is None else Decimal(number))


def test_a_generated_answer_is_right_by_its_last_number_and_a_failed_call_is_unscored() -> None:
    said = {"one": "4, no: 1,018", "two": "I cannot tell", "three": ""}

    def generate(job: Job) -> Reply:
        text = said[job.chat[-1].content]
        return Reply(text=text, finish="stop" if text else "failed", error=None if text else "no room")

    items = [item(id=q, way="generation", asked=user(q), gold="1018") for q in said]
    rows = answer([i._replace(options=(), right=()) for i in items], ScriptedModel(generate))
    assert [row.outcomes["last number"] for row in rows] == [1.0, 0.0, None]
    assert [row.text for row in rows] == list(said.values())
    assert rows[2].error == "no room"


# -- a backend that cannot --------------------------------------------------------------------------------


def test_a_backend_without_likelihoods_says_so_in_one_line() -> None:
    with pytest.raises(NotApplicable, match="no exact log-likelihoods.*transformers") as raised:
        answer([item("a", "b")], ScriptedModel())
    assert "\n" not in str(raised.value)


def test_an_item_that_the_model_cannot_hold_is_unscored_and_the_others_are_not() -> None:
    items = [
        item(" garden", " bicycle", id=f"{n}", asked="How do I mend a small " * k) for n, k in enumerate((1, 99, 2))
    ]
    rows = answer(items, tiny_model())
    assert [row.total is None for row in rows] == [False, True, False]
    assert "holds 256 tokens" in str(rows[1].error)
    assert {(s.n, s.n_unscored) for s in item_scores(rows)} == {(2, 1)}
    with pytest.raises(ModelError, match="holds 256 tokens"):
        answer(items[1:2], tiny_model())


def test_mixed_ways_come_back_in_order_and_as_they_were_stored() -> None:
    model = ScriptedModel(loglikelihood=lambda context, option: [-1.0, -2.0], choose=lambda chat, options: options[0])
    items = [item("a", "b", id=f"{n}", way="letters" if n % 2 else "likelihood") for n in range(6)]
    rows = answer(items, model)
    assert [row.id for row in rows] == [f"{n}" for n in range(6)]
    assert [Answered.model_validate(row.row()) for row in rows] == rows
