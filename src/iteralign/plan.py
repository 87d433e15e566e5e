"""What a run will cost, before it starts: calls, tokens, time, memory, downloads, disk and dollars.

The stages themselves are walked through, on the run's own prompts, by a model that only measures what it is asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.box import SIMPLE
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from iteralign.config import (
    DataConfig,
    LabelConfig,
    LlamaCppConfig,
    ModelConfig,
    RoleConfig,
    RunConfig,
    SelfConfig,
    TransformersConfig,
    members,
)
from iteralign.data import assert_disjoint, load_sets, split_prompts
from iteralign.data.attacks import attack
from iteralign.data.public import PUBLIC_SETS
from iteralign.data.splits import SPLITS
from iteralign.records import Prompt, Split, digest, user
from iteralign.runs import Prompts
from iteralign.sizes import Amount, at_hand, checkpoints_of, download_of, memory_of, unpacked_of
from iteralign.sources import find
from iteralign.training.policy import refuse_untrainable
from iteralign.training_plan import Training, training_of
from iteralign.walk import (
    ASSUMED,
    ROLES,
    Line,
    Walk,
    models_of,
    name_of,
    round_batch,
    tries,
    walk_evaluation,
    walk_probe,
    walk_round,
)

KINDS = ("memory", "downloads", "disk")
QUESTION_CHARACTERS = 68  # the mean of the starter pack


@dataclass(frozen=True)
class Plan:
    """`prompts` counts them by split and side; a total is None when a part of it is unknown."""

    name: str
    rounds: int
    prompts: dict[str, dict[str, int]]
    lines: tuple[Line, ...]
    training: Training
    memory: tuple[Amount, ...]
    downloads: tuple[Amount, ...]
    disk: tuple[Amount, ...]
    assumed: tuple[str, ...]

    @property
    def seconds(self) -> float | None:
        return total([*(line.seconds for line in self.lines), self.training.seconds])

    @property
    def dollars(self) -> float | None:
        return total([line.dollars for line in self.lines])

    def without_retries(self) -> "Plan":
        return replace(self, lines=tuple(line for line in self.lines if line.per != "retry"))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the totals."""
        amounts = {kind: total([a.bytes for a in getattr(self, kind)]) for kind in KINDS}
        calls = sum(line.calls for line in self.lines)
        totals = {"calls": calls, "seconds": self.seconds, "dollars": self.dollars, **amounts}
        return {**asdict(self), "total": totals}


def total(parts: Sequence[float | None]) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def plan(config: RunConfig) -> Plan:
    """Reads what is on this disk; loads no model and uses no network. Raises what the run would for a bad config."""
    refuse_untrainable(config.policy)
    prompts, notes = prompts_at_hand(config)
    walk = Walk(config)
    batch = round_batch(config, prompts["train"])
    walk_round(walk, batch)
    walk_evaluation(walk, prompts)
    walk_probe(walk, prompts)
    return Plan(
        name=config.name,
        rounds=config.rounds,
        prompts={split: {"red_team": len(p.red_team), "harmless": len(p.harmless)} for split, p in prompts.items()},
        lines=tuple(walk.lines),
        training=training_of(config, batch),
        memory=memory(config),
        downloads=downloads(config),
        disk=(checkpoints_of(config.policy, most_checkpoints(config)), *unpacked(config)),
        assumed=(*ASSUMED, *notes),
    )


def most_checkpoints(config: RunConfig) -> int:
    """At one time: what the round began with, what each of its trainings and going back along its change made; in
    self-improvement every round's, until the best is known. A reward model is one more."""
    ways = config.learn.split("+")
    if config.recipe == "self_improve":
        kept, made = config.rounds - 1, 2
    else:
        kept, made = int(config.rounds > 1), len(ways)
    return kept + made + bool(tries(config)) + ("rl" in ways and config.rl.reward == "model")


# -- the prompts -------------------------------------------------------------------------------------


def prompts_at_hand(config: RunConfig) -> tuple[dict[Split, Prompts], list[str]]:
    """The run's prompts by split; made-up ones for a set that would have to be fetched, with a note for each."""
    wanted, notes = config.prompts, list[str]()
    here = {n: copy for n, s in enumerate([*wanted.red_team, *wanted.harmless]) if (copy := copy_at_hand(s))}
    loaded = dict(zip(here, load_sets(list(here.values()), config.seed), strict=True))

    def side(sources: Sequence[DataConfig], per_round: int, first: int) -> dict[Split, list[Prompt]]:
        needed: dict[Split, int] = {"train": per_round, "validation": wanted.validation, "held_out": wanted.held_out}
        found: list[Prompt] = []
        for n, source in enumerate(sources, first):
            if n in loaded:
                found += loaded[n]
                continue
            found += made_up(source, needed)
            notes.append(
                f"{source.source}: not on this disk, so taken to have as many prompts as are asked for, each of "
                f"{QUESTION_CHARACTERS} characters (the mean of the starter pack) before its attack"
            )
        return split_prompts(found)

    red = side(wanted.red_team, wanted.red_team_per_round, 0)
    harmless = side(wanted.harmless, wanted.harmless_per_round, len(wanted.red_team))
    both = [p for part in (red, harmless) for prompts in part.values() for p in prompts]
    assert_disjoint([p for p in both if p.split == "train"], [p for p in both if p.split != "train"])
    return {split: Prompts(red[split], harmless[split]) for split in SPLITS}, notes


def copy_at_hand(config: DataConfig) -> DataConfig | None:
    """The same set, read from where it lies on this disk; None when it would have to be fetched."""
    name, _, place = config.source.partition("@")
    if name in PUBLIC_SETS and not place:
        here = at_hand(PUBLIC_SETS[name].source)
        return config.model_copy(update={"source": f"{name}@{here}"}) if here else None
    return None if config.source.startswith(("hub:", "https:", "http:", "pypi:")) else config


def made_up(config: DataConfig, needed: dict[Split, int]) -> list[Prompt]:
    prompts: list[Prompt] = []
    for split in SPLITS if config.split == "auto" else (config.split,):
        for number in range(min(needed[split], config.limit or needed[split])):
            text = f"{config.source} {split} {number}: ".ljust(QUESTION_CHARACTERS, "x")
            identity = digest(text)
            chat, sent = user(text), attack(user(text), config.attack)
            prompts.append(
                Prompt(
                    id=identity,
                    item=identity,
                    plain=chat,
                    sent=sent,
                    wants=config.wants,
                    source=config.source,
                    category="",
                    subtopic="",
                    kind="",
                    split=split,
                    attack=config.attack,
                )
            )
    return prompts


# -- models --------------------------------------------------------------------------------------------


def memory(config: RunConfig) -> tuple[Amount, ...]:
    """The policy while it is trained, and every other model."""
    policy = memory_of(f"policy: {name_of(config.policy)}", config.policy, trained=True, lora=config.sft.lora)
    others = [memory_of(f"{', '.join(roles)}: {name_of(m)}", m, scores=scores(roles)) for m, roles in beside(config)]
    return policy, *others


def unpacked(config: RunConfig) -> list[Amount]:
    """Copies that stay in the cache."""
    made = [unpacked_of(config.policy), *(unpacked_of(m, scores(roles)) for m, roles in beside(config))]
    return [amount for amount in made if amount is not None]


def beside(config: RunConfig) -> list[tuple[ModelConfig, list[str]]]:
    """The models beside the policy, and their roles: equal configurations share one."""
    others: dict[str, tuple[ModelConfig, list[str]]] = {}
    raw: list[tuple[str, RoleConfig | LabelConfig]] = [("oracle", config.oracle)]
    raw += [("judge", judge.model) for judge in members(config.judge)]
    raw += (
        [("comparer", config.prefer.model)]
        if config.prefer.model and config.recipe in ("rlaif", "self_improve")
        else []
    )
    raw += [("evaluator", judge.model) for judge in members(config.evaluator)]
    for role, model in raw:
        if not isinstance(model, SelfConfig):
            others.setdefault(model.model_dump_json(), (model, []))[1].append(role)
    return list(others.values())


def scores(roles: Sequence[str]) -> bool:
    return not {"judge", "comparer", "evaluator"}.isdisjoint(roles)


def downloads(config: RunConfig) -> tuple[Amount, ...]:
    """Models and public sets of the run, each once."""
    models = (model for role in ROLES for model in models_of(config, role))
    specs = [m.model for m in models if isinstance(m, TransformersConfig | LlamaCppConfig)]
    specs += ["hhh"] if config.evals.hhh else []
    if config.evals.suites:
        from iteralign.evals.suites import sources_of  # torch, which most plans need not

        specs += sources_of(config)
    for source in (*config.prompts.red_team, *config.prompts.harmless):
        if source.source in PUBLIC_SETS:
            specs.append(PUBLIC_SETS[source.source].source)
        elif copy_at_hand(source) is None:
            specs.append(source.source)
    return tuple({known.name if (known := find(s)) else s: download_of(s) for s in specs}.values())


# -- tables --------------------------------------------------------------------------------------------


def plan_table(plan: Plan) -> Group:
    """Calls by stage; memory, downloads and disk; then what the numbers rest on."""
    bases = dict.fromkeys([*(line.basis for line in plan.lines), plan.training.basis])
    notes = {basis: str(n) for n, basis in enumerate(bases, 1)}
    said = [f"{n}  {basis}" for basis, n in notes.items()] + [f"Assumed: {line}" for line in plan.assumed]
    return Group(calls_table(plan, notes), amounts_table(plan), *map(escape, said))


def calls_table(plan: Plan, notes: Mapping[str, str]) -> Table:
    title = f"{plan.name}: {plan.rounds} round{'s' * (plan.rounds != 1)}, at most"
    table = Table("stage", "role", title=escape(title), box=SIMPLE, collapse_padding=True)
    for column in ("calls", "tokens in", "tokens out", "time", "cost", "by"):
        table.add_column(column, justify="right")
    for x in plan.lines:
        stage = x.stage if x.times == 1 else f"{x.stage} × {x.times}"
        counts = (f"{n:,}" for n in (x.calls, x.prompt_tokens, x.new_tokens))
        table.add_row(stage, x.role, *counts, clock(x.seconds), dollars(x.dollars), notes[x.basis])
    t = plan.training
    rows = f"{t.rows:,} rows", f"{t.tokens:,}", f"{t.steps:,} steps"
    table.add_row(f"train × {plan.rounds}", "policy", *rows, clock(t.seconds), "", notes[t.basis])
    table.add_section()
    add_total(table, "total", plan)
    if any(x.per == "retry" for x in plan.lines):
        add_total(table, "without retries", plan.without_retries())
    return table


def add_total(table: Table, name: str, plan: Plan) -> None:
    sums = (f"{sum(n):,}" for n in zip(*((x.calls, x.prompt_tokens, x.new_tokens) for x in plan.lines), strict=True))
    table.add_row(name, "", *sums, clock(plan.seconds), dollars(plan.dollars), "")


def amounts_table(plan: Plan) -> Table:
    table = Table("", "what", "size", "by", box=SIMPLE)
    for kind in KINDS:
        for n, amount in enumerate(getattr(plan, kind)):
            table.add_row("" if n else kind, escape(amount.what), size(amount.bytes), escape(amount.basis))
        table.add_section()
    return table


def clock(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}" if unit != "min" else f"{seconds / length:.0f} min"
    return f"{seconds:.0f} s"


def size(count: float | None) -> str:
    if count is None:
        return "unknown"
    return (
        f"{count / 1e9:.1f} GB"
        if count >= 1e9
        else f"{count / 1e6:,.0f} MB"
        if count >= 1e6
        else f"{count / 1e3:.0f} kB"
    )


def dollars(amount: float | None) -> str:
    if amount is None:
        return "unknown"
    return "" if not amount else f"${amount:,.2f}" if amount >= 0.01 else f"${amount:.4f}"
