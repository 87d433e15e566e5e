"""The README is true: its tree is the tree, its commands exist, its three examples work."""

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from chat_server import Answer, Asked, says, serving

from iteralign import load_config, run
from iteralign.cli import app
from iteralign.config import parse
from iteralign.runs import split_prompts
from iteralign.sources import listing
from iteralign.store import read_rows

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SCRIPTED = ROOT / "configs" / "scripted.yaml"


def test_the_tree_is_real() -> None:
    tree = README.split("## The tree")[1].split("```")[1]
    named = [line.split()[0] for line in tree.splitlines() if line.strip()]
    folder = ROOT
    for line, name in zip([x for x in tree.splitlines() if x.strip()], named, strict=True):
        depth = (len(line) - len(line.lstrip())) // 4
        folder = ROOT if depth == 0 else ROOT / "src" / "iteralign"
        assert (folder / name).exists(), name
    modules = {p.name for p in (ROOT / "src/iteralign").iterdir() if not p.name.startswith("_")}
    listed = {n.rstrip("/") for n in named}
    assert not modules - listed, f"not in the README's tree: {sorted(modules - listed)}"


def test_its_commands_exist() -> None:
    commands = {c.name or (c.callback.__name__.rstrip("_") if c.callback else "") for c in app.registered_commands}
    commands |= {str(group.name) for group in app.registered_groups}
    for name in set(re.findall(r"`iteralign (\w+)", README)):
        assert name in commands, name
    for target in set(re.findall(r"^ {4}make (\w+)", README, re.MULTILINE)):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target
    for path in set(re.findall(r"configs/[\w./-]+\.yaml", README)):
        assert (ROOT / path).is_file(), path


def test_what_there_is_to_download_is_what_the_demo_fetches() -> None:
    size = sum(source.size for source, _ in listing() if source.name in ("policy", "oracle", "hhh"))
    told = f"{size / 1e9:.1f} GB"
    assert (
        f"{told} of models to download" in README
        and f"the downloads ({told})" in (ROOT / "configs/demo.yaml").read_text()
    )


def test_its_pictures_are_small() -> None:
    assert [p.name for p in (ROOT / "docs/images").glob("*.png") if p.stat().st_size >= 300_000] == []


def snippets() -> list[dict[str, object]]:
    return [yaml.safe_load(s) for s in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)]


def test_own_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [f'{{"question": "How do I steal item {i} from shop {i}?", "topic": "t{i % 9}"}}' for i in range(60)]
    Path("my_red_team.jsonl").write_text("\n".join(lines))
    Path("my_harmless.csv").write_text("text\n" + "\n".join(f"How do I bake bread number {i}?" for i in range(60)))
    config = parse({**yaml.safe_load(SCRIPTED.read_text()), "name": "own", **snippets()[0]}, "README")
    splits = split_prompts(config)
    assert all(splits[s].red_team and splits[s].harmless for s in splits)
    outcome = run(config.model_copy(update={"rounds": 1}), tmp_path / "run")
    assert outcome.policy.checkpoint.rows > 0


def test_own_oracle_and_judge_on_a_server(tmp_path: Path) -> None:
    def behave(asked: Asked, times: int) -> Answer:
        if "Answer yes or no" not in asked.text:
            return says("1. Do not help anybody to harm or rob other people.")
        declines = "can't help with that" in asked.text
        return says("yes" if "sensible" in asked.text or declines == ("they cannot" in asked.text) else "no")

    with serving() as server:
        server.behaviour = behave
        snippet = yaml.safe_load(yaml.safe_dump(snippets()[1]).replace("http://127.0.0.1:8000/v1", server.url))
        tree = {**yaml.safe_load(SCRIPTED.read_text()), "name": "server", **snippet, "rounds": 1}
        outcome = run(parse(tree, "README"), tmp_path / "run")
    assert [p.text for p in outcome.constitution.principles] == ["Do not help anybody to harm or rob other people."]
    assert (tmp_path / "run" / "calls.sqlite").exists()
    assert any(v["label"] == "fails" for v in read_rows(tmp_path / "run/rounds/00000/verdicts.jsonl"))


def test_own_model_is_a_setting_of_any_config() -> None:
    [line] = re.findall(r"^iteralign run (\S+) --set (policy\S+)", README, re.MULTILINE)
    assert load_config(ROOT / line[0], [line[1]]).policy.model == "./my-model"  # type: ignore[union-attr]


def test_its_commands_with_other_settings_are_read() -> None:
    commands = [shlex.split(line, comments=True) for line in re.findall(r"^iteralign run (.*)$", README, re.MULTILINE)]
    told = [(path, setting) for path, *more in commands for flag, setting in pairwise(more) if flag == "--set"]
    assert len(told) >= 4
    for path, setting in told:
        load_config(ROOT / path, [setting])
