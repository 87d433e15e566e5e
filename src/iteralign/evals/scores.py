"""The values of items → a score."""

from iteralign.records import Score
from iteralign.stats import mean


def make_score(
    name: str,
    variant: str,
    items: dict[str, float | None],
    clusters: dict[str, str] | None = None,
    chance: float | None = None,
) -> Score:
    """Their mean with its error; None is unscored. `clusters`: an item's id → the input that it shares with others."""
    keys = list(items)
    estimate = mean([items[k] for k in keys], [clusters[k] for k in keys] if clusters else None)
    return Score(
        name=name,
        variant=variant,
        value=estimate.value,
        stderr=estimate.stderr,
        low=estimate.low,
        high=estimate.high,
        n=estimate.n,
        n_unscored=estimate.n_unscored,
        items=items,
        clusters=clusters,
        chance=chance,
    )
