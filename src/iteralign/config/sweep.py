"""Several runs that differ in a few keys: one YAML file that names them."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from iteralign.config.models import Section
from iteralign.config.reading import load_config, one_line
from iteralign.config.run import RunConfig
from iteralign.errors import ConfigError, StoreError

OF_VARIANT = "variant:"


class SweepConfig(Section):
    """`base`: the config that all runs share, a path from this file on. `set`: keys that all of them change, `variants`:
    those that each changes, by dotted name as in --set. A variant without keys is the base as it is; one with
    `constitution: "variant:NAME"` takes what that variant discovered in the same sweep."""

    base: str
    set: dict[str, Any] = {}
    variants: dict[str, dict[str, Any] | None] = Field(min_length=2)


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> dict[str, RunConfig]:
    """Each variant's whole config by its name; `overrides` come last, for all of them."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"no sweep at {path} ({error.strerror}): the presets stand in configs/") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {one_line(error)}") from error
    if not isinstance(tree, dict) or "variants" not in tree:
        raise ConfigError(f"{path} is no sweep: expected `base` and `variants`. One run: iteralign run {path}")
    try:
        sweep = SweepConfig.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    base = path.parent / sweep.base
    made = {
        name: load_config(base, [*keys(sweep.set), *keys(own or {}), f"name={json.dumps(folder_of(name))}", *overrides])
        for name, own in sweep.variants.items()
    }
    if len({config.name for config in made.values()}) < len(made):
        raise ConfigError(f"{path}: two variants have the same folder name: {', '.join(c.name for c in made.values())}")
    for name, config in made.items():
        if (other := discoverer(config)) is not None and other not in made:
            raise ConfigError(f"{path}: {name} takes the constitution of {other!r}: the variants are {', '.join(made)}")
    return made


def discoverer(config: RunConfig) -> str | None:
    """The variant whose constitution another one takes."""
    return (
        (config.constitution or "").removeprefix(OF_VARIANT)
        if (config.constitution or "").startswith(OF_VARIANT)
        else None
    )


def settled(config: RunConfig, folder: Path) -> RunConfig:
    """With the constitution that another variant of the sweep in `folder` discovered, where it takes one's. StoreError: that
    one has not come to its end."""
    other = discoverer(config)
    if other is None:
        return config
    path = folder / folder_of(other) / "constitution.yaml"
    if not path.is_file():
        raise StoreError(
            f"it takes the constitution of {other!r}, which has not written {path} yet: run that variant first"
        )
    return config.model_copy(update={"constitution": str(path)})


def keys(settings: Mapping[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


def folder_of(name: str) -> str:
    """Of a variant, inside the sweep's."""
    return re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-") or "variant"
