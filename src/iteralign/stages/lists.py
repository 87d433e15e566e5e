"""Reads the items of a list from what a model wrote: JSON, numbered, bulleted, bold; a remark is never an item."""

import json
import re
from typing import Any

_BULLET = re.compile(
    r"^\s*(?:#+\s+)?(?:\*\*)?"
    r"(?:[-*•–]|\(?\d{1,2}[.):]|\(?[a-z][.)]|(?i:rule|principle) \d{1,2}[.):])"
    r"(?:\*\*)?\s+(.*)$"
)
_NONE = re.compile(r"^\W*(?:none(?! of)|no new rules?|nothing|n/a)\b", re.IGNORECASE)
_REFUSAL = re.compile(
    r"^\W*(?:(?:unfortunately, )?i(?:['’]m| am) (?:very |really )?(?:sorry|unable|not able)|sorry,|my apologies"
    r"|i apologi[sz]e|(?:unfortunately, )?i (?:can(?:['’]|no)t|won['’]t|will not|must decline)|as an ai)",
    re.IGNORECASE,
)
_RULES = r"(?:rules?|principles?|guidelines?)\b"
_REMARK = re.compile(  # of the list, or to who asked for it
    r"^\W*(?:(?:notes?|explanation|example|reason(?:ing)?|rationale|comment|summary|remark|conclusion)\W*:"
    rf"|(?:please )?note that\b|in (?:summary|conclusion|short)\b|(?:by )?following (?:these|this|the) {_RULES}"
    rf"|(?:these|the above|all of these|together,? these) {_RULES}"
    r"|let me know\b|feel free\b|i hope\b|if you (?:need|have|want|would like)\b.*\blet me know\b)",
    re.IGNORECASE,
)
_ASIDE = frozenset(
    ("note", "notes", "explanation", "example", "reason", "reasoning", "rationale", "comment", "summary")
)
_TITLE = re.compile(r"(?:\*\*)?([^:*]*[^:*\s])(?:\*\*:?|:\*\*|:)\s+(?=\S)")
_LABEL = re.compile(r"^(?i:answer|rule|principle)(?: \d{1,2})?:\s+(?=[A-Z])")
_QUOTE = re.compile(r"[\"“]([^\"”]*)(?:[\"”]|$)")
_SPOKEN = re.compile(r"\bI(?:['’](?:m|ll|d|ve))?\b")
_SENTENCE_OPENINGS = frozenset(
    ("do", "don't", "never", "always", "when", "if", "unless", "for", "in", "with", "while")
    + ("answer", "avoid", "refuse", "decline")
)
MIN_WORDS, MAX_WORDS = 4, 80


def read_list(text: str) -> list[str]:
    """Items in order, without markers. Blank lines between items and wrapped lines keep every item;
    text before the first marker and after the last item's paragraph is a remark."""
    if _NONE.match(text) or _REFUSAL.match(text):
        return []
    items = _from_json(text)
    if items is None:
        items = _from_lines(text)
    cleaned = [clean(i) for i in items]
    return list(dict.fromkeys(i for i in cleaned if is_principle(i)))


def clean(item: str) -> str:
    """One line without markup, and without a short title: "**Safety first:** Do not …" says less than its sentence.
    What belongs to the sentence stays: "When asked for a key: …", "Do **not** …"."""
    item = _LABEL.sub("", re.sub(r"\s+", " ", item).strip())
    titled = _TITLE.match(item)
    if titled is not None:
        title, rest = titled.group(1), item[titled.end() :]
        apart = rest[0].isupper() or ("**" in titled.group() and ":" in titled.group())
        short = len(title.split()) <= 6 and len(rest.split()) >= MIN_WORDS
        if apart and short and title.split()[0].lower() not in _SENTENCE_OPENINGS:
            item = rest
    return unquoted(without_example(item.replace("**", "").strip("* ").rstrip(":").strip()))


def without_example(item: str) -> str:
    """A rule up to where its writer begins to play the assistant: a later sentence that speaks as "I", or that quotes a
    reply. What the first sentence says stays, however it says it."""
    first, *more = re.split(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)\s+(?=[\"“A-Z])", item)
    kept = [first]
    for sentence in more:
        if _SPOKEN.search(_QUOTE.sub("", sentence)) or any(len(q.split()) >= 6 for q in _QUOTE.findall(sentence)):
            break
        kept.append(sentence)
    return " ".join(kept)


def unquoted(item: str) -> str:
    """Without quotation marks around the whole, or one that has no partner; those inside a sentence stay."""
    around = item.count('"') == 2 and item.startswith('"') and item.endswith('"')
    return item.strip('"').strip() if around or item.count('"') % 2 else item


def is_principle(item: str) -> bool:
    said = not item.endswith("?") and not _NONE.match(item) and not _REMARK.match(item)
    return said and MIN_WORDS <= len(item.split()) <= MAX_WORDS


def _from_json(text: str) -> list[str] | None:
    fenced = re.search(r"```(?:json)?\s*(.*?)```", text, re.DOTALL)
    body = fenced.group(1) if fenced else text
    opening = re.search(r"[\[{]", body)
    if opening is None:
        return None
    body = body[opening.start() :]
    try:
        value, _ = json.JSONDecoder().raw_decode(body)
    except json.JSONDecodeError:
        return _cut_off(body)
    found = [marked.group(1) if (marked := _BULLET.match(s)) else s for s in _strings(value)]
    if not found and isinstance(value, dict) and [] in value.values():
        return []
    return found or None  # a bracket in a sentence, such as [1], is no list of rules


def _cut_off(body: str) -> list[str] | None:
    """The whole strings of a list in an object that ran into the token limit; None where there is no such object."""
    if not re.match(r'\{\s*"[^"]*"\s*:\s*\[', body):
        return None
    strings = re.findall(r'(:\s*)?("(?:[^"\\\n]|\\.)*")(\s*:)?', body)
    try:
        return [json.loads(text) for value, text, key in strings if not value and not key] or None
    except json.JSONDecodeError:
        return None


def _strings(value: Any) -> list[str]:
    """The texts of a JSON value: strings of lists, and of a mapping the first text of each entry."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        named = [v for k, v in value.items() if k in ("principle", "rule", "text", "content")]  # type: ignore[reportUnknownVariableType]
        rest = [v for k, v in value.items() if k.lower() not in _ASIDE]  # type: ignore[reportUnknownVariableType]
        return [s for v in (named or rest) for s in _strings(v)]  # type: ignore[reportUnknownVariableType]
    if isinstance(value, list):
        return [s for v in value for s in _strings(v)]  # type: ignore[reportUnknownVariableType]
    return []


def _from_lines(text: str) -> list[str]:
    items: list[str] = []
    open_item = False
    for line in text.splitlines():
        found = _BULLET.match(line)
        if found:
            items.append(found.group(1))
            open_item = True
        elif not line.strip() or _REMARK.match(line):
            open_item = False
        elif open_item:
            items[-1] += " " + line.strip()
    if not items:  # no markers: each line that stands alone as an imperative sentence
        items = [
            p.strip()
            for p in text.splitlines()
            if re.match(r"^\s*(?:Do|Don't|Never|Always|When|If|Answer|Avoid|The assistant)\b", p)
        ]
    return items
