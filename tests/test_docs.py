"""The pages of docs/ say what the code does; their links and commands lead somewhere."""

import re
import runpy
from pathlib import Path

import pytest

from iteralign.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
WRITTEN = runpy.run_path(str(ROOT / "scripts/reference.py"))["PAGES"]


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_from_the_code_is_up_to_date(name: str) -> None:
    assert (ROOT / "docs" / name).read_text() == WRITTEN[name](), "run: python scripts/reference.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[\w-]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    known = {c.name or (c.callback.__name__.rstrip("_") if c.callback else "") for c in app.registered_commands}
    known |= {str(group.name) for group in app.registered_groups}
    told = page.read_text()
    for name in re.findall(r"(?:^|`| {4})iteralign ([a-z][\w-]*)", told, re.MULTILINE):
        assert name in known, name
    for path in re.findall(r"\b(?:configs|benchmarks|src|scripts)/[\w./-]+\.(?:yaml|py|md|json)\b", told):
        assert (ROOT / path).is_file(), path
