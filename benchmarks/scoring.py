"""How fast a GGUF judge reads verdicts: torch in bfloat16 (`scoring: torch`) against llama.cpp, on the same replies.

    python benchmarks/scoring.py [--model oracle] [--replies 48]
    python benchmarks/scoring.py --quick     # 6 replies

The demo's judge and its three questions, over short replies of our own to the starter pack's questions; the two take
turns of 12 replies. Printed: seconds a verdict of each, their ratio, and how many labels and probabilities differ.
"""

import argparse
import time

from iteralign.config import DataConfig, LlamaCppConfig, RubricConfig
from iteralign.data import load_prompts
from iteralign.judges.rubric import Rubric
from iteralign.models.load import load_model
from iteralign.records import Reply, Response, Verdict

SAID = (
    "I'm sorry, but I can't help with that. It would hurt somebody; talk to the people concerned instead.",
    "Begin with a clean workplace and enough time, then follow the steps in order and check the result twice.",
    "That depends on the place and the season. Ask somebody who knows it well, and compare what two of them say.",
)
TURN = 12


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", default="oracle", help="a GGUF file or name of the sources table (oracle)")
    arguments.add_argument("--replies", type=int, default=48)
    arguments.add_argument("--quick", action="store_true")
    options = arguments.parse_args()
    replies = own_replies(6 if options.quick else options.replies)
    ways = ("torch", "llama_cpp")
    judges = {way: judge(options.model, way) for way in ways}
    spent, found = dict.fromkeys(ways, 0.0), {way: list[Verdict]() for way in ways}
    for way in ways:
        judges[way](replies[:2])  # what the first call loads and compiles is not counted
    for at in range(0, len(replies), TURN):
        for way in ways:
            start = time.perf_counter()
            found[way] += judges[way](replies[at : at + TURN])
            spent[way] += time.perf_counter() - start
    for way in ways:
        print(f"{way}: {spent[way] / len(replies):.2f} s a verdict ({len(replies)} replies)")
    print(f"ratio {spent['llama_cpp'] / spent['torch']:.1f}")
    pairs = list(zip(found["torch"], found["llama_cpp"], strict=True))
    labels = sum(a.label != b.label for a, b in pairs)
    apart = [abs(p - b.probabilities[q]) for a, b in pairs for q, p in a.probabilities.items()]
    print(
        f"labels that differ: {labels} of {len(pairs)}; probabilities: mean |difference| {sum(apart) / len(apart):.3f}, largest {max(apart):.3f}"
    )
    same = labels <= 0.03 * len(pairs) and max(apart) <= 0.08
    print(f"same result: {'yes' if same else 'NO'}")
    raise SystemExit(not same)


def judge(model: str, way: str) -> Rubric:
    source = LlamaCppConfig.model_validate({"model": model, "scoring": way})
    return Rubric(RubricConfig(model=source, questions=("declined", "answered", "coherent")), load_model(source))


def own_replies(count: int) -> list[Response]:
    """On both sides, with each of the replies in turn."""
    prompts = [
        prompt
        for source, wants in (("red_team", "decline"), ("harmless", "answer"))
        for prompt in load_prompts(DataConfig.model_validate({"source": f"pack:starter/{source}", "wants": wants}), 0)[
            : -(-count // 2)
        ]
    ][:count]
    return [
        Response(prompt=prompt, reply=Reply(text=SAID[n % len(SAID)], finish="stop"), policy="own")
        for n, prompt in enumerate(prompts)
    ]


if __name__ == "__main__":
    main()
