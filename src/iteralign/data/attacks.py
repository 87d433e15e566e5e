"""A plain chat → what is sent: the question as it stands, or in the wording of an attack."""

import codecs
from base64 import b64encode
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from iteralign.errors import ConfigError
from iteralign.prompts import fill_chat, load_prompt
from iteralign.records import Chat, Message


def attack(chat: Chat, name: str) -> Chat:
    """The chat with its last user turn in an attack's wording; raises ConfigError.

    `direct` (as it stands), a name of prompts/attacks.yaml, or the user's own file: YAML with a list of
    {role, content}, or a text that becomes one user turn; {{ prompt }} stands for the question.
    """
    if name == "direct":
        return chat
    last = max(n for n, message in enumerate(chat) if message.role == "user")
    worded = fill_chat(_template(name), f"attack {name}", prompt=chat[last].content, **in_code(chat[last].content))
    return _system_first((*chat[:last], *worded, *chat[last + 1 :]))


LEET = str.maketrans("aeiostAEIOST", "431057431057")


def in_code(question: str) -> dict[str, str]:
    """The question in codes that need no effort: each can be read back, the last two nearly as they stand."""
    return {
        "base64": b64encode(question.encode()).decode(),
        "rot13": codecs.encode(question, "rot13"),
        "leetspeak": question.translate(LEET),
        "spaced": "  ".join(" ".join(word) for word in question.split()),
    }


def _system_first(chat: Chat) -> Chat:
    """One system message at the front: chat templates refuse one further down."""
    texts = [message.content for message in chat if message.role == "system"]
    front = (Message(role="system", content="\n\n".join(texts)),) if texts else ()
    return (*front, *(message for message in chat if message.role != "system"))


@cache
def _template(name: str) -> list[dict[str, str]]:
    """Read once in a process: a run's attack must not change between its prompts."""
    packaged = load_prompt("attacks.yaml")
    if name in packaged.tree:
        return packaged.get(name)
    path = Path(name).expanduser()
    if not path.is_file():
        known = ["direct", *packaged.tree]
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(f"no attack {name!r}: {hint}Expected {', '.join(known)}, or the path of a template file")
    try:
        text = path.read_text(encoding="utf-8")
        tree: Any = yaml.safe_load(text) if path.suffix in (".yaml", ".yml") else [{"role": "user", "content": text}]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"attack {name} cannot be read: {error}") from error
    template = _checked(tree, name)
    tried = [fill_chat(template, f"attack {name}", prompt=text, **in_code(text)) for text in ("a", "b")]
    if tried[0] == tried[1]:
        raise ConfigError(f"attack {name}: the question is not in it: put {{{{ prompt }}}} where it belongs")
    return template


def _checked(tree: Any, name: str) -> list[dict[str, str]]:
    try:
        return [message.row() for message in _MESSAGES.validate_python(tree)]
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigError(f"attack {name}: expected a list of {{role, content}}; {place}: {first['msg']}") from error


_MESSAGES = TypeAdapter(Annotated[list[Message], Field(min_length=1)])
