"""Constitutions side by side: what a file or a run holds, and what changed between two."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from iteralign.constitutions import load_constitution
from iteralign.errors import ConfigError, StoreError
from iteralign.ledger import Ledger, constitution_markdown, read_ledger
from iteralign.records import Constitution, Principle, Wants, digest
from iteralign.similarity import cosines
from iteralign.stages.discover import framing_of
from iteralign.stages.lists import read_list

REWORDED = 0.6  # TF-IDF cosine from which a principle that went and one that came are one in other words


@dataclass(frozen=True)
class Difference:
    """Principles of two constitutions: in both, only in the second, only in the first, and (first, second, cosine)."""

    kept: tuple[Principle, ...]
    added: tuple[Principle, ...]
    removed: tuple[Principle, ...]
    reworded: tuple[tuple[Principle, Principle, float], ...]


def constitution_at(source: str) -> Ledger:
    """Of a run's directory with its history, a YAML file, or a name that comes with the package."""
    folder = Path(source)
    if not folder.is_dir():
        return Ledger(load_constitution(source))
    path = folder / "constitution.yaml"
    if not path.is_file():
        raise StoreError(f"{folder} holds no constitution.yaml: a run writes it at its end")
    found = read_ledger(folder) or Ledger(Constitution())
    return Ledger(load_constitution(str(path)), found.entries, found.retired)


def shown(source: str) -> str:
    return constitution_markdown(constitution_at(source))


def difference(first: Constitution, second: Constitution) -> Difference:
    ids = {p.id for p in first.principles} & {p.id for p in second.principles}
    gone = [p for p in first.principles if p.id not in ids]
    new = [p for p in second.principles if p.id not in ids]
    pairs = reworded(gone, new)
    left, right = {a.id for a, _, _ in pairs}, {b.id for _, b, _ in pairs}
    return Difference(
        kept=tuple(p for p in first.principles if p.id in ids),
        added=tuple(p for p in new if p.id not in right),
        removed=tuple(p for p in gone if p.id not in left),
        reworded=tuple(pairs),
    )


def reworded(gone: Sequence[Principle], new: Sequence[Principle]) -> list[tuple[Principle, Principle, float]]:
    """Each with at most one partner of its kind, the nearest pairs first."""
    if not gone or not new:
        return []
    near = cosines([p.text for p in (*gone, *new)])
    found: list[tuple[Principle, Principle, float]] = []
    places = [(float(near[i, len(gone) + j]), i, j) for i in range(len(gone)) for j in range(len(new))]
    for value, i, j in sorted(places, key=lambda x: -x[0]):
        taken = any(gone[i] is a or new[j] is b for a, b, _ in found)
        if value >= REWORDED and not taken and gone[i].kind == new[j].kind:
            found.append((gone[i], new[j], value))
    return found


def difference_text(made: Difference) -> str:
    lines = [f"+ {p.text}" for p in made.added] + [f"- {p.text}" for p in made.removed]
    lines += [f"~ {a.text}\n  → {b.text} (cosine {value:.2f})" for a, b, value in made.reworded]
    summary = (
        f"{len(made.kept)} kept, {len(made.added)} added, {len(made.removed)} removed, {len(made.reworded)} reworded"
    )
    return "\n".join([*lines, summary])


def imported(path: Path, kind: Wants) -> Constitution:
    """Principles that somebody wrote down: a constitution in YAML, or a list in text, Markdown or JSON; all of a kind.

    ConfigError: nothing in it reads as a principle.
    """
    if path.suffix in (".yaml", ".yml"):
        return load_constitution(str(path))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a text file that can be read: {error}") from error
    found = read_list(text)
    if not found:
        raise ConfigError(
            f"{path}: nothing in it reads as a principle: expected a list of sentences of at least four words, "
            "numbered, bulleted or as JSON"
        )
    principles = [Principle(id=digest(t, kind, length=12), text=t, framing=framing_of(t), kind=kind) for t in found]
    return Constitution(principles=tuple(principles))


def as_json(constitution: Constitution) -> str:
    return json.dumps({"version": constitution.version, **constitution.row()}, ensure_ascii=False, indent=1)
