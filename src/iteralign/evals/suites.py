"""What `iteralign eval --suite` knows: name → benchmark; each measured into evals/NAME, resumably."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub.repocard_data import EvalResult, eval_results_to_model_index

from iteralign.config import RunConfig
from iteralign.errors import ConfigError, DataError, StoreError
from iteralign.evals.answers import GOLD, Answered, Item, answer, item_scores
from iteralign.evals.benchmarks import PROMPTS, arc_easy, drawn, gsm8k, hellaswag, hhh, mmlu, sampled, truthfulqa
from iteralign.evals.harness import known_tasks, run_harness
from iteralign.evals.refusal import both_sides, refusal_scores
from iteralign.evals.written import NOTHING, WRITTEN, Allowed, Written
from iteralign.evals.xstest import Exchange, exchanges, pair_scores, xstest
from iteralign.prompts import load_prompt
from iteralign.records import Prompt, Score, digest
from iteralign.runs import HELD_OUT, Run
from iteralign.sizes import at_hand
from iteralign.sources import Progress, fetch
from iteralign.store import Store, write_text
from iteralign.training.policy import Policy

SAMPLE = 200
BATCH = 256  # items answered between two writes: long enough that a shared preamble is read seldom


@dataclass(frozen=True)
class Benchmark:
    """Questions with right answers. `source`: a name of the sources table, or None where only a local copy is read.
    `sample`: questions by default; None: all."""

    what: str
    read: Callable[[Path], list[Item]]
    source: str | None
    sample: int | None = None


@dataclass(frozen=True)
class TwoSided:
    """Prompts that are answered and judged: compliance with harmful ones, refusal of harmless ones."""

    what: str
    prompts: Callable[[str, int], list[Prompt]] | None = None  # of a place and a seed; None: the config's held-out ones
    scores: Callable[[Sequence[Any]], list[Score]] = refusal_scores


@dataclass(frozen=True)
class Harness:
    """A task of lm-evaluation-harness, whole: it is not resumed in its middle."""

    what: str
    task: str


Suite = Benchmark | TwoSided | Written | Harness
HARNESS = "lm-eval/"

SUITES: dict[str, Suite] = {
    "held_out": TwoSided("the config's held-out prompts, harmful and harmless"),
    "hhh": Benchmark("BIG-bench HHH", hhh, "hhh"),
    "truthfulqa": Benchmark("TruthfulQA", truthfulqa, "truthfulqa"),
    "xstest": TwoSided("XSTest", xstest, lambda verdicts: [*refusal_scores(verdicts), *pair_scores(verdicts)]),
    "arc_easy": Benchmark("ARC-Easy", arc_easy, None, SAMPLE),
    "hellaswag": Benchmark("HellaSwag", hellaswag, None, SAMPLE),
    "mmlu": Benchmark("MMLU", mmlu, None, SAMPLE),
    "gsm8k": Benchmark("GSM8K", gsm8k, "gsm8k", SAMPLE),
    **WRITTEN,
}
DEFAULT = "held_out,hhh"


def suite_of(name: str) -> Suite:
    task = name.removeprefix(HARNESS)
    return SUITES[name] if task == name else Harness(f"{task} of lm-evaluation-harness", task)


class Asked(NamedTuple):
    """A suite read, before any model is loaded. `of`: how many questions it has, of which `n` are asked."""

    name: str
    items: list[Any]
    prompts: list[Prompt]
    n: int
    of: int
    allowed: Allowed = NOTHING


def read_suites(
    names: str, n: int | None, seed: int, progress: Progress | None = None, allowed: Allowed = NOTHING
) -> list[Asked]:
    """NAME[@FILE or FOLDER],… → what is asked. `n`: questions of each benchmark, 0 for all, None as each says.

    Raises ConfigError for a name that is not known, DataError and SourceError for files."""
    wanted = [part.strip().partition("@") for part in names.split(",") if part.strip()]
    if not wanted:
        raise ConfigError(f"--suite names none: expected some of {', '.join(SUITES)}")
    for name, _, _ in wanted:
        if name not in SUITES and not name.startswith(HARNESS):
            near = get_close_matches(name, SUITES, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(f"no suite is called {name!r}: {hint}The suites are {', '.join(SUITES)}, {HARNESS}TASK")
    if twice := sorted({name for name, _, _ in wanted if [w[0] for w in wanted].count(name) > 1}):
        raise ConfigError(f"--suite names {', '.join(twice)} more than once: a suite is measured into one folder")
    for name, _, _ in wanted:
        if isinstance(suite := suite_of(name), Written):
            suite.check(allowed)
    return [read_suite(name, place, n, seed, progress)._replace(allowed=allowed) for name, _, place in wanted]


def read_suite(name: str, place: str, n: int | None, seed: int, progress: Progress | None) -> Asked:
    suite = suite_of(name)
    if isinstance(suite, Harness):
        if place and not Path(place).expanduser().is_dir():
            raise DataError(f"{name}@{place}: expected a folder with the task's YAML file")
        own = Path(place).expanduser() if place else None
        known_tasks([suite.task], own)
        return Asked(name, [own], [], n or 0, n or 0)
    if isinstance(suite, TwoSided):
        prompts = suite.prompts(place, seed) if suite.prompts else []
        if place and not suite.prompts:
            raise ConfigError(f"{name}@{place}: its prompts are those of the config: set prompts.* there")
        return Asked(name, [], prompts, len(prompts), len(prompts))
    if not place and suite.source is None:
        raise DataError(
            f"{suite.what} is read from a copy at hand: name its file, as in --suite {name}@FILE ({suite.read.__doc__})"
        )
    items: Sequence[Any] = suite.read(
        Path(place).expanduser() if place else fetch(str(suite.source), progress=progress)
    )
    if not items:
        raise DataError(f"{place or suite.source}: no questions: expected at least one row")
    size = suite.sample if n is None else n or None
    if isinstance(suite, Written):
        kept = drawn([i.id for i in items], size, seed)
        return Asked(name, [i for i in items if i.id in kept], [], len(kept), len(items))
    chosen = sampled(items, size, seed)
    return Asked(name, chosen, [], len({i.id for i in chosen}), len({i.id for i in items}))


def measure(run: Run, asked: Sequence[Asked]) -> dict[str, list[Score]]:
    """The scores of the run's base by suite, in evals/NAME; what is finished there is not done again."""
    return {suite.name: measure_suite(run, suite) for suite in asked}


def measure_suite(run: Run, asked: Asked) -> list[Score]:
    store = run.store.inside(f"evals/{asked.name}")
    refuse_others(store, asked, digest_of(run, asked))
    rows = store.once("scores", lambda: [score.row() for score in scores_of(run, store, asked, run.base)])
    kept = [Score.model_validate(row) for row in rows]
    card = store.path("model-index.json")
    if not card.exists():
        write_text(card, json.dumps(model_index(run.config.name, asked, kept), ensure_ascii=False, indent=1) + "\n")
    return kept


def scores_of(run: Run, store: Store, asked: Asked, policy: Policy) -> list[Score]:
    suite, each = suite_of(asked.name), run.config.generation_batch
    if isinstance(suite, TwoSided):
        return two_sided(run, store, asked, suite, policy)
    if isinstance(suite, Harness):
        return run_harness([suite.task], policy.model, limit=asked.n or None, own=asked.items[0])
    if isinstance(suite, Written):
        answers = store.by(each).each(
            "items", asked.items, lambda part: suite.answer(part, policy.model, asked.allowed), suite.row
        )
        return suite.scores(answers)
    generated = any(item.way == "generation" for item in asked.items)
    rows = store.by(each if generated else BATCH).each(
        "items", asked.items, lambda part: answer(part, policy.model), Answered.model_validate
    )
    return item_scores(rows)


def two_sided(run: Run, store: Store, asked: Asked, suite: TwoSided, policy: Policy) -> list[Score]:
    prompts = prompts_of(run, asked)
    verdicts = both_sides(store, prompts, lambda: policy.model, lambda: run.evaluator(policy), run.config)
    store.rows("items", lambda: exchanges(verdicts), Exchange.model_validate)
    return suite.scores(verdicts)


def suites_of_run(config: RunConfig, progress: Progress | None = None) -> list[Asked]:
    """What a run measures before and after beside held-out prompts and HHH (`evals.suites`).

    Raises ConfigError for what is measured otherwise, or needs a word of the user's."""
    if not config.evals.suites:
        return []
    asked = read_suites(config.evals.suites, config.evals.items, config.seed, progress)
    if other := [a.name for a in asked if a.name == "hhh" or isinstance(suite_of(a.name), TwoSided)]:
        raise ConfigError(
            f"evals.suites: {', '.join(other)}: a run has held-out prompts and HHH of its own (evals.held_out, evals.hhh); "
            f"measure others with iteralign eval CHECKPOINT --suite {','.join(other)}"
        )
    return asked


def sources_of(config: RunConfig) -> list[str]:
    """What evals.suites fetches, by name."""
    found = (benchmark_of(name) for name in names_of(config))
    return sorted(b.source for b in found if b is not None and b.source)


def suites_at_hand(config: RunConfig) -> list[Asked]:
    """Of evals.suites what can be read without fetching anything; a task of lm-evaluation-harness cannot be counted."""
    known = [(n, b) for n in names_of(config) if (b := benchmark_of(n.partition("@")[0])) is not None]
    there = [n for n, b in known if "@" in n or at_hand(str(b.source)) is not None]
    return read_suites(",".join(there), config.evals.items, config.seed) if there else []


def names_of(config: RunConfig) -> list[str]:
    return [name.strip() for name in (config.evals.suites or "").split(",") if name.strip()]


def benchmark_of(name: str) -> Benchmark | None:
    suite = SUITES.get(name)
    return suite if isinstance(suite, Benchmark) else None


def prompts_of(run: Run, asked: Asked) -> list[Prompt]:
    return asked.prompts or run.prompts[HELD_OUT].first(run.config.prompts.held_out, run.config.seed)


def digest_of(run: Run, asked: Asked) -> str:
    suite = suite_of(asked.name)
    if isinstance(suite, TwoSided):
        return digest([p.id for p in prompts_of(run, asked)])
    if isinstance(suite, Benchmark):
        return identity(asked.items)
    return digest([repr(item) for item in asked.items])


def identity(items: Sequence[Item]) -> str:
    """Of what is asked and how."""
    asked = [i.asked if isinstance(i.asked, str) else [m.row() for m in i.asked] for i in items]
    return digest(load_prompt(PROMPTS).digest, asked, [item._replace(asked="") for item in items])


def refuse_others(store: Store, asked: Asked, now_asked: str) -> None:
    """A folder with answers to other questions, or to other wordings of them, is left alone."""
    path = store.path("asked.json")
    now = {"suite": asked.name, "n": asked.n, "of": asked.of, "digest": now_asked}
    if not path.exists():
        write_text(path, json.dumps(now) + "\n")
    kept = json.loads(path.read_text())
    if kept != now:
        raise StoreError(
            f"{store.folder} holds answers to other questions ({kept['n']} of {kept['of']}; now {now['n']} of "
            f"{now['of']} are asked): name another --run-dir, or start anew with --fresh"
        )


def model_index(model: str, asked: Asked, scores: Sequence[Score]) -> dict[str, Any]:
    """The form in which a model card of the Hugging Face hub holds results."""
    suite = suite_of(asked.name)
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=asked.name,
            dataset_name=suite.what if asked.n == asked.of else f"{suite.what} ({asked.n} of {asked.of})",
            metric_type=metric_type(suite, score),
            metric_name=f"{score.name} ({score.variant})",
            metric_value=score.value,
            metric_args={"n": score.n, "n_unscored": score.n_unscored, "stderr": score.stderr},
        )
        for score in scores
        if score.value is not None
    ]
    return {"model-index": eval_results_to_model_index(model, results)}


def metric_type(suite: Suite, score: Score) -> str:
    if isinstance(suite, TwoSided):
        return "rate"
    return "log_likelihood" if score.variant.endswith(GOLD) else "accuracy"
