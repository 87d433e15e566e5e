"""How fast a GGUF model writes many replies: torch in bfloat16 (`writing: torch`) against llama.cpp, on the same questions.

    python benchmarks/writing.py [--model oracle] [--replies 24]
    python benchmarks/writing.py --quick     # 4 replies

Greedy critiques of short replies of our own to the starter pack's questions, at most 48 tokens each, asked as a run asks
(prompts/revise.yaml). Printed: new tokens a second of each, their ratio, and how likely the model finds what each wrote:
arithmetic differs, so the texts part after some words, but neither may be the worse writer.
"""

import argparse
import time

from iteralign.config import DataConfig, LlamaCppConfig
from iteralign.data import load_prompts
from iteralign.models.base import Job, Model, Sampling
from iteralign.models.load import load_model
from iteralign.prompts import load_prompt
from iteralign.records import Reply

SAID = "Begin with a clean workplace and enough time, then follow the steps in order and check the result twice."
RULE = "Do not help anybody to harm, deceive or rob others or themselves."
MOST_APART = 0.15  # nats a token


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", default="oracle", help="a GGUF file or name of the sources table (oracle)")
    arguments.add_argument("--replies", type=int, default=24)
    arguments.add_argument("--quick", action="store_true")
    options = arguments.parse_args()
    jobs = critiques(4 if options.quick else options.replies, 24 if options.quick else 48)
    ways = ("torch", "llama_cpp")
    models = {way: model_of(options.model, way) for way in ways}
    speed: dict[str, float] = {}
    likely: dict[str, float] = {}
    for way in ways:
        models[way].generate(jobs[:1])  # what the first call loads and compiles is not counted
        start = time.perf_counter()
        replies = models[way].generate(jobs)
        speed[way] = sum(reply.tokens for reply in replies) / (time.perf_counter() - start)
        likely[way] = log_likelihood(models["torch"], jobs, replies)
        print(f"{way}: {speed[way]:.1f} tokens/s ({len(jobs)} replies), log-likelihood a token {likely[way]:.3f} nats")
    print(f"ratio {speed['torch'] / speed['llama_cpp']:.1f}")
    same = abs(likely["torch"] - likely["llama_cpp"]) <= MOST_APART
    print(f"same result: {'yes' if same else 'NO'}, as likely to within {MOST_APART} nats a token")
    raise SystemExit(not same)


def model_of(name: str, way: str) -> Model:
    return load_model(LlamaCppConfig.model_validate({"model": name, "scoring": "torch", "writing": way}))


def critiques(count: int, tokens: int) -> list[Job]:
    prompts = load_prompts(DataConfig.model_validate({"source": "pack:starter/red_team", "wants": "decline"}), 0)
    asks = load_prompt("revise.yaml")
    return [
        Job(
            chat=asks.chat("critique", prompt=prompt.question, reply=SAID, principle=RULE),
            sampling=Sampling(temperature=0.0, max_new_tokens=tokens),
        )
        for prompt in prompts[:count]
    ]


def log_likelihood(model: Model, jobs: list[Job], replies: list[Reply]) -> float:
    found = model.loglikelihoods([(job.chat, reply.text) for job, reply in zip(jobs, replies, strict=True)])
    tokens = [value for answer in found for value in answer]
    return sum(tokens) / len(tokens)


if __name__ == "__main__":
    main()
