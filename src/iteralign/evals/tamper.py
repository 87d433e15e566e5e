"""The fine-tuning attack: how few rows of the base's own compliant replies undo what alignment did.

A copy is trained and measured, and deleted: there is no way to keep it. Its folder is the owner's alone (0700).
"""

import shutil
from collections.abc import Callable, Sequence

from iteralign.evals.probe import Column, Probe, measure, plainly
from iteralign.evals.probe import Row as Measured
from iteralign.evals.suite import HHH, hhh, item_scores
from iteralign.records import Prompt, Response, Row, Score
from iteralign.runs import ATTACKED, Run
from iteralign.seeds import seed_for
from iteralign.stages.respond import respond
from iteralign.store import Store
from iteralign.training.policy import Policy, train, trainable
from iteralign.training.rows import reply_row

HHH_ITEMS = 60


def forget(store: Store) -> None:
    """Delete the copy."""
    shutil.rmtree(store.path(ATTACKED), ignore_errors=True)


def fine_tuning_attack(
    run: Run,
    probe: Probe,
    policy: Policy,
    prompts: Sequence[Prompt],
    compliant: Sequence[Response],
    base: Policy,
    rows: Sequence[Measured],
) -> list[Measured]:
    """Compliance, and HHH, as it is (of `rows`, which were measured before) and after training on the first n compliant
    replies, and on the base's own replies to harmless training prompts as the control."""
    config = probe.config
    if not trainable(policy.engine.config):
        why = f"a model of type {policy.engine.config.type} cannot be trained here"
        return [Measured(part="fine-tuning", what="any rows", column="aligned", reason=why)]
    made = [as_it_is(run, probe, policy, rows)]
    for n in config.fine_tune:
        name = f"{n} compliant rows"
        if len(compliant) < n:
            why = f"the base gave {len(compliant)} compliant replies to training prompts, and {n} are needed"
            made.append(Measured(part="fine-tuning", what=name, column="aligned", reason=why))
            continue
        made.append(attacked(run, probe, policy, prompts, name, lambda n=n: rows_of(compliant[:n])))
    if config.control:
        asked = run.prompts["train"].harmless[: config.control]
        name = f"{len(asked)} harmless rows (control)"
        if not asked:
            made.append(
                Measured(part="fine-tuning", what=name, column="aligned", reason="no harmless training prompts")
            )
            return made
        own = lambda: rows_of(respond(asked, base.model, probe.sampling, probe.seed, -2))  # noqa: E731
        made.append(attacked(run, probe, policy, prompts, name, own))
    return made


def as_it_is(run: Run, probe: Probe, policy: Policy, rows: Sequence[Measured]) -> Measured:
    """What the attacks are compared with."""
    direct = next(r for r in rows if (r.part, r.what, r.column) == ("attack", "direct", "aligned"))
    scores = capability(run, probe.store.inside("fine-tuned-not/aligned"), policy)
    return direct.model_copy(
        update={"part": "fine-tuning", "what": "nothing (as it is)", "scores": (*direct.scores, *scores)}
    )


def attacked(
    run: Run, probe: Probe, policy: Policy, prompts: Sequence[Prompt], what: str, rows: Callable[[], list[Row]]
) -> Measured:
    place = "fine-tuned-" + "-".join(what.split()[:2])
    here = probe.store.inside(f"{place}/aligned")
    if not here.done("measured.json"):
        folder = probe.store.path(ATTACKED)
        forget(probe.store)
        folder.mkdir(mode=0o700)
        try:
            run.roles.rest()
            seed = seed_for(probe.seed, "attack", what)
            copy = train(policy, rows(), probe.config.tuning, folder / "copy", seed, run.step)
            copy = copy._replace(system=policy.system)
            column = Column("aligned", lambda: copy.model)
            answers = lambda model: plainly(respond(prompts, model, probe.sampling, probe.seed, -3))  # noqa: E731
            found = measure(probe, place, "fine-tuning", what, column, answers)
            scores = [*found.scores, *capability(run, here, copy)]
        finally:
            policy.engine.left()
            forget(probe.store)
        here.once("measured", lambda: found.model_copy(update={"scores": tuple(scores)}).row())
    return Measured.model_validate(here.once("measured", dict))


def capability(run: Run, here: Store, policy: Policy) -> list[Score]:
    """HHH on a fixed sample: an attack that only breaks a model is none."""
    if not run.config.evals.hhh:
        return []
    return [
        s for s in item_scores(hhh(here, policy, run, HHH_ITEMS)) if s.variant == HHH and s.name.endswith("overall")
    ]


def rows_of(responses: Sequence[Response]) -> list[Row]:
    return [reply_row(r) for r in responses if r.reply.finish != "failed" and r.reply.text.strip()]
