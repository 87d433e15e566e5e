"""Items of benchmarks and a model's answers to them: by likelihood, by short answers, by a text with a number at its end."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from statistics import fmean
from typing import Literal, NamedTuple

from iteralign.errors import DataError, ModelError, NotApplicable
from iteralign.evals.scores import make_score
from iteralign.models.base import Job, Model, Sampling
from iteralign.prompts import load_prompt
from iteralign.records import Chat, Choice, Record, Score, digest

Way = Literal["likelihood", "letters", "true_false", "generation"]

PER_TOKEN, TOTAL, PER_CHARACTER, SHARE = "per token", "total", "per character", "probability of the right ones"
GOLD = "nats per token of the right option"
NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")


class Item(NamedTuple):
    """One question asked in one way.

    `names`: the scores that it counts for. `form`: how it is asked, in the scores' variant. `cluster`: items with
    the same one share their input; "" stands by itself. `asked`: the context that the options follow (likelihood),
    or the chat (generation). `right` indexes the right options. `measures`: what is made of the likelihoods.
    """

    id: str
    way: Way
    names: tuple[str, ...]
    form: str
    question: str
    options: tuple[str, ...]
    right: tuple[int, ...]
    asked: Chat | str = ""
    cluster: str = ""
    measures: tuple[str, ...] = (TOTAL,)
    gold: str = ""


class Answered(Record):
    """A line of items.jsonl. `total`: log-likelihood of each option in nats, over `tokens`; `probabilities`: of each
    option, where short answers were asked for. `outcomes`: by measure, 1 right and 0 wrong; None is unscored."""

    id: str
    names: tuple[str, ...]
    form: str
    question: str
    options: tuple[str, ...]
    right: tuple[int, ...]
    cluster: str
    total: tuple[float, ...] | None = None
    tokens: tuple[int, ...] | None = None
    probabilities: tuple[float | None, ...] | None = None
    text: str | None = None
    gold: str | None = None
    error: str | None = None
    outcomes: dict[str, float | None]


def check_right(item: Item, where: str) -> Item:
    """The item, if it has a right option; a question that nothing answers would be scored as always wrong."""
    if not item.right or not all(0 <= r < len(item.options) for r in item.right) or len(item.options) < 2:
        raise DataError(
            f"{where}: an item has {len(item.options)} options and {len(item.right)} right ones among them, expected "
            f"at least 2 and 1: {item.question[:60]!r}. Mend or delete it"
        )
    if empty := [n for n, option in enumerate(item.options) if not option.strip()]:
        raise DataError(
            f"{where}: option {empty[0]} (from 0) is empty: {item.question[:60]!r}. Mend or delete the item"
        )
    return item


def answer(items: Sequence[Item], model: Model) -> list[Answered]:
    """One answer an item, in order. Raises ModelError for a likelihood that is not finite."""
    made: dict[int, Answered] = {}
    for way, ask in WAYS.items():
        places = [n for n, item in enumerate(items) if item.way == way]
        if places:
            made.update(zip(places, ask([items[n] for n in places], model), strict=True))
    return [made[n] for n in range(len(items))]


def answered(item: Item, outcomes: Mapping[str, float | None], **found: object) -> Answered:
    own = {key: getattr(item, key) for key in ("id", "names", "form", "question", "options", "right", "cluster")}
    return Answered.model_validate({**own, "outcomes": dict(outcomes), **found})


# -- by likelihood ----------------------------------------------------------------------------------------


def by_likelihood(items: Sequence[Item], model: Model) -> list[Answered]:
    """Every option by itself. An item that the model cannot hold is unscored; where that is all, a ModelError."""
    try:
        found = likelihoods(items, model)
    except NotApplicable:
        raise
    except ModelError:
        return one_by_one(items, model)
    return [by_options(item, [found[item.asked, o] for o in item.options], model) for item in items]


def likelihoods(items: Sequence[Item], model: Model) -> dict[tuple[Chat | str, str], list[float]]:
    """Each pair of context and option once, in an order that hides which is right."""
    unique = dict.fromkeys((item.asked, o) for item in items for o in item.options)
    pairs = sorted(unique, key=lambda pair: digest(pair[1]))
    return dict(zip(pairs, model.loglikelihoods(pairs), strict=True))


def one_by_one(items: Sequence[Item], model: Model) -> list[Answered]:
    rows: list[Answered] = []
    last: ModelError | None = None
    for item in items:
        try:
            found = likelihoods([item], model)
        except ModelError as error:
            last = error
            rows.append(answered(item, dict.fromkeys(measures_of(item)), error=str(error)))
        else:
            rows.append(by_options(item, [found[item.asked, o] for o in item.options], model))
    if last is not None and all(row.total is None for row in rows):
        raise last
    return rows


def by_options(item: Item, found: Sequence[Sequence[float]], model: Model) -> Answered:
    total, tokens = tuple(round(sum(values), 4) for values in found), tuple(map(len, found))
    if not all(math.isfinite(t) for t in total):
        raise ModelError(f"{model.name} gives a likelihood that is not finite ({total}) for {item.question[:60]!r}")
    outcomes = {m: MEASURES[m](item, total, tokens) for m in measures_of(item)}
    return answered(item, outcomes, total=total, tokens=tokens)


def measures_of(item: Item) -> tuple[str, ...]:
    return (*item.measures, GOLD) if len(item.right) == 1 and SHARE not in item.measures else item.measures


def best_is_right(values: Sequence[float], right: Sequence[int]) -> float:
    """1 when the best option is right; when several are equally good, the share of right ones among them."""
    best = max(values)
    winners = [n for n, value in enumerate(values) if value == best]
    return sum(n in right for n in winners) / len(winners)


def share_of_right(total: Sequence[float], right: Sequence[int]) -> float:
    """MC2 (Lin et al. 2022): probability of the right options over that of all."""
    most = max(total)
    weights = [math.exp(t - most) for t in total]
    return sum(weights[n] for n in right) / sum(weights)


MEASURES: dict[str, Callable[[Item, Sequence[float], Sequence[int]], float]] = {
    TOTAL: lambda item, total, tokens: best_is_right(total, item.right),
    PER_TOKEN: lambda item, total, tokens: best_is_right(
        [t / n for t, n in zip(total, tokens, strict=True)], item.right
    ),
    PER_CHARACTER: lambda item, total, tokens: best_is_right(
        [t / len(o.strip()) for t, o in zip(total, item.options, strict=True)], item.right
    ),
    SHARE: lambda item, total, tokens: share_of_right(total, item.right),
    GOLD: lambda item, total, tokens: total[item.right[0]] / tokens[item.right[0]],
}


# -- by short answers -------------------------------------------------------------------------------------


def weight(choice: Choice, option: str) -> float | None:
    """The probability of an offered answer; 1 or 0 from a backend without probabilities; None without an answer."""
    if choice.probabilities is not None:
        return choice.probabilities[option]
    return None if choice.answer is None else float(choice.answer == option)


def by_letters(items: Sequence[Item], model: Model) -> list[Answered]:
    """Two options as A and B, asked in both orders; what each gets is summed, so that a liking for A cancels out."""
    prompts = load_prompt("benchmarks.yaml")
    orders = [(item, order) for item in items for order in ((0, 1), (1, 0))]
    chats = [
        prompts.chat("letters", question=i.question.strip(), first=i.options[a].strip(), second=i.options[b].strip())
        for i, (a, b) in orders
    ]
    choices = model.choose(chats, ("A", "B"))
    rows: list[Answered] = []
    for n, item in enumerate(items):
        one, two = choices[2 * n], choices[2 * n + 1]
        parts = [(weight(one, "A"), weight(two, "B")), (weight(one, "B"), weight(two, "A"))]
        sums = [None if a is None or b is None else (a + b) / 2 for a, b in parts]
        rows.append(chosen(item, "both orders", sums, one.error or two.error))
    return rows


def by_true_false(items: Sequence[Item], model: Model) -> list[Answered]:
    """P(True) against P(False) for each option by itself; the option with the largest P(True) is the model's
    (arXiv 2403.18341, section 5.5)."""
    prompts = load_prompt("benchmarks.yaml")
    asked = [(item.question, o) for item in items for o in item.options]
    chats = [prompts.chat("true_false", question=q, option=o) for q, o in asked]
    choices = iter(model.choose(chats, ("true", "false")))
    rows: list[Answered] = []
    for item in items:
        own = [next(choices) for _ in item.options]
        error = next((c.error for c in own if c.error), None)
        rows.append(chosen(item, "P(True)", [weight(c, "true") for c in own], error))
    return rows


def chosen(item: Item, measure: str, values: Sequence[float | None], error: str | None) -> Answered:
    """Unscored where an option has no value: the others do not say which is the best."""
    known = [v for v in values if v is not None]
    outcome = best_is_right(known, item.right) if len(known) == len(values) else None
    return answered(item, {measure: outcome}, probabilities=tuple(values), error=error if outcome is None else None)


# -- by generation ----------------------------------------------------------------------------------------


def by_generation(items: Sequence[Item], model: Model) -> list[Answered]:
    """Greedy; the last number of the reply against the right one."""
    sampling = Sampling(temperature=0.0, max_new_tokens=256)
    jobs = [Job(chat=item.asked, sampling=sampling) for item in items if not isinstance(item.asked, str)]
    rows: list[Answered] = []
    for item, reply in zip(items, model.generate(jobs), strict=True):
        failed = reply.finish == "failed"
        right = None if failed else float(last_number(reply.text) == last_number(item.gold))
        rows.append(answered(item, {"last number": right}, text=reply.text, gold=item.gold, error=reply.error))
    return rows


def last_number(text: str) -> Decimal | None:
    """1,000 and $1000.00 are the same number."""
    found = NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "").replace("$", "")) if found else None


WAYS: dict[Way, Callable[[Sequence[Item], Model], list[Answered]]] = {
    "likelihood": by_likelihood,
    "letters": by_letters,
    "true_false": by_true_false,
    "generation": by_generation,
}


# -- scores -----------------------------------------------------------------------------------------------


def item_scores(rows: Sequence[Answered]) -> list[Score]:
    """One score for each name, form and measure: categories together, in the order of the items, their sum last."""
    kept: dict[tuple[int, str, str, str], dict[str, Answered]] = {}
    for row in rows:
        for place, name in enumerate(row.names):
            for measure in row.outcomes:
                kept.setdefault((place, name, row.form, measure), {})[row.id] = row
    scores: list[Score] = []
    ways = list(dict.fromkeys((form, measure) for _, _, form, measure in kept))
    for (_, name, form, measure), part in sorted(kept.items(), key=lambda x: (ways.index(x[0][2:]), x[0][0])):
        clusters = {i: row.cluster or i for i, row in part.items()}
        shared = clusters if len(set(clusters.values())) < len(clusters) else None
        values = {i: row.outcomes[measure] for i, row in part.items()}
        chance = None if measure == GOLD else fmean(guessed(row) for row in part.values())
        scores.append(make_score(name, f"{form}, {measure}", values, shared, chance))
    return scores


def guessed(row: Answered) -> float:
    """What picking an option at random scores, or all options being equally likely; a written answer is not guessed."""
    return len(row.right) / len(row.options) if row.options else 0.0
