"""report.html in a real browser: hostile text runs nothing and asks for nothing; readable in light, dark and on a phone."""

import json
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Browser

from contrast import CONTRAST
from iteralign.report import write_reports
from iteralign.report.html import filters
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
        tree |= {"calls": 3, "failed": [{"group": EVIL, "error": EVIL}]}
        path.write_text(json.dumps(tree))
        gone = {
            "principle": tree["constitution"]["principles"][0]["id"],
            "event": "retired",
            "round": 0,
            "reason": EVIL,
        }
        path.with_name("lifts.json").write_text(json.dumps([gone]))
    for path in folder.glob("rounds/*/gate.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "reasons": [EVIL]}))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["prompts"]["red_team"][0]["source"] = EVIL
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    facts = json.loads((folder / "environment.json").read_text())
    (folder / "environment.json").write_text(json.dumps({**facts, "system": EVIL, EVIL: EVIL}))
    spent = {"seconds": 12.5, "calls": 1, "read": 1, "written": 1, "dollars": 0.1, "unpriced": 0}
    with (folder / "events.jsonl").open("a") as file:
        file.write(json.dumps({"event": "stage", "stage": EVIL, **spent}) + "\n")
    point = {"round": None, "value": 0.5, "declined": 0.5, "answered": 0.5}
    curve = {"points": [point, {**point, "round": 0}], "best": 0, "warning": EVIL, "stopped": EVIL}
    (folder / "curve.json").write_text(json.dumps(curve))
    score = {"name": EVIL, "variant": "evaluator", "value": 0.5, "stderr": 0.1, "low": 0.4, "high": 0.6, "n": 2}
    score |= {"n_unscored": 1, "items": {EVIL: 0.5}}
    rows = [
        {
            "part": part,
            "what": "3 tokens" if part == "prefill" else EVIL,
            "column": column,
            "scores": [score, {**score, "variant": EVIL}],
            "unscored": EVIL,
        }
        | {"categories": [{**score, "variant": EVIL}]}
        for part in ("prefill", "attack", "fine-tuning")
        for column in ("base", EVIL)
    ]
    rows += [{"part": "attack", "what": "x", "column": "base", "reason": EVIL}]
    depth = {"columns": ["base", EVIL], "prompts": 2, "replies": 1, "rows": rows, "positions": [], "no_positions": EVIL}
    (folder / "probe.json").write_text(json.dumps(depth))
    for path in folder.glob("evals/*/scores.json"):
        scores = json.loads(path.read_text())
        path.write_text(json.dumps([*scores, {**score, "name": f"arc_easy/{EVIL}", "variant": EVIL}]))


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
    shown, classes = summary.pairs.shown, filters(summary.pairs, summary.constitution).classes

    def chosen(legend: str, name: str, wanted: int) -> None:
        group = page.get_by_role("group", name=legend)
        group.get_by_label(name, exact=True).check()
        assert page.locator(".all .pair:visible").count() == wanted < summary.pairs.total
        group.get_by_label("all", exact=True).check()

    chosen("What happened", shown[0].title, sum(p.title == shown[0].title for p in shown))
    chosen("Category", shown[0].category, sum(p.category == shown[0].category for p in shown))
    chosen("Subjects of principle", "1", sum("p0" in own.split() for own in classes))
    assert page.locator(".principles li").first.get_attribute("value") is not None
    numbers = [page.locator(".principles li").nth(n).get_attribute("value") for n in range(len(summary.constitution))]
    texts = page.locator(".principles > li").all_inner_texts()
    for number, text in zip(numbers, texts, strict=False):
        assert text.startswith(summary.constitution[int(number or 0) - 1].text), "the number of the filter"
    context.close()


def test_a_report_prints_on_a4_in_dark_mode_too(browser: Browser, folder: Path) -> None:
    margins = 2 * 45  # px, of the 794 that A4 is wide
    summary = write_reports(folder)
    context = browser.new_context(color_scheme="dark", viewport={"width": 794 - margins, "height": 1000})
    page = context.new_page()
    page.emulate_media(media="print")
    page.goto(summary.html.resolve().as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((x) => { x.open = true })")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "cut off at the margin"
    assert page.locator("table.measures thead").first.is_visible(), "a table, not the phone's list"
    assert page.locator("fieldset:visible").count() == 0, "nothing to click on paper"
    context.close()
