"""Every mistake in a data set, or in its name, is named with its place and with what to do."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from iteralign.config import DataConfig
from iteralign.data import load_prompts
from iteralign.errors import DataError
from iteralign.records import Prompt


def load(source: str | Path, **settings: Any) -> list[Prompt]:
    return load_prompts(DataConfig.model_validate({"source": str(source), "wants": "answer", **settings}), 0)


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


GOOD = '{"text": "a"}\n'
MISTAKES = {
    "broken line": ("q.jsonl", GOOD + '{"text": \n', r"q.jsonl:2: not valid JSON: .*Mend or delete it"),
    "broken file": ("q.json", '[\n{"text": "a"},\n]', r"q.json:[23]: not valid JSON"),
    "no object": ("q.jsonl", GOOD + "[1]\n", r"q.jsonl:2: expected an object or a text, got a list"),
    "no list": ("q.json", '{"a": 1}', r"q.json: expected a JSON list of objects or texts, got an object"),
    "unknown columns": ("q.jsonl", '{"a": "b"}', r"q.jsonl:1: none of the columns prompt, .*: 'a'. .*column: NAME"),
    "missing column": ("q.jsonl", GOOD + "\n" + '{"a": "b"}', r"q.jsonl:3: no column 'text'; .*: 'a'. Name the right"),
    "wrong type": ("q.jsonl", GOOD + '{"text": 3}', r"q.jsonl:2: expected a text or a list of .*'text', got a number"),
    "null": ("q.jsonl", GOOD + '{"text": null}', r"q.jsonl:2: expected a text .* got nothing"),
    "blank": ("q.csv", 'text,kind\na,b\n" ",b\n', r"q.csv, row 2: column 'text' is blank. Fill it in, or delete"),
    "short row": ("q.csv", "kind,text\na,b\nc\n", r"q.csv, row 2: expected a text .* got nothing"),
    "long row": ("q.csv", "text\na,b\n", r"q.csv, row 1: more cells than the header. Quote"),
    "bad category": (
        "q.jsonl",
        '{"text": "a", "category": [1]}',
        r":1: .*text or a number in column 'category', got a list",
    ),
    "bad role": (
        "q.jsonl",
        '{"text": [{"role": "tool", "content": ""}]}',
        r":1: message 1 of 'text': .*the role 'tool'",
    ),
    "other chat": ("q.jsonl", '{"text": [{"from": "gpt"}]}', r"message 1 of 'text': expected .* object with 'from'"),
    "no user turn": ("q.jsonl", '{"text": []}', r"q.jsonl:1: column 'text': expected at least one user turn"),
    "empty file": ("q.jsonl", "", r"q.jsonl: no questions: expected at least one row"),
    "empty json": ("q.json", "", r"no questions"),
    "only a header": ("q.csv", "text\n", r"no questions"),
    "extension": ("q.xlsx", "a", r"q.xlsx: the extension '.xlsx' is not known. Expected .jsonl, .json, .*convert"),
    "half a character": ("q.jsonl", GOOD + r'{"text": "a \uD83D b"}', r"q.jsonl:2: holds half a character"),
    "not packed": ("q.txt.gz", "a", r"q.txt.gz: not a whole gzip file"),
    "not parquet": ("q.parquet", "a", r"q.parquet: not a Parquet file"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_file_is_named_with_its_place(tmp_path: Path, mistake: str) -> None:
    name, content, said = MISTAKES[mistake]
    with pytest.raises(DataError, match=said):
        load(write(tmp_path / name, content))


def test_a_named_column_that_is_missing_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "q.jsonl", GOOD)
    for setting in ("column", "category_column", "subtopic_column"):
        settings: dict[str, Any] = {setting: "nope"}
        with pytest.raises(DataError, match=r"q.jsonl:1: no column 'nope'; the columns there are: 'text'"):
            load(file, **settings)


def test_text_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_bytes("Größe?".encode("latin-1"))
    with pytest.raises(DataError, match=r"q.txt: expected UTF-8, but byte 2 is not. Save it as UTF-8"):
        load(tmp_path / "q.txt")


def test_half_a_gzip_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl.gz").write_bytes(gzip.compress(GOOD.encode())[:-6])
    with pytest.raises(DataError, match=r"q.jsonl.gz: not a whole gzip file"):
        load(tmp_path / "q.jsonl.gz")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{tmp}/question.jsonl", "there is no file {tmp}/question.jsonl. Did you mean {tmp}/questions.jsonl?"),
        ("path:{tmp}/zz.csv", "there is no file {tmp}/zz.csv. {tmp} holds questions.jsonl"),
        ("{tmp}/away/q.csv", "its folder {tmp}/away is not there"),
        ("{tmp}", "{tmp} is a folder: expected one file. {tmp} holds questions.jsonl"),
        ("dangeruosqa", "no data set is called 'dangeruosqa', and there is no such file: did you mean dangerousqa?"),
        ("hh-rlhf", "did you mean hh-rlhf:harmless or hh-rlhf:helpful or hh-rlhf:red-team?"),
        ("xstest:saef@{tmp}", "did you mean xstest:safe?"),
        ("harmfulqa@{tmp}", "there is no file {tmp}/harmfulqa.json. {tmp} holds questions.jsonl"),
        ("harmfulqa@{tmp}/questions.jsonl", "expected topics with subtopics with lists of questions, got a text"),
        ("dangerousqa@{tmp}/questions.jsonl", "expected a JSON list of objects or texts, got an object"),
        ("hh-rlhf:red-team@{tmp}/questions.jsonl", "expected a JSON list of objects or texts, got an object"),
        ("hh-rlhf:harmless@{tmp}/questions.jsonl", "questions.jsonl:1: no column 'chosen'"),
        ("pack:startr/red_team", "there is no folder startr and no pack of that name. The packs are health, starter"),
        ("pack:starter/red_tem", "Did you mean"),
        ("pack:starter/harmless:lookalike", "the kind 'lookalike'; the kinds there are: look_alike, ordinary"),
        ("pack:starter", "expected pack:NAME/FILE"),
    ],
)
def test_a_source_that_is_not_there_is_named_with_the_nearest(tmp_path: Path, source: str, said: str) -> None:
    write(tmp_path / "questions.jsonl", '{"text": "a"}')
    with pytest.raises(DataError, match=re.escape(said.format(tmp=tmp_path))):
        load(source.format(tmp=tmp_path))


def test_a_transcript_that_is_none_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "q.jsonl", json.dumps({"chosen": "Human: hi"}))
    with pytest.raises(
        DataError, match=r'q.jsonl:1: column \'chosen\': expected a dialogue that starts with "\\n\\nHuman:"'
    ):
        load(f"hh-rlhf:helpful@{file}")
