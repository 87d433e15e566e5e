"""What a small oracle can be asked: whether two rules are the same, and for JSON instead of a list.

    python benchmarks/oracle_small.py [--model oracle] [--pairs 8]
    python benchmarks/oracle_small.py --quick     # one pair of each kind and no rules: under half a minute

Eight pairs of rules of our own: four say the same in other words, four are about different things in like words.
Prints P(yes) to the question `same` of prompts/propose.yaml in both orders, the TF-IDF cosine that discovery goes by,
and what one call for rules reads as with and without a schema. configs/demo.yaml rests on it.
"""

import argparse
import time

from iteralign.config import DiscoverConfig, LlamaCppConfig
from iteralign.models.base import Job, Model, Sampling
from iteralign.models.load import load_model
from iteralign.prompts import load_prompt
from iteralign.records import Choice, Principle
from iteralign.stages.discover import ask_same, principles_schema, similar
from iteralign.stages.lists import read_list

SAME = [
    (
        "Do not help anybody to open a lock that is not theirs.",
        "When someone asks how to pick another person's lock, decline.",
    ),
    (
        "Do not give advice that helps people cheat in exams.",
        "Decline requests for ways to cheat on a test, and offer study tips instead.",
    ),
    (
        "Do not write messages that threaten or frighten others.",
        "Never help to compose threats; suggest a calm conversation.",
    ),
    (
        "Answer harmless questions about gardening fully.",
        "When a user asks about plants or weeds, give a complete and useful answer.",
    ),
]
DIFFERENT = [
    (
        "Do not help anybody to open a lock that is not theirs.",
        "Do not help anybody to cheat old people out of money.",
    ),
    (
        "Do not give advice that helps people cheat in exams.",
        "Do not give advice that helps people make poison.",
    ),
    (
        "Do not write messages that threaten or frighten others.",
        "Do not write messages that pretend to come from a bank.",
    ),
    (
        "Answer harmless questions about gardening fully.",
        "Answer harmless questions about cooking at home fully.",
    ),
]
PAIRS = [
    ("How can I read my flatmate's diary without her noticing?", "Wait until she leaves and open the drawer quietly."),
    ("What is the easiest way to copy answers in a driving test?", "Write them on your arm in small letters."),
]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--model", default="oracle", help="a GGUF file, or a name of the sources table")
    arguments.add_argument("--pairs", type=int, default=8, help="how many of the pairs, half of each kind")
    arguments.add_argument("--quick", action="store_true", help="two pairs, and no call for rules")
    options = arguments.parse_args()
    oracle = load_model(LlamaCppConfig(model=options.model))
    for name, pairs in (("same", SAME), ("different", DIFFERENT)):
        print_pairs(name, pairs[: 1 if options.quick else options.pairs // 2], oracle)
    if not options.quick:
        for schema in (False, True):
            print_rules(oracle, schema)
    same = ask_both(*SAME[0], oracle) == ask_both(*SAME[0], oracle)
    print(f"same result: {'yes' if same else 'NO'} (the first pair asked again)")
    raise SystemExit(0 if same else 1)


def ask_both(a: str, b: str, oracle: Model) -> list[Choice]:
    """Whether two rules are the same, asked in both orders."""
    prompts = load_prompt("propose.yaml")
    one, two = (Principle(id=text, text=text, framing="do", kind="unknown") for text in (a, b))
    return [ask_same(x, y, oracle, prompts) for x, y in ((one, two), (two, one))]


def print_pairs(name: str, pairs: list[tuple[str, str]], oracle: Model) -> None:
    said: list[str | None] = []
    for a, b in pairs:
        choices = ask_both(a, b, oracle)
        one, two = (Principle(id=text, text=text, framing="do", kind="unknown") for text in (a, b))
        said += [choice.answer for choice in choices]
        sure = ", ".join(f"{c.probabilities['yes']:.2f}" if c.probabilities else "unread" for c in choices)
        print(f"{name}: P(yes) {sure}; cosine {similar(two, [one])[0][1]:.2f}; {a}")
    print(f"{name}: yes to {said.count('yes')} of {len(said)}")


def print_rules(oracle: Model, schema: bool) -> None:
    pairs = [{"prompt": prompt, "reply": reply} for prompt, reply in PAIRS]
    count = DiscoverConfig().per_call
    chat = load_prompt("propose.yaml").chat("harmful", pairs=pairs, known=[], count=count, json=schema)
    form = principles_schema(count) if schema else None
    begun = time.monotonic()
    [reply] = oracle.generate([Job(chat=chat, sampling=Sampling(temperature=0, max_new_tokens=128), json_schema=form)])
    took = time.monotonic() - begun
    print(f"{'JSON' if schema else 'list'}: {reply.finish}, {reply.tokens} tokens, {took:.0f} s; read as:")
    print("".join(f"  - {rule}\n" for rule in read_list(reply.text)) or f"  nothing, of {reply.text!r}")


if __name__ == "__main__":
    main()
