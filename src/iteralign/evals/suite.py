"""What is measured before and after: held-out prompts on both sides, HHH; and validation for the gates."""

from collections.abc import Callable, Sequence

from iteralign.evals.answers import GOLD, PER_TOKEN, Answered, answer, item_scores
from iteralign.evals.benchmarks import hhh_pairs, sampled
from iteralign.evals.gates import Gate, gate, stop_if_unjudged, too_many_unjudged
from iteralign.evals.refusal import both_sides, refusal_scores
from iteralign.models.base import Model
from iteralign.records import Prompt, Score, Verdict
from iteralign.runs import HELD_OUT, VALIDATION, Run
from iteralign.sources import fetch
from iteralign.store import Store
from iteralign.training.policy import Policy

HHH = f"chat, {PER_TOKEN}"
HHH_GOLD = f"chat, {GOLD}"  # for `compare` alone


def evaluate(run: Run, policy: Policy, name: str) -> list[Score]:
    """The scores of one policy, in evals/NAME. Held-out prompts are read only here: before and after."""
    store = run.store.inside(f"evals/{name}")
    config = run.config

    def make() -> list[dict[str, object]]:
        scores: list[Score] = []
        more = suites(run)  # read before any model is loaded
        if config.evals.held_out:
            scores += refusal_scores(held_out(run, store, policy))
        if config.evals.hhh:
            scores += [s for s in item_scores(hhh(store, policy, run)) if s.variant in (HHH, HHH_GOLD)]
        for score in more:
            scores += score(store, policy)
        return [s.row() for s in scores]

    return [Score.model_validate(s) for s in store.once("scores", make)]


def suites(run: Run) -> list[Callable[[Store, Policy], list[Score]]]:
    """What measures each of evals.suites."""
    if not run.config.evals.suites:
        return []
    from iteralign.evals.suites import scores_of, suites_of_run  # torch, which a plan need not load

    return [
        lambda store, policy, asked=asked: scores_of(run, store.inside(asked.name), asked, policy)
        for asked in suites_of_run(run.config, run.engine.progress)
    ]


def held_out(run: Run, store: Store, policy: Policy) -> list[Verdict]:
    prompts = run.prompts[HELD_OUT].first(run.config.prompts.held_out, run.config.seed)
    return both_sides(store, prompts, lambda: policy.model, lambda: run.evaluator(policy), run.config)


def evaluate_round(run: Run, policy: Policy, here: Store) -> None:
    """HHH of a round's policy, for the curve over rounds (the paper's Figure 3). It decides nothing."""
    if size := run.config.evals.hhh_per_round:
        here.once("scores", lambda: [s.row() for s in item_scores(hhh(here, policy, run, size)) if s.variant == HHH])


def hhh(store: Store, policy: Policy, run: Run, size: int | None = None) -> list[Answered]:
    items = sampled(hhh_pairs(fetch("hhh", progress=run.engine.progress)), size, run.config.seed)
    whole = store.by(len(items))  # one micro-batch: shared inputs are computed once
    return whole.each("hhh", items, lambda part: answer(part, policy.model), Answered.model_validate)


def gate_round(run: Run, here: Store, candidate: Callable[[], Model], share: float = 1.0) -> Gate:
    """The round's gate on validation prompts, against the base's answers to the same ones."""

    def make() -> dict[str, object]:
        base = on_validation(run, run.store.inside("evals/validation"), lambda: run.base.model)
        fresh = on_validation(run, here.inside(f"validation{tag(share)}"), candidate)
        return gate(fresh, base, run.config.gates, share).row()

    return Gate.model_validate(here.once(f"tried-{share:g}", make))


def on_validation(run: Run, store: Store, model: Callable[[], Model]) -> list[Verdict]:
    return answers_to(run, store, run.prompts[VALIDATION].first(run.config.prompts.validation, run.config.seed), model)


def answers_to(run: Run, store: Store, prompts: Sequence[Prompt], model: Callable[[], Model]) -> list[Verdict]:
    """Judged by the evaluator where the gates have one, else unjudged and read by word match."""
    config = run.config
    if not config.gates.evaluator:
        return both_sides(store, prompts, model, None, config)
    verdicts = both_sides(
        store,
        prompts,
        model,
        lambda: run.evaluator(run.base),
        config,
        lacking=lambda made: too_many_unjudged(made, config.gates),
    )
    stop_if_unjudged(verdicts, config.gates, f"{store.folder.name} of {store.folder.parent.name}")
    return verdicts


def tag(share: float) -> str:
    """How the folder of a share of a round's weight change ends; the whole of it needs no mark."""
    return "" if share == 1.0 else f"-{share:g}"
