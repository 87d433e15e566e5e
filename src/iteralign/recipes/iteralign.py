"""IterAlign (arXiv 2403.18341, section 4): find failures, discover principles, revise, verify, train, repeat."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from iteralign.constitutions import constitution_markdown, constitution_yaml
from iteralign.errors import ModelError
from iteralign.evals.gates import Gate, stop_if_unjudged, too_many_unjudged
from iteralign.evals.lift import Trial, entries, hold_back, lift, trials
from iteralign.evals.protected import decontaminated
from iteralign.evals.suite import evaluate, evaluate_round, gate_round, on_validation
from iteralign.records import Checkpoint, Constitution, LedgerEntry, Prompt, Response, Revision, Row, Verdict
from iteralign.runs import Run
from iteralign.seeds import seed_for
from iteralign.stages.discover import Discovery, FailedCall, discover
from iteralign.stages.red_team import red_team
from iteralign.stages.respond import respond
from iteralign.stages.revise import drop_near_copies, revise, verify
from iteralign.store import Store, read_rows, write_text
from iteralign.training.policy import Line, Policy, drop_checkpoint, drop_checkpoints, train
from iteralign.training.rows import choose_rows, refuse_held_out


class Outcome(NamedTuple):
    """`stopped` says why the run ended before its last round, None when it did not."""

    policy: Policy
    constitution: Constitution
    stopped: str | None


def iteralign(run: Run) -> Outcome:
    config = run.config
    policy, constitution = run.base, run.constitution
    evaluate(run, policy, "base")
    on_validation(run, run.store.inside("evals/validation"), lambda: run.base.model)
    pool: list[Row] = []
    held: list[Verdict] = []  # failures that principles were measured on: they come again in the next round
    failed_gates = 0
    stopped = None
    for r in range(config.rounds):
        here = run.store.inside(f"rounds/{r:05d}")
        verdicts = respond_and_judge(run, here, policy, r, [v.response.prompt for v in held])
        failures, held = hold_back(
            [v for v in verdicts if v.label == "fails"], config.lift.budget, seed_for(config.seed, r, "lift")
        )
        if not failures:  # nothing to learn from this batch (section 5.7)
            run.store.event("no failures", round=r)
            continue
        found = discover_principles(run, here, policy, failures, constitution, r)
        found = measure_lift(run, here, policy, found, held, verdicts, r)
        constitution = found.constitution
        revisions = revise_and_verify(run, here, policy, failures, found, r)
        rows = select(run, here, revisions, verdicts, pool, r)
        if len(rows) < config.sft.min_rows:
            run.store.event("too few rows", round=r, rows=len(rows))
            continue
        candidate = fine_tune(run, here, policy, rows, r)
        candidate, gate = pass_gate(run, here, policy, candidate)
        if gate.kept:
            drop_checkpoints(here, keep=candidate)
            drop_checkpoint(policy.checkpoint)
            policy, pool, failed_gates = candidate, rows if config.sft.rows == "pool" else [], 0
            evaluate_round(run, policy, here)
            continue
        drop_checkpoints(here, keep=None)
        failed_gates += 1
        if failed_gates >= config.gates.failures_in_a_row:
            stopped = f"{failed_gates} rounds in a row failed their gates, the last (round {r}): " + "; ".join(
                gate.reasons
            )
            break
    evaluate(run, policy, "final")
    write_constitution(run, constitution)
    return Outcome(policy, constitution, stopped)


def respond_and_judge(run: Run, here: Store, policy: Policy, r: int, again: Sequence[Prompt] = ()) -> list[Verdict]:
    """Of the round's batch, and of the prompts that come again."""
    config, train_set = run.config, run.prompts["train"]

    def batch() -> list[Prompt]:
        counts = config.prompts.red_team_per_round, config.prompts.harmless_per_round
        drawn = red_team(train_set.red_team, r, counts[0], config.seed) + red_team(
            train_set.harmless, r, min(counts[1], len(train_set.harmless)), config.seed
        )
        return drawn + [p for p in again if p not in drawn]

    prompts = here.rows("prompts", batch, lambda row: Prompt(**row))
    by_id = {p.id: p for p in prompts}
    responses = here.by(config.generation_batch).each(
        "responses",
        prompts,
        lambda part: respond(part, policy.model, config.respond, config.seed, r),
        lambda row: Response.join(row, by_id),
    )
    by_response = {x.id: x for x in responses}
    verdicts = here.each(
        "verdicts",
        responses,
        lambda part: run.judge(policy)(part),
        lambda row: Verdict.join(row, by_response),
        lacking=lambda made: too_many_unjudged(made, config.gates),
    )
    stop_if_unjudged(verdicts, config.gates, f"round {r}")
    return verdicts


def discover_principles(
    run: Run, here: Store, policy: Policy, failures: Sequence[Verdict], constitution: Constitution, r: int
) -> Discovery:
    def make() -> dict[str, object]:
        found = discover(failures, run.oracle(policy), constitution, run.config.discover, run.config.seed, r)
        for call in found.failed:
            run.store.event("oracle call failed", round=r, group=call.group, error=call.error)
        if found.calls and len(found.failed) == found.calls:  # not stored, so that a resumed run asks again
            raise ModelError(
                f"round {r}: the oracle failed in {found.calls} of {found.calls} calls; the first: "
                f"{found.failed[0].error}. What is finished is kept: run the same command to ask again"
            )
        return {
            "constitution": found.constitution.row(),
            "met": [p.row() for p in found.met],
            "ledger": [e.row() for e in found.ledger],
            "calls": found.calls,
            "failed": [call._asdict() for call in found.failed],
        }

    row = here.once("principles", make)
    return Discovery(
        Constitution.model_validate(row["constitution"]),
        tuple(Constitution.model_validate({"principles": row["met"]}).principles),
        tuple(LedgerEntry.model_validate(e) for e in row["ledger"]),
        row["calls"],
        tuple(FailedCall(**call) for call in row["failed"]),
    )


def measure_lift(
    run: Run,
    here: Store,
    policy: Policy,
    found: Discovery,
    held: Sequence[Verdict],
    verdicts: Sequence[Verdict],
    r: int,
) -> Discovery:
    """Principles that were measured to do no good, over all rounds so far, are retired."""
    config = run.config
    if not held:
        return found
    passing = [v for v in verdicts if v.label == "passes" and v.response.prompt.wants == "answer"][: config.lift.budget]
    here.rows(
        "lift",
        lambda: trials(held, passing, found.met, policy.model, run.judge(policy), config.revise, config.seed, r),
        lambda row: Trial(**row),
    )
    places = [run.store.path(f"rounds/{n:05d}/lift.jsonl") for n in range(r + 1)]
    pooled = [Trial(**row) for path in places if path.is_file() for row in read_rows(path)]
    lifts = [lift(p.id, pooled) for p in found.met]
    said = here.once("lifts", lambda: [e.row() for e in entries(lifts, config.lift, r)])
    retired = {e["principle"] for e in said if e["event"] == "retired"}
    kept = tuple(p for p in found.constitution.principles if p.id not in retired)
    met = tuple(p for p in found.met if p.id not in retired)
    return found._replace(constitution=Constitution(principles=kept), met=met)


def revise_and_verify(
    run: Run, here: Store, policy: Policy, failures: Sequence[Verdict], found: Discovery, r: int
) -> list[Revision]:
    config = run.config
    principles = found.met or found.constitution.principles
    if not principles:
        return []
    responses = {v.response.id: v.response for v in failures}
    verdicts = {v.id: v for v in failures}
    revisions = here.each(
        "revisions",
        failures,
        lambda part: verify(
            revise(part, policy.model, principles, config.revise, config.seed, r),
            run.judge(policy),
            policy.model.name,
            config.revise,
        ),
        lambda row: Revision.join(row, responses, verdicts),
    )
    return drop_near_copies(revisions, config.revise.max_near_copies)


def select(
    run: Run, here: Store, revisions: Sequence[Revision], verdicts: Sequence[Verdict], pool: Sequence[Row], r: int
) -> list[Row]:
    config = run.config
    kept_apart = {
        p.item for s in ("validation", "held_out") for p in (*run.prompts[s].red_team, *run.prompts[s].harmless)
    }

    def make() -> list[Row]:
        fresh = choose_rows(revisions, verdicts, config.sft.harmless_share, r, seed_for(config.seed, r, "rows"))
        rows = [*pool, *fresh] if config.sft.rows == "pool" else fresh
        refuse_held_out(rows, kept_apart)
        return decontaminated(run, here, rows, r)

    return here.rows("rows", make, lambda row: Row(**row))


def fine_tune(run: Run, here: Store, policy: Policy, rows: Sequence[Row], r: int) -> Policy:
    def make() -> dict[str, object]:
        run.roles.rest()  # training is what needs the most memory
        folder, seed = here.path("checkpoint"), seed_for(run.config.seed, r, "train")
        return train(policy, rows, run.config.sft, folder, seed, run.step).checkpoint.row()

    made = here.once("trained", make)
    return Policy(policy.engine, checkpoint_in(here, made))


def checkpoint_in(here: Store, made: dict[str, Any]) -> Checkpoint:
    """A stored checkpoint where its round lies now: the run directory may have been moved."""
    return Checkpoint.model_validate({**made, "path": str(here.path(Path(made["path"]).name))})


def pass_gate(run: Run, here: Store, before: Policy, trained: Policy) -> tuple[Policy, Gate]:
    """The candidate and its gate. One that only refuses too much, or breaks down, goes back along its weight change:
    the largest share that passes, found by bisection (both grow with the share)."""
    gate = gate_round(run, here, lambda: trained.model)
    line = Line(start_of_line(run, before), trained)
    shares = sorted(run.config.gates.backtrack, reverse=True) if gate.too_far and not gate.kept else []
    while shares:
        middle = len(shares) // 2
        tried = gate_round(run, here, lambda share=shares[middle]: line.at(share), shares[middle])
        gate = tried if tried.kept or not gate.kept else gate
        shares = shares[:middle] if tried.kept else shares[middle + 1 :]
    gate = Gate.model_validate(here.once("gate", gate.row))
    if not gate.kept or gate.share == 1.0:
        return trained, gate
    made = here.once("backtracked", lambda: line.save(gate.share, here.path("checkpoint-backtracked")).row())
    return Policy(trained.engine, checkpoint_in(here, made)), gate


def start_of_line(run: Run, before: Policy) -> Policy:
    """Where backtracking leads: the round's policy. An adapter that was begun anew shares no directions with the
    one before it, so what lies between the two is neither: it goes back to the base that it was begun on."""
    lora = run.config.sft.lora
    return run.base if lora is not None and lora.keep and run.config.sft.start == "base" else before


def write_constitution(run: Run, constitution: Constitution) -> None:
    ledger: list[LedgerEntry] = []
    for r in range(run.config.rounds):
        principles, lifts = (run.store.path(f"rounds/{r:05d}/{name}.json") for name in ("principles", "lifts"))
        if principles.exists():
            ledger += [LedgerEntry.model_validate(e) for e in json.loads(principles.read_text())["ledger"]]
        if lifts.exists():
            ledger += [LedgerEntry.model_validate(e) for e in json.loads(lifts.read_text())]
    run.store.path("ledger.jsonl").unlink(missing_ok=True)
    run.store.append("ledger", ledger)
    write_text(run.store.path("constitution.yaml"), constitution_yaml(constitution))
    write_text(run.store.path("constitution.md"), constitution_markdown(constitution, ledger))


__all__ = ["Gate", "Outcome", "iteralign"]
