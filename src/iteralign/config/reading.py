"""YAML plus `a.b=value` overrides → a RunConfig, or one clear line about what is wrong."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from iteralign.config.models import (
    HumanConfig,
    LlamaCppConfig,
    OpenAIConfig,
    ScriptedConfig,
    Section,
    SelfConfig,
    SequenceClassifierConfig,
    TransformersConfig,
)
from iteralign.config.parts import ClassifierConfig, PanelConfig, PaperJudgeConfig, RubricConfig
from iteralign.config.run import RunConfig
from iteralign.errors import ConfigError


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The config of a YAML file with `a.b=value` overrides (values parsed as YAML).

    `base: OTHER.yaml` takes another file's settings, a path from this file on; sections are merged key by key, lists and
    sections of another `type` are replaced.
    """
    tree = read_tree(path)
    tree.setdefault("name", path.stem)
    for override in overrides:
        key, eq, value = override.partition("=")
        if not eq or not key:
            raise ConfigError(f"--set {override!r}: expected a.b=value")
        try:
            read = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {override!r}: the value is not valid YAML: {one_line(error)}") from error
        put(tree, key.split("."), read, override)
    return parse(tree, str(path))


def read_tree(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A file's settings over those of its base."""
    if not path.is_file():
        said = f", which {above[-1]} names as its base" if above else ""
        raise ConfigError(
            f"no config file {path}{said}: name a YAML file; the presets stand in configs/ of the repository"
        )
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {one_line(error)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a text file that can be read: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of settings at the top, got {type(tree).__name__}")
    tree = unshared(tree)  # type: ignore[reportUnknownArgumentType]
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str) or path.resolve() in (p.resolve() for p in above):
        raise ConfigError(
            f"{path}: base: expected the path of another config that does not lead back here, got {base!r}"
        )
    return merged(read_tree(path.parent / base, (*above, path)), tree)


def merged(below: Any, above: Any) -> Any:
    """`above` over `below`: sections key by key, but one of another type whole."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    old: dict[str, Any] = below  # type: ignore[reportUnknownVariableType]
    new: dict[str, Any] = above  # type: ignore[reportUnknownVariableType]
    if new.get("type", old.get("type")) != old.get("type"):
        return new
    return {**old, **{key: merged(old.get(key), value) for key, value in new.items()}}


def unshared(tree: Any) -> Any:
    """A copy in which a YAML anchor and its aliases are apart: what is set for one must not change the others."""
    if isinstance(tree, dict):
        return {key: unshared(value) for key, value in tree.items()}  # type: ignore[reportUnknownVariableType]
    if isinstance(tree, list):
        return [unshared(value) for value in tree]  # type: ignore[reportUnknownVariableType]
    return tree


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def put(tree: dict[str, Any], path: list[str], value: Any, said: str) -> None:
    for part in path[:-1]:
        if tree.get(part) is None:
            tree[part] = {}
        inner: Any = tree[part]
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {said!r}: {part} is not a section")
        tree = inner  # type: ignore[reportUnknownVariableType]
    tree[path[-1]] = value


def parse(tree: Mapping[str, Any], where: str) -> RunConfig:
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{where}: " + "; ".join(describe(e, tree) for e in error.errors()[:5])) from error


def describe(error: Any, tree: Mapping[str, Any]) -> str:
    """One line for one pydantic error; an unknown key names the nearest known one."""
    location = [str(p) for p in error["loc"]]
    dotted = ".".join(p for p in location if p not in _TAGGED)
    if error["type"] != "extra_forbidden":
        came = "" if error["type"] == "missing" else f" (got {error['input']!r})" if is_plain(error["input"]) else ""
        return f"{dotted or 'config'}: {error['msg'].removeprefix('Value error, ')}{came}"
    known = known_keys(location[:-1])
    near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.4)
    full = ".".join(dotted.split(".")[:-1] + near)
    hint = f"did you mean {full!r}?" if near else f"known here: {', '.join(sorted(known))}"
    return f"unknown key {dotted!r}; {hint}"


_TAGGED: dict[str, type[Section]] = {
    "transformers": TransformersConfig,
    "llama_cpp": LlamaCppConfig,
    "openai": OpenAIConfig,
    "scripted": ScriptedConfig,
    "self": SelfConfig,
    "human": HumanConfig,
    "rubric": RubricConfig,
    "paper": PaperJudgeConfig,
    "classifier": ClassifierConfig,
    "panel": PanelConfig,
    "sequence_classifier": SequenceClassifierConfig,
}


def is_plain(value: object) -> bool:
    return isinstance(value, str | int | float | bool) or value is None


def known_keys(location: Sequence[str]) -> list[str]:
    """Field names of the section at a location of the tree."""
    here: Any = RunConfig
    for part in location:
        if part in _TAGGED:
            here = _TAGGED[part]
        elif not part.isdigit() and part in here.model_fields:
            here = section_in(here.model_fields[part].annotation)
        if here is None:
            return []
    return list(here.model_fields)


def section_in(annotation: Any) -> Any:
    """The first Section class in an annotation such as `LoraConfig | None` or `tuple[DataConfig, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    inner = (section_in(a) for a in get_args(annotation))
    return next((s for s in inner if s is not None), None)
