"""Cases: what is looked into more closely, until it is closed."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Form, Request
from fastapi.responses import Response

from gateway.audit.records import CaseClosed, ReviewViewed
from gateway.control.console.forms import MAX_TEXT, said
from gateway.control.console.guard import Denied
from gateway.control.console.pages import Pages
from gateway.control.reviewing import CODES, Case
from gateway.control.staff import Staff

__all__ = ["case_pages"]


def case_pages(app: FastAPI, pages: Pages, staff: Staff) -> None:
    """Add them to the console."""

    def found(name: str) -> Case:
        case = staff.reviews.cases.get(name)
        if case is None:
            raise Denied(404, "There is no such case.", "See the list of cases.")
        return case

    @app.get("/cases")
    async def cases(request: Request) -> Response:
        listed = sorted(
            staff.reviews.cases.values(), key=lambda case: (bool(case.closed), case.opened_at)
        )
        return pages.page(request, "cases", cases=listed, codes=CODES)

    @app.get("/cases/{case}")
    async def one(request: Request, case: str) -> Response:
        shown = found(case)
        await staff.record(
            ReviewViewed(actor=request.state.session.member, what="case", ref=shown.id)
        )
        steps = [
            (
                span,
                staff.reviews.steps(
                    span.subject, span.credential, int(span.since), int(span.until)
                ),
            )
            for span in shown.spans
        ]
        return pages.page(request, "case", case=shown, steps=steps, codes=CODES)

    @app.post("/cases/{case}/close")
    async def close(
        request: Request,
        case: str,
        code: Annotated[str, Form(max_length=40)],
        text: Annotated[str, Form(max_length=MAX_TEXT * 4)],
    ) -> Response:
        shown, why = found(case), said(text)
        if code not in CODES:
            raise Denied(422, "Nothing was done: choose what it was.", "Go back and choose.")
        me = request.state.session.member
        if any(span.subject == me for span in shown.spans):
            raise Denied(
                403, "Nobody closes a case about himself.", "Leave it to another reviewer."
            )

        def still_open() -> None:
            if found(case).closed:
                raise Denied(409, "Nothing was done: it is closed already.", "Read how it ended.")

        closed = CaseClosed(actor=me, case=case, code=code, reason=why)
        await staff.record(closed, if_so=still_open)
        return pages.back(f"/cases/{case}")
