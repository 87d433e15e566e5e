"""Fine-tunes a small causal model to judge truth or informativeness; measured on questions unseen in training."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from iteralign.config import SFTConfig, TransformersConfig
from iteralign.data.truthful import JudgeRow, read_judge_rows
from iteralign.errors import ConfigError, DataError
from iteralign.judges.truth import FILE, HALF, TrainedJudge, TruthJudge
from iteralign.models.transformers import TransformersModel
from iteralign.records import Row, digest
from iteralign.stats import Estimate, mean
from iteralign.store import write_text
from iteralign.training.rows import encode
from iteralign.training.sft import Watch, sft

SETTINGS = SFTConfig(learning_rate=2e-5, epochs=2, batch=16, max_length=256)


@dataclass(frozen=True)
class Sample:
    """`unseen`: share of the questions kept for measuring. `limit`: training rows at most, None for all."""

    seed: int = 0
    unseen: float = 0.1
    limit: int | None = None


class Split(NamedTuple):
    """Rows to train on, and rows of other questions to measure on."""

    train: list[JudgeRow]
    unseen: list[JudgeRow]


def split_by_question(rows: Sequence[JudgeRow], sample: Sample) -> Split:
    """By question, never by row: answers to one question share what they are about. DataError: too few questions."""
    questions = sorted({r.item for r in rows}, key=lambda item: digest(sample.seed, "unseen", item))
    apart = set(questions[: round(len(questions) * sample.unseen)])
    train, unseen = [r for r in rows if r.item not in apart], [r for r in rows if r.item in apart]
    for name, part in (("to train on", train), ("to measure on", unseen)):
        if len({r.yes for r in part}) < 2:
            raise DataError(
                f"the {len(questions)} questions leave {len(part)} rows {name}, not all of both answers: give more "
                f"rows, or another share of unseen questions (now {sample.unseen:.0%})"
            )
    if sample.limit is not None and sample.limit < len(train):
        places = sorted(range(len(train)), key=lambda n: digest(sample.seed, "rows", n))[: sample.limit]
        train = [train[n] for n in sorted(places)]
    return Split(train, unseen)


def train_truth(
    path: Path,
    base: TransformersConfig,
    folder: Path,
    settings: SFTConfig = SETTINGS,
    sample: Sample = Sample(),
    watch: Watch | None = None,
) -> TrainedJudge:
    """Train on the rows of `path` and write the judge to `folder`: a checkpoint, its tokenizer and truth_judge.json.

    The loss is on the answer's tokens (yes, no) only. Raises DataError for the rows, ConfigError for the folder.
    """
    check_free(folder)
    rows = read_judge_rows(path)
    split = split_by_question(rows, sample)
    engine, start = load_base(base)
    judge = TruthJudge(rows[0].kind, engine)
    learnt = [training_row(judge, r) for r in split.train]
    encoded = encode(learnt, engine.format, settings.max_length)
    if encoded.rejected or encoded.cut:
        raise DataError(
            f"{path}: {encoded.rejected + encoded.cut} rows are over {settings.max_length} tokens, and an answer is "
            "judged whole or not at all: leave these rows out"
        )
    made = sft(engine, start, learnt, settings, folder, sample.seed, watch)
    trained = TrainedJudge(
        kind=judge.kind,
        base=base.model,
        weights=made.digest,
        prompt=judge.prompts.digest,
        rows_file=path.name,
        rows_digest=hashlib.sha256(path.read_bytes()).hexdigest(),
        seed=sample.seed,
        trained_rows=len(split.train),
        trained_questions=len({r.item for r in split.train}),
        unseen_questions=tuple(sorted({r.item for r in split.unseen})),
        settings={**settings.model_dump(mode="json"), "unseen": sample.unseen, "limit": sample.limit},
        **figures(split, judge.probabilities([(r.question, r.answer) for r in split.unseen])),
    )
    write_text(folder / FILE, json.dumps(trained.row(), indent=1) + "\n")
    return trained


def check_free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is there already, and is left alone: name another folder, or move it away")


def load_base(base: TransformersConfig) -> tuple[TransformersModel, str]:
    """The model, and where its weights lie. ConfigError for an encoder-decoder: the judge reads one text."""
    from iteralign.models.load import load_transformers
    from iteralign.models.weights import unpacked
    from iteralign.sources import resolve

    source = unpacked(resolve(base.model))
    model = load_transformers(base, source, 0)
    if not isinstance(model, TransformersModel):
        raise ConfigError(f"{base.model} is an encoder-decoder: a truth judge needs a causal model")
    return model, source


def training_row(judge: TruthJudge, row: JudgeRow) -> Row:
    """What the judge will be asked, and people's answer; its end is not learnt, for one word is read off it."""
    chat = judge.chat(row.question, row.answer)
    return Row(
        prompt=digest([m.row() for m in chat]),
        item=row.item,
        split="train",
        wants="answer",
        chat=chat,
        answer="yes" if row.yes else "no",
        ended=False,
        origin="revision",
    )


def figures(split: Split, said: Sequence[float | str]) -> dict[str, Estimate]:
    """Shares of the unseen rows, clustered by question. `said`: P(yes) of each, or why there is none (unscored).

    Balanced accuracy is the mean over yes and no rows, each weighted to count one half; its interval is cut to 0..1.
    """
    right = [
        None if isinstance(p, str) else float((p >= HALF) == r.yes) for p, r in zip(said, split.unseen, strict=True)
    ]
    clusters = [r.item for r in split.unseen]
    scored = Counter(r.yes for r, x in zip(split.unseen, right, strict=True) if x is not None)
    n = sum(scored.values())
    weighted = [None if x is None else x * n / (2 * scored[r.yes]) for x, r in zip(right, split.unseen, strict=True)]
    balanced = mean(weighted, clusters)
    low, high = balanced.low, balanced.high
    common = Counter(r.yes for r in split.train).most_common(1)[0][0]

    def share(answer: bool) -> Estimate:
        kept = [k for k, r in enumerate(split.unseen) if r.yes == answer]
        return mean([right[k] for k in kept], [clusters[k] for k in kept])

    return {
        "accuracy": mean(right, clusters),
        "majority": mean([float(r.yes == common) for r in split.unseen], clusters),
        "balanced_accuracy": replace(
            balanced, low=None if low is None else max(0.0, low), high=None if high is None else min(1.0, high)
        ),
        "sensitivity": share(True),
        "specificity": share(False),
    }
