"""IterAlign (arXiv 2403.18341, section 4): find failures, discover principles, revise, verify, train, repeat."""

from collections.abc import Sequence

from iteralign.errors import ModelError
from iteralign.evals.lift import Trial, entries, hold_back, lift, to_measure, trials
from iteralign.evals.suite import evaluate, on_validation
from iteralign.recipes.steps import (
    Outcome,
    Standing,
    critic_of,
    enough,
    learn,
    pairs_of,
    respond_and_judge,
    rewrite,
    select,
    write_constitution,
)
from iteralign.records import Constitution, LedgerEntry, Revision, Verdict
from iteralign.runs import Run
from iteralign.seeds import seed_for
from iteralign.stages.discover import Discovery, FailedCall, discover
from iteralign.stages.revise import drop_near_copies
from iteralign.store import Store, read_rows
from iteralign.training.policy import Policy


def iteralign(run: Run) -> Outcome:
    config = run.config
    now, constitution = Standing(run.base), run.constitution
    evaluate(run, now.policy, "base")
    on_validation(run, run.store.inside("evals/validation"), lambda: run.base.model)
    held: list[Verdict] = []  # failures that principles were measured on: they come again in the next round
    for r in range(config.rounds):
        here, policy = run.store.inside(f"rounds/{r:05d}"), now.policy
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
        rows = select(run, here, revisions, verdicts, now.pool, r) if "sft" in config.learn else []
        pairs = pairs_of(run, here, policy, revisions, verdicts, r) if "dpo" in config.learn else []
        if enough(run, rows, pairs, r):
            now = learn(run, here, now, rows, r, pairs)
        if now.stopped:
            break
    evaluate(run, now.policy, "final")
    write_constitution(run, constitution)
    return Outcome(now.policy, constitution, now.stopped)


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
            "oracle": run.oracle(policy).name,
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

    places = [run.store.path(f"rounds/{n:05d}/lift.jsonl") for n in range(r)]
    earlier = [Trial(**row) for path in places if path.is_file() for row in read_rows(path)]
    tried = to_measure(found.met, found.constitution, earlier, config.lift)

    def make() -> list[Trial]:
        critic = critic_of(run, policy, config.revise)
        return trials(held, passing, tried, policy.model, run.judge(policy), config.revise, config.seed, r, critic)

    pooled = earlier + here.rows("lift", make, lambda row: Trial(**row))
    lifts = [lift(p.id, pooled) for p in tried]
    said = here.once("lifts", lambda: [e.row() for e in entries(lifts, config.lift, r)])
    retired = {e["principle"] for e in said if e["event"] == "retired"}
    kept = tuple(p for p in found.constitution.principles if p.id not in retired)
    met = tuple(p for p in found.met if p.id not in retired)
    return found._replace(constitution=Constitution(principles=kept), met=met)


def revise_and_verify(
    run: Run, here: Store, policy: Policy, failures: Sequence[Verdict], found: Discovery, r: int
) -> list[Revision]:
    principles = found.met or found.constitution.principles
    if not principles:
        return []
    revisions = rewrite(run, here, policy, failures, principles, r)
    return drop_near_copies(revisions, run.config.revise.max_near_copies)
