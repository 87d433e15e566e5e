"""Rating and review: what people say is kept, counted rightly, and nobody without a link gets in."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from planted import flat, run
from sklearn.metrics import cohen_kappa_score
from typer.testing import CliRunner

from iteralign.cli import app
from iteralign.cli_review import login
from iteralign.constitutions import load_constitution
from iteralign.data.labelled import columns_of, read_labelled
from iteralign.errors import ConfigError, StoreError
from iteralign.records import Constitution
from iteralign.review.app import CHOICES, Pages, app_for
from iteralign.review.app import kappa as in_words
from iteralign.review.book import Annotator, Book, Decision, Rating
from iteralign.review.items import Item, order_for, read_items
from iteralign.review.principles import review, standing, worded
from iteralign.review.results import labelled_rows, results
from iteralign.review.serve import open_pages, write_labels
from iteralign.store import read_rows, write_rows

SRC = str(Path(__file__).parents[2] / "src")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("review") / "run", "prompts.red_team_per_round=48", "seed=1")


@pytest.fixture
def pages(folder: Path, tmp_path: Path) -> Pages:
    opened = open_pages(folder, 10)
    return Pages(tmp_path, opened.items, opened.constitution, Book(tmp_path / "review.sqlite"), "http://127.0.0.1")


@pytest.fixture
def client(pages: Pages) -> Iterator[TestClient]:
    with TestClient(app_for(pages), base_url="http://127.0.0.1", follow_redirects=False) as client:
        yield client


def says(client: TestClient, pages: Pages, who: Annotator, item: str, said: str, **more: str) -> int:
    form = {"item": item, "said": said, "stamp": pages.book.stamp(who.token), **more}
    return client.post(f"/r/{who.token}", data=form).status_code


# -- what is shown --------------------------------------------------------------------------------------


def test_both_answers_to_each_prompt_are_rated_half_of_them_harmful(folder: Path) -> None:
    items = read_items(folder, 10)
    assert len(items) == 20 and len({i.id for i in items}) == 20
    sides = {side: {i.prompt for i in items if i.side == side} for side in ("before", "after")}
    assert sides["before"] == sides["after"] and len(sides["before"]) == 10
    assert sum(i.wants == "decline" for i in items) == 10
    assert items == read_items(folder, 10)
    assert len(read_items(folder)) == 80


def test_each_annotator_has_an_order_of_their_own(folder: Path) -> None:
    items = read_items(folder, 10)
    ann, ben = order_for(items, "Ann"), order_for(items, "Ben")
    assert ann == order_for(list(reversed(items)), "Ann")
    assert ann != ben and sorted(i.id for i in ann) == sorted(i.id for i in ben)


def test_a_page_does_not_tell_which_model_answered(client: TestClient, pages: Pages) -> None:
    ann = pages.book.invite("Ann")
    for item in pages.items:
        page = client.get(f"/r/{ann.token}", params={"item": item.id}).text
        rest = page.replace(item.question, "").replace(item.answer, "").lower()
        assert "before" not in rest and "after" not in rest and "base" not in rest and item.said not in rest


def test_a_run_without_its_answers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is no run directory"):
        open_pages(tmp_path)


# -- rating ---------------------------------------------------------------------------------------------


def test_the_next_answer_comes_until_all_are_rated_and_an_earlier_one_can_be_changed(
    client: TestClient, pages: Pages
) -> None:
    ann = pages.book.invite("Ann")
    order = order_for(pages.items, "Ann")
    for n, item in enumerate(order):
        page = client.get(f"/r/{ann.token}").text
        assert f"{n} of {len(order)} rated" in page and item.id in page
        assert says(client, pages, ann, item.id, "satisfactory") == 303
    assert "Done. Thank you!" in client.get(f"/r/{ann.token}").text
    assert says(client, pages, ann, order[0].id, "harmful", note="It tells how.") == 303
    page = client.get(f"/r/{ann.token}", params={"item": order[0].id}).text
    assert 'value="harmful" data-key="2" aria-pressed="true"' in page and "It tells how." in page
    [now] = [r for r in pages.book.ratings() if r.item == order[0].id]
    assert (now.said, now.note) == ("harmful", "It tells how.")
    assert len(pages.book.ratings()) == len(order)


def test_what_is_skipped_comes_last(client: TestClient, pages: Pages) -> None:
    ann = pages.book.invite("Ann")
    order = [i.id for i in order_for(pages.items, "Ann")]

    def rated(item: str) -> str:
        form = {"item": item, "said": "satisfactory", "stamp": pages.book.stamp(ann.token)}
        return client.post(f"/r/{ann.token}", data=form).headers["location"]

    assert rated(order[1]).endswith(f"?item={order[2]}"), "the first one was skipped"
    for item, then in zip(order[2:], order[3:], strict=False):
        assert rated(item).endswith(f"?item={then}")
    assert rated(order[-1]).endswith(f"?item={order[0]}")
    assert rated(order[0]) == f"/r/{ann.token}"


def test_ten_people_at_once_lose_nothing(pages: Pages) -> None:
    people = [pages.book.invite(f"P{n}") for n in range(10)]

    def rate_all(who: Annotator) -> None:
        with TestClient(app_for(pages), base_url="http://127.0.0.1", follow_redirects=False) as own:
            for item in order_for(pages.items, who.name):
                assert says(own, pages, who, item.id, "satisfactory") == 303

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(rate_all, people))
    assert len(pages.book.ratings()) == 10 * len(pages.items)


def test_what_was_said_survives_a_kill(folder: Path, tmp_path: Path) -> None:
    """A server process killed between two clicks, and started again."""
    port, book = "0", Book(folder / "review.sqlite")
    book.invite("Ann")
    for n in range(2):
        process = subprocess.Popen(
            [sys.executable, "-m", "iteralign.cli", "review", str(folder), "--port", port, "--prompts", "4"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": SRC},
        )
        assert process.stdout is not None
        owner = process.stdout.readline().split("Yours alone: ")[1].strip()
        link = next(line.split(": ", 1)[1].strip() for line in process.stdout if line.startswith("Ann"))
        page = ask(link)
        assert f"{n} of 8 rated" in page
        stamp, item = (page.split(f'name="{name}" value="')[1].split('"')[0] for name in ("stamp", "item"))
        ask(link, f"stamp={stamp}&item={item}&said=none")
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert owner.endswith(book.owner)
    assert len(book.ratings()) == 2


def ask(link: str, form: str | None = None) -> str:
    for _ in range(200):
        try:
            with urllib.request.urlopen(link, data=form.encode() if form else None, timeout=10) as answer:
                return answer.read().decode()
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise AssertionError(f"{link} does not answer")


# -- who gets in ----------------------------------------------------------------------------------------


def test_nobody_gets_in_without_a_token_or_under_another_name(client: TestClient, pages: Pages) -> None:
    ann = pages.book.invite("Ann")
    for place in ("/", "/r/x", "/a/x", f"/a/{ann.token}", f"/r/{pages.book.owner}", "/docs", "/openapi.json"):
        assert client.get(place).status_code == 404, place
    assert client.get(f"/r/{ann.token}", headers={"host": "evil.example"}).status_code == 400
    assert client.get(f"/r/{ann.token}", headers={"host": "localhost:8765"}).status_code == 200


def test_a_form_of_another_page_writes_nothing(client: TestClient, pages: Pages) -> None:
    ann, ben = pages.book.invite("Ann"), pages.book.invite("Ben")
    item = pages.items[0].id
    form = {"item": item, "said": "satisfactory"}
    assert client.post(f"/r/{ann.token}", data=form).status_code == 403
    assert client.post(f"/r/{ann.token}", data={**form, "stamp": pages.book.stamp(ben.token)}).status_code == 403
    right = {**form, "stamp": pages.book.stamp(ann.token)}
    assert client.post(f"/r/{ann.token}", data=right, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert client.post(f"/r/{ann.token}", data={**right, "item": "x"}).status_code == 404
    assert client.post(f"/r/{ann.token}", data={**right, "said": "perfect"}).status_code == 422
    owner = pages.book.owner
    for place, data in (
        ("invite", {"name": "Eve"}),
        ("principles", {"action": "add", "principle": "decline", "text": "x"}),
    ):
        assert client.post(f"/a/{owner}/{place}", data=data).status_code == 403
    assert pages.book.ratings() == [] and pages.book.decisions() == [] and len(pages.book.annotators()) == 2


def test_no_page_may_be_framed_cached_or_load_from_elsewhere(client: TestClient, pages: Pages) -> None:
    answer = client.get(f"/r/{pages.book.invite('Ann').token}")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert answer.headers["cache-control"] == "no-store" and answer.headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in answer.headers


def test_the_book_is_the_owner_s_alone(pages: Pages) -> None:
    assert stat.S_IMODE(pages.book.path.stat().st_mode) == 0o600


def test_what_others_wrote_is_escaped_everywhere(pages: Pages) -> None:
    evil = "</blockquote><script>alert(1)</script>{{ 7 * 7 }}"
    pages.items = [i.model_copy(update={"question": evil, "answer": evil}) for i in pages.items]
    pages.constitution = Constitution(principles=(worded(f"Never do harm {evil}", "decline"),))
    ann, ben = pages.book.invite(f"Ann {evil}"), pages.book.invite("Ben")
    item = pages.items[0].id
    pages.book.rate(ann, item, "satisfactory", evil)
    pages.book.rate(ben, item, "none", evil)
    owner = pages.book.owner
    with TestClient(app_for(pages), base_url="http://127.0.0.1") as client:
        places = (f"/r/{ann.token}", f"/r/{ann.token}/mine", f"/a/{owner}", f"/a/{owner}/principles")
        for text in (client.get(place).text for place in places):
            assert "<script>alert" not in text
            assert "&lt;script&gt;" in text and "{{ 7 * 7 }}" in text


# -- what it says ---------------------------------------------------------------------------------------


def thing(n: int, side: str, wants: str = "decline", said: str = "passes") -> Item:
    return Item.model_validate(
        {
            "id": f"{side}{n}",
            "prompt": f"p{n}",
            "side": side,
            "wants": wants,
            "category": "c",
            "question": f"How {n}?",
            "answer": f"So {n} {side}.",
            "said": said,
        }
    )


def rating(who: str, item: Item, said: str) -> Rating:
    return Rating.model_validate({"annotator": who, "item": item.id, "said": said, "note": "", "at": 0.0})


def test_kappas_are_scikit_learn_s_and_the_change_is_paired_by_prompt() -> None:
    items = [thing(n, side) for n in range(20) for side in ("before", "after")]
    votes = {
        "Ann": ["satisfactory" if i.side == "after" or n % 3 == 0 else "harmful" for n, i in enumerate(items)],
        "Ben": ["satisfactory" if i.side == "after" and n % 5 else "none" for n, i in enumerate(items)],
        "Cat": ["satisfactory" if n % 2 else "incoherent" for n, _ in enumerate(items)],
    }
    found = results(items, [rating(who, i, s) for who, own in votes.items() for i, s in zip(items, own, strict=True)])
    binary = {who: [s == "satisfactory" for s in own] for who, own in votes.items()}
    for a, b, kappa in found.kappas:
        assert kappa.value == pytest.approx(cohen_kappa_score(binary[a], binary[b]))
    assert found.mean_kappa == pytest.approx(sum(k.value or 0 for _, _, k in found.kappas) / 3)
    assert found.change is not None and found.change.n == 20
    before = [sum(own[n] for own in binary.values()) / 3 for n in range(0, 40, 2)]
    after = [sum(own[n] for own in binary.values()) / 3 for n in range(1, 40, 2)]
    assert found.change.difference == pytest.approx((sum(after) - sum(before)) / 20)
    ann = next(a for a in found.annotators if a.name == "Ann")
    assert (ann.n, ann.after.value) == (40, 1.0)
    assert found.disagreements and all(
        len({r.said == "satisfactory" for r in own}) == 2 for _, own in found.disagreements
    )


def test_the_evaluator_is_held_against_the_majority_and_ties_against_nobody() -> None:
    items = [thing(0, "before", said="passes"), thing(1, "before", said="fails"), thing(2, "before", said="unjudged")]
    items += [thing(3, "before", said="fails")]
    said = {"Ann": ["satisfactory", "harmful", "none", "none"], "Ben": ["satisfactory", "none", "none", "satisfactory"]}
    found = results(items, [rating(w, i, s) for w, own in said.items() for i, s in zip(items, own, strict=True)])
    assert (found.evaluator.n, found.evaluator.value) == (2, 1.0)


def test_without_a_common_answer_nothing_is_said_of_agreement() -> None:
    items = [thing(n, "before") for n in range(4)]
    said = [rating("Ann", items[0], "none"), rating("Ben", items[1], "none"), rating("Cat", items[0], "none")]
    found = {(a, b): in_words(k) for a, b, k in results(items, said).kappas}
    assert found["Ann", "Ben"] == "– (no answer that both rated)"
    assert found["Ann", "Cat"] == "– (one and the same label throughout)"


def test_labels_are_what_judge_calibrate_takes(pages: Pages, tmp_path: Path) -> None:
    harmful = next(i for i in pages.items if i.wants == "decline")
    harmless = next(i for i in pages.items if i.wants == "answer")
    people = [pages.book.invite(name) for name in ("Ann", "Ben", "Cat")]
    told = [("satisfactory", "satisfactory"), ("harmful", "unhelpful"), ("none", "incoherent")]
    for who, (a, b) in zip(people, told, strict=True):
        pages.book.rate(who, harmful.id, a)  # type: ignore[arg-type]
        pages.book.rate(who, harmless.id, b)  # type: ignore[arg-type]
    path = tmp_path / "labels.jsonl"
    assert write_labels(pages, path) == (4, 2)
    read = read_labelled([path], columns_of("prompt", "response", "label"))
    assert [(x.prompt, x.complied) for x in read] == [
        (harmful.question, False),
        (harmless.question, True),
        (harmful.question, True),
        (harmless.question, False),
    ]
    assert labelled_rows(pages.items, [])[0] == []


# -- principles -----------------------------------------------------------------------------------------

ONE, TWO = worded("Decline to help anybody steal.", "decline"), worded("Answer what is harmless.", "answer")
FOUND = Constitution(principles=(ONE, TWO))


def decided(*told: tuple[str, str, str]) -> list[str]:
    decisions = [Decision.model_validate(dict(who="o", action=a, principle=p, text=t, at=0.0)) for a, p, t in told]
    return [p.text for p in standing(review(FOUND, decisions)).principles]


def test_decisions_make_the_next_constitution() -> None:
    assert decided() == [ONE.text, TWO.text]
    assert decided(("retire", ONE.id, "")) == [TWO.text]
    assert decided(("retire", ONE.id, ""), ("restore", ONE.id, "")) == [ONE.text, TWO.text]
    assert decided(("edit", ONE.id, "Never help a thief.")) == ["Never help a thief.", TWO.text]
    assert decided(("edit", ONE.id, "Never help a thief."), ("retire", ONE.id, "")) == [TWO.text]
    assert decided(("merge", ONE.id, TWO.id)) == [TWO.text]
    assert decided(("merge", ONE.id, ONE.id)) == [ONE.text, TWO.text]
    assert decided(("down", ONE.id, ""), ("add", "decline", "Tell no lies about people.")) == [
        TWO.text,
        ONE.text,
        "Tell no lies about people.",
    ]
    assert decided(("up", ONE.id, ""), ("accept", "gone", "")) == [ONE.text, TWO.text]


def test_a_new_wording_keeps_what_else_a_principle_says() -> None:
    told = ONE.model_copy(update={"name": "theft", "critique": "How does it help a thief?", "revision": "Decline."})
    edit = Decision(who="o", action="edit", principle=told.id, text="Never help a thief.", at=0.0)
    [now] = standing(review(Constitution(principles=(told,)), [edit])).principles
    assert (now.text, now.framing) == ("Never help a thief.", "dont") and now.id != told.id
    assert (now.name, now.critique, now.revision) == (told.name, told.critique, told.revision)


@pytest.mark.parametrize("action", ["accept", "up", "down", "merge", "retire", "restore"])
def test_a_wording_that_was_typed_is_kept_whatever_button_follows(
    client: TestClient, pages: Pages, action: str
) -> None:
    pages.constitution = FOUND
    stamp = pages.book.stamp(pages.book.owner)
    form = {"principle": TWO.id, "action": action, "into": ONE.id, "was": TWO.text, "stamp": stamp}
    told = {**form, "text": TWO.text.replace(" ", "\r\n")}
    assert client.post(f"/a/{pages.book.owner}/principles", data=told).status_code == 303
    assert [d.action for d in pages.book.decisions()] == [action], "the same words are no new wording"
    client.post(f"/a/{pages.book.owner}/principles", data={**form, "text": "Help with all else."})
    assert [(d.action, d.text) for d in pages.book.decisions()][1] == ("edit", "Help with all else.")
    assert pages.book.decisions()[2].action == action
    stands = {p.text for p in standing(review(FOUND, pages.book.decisions())).principles}
    assert ("Help with all else." in stands) == (action not in ("merge", "retire"))


def test_a_principle_of_no_known_side_is_not_called_one_to_answer(client: TestClient, pages: Pages) -> None:
    pages.constitution = Constitution(principles=(worded("Be kind to everybody.", "unknown"),))
    assert "to decline or to answer" in client.get(f"/a/{pages.book.owner}/principles").text


def test_a_principle_that_was_retired_and_added_again_can_be_retired_again() -> None:
    again = [("retire", ONE.id, ""), ("add", "decline", ONE.text)]
    assert decided(*again) == [ONE.text, TWO.text]
    assert decided(*again, ("retire", ONE.id, "")) == [TWO.text]
    assert decided(*again, ("edit", ONE.id, "Never help a thief.")) == ["Never help a thief.", TWO.text]


def test_decisions_made_at_once_are_all_kept(client: TestClient, pages: Pages, tmp_path: Path) -> None:
    owner = pages.book.owner
    stamp = pages.book.stamp(owner)

    def add(n: int) -> int:
        form = {"action": "add", "principle": "decline", "text": f"Do not help with crime number {n}.", "stamp": stamp}
        return client.post(f"/a/{owner}/principles", data=form).status_code

    with ThreadPoolExecutor(10) as ten:
        assert set(ten.map(add, range(30))) == {303}
    written = load_constitution(str(tmp_path / "constitution-reviewed.yaml"))
    assert {f"Do not help with crime number {n}." for n in range(30)} <= {p.text for p in written.principles}


def test_who_decided_is_kept(folder: Path, tmp_path: Path) -> None:
    opened = open_pages(folder, 4, who="Dr. Ngozi")
    pages = Pages(
        tmp_path, opened.items, opened.constitution, Book(tmp_path / "b.sqlite"), "http://127.0.0.1", opened.who
    )
    with TestClient(app_for(pages), base_url="http://127.0.0.1", follow_redirects=False) as client:
        first = pages.constitution.principles[0].id
        form = {"action": "retire", "principle": first, "stamp": pages.book.stamp(pages.book.owner)}
        client.post(f"/a/{pages.book.owner}/principles", data=form)
        assert "Dr. Ngozi: retire" in client.get(f"/a/{pages.book.owner}/principles").text


def test_principles_can_be_reviewed_where_there_are_no_answers_to_rate(tmp_path: Path) -> None:
    from iteralign import run as whole_run
    from iteralign.config import load_config

    scripted = Path(__file__).parents[2] / "configs/scripted.yaml"
    whole_run(load_config(scripted, ["rounds=1", "evals.held_out=false"]), tmp_path / "run")
    opened = open_pages(tmp_path / "run")
    assert opened.items == [] and opened.constitution.principles
    with TestClient(app_for(opened), base_url="http://127.0.0.1") as client:
        assert opened.constitution.principles[0].text in client.get(f"/a/{opened.book.owner}/principles").text
        assert client.get(f"/a/{opened.book.owner}").status_code == 200


def test_pages_that_were_there_before_the_run_ended_show_its_answers(folder: Path, tmp_path: Path) -> None:
    """As where the oracle is people: the page took their principles, and the run went on and ended."""
    copy = tmp_path / "run"
    (copy / "people").mkdir(parents=True)
    pages = open_pages(copy, 10)
    assert pages.items == []
    with TestClient(app_for(pages), base_url="http://127.0.0.1") as client:
        assert client.get(f"/a/{pages.book.owner}").status_code == 200
        shutil.copytree(folder, copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns("review.sqlite*"))
        ann = pages.book.invite("Ann")
        assert "0 of 20 rated" in client.get(f"/r/{ann.token}").text
        page = client.get(f"/a/{pages.book.owner}/principles").text
    assert pages.constitution.principles and all(p.id in page for p in pages.constitution.principles)


def test_a_decision_whose_file_was_not_written_any_more_is_written_when_the_pages_open(
    folder: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "run"))
    pages = open_pages(copy, 10)
    assert not (copy / "constitution-reviewed.yaml").exists()
    pages.book.decide("owner", "add", "decline", "Tell no lies about people.")
    open_pages(copy, 10)
    written = load_constitution(str(copy / "constitution-reviewed.yaml"))
    assert written.principles[-1].text == "Tell no lies about people."


# -- the command ----------------------------------------------------------------------------------------


def test_the_command_writes_labels(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "run", ignore=shutil.ignore_patterns("review.sqlite*")))
    pages = open_pages(copy)
    ann, harmful = pages.book.invite("Ann"), next(i for i in pages.items if i.wants == "decline")
    pages.book.rate(ann, harmful.id, "harmful")
    pages.book.rate(ann, pages.items[-1].id, "none")
    path = tmp_path / "labels.jsonl"
    done = CliRunner().invoke(app, ["review", str(copy), "--export", str(path)], catch_exceptions=False)
    assert done.exit_code == 0 and f"1 labels: {path} (1 ratings do not say whether it complied)" in flat(done.output)
    [row] = read_rows(path)
    assert (row["prompt"], row["label"], row["annotator"]) == (harmful.question, "yes", "Ann")


def written_answers(folder: Path, answers: list[str]) -> Path:
    """What `iteralign eval --suite truthfulqa_answers` leaves, as far as people are shown it."""
    place = folder / "evals/truthfulqa"
    place.mkdir(parents=True)
    rows = [
        {"id": f"q{n}", "question": f"What is {n}?", "category": "c", "answer": a, "true": None, "informative": None}
        for n, a in enumerate(answers)
    ]
    write_rows(place / "items.jsonl", rows)
    return folder


def test_what_two_models_wrote_is_rated_side_by_side(tmp_path: Path) -> None:
    before = written_answers(tmp_path / "before", ["A pig.", "A cow.", "A hen."])
    after = written_answers(tmp_path / "after", ["A number.", "A digit.", "A sum."])
    with pytest.raises(ConfigError, match="--judge asks the judge of a run"):
        open_pages(before, beside=after, judge=True)
    pages = open_pages(before, 2, beside=after)
    assert len(pages.items) == 4 and {i.side for i in pages.items} == {"before", "after"}
    ann = pages.book.invite("Ann")
    with TestClient(app_for(pages), base_url="http://127.0.0.1", follow_redirects=False) as client:
        for item in pages.items:
            page = client.get(f"/r/{ann.token}", params={"item": item.id}).text
            assert item.answer in page and "What is " in page
            assert says(client, pages, ann, item.id, "satisfactory" if item.side == "after" else "untruthful") == 303
    found = results(pages.items, pages.book.ratings())
    assert found.change is not None and (found.change.n, found.change.difference) == (2, 1.0)
    with pytest.raises(StoreError, match="holds no written answers"):
        open_pages(before, beside=tmp_path)


def test_who_has_no_name_is_the_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a number."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 3)
    assert login() == "owner"


def test_the_runs_judge_is_set_beside_the_people_where_that_is_asked_for(folder: Path) -> None:
    plain, judged = open_pages(folder, 10), open_pages(folder, 10, judge=True)
    assert {i.judged for i in plain.items} == {None} and [i.id for i in plain.items] == [i.id for i in judged.items]
    assert {i.judged for i in judged.items} <= {"passes", "fails", "unjudged"} and None not in {
        i.judged for i in judged.items
    }
    said = [rating("Ann", i, "satisfactory" if i.judged == "passes" else "none") for i in judged.items]
    found = results(judged.items, said)
    assert found.judge.value == 1.0 and found.judge.n == sum(i.judged != "unjudged" for i in judged.items)
    assert results(plain.items, said).judge.n == 0
    assert (folder / "evals/review/verdicts.jsonl").is_file()


def test_the_page_writes_a_constitution_that_a_run_takes(client: TestClient, pages: Pages, tmp_path: Path) -> None:
    owner = pages.book.owner
    first = pages.constitution.principles[0]
    form = {
        "action": "edit",
        "principle": first.id,
        "text": "Decline what would hurt somebody.",
        "stamp": pages.book.stamp(owner),
    }
    assert client.post(f"/a/{owner}/principles", data=form).status_code == 303
    assert client.post(f"/a/{owner}/principles", data={**form, "text": " "}).status_code == 422
    written = load_constitution(str(tmp_path / "constitution-reviewed.yaml"))
    assert written.principles[0].text == "Decline what would hurt somebody."
    assert client.get(f"/a/{owner}/constitution.yaml").text == (tmp_path / "constitution-reviewed.yaml").read_text()
    page = client.get(f"/a/{owner}/principles").text
    assert "accepted" in page and "owner: edit: Decline what would hurt somebody." in page


def test_every_choice_has_a_key_and_the_owner_sees_every_link(client: TestClient, pages: Pages) -> None:
    owner = pages.book.owner
    stamp = pages.book.stamp(owner)
    assert client.post(f"/a/{owner}/invite", data={"name": "Ann", "stamp": stamp}).status_code == 303
    assert client.post(f"/a/{owner}/invite", data={"name": "  ", "stamp": stamp}).status_code == 422
    [ann] = pages.book.annotators()
    assert f"http://127.0.0.1/r/{ann.token}" in client.get(f"/a/{owner}").text
    page = client.get(f"/r/{ann.token}").text
    assert [f'value="{said}" data-key="{n}"' in page for n, (said, _) in enumerate(CHOICES, 1)] == [True] * 6
    pages.book.rate(ann, pages.items[0].id, "satisfactory")
    assert json.loads(client.get(f"/a/{owner}/labels.jsonl").text.splitlines()[0])["annotator"] == "Ann"
