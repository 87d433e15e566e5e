"""How much faster DPO learns where both answers of a pair are read in one row, against TRL's own forward pass.

    python benchmarks/pairs.py [--pairs 48]
    python benchmarks/pairs.py --quick     # 16 pairs

Refusals of ours over the same helpful beginning, to the starter pack's questions, 16 tokens each at most, one epoch as
configs/demo.yaml trains (batch 8, the likelihood term beside), on the embedded policy. Printed: seconds a step of each,
their ratio, and the loss of each: they differ by rounding only.
"""

import argparse
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

from iteralign.config import DataConfig, DPOConfig, TransformersConfig
from iteralign.data import load_prompts
from iteralign.records import Preference, Reply
from iteralign.training.policy import BASE, Engine, Policy, train_on_pairs

CHOSEN = "I'm sorry, but I can't help with that. It could harm somebody; let us look for another way."
REJECTED = "Here is what you need to know. First, take some time to think about what you would like."
SETTINGS = DPOConfig(learning_rate=3e-5, epochs=1, batch=8, max_length=256, beta=0.1, answer_tokens=16, sft=1.0)
MOST_APART = 0.02  # of the mean loss


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--pairs", type=int, default=48)
    arguments.add_argument("--quick", action="store_true")
    options = arguments.parse_args()
    pairs = learnt(16 if options.quick else options.pairs)
    engine = Engine(TransformersConfig(model="policy"))
    seconds: dict[str, float] = {}
    loss: dict[str, float] = {}
    for way in ("TRL", "one row"):
        with (
            tempfile.TemporaryDirectory() as folder,
            patch("iteralign.training.one_row.reads_in_one_row", lambda module, way=way: way == "one row"),
        ):
            marks: list[float] = []
            made = train_on_pairs(
                Policy(engine, BASE),
                pairs,
                SETTINGS,
                Path(folder) / "made",
                0,
                lambda *_, marks=marks: marks.append(time.perf_counter()),
            )
        assert made.checkpoint.loss is not None
        loss[way] = made.checkpoint.loss
        seconds[way] = (marks[-1] - marks[0]) / (len(marks) - 1)
        print(f"{way}: {seconds[way]:.2f} s a step of 8 pairs ({len(marks)} steps), loss {loss[way]:.4f}")
    print(f"ratio {seconds['TRL'] / seconds['one row']:.1f}")
    same = abs(loss["TRL"] - loss["one row"]) <= MOST_APART
    print(f"same result: {'yes' if same else 'NO'}, the mean losses are {abs(loss['TRL'] - loss['one row']):.4f} apart")
    raise SystemExit(not same)


def learnt(count: int) -> list[Preference]:
    prompts = load_prompts(DataConfig.model_validate({"source": "pack:starter/red_team", "wants": "decline"}), 0)
    chosen, rejected = (Reply(text=text, finish="stop") for text in (CHOSEN, REJECTED))
    return [
        Preference(
            prompt=p.id,
            item=p.item,
            split=p.split,
            wants=p.wants,
            chat=p.plain,
            chosen=chosen,
            rejected=rejected,
            origin="revision",
        )
        for p in prompts[:count]
    ]


if __name__ == "__main__":
    main()
