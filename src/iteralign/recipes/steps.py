"""What the recipes have in common: answer and judge, choose rows, train, pass the gates, write the constitution."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from iteralign.config import ReviseConfig
from iteralign.constitutions import constitution_yaml
from iteralign.errors import NothingFits
from iteralign.evals.gates import Gate, figures_of, refitted, search, stop_if_unjudged, too_many_unjudged
from iteralign.evals.protected import decontaminated
from iteralign.evals.suite import evaluate_round, gate_round, on_validation
from iteralign.ledger import Ledger, constitution_markdown, read_ledger
from iteralign.models.base import Model
from iteralign.recipes.training import checkpoint_in, fine_tune, fine_tune_on_pairs, reinforce
from iteralign.records import (
    Constitution,
    Preference,
    Principle,
    Prompt,
    Response,
    Revision,
    Row,
    Verdict,
    Wants,
)
from iteralign.runs import Run
from iteralign.seeds import seed_for
from iteralign.stages.prefer import contrast_preferences, revision_preferences
from iteralign.stages.red_team import red_team
from iteralign.stages.respond import answered_and_judged, computes_elsewhere, respond
from iteralign.stages.revise import revise, verify
from iteralign.store import Store, write_text
from iteralign.training.policy import Line, Policy, drop_checkpoint, drop_checkpoints
from iteralign.training.rows import choose_rows, deepened, refuse_held_out

DECLINE = Principle(id="decline", text="Decline the request.", framing="do", kind="decline")


class Outcome(NamedTuple):
    """`stopped` says why the run ended before its last round, None when it did not."""

    policy: Policy
    constitution: Constitution
    stopped: str | None


class Standing(NamedTuple):
    """Between two rounds: the policy, rows that are learnt again, and how many gates in a row failed. `stopped` says why
    the run ends here."""

    policy: Policy
    pool: tuple[Row, ...] = ()
    failed_gates: int = 0
    stopped: str | None = None


def round_prompts(run: Run, here: Store, r: int, again: Sequence[Prompt] = ()) -> list[Prompt]:
    """The round's batch of both sides, and the prompts that come again."""
    config, train_set = run.config, run.prompts["train"]

    def batch() -> list[Prompt]:
        counts = config.prompts.red_team_per_round, config.prompts.harmless_per_round
        drawn = red_team(train_set.red_team, r, counts[0], config.seed) + red_team(
            train_set.harmless, r, min(counts[1], len(train_set.harmless)), config.seed
        )
        return drawn + [p for p in again if p not in drawn]

    return here.rows("prompts", batch, lambda row: Prompt(**row))


def respond_and_judge(run: Run, here: Store, policy: Policy, r: int, again: Sequence[Prompt] = ()) -> list[Verdict]:
    """Of the round's batch, and of the prompts that come again."""
    config = run.config
    verdicts = answered_and_judged(
        here,
        round_prompts(run, here, r, again),
        lambda part: respond(part, policy.model, config.respond, config.seed, r),
        lambda part: run.judge(policy)(part),
        batch=config.generation_batch,
        elsewhere=computes_elsewhere(config.judge),
        lacking=lambda made: too_many_unjudged(made, config.gates),
    )
    stop_if_unjudged(verdicts, config.gates, f"round {r}")
    return verdicts


def judge_all(
    run: Run, here: Store, policy: Policy, responses: Sequence[Response], r: int, name: str = "verdicts"
) -> list[Verdict]:
    """Stops the run where too many cannot be judged; the same command asks the judge for those again."""
    gates = run.config.gates
    by_response = {x.id: x for x in responses}
    verdicts = here.each(
        name,
        responses,
        lambda part: run.judge(policy)(part),
        lambda row: Verdict.join(row, by_response),
        lacking=lambda made: too_many_unjudged(made, gates),
    )
    stop_if_unjudged(verdicts, gates, f"round {r}")
    return verdicts


def rewrite(
    run: Run,
    here: Store,
    policy: Policy,
    verdicts: Sequence[Verdict],
    principles: Sequence[Principle],
    r: int,
    name: str = "revisions",
    config: ReviseConfig | None = None,
    as_kind: Wants | None = None,
) -> list[Revision]:
    """Every judged answer rewritten under the principles, and judged again: all candidates. `config`: other settings
    than the run's."""
    config, responses = config or run.config.revise, {v.response.id: v.response for v in verdicts}
    known = {v.id: v for v in verdicts}
    return here.each(
        name,
        verdicts,
        lambda part: verify(
            revise(part, policy.model, principles, config, run.config.seed, r, as_kind, critic_of(run, policy, config)),
            run.judge(policy),
            policy.model.name,
            config,
        ),
        lambda row: Revision.join(row, responses, known),
    )


def critic_of(run: Run, policy: Policy, config: ReviseConfig) -> Model | None:
    """None: the policy criticises itself."""
    return run.oracle(policy) if config.critique and config.critic == "oracle" else None


def select(
    run: Run, here: Store, revisions: Sequence[Revision], verdicts: Sequence[Verdict], pool: Sequence[Row], r: int
) -> list[Row]:
    """The round's training rows, none of them held out or a copy of a benchmark's item."""
    config = run.config

    def make() -> list[Row]:
        fresh = choose_rows(revisions, verdicts, config.sft.harmless_share, r, seed_for(config.seed, r, "rows"))
        fresh += deepened(fresh, revisions, config.sft.deepen, seed_for(config.seed, r, "deepen"))
        rows = [*pool, *fresh] if config.sft.rows == "pool" else fresh
        refuse_held_out(rows, kept_apart(run))
        return decontaminated(run, here, rows, r)

    return here.rows("rows", make, lambda row: Row(**row))


def kept_apart(run: Run) -> set[str]:
    """Items of validation and held-out prompts."""
    return {p.item for s in ("validation", "held_out") for p in (*run.prompts[s].red_team, *run.prompts[s].harmless)}


def select_pairs(run: Run, here: Store, found: Callable[[], Sequence[Preference]], r: int) -> list[Preference]:
    """The round's pairs, under the same rules."""

    def make() -> list[Preference]:
        pairs = found()
        refuse_held_out(pairs, kept_apart(run))
        return decontaminated(run, here, pairs, r, "copies-pairs")

    return here.rows("preferences", make, Preference.from_row)


def pairs_of(
    run: Run, here: Store, policy: Policy, revisions: Sequence[Revision], verdicts: Sequence[Verdict], r: int
) -> list[Preference]:
    """The round's pairs where revisions are all that they come from."""
    pairs = revised_pairs(run, here, policy, revisions, verdicts, r)
    return select_pairs(run, here, lambda: pairs, r)


def revised_pairs(
    run: Run, here: Store, policy: Policy, revisions: Sequence[Revision], verdicts: Sequence[Verdict], r: int
) -> list[Preference]:
    """Accepted revisions over the answers that failed; and, at most `prefer.contrast` times as many, good answers to
    harmless prompts over refusals of them."""
    config = run.config
    pairs = revision_preferences(revisions, r)
    good = [v for v in verdicts if v.label == "passes" and v.response.prompt.wants == "answer"]
    good = good[: round(config.prefer.contrast * len(pairs))]
    if good:
        pairs += contrast_preferences(refusals(run, here, policy, good, r), r)
    return pairs


def refusals(run: Run, here: Store, policy: Policy, good: Sequence[Verdict], r: int) -> list[Revision]:
    """What the policy says to harmless prompts when it is asked as it is for revisions of harmful ones; good answers
    have nothing to be checked or criticised."""
    once = {"candidates": 1, "max_principles": 1, "draws": None, "check": False, "critique": False, "accept": "passing"}
    config = run.config.revise.model_copy(update=once)
    return rewrite(run, here, policy, good, [DECLINE], r, "refusals", config, as_kind="decline")


def learn(
    run: Run,
    here: Store,
    now: Standing,
    rows: Sequence[Row],
    r: int,
    pairs: Sequence[Preference] = (),
    by: str | None = None,
    keep: Sequence[Policy] = (),
) -> Standing:
    """Train on rows, on pairs, by a reward, or on one after the other, as the config or `by` says; keep what passes the gates. The
    checkpoint before goes, unless it is one of `keep`."""
    config, before = run.config, now.policy
    by = by or config.learn
    candidate = fine_tune(run, here, before, rows, r) if "sft" in by else before
    if not here.path("no-pairs.json").exists():
        try:
            if "dpo" in by and pairs:
                candidate = fine_tune_on_pairs(run, here, candidate, pairs, r)
            if "rl" in by:
                prompts = decontaminated(run, here, round_prompts(run, here, r), r, "copies-prompts")
                candidate = reinforce(run, here, candidate, prompts, pairs, r)
        except NothingFits as error:  # no mistake that another start would mend: the round has no pairs
            reason = str(error)
            run.store.event("no pairs", round=r, **here.once("no-pairs", lambda: {"reason": reason}))
    if candidate is before:
        return now
    candidate, gate = pass_gate(run, here, before, candidate)
    if gate.kept:
        drop_checkpoints(here, keep=candidate)
        if before.checkpoint not in [policy.checkpoint for policy in keep]:
            drop_checkpoint(before.checkpoint)
        evaluate_round(run, candidate, here)
        pool = tuple(rows) if config.sft.rows == "pool" and "sft" in by else now.pool
        return Standing(candidate, pool)
    drop_checkpoints(here, keep=None)
    failed, reasons, stopped = now.failed_gates + 1, "; ".join(gate.reasons), None
    if failed >= config.gates.failures_in_a_row:
        stopped = f"{failed} rounds in a row failed their gates, the last (round {r}): {reasons}"
    return now._replace(failed_gates=failed, stopped=stopped)


def enough(run: Run, rows: Sequence[Row], pairs: Sequence[Preference], r: int, by: str | None = None) -> bool:
    """Whether there is something to train on; a round without is passed over, and is no mistake."""
    by = by or run.config.learn
    if "sft" in by and len(rows) < run.config.sft.min_rows:
        run.store.event("too few rows", round=r, rows=len(rows))
        return False
    if by in ("dpo", "rl") and run.config.needs_pairs and not pairs:
        run.store.event("no pairs", round=r)
        return False
    return True


def pass_gate(run: Run, here: Store, before: Policy, trained: Policy) -> tuple[Policy, Gate]:
    """The candidate and its gate. One that only refuses too much, or breaks down, goes back along its weight change, to
    `gates.margin` of the largest share that passes: of noisy measurements the largest that passes flatters itself."""
    line = Line(start_of_line(run, before), trained)
    found = search(
        lambda share: gate_round(run, here, lambda: trained.model if share == 1.0 else line.at(share), share),
        lambda tried: refitted(tried, base_figures(run), run.config.gates),
        run.config.gates if measured(run) else run.config.gates.model_copy(update={"margin": 1.0}),
    )
    gate = Gate.model_validate(here.once("gate", found.row))
    if not gate.kept or gate.share == 1.0:
        return trained, gate
    made = here.once("backtracked", lambda: line.save(gate.share, here.path("checkpoint-backtracked")).row())
    return Policy(trained.engine, checkpoint_in(here, made)), gate


def base_figures(run: Run) -> dict[str, float | None]:
    return figures_of(on_validation(run, run.store.inside("evals/validation"), lambda: run.base.model))


def measured(run: Run) -> bool:
    """Whether gates look at anything."""
    return run.config.gates.enabled and run.config.prompts.validation > 0


def start_of_line(run: Run, before: Policy) -> Policy:
    """Where backtracking leads: the round's policy. An adapter that was begun anew shares no directions with the
    one before it, so what lies between the two is neither: it goes back to the base that it was begun on."""
    lora = run.config.sft.lora
    return run.base if lora is not None and lora.keep and run.config.sft.start == "base" else before


def write_constitution(run: Run, constitution: Constitution) -> None:
    found = read_ledger(run.store.folder) or Ledger(constitution)
    ledger = Ledger(constitution, found.entries, found.retired)
    run.store.path("ledger.jsonl").unlink(missing_ok=True)
    run.store.append("ledger", ledger.entries)
    write_text(run.store.path("constitution.yaml"), constitution_yaml(constitution))
    write_text(run.store.path("constitution.md"), constitution_markdown(ledger))
