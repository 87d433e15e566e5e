"""Two folders with stored scores → every metric before and after; what cannot be compared is refused, by name."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from iteralign.errors import StoreError
from iteralign.evals.answers import GOLD
from iteralign.evals.paired import EVALUATOR, Key, Measure, detectable, pair, read_scores
from iteralign.evals.tax import AlignmentTax, alignment_tax
from iteralign.judges.calibration import Calibration, calibration_in
from iteralign.records import Score
from iteralign.store import differing, read_rows

EXPECTED = "expected evals/base or evals/final of a run, or the directory of an `iteralign eval`"
# How a model is reached and run, not what it is asked: two evaluations may differ in it.
RUNNING = {
    "base_url",
    "batch",
    "concurrency",
    "context",
    "device",
    "gpu_layers",
    "key_env",
    "price",
    "retries",
    "scoring",
    "timeout",
}


@dataclass(frozen=True)
class Scored:
    """What is stored of one policy. `gold`: likelihoods of the right options, which are no metric of their own.
    `tokens`: an item's id → the token counts of its options in every row that has them. `settings` is None without a
    config."""

    folder: Path
    scores: dict[Key, Score]
    gold: dict[Key, Score]
    tokens: dict[str, set[tuple[int, ...]]]
    settings: dict[str, Any] | None
    calibration: Calibration | None


@dataclass(frozen=True)
class Compared:
    """`calibration`: the evaluator's, where both sides have the same one. `one_sided` says which metrics only one side holds: they are in no table. `tax` is None without benchmarks."""

    base: Path
    aligned: Path
    measures: tuple[Measure, ...]
    tax: AlignmentTax | None
    one_sided: tuple[str, ...]
    notes: tuple[str, ...]
    calibration: Calibration | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: fractions of 1, the tax in percent."""
        return {
            "base": str(self.base),
            "aligned": str(self.aligned),
            "changed": any(m.change is not None and m.change.n_changed for m in self.measures),
            "measures": [measure_dict(m) for m in self.measures],
            "tax": asdict(self.tax) if self.tax else None,
            "one_sided": list(self.one_sided),
            "notes": list(self.notes),
        }


def measure_dict(measure: Measure) -> dict[str, Any]:
    names = {"name": measure.name, "variant": measure.variant, "higher_is_better": measure.higher_is_better}
    change = asdict(measure.change) if measure.change else {}
    return {**names, **change, "p_holm": measure.p_holm, "minimum_detectable_effect": detectable(measure)}


def compare_folders(base: Path, aligned: Path, seed: int = 0) -> Compared:
    """Paired on the same items. StoreError: no scores, other items, variants, evaluator, sampling or tokenizer."""
    before, after = read_scored(base), read_scored(aligned)
    shared = [key for key in before.scores if key in after.scores]
    check_variants(before, after)
    if not shared:
        raise StoreError(
            f"{base} and {aligned} share no metric: {named(before.scores)} against {named(after.scores)}. "
            "Evaluate both with the same suites"
        )
    check_tokenizers(before, after, shared)
    notes = check_settings(before, after, shared)
    sides = [{key: side.scores[key] for key in shared} for side in (before, after)]
    measures, problems = pair(sides[0], sides[1], seed)
    if problems:
        more = f" ({len(problems) - 1} more metrics cannot be compared either)" if len(problems) > 1 else ""
        raise StoreError(f"{problems[0]}{more}. Evaluate both on the same prompts and items, with the same seed")
    tax = alignment_tax(measures, gold_of(before, after), seed)
    alone = [f"only in {s.folder}: {named(left)}" for s, left in (lone(before, after), lone(after, before)) if left]
    worth = before.calibration if before.calibration == after.calibration else None
    return Compared(base, aligned, measures, tax if tax.lines else None, tuple(alone), tuple(notes), worth)


def named(keys: Sequence[Key] | Mapping[Key, Score]) -> str:
    return ", ".join(f"{name} ({variant})" for name, variant in keys)


def lone(side: Scored, other: Scored) -> tuple[Scored, list[Key]]:
    return side, [key for key in side.scores if key not in other.scores]


def gold_of(before: Scored, after: Scored) -> dict[Key, tuple[Score, Score]]:
    """By every metric's key: the gold scores of the same name, asked in the same form (a variant: form, measure)."""
    found: dict[Key, tuple[Score, Score]] = {}
    for name, variant in before.scores:
        form, _, _ = variant.rpartition(", ")
        gold = (name, f"{form}, {GOLD}")
        if gold in before.gold and gold in after.gold:
            found[name, variant] = before.gold[gold], after.gold[gold]
    return found


# -- what cannot be compared ----------------------------------------------------------------------


def check_variants(before: Scored, after: Scored) -> None:
    """One metric in two variants is two metrics."""
    for name in dict.fromkeys(name for name, _ in before.scores):
        a, b = ([variant for n, variant in side.scores if n == name] for side in (before, after))
        if b and not set(a) & set(b):
            raise StoreError(
                f"{name} was measured in different variants: {', '.join(a)} in {before.folder}, {', '.join(b)} in "
                f"{after.folder}. Evaluate both in the same one"
            )


def check_tokenizers(before: Scored, after: Scored, shared: Sequence[Key]) -> None:
    """The same text in other numbers of tokens: likelihoods per token, and of the ends of words, are not the same."""
    items = {i for key in shared for i in before.scores[key].items}
    both = [i for i in before.tokens if i in after.tokens and i in items]
    if odd := [i for i in both if not before.tokens[i] & after.tokens[i]]:
        a, b = (sorted(side.tokens[odd[0]])[0] for side in (before, after))
        raise StoreError(
            f"the two policies have different tokenizers: the options of {len(odd)} of {len(both)} items have other "
            f"numbers of tokens, the first {odd[0]}: {list(a)} in {before.folder}, {list(b)} in {after.folder}. "
            "Their likelihoods cannot be compared; compare models that share a tokenizer"
        )


def check_settings(before: Scored, after: Scored, shared: Sequence[Key]) -> list[str]:
    """Answers that were drawn, or judged, otherwise say nothing about the policy. Returns what could not be checked."""
    judged = any(variant == EVALUATOR for _, variant in shared)
    drawn = any(not before.scores[key].chance for key in shared)  # what cannot be guessed was written, not chosen
    if not (judged or drawn):
        return []
    unknown = [str(side.folder) for side in (before, after) if side.settings is None]
    if before.settings is None or after.settings is None:
        return [
            f"No config.yaml stands above {' or '.join(unknown)}: that both were asked and judged alike is not known."
        ]
    sections = (*(["evaluator"] if judged else []), *(["evaluate"] if drawn else []))
    a, b = ({name: essential(own.get(name)) for name in sections} for own in (before.settings, after.settings))
    if odd := sorted(differing(a, b)):
        raise StoreError(
            f"{before.folder} and {after.folder} were measured with other settings: {', '.join(odd)}. "
            "Evaluate both with the same config"
        )
    return []


def essential(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {key: essential(value) for key, value in tree.items() if key not in RUNNING}


# -- files ----------------------------------------------------------------------------------------


def read_scored(folder: Path) -> Scored:
    """StoreError: no folder, no scores in it, or those of two policies."""
    if not folder.is_dir():
        raise StoreError(f"no folder {folder}: {EXPECTED}")
    scores: dict[Key, Score] = {}
    tokens: dict[str, set[tuple[int, ...]]] = {}
    for place in places(folder):
        here = read_scores(place / "scores.json")
        for key, score in here.items():
            if scores.setdefault(key, score) != score:
                raise StoreError(f"{folder} holds two different results of {named([key])}: name the folder of one")
        for path in sorted(place.glob("*.jsonl")):
            for row in likelihood_rows(path):
                tokens.setdefault(str(row["id"]), set()).add(tuple(row["tokens"]))
    if not scores:
        raise StoreError(f"{folder} holds no scores: {EXPECTED}; an evaluation that was interrupted is not finished")
    gold = {key: scores.pop(key) for key in [*scores] if key[1].endswith(GOLD)}
    run = run_of(folder)
    return Scored(folder, scores, gold, tokens, settings_of(run) if run else None, calibration_in(run) if run else None)


def places(folder: Path) -> Iterator[Path]:
    """The folders that hold the scores of this one policy."""
    if (folder / "scores.json").is_file():
        yield folder
        return
    inside = folder / "evals" if (folder / "evals").is_dir() else folder
    if all((inside / name).is_dir() for name in ("base", "final")):
        raise StoreError(f"{folder} holds the scores of two policies: name {inside / 'base'} or {inside / 'final'}")
    yield from sorted(path.parent for path in inside.rglob("scores.json"))


def likelihood_rows(path: Path) -> list[dict[str, Any]]:
    """Rows with the likelihoods of an item's options: totals, and their numbers of tokens."""
    rows = [row for row in read_rows(path) if isinstance(row, dict) and "id" in row]
    return [row for row in rows if isinstance(row.get("total"), list) and isinstance(row.get("tokens"), list)]


def run_of(folder: Path) -> Path | None:
    """The run directory that a folder lies in."""
    whole = folder.resolve()
    return next((p for p in (whole, *whole.parents[:3]) if (p / "config.yaml").is_file()), None)


def settings_of(run: Path) -> dict[str, Any] | None:
    path = run / "config.yaml"
    try:
        tree = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise StoreError(f"{path} is not valid YAML: was it changed by hand?") from error
    return tree if isinstance(tree, dict) else None
