"""What a principle stands on: the failures that made it, and the answers that were rewritten under it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from iteralign.records import LedgerEntry, Prompt, Verdict
from iteralign.report.examples import QUESTION_WORDS, Answer, answer, read_verdicts, subject
from iteralign.report.rounds import done, stage_rows, stage_tree
from iteralign.report.wording import clean, shortened

SHOWN = 5  # of each, the lowest ids first


@dataclass(frozen=True)
class Failure:
    """A failure that the oracle was shown, in the round in which it was."""

    round: int
    category: str
    question: str
    reply: Answer


@dataclass(frozen=True)
class Rewritten:
    """An answer before and after its revision under a principle; the revision was learnt."""

    round: int
    question: str
    before: Answer
    after: Answer


@dataclass(frozen=True)
class Evidence:
    """Some of `n_failures` distinct failures and of `n_rewritten` revisions that were learnt. `subjects`: side and
    category of all the failures."""

    failures: tuple[Failure, ...] = ()
    n_failures: int = 0
    rewritten: tuple[Rewritten, ...] = ()
    n_rewritten: int = 0
    subjects: frozenset[str] = frozenset()


class RoundFiles:
    """A round's folder; read when first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def verdicts(self) -> list[Verdict]:
        prompts = {row["id"]: Prompt(**row) for row in stage_rows(self.folder, "prompts")}
        return read_verdicts(self.folder, prompts)

    @cached_property
    def failed(self) -> dict[str, Verdict]:
        """By the prompt's id."""
        return {v.response.prompt.id: v for v in reversed(self.verdicts) if v.label == "fails"}

    @cached_property
    def learnt(self) -> set[tuple[str, str]]:
        """Prompt ids and texts of the revisions that the round trained on; none where it was not kept."""
        gate = stage_tree(self.folder, "gate")
        if gate is None or not gate["kept"]:
            return set()
        number, found = int(self.folder.name), set[tuple[str, str]]()
        if done(self.folder, "trained"):
            own = [r for r in stage_rows(self.folder, "rows") if r["origin"] == "revision" and r["round"] == number]
            found |= {(row["prompt"], row["answer"]) for row in own}
        if done(self.folder, "trained-dpo") or done(self.folder, "reward"):
            pairs = [r for r in stage_rows(self.folder, "preferences") if r["origin"] == "revision"]
            found |= {(pair["id"], pair["chosen"][0]["content"].strip()) for pair in pairs}
        return found

    @cached_property
    def revised(self) -> dict[str, list[tuple[Verdict, Verdict]]]:
        """Revisions that were learnt by principle: the verdict before and the one after."""
        own = {v.response.id: v for v in self.verdicts}
        found: dict[str, dict[tuple[str, str], tuple[Verdict, Verdict]]] = {}
        for row in stage_rows(self.folder, "revisions"):
            before = own.get(row["origin"])
            steps = [s for s in row["steps"] if s["reply"] is not None]
            if before is None or not row["accepted"] or not row["after"] or not steps:
                continue
            after = made(before, steps[-1]["reply"], row["after"])
            identity = (before.response.prompt.id, after.response.reply.text.strip())
            for principle in (s["principle"] for s in steps if identity in self.learnt):
                found.setdefault(principle, {}).setdefault(identity, (before, after))
        return {principle: list(pairs.values()) for principle, pairs in found.items()}


def made(before: Verdict, reply: dict[str, object], after: dict[str, object]) -> Verdict:
    policy = str(after["policy"])
    response = before.response.model_copy(update={"reply": type(before.response.reply).model_validate(reply)})
    fields = {name: value for name, value in after.items() if name != "policy"}
    return Verdict.model_validate({"response": response.model_copy(update={"policy": policy}), **fields})


def evidence_of(
    identity: str, ledger: Sequence[LedgerEntry], rounds: Sequence[RoundFiles], full: bool = False, most: int = SHOWN
) -> Evidence:
    """Of a principle, what was merged into it included, at most `most` of each. Harmful text is cut unless `full`."""
    own = [e for e in ledger if identity in (e.principle, e.into)]
    met = {p: e.round for e in reversed(own) for p in e.evidence}
    failed = [
        (r, rounds[r].failed[prompt])
        for prompt, r in sorted(met.items())
        if r < len(rounds) and prompt in rounds[r].failed
    ]
    rewritten = [(n, pair) for n, files in enumerate(rounds) for pair in files.revised.get(identity, [])]
    return Evidence(
        failures=tuple(failure(r, verdict, full) for r, verdict in failed[:most]),
        n_failures=len(met),
        rewritten=tuple(changed(n, pair, full) for n, pair in rewritten[:most]),
        n_rewritten=len(rewritten),
        subjects=frozenset(subject(verdict.response.prompt) for _, verdict in failed),
    )


def failure(round_: int, verdict: Verdict, full: bool) -> Failure:
    prompt = verdict.response.prompt
    return Failure(round_, clean(prompt.category), question(prompt), answer(verdict, full))


def changed(round_: int, pair: Iterable[Verdict], full: bool) -> Rewritten:
    before, after = pair
    return Rewritten(round_, question(before.response.prompt), answer(before, full), answer(after, full))


def question(prompt: Prompt) -> str:
    return shortened(clean(prompt.question), QUESTION_WORDS)
