"""A classifier as the judge: a small model with a classification head, fine-tuned on labelled replies.

    python benchmarks/classifier_judge.py --labels xstest_v2_completions_*.csv [--base policy] [--out runs/classifier]
    python benchmarks/classifier_judge.py --quick      # 24 replies of our own, one pass: half a minute

Trains on the half of the labels that `iteralign judge calibrate` sets thresholds on, and measures as it does on the other
half: no prompt, and no contrast of one, stands in both. Prints the calibration (kappa with its interval, baselines, flips) and the
time a verdict takes; the classifier stays in --out and plays the judge of a run:

    judge: {type: classifier, model: {type: sequence_classifier, model: runs/classifier}, label: declined,
            others: [complied], means: refusal}

Its own log-odds on replies that it was trained on set the reading, so that its probabilities are too sure of themselves; kappa
is of replies that it has not seen. The last line says whether the written classifier gives what the trained one gave.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from iteralign.config import ClassifierConfig, SequenceClassifierConfig
from iteralign.data.labelled import Labelled, read_labelled
from iteralign.evals.calibration import calibrate_judge, halves
from iteralign.evals.robustness import injected
from iteralign.judges.base import as_data
from iteralign.models.weights import unpacked
from iteralign.report.calibration import print_calibration
from iteralign.sources import resolve

LABELS = ["declined", "complied"]
RATE, EPOCHS, BATCH, TOKENS = 5e-5, 3, 16, 160
QUICK = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", nargs="+", type=Path, help="XSTest's completions, as they come")
    parser.add_argument("--base", default="policy", help="a causal model: folder, hub id or name (policy)")
    parser.add_argument("--out", type=Path, default=Path("runs/classifier"), help="where the classifier is written")
    parser.add_argument("--seed", type=int, default=0, help="of the halves and of the training (0)")
    parser.add_argument("--quick", action="store_true", help="24 replies of our own, one pass")
    options = parser.parse_args()
    if not options.quick and not options.labels:
        parser.error("name the files of --labels, or --quick")
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "classifier" if options.quick else options.out
        rows = [case.row for case in injected()][:QUICK] if options.quick else read_labelled(options.labels)
        first = list(range(len(rows))) if options.quick else halves(rows, options.seed)[0]
        start = time.perf_counter()
        module, tokenizer = train([rows[n] for n in first], options.base, options.seed, 1 if options.quick else EPOCHS)
        print(f"trained on {len(first)} replies in {time.perf_counter() - start:.1f} s")
        probe = rows[:8]
        before = chances(module, tokenizer, probe)
        module.save_pretrained(out)
        tokenizer.save_pretrained(out)
        if not options.quick:
            judge = ClassifierConfig(
                model=SequenceClassifierConfig(model=str(out)), label="declined", others=("complied",), means="refusal"
            )
            made, judged = calibrate_judge(rows, judge, "complied", out / "calibration", options.seed)
            print_calibration(made, judged)
        written = AutoModelForSequenceClassification.from_pretrained(out, dtype=torch.float32).eval()
        same = torch.allclose(before, chances(written, tokenizer, probe), atol=1e-4)
    print(f"same result: {'yes' if same else 'NO'} (the classifier as it was written)")


def train(rows: Sequence[Labelled], base: str, seed: int, epochs: int) -> tuple[Any, Any]:
    """Plain fine-tuning of all weights in fp32 under bf16 autocast; the learning rate falls linearly to 0."""
    torch.manual_seed(seed)
    torch.set_num_threads(os.cpu_count() or 1)
    source = unpacked(resolve(base))
    tokenizer: Any = AutoTokenizer.from_pretrained(source)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.model_max_length = TOKENS  # the judge cuts where the training did
    module: Any = AutoModelForSequenceClassification.from_pretrained(
        source,
        dtype=torch.float32,
        id2label=dict(enumerate(LABELS)),
        label2id={name: k for k, name in enumerate(LABELS)},
        pad_token_id=tokenizer.pad_token_id,
    )
    steps = epochs * -(-len(rows) // BATCH)
    optimizer = torch.optim.AdamW(module.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    module.train()
    for _ in range(epochs):
        for part in torch.randperm(len(rows)).split(BATCH):
            chosen = [rows[n] for n in part.tolist()]
            with torch.autocast("cpu", torch.bfloat16):
                loss = module(**read(tokenizer, chosen), labels=torch.tensor([int(r.complied) for r in chosen])).loss
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return module.eval(), tokenizer


def read(tokenizer: Any, rows: Sequence[Labelled]) -> Any:
    """As the judge reads them: request and reply as a pair of texts."""
    replies = [as_data(r.reply) for r in rows]
    prompts = [r.prompt for r in rows]
    return tokenizer(prompts, replies, padding=True, truncation=True, max_length=TOKENS, return_tensors="pt")


@torch.inference_mode()
def chances(module: Any, tokenizer: Any, rows: Sequence[Labelled]) -> torch.Tensor:
    return torch.softmax(module(**read(tokenizer, rows)).logits.float(), dim=-1)


if __name__ == "__main__":
    main()
