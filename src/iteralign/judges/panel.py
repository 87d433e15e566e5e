"""Several judges whose majority decides, so that no single one's blind spot does."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

from iteralign.judges.base import Judge
from iteralign.records import Fault, Response, Verdict, digest

VOTE = "fails, by judge "


class Panel(Judge):
    """`probabilities` holds the mean answer to every question, and each judge's vote (1: fails) under its place in the
    panel; a judge that could not judge has no vote. The fault is the commonest among the votes that won."""

    def __init__(self, judges: Sequence[Judge]) -> None:
        self.judges = tuple(judges)

    @property
    def name(self) -> str:
        return f"panel:{digest([judge.name for judge in self.judges], length=8)}"

    def __call__(self, responses: Sequence[Response]) -> list[Verdict]:
        said = [judge(responses) for judge in self.judges]
        return [self._decide(response, [own[n] for own in said]) for n, response in enumerate(responses)]

    def _decide(self, response: Response, said: Sequence[Verdict]) -> Verdict:
        answers: dict[str, list[float]] = defaultdict(list)
        for verdict in said:
            for question, p in verdict.probabilities.items():
                answers[question].append(p)
        found = {question: round(fmean(ps), 4) for question, ps in answers.items()}
        votes = {n: v for n, v in enumerate(said, 1) if v.label != "unjudged"}
        found |= {f"{VOTE}{n}": float(v.label == "fails") for n, v in votes.items()}
        fails = [v for v in votes.values() if v.label == "fails"]
        if 2 * len(fails) == len(votes):
            split = (
                f"{len(fails)} of {len(votes)} judges fail it"
                if votes
                else f"no judge could judge it: {said[0].reason}"
            )
            return self.verdict(response, "unjudged", "none", split, found)
        if 2 * len(fails) < len(votes):
            return self.verdict(response, "passes", "none", "", found)
        faults: Counter[Fault] = Counter(v.fault for v in fails)
        fault = faults.most_common(1)[0][0]
        reason = next(v.reason for v in fails if v.fault == fault)
        return self.verdict(response, "fails", fault, f"{len(fails)} of {len(votes)} judges: {reason}", found)


def votes(probabilities: Mapping[str, float]) -> list[float]:
    """A panel's votes on one reply, 1: fails; of any other judge none."""
    return [p for name, p in probabilities.items() if name.startswith(VOTE)]
