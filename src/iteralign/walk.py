"""The stages of a run walked through by a model that only measures what it is asked: nothing is loaded."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, NamedTuple, TypeVar

from iteralign.config import (
    HumanConfig,
    ModelConfig,
    OneJudge,
    OpenAIConfig,
    RunConfig,
    ScriptedConfig,
    SelfConfig,
    members,
)
from iteralign.constitutions import load_constitution
from iteralign.evals.answers import answer
from iteralign.evals.benchmarks import hhh_pairs
from iteralign.evals.depth import compliant_needed
from iteralign.evals.gates import tries
from iteralign.evals.lift import MOST
from iteralign.judges.calibration import Reading
from iteralign.judges.rubric import Rubric
from iteralign.prompts import load_prompt
from iteralign.records import Constitution, Fault, Principle, Prompt, Response, Split, Verdict, Wants
from iteralign.runs import Prompts, judge_by
from iteralign.sizes import at_hand, time_of
from iteralign.stages.discover import ask_same, asks, discover
from iteralign.stages.prefer import compare, sample
from iteralign.stages.red_team import red_team
from iteralign.stages.respond import respond
from iteralign.stages.revise import Draft, revise
from iteralign.tally import CHARACTERS_A_TOKEN, CHAT_TOKENS, REPLY_SHARE, TURN_TOKENS, Tally, filler
from iteralign.training_plan import HARMLESS_FAILING, failing_of

T = TypeVar("T")
Role = Literal["policy", "oracle", "judge", "comparer", "evaluator"]
Per = Literal["round", "retry", "run"]
ROLES: tuple[Role, ...] = ("policy", "oracle", "judge", "comparer", "evaluator")

PRINCIPLE_TOKENS = 25
HHH_PAIRS, HHH_SENT, HHH_READ = 258, 42_000, 23_000  # as this walk counts them; items share inputs and options

ASSUMED = (
    f"failures: every red-team prompt and {HARMLESS_FAILING:.0%} of the harmless ones, in every round; no call has "
    "to be made twice. With these, calls, rows and steps are the most there can be",
    f"a token: {CHARACTERS_A_TOKEN:g} characters; a chat template: {CHAT_TOKENS} tokens, and {TURN_TOKENS} a turn "
    "(SmolLM2's, on our own prompts)",
    f"a reply: {REPLY_SHARE:.0%} of its max_new_tokens (SmolLM2: answers 96 % of 64, revisions 75 % of 56)",
    f"a principle: {PRINCIPLE_TOKENS} tokens; a call of the oracle gives discover.per_call of them, all new, and each "
    "is asked about once where discover.ask_cosine allows it",
    "time: one stage after the other; loading the models comes on top, and so does the training of a probe's "
    "fine-tuning attack",
)


@dataclass(frozen=True)
class Line:
    """One stage's calls of one role over the whole run, `times` passes together; None = unknown.

    `prompt_tokens` is what is sent; `calls` is the most there can be under the plan's assumptions. Those of
    "retry" are made only where a round refuses too much and is tried with less of its weight change.
    """

    stage: str
    per: Per
    times: int
    role: Role
    model: str
    calls: int
    prompt_tokens: int
    new_tokens: int
    seconds: float | None
    dollars: float | None
    basis: str


def models_of(config: RunConfig, role: Role) -> list[ModelConfig]:
    """Of a panel, each judge's; of any other role one."""
    own = {
        "policy": [config.policy],
        "oracle": [config.oracle],
        "judge": [judge.model for judge in members(config.judge)],
        "comparer": [config.prefer.model or members(config.judge)[0].model],
        "evaluator": [judge.model for judge in members(config.evaluator)],
    }[role]
    return [config.policy if isinstance(model, SelfConfig) else model for model in own]


def name_of(model: ModelConfig) -> str:
    if isinstance(model, HumanConfig):
        return "people"
    return f"scripted: {model.script}" if isinstance(model, ScriptedConfig) else model.model


def cost(model: ModelConfig, prompt: int, new: int) -> tuple[float | None, str]:
    """Dollars, None where the config names no price; and what to add to the basis."""
    if not isinstance(model, OpenAIConfig):
        return 0.0, ""
    price = model.price
    if price is None:
        return None, "; no price in the config"
    said = f"; ${price.prompt:g} and ${price.completion:g} a million prompt and new tokens"
    return (prompt * price.prompt + new * price.completion) / 1e6, said


# -- the stages ----------------------------------------------------------------------------------------


def round_batch(config: RunConfig, train: Prompts) -> list[Prompt]:
    counts = config.prompts.red_team_per_round, min(config.prompts.harmless_per_round, len(train.harmless))
    return red_team(train.red_team, 0, counts[0], config.seed) + red_team(train.harmless, 0, counts[1], config.seed)


class Stage(NamedTuple):
    name: str
    per: Per
    times: int


class Walk:
    """Takes a stage through a model that measures, and keeps a line of what it was asked."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.lines: list[Line] = []

    def ask(self, stage: Stage, role: Role, what: Callable[[Tally], T], most: int = 0, nth: int = 0) -> T:
        """`most`: calls there can be, where one walk through the stage need not show it. `nth`: of a panel's judges."""
        model = models_of(self.config, role)[nth]
        tally = Tally(model)
        made = what(tally)
        if not tally.calls:
            return made
        factor = stage.times * max(1.0, most / tally.calls)
        calls, prompt, new = (round(factor * n) for n in (tally.calls, tally.prompt, tally.new))
        time = time_of(model, calls, factor * tally.read, factor * tally.new, tally.writes)
        dollars, price = cost(model, prompt, new)
        line = Line(*stage, role, name_of(model), calls, prompt, new, time.seconds, dollars, time.basis + price)
        self.lines.append(line)
        return made

    def judge(self, stage: Stage, role: Literal["judge", "evaluator"], responses: Sequence[Response]) -> None:
        for nth, config in enumerate(members(getattr(self.config, role))):
            self.judge_by_one(stage, role, config, nth, responses)

    def judge_by_one(
        self,
        stage: Stage,
        role: Literal["judge", "evaluator"],
        config: OneJudge,
        nth: int,
        responses: Sequence[Response],
    ) -> None:
        def judge(model: Tally) -> None:
            made = judge_by(config.model_copy(update={"calibration": None}), model)
            # a reading needs every question; which one is no matter
            if config.calibration and isinstance(made, Rubric):
                weights = dict.fromkeys(made.config.questions, 0.0)
                made.reading = Reading(target="complied", weights=weights, bias=0.0, threshold=0.5)
            made(responses)

        self.ask(stage, role, judge, nth=nth)


def walk_round(walk: Walk, batch: Sequence[Prompt]) -> None:
    """The stages of a round, on the first round's batch; every round is as large."""
    recipes = {
        "iteralign": [walk_iteralign],
        "cai": [walk_cai],
        "rlaif": [walk_rlaif],
        "self_improve": [walk_cai, walk_rlaif],
    }
    for phase in recipes.get(walk.config.recipe, ()):
        phase(walk, batch)


def walk_cai(walk: Walk, batch: Sequence[Prompt]) -> None:
    """recipes/cai.py: every answer is criticised and rewritten, or those that fail."""
    config, rounds = walk.config, walk.config.rounds
    responses = walk.ask(
        Stage("respond", "round", rounds), "policy", lambda m: respond(batch, m, config.respond, config.seed, 0)
    )
    walk.judge(Stage("judge", "round", rounds), "judge", responses)
    given = load_constitution(config.constitution).principles if config.constitution else principles_of(3, "unknown")
    every = [verdict_of(r, "none") for r in responses]
    walk_revisions(walk, every if config.revise.passing else failing(responses), given)
    if config.cai_by_pairs:
        walk_contrast(walk, responses, len(failing(responses)))


def walk_rlaif(walk: Walk, batch: Sequence[Prompt]) -> None:
    """recipes/rlaif.py: samples, verdicts on all of them, comparisons of pairs."""
    config, rounds, prefer = walk.config, walk.config.rounds, walk.config.prefer
    if "rl" in config.learn:
        walk_reinforcement(walk, batch)
    if not config.needs_pairs:
        return
    responses = walk.ask(Stage("sample", "round", rounds), "policy", lambda m: sample(batch, m, prefer, config.seed, 0))
    walk.judge(Stage("judge", "round", rounds), "judge", responses)
    n = prefer.samples
    each = [responses[k : k + n] for k in range(0, len(responses), n)]
    pairs = [pair for own in each for pair in (combinations(own, 2) if prefer.pairs == "all" else [(own[0], own[-1])])]
    given = load_constitution(config.constitution).principles if config.constitution else principles_of(3, "unknown")
    stage = Stage("prefer", "round", rounds)
    walk.ask(stage, "comparer", lambda m: compare(pairs, given, m, prefer, config.seed, 0))
    if prefer.revised:
        firsts = [own[0] for own in each]
        failures = failing(firsts)
        walk_revisions(walk, failures, given)
        walk_contrast(walk, firsts, len(failures))


def walk_reinforcement(walk: Walk, batch: Sequence[Prompt]) -> None:
    """Answers that are sampled to be rewarded, by the judge where it is the reward; and one more to each prompt, before and
    after, which the judge compares a reward model with."""
    config, rl = walk.config, walk.config.rl
    own = config.prefer.model_copy(update={"samples": rl.samples, "sampling": rl.sampling})
    stage = Stage("reinforce", "round", max(1, round(config.rounds * rl.epochs)))
    responses = walk.ask(stage, "policy", lambda m: sample(batch, m, own, config.seed, 0))
    if rl.reward == "judge":
        walk.judge(stage, "judge", responses)
        return
    check = Stage("reward check", "round", 2 * config.rounds)
    walk.judge(check, "judge", walk.ask(check, "policy", lambda m: respond(batch, m, rl.sampling, config.seed, 0)))


def walk_revisions(walk: Walk, failures: Sequence[Verdict], principles: Sequence[Principle]) -> None:
    config, rounds = walk.config, walk.config.rounds

    def rewrite(policy: Tally, critic: Tally) -> list[Draft]:
        return revise(failures, policy, principles, config.revise, config.seed, 0, critic=critic)

    other = Tally(config.policy)  # the one of the two that a line is not about
    apart = config.revise.critique and config.revise.critic == "oracle"
    if apart:
        walk.ask(Stage("critique", "round", rounds), "oracle", lambda m: rewrite(other, m))
    drafts = walk.ask(Stage("revise", "round", rounds), "policy", lambda m: rewrite(m, other if apart else m))
    if config.revise.accept == "passing":
        revised = [Response(prompt=d.failure.response.prompt, reply=d.reply, policy="") for d in drafts]
        walk.judge(Stage("verify", "round", rounds), "judge", revised)


def walk_iteralign(walk: Walk, batch: Sequence[Prompt]) -> None:
    """recipes/iteralign.py."""
    config, rounds = walk.config, walk.config.rounds
    stage = Stage("respond", "round", rounds)
    responses = walk.ask(stage, "policy", lambda m: respond(batch, m, config.respond, config.seed, 0))
    walk.judge(Stage("judge", "round", rounds), "judge", responses)
    failures = failing(responses)
    calls = oracle_calls(config, batch)
    known = constitution_at_mean_round(config, calls)
    most = min(config.discover.max_calls, sum(calls.values()))
    found = config.discover.per_call * most
    walk.ask(
        Stage("discover", "round", rounds),
        "oracle",
        lambda m: discover(failures, m, known, config.discover, config.seed, 0),
        most=most,
    )
    prompts = load_prompt(config.discover.prompt)
    if found and config.discover.ask_cosine is not None and asks(prompts):
        older, new = principles_of(2, "unknown")
        walk.ask(Stage("merge", "round", rounds), "oracle", lambda m: ask_same(older, new, m, prompts), most=found)
    if config.lift.budget:
        walk_lift(walk, failures, responses, found)
    # of no kind, so that every failure is revised under all
    walk_revisions(walk, failures, principles_of(config.revise.max_principles or found, "unknown"))
    if "dpo" in config.learn:
        walk_contrast(walk, responses, len(failures))


def walk_contrast(walk: Walk, responses: Sequence[Response], failures: int) -> None:
    """Refusals of harmless prompts, for DPO: at most `prefer.contrast` for each failure."""
    config = walk.config
    harmless = [r for r in responses if r.prompt.wants == "answer"][: round(config.prefer.contrast * failures)]
    once = config.revise.model_copy(update={"candidates": 1, "max_principles": 1, "check": False, "critique": False})
    stage, principles = Stage("contrast", "round", config.rounds), principles_of(1, "decline")
    good = [verdict_of(r, "none") for r in harmless]
    drafts = walk.ask(stage, "policy", lambda m: revise(good, m, principles, once, config.seed, 0, as_kind="decline"))
    revised = [Response(prompt=d.failure.response.prompt, reply=d.reply, policy="") for d in drafts]
    walk.judge(stage, "judge", revised)


def walk_lift(walk: Walk, failures: Sequence[Verdict], responses: Sequence[Response], found: int) -> None:
    """A round's principles, those that earlier ones left unproven, and none, on failures and on as many harmless answers."""
    config = walk.config
    harmless = [verdict_of(r, "none") for r in responses if r.prompt.wants == "answer"]
    chosen = [*failures[: config.lift.budget], *harmless[: config.lift.budget]]
    once = config.revise.model_copy(update={"candidates": 1, "max_principles": 1})
    tried = sum(1 + min(MOST, found * n) for n in range(1, config.rounds + 1))
    stage, principles = Stage("lift", "round", tried), principles_of(1, "unknown")
    drafts = walk.ask(stage, "policy", lambda m: revise(chosen, m, principles, once, config.seed, 0))
    revised = [Response(prompt=d.failure.response.prompt, reply=d.reply, policy="") for d in drafts]
    walk.judge(stage, "judge", revised)


def walk_evaluation(walk: Walk, prompts: dict[Split, Prompts]) -> None:
    """Gates on validation prompts (each round, and the base once); held-out prompts and HHH before and after."""
    config = walk.config

    def both_sides(split: Split, count: int, stage: Stage, judged: bool = True) -> None:
        chosen = prompts[split].first(count, config.seed)
        responses = walk.ask(stage, "policy", lambda m: respond(chosen, m, config.evaluate, config.seed, -1))
        if judged:
            walk.judge(stage, "evaluator", responses)

    gates = config.rounds * config.phases
    measured = config.rounds if config.recipe == "self_improve" else 0
    retries = Stage("gate again", "retry", gates * tries(config))
    for stage in (Stage("gate", "round", gates + measured), retries, Stage("gate, base", "run", min(1, gates))):
        if stage.times:
            both_sides("validation", config.prompts.validation, stage, config.gates.evaluator)
    if config.evals.held_out:
        both_sides("held_out", config.prompts.held_out, Stage("held-out", "run", 2))
    times = 2 * config.evals.hhh + config.rounds * bool(config.evals.hhh_per_round)
    if times:
        walk.ask(Stage("hhh", "run", times), "policy", measure_hhh)
    if config.evals.suites:
        from iteralign.evals.suites import suites_at_hand  # torch, which most plans need not

        for asked in suites_at_hand(config):
            walk.ask(Stage(asked.name, "run", 2), "policy", lambda m, items=asked.items: answer(items, m))


def walk_probe(walk: Walk, prompts: dict[Split, Prompts]) -> None:
    """evals/depth.py at a run's end: every part of it is a pass over the same questions."""
    config, probe = walk.config, walk.config.probe
    asked = [p for p in prompts["held_out"].first(probe.prompts, config.seed) if p.wants == "decline"]
    if not (probe.enabled and asked):
        return
    tuned = len(probe.fine_tune) + bool(probe.control)
    drawn = min(2 * compliant_needed(probe), len(prompts["train"].red_team)) / len(asked)
    attacks = 1 + len(probe.attacks) + (probe.best_of - 1) * ("best_of" in probe.attacks)
    columns = 2 + bool(probe.constitution)
    passes = columns * (len(probe.prefill) + attacks) + probe.drawn + math.ceil(drawn) + tuned
    stage = Stage("probe", "run", passes)
    responses = walk.ask(stage, "policy", lambda m: respond(asked, m, config.evaluate, config.seed, -3))
    walk.judge(stage, "evaluator", responses)


def measure_hhh(tally: Tally) -> None:
    folder = at_hand("hhh")
    if folder is not None:
        answer(hhh_pairs(folder), tally)
        return
    tally.calls, tally.prompt, tally.read = HHH_PAIRS, HHH_SENT, HHH_READ


def failing(responses: Sequence[Response]) -> list[Verdict]:
    harmful = [r for r in responses if r.prompt.wants != "answer"]
    harmless = [r for r in responses if r.prompt.wants == "answer"]
    sides: list[tuple[list[Response], Fault]] = [
        (harmful, "harmful"),
        (harmless[: failing_of(harmless)], "unhelpful"),
    ]
    return [verdict_of(r, fault) for side, fault in sides for r in side]


def verdict_of(response: Response, fault: Fault) -> Verdict:
    label = "passes" if fault == "none" else "fails"
    return Verdict(response=response, label=label, fault=fault, probabilities={}, reason="", judge="plan")


def oracle_calls(config: RunConfig, batch: Sequence[Prompt]) -> dict[Wants, int]:
    """Calls a round by the kind of failure, at most: of two groups that did not fit into one call, only one is
    smaller than half a call, so grouping makes at most 2 n / group_size + 1 groups of n failures."""
    size, harmless = config.discover.group_size, [p for p in batch if p.wants == "answer"]
    counts: dict[Wants, int] = {"decline": len(batch) - len(harmless), "answer": failing_of(harmless)}
    loose = config.discover.group_by != "none"
    return {
        k: n and (1 if n <= size else min(n, 2 * n // size + 1) if loose else -(-n // size)) for k, n in counts.items()
    }


def constitution_at_mean_round(config: RunConfig, calls: dict[Wants, int]) -> Constitution:
    """What the oracle is shown as known, in the mean of all calls."""
    start = load_constitution(config.constitution).principles if config.constitution else ()
    earlier = (config.rounds - 1) / 2 if config.discover.accumulate else 0.0
    most: dict[Wants, int] = {kind: min(n, config.discover.max_calls) for kind, n in calls.items()}
    counts: dict[Wants, int] = {
        kind: round(config.discover.per_call * (earlier * n + max(0, n - 1) / 2)) for kind, n in most.items()
    }
    grown = [principle for kind, n in counts.items() for principle in principles_of(n, kind)]
    return Constitution(principles=(*start, *grown))


def principles_of(count: int, kind: Wants) -> list[Principle]:
    texts = (filler(PRINCIPLE_TOKENS, 10_000 + 100 * n) for n in range(count))
    return [Principle(id=f"{kind}{n}", text=text, framing="do", kind=kind) for n, text in enumerate(texts)]
