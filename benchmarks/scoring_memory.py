"""How much memory scoring takes beside the model, at any number of items.

    python benchmarks/scoring_memory.py [--model policy] [--truthfulqa FOLDER] [--questions 20 100 817]
    python benchmarks/scoring_memory.py --quick     # 20 and 60 items of HHH: half a minute

All ways of TruthfulQA's questions (MC1 and MC2 with and without preamble, P(True)) on a CPU, as `iteralign eval` asks
them. The peak of resident memory over what the process held with the model loaded and warm; bound: the model's own
size, so that both together stay under twice the model. Linux only (/proc/self).
"""

import argparse
import re
import sys
from pathlib import Path

from iteralign.config import TransformersConfig
from iteralign.evals.answers import answer
from iteralign.evals.benchmarks import hhh, truthfulqa
from iteralign.models.load import load_model
from iteralign.models.transformers import TransformersModel
from iteralign.sources import fetch

MIB = 2**20


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", default="policy", help="a folder, hub id or name of the sources table (policy)")
    arguments.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16 (auto)")
    arguments.add_argument("--truthfulqa", type=Path, help="a copy at hand; otherwise it is fetched")
    arguments.add_argument("--questions", type=int, nargs="+", default=[20, 100, 817], help="20 100 817")
    arguments.add_argument("--quick", action="store_true", help="20 and 60 items of HHH")
    options = arguments.parse_args()
    model = load_model(TransformersConfig(model=options.model, dtype=options.dtype))
    if not isinstance(model, TransformersModel):
        sys.exit(f"{options.model}: expected a causal model")
    own = sum(p.numel() * p.element_size() for p in model.module.parameters()) / MIB
    items = hhh(fetch("hhh")) if options.quick else truthfulqa(options.truthfulqa or fetch("truthfulqa"))
    ids = list(dict.fromkeys(item.id for item in items))
    answer(items[:2], model)
    start = resident("VmRSS")
    print(f"the model holds {own:.0f} MiB; the process with it {start:.0f} MiB")
    within = True
    for n in [20, 60] if options.quick else options.questions:
        asked = set(ids[:n])
        part = [item for item in items if item.id in asked]
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
        answer(part, model)
        more = resident("VmHWM") - start
        within &= more < own
        print(
            f"{len(asked):4} questions, {len(part):5} items: {more:4.0f} MiB more, {more / own:.2f} of the model",
            flush=True,
        )
    print(f"same result: {'yes' if within else 'NO'} (under the model's own size at every number of items)")
    raise SystemExit(not within)


def resident(name: str) -> float:
    """VmRSS: now; VmHWM: the peak. MiB."""
    found = re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


if __name__ == "__main__":
    main()
