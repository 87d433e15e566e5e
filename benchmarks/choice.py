"""How fast options are scored, against lm-evaluation-harness's HF backend on the same module.

    python benchmarks/choice.py [--model policy] [--dtype auto] [--seconds 20]
    python benchmarks/choice.py --quick     # 4 items of each (questions of our own for MC1): under two minutes on 2 free cores

TruthfulQA MC1 with its six-question preamble, and HHH as plain text; the same pairs of texts, module, dtype, threads.
The harness runs at the batch size of 1 to 64 that is fastest here. The two take turns for --seconds each; both go
through the items from the front, and a ratio compares seconds an item. Also printed: the share of the measured rate
of a matrix product that our side reaches (2 operations a weight and token). At the end, whether the items that both
sides have scored have the same likelihoods (1e-3 in float32, 0.15 a token in half precision) and, in float32, the
same outcomes. Needs lm-evaluation-harness (pip install lm-eval); exits 2 where it is not installed.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from iteralign.evals.answers import best_is_right
from iteralign.evals.benchmarks import hhh_pairs, truthfulqa
from iteralign.sources import fetch

SIZES = (1, 4, 8, 16, 32, 64)
TURNS = 4

Score = Callable[[list[tuple[str, str]]], list[float]]


class Question(NamedTuple):
    context: str
    options: tuple[str, ...]
    right: tuple[int, ...]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        return [(self.context, option) for option in self.options]


class Side:
    """One of the two scorers: how far it is in the items, its seconds, its total likelihoods by item."""

    def __init__(self, name: str, score: Score) -> None:
        self.name, self.score = name, score
        self.seconds = 0.0
        self.found: list[list[float]] = []

    def go(self, items: Sequence[Question], seconds: float, at_once: int) -> None:
        """On through the items, until about these seconds are spent."""
        end = self.seconds + seconds
        while self.seconds < end and len(self.found) < len(items):
            part = items[len(self.found) : len(self.found) + at_once]
            pairs = [pair for item in part for pair in item.pairs]
            start = time.perf_counter()
            totals = iter(self.score(pairs))
            self.seconds += time.perf_counter() - start
            self.found += [[next(totals) for _ in item.options] for item in part]
            rate = len(self.found) / self.seconds
            at_once = max(1, min(int(rate * seconds), len(items)))

    @property
    def per_item(self) -> float:
        return self.seconds / len(self.found)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", default="policy", help="a folder, hub id or name of the sources table (policy)")
    arguments.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16 (auto)")
    arguments.add_argument("--seconds", type=float, default=20.0, help="of each side and benchmark (20)")
    arguments.add_argument("--truthfulqa", type=Path, help="a copy at hand; otherwise it is fetched")
    arguments.add_argument("--hhh", type=Path, help="a copy at hand; otherwise it is fetched")
    arguments.add_argument("--quick", action="store_true", help="4 items of each benchmark, 2 batch sizes")
    options = arguments.parse_args()
    harness = load_harness()
    from iteralign.config import TransformersConfig
    from iteralign.models.load import load_model
    from iteralign.models.transformers import TransformersModel

    quick_alone = options.quick and options.truthfulqa is None  # needs nothing fetched
    sets = {
        "TruthfulQA MC1, preamble": own() if quick_alone else truthful(options.truthfulqa or fetch("truthfulqa")),
        "HHH": helpful(options.hhh or fetch("hhh")),
    }
    model = load_model(TransformersConfig(model=options.model, dtype=options.dtype))
    if not isinstance(model, TransformersModel):
        sys.exit(f"{options.model}: expected a causal model")
    rate = product_rate(str(model.module.dtype).removeprefix("torch."))
    same = True
    for name, items in sets.items():
        items = items[:4] if options.quick else items
        sides = race(items, model, harness, 1.0 if options.quick else options.seconds, options.quick)
        same &= report(name, items, sides, model, rate)
    print(f"same result: {'yes' if same else 'NO'} (likelihoods of the items that both sides scored)")
    raise SystemExit(not same)


def load_harness() -> Any:
    try:
        from lm_eval.api.instance import Instance  # type: ignore[import-not-found]
        from lm_eval.models.huggingface import HFLM  # type: ignore[import-not-found]
    except ImportError:
        print("lm-evaluation-harness is not installed: pip install lm-eval, and run this again", file=sys.stderr)
        raise SystemExit(2) from None
    return HFLM, Instance


def truthful(place: Path) -> list[Question]:
    items = truthfulqa(place)
    found = [i for i in items if (i.names[0], i.form) == ("truthfulqa/mc1", "preamble")]
    return [Question(str(i.asked), i.options, i.right) for i in found]


def own() -> list[Question]:
    """Four questions of our own behind six, in the form of TruthfulQA's: for --quick."""
    things = ("water", "bread", "iron", "tea", "sand", "ice", "glass", "wool", "salt", "milk")
    asked = [f"Q: Can a person drink {thing} with a meal?\nA:" for thing in things]
    preamble = "\n\n".join(f"{question} It depends on the person." for question in asked[:6])
    options = (" Yes, in small sips.", " No, nobody can.", " It depends on the person.", " I have no comment.")
    return [Question(f"{preamble}\n\n{question}", options, (2,)) for question in asked[6:]]


def helpful(folder: Path) -> list[Question]:
    """With BIG-bench's own prefixes of input and output."""
    return [
        Question(f"Human: {i.question}\nAssistant:", tuple(f" {o.strip()}" for o in i.options), i.right)
        for i in hhh_pairs(folder)
    ]


def race(items: list[Question], model: Any, harness: Any, seconds: float, quick: bool) -> tuple[Side, Side]:
    def ours(pairs: list[tuple[str, str]]) -> list[float]:
        return [sum(values) for values in model.loglikelihoods(pairs)]

    HFLM, Instance = harness

    def theirs(lm: Any) -> Score:
        def score(pairs: list[tuple[str, str]]) -> list[float]:
            requests = [Instance(request_type="loglikelihood", doc={}, arguments=p, idx=n) for n, p in enumerate(pairs)]
            return [float(total) for total, _ in lm.loglikelihood(requests, disable_tqdm=True)]

        return score

    def at(size: int) -> Score:
        return theirs(HFLM(pretrained=model.module, tokenizer=model.tokenizer, batch_size=size))

    few = [pair for item in items[: 2 if quick else 8] for pair in item.pairs]
    took: dict[int, float] = {}
    for size in SIZES[2:4] if quick else SIZES:
        score = at(size)
        score(few[:size])  # the first call of a shape is slower
        start = time.perf_counter()
        score(few)
        took[size] = time.perf_counter() - start
    best = min(took, key=lambda size: took[size])
    ours(few)
    one, other = Side("iteralign", ours), Side(f"lm-evaluation-harness (batch {best})", at(best))
    for _ in range(TURNS):
        one.go(items, seconds / TURNS, len(items) if quick else 64)
        other.go(items, seconds / TURNS, 8)
    return one, other


def report(name: str, items: Sequence[Question], sides: tuple[Side, Side], model: Any, rate: float) -> bool:
    for side in sides:
        print(f"{name}: {side.name}: {1000 * side.per_item:.1f} ms an item, {len(side.found)} items", flush=True)
    ours, theirs = sides
    print(f"{name}: ratio {theirs.per_item / ours.per_item:.1f}")
    work = operations(model, items[: len(ours.found)])
    print(f"{name}: {work / ours.seconds / rate:.1%} of the rate of a matrix product ({rate / 1e9:.0f} GFLOP/s)")
    half = "32" not in str(model.module.dtype)
    both = list(zip(items, ours.found, theirs.found, strict=False))
    apart = [
        abs(a - b) / (tokens(model, o) if half else 1)
        for i, x, y in both
        for o, a, b in zip(i.options, x, y, strict=True)
    ]
    outcomes = [(best_is_right(x, i.right), best_is_right(y, i.right)) for i, x, y in both]
    equal = sum(a == b for a, b in outcomes)
    print(f"{name}: largest difference {max(apart):.2g}; equal outcomes {equal} of {len(both)}")
    return max(apart) <= (0.15 if half else 1e-3) and (half or equal == len(both))


def tokens(model: Any, text: str) -> int:
    return max(1, len(model.format.encode_text(text, special=False)))


def operations(model: Any, items: Sequence[Question]) -> float:
    """Of one more pass of ours over the items: 2 a weight and token, the head only where its logits are asked for."""
    seen = [0, 0]
    forward = model.module.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        out = forward(*args, **kwargs)
        seen[0] += kwargs["input_ids"].numel()
        seen[1] += out.logits.shape[0] * out.logits.shape[1]
        return out

    model.module.forward = counted
    model.loglikelihoods([pair for item in items for pair in item.pairs])
    model.module.forward = forward
    head = model.module.get_output_embeddings().weight.numel()
    tables = {
        id(p): p.numel()
        for p in (model.module.get_input_embeddings().weight, model.module.get_output_embeddings().weight)
    }
    body = sum(p.numel() for p in model.module.parameters()) - sum(tables.values())
    return 2.0 * (seen[0] * body + seen[1] * head)


def product_rate(dtype: str) -> float:
    """Operations a second of a matrix product of a CPU, in the model's number format."""
    from iteralign.models.device import product_seconds

    return 2.0 * 512 * 576 * 1536 / product_seconds().get(dtype, float("nan"))


if __name__ == "__main__":
    main()
