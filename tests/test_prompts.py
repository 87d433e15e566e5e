"""What stands in a prompt arrives in the prompt file's text as it is, in one pass, in every file."""

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment, meta

from iteralign.errors import ConfigError
from iteralign.prompts import fill, load_prompt

NAMES = sorted(p.name for p in files("iteralign.prompts").iterdir() if p.name.endswith(".yaml"))
TRICKY = "{reply} {{ x }} {{ prompt }} {% raw %} {# no #} {0} %s $x \\n <b>&amp;</b> \u2028"


def chats() -> Iterator[Any]:
    for name in NAMES:
        for key, tree in load_prompt(name).tree.items():
            if isinstance(tree, list):
                yield pytest.param(name, key, id=f"{name}:{key}")


@pytest.mark.parametrize(("name", "key"), list(chats()))
def test_every_value_arrives_unchanged(name: str, key: str) -> None:
    file = load_prompt(name)
    source = "\n".join(message["content"] for message in file.get(key))
    used = meta.find_undeclared_variables(Environment().parse(source))
    values: dict[str, Any] = {v: f"{TRICKY} as {v}" for v in used - {"pairs", "known", "principles", "count", "json"}}
    expected = list(values.values())
    if "pairs" in used:
        values["pairs"] = [{k: f"{TRICKY} as {k} {n}" for k in ("prompt", "reply")} for n in range(3)]
        expected += [text for pair in values["pairs"] for text in pair.values()]
    for rules in used & {"known", "principles"}:
        values[rules] = [f"{TRICKY} as rule {n}" for n in range(2)]
        expected += values[rules]
    if "count" in used:
        values["count"] = 7
    if "json" in used:  # a switch between two wordings
        values["json"] = True
    filled = "\n".join(m.content for m in file.chat(key, **values))
    assert expected
    assert [text for text in expected if text not in filled] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_chat_ends_with_the_user(name: str) -> None:
    """But for a system message alone, which stands before a user's own turns."""
    for key, tree in load_prompt(name).tree.items():
        if isinstance(tree, list) and not (name == "in_context.yaml" and key == "system"):
            assert tree[-1]["role"] == "user", f"{name}:{key}"


def test_a_value_that_is_not_given_is_an_error_that_names_the_place() -> None:
    with pytest.raises(ConfigError, match=r"revise\.yaml:decline.*'prompt' is undefined.*known values: principle"):
        load_prompt("revise.yaml").chat("decline", principle="x")


@pytest.mark.parametrize(
    "template", ["{{ x.__class__.__mro__ }}", "{{ ''.__class__ }}", "{% set y = x.append(1) %}", "{{ x", "{% for %}"]
)
def test_a_template_can_do_nothing_but_fill(template: str) -> None:
    with pytest.raises(ConfigError, match="^my file"):
        fill(template, "my file", x=["a"])


@pytest.mark.parametrize(
    ("text", "words"),
    [("a: [", "not valid YAML"), ("- a", "expected a mapping"), ("other: 1", "has no 'revise'; it has other")],
)
def test_a_prompt_file_of_the_users_own_is_checked(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_prompt(str(path)).get("revise")


def test_a_missing_prompt_file_names_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no prompt file 'nowhere\.yaml'.*rubric\.yaml"):
        load_prompt("nowhere.yaml")


def test_the_digest_of_a_prompt_file_is_that_of_its_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    digests: set[str] = set()
    for text in ("revise: [{role: user, content: a}]", "revise: [{role: user, content: b}]"):
        path.write_text(text)
        digests.add(load_prompt(str(path)).digest)
    assert len(digests) == 2
