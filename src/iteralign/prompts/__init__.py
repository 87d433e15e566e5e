"""The text sent to models, one file each, and the one function that fills it."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jinja2 import StrictUndefined
from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from iteralign.errors import ConfigError
from iteralign.records import Chat, Message, digest

_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=False)
_compiled = cache(_ENVIRONMENT.from_string)  # compiling costs a millisecond, and benchmarks fill thousands


class PromptFile:
    """A YAML file of named chats (lists of {role, content}) and plain settings."""

    def __init__(self, tree: Mapping[str, Any], where: str) -> None:
        self.tree = tree
        self.where = where
        self.digest = digest(dict(tree))

    def get(self, key: str) -> Any:
        if key not in self.tree:
            raise ConfigError(f"prompt file {self.where} has no {key!r}; it has {', '.join(self.tree)}")
        return self.tree[key]

    def chat(self, key: str, **values: object) -> Chat:
        """The chat under `key`, its placeholders filled in one pass: a value is never read as a template."""
        return fill_chat(self.get(key), f"{self.where}:{key}", **values)


def fill_chat(messages: Any, where: str, **values: object) -> Chat:
    return tuple(Message(role=m["role"], content=fill(m["content"], where, **values)) for m in messages)


def fill(template: str, where: str, **values: object) -> str:
    try:
        return _compiled(template).render(**values).strip("\n")
    except TemplateSyntaxError as error:
        raise ConfigError(f"{where}: line {error.lineno} of the template: {error.message}") from error
    except SecurityError as error:
        raise ConfigError(f"{where}: the template does something that is not allowed: {error}") from error
    except TemplateError as error:
        raise ConfigError(f"{where}: {error}; known values: {', '.join(sorted(values))}") from error


def load_prompt(name: str) -> PromptFile:
    """A prompt file of the package by its name, or any YAML file by its path."""
    packaged = files(__name__) / name
    if "/" not in name and packaged.is_file():
        return _packaged(name)
    path = Path(name)
    if not path.is_file():
        known = sorted(p.name for p in files(__name__).iterdir() if p.name.endswith(".yaml"))
        raise ConfigError(f"no prompt file {name!r}: give a path, or one of {', '.join(known)}")
    return PromptFile(_read(path.read_text(), str(path)), str(path))


@cache
def _packaged(name: str) -> PromptFile:
    return PromptFile(_read((files(__name__) / name).read_text(), name), name)


def _read(text: str, where: str) -> Mapping[str, Any]:
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"prompt file {where} is not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"prompt file {where}: expected a mapping, got {type(tree).__name__}")
    return tree  # type: ignore[reportUnknownVariableType]
