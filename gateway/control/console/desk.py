"""The desk: what waits, the run behind it, and what a reviewer does about it."""

from __future__ import annotations

import secrets
import time
from typing import Annotated

from fastapi import FastAPI, Form, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from gateway.audit.records import (
    CaseExtended,
    CaseOpened,
    ReviewAssigned,
    ReviewNoted,
    ReviewResolved,
    ReviewViewed,
    Span,
)
from gateway.control.console.forms import MAX_TEXT, said
from gateway.control.console.guard import Denied
from gateway.control.console.pages import Pages
from gateway.control.console.pictures import EFFECTS, effects_over_time
from gateway.control.console.reading import RUN_MOST, Reading
from gateway.control.reviewing import CODES
from gateway.control.staff import Staff

__all__ = ["desk_pages"]

SHOWN = 100
WIDTH, HEIGHT = 720.0, 96.0
LONGEST_NS = 4 * 24 * 3600 * 1_000_000_000

Clock = Annotated[int, Field(ge=0, lt=1 << 63)]


class Spanning(BaseModel):
    """A form about one caller's calls of a time; ``back`` is where to go on."""

    subject: Annotated[str, Field(max_length=100)] = ""
    credential: Annotated[str, Field(max_length=100)]
    since: Clock
    until: Clock
    back: Annotated[str, Field(max_length=500)] = "/desk"

    @property
    def span(self) -> Span:
        """As records have it.

        Raises:
            Denied: it is no time that was, or longer than any run.
        """
        if not self.since <= self.until <= time.time_ns() or self.until - self.since > LONGEST_NS:
            raise Denied(422, "Nothing was done: this is no time of a run.", "Begin at the desk.")
        return Span(
            subject=self.subject,
            credential=self.credential,
            since=str(self.since),
            until=str(self.until),
        )


class Taking(Spanning):
    """Take it, or with an empty ``to`` give it back."""

    to: Annotated[str, Field(max_length=100)] = ""


class Writing(Spanning):
    """Something in words."""

    text: Annotated[str, Field(max_length=MAX_TEXT * 4)] = ""


class Settling(Writing):
    """What it was."""

    code: Annotated[str, Field(max_length=40)] = ""


class Escalating(Writing):
    """Into which case; a new one if empty."""

    case: Annotated[str, Field(max_length=40)] = ""


def _another_than(subject: str, request: Request) -> str:
    """Who asks, if it is not about himself."""
    me: str = request.state.session.member
    if me == subject:
        raise Denied(403, "Nobody settles what he did himself.", "Leave it to another reviewer.")
    return me


def desk_pages(app: FastAPI, pages: Pages, staff: Staff, reading: Reading) -> None:  # noqa: C901 - one route a function
    """Add them to the console."""

    @app.get("/desk")
    async def desk(
        request: Request,
        days: Annotated[int, Query(ge=1, le=90)] = 7,
        mine: bool = False,
    ) -> Response:
        items = await reading.queue(staff.reviews, days)
        first, hours = await reading.hours(days)
        bars, most = effects_over_time(first, days * 24, hours, WIDTH, HEIGHT)
        totals = {effect: sum(each.get(effect, 0) for each in hours.values()) for effect in EFFECTS}
        me = request.state.session.member
        shown = [item for item in items if not mine or item.assignee == me]
        return pages.page(
            request,
            "desk",
            items=shown[:SHOWN],
            more=max(0, len(shown) - SHOWN),
            all=len(items),
            urgent=sum(item.urgent for item in items),
            taken=sum(item.assignee == me for item in items),
            days=days,
            mine=mine,
            bars=bars,
            most=most,
            totals=totals,
            width=WIDTH,
            height=HEIGHT,
        )

    @app.get("/runs")
    async def run(
        request: Request,
        subject: Annotated[str, Query(max_length=100)],
        credential: Annotated[str, Query(max_length=100)],
        at: Annotated[int, Query(ge=0, lt=1 << 63)],
    ) -> Response:
        calls = await reading.run(subject, credential, at)
        if not calls:
            raise Denied(404, "There is no such run.", "Begin at the desk.")
        ref = f"{subject} {credential} {calls[0].record}"
        await staff.record(ReviewViewed(actor=request.state.session.member, what="run", ref=ref))
        since, until = calls[0].at, calls[-1].at
        return pages.page(
            request,
            "run",
            calls=calls,
            most=RUN_MOST,
            subject=subject,
            credential=credential,
            since=since,
            until=until,
            steps=staff.reviews.steps(subject, credential, since, until),
            assignee=staff.reviews.assignee(subject, credential, since),
            cases=[case for case in staff.reviews.cases.values() if not case.closed],
            codes=CODES,
            longest=max(call.dur_ms for call in calls) or 1,
        )

    @app.post("/review/take")
    async def take(request: Request, form: Annotated[Taking, Form()]) -> Response:
        me = request.state.session.member
        if form.to not in {"", me}:
            raise Denied(422, "Nothing was done: take it yourself, or give it back.", "Go back.")
        await staff.record(ReviewAssigned(actor=me, span=form.span, to=form.to))
        return pages.back(form.back)

    @app.post("/review/note")
    async def note(request: Request, form: Annotated[Writing, Form()]) -> Response:
        text, me = said(form.text), request.state.session.member
        await staff.record(ReviewNoted(actor=me, span=form.span, reason=text))
        return pages.back(form.back)

    @app.post("/review/resolve")
    async def resolve(request: Request, form: Annotated[Settling, Form()]) -> Response:
        if form.code not in CODES:
            raise Denied(422, "Nothing was done: choose what it was.", "Go back and choose.")
        text = said(form.text, needed=form.code != "as-intended")
        me = _another_than(form.subject, request)
        await staff.record(ReviewResolved(actor=me, span=form.span, code=form.code, reason=text))
        return pages.back(form.back)

    @app.post("/review/escalate")
    async def escalate(request: Request, form: Annotated[Escalating, Form()]) -> Response:
        text, me = said(form.text), _another_than(form.subject, request)
        case = form.case
        if not case:
            case = f"case_{secrets.token_hex(4)}"
            await staff.record(CaseOpened(actor=me, case=case, span=form.span, reason=text))
            return pages.back(f"/cases/{case}")

        def still_open() -> None:
            known = staff.reviews.cases.get(case)
            if known is None or known.closed:
                raise Denied(409, "Nothing was done: there is no such open case.", "Open one.")

        extended = CaseExtended(actor=me, case=case, span=form.span, reason=text)
        await staff.record(extended, if_so=still_open)
        return pages.back(f"/cases/{case}")
