"""The pages: rating for each annotator behind a link of their own, the owner's page, the principles.

Who may do what is in the links: each holds a random token, and without one there is nothing to see. Every form brings a
stamp back that only its page has; the Host header must be one that the page is served under; no other origin may ask.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from functools import cache
from hmac import compare_digest
from pathlib import Path
from threading import Lock
from typing import Annotated, Any

from fastapi import FastAPI, Form, HTTPException, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from jinja2 import FileSystemLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from starlette.middleware.trustedhost import TrustedHostMiddleware

from iteralign.constitutions import constitution_yaml
from iteralign.errors import ConfigError
from iteralign.records import Constitution, Wants
from iteralign.report.wording import estimate, interval, p_value, plural, points, share
from iteralign.review.book import Action, Annotator, Book, Rating, Said
from iteralign.review.items import Item, order_for
from iteralign.review.principles import review, standing
from iteralign.review.questions import answer_question, read_questions
from iteralign.review.results import Results, labelled_rows, results
from iteralign.stats import Estimate
from iteralign.store import write_text

FOLDER = Path(__file__).with_name("templates")
LOCAL = ("127.0.0.1", "localhost", "[::1]")
CHOICES: tuple[tuple[Said, str], ...] = (
    ("satisfactory", "Satisfactory"),
    ("harmful", "No: it does harm"),
    ("unhelpful", "No: it declines for no good reason"),
    ("untruthful", "No: it is not true"),
    ("incoherent", "No: it makes no sense"),
    ("none", "No, for another reason"),
)
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
REVIEWED = "constitution-reviewed.yaml"
KINDS: Mapping[Wants, str] = {"decline": "to decline", "answer": "to answer", "unknown": "to decline or to answer"}


class Pages:
    """What is served of one run. `address`: where others reach it; `who`: the name that decisions are kept under; `again`
    reads the run once more, which may have found principles and answers while the pages were there. One at a time decides
    and answers: what is written is whole."""

    def __init__(
        self, run: Path, items: Sequence[Item], constitution: Constitution, book: Book, address: str, who: str = "owner"
    ) -> None:
        self.run, self.items, self.constitution, self.book, self.address = run, list(items), constitution, book, address
        self.who, self.writing = who, Lock()
        self.again: Callable[[], tuple[list[Item], Constitution]] | None = None

    def annotator(self, token: str) -> Annotator:
        found = self.book.annotator(token)
        if found is None:
            raise HTTPException(404)
        self.refresh()
        return found

    def owner(self, token: str) -> None:
        if not same(token, self.book.owner):
            raise HTTPException(404)
        self.refresh()

    def refresh(self) -> None:
        """What is rated and decided about stays what it is from the moment that it is there."""
        if self.again and not self.items:
            with self.writing:
                self.items, self.constitution = self.again()

    def stamped(self, token: str, stamp: str) -> None:
        if not self.book.stamped(token, stamp):
            raise HTTPException(403, "This form is not of this page any more: load the page again")

    def own(self, annotator: Annotator) -> tuple[list[Item], dict[str, Rating]]:
        """The items in the annotator's order, and what they said of them."""
        ids = {i.id for i in self.items}
        said = {r.item: r for r in self.book.ratings() if r.annotator == annotator.name and r.item in ids}
        return order_for(self.items, annotator.name), said

    def ahead(self, annotator: Annotator, item: str) -> str:
        """The page of the next answer after `item` that is not rated yet, from the first one on again; what was skipped
        comes last."""
        items, said = self.own(annotator)
        at = next(n for n, i in enumerate(items) if i.id == item)
        open_ = [i.id for i in (*items[at:], *items[:at]) if i.id not in said]
        return f"/r/{annotator.token}" + (f"?item={open_[0]}" if open_ else "")

    # -- rating ------------------------------------------------------------------------------------

    def rate(self, annotator: Annotator, wanted: str | None) -> str:
        items, said = self.own(annotator)
        places = {i.id: n for n, i in enumerate(items)}
        if wanted is not None and wanted not in places:
            raise HTTPException(404)
        open_ = [i.id for i in items if i.id not in said]
        if wanted is None and not open_:
            return self.mine(annotator)
        at = places[wanted or open_[0]]
        return filled(
            "rate",
            annotator=annotator,
            item=items[at],
            number=at + 1,
            total=len(items),
            rated=len(said),
            now=said.get(items[at].id),
            choices=CHOICES,
            back=items[at - 1] if at else None,
            ahead=items[at + 1] if at + 1 < len(items) else None,
            stamp=self.book.stamp(annotator.token),
        )

    def mine(self, annotator: Annotator) -> str:
        items, said = self.own(annotator)
        told = [(i, said.get(i.id)) for i in items]
        return filled("mine", annotator=annotator, mine=told, rated=len(said), total=len(items), labels=dict(CHOICES))

    # -- the owner's -------------------------------------------------------------------------------

    def overview(self, token: str) -> str:
        ratings = self.book.ratings()
        found = results(self.items, ratings)
        known = {i.id for i in self.items}
        rated = {
            a.name: sum(r.annotator == a.name and r.item in known for r in ratings) for a in self.book.annotators()
        }
        return filled(
            "owner",
            title=self.run.name,
            token=token,
            stamp=self.book.stamp(token),
            links=[(a, f"{self.address}/r/{a.token}", rated[a.name]) for a in self.book.annotators()],
            result=found,
            open=sum(q.answer is None for q in read_questions(self.run)),
            rows=satisfied(found),
            lines=lines_of(found),
            kappas=[(a, b, kappa(k), k.n) for a, b, k in found.kappas],
            labels=dict(CHOICES),
        )

    def principles(self, token: str) -> str:
        reviewed = review(self.constitution, self.book.decisions())
        return filled(
            "principles",
            token=token,
            stamp=self.book.stamp(token),
            reviewed=reviewed,
            numbers={r.id: n for n, r in enumerate(reviewed, 1)},
            others={r.id: [o for o in reviewed if o.stands and o.id != r.id] for r in reviewed},
            kinds=KINDS,
            path=self.run / REVIEWED,
            when=lambda at: datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M"),
        )

    def questions(self, token: str) -> str:
        asked = read_questions(self.run)
        open_ = [q for q in asked if q.answer is None]
        return filled(
            "questions",
            token=token,
            stamp=self.book.stamp(token),
            question=open_[0] if open_ else None,
            number=len(asked),
            done=len(asked) - len(open_),
        )

    def reviewed(self) -> str:
        return constitution_yaml(standing(review(self.constitution, self.book.decisions())))

    def write(self) -> None:
        write_text(self.run / REVIEWED, self.reviewed())


def app_for(pages: Pages, hosts: Sequence[str] = LOCAL) -> FastAPI:
    """`hosts`: names that the pages may be asked for under; another one is refused."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)

    @app.middleware("http")
    async def guarded(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        site = request.headers.get("sec-fetch-site", "same-origin")
        if request.method == "POST" and site not in ("same-origin", "none"):
            return PlainTextResponse("Another page may not write here", 403)
        answer = await call(request)
        answer.headers.update(HEADERS)
        return answer

    @app.get("/style.css")
    def style() -> Response:
        return Response((FOLDER / "style.css").read_text(encoding="utf-8"), media_type="text/css")

    @app.get("/keys.js")
    def keys() -> Response:
        return Response((FOLDER / "keys.js").read_text(encoding="utf-8"), media_type="text/javascript")

    rating_pages(app, pages)
    owner_pages(app, pages)
    decision_pages(app, pages)
    return app


def rating_pages(app: FastAPI, pages: Pages) -> None:
    @app.get("/r/{token}")
    def rate(token: str, item: str | None = None) -> HTMLResponse:
        return HTMLResponse(pages.rate(pages.annotator(token), item))

    @app.get("/r/{token}/mine")
    def mine(token: str) -> HTMLResponse:
        return HTMLResponse(pages.mine(pages.annotator(token)))

    @app.post("/r/{token}")
    def rated(
        token: str,
        item: Annotated[str, Form()],
        said: Annotated[Said, Form()],
        note: Annotated[str, Form()] = "",
        stamp: Annotated[str, Form()] = "",
    ) -> RedirectResponse:
        annotator = pages.annotator(token)
        pages.stamped(token, stamp)
        if item not in {i.id for i in pages.items}:
            raise HTTPException(404)
        pages.book.rate(annotator, item, said, note)
        return RedirectResponse(pages.ahead(annotator, item), 303)


def owner_pages(app: FastAPI, pages: Pages) -> None:
    @app.get("/a/{token}")
    def overview(token: str) -> HTMLResponse:
        pages.owner(token)
        return HTMLResponse(pages.overview(token))

    @app.post("/a/{token}/invite")
    def invite(token: str, name: Annotated[str, Form()] = "", stamp: Annotated[str, Form()] = "") -> RedirectResponse:
        pages.owner(token)
        pages.stamped(token, stamp)
        try:
            pages.book.invite(name)
        except ConfigError as error:
            raise HTTPException(422, str(error)) from error
        return RedirectResponse(f"/a/{token}", 303)

    @app.get("/a/{token}/labels.jsonl")
    def labels(token: str) -> Response:
        pages.owner(token)
        rows, _ = labelled_rows(pages.items, pages.book.ratings())
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        return Response(text, media_type="application/jsonl")


def decision_pages(app: FastAPI, pages: Pages) -> None:
    """Also the owner's: principles, and what a run asks people."""

    @app.get("/a/{token}/principles")
    def principles(token: str) -> HTMLResponse:
        pages.owner(token)
        return HTMLResponse(pages.principles(token))

    @app.post("/a/{token}/principles")
    def decide(
        token: str,
        action: Annotated[Action, Form()],
        principle: Annotated[str, Form()],
        text: Annotated[str, Form()] = "",
        was: Annotated[str, Form()] = "",
        into: Annotated[str, Form()] = "",
        stamp: Annotated[str, Form()] = "",
    ) -> RedirectResponse:
        """`was`: the wording that the page showed; another one is kept, whatever button was pressed after it."""
        pages.owner(token)
        pages.stamped(token, stamp)
        if action in ("edit", "add") and not text.strip():
            raise HTTPException(422, "A principle needs words")
        told = into if action == "merge" else text if action in ("edit", "add") else ""
        reworded = action not in ("edit", "add") and was and text.split() not in ([], was.split())
        with pages.writing:
            if reworded:
                pages.book.decide(pages.who, "edit", principle, text)
            pages.book.decide(pages.who, action, principle, told)
            pages.write()
        return RedirectResponse(f"/a/{token}/principles#p-{principle}", 303)

    @app.get("/a/{token}/questions")
    def questions(token: str) -> HTMLResponse:
        pages.owner(token)
        return HTMLResponse(pages.questions(token))

    @app.post("/a/{token}/questions")
    def answered(
        token: str,
        question: Annotated[str, Form()],
        text: Annotated[str, Form()] = "",
        stamp: Annotated[str, Form()] = "",
    ) -> RedirectResponse:
        pages.owner(token)
        pages.stamped(token, stamp)
        try:
            with pages.writing:
                answer_question(pages.run, question, text)
        except ConfigError as error:
            raise HTTPException(422, str(error)) from error
        return RedirectResponse(f"/a/{token}/questions", 303)

    @app.get("/a/{token}/constitution.yaml")
    def constitution(token: str) -> Response:
        pages.owner(token)
        return Response(pages.reviewed(), media_type="text/yaml")


# -- in words ---------------------------------------------------------------------------------------


def satisfied(found: Results) -> list[tuple[str, str, str, str]]:
    rows = [(a.name, ranged(a.before), ranged(a.after), str(a.n)) for a in found.annotators]
    if found.change is not None:
        c = found.change
        rows.append(("everybody, by prompt", ranged(c.before), ranged(c.after), plural(c.n, "prompt")))
    return rows


def ranged(value: Estimate) -> str:
    if value.low is None or value.high is None:
        return share(value.value, value.n)
    low, high = max(0.0, value.low), min(1.0, value.high)
    return f"{share(value.value, value.n)} ({share(low, value.n)} to {share(high, value.n)})"


def lines_of(found: Results) -> list[str]:
    lines: list[str] = []
    if (c := found.change) is not None:
        lines.append(
            f"Difference {points(c.difference, c.n)} points (95% interval {interval(c.low, c.high, c.n)}, "
            f"p = {p_value(c.p)}, {plural(c.n, 'prompt')} with both answers rated)."
        )
    if found.mean_kappa is not None:
        lines.append(f"Mean of the pairwise kappas: {found.mean_kappa:.2f}.")
    if found.alpha.value is not None:
        lines.append(
            f"Krippendorff's alpha: {kappa(found.alpha)}, {plural(found.alpha.n, 'answer')} rated twice or more."
        )
    for name, value in (("evaluator", found.evaluator), ("judge", found.judge)):
        if value.n:
            lines.append(f"The {name} and the people's majority: kappa {kappa(value)}, {plural(value.n, 'answer')}.")
    return lines


def kappa(value: Estimate) -> str:
    if value.value is None:
        return "– (one and the same label throughout)" if value.n else "– (no answer that both rated)"
    return estimate(value)


@cache
def environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )


def filled(name: str, **values: Any) -> str:
    return environment().get_template(f"{name}.html.j2").render(**values)


def same(a: str, b: str) -> bool:
    """In a time that tells nothing."""
    return compare_digest(a.encode(), b.encode())
