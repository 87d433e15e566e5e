"""How far a policy has gone from the one that it began as: KL(base || policy) on fixed prompts."""

from collections.abc import Callable, Sequence

from iteralign.models.base import Model
from iteralign.records import Record, Response
from iteralign.stats import Estimate, mean
from iteralign.store import Store


class Told(Record):
    """Natural-log probabilities of one answer's tokens, by one policy."""

    prompt: str
    tokens: tuple[float, ...]


def told(store: Store, name: str, samples: Sequence[Response], model: Callable[[], Model]) -> list[Told]:
    """`samples`: answers that the base drew. An empty one has no token and is left out."""
    written = [r for r in samples if r.reply.text.strip()]

    def score(part: Sequence[Response]) -> list[Told]:
        found = model().loglikelihoods([(r.prompt.sent, r.reply.text) for r in part])
        rows = zip(part, found, strict=True)
        return [Told(prompt=r.prompt.id, tokens=tuple(round(x, 4) for x in row)) for r, row in rows]

    return store.each(name, written, score, lambda row: Told(**row))


def kl(base: Sequence[Told], policy: Sequence[Told]) -> Estimate:
    """Nats a token: the mean of log P(base) - log P(policy) over tokens that the base drew at temperature 1, which is
    their KL divergence up to the draw. The tokens of an answer are a cluster. ValueError: the answers differ."""
    values: list[float] = []
    clusters: list[str] = []
    for a, b in zip(base, policy, strict=True):
        if a.prompt != b.prompt or len(a.tokens) != len(b.tokens):
            raise ValueError(f"prompt {a.prompt}: the two policies scored different tokens")
        values += [x - y for x, y in zip(a.tokens, b.tokens, strict=True)]
        clusters += [a.prompt] * len(a.tokens)
    return mean(values, clusters)
