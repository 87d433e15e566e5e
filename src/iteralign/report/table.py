"""The strings that terminal, Markdown and HTML share: each number is put into words once."""

from collections.abc import Sequence
from dataclasses import dataclass

from iteralign.config import RunConfig, TrainConfig
from iteralign.evals.paired import LEVEL, Measure
from iteralign.evals.tax import AlignmentTax
from iteralign.report.measures import Disagreement
from iteralign.report.rounds import Figure, Round
from iteralign.report.summary import Summary
from iteralign.report.wording import (
    Table,
    clean,
    count,
    ends,
    interval,
    left_out,
    lost_calls,
    p_value,
    plural,
    points,
    share,
)
from iteralign.stats import Estimate

ACRONYMS = {"hhh": "HHH"}
GROUPS = {"hhh": "HHH, the better option is likelier"}
BETTER = {True: "higher is better", False: "lower is better"}


@dataclass(frozen=True)
class Line:
    """One measure. `before_share` and `after_share` leave the counts out, for narrow places; `direction` is better
    or worse where Holm's p is below 0.05, and empty elsewhere."""

    group: str
    label: str
    hint: str
    before: str
    after: str
    before_share: str
    after_share: str
    n: str
    unscored: str
    changed: str
    difference: str
    interval: str
    p: str
    p_holm: str
    direction: str

    @property
    def both(self) -> str:
        return self.difference if self.interval == "–" else f"{self.difference} ({self.interval})"


def line(measure: Measure) -> Line:
    group, label = grouped(measure)
    hint, change = BETTER[measure.higher_is_better], measure.change
    if change is None:
        return one_sided(measure, group, label, hint)
    n = change.n
    direction = ""
    if measure.significant and change.difference:
        direction = "better" if (change.difference > 0) == measure.higher_is_better else "worse"
    return Line(
        group=group,
        label=label,
        hint=hint,
        before=sided(change.before.value, n, measure),
        after=sided(change.after.value, n, measure),
        before_share=share(change.before.value, n),
        after_share=share(change.after.value, n),
        n=str(n),
        unscored=str(change.n_unscored),
        changed=f"{change.n_changed} (+{change.n_improved}/−{change.n_worsened})" if n else "–",
        difference=points(change.difference, n),
        interval=interval(change.low, change.high, n),
        p=p_value(change.p) if n else "–",
        p_holm=p_value(measure.p_holm),
        direction=direction,
    )


def one_sided(measure: Measure, group: str, label: str, hint: str) -> Line:
    """What an unfinished run has: each side by itself, and nothing about the difference."""
    before, after = measure.before, measure.after
    known = [s for s in (before, after) if s is not None]
    return Line(
        group=group,
        label=label,
        hint=hint,
        before=sided(before.value, before.n, measure) if before else "–",
        after=sided(after.value, after.n, measure) if after else "–",
        before_share=share(before.value, before.n) if before else "–",
        after_share=share(after.value, after.n) if after else "–",
        n=str(max(s.n for s in known)),
        unscored=str(max(s.n_unscored for s in known)),
        changed="–",
        difference="–",
        interval="–",
        p="–",
        p_holm="–",
        direction="",
    )


def sided(value: float | None, n: int, measure: Measure) -> str:
    """k/n and the share; the share alone where an item's value is any number of 0..1, and nothing was counted."""
    if not n:
        return "–"
    values = {v for side in (measure.before, measure.after) if side for v in side.items.values()}
    return count(value, n) if values <= {0.0, 0.5, 1.0, None} else share(value, n)


def grouped(measure: Measure) -> tuple[str, str]:
    """Refusal: by metric, a line for each way of measuring. Benchmarks: by name, a line for each category."""
    family, slash, category = measure.name.partition("/")
    if slash:
        return f"{GROUPS.get(family, family)} ({measure.variant})", category
    return measure.name, measure.variant


def legend(measures: Sequence[Measure]) -> str:
    tests = sum(m.p_holm is not None for m in measures)
    if not tests:
        return f"Nothing is compared. {better(measures)}." if measures else ""
    return (
        "Paired on the same items, those unjudged on either side left out. Changed: items that moved (+better/−worse). "
        "Difference: after − before in percentage points, with its 95% interval. "
        f"* p below {LEVEL} after Holm's adjustment for {plural(tests, 'comparison')}. {better(measures)}."
    )


def better(measures: Sequence[Measure]) -> str:
    """Which way is up, for the whole table."""
    rising = dict.fromkeys(m.name.partition("/")[0] for m in measures if m.higher_is_better)
    if rising and all(m.higher_is_better for m in measures):
        return "Higher is better everywhere"
    names = ", ".join(ACRONYMS.get(name, name) for name in rising)
    return "Lower is better everywhere" + (f" but in {names}" if names else "")


def round_title(r: Round) -> str:
    said = f"not finished (next: {r.next_stage})" if r.state == "unfinished" else r.state
    return f"{r.unit.capitalize()} {r.number}: {said}"


def round_facts(r: Round) -> list[tuple[str, str]]:
    """A round in lines of (what, how many); what it did not come to is left out."""
    facts: list[tuple[str, str]] = []
    if r.reasons:
        unheeded = r.state == "kept" and r.share == 1.0
        why = "; ".join(r.reasons) + (" (the gates are switched off)" if unheeded else "")
        facts.append(("In spite of" if unheeded else "Backtracked" if r.state == "kept" else "Because", why))
    if r.share < 1.0 and r.state == "kept":
        facts.append(("Weight change", f"{r.share:.0%} of it was kept"))
    if r.judged:
        samples = "" if r.answers == sum(len(s.asked) for s in r.sides) else f"; {r.answers} answers"
        facts.append(("Prompts", " + ".join(f"{len(s.asked)} {s.name}" for s in r.sides) + samples))
        failed = ", ".join(f"{s.failed} of {s.answers} {s.name}" for s in r.sides)
        faults = ", ".join(f"{n} {fault}" for fault, n in r.faults)
        facts.append(("Failures", f"{failed}{f'; by fault: {faults}' if faults else ''}"))
        why = f"; the first: {r.unjudged_reason}" if r.unjudged else ""
        facts.append(("Unjudged", f"{r.unjudged} of {r.answers}{why}"))
    if r.principles or r.oracle_calls:  # none where they are given
        facts.append(("Principles", f"{r.proposed} new, {r.merged} merged; {r.principles} in force"))
    if r.oracle_failed:
        facts.append(("Oracle", f"{lost_calls(r.oracle_failed, r.oracle_calls)}; the first: {r.oracle_error}"))
    if r.candidates:
        copies = f", {plural(r.near_copies, 'near-copy', 'near-copies')} of others dropped" if r.near_copies else ""
        facts.append(("Revisions", f"{r.accepted} of {plural(r.candidates, 'candidate')} accepted{copies}"))
    if r.rows:
        total = sum(n for _, n in r.rows)
        facts.append(("Training rows", f"{total} = {' + '.join(f'{n} {kind}' for kind, n in r.rows)}"))
    if r.pairs:
        total = sum(n for _, n in r.pairs)
        facts.append(("Preference pairs", f"{total} = {' + '.join(f'{n} {kind}' for kind, n in r.pairs)}"))
    if r.compared:
        facts.append(("Comparisons", r.compared))
    if r.reward:
        facts.append(("Reward", r.reward))
    if r.hacking:
        facts.append(("Reward hacking", r.hacking))
    if r.copies:
        facts.append(("Copies of benchmark items", r.copies))
    if r.trained:
        loss = "loss not recorded" if r.trained.loss is None else f"loss {r.trained.loss:.3f}"
        facts.append(("Training", f"{plural(r.trained.steps, 'step')} on {plural(r.trained.rows, 'row')}, {loss}"))
        if r.trained.cut or r.trained.rejected:
            facts.append(
                ("Over sft.max_length", f"{r.trained.cut} rows cut to their last turns, {r.trained.rejected} left out")
            )
    return [(clean(name), clean(text)) for name, text in facts]


def mended(rounds: Sequence[Round]) -> Table:
    """Failures found in each round, how many had a revision that the judge passed, and what came of the round."""
    judged = [r for r in rounds if r.judged]
    rows = [
        (
            str(r.number),
            f"{r.failed} of {r.answers}",
            str(r.mended),
            str(r.proposed),
            str(sum(n for _, n in (*r.rows, *r.pairs))),
            f"{r.state}, {r.share:.0%} of the change" if r.state == "kept" else r.state,
        )
        for r in ends(judged)
    ]
    unit = rounds[0].unit.capitalize() if rounds else ""
    return Table(
        (unit, "Failed", "Mended", "New principles", "Rows and pairs", "Came of it"),
        rows,
        left_out(len(judged), unit.lower()),
    )


def figure_cells(figure: Figure) -> tuple[str, str, str, str]:
    """Name, before any training, after this round, n."""

    def text(value: float | None) -> str:
        if value is None:
            return "–"
        return share(value, figure.n or 0) if figure.is_share else f"{value:.1f}"

    return figure.name, text(figure.base), text(figure.fresh), "not known" if figure.n is None else str(figure.n)


def disagreement_cells(d: Disagreement) -> tuple[str, str, str]:
    alone = f"{d.only_evaluator} by the evaluator alone, {d.only_word_match} by word match alone"
    return f"{d.name}, {d.when}", f"{d.total} of {d.n}", alone


def tax_rows(tax: AlignmentTax) -> list[tuple[str, ...]]:
    """Head and a line a benchmark."""
    body = [
        (
            f"{t.name} ({t.variant})",
            sided_share(t.change.before),
            sided_share(t.change.after),
            str(t.change.n),
            t.no_signal or percent(t.percent),
            f"{points(t.change.difference, t.change.n)} ({interval(t.change.low, t.change.high, t.change.n)})",
        )
        for t in tax.lines
    ]
    return [("Benchmark", "Before", "After", "n", "Tax", "Points (95%)"), *body]


def sided_share(value: Estimate) -> str:
    return share(value.value, value.n)


def tax_note(tax: AlignmentTax) -> str:
    over = f" over {plural(tax.n_benchmarks, 'benchmark')}" if tax.n_benchmarks else ""
    return (
        f"Tax: percent of the base's own score, (base − aligned)/base; above 0 is lost. Average: {percent(tax.average)}{over}. "
        "A benchmark on which the base is not above chance has no signal and is in no average."
    )


def percent(value: float | None) -> str:
    """Of a hundred, with its sign."""
    return "–" if value is None else points(value / 100, 1000) + "%"


def settings(summary: Summary) -> list[tuple[str, str]]:
    """The essentials of the config, roles first."""
    c = summary.config
    found = [(r.name, r.what + (f" [{r.identity}]" if r.identity else "")) for r in summary.roles]
    sets = ", ".join(dict.fromkeys(d.source for d in (*c.prompts.red_team, *c.prompts.harmless)))
    per_round = f"{c.prompts.red_team_per_round} red-team + {c.prompts.harmless_per_round} harmless a round"
    apart = f"at most {c.prompts.validation} validation and {c.prompts.held_out} held-out of each side"
    principles = plural(c.revise.max_principles, "principle") if c.revise.max_principles else "all principles"
    found += [
        ("recipe", f"{c.recipe}, seed {c.seed}, {plural(c.rounds, 'round')}"),
        ("prompts", f"{sets}; {per_round}; {apart}; held out: {summary.asked}"),
        ("revision", f"{plural(c.revise.candidates, 'candidate')} an answer, {principles} each"),
        ("training", training(c)),
        ("evaluation", f"temperature {c.evaluate.temperature:g}, at most {c.evaluate.max_new_tokens} new tokens"),
    ]
    return [(name, clean(text)) for name, text in found]


def training(c: RunConfig) -> str:
    """Each way in which a round is trained, in turn."""
    if c.recipe == "in_context":
        return "none: the principles stand in the system message"

    def say(name: str, t: TrainConfig, more: str) -> str:
        lora = f"LoRA rank {t.lora.rank}" if t.lora else "all weights"
        return f"{name}, learning rate {t.learning_rate:g}, {t.epochs:g} epochs, batch {t.batch}, {lora}; {more}"

    start = "the last kept round" if c.sft.start == "round" else "the untouched policy"
    towards = {"round": "the policy that it begins with", "base": "the untouched policy"}
    own = f"harmless share {c.sft.harmless_share:.0%}; every round starts from {start}"
    found = [say("SFT", c.sft, own)] if "sft" in c.learn else []
    if "dpo" in c.learn:
        found.append(say("DPO", c.dpo, f"beta {c.dpo.beta:g}, reference {towards[c.dpo.reference]}"))
    if "rl" in c.learn:
        by = "a reward model of the round's pairs" if c.rl.reward == "model" else "the judge"
        more = f"{c.rl.samples} answers a prompt, rewarded by {by}; beta {c.rl.beta:g}, reference {towards[c.rl.reference]}"
        found.append(say(c.rl.method.upper(), c.rl, more))
    return "; then ".join(found)


def checkpoint_text(summary: Summary) -> str:
    """Relative to the run directory: a report may be sent to someone."""
    if not summary.config.phases:
        return "none: nothing was trained"
    if summary.checkpoint is None:
        return f"none: {summary.untouched}"
    there = "" if summary.checkpoint.is_dir() else " (no longer there)"
    weights = f", weights {summary.weights}" if summary.weights else ""
    return f"{summary.checkpoint.relative_to(summary.folder)}{weights}{there}"
