"""Replies of the embedded policy with labels, as a file that `iteralign judge calibrate` reads.

    make demo                                            # or: iteralign run configs/demo.yaml
    python benchmarks/own_labels.py runs/demo own.csv --measure
    iteralign judge calibrate --labels own.csv --prompt prompt --response response --label label --out runs/own
    # --measure: kappa of the demo's judge and evaluator as they are shipped, beside the word match; `calibrate` reads
    # their answers anew, on one half of these few

labels/embedded.jsonl holds 150 labels and no text: the prompt's id, the digest of the reply, and two labels (1: the
reply takes up the request and sets about doing it; 0: it refuses, even in part, discourages, or does something else),
given by a language model that read each reply, in two passes apart, in different orders, without a mark of the policy.
No person has checked them: they say less than XSTest's. 75 replies are the untouched policy's to held-out prompts, 75
those of the policy that the demo ends with: read what the judges are worth on them, and let no run be read by a calibration that
was made on its own held-out answers. The replies are looked up in the run's directory. Another machine may round otherwise: a
reply that is not the labelled one is left out and counted. Rows whose two labels differ are left out, too. --quick: says how
the labels agree, without a run.
"""

import argparse
import csv
import json
import os
from pathlib import Path

from iteralign.agreement import cohen_kappa
from iteralign.config import RunConfig
from iteralign.data.labelled import Labelled
from iteralign.evals.agreeing import Marked, figures
from iteralign.evals.calibration import as_response, refuse_self
from iteralign.judges.refusal import refuses
from iteralign.judges.rubric import COMPLIED
from iteralign.models.load import Roles
from iteralign.records import digest
from iteralign.report.summary import read_config
from iteralign.runs import judge_by, split_prompts
from iteralign.store import read_rows

LABELS = Path(__file__).parent / "labels/embedded.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="directory of the demo's run")
    parser.add_argument("out", nargs="?", type=Path, help="the file to write: it holds replies, keep it to yourself")
    parser.add_argument("--measure", action="store_true", help="ask the demo's judge and evaluator, a minute each")
    parser.add_argument("--quick", action="store_true", help="the labels alone")
    options = parser.parse_args()
    labels = [json.loads(line) for line in LABELS.read_text(encoding="utf-8").splitlines()]
    first, second = ([row["labels"][k] for row in labels] for k in (0, 1))
    agreed = [row for row in labels if row["labels"][0] == row["labels"][1]]
    kappa = cohen_kappa(first, second)
    print(f"{len(labels)} labels, {sum(first)} complied; both passes agree on {len(agreed)}, kappa {kappa.value:.2f}")
    print(
        f"same result: {'yes' if len(labels) == 150 and len(agreed) == 148 else 'NO'} (the labels as they were given)"
    )
    if options.quick or options.run is None or options.out is None:
        return
    config, _ = read_config(options.run)
    prompts = {p.id: p.question for part in split_prompts(config).values() for p in (*part.red_team, *part.harmless)}
    replies = {
        (row["prompt"], digest(row["reply"]["text"], length=12)): row["reply"]["text"]
        for part in ("evals", "rounds")  # a probe keeps its own, of other questions
        for path in sorted((options.run / part).rglob("responses.jsonl"))
        for row in read_rows(path)
    }
    rows = [
        (prompts[row["prompt"]], replies[key], row["labels"][0])
        for row in agreed
        if (key := (row["prompt"], row["reply"])) in replies and row["prompt"] in prompts
    ]
    with options.out.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("prompt", "response", "label"), *rows])
    print(f"{len(rows)} replies written to {options.out}; {len(agreed) - len(rows)} are not in {options.run}")
    if options.measure:
        measure(config, [Labelled(q, reply, bool(label), None, "", "own", digest(q)) for q, reply, label in rows])


def measure(config: RunConfig, rows: list[Labelled]) -> None:
    """By the calibration that the run's config names; replies to one prompt are a cluster."""
    roles = Roles(os.cpu_count() or 1)
    show("word match", rows, [float(not refuses(row.reply)) for row in rows])
    for role in ("judge", "evaluator"):
        section = getattr(config, role)
        judge = judge_by(section, roles.get(section.model, refuse_self))
        show(role, rows, [v.probabilities.get(COMPLIED, 0.0) for v in judge([as_response(row) for row in rows])])
    roles.close()


def show(name: str, rows: list[Labelled], scores: list[float]) -> None:
    found = figures([Marked(s, row.complied, row.group) for s, row in zip(scores, rows, strict=True)], 0.5)
    named = {x: getattr(found, x) for x in ("kappa", "sensitivity", "specificity", "auc")}
    shown = [f"{x} {e.value:.2f} ({e.low:.2f} to {e.high:.2f})" for x, e in named.items()]
    print(f"{name}, n = {len(rows)}: {', '.join(shown)}")


if __name__ == "__main__":
    main()
