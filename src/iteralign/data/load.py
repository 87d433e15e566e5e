"""One section of the config → its prompts: read, freed of duplicates, split, limited, attacked."""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

from iteralign.config import DataConfig
from iteralign.data.attacks import attack
from iteralign.data.files import EXTENSIONS
from iteralign.data.public import PUBLIC_SETS
from iteralign.data.question import Question
from iteralign.data.splits import assign, sample
from iteralign.data.tables import read_file, read_hub, read_pack
from iteralign.errors import DataError
from iteralign.records import Prompt, Split, digest
from iteralign.sources import resolve


def load_prompts(config: DataConfig, seed: int) -> list[Prompt]:
    """The prompts of `config.source`, in the set's order; the first of equal questions is kept. Raises DataError.

    pack:NAME/FILE[:KIND], pack:FOLDER/FILE[:KIND], hub:ORG/NAME[:CONFIG][/SPLIT][@REVISION], a public set's name
    (NAME@FOLDER or NAME@FILE reads a copy at hand), or a file (also path:…, https://…#sha256=…).
    """
    [prompts] = load_sets([config], seed)
    return prompts


def load_sets(configs: Sequence[DataConfig], seed: int) -> list[list[Prompt]]:
    """Each set's prompts, as by `load_prompts`; a subtopic that several share is in the same split in all of them."""
    sets = [_unique(config) for config in configs]
    auto = [n for n, config in enumerate(configs) if config.split == "auto"]
    splits = dict(zip(auto, assign([list(sets[n].values()) for n in auto], seed), strict=True))
    loaded: list[list[Prompt]] = []
    for n, (config, unique) in enumerate(zip(configs, sets, strict=True)):
        own: list[Split] = splits[n] if config.split == "auto" else [config.split] * len(unique)
        items, questions = list(unique), list(unique.values())
        chosen = range(len(items))
        if config.limit is not None and config.limit < len(items):
            chosen = sample(own, items, config.limit, seed)
        label = _label(config.source)
        loaded.append([_prompt(questions[k], items[k], own[k], label, config) for k in chosen])
    return loaded


def _unique(config: DataConfig) -> dict[str, Question]:
    """By item. DataError: there is none."""
    unique: dict[str, Question] = {}
    for question in _questions(config):
        unique.setdefault(question.item, question)
    if not unique:
        raise DataError(f"{config.source}: no questions: expected at least one row. Check the file and the filters")
    return unique


def _prompt(question: Question, item: str, split: Split, label: str, config: DataConfig) -> Prompt:
    wants = question.wants or config.wants
    sent = attack(question.chat, config.attack)
    return Prompt(
        # the row is known by its text, not by its place: a row added above changes no id, an edited text does
        id=digest(label, item, config.attack, [message.row() for message in sent]),
        item=item,
        plain=question.chat,
        sent=sent,
        wants=wants,
        source=label,
        category=question.category,
        subtopic=question.subtopic,
        kind="red_team" if wants == "decline" else question.kind or "ordinary",
        split=split,
        attack=config.attack,
    )


def _label(source: str) -> str:
    """The set's name without the place of a copy: ids are the same wherever the files lie."""
    name, _, _ = source.partition("@")
    return name if name in PUBLIC_SETS else source.removeprefix("path:")


def _questions(config: DataConfig) -> Iterator[Question]:
    spec = config.source
    name, _, place = spec.partition("@")
    if name in PUBLIC_SETS:
        return PUBLIC_SETS[name].questions(place, config)
    if spec.startswith("pack:"):
        return read_pack(spec, config)
    if spec.startswith("hub:"):
        return read_hub(spec, config)
    if spec.startswith(("https:", "http:", "pypi:")):
        return read_file(resolve(spec), config)
    path = Path(spec.removeprefix("path:")).expanduser()
    if not path.exists() and not spec.startswith("path:") and "/" not in name and path.suffix.lower() not in EXTENSIONS:
        parts = [known for known in PUBLIC_SETS if known.startswith(f"{name}:")]
        near = parts or get_close_matches(name, PUBLIC_SETS, n=1)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise DataError(
            f"no data set is called {name!r}, and there is no such file: {hint}The names are {', '.join(PUBLIC_SETS)};"
            " else give a file, pack:NAME/FILE or hub:ORG/NAME"
        )
    return read_file(path, config)
