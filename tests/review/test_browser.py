"""The pages in a real browser: rated by keyboard alone, without JavaScript, on a phone; contrast by WCAG AA."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import uvicorn
from planted import run
from playwright.sync_api import Browser, Locator, Page
from sklearn.metrics import cohen_kappa_score

from contrast import CONTRAST
from iteralign.constitutions import load_constitution
from iteralign.errors import Waiting
from iteralign.models.base import Job, Sampling
from iteralign.models.human import HumanModel
from iteralign.records import Constitution, user
from iteralign.review.app import CHOICES, Pages, app_for
from iteralign.review.book import Annotator, Book
from iteralign.review.items import order_for
from iteralign.review.principles import worded
from iteralign.review.serve import open_pages


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    folder = run(tmp_path_factory.mktemp("browser") / "run", "prompts.red_team_per_round=48", "seed=1")
    with served(open_pages(folder, 10)) as pages:
        yield pages


@contextmanager
def served(pages: Pages) -> Iterator[Pages]:
    """On loopback."""
    server = uvicorn.Server(uvicorn.Config(app_for(pages), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    pages.address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    yield pages
    server.should_exit = True
    thread.join()


def by_keyboard(page: Page, pages: Pages, who: Annotator, keys: list[int]) -> None:
    page.goto(f"{pages.address}/r/{who.token}")
    for n, key in enumerate(keys):
        page.get_by_text(f"{n} of {len(keys)} rated").wait_for()
        page.wait_for_load_state()
        page.keyboard.press(str(key))
    page.get_by_text("Done. Thank you!").wait_for()


def test_three_annotators_rate_twenty_answers_by_keyboard(browser: Browser, pages: Pages) -> None:
    said: dict[str, dict[str, bool]] = {}
    for m, name in enumerate(("Ann", "Ben", "Cat")):
        who = pages.book.invite(name)
        order = order_for(pages.items, name)
        votes = {i.id: (len(i.answer) + (k % (m + 2) == 0)) % 2 == 0 for k, i in enumerate(pages.items)}
        page = browser.new_page()
        by_keyboard(page, pages, who, [1 if votes[i.id] else 2 + n % 5 for n, i in enumerate(order)])
        page.close()
        said[name] = votes
    page = browser.new_page()
    page.goto(f"{pages.address}/a/{pages.book.owner}")
    shown = {
        cells[0]: cells[1]
        for cells in (row.split("\t") for row in page.locator("table").nth(2).inner_text().split("\n")[1:])
    }
    ids = [i.id for i in pages.items]
    for a, b in (("Ann", "Ben"), ("Ann", "Cat"), ("Ben", "Cat")):
        kappa = cohen_kappa_score([said[a][i] for i in ids], [said[b][i] for i in ids])
        assert shown[f"{a} and {b}"].startswith(f"{kappa:.2f} "), shown
    page.close()


def test_a_reason_is_written_without_pressing_buttons(browser: Browser, pages: Pages) -> None:
    who, page = pages.book.invite("Dan"), browser.new_page()
    page.goto(f"{pages.address}/r/{who.token}")
    page.keyboard.press("r")
    page.keyboard.type("1 or 2, I am not sure")
    page.keyboard.press("Escape")
    page.keyboard.press("6")
    page.get_by_text("1 of 20 rated").wait_for()
    page.wait_for_load_state()
    [rating] = [r for r in pages.book.ratings() if r.annotator == "Dan"]
    assert (rating.said, rating.note) == ("none", "1 or 2, I am not sure")
    page.keyboard.press("b")
    page.get_by_text("1 or 2, I am not sure").wait_for()
    page.close()


def test_rating_works_without_javascript(browser: Browser, pages: Pages) -> None:
    who = pages.book.invite("Eve")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{pages.address}/r/{who.token}")
    page.get_by_role("button", name=CHOICES[0][1]).click()
    page.get_by_text("1 of 20 rated").wait_for()
    context.close()
    assert [r.said for r in pages.book.ratings() if r.annotator == "Eve"] == ["satisfactory"]


def test_a_key_held_down_rates_one_answer(browser: Browser, pages: Pages) -> None:
    who, page = pages.book.invite("Gil"), browser.new_page()
    page.goto(f"{pages.address}/r/{who.token}")
    held = "document.body.dispatchEvent(new KeyboardEvent('keydown', {key: '1', bubbles: true, repeat: %s}))"
    page.evaluate(held % "true")
    page.wait_for_timeout(100)
    assert [r for r in pages.book.ratings() if r.annotator == "Gil"] == []
    page.evaluate(held % "false")
    page.get_by_text("1 of 20 rated").wait_for()
    page.close()


def test_skip_leaves_an_answer_for_the_end(browser: Browser, pages: Pages) -> None:
    who, page = pages.book.invite("Hal"), browser.new_page()
    order = order_for(pages.items, "Hal")
    page.goto(f"{pages.address}/r/{who.token}")
    page.keyboard.press("s")
    page.wait_for_url(f"**item={order[1].id}")
    page.wait_for_load_state()
    page.keyboard.press("1")
    page.wait_for_url(f"**item={order[2].id}")
    rated = [rating.item for rating in pages.book.ratings() if rating.annotator == "Hal"]
    assert rated == [order[1].id], "what was skipped is open still"
    page.close()


def test_principles_are_accepted_reworded_merged_and_reordered(browser: Browser, pages: Pages, tmp_path: Path) -> None:
    one, two, three = (worded(f"Decline to help with crime number {n}.", "decline") for n in range(3))
    own = Pages(tmp_path, pages.items, Constitution(principles=(one, two, three)), Book(tmp_path / "review.sqlite"), "")
    page = browser.new_page()
    with served(own):
        page.goto(f"{own.address}/a/{own.book.owner}/principles")

        def card(identity: str) -> Locator:
            return page.locator(f"#p-{identity}")

        card(one.id).get_by_role("button", name="Accept").click()
        card(one.id).get_by_text("accepted", exact=True).wait_for()
        card(two.id).get_by_label("Wording").fill("Never help a thief.")
        card(two.id).get_by_role("button", name="Up").click()
        page.locator("section.principle").first.get_by_text("Never help a thief.").first.wait_for()
        card(three.id).get_by_label("Merge into").select_option(one.id)
        card(three.id).get_by_role("button", name="Merge", exact=True).click()
        card(three.id).get_by_text("merged into 2").wait_for()
        page.get_by_label("Wording").last.fill("Tell no lies about people.")
        page.get_by_role("button", name="Add").click()
        page.locator("section.principle textarea", has_text="Tell no lies about people.").wait_for()
    page.close()
    written = load_constitution(str(tmp_path / "constitution-reviewed.yaml"))
    assert [p.text for p in written.principles] == ["Never help a thief.", one.text, "Tell no lies about people."]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_every_page_is_readable_and_fits(browser: Browser, pages: Pages, scheme: str, width: int) -> None:
    who, owner = pages.book.invite("Fay"), pages.book.owner
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})  # type: ignore[arg-type]
    page, asked, said = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    with suppress(Waiting):
        HumanModel(pages.run / "people").generate([Job(chat=user("<b>Which rules?</b>"), sampling=Sampling())])
    for place in (
        f"/r/{who.token}",
        f"/r/{who.token}/mine",
        *(f"/a/{owner}{x}" for x in ("", "/principles", "/questions")),
    ):
        page.goto(pages.address + place)
        assert page.evaluate(CONTRAST) == [], place
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{place} is wider than {width}"
        unnamed = "[...document.querySelectorAll('textarea, select, input:not([type=hidden])')].filter((x) => !x.labels.length)"
        assert page.evaluate(f"{unnamed}.length") == 0, place
    assert [url for url in asked if not url.startswith(pages.address)] == []
    assert said == []
    context.close()


def test_hostile_text_runs_nothing(browser: Browser, tmp_path: Path, pages: Pages) -> None:
    evil = "</blockquote></textarea></summary><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    items = [i.model_copy(update={"question": evil, "answer": evil, "category": evil}) for i in pages.items]
    hostile = Pages(tmp_path, items, pages.constitution, Book(tmp_path / "review.sqlite"), "http://127.0.0.1")
    ann, ben = hostile.book.invite(f"Ann {evil}"), hostile.book.invite("Ben")
    hostile.book.rate(ann, items[0].id, "satisfactory", evil)
    hostile.book.rate(ben, items[0].id, "none", evil)
    hostile.book.decide("owner", "add", "decline", evil)
    page = browser.new_page()
    for text in (hostile.rate(ann, items[0].id), hostile.mine(ann), hostile.overview("t"), hostile.principles("t")):
        page.set_content(text)
        page.wait_for_timeout(50)
        assert page.title() != "owned"
    page.close()
