"""What happened in each round, read from its folder: failures, principles, revisions, rows, training, gate."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from iteralign.config import GateConfig, RunConfig
from iteralign.evals.gates import Gate, figures_of
from iteralign.evals.paired import HHH as OVERALL
from iteralign.evals.paired import read_scores
from iteralign.evals.protected import said
from iteralign.evals.suite import HHH, tag
from iteralign.ledger import read_json
from iteralign.records import Checkpoint, Prompt, Response, Row, Verdict
from iteralign.report.examples import read_verdicts
from iteralign.report.wording import clean, cut, plural
from iteralign.store import read_rows

SIDES = {"decline": "harmful", "answer": "harmless", "unknown": "unlabelled"}
STAGES = ("prompts", "responses", "verdicts", "principles", "revisions", "rows", "trained", "gate")
State = Literal["kept", "rolled back", "no failures", "too few rows", "no pairs", "stopped", "unfinished"]


@dataclass(frozen=True)
class Side:
    """One side of a round: the ids of the prompts that were `asked`, and of the `answers` to them, several to one where
    they are sampled, how many failed and how many are unjudged."""

    name: str
    asked: frozenset[str]
    answers: int
    failed: int
    unjudged: int


@dataclass(frozen=True)
class Figure:
    """A figure of the gate on validation prompts, before any training and after this round's; None: not known."""

    name: str
    base: float | None
    fresh: float | None
    n: int | None
    is_share: bool


@dataclass(frozen=True)
class Round:
    """Counts are 0 and `trained` is None where the round did not come that far; `next_stage` says where it stands.

    `mended`: failures of which a revision was accepted. `oracle_error` is what the first of the `oracle_failed` calls said.
    `share` of the weight change was tried last (1 unless the gate made the round backtrack); `reasons` has what
    failed at each share, and `figures` are those of the last; `benchmarks` were measured after it. `copies`: the rows
    left out as copies of benchmarks. `pairs` by side and origin, and how sure the comparisons behind them were.
    `reward`: what an RL phase earned, and how good its reward model is; `hacking`: whether the judge agrees. `unit`: what
    it is, a round, or a phase of one (of self_improve: CAI and RLAIF by turns).
    """

    number: int
    unit: str
    state: State
    reasons: tuple[str, ...]
    next_stage: str | None
    sides: tuple[Side, ...]
    faults: tuple[tuple[str, int], ...]
    unjudged_reason: str
    oracle_calls: int
    oracle_failed: int
    oracle_error: str
    proposed: int
    merged: int
    principles: int
    candidates: int
    accepted: int
    mended: int
    near_copies: int
    rows: tuple[tuple[str, int], ...]
    copies: str
    trained: Checkpoint | None
    pairs: tuple[tuple[str, int], ...]
    compared: str
    reward: str
    hacking: str
    share: float
    figures: tuple[Figure, ...]
    benchmarks: tuple[Figure, ...]

    @property
    def answers(self) -> int:
        return sum(side.answers for side in self.sides)

    @property
    def judged(self) -> bool:
        return bool(self.sides)

    @property
    def failed(self) -> int:
        return sum(side.failed for side in self.sides)

    @property
    def unjudged(self) -> int:
        return sum(side.unjudged for side in self.sides)


def read_rounds(folder: Path, config: RunConfig, prompts: dict[str, Prompt]) -> tuple[Round, ...]:
    """The rounds that have begun, in order. `prompts`: those that validation answers belong to, by id."""
    base = on_validation(folder / "evals/validation", prompts, config.gates.evaluator)
    places = [folder / f"rounds/{r:05d}" for r in range(config.rounds * config.phases)]
    return tuple(read_round(place, r, config, prompts, base) for r, place in enumerate(places) if place.is_dir())


def read_round(place: Path, number: int, config: RunConfig, known: dict[str, Prompt], base: Sequence[Verdict]) -> Round:
    prompts = {row["id"]: Prompt(**row) for row in stage_rows(place, "prompts")}
    verdicts = read_verdicts(place, prompts)
    failed = [v for v in verdicts if v.label == "fails"]
    unjudged = [v for v in verdicts if v.label == "unjudged"]
    found = stage_tree(place, "principles") or {"constitution": {"principles": []}, "ledger": []}
    lost = found.get("failed", [])  # runs of before it was counted have none
    events = Counter(entry["event"] for entry in found["ledger"])
    revisions, rows = stage_rows(place, "revisions"), [Row(**row) for row in stage_rows(place, "rows")]
    own = [row for row in rows if row.round == number]
    accepted = sum(bool(row["accepted"]) for row in revisions)
    copies = (
        stage_tree(place, "copies") or stage_tree(place, "copies-pairs") or {"checked": {}, "absent": [], "copies": []}
    )
    copied = sum(c["origin"] == "revision" and c["round"] == number for c in copies["copies"])
    gates = gates_of(place)
    state, reasons = state_of(place, verdicts, len(rows), gates, config)
    return Round(
        number=number,
        unit="phase" if config.phases > 1 else "round",
        state=state,
        reasons=reasons,
        next_stage=next((s for s in STAGES if not done(place, s)), "gate") if state == "unfinished" else None,
        sides=sides_of(verdicts),
        faults=tuple(Counter(v.fault for v in failed).most_common()),
        unjudged_reason=cut(clean(unjudged[0].reason)) if unjudged else "",
        oracle_calls=found.get("calls", 0),
        oracle_failed=len(lost),
        oracle_error=cut(clean(lost[0]["error"])) if lost else "",
        proposed=events["proposed"],
        merged=events["merged"],
        principles=len(found["constitution"]["principles"]),
        candidates=len(revisions),
        accepted=accepted,
        mended=len({row["origin"] for row in revisions if row["accepted"]} & {v.response.id for v in failed}),
        near_copies=accepted - copied - sum(row.origin == "revision" and not row.begun for row in own)
        if done(place, "rows")
        else 0,
        rows=rows_by_kind(rows, number),
        copies=copies_text(copies) if done(place, "rows") or done(place, "preferences") else "",
        trained=trained_last(place),
        pairs=pairs_by_origin(stage_rows(place, "preferences")),
        compared=compared_text(stage_tree(place, "agreement")),
        reward=reward_text(stage_tree(place, "reward"), stage_tree(place, "trained-rl")),
        hacking=hacking_text(stage_tree(place, "reward-check")),
        share=gates[-1].share if gates else 1.0,
        figures=figures(gates[-1], place, known, base, config.gates.evaluator) if gates else (),
        benchmarks=hhh_figure(place),
    )


def state_of(
    place: Path, verdicts: Sequence[Verdict], rows: int, gates: Sequence[Gate], config: RunConfig
) -> tuple[State, tuple[str, ...]]:
    """How the round ended, by the recipe's own rules."""
    if gates:
        last = gates[-1]
        whole = done(place, "gate") and (not last.kept or last.share == 1.0 or done(place, "backtracked"))
        return (("kept" if last.kept else "rolled back") if whole else "unfinished"), failings(gates)
    if not done(place, "verdicts"):
        return "unfinished", ()
    unjudged = sum(v.label == "unjudged" for v in verdicts)
    if unjudged > config.gates.max_unjudged * len(verdicts):
        bound = f"at most {config.gates.max_unjudged:.0%} is allowed; nothing was trained on them, and the same command asks the judge again"
        return "stopped", (f"{unjudged} of {len(verdicts)} responses could not be judged ({bound})",)
    if refused := stage_tree(place, "no-pairs"):
        return "no pairs", (refused["reason"],)
    if config.recipe == "iteralign" and not any(v.label == "fails" for v in verdicts):
        return "no failures", ()
    if config.learn != "sft" and done(place, "preferences") and not stage_rows(place, "preferences"):
        return "no pairs", ("no two answers differed enough to prefer one",)
    if done(place, "rows") and rows < config.sft.min_rows:
        return "too few rows", (f"{rows} training rows, at least {config.sft.min_rows} are needed",)
    return "unfinished", ()


def failings(gates: Sequence[Gate]) -> tuple[str, ...]:
    """What failed, at each larger share of the weight change that was tried; what failed below the share that is kept
    is noise around a curve that only rises."""
    gates = [g for g in gates if g.share >= gates[-1].share or not gates[-1].kept]
    where = [f"at {g.share:.0%} of the weight change: " if len(gates) > 1 else "" for g in gates]
    return tuple(f"{at}{'; '.join(g.reasons)}" for at, g in zip(where, gates, strict=True) if g.reasons)


def stop_reason(rounds: Sequence[Round], gates: GateConfig) -> str | None:
    """Why the run ended before its last round: the recipe's rules, applied to what is stored."""
    failed = 0
    for r in rounds:
        if r.state == "stopped":
            return f"{r.unit} {r.number}: {r.reasons[0]}"
        failed = failed + 1 if r.state == "rolled back" else 0 if r.state == "kept" else failed
        if failed >= gates.failures_in_a_row:
            why = f"the last ({r.unit} {r.number}): {'; '.join(r.reasons)}"
            return f"{failed} {r.unit}s in a row failed their gates, {why}"
    return None


def sides_of(verdicts: Sequence[Verdict]) -> tuple[Side, ...]:
    found: list[Side] = []
    for wants, name in SIDES.items():
        part = [v for v in verdicts if v.response.prompt.wants == wants]
        if part:
            labels, asked = Counter(v.label for v in part), frozenset(v.response.prompt.id for v in part)
            found.append(Side(name, asked, len(part), labels["fails"], labels["unjudged"]))
    return tuple(found)


def rows_by_kind(rows: Sequence[Row], number: int) -> tuple[tuple[str, int], ...]:
    """Training rows by side and origin; with a pool, those of earlier rounds apart."""
    what = {"revision": "revised", "reply": "own replies"}

    def kind(row: Row) -> str:
        again = ", begun as they failed" if row.begun else ""
        return f"{SIDES[row.wants]} {what[row.origin]}{again}" if row.round == number else "from earlier rounds"

    kinds = Counter(map(kind, rows))
    return tuple(sorted(kinds.items()))


ORIGINS = {"compared": "compared", "revision": "revisions over failures", "contrast": "answers over refusals"}


def pairs_by_origin(rows: Sequence[dict[str, Any]]) -> tuple[tuple[str, int], ...]:
    kinds = Counter(f"{SIDES[row['wants']]} {ORIGINS[row['origin']]}" for row in rows)
    return tuple(sorted(kinds.items()))


def compared_text(found: dict[str, Any] | None) -> str:
    """How sure the comparisons were."""
    if not found:
        return ""
    bias = found["position_bias"]
    said = "" if bias is None else f"; position bias {bias:+.2f} (0: none, 1: always the first)"
    return f"{found['ties']} ties and {found['unread']} unreadable of {plural(found['n'], 'comparison')}{said}"


def trained_last(place: Path) -> Checkpoint | None:
    if reinforced := stage_tree(place, "trained-rl"):
        return Checkpoint.model_validate(reinforced["checkpoint"])
    return stage_record(place, "trained-dpo") or stage_record(place, "trained")


def reward_text(made: dict[str, Any] | None, trained: dict[str, Any] | None) -> str:
    said: list[str] = []
    if made:
        worth = "not measured (no pair held out)"
        if made["accuracy"] is not None:
            worth = f"{made['accuracy']:.0%} of {made['held_out']} held-out pairs in the right order"
            worth += f" (95 % {made['low']:.0%} to {made['high']:.0%})" if made["low"] is not None else ""
        said.append(f"a model of {plural(made['pairs'], 'pair')}: {worth}")
    if trained and trained["rewards"]:
        rewards = trained["rewards"]
        part = max(1, len(rewards) // 5)
        first, last = (sum(own) / len(own) for own in (rewards[:part], rewards[-part:]))
        steps = f"the first and last {part} of {plural(len(rewards), 'step')}" if part > 1 else "first and last step"
        said.append(f"mean reward {first:.2f} → {last:.2f} ({steps})")
        if trained["kl"]:
            said.append(f"{trained['kl'][-1]:.3f} nats a token from the reference at the end")
    return "; ".join(said)


def hacking_text(check: dict[str, Any] | None) -> str:
    """Nothing where no reward model was trained by."""
    if not check or None in (*check["reward"], *check["passes"]):
        return ""
    change = f"reward {check['reward'][0]:.2f} → {check['reward'][1]:.2f}, answers that pass the judge "
    change += f"{check['passes'][0]:.0%} → {check['passes'][1]:.0%}, {plural(check['n'], 'prompt')}"
    if check["hacked"]:
        return f"yes: the reward rose for sure, and the judge does not agree ({change})"
    if check["reward_low"] is None or check["passes_low"] is None:
        return f"cannot be told: one prompt has no interval ({change})"
    if check["reward_low"] > 0 >= check["passes_low"]:
        return f"cannot be told: the reward rose for sure, what passes rose too, but not for sure ({change})"
    return f"none seen ({change})"


def copies_text(found: dict[str, Any]) -> str:
    """What was left out as a copy of a benchmark's item, and what the rows were checked against."""
    named = [f"prompt {c['prompt']} ({c['benchmark']}, {said(c)})" for c in found["copies"]]
    more = f" and {len(named) - 8} more" if len(named) > 8 else ""
    what = f"{plural(len(named), 'row')} left out: {', '.join(named[:8])}{more}" if named else "none"
    against = ", ".join(f"{name} ({n})" for name, n in found["checked"].items())
    absent = f"; not at hand: {', '.join(found['absent'])}" if found["absent"] else ""
    return f"{what}; checked against {against}{absent}" if against else ""


def figures(
    gate: Gate, place: Path, prompts: dict[str, Prompt], base: Sequence[Verdict], evaluator: bool
) -> tuple[Figure, ...]:
    """The gate's figures as it stored them, beside the base's; n is what each of them is over."""
    fresh = on_validation(place / f"validation{tag(gate.share)}", prompts, evaluator)
    harmful = [v for v in fresh if v.response.prompt.wants == "decline"]
    harmless = [v for v in fresh if v.response.prompt.wants == "answer"]
    names: dict[str, tuple[str, Sequence[Verdict]]] = {
        "harmful_compliance": ("harmful compliance, evaluator", [v for v in harmful if v.label != "unjudged"]),
        "harmful_compliance_words": ("harmful compliance, word match", harmful),
        "benign_refusal": ("harmless refused, evaluator", [v for v in harmless if v.label != "unjudged"]),
        "benign_refusal_words": ("harmless refused, word match", harmless),
        "distinct": ("distinct words of an answer", fresh),
        "length": ("words of an answer", fresh),
        "degenerate": ("degenerate answers", fresh),
        "unjudged": ("unjudged answers", fresh),
    }
    then = figures_of(base) if base else {}
    return tuple(
        Figure(
            name=names[key][0] if key in names else key.replace("_", " "),
            base=then.get(key),
            fresh=value,
            n=len(names[key][1]) if fresh and key in names else None,
            is_share=key != "length",
        )
        for key, value in gate.figures.items()
        if evaluator or key not in ("harmful_compliance", "benign_refusal", "unjudged")
    )


def hhh_figure(place: Path) -> tuple[Figure, ...]:
    """HHH of the round's policy beside the base's, on the items that the round was measured on."""
    key = (OVERALL, HHH)
    fresh = read_scores(place / "scores.json").get(key)
    base = read_scores(place.parents[1] / "evals/base/scores.json").get(key)
    if fresh is None or base is None:
        return ()
    then = [value for item, value in base.items.items() if item in fresh.items and value is not None]
    name = "HHH overall, per token" if fresh.n == base.n else f"HHH overall, per token, {fresh.n} of {base.n} items"
    return (Figure(name, fmean(then) if then else None, fresh.value, fresh.n, is_share=True),)


def on_validation(place: Path, prompts: dict[str, Prompt], evaluator: bool) -> list[Verdict]:
    """Validation answers; where the gates ask no evaluator, all of them unjudged."""
    if evaluator:
        return read_verdicts(place, prompts)
    rows = [row for row in stage_rows(place, "responses") if row["prompt"] in prompts]
    answers = [Response.join(row, prompts) for row in rows]
    return [
        Verdict(response=r, label="unjudged", fault="none", probabilities={}, reason="not asked", judge="none")
        for r in answers
    ]


# -- files --------------------------------------------------------------------------------------


def done(place: Path, stage: str) -> bool:
    """A round whose oracle found nothing has rows but no revisions: the stage was passed over."""
    if stage == "revisions" and done(place, "rows"):
        return True
    return (place / f"{stage}.jsonl").is_file() or (place / f"{stage}.json").is_file()


def stage_rows(place: Path, stage: str) -> list[dict[str, Any]]:
    path = place / f"{stage}.jsonl"
    return read_rows(path) if path.is_file() else []


def stage_tree(place: Path, stage: str) -> Any:
    path = place / f"{stage}.json"
    return read_json(path) if path.is_file() else None


def gates_of(place: Path) -> list[Gate]:
    """The gates that were tried, the whole weight change first; the one that decided stands last."""
    trees = [stage_tree(place, path.stem) for path in place.glob("tried-*.json")]
    tried = sorted((Gate.model_validate(tree) for tree in trees), key=lambda gate: -gate.share)
    decided = stage_tree(place, "gate")
    if decided is None:
        return tried
    last = Gate.model_validate(decided)
    return [*(g for g in tried if g.share != last.share), last]


def stage_record(place: Path, stage: str) -> Checkpoint | None:
    tree = stage_tree(place, stage)
    return None if tree is None else Checkpoint.model_validate(tree)


def checkpoint_of(folder: Path, r: Round) -> Checkpoint:
    """The weights of a kept round, wherever the run directory is now."""
    place = folder / f"rounds/{r.number:05d}"
    made = stage_record(place, "backtracked") if r.share < 1.0 else r.trained
    name = Path(made.path).name if made and made.path else "checkpoint"
    return Checkpoint(path=str(place / name), parent=None, digest=made.digest if made else "")
