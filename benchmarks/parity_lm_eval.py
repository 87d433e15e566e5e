"""Whether log-likelihoods, MC1 and MC2 of TruthfulQA equal those of lm-evaluation-harness's own HF backend.

    python benchmarks/parity_lm_eval.py [--items 40] [--file mc_task.json] [--model policy] [--quick]

Both sides score the same text with the same weights in fp32: the harness's HFLM is handed the module and the tokenizer
that are loaded already. Each question is asked with a preamble (the first questions of the file with their best
answers) and without. Prints the largest difference of an option's log-likelihood, the MC1 and MC2 of both sides and how
many items differ, and the time of each. Same result: every option within 1e-3, greedy flags and every item's MC1 equal,
MC2 within 1e-3. Needs the extra lm-eval. --quick: six short questions of our own, under a minute.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

TOLERANCE = 1e-3
SHOTS = 2
YES, NO = "Yes, it is.", "No, it is not."
OWN = [
    ("Is water wet?", YES),
    ("Is ice hot?", NO),
    ("Is bread food?", YES),
    ("Is sand a drink?", NO),
    ("Is iron a metal?", YES),
    ("Is an owl a bird?", YES),
    ("Is a cat a fish?", NO),
    ("Is tea a stone?", NO),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=40, help="questions (40 of 817)")
    parser.add_argument("--file", type=Path, help="mc_task.json (the one that `iteralign pull truthfulqa` fetches)")
    parser.add_argument("--model", default="policy", help="a causal model: folder, hub id or name (policy)")
    parser.add_argument("--batch", type=int, default=8, help="the harness's batch (8)")
    parser.add_argument("--quick", action="store_true", help="six questions of our own")
    options = parser.parse_args()
    from lm_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]
    from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]

    from iteralign.config import TransformersConfig
    from iteralign.evals.harness import wrapped
    from iteralign.models.load import load_model
    from iteralign.models.transformers import TransformersModel

    model = load_model(TransformersConfig(model=options.model, dtype="float32"))
    assert isinstance(model, TransformersModel), f"{options.model} is no causal model"
    rows = [own(*row) for row in OWN] if options.quick else read(options.file)
    before, rows = preamble(rows[:SHOTS]), rows[SHOTS : SHOTS + options.items]
    asked = [
        (n, task, opening + question(row))
        for opening in (before, "")
        for n, row in enumerate(rows)
        for task in ("mc1", "mc2")
    ]
    pairs = [(context, f" {option}") for n, task, context in asked for option in rows[n][f"{task}_targets"]]
    requests = [Instance(request_type="loglikelihood", doc={}, arguments=p, idx=k) for k, p in enumerate(pairs)]
    theirs = HFLM(pretrained=model.module, tokenizer=model.tokenizer, batch_size=options.batch)
    found: dict[str, list[tuple[float, bool]]] = {}
    for name, backend in (("iteralign", wrapped(model)), ("lm-eval", theirs)):
        start = time.perf_counter()
        found[name] = backend.loglikelihood(requests)
        print(
            f"{name}: {len(pairs)} options of {len(rows)} questions in {time.perf_counter() - start:.1f} s", flush=True
        )

    totals = {name: np.array([total for total, _ in said]) for name, said in found.items()}
    apart = float(np.abs(totals["iteralign"] - totals["lm-eval"]).max())
    flags = sum(a[1] != b[1] for a, b in zip(*found.values(), strict=True))
    print(f"largest difference of a log-likelihood: {apart:.1e}; greedy flags that differ: {flags} of {len(pairs)}")
    same = apart <= TOLERANCE and not flags
    for task in ("mc1", "mc2"):
        ours, harness = (np.array(outcomes(task, asked, rows, totals[name])) for name in ("iteralign", "lm-eval"))
        differ = int((np.abs(ours - harness) > (0 if task == "mc1" else TOLERANCE)).sum())
        print(f"{task}: {ours.mean():.4f} and {harness.mean():.4f}; {differ} of {len(ours)} items differ")
        same = same and not differ
    print(f"same result: {'yes' if same else 'NO'}")
    raise SystemExit(not same)


def read(path: Path | None) -> list[dict[str, Any]]:
    from iteralign.sources import fetch

    return json.loads((path or fetch("truthfulqa") / "data" / "mc_task.json").read_text(encoding="utf-8"))


def own(asked: str, right: str) -> dict[str, Any]:
    targets = {option: int(option == right) for option in (YES, NO)}
    return {"question": asked, "mc1_targets": targets, "mc2_targets": targets}


def question(row: dict[str, Any]) -> str:
    return f"Q: {row['question'].strip()}\nA:"


def preamble(rows: list[dict[str, Any]]) -> str:
    best = [next(option for option, right in row["mc1_targets"].items() if right) for row in rows]
    return "".join(f"{question(row)} {answer}\n\n" for row, answer in zip(rows, best, strict=True))


def outcomes(task: str, asked: list[tuple[int, str, str]], rows: list[dict[str, Any]], totals: Any) -> list[float]:
    """MC1: whether the right option is the likeliest. MC2: the right options' share of the probability."""
    values: list[float] = []
    at = 0
    for n, name, _ in asked:
        right = np.array(list(rows[n][f"{name}_targets"].values()), dtype=bool)
        part = totals[at : at + len(right)]
        at += len(right)
        if name == task == "mc1":
            values.append(float(right[part.argmax()]))
        elif name == task:
            shares = np.exp(part - part.max())
            values.append(float(shares[right].sum() / shares.sum()))
    return values


if __name__ == "__main__":
    main()
