"""The console's application: every page's address, and what is said when one cannot be shown.

Pages are made on the server and work without script. Each is a question to the record, which is
proved before it is shown; what staff search, read and settle is on the record itself.
"""

from __future__ import annotations

import re
from importlib import resources

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException

from gateway.audit.index import Unanswerable
from gateway.audit.segments import LogCorrupt
from gateway.control.console.approvals import approval_pages
from gateway.control.console.cases import case_pages
from gateway.control.console.desk import desk_pages
from gateway.control.console.guard import Cookie, Denied, Guard, SignedOut
from gateway.control.console.pages import Pages
from gateway.control.console.reading import Reading
from gateway.control.console.records import record_pages
from gateway.control.console.searching import search_pages
from gateway.control.console.signing_in import sign_in_pages
from gateway.control.record import RecordUnreadable
from gateway.control.reveal import Reveals
from gateway.control.staff import Staff
from gateway.control.status import Status
from gateway.core.approval import Refused
from gateway.core.protocols import LogUnavailable
from gateway.settings import Listener
from gateway.state import StateDirectory

__all__ = ["console_app"]

_KINDS = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_STATIC = re.compile(r"[a-z]+\.(css|js|svg)")


def console_app(
    status: Status, staff: Staff, reveals: Reveals, state: StateDirectory, listener: Listener
) -> FastAPI:
    """The FastAPI application of the console listener."""
    cookie = Cookie(listener)
    app = FastAPI(
        title="Sluicegate console",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        dependencies=[Depends(Guard(staff, cookie))],
    )
    pages, reading = Pages(staff, status), Reading(state, staff.subject_key)
    sign_in_pages(app, pages, staff, cookie)
    desk_pages(app, pages, staff, reading)
    search_pages(app, pages, staff, reading)
    record_pages(app, pages, staff, reading)
    case_pages(app, pages, staff)
    approval_pages(app, pages, staff, reading, reveals)

    @app.get("/static/{name}")
    async def static(name: str) -> Response:
        found = _STATIC.fullmatch(name)
        path = resources.files(__package__) / "static" / name
        if found is None or not path.is_file():
            raise HTTPException(404)
        kind = _KINDS[found[1]]
        return Response(path.read_bytes(), media_type=kind, headers={"cache-control": "no-cache"})

    _say_what_is_wrong(app, pages)
    return app


def _say_what_is_wrong(app: FastAPI, pages: Pages) -> None:  # noqa: C901 - one failure each
    """Every failure as a page that says what was not done, and what to do."""

    @app.exception_handler(SignedOut)
    async def signed_out(_request: Request, _error: SignedOut) -> Response:
        return RedirectResponse("/", 303)

    @app.exception_handler(Denied)
    async def denied(request: Request, error: Denied) -> Response:
        return pages.problem(request, error.status, error.message, error.remedy)

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, _error: Exception) -> Response:
        message = "This failed in a way that was not foreseen; nothing is known to be done."
        return pages.problem(request, 500, message, "Tell the operator: the log has more.")

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return pages.problem(request, 409, f"Nothing was done. {error.message}", error.remedy)

    @app.exception_handler(HTTPException)
    async def missing(request: Request, error: HTTPException) -> Response:
        found = {404: "There is no such page.", 405: "This page takes no such request."}
        message = found.get(error.status_code, "This cannot be shown.")
        return pages.problem(request, error.status_code, message, "Begin at the desk.")

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        names = sorted({str(each["loc"][-1]) for each in error.errors()})
        message = f"This cannot be asked: {', '.join(names)} is missing or not of its form."
        return pages.problem(request, 422, message, "Begin at the desk.")

    @app.exception_handler(Unanswerable)
    async def unanswerable(request: Request, error: Unanswerable) -> Response:
        return pages.problem(request, 422, str(error), "Narrow what is asked.")

    @app.exception_handler(RecordUnreadable)
    async def unreadable(request: Request, error: RecordUnreadable) -> Response:
        return pages.problem(request, 503, error.message, error.remedy)

    @app.exception_handler(LogCorrupt)
    async def corrupt(request: Request, error: LogCorrupt) -> Response:
        return pages.problem(
            request, 503, f"A log is damaged: {error}", "Run `sluicegate audit verify`."
        )

    @app.exception_handler(LogUnavailable)
    async def unavailable(request: Request, error: LogUnavailable) -> Response:
        return pages.problem(
            request,
            503,
            f"Nothing was done: it cannot be recorded ({error}).",
            "Free the disk or mend it, then start the gateway again.",
        )

    @app.exception_handler(OSError)
    async def failed(request: Request, error: OSError) -> Response:
        return pages.problem(
            request, 503, f"A log cannot be read: {error.strerror}.", "See `sluicegate status`."
        )
