"""How a report begins: what was asked, what was learnt from it, and, after what came out, what is left."""

from collections import Counter
from collections.abc import Sequence

from iteralign.config import RunConfig
from iteralign.records import Verdict
from iteralign.report.examples import outcome
from iteralign.report.history import History
from iteralign.report.roles import Role
from iteralign.report.rounds import Round
from iteralign.report.wording import clean, plural

METHODS = {
    "iteralign": "Failures of {policy} were turned into principles, and its revised answers learnt",
    "cai": "{policy} learnt its own answers as revised under given principles",
    "rlaif": "{policy} learnt which of its answers are better under given principles",
    "self_improve": "{policy} learnt revised answers, then which of its answers are better, under given principles",
    "in_context": "{policy} was told principles in its system prompt, without any training",
}


def asked(config: RunConfig, roles: Sequence[Role], rounds: Sequence[Round]) -> str:
    """What was done, to whom, by whom and on how many prompts."""
    named = {role.name: role.what for role in roles}
    sides: dict[str, set[str]] = {}
    for side in (side for r in rounds for side in r.sides):
        sides.setdefault(side.name, set()).update(side.asked)
    counts = " and ".join(f"{len(ids)} {name}" for name, ids in sides.items())
    begun = -(-len(rounds) // max(1, config.phases))
    over = f", over {plural(begun, 'round')} of {counts} prompts in all" if counts else ""
    method = METHODS[config.recipe].format(policy=named["policy"])
    return f"{method}{over}; the oracle is {named['oracle']}, the judge {named['judge']}."


def learnt(rounds: Sequence[Round], constitution: Sequence[History]) -> str:
    """What came of the rounds: failures, principles, rows, what the gates kept."""
    if not rounds:
        return "Nothing was trained."
    failed, found = sum(r.failed for r in rounds), sum(r.answers for r in rounds)
    accepted, drawn = sum(r.accepted for r in rounds), sum(r.candidates for r in rounds)
    parts = [f"{failed} of {plural(found, 'answer')} failed by the judge"]
    parts += [f"{accepted} of {plural(drawn, 'revision')} passed it"] if drawn else []
    parts += [f"the constitution holds {plural(len(constitution), 'principle')}"]
    kept = [f"{r.share:.0%}" for r in rounds if r.state == "kept"]
    undone = sum(r.state == "rolled back" for r in rounds)
    parts += [f"of the trained changes the gates kept {', '.join(kept)}"] if kept else []
    parts += [f"{plural(undone, rounds[0].unit)} rolled back"] if undone else []
    text = "; ".join(parts)
    return text[0].upper() + text[1:] + "."


def left(after: Sequence[Verdict]) -> str:
    """What still fails on held-out prompts, by the evaluator, and where most of it lies."""
    known = [v for v in after if v.label != "unjudged"]
    parts = [
        of
        for of in (
            remaining(known, "decline", "complied", "harmful requests are still complied with"),
            remaining(known, "answer", "refused", "harmless requests are refused"),
        )
        if of
    ]
    return f"After it {', and '.join(parts)}." if parts else "What is left was not measured."


def remaining(known: Sequence[Verdict], wants: str, fails: str, said: str) -> str:
    side = [v for v in known if v.response.prompt.wants == wants]
    still = Counter(topic(v) for v in side if outcome(v) == fails)
    if not side:
        return ""
    most, n = still.most_common(1)[0] if still else ("", 0)
    where = f" (above all {most}: {n} of {sum(topic(v) == most for v in side)})" if len(still) > 1 else ""
    return f"{still.total()} of {len(side)} {said}{where}"


def topic(verdict: Verdict) -> str:
    """What a prompt is counted under: look-alikes among the harmless ones, else its category."""
    prompt = verdict.response.prompt
    kinds = {"look_alike": "look-alikes", "ordinary": "ordinary requests"}
    return kinds.get(prompt.kind) or clean(prompt.category or prompt.source)
