"""Which device and number format to compute in."""

import os
import time

import torch

# torch asks for this at its first allocation: large tensors in huge pages cost fewer page faults (a training step of
# the demo on 2 cores: 6 % of its median)
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(wanted: str) -> torch.device:
    if wanted != "auto":
        return torch.device(wanted)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def pick_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """ "auto" is bfloat16 on an accelerator, and on a CPU the faster of float32 and bfloat16."""
    return DTYPES[measured_dtype(device) if wanted == "auto" else wanted]


def measured_dtype(device: torch.device) -> str:
    if device.type != "cpu":
        return "bfloat16"
    seconds = product_seconds()
    return min(seconds, key=lambda name: seconds[name])


def product_seconds(budget: float = 0.3) -> dict[str, float]:
    """Seconds of a matrix product in each format. The two take turns for `budget` seconds and the best time of
    each counts, so that a machine that is busy with something else does not decide."""
    best: dict[str, float] = {"float32": float("inf"), "bfloat16": float("inf")}
    pairs = {n: (torch.ones(512, 576, dtype=DTYPES[n]), torch.ones(576, 1536, dtype=DTYPES[n])) for n in best}
    end = time.perf_counter() + budget
    rounds = 0
    while rounds < 8 or time.perf_counter() < end:
        for name, (a, b) in pairs.items():
            start = time.perf_counter()
            torch.mm(a, b)
            best[name] = min(best[name], time.perf_counter() - start)
        rounds += 1
    return best
