"""Which yes/no questions tell a refusal from an answer, on the embedded policy's own answers.

    python benchmarks/judge_questions.py [--items 26] [--quick]

Two piles by construction: the policy's replies to red-team questions, and worked-example refusals of the same
questions; for harmless questions its replies, and the refusals moved there. Prints the AUC and the quantiles that
the thresholds of prompts/rubric.yaml and prompts/evaluator.yaml were set on; at the end, whether the first question
gives the same probabilities when it is asked again. No text is stored. --quick: 1 item, half a minute on 2 free cores.
"""

import argparse

import numpy as np
from sklearn.metrics import roc_auc_score

from iteralign.config import DataConfig, LlamaCppConfig, RubricConfig, TransformersConfig
from iteralign.data import load_prompts
from iteralign.judges.base import as_data, degenerate, head
from iteralign.models.base import Job, Model, Sampling
from iteralign.models.load import load_model
from iteralign.prompts import load_prompt
from iteralign.stages.red_team import red_team

HEAD = int(RubricConfig.model_fields["head_words"].default)
RULE = "Do not help with requests that would harm, deceive or rob somebody. Decline, say why, and offer a fair way."


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--items", type=int, default=26, help="questions of each side (26)")
    arguments.add_argument("--quick", action="store_true", help="1 question of each side")
    options = arguments.parse_args()
    n = 1 if options.quick else options.items
    policy = load_model(TransformersConfig(model="policy", batch=64))
    harmful = questions("pack:starter/red_team", "decline", n)
    harmless = questions("pack:starter/harmless", "answer", n)
    replies = {q: answer(policy, [q])[0] for q in (*harmful, *harmless)}
    worked = load_prompt("revise.yaml")
    jobs = [
        Job(chat=worked.chat("decline", principle=RULE, prompt=q), sampling=SAMPLED, seed=i)
        for i, q in enumerate(harmful)
    ]
    refusals = [r.text.strip() for r in policy.generate(jobs)]
    policy.close()

    judge = load_model(LlamaCppConfig(model="oracle"))
    asked_before: tuple[str, str, list[tuple[str, str]], list[float]] | None = None
    for side, asked in (("harmful", harmful), ("harmless", harmless)):
        answered = [(q, replies[q]) for q in asked if not degenerate(replies[q])]
        refused = [(q, r) for q, r in zip(asked, refusals, strict=True) if not degenerate(r)]
        for name in ("rubric.yaml", "evaluator.yaml"):
            for question in ("declined", "objects", "answered", "coherent", "harmless"):
                if question in load_prompt(name).tree and answered and refused:
                    yes = ask(judge, name, question, answered)
                    asked_before = asked_before or (name, question, answered, yes)
                    show(side, name, question, yes, ask(judge, name, question, refused))
    if asked_before is None:
        raise SystemExit("no pile holds an answer that is not degenerate: give more --items")
    *first, yes = asked_before
    same = ask(judge, *first) == yes
    print(f"same result: {'yes' if same else 'NO'} (the first question asked again)")
    raise SystemExit(not same)


SAMPLED = Sampling(temperature=0.7, top_p=0.9, max_new_tokens=64)


def questions(source: str, wants: str, n: int) -> list[str]:
    prompts = [
        p for p in load_prompts(DataConfig.model_validate({"source": source, "wants": wants}), 0) if p.split == "train"
    ]
    return [p.question for p in red_team(prompts, 0, n, 0)]


def answer(policy: Model, asked: list[str]) -> list[str]:
    from iteralign.records import user

    greedy = Sampling(temperature=0.0, max_new_tokens=64)
    return [r.text.strip() for r in policy.generate([Job(chat=user(q), sampling=greedy) for q in asked])]


def ask(judge: Model, file: str, question: str, pairs: list[tuple[str, str]]) -> list[float]:
    chats = [
        load_prompt(file).chat(question, prompt=q, reply=as_data(r), head=head(as_data(r), HEAD)) for q, r in pairs
    ]
    return [c.probabilities["yes"] for c in judge.choose(chats, ("yes", "no")) if c.probabilities]


def show(side: str, file: str, question: str, answered: list[float], refused: list[float]) -> None:
    auc = roc_auc_score([0] * len(answered) + [1] * len(refused), answered + refused)
    quantiles = [np.round(np.quantile(p, [0.1, 0.5, 0.9]), 2).tolist() for p in (answered, refused)]
    print(f"{side:8} {file:14} {question:9} AUC {auc:.3f}  answers {quantiles[0]}  refusals {quantiles[1]}", flush=True)


if __name__ == "__main__":
    main()
