"""report.html in a real browser: hostile text runs nothing and asks for nothing; readable in light, dark and on a phone."""

import json
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Browser

from contrast import CONTRAST
from iteralign.report import write_reports
from iteralign.store import read_rows, write_rows

EVIL = (
    "</p></script></style></title><script>document.title='owned'</script><img src=http://127.0.0.1:9/x "
    "onerror=\"document.title='owned'\"><svg onload=\"document.title='owned'\"><a href=\"javascript:document.title='owned'\">x</a>"
    "{{ 7 * 7 }}{% raw %}<style>body{display:none}</style>"
)


def poison(folder: Path) -> None:
    """EVIL in every text of a run that a report may show."""
    for path in (*folder.glob("**/responses.jsonl"), *folder.glob("**/prompts.jsonl")):
        rows = read_rows(path)
        for row in rows:
            if "reply" in row:
                row["reply"]["text"] = EVIL
            else:
                row |= {"category": EVIL, "subtopic": EVIL}
                row["plain"][-1]["content"] = EVIL
        write_rows(path, rows)
    for path in folder.glob("**/verdicts.jsonl"):
        write_rows(path, [{**row, "reason": EVIL} for row in read_rows(path)])
    for path in folder.glob("**/revisions.jsonl"):
        rows = read_rows(path)
        for step in (s for row in rows for s in row["steps"] if s["reply"]):
            step["reply"]["text"] = EVIL
        write_rows(path, rows)
    for path in folder.glob("rounds/*/principles.json"):
        tree = json.loads(path.read_text())
        for principle in tree["constitution"]["principles"]:
            principle["text"] = EVIL
        path.write_text(json.dumps(tree))
    for path in folder.glob("rounds/*/gate.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "reasons": [EVIL]}))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["prompts"]["red_team"][0]["source"] = EVIL
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    facts = json.loads((folder / "environment.json").read_text())
    (folder / "environment.json").write_text(json.dumps({**facts, "system": EVIL, EVIL: EVIL}))
    with (folder / "events.jsonl").open("a") as file:
        file.write(json.dumps({"event": "seconds", EVIL: 12.5}) + "\n")


@pytest.mark.parametrize("full", [False, True])
def test_hostile_text_runs_nothing_and_asks_for_nothing(browser: Browser, folder: Path, full: bool) -> None:
    poison(folder)
    summary = write_reports(folder, full)
    page, asked, said = browser.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.goto(summary.html.resolve().as_uri())
    page.wait_for_timeout(300)
    for name in ("details", "summary"):
        page.evaluate(f"document.querySelectorAll('{name}').forEach((x) => {{ x.open = true }})")
    page.wait_for_timeout(100)
    assert page.title().endswith("before → after") and said == []
    assert asked == [summary.html.resolve().as_uri()]
    assert page.locator("script, img, a, iframe, object, [onload], [onerror]").count() == 0
    assert page.locator("h1").is_visible(), "a style of another's hides the page"
    assert "49" not in page.locator("h2").all_inner_texts()
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_a_report_is_readable_and_its_filters_work(browser: Browser, folder: Path, scheme: str, width: int) -> None:
    summary = write_reports(folder)
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(summary.html.resolve().as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((x) => { x.open = true })")
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    pairs = page.locator(".all .pair")
    assert pairs.count() == summary.pairs.total
    title = summary.pairs.shown[0].title
    page.get_by_label(title, exact=True).check()
    wanted = sum(p.title == title for p in summary.pairs.shown)
    assert page.locator(".all .pair:visible").count() == wanted < summary.pairs.total
    context.close()
