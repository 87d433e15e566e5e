"""Constitutions shown, compared, exported and brought in: what comes out loads back."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from iteralign.cli import app
from iteralign.config import load_config
from iteralign.constitutions import constitution_yaml, load_constitution
from iteralign.errors import ConfigError, StoreError
from iteralign.recipes.iteralign import iteralign
from iteralign.records import Constitution, Principle, Wants, digest
from iteralign.report.constitution import constitution_at, difference, difference_text, imported, shown
from iteralign.runs import open_

SCRIPTED = Path(__file__).parents[1] / "configs/scripted.yaml"
LIST = """Here are our rules:

1. **Weapons:** Do not explain how weapons are made at home.

2. Never help to threaten or blackmail another person.

I hope that this helps!
"""


def principle(text: str, kind: Wants = "decline") -> Principle:
    return Principle(id=digest(text, kind, length=12), text=text, framing="do", kind=kind)


def test_a_list_of_rules_becomes_a_constitution_that_a_run_takes(tmp_path: Path) -> None:
    (tmp_path / "rules.md").write_text(LIST)
    made = imported(tmp_path / "rules.md", "decline")
    assert [(p.text, p.framing, p.kind) for p in made.principles] == [
        ("Do not explain how weapons are made at home.", "dont", "decline"),
        ("Never help to threaten or blackmail another person.", "dont", "decline"),
    ]
    (tmp_path / "mine.yaml").write_text(constitution_yaml(made))
    assert load_constitution(str(tmp_path / "mine.yaml")) == made
    run = open_(load_config(SCRIPTED, [f"constitution={tmp_path / 'mine.yaml'}"]), tmp_path / "run")
    assert run.constitution == made


def test_what_is_no_list_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.md").write_text("Thank you very much.")
    with pytest.raises(ConfigError, match="nothing in it reads as a principle"):
        imported(tmp_path / "empty.md", "decline")
    with pytest.raises(ConfigError, match="not a text file that can be read"):
        imported(tmp_path / "absent.md", "decline")


def test_a_reworded_principle_is_told_from_one_that_went_and_one_that_came() -> None:
    a = principle("Do not explain how weapons are made at home.")
    b = principle("Do not explain how weapons can be made at home.")
    same, gone, new = (
        principle("Be kind to animals of all kinds."),
        principle("Cite your sources."),
        principle("Use metric units in recipes."),
    )
    made = difference(Constitution(principles=(a, same, gone)), Constitution(principles=(same, b, new)))
    assert (made.kept, made.added, made.removed) == ((same,), (new,), (gone,))
    assert [(x.text, y.text) for x, y, _ in made.reworded] == [(a.text, b.text)]
    assert difference_text(made).endswith("1 kept, 1 added, 1 removed, 1 reworded")


def test_of_a_run_with_its_history(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no constitution.yaml"):
        shown(str(tmp_path))
    iteralign(open_(load_config(SCRIPTED), tmp_path / "run"))
    made = constitution_at(str(tmp_path / "run"))
    assert made.constitution.principles and made.entries
    assert all(p.text in shown(str(tmp_path / "run")) for p in made.constitution.principles)


def test_every_row_leads_to_its_principles_and_every_principle_to_its_failures_by_the_files_alone(
    tmp_path: Path,
) -> None:
    iteralign(open_(load_config(SCRIPTED, ["sft.min_rows=1"]), tmp_path))
    proposed: dict[str, set[str]] = {}
    for line in (tmp_path / "ledger.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["event"] in ("proposed", "merged"):
            proposed.setdefault(entry["into"] or entry["principle"], set()).update(entry["evidence"])
    failed: set[str] = set()
    learnt: list[dict[str, Any]] = []
    for place in sorted((tmp_path / "rounds").iterdir()):
        answers = {json.loads(x)["id"]: json.loads(x) for x in (place / "responses.jsonl").read_text().splitlines()}
        verdicts = [json.loads(x) for x in (place / "verdicts.jsonl").read_text().splitlines()]
        failed |= {answers[v["response"]]["prompt"] for v in verdicts if v["label"] == "fails"}
        learnt += [json.loads(x) for x in (place / "rows.jsonl").read_text().splitlines()]
    assert proposed and all(prompts and prompts <= failed for prompts in proposed.values())
    revised = [row for row in learnt if row["origin"] == "revision"]
    assert revised and all(row["principles"] and row["prompt"] in failed for row in revised)
    assert {p for row in revised for p in row["principles"]} <= proposed.keys()


def test_a_file_with_what_a_constitution_has_not_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "principles: [Be kind to animals of all kinds.]\nprincipels: [Be fair to all of them.]\n"
    )
    with pytest.raises(ConfigError, match="unknown key 'principels'"):
        load_constitution(str(tmp_path / "a.yaml"))
    (tmp_path / "b.yaml").write_bytes(b"principles: [Be kind \xff to animals.]\n")
    with pytest.raises(ConfigError, match="b.yaml is not valid YAML in UTF-8"):
        load_constitution(str(tmp_path / "b.yaml"))


def test_the_commands(tmp_path: Path) -> None:
    def cli(*arguments: object) -> str:
        done = CliRunner().invoke(app, ["constitution", *map(str, arguments)], catch_exceptions=False)
        assert done.exit_code == 0
        return done.output

    (tmp_path / "rules.md").write_text(LIST)
    assert "2 principles" in cli("import", tmp_path / "rules.md", tmp_path / "a.yaml")
    assert "2 principles" in cli("export", tmp_path / "a.yaml", tmp_path / "b.json")
    assert "blackmail" in (tmp_path / "b.json").read_text()
    assert "2 kept, 0 added" in cli("diff", tmp_path / "a.yaml", tmp_path / "a.yaml")
    assert "What to decline" in cli("show", tmp_path / "a.yaml")
    with pytest.raises(ConfigError, match="a name that ends in"):
        cli("export", tmp_path / "a.yaml", tmp_path / "b.docx")
    with pytest.raises(ConfigError, match="expected decline, answer or unknown"):
        cli("import", tmp_path / "rules.md", tmp_path / "a.yaml", "--kind", "maybe")
