"""How a page is made: its template, and the frame that every page has."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from gateway import __version__
from gateway.control.console.access import allowed
from gateway.control.console.forms import MAX_TEXT
from gateway.control.staff import Staff
from gateway.control.status import Status
from gateway.core.staff import Role

__all__ = ["Pages", "ago", "plain"]


def plain(text: object) -> str:
    """Recorded text without what a screen would obey or hide (control and direction marks)."""
    return "".join(
        each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in str(text)
    )


def ago(ns: int) -> str:
    """How long since, or until, a clock in nanoseconds: shown beside the time itself."""
    seconds = time.time() - ns / 1e9
    away, later = abs(seconds), seconds < 0
    for size, name in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        if away >= size:
            told = f"{int(away // size)} {name}"
            return f"in {told}" if later else f"{told} ago"
    return "now"


def _utc(ns: int) -> str:
    moment = dt.datetime.fromtimestamp(ns / 1e9, dt.UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def _search(**terms: object) -> str:
    """The address of a search: every fact is a link to what else has it."""
    return "/search?" + urlencode(
        {"q": " ".join(f"{name}={value}" for name, value in terms.items())}
    )


def _record(place: str) -> str:
    shard, _, seq = place.partition("#")
    return f"/records/{quote(shard)}/{seq}"


def _run(subject: str, credential: str, at: int) -> str:
    return "/runs?" + urlencode({"subject": subject, "credential": credential, "at": at})


class Pages:
    """Makes pages.

    Args:
        staff: for who is signed in.
        status: for the frame's health of the log.
    """

    def __init__(self, staff: Staff, status: Status) -> None:
        self._staff = staff
        self._status = status
        self._templates = Environment(
            loader=PackageLoader("gateway.control.console"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {"plain": plain, "ago": ago, "utc": _utc}
        self._templates.globals |= {
            "version": __version__,
            "search_url": _search,
            "record_url": _record,
            "run_url": _run,
            "max_text": MAX_TEXT,
        }

    def page(
        self, request: Request, template: str, *, status: int = 200, **values: object
    ) -> HTMLResponse:
        """A page from its template."""
        session = getattr(request.state, "session", None)
        roles: frozenset[Role] = getattr(request.state, "roles", frozenset())
        frame: Mapping[str, Any] = {
            "me": session.member if session is not None else "",
            "my_name": self._staff.name(session.member) if session is not None else "",
            "csrf": session.csrf if session is not None else "",
            "roles": sorted(roles),
            "may": lambda method, route: allowed(method, route, roles),
            "ready": self._status.ready,
            "path": request.url.path,
        }
        body = self._templates.get_template(f"{template}.html").render(**frame, **values)
        return HTMLResponse(body, status)

    def problem(self, request: Request, status: int, message: str, remedy: str) -> HTMLResponse:
        """A page that says what was not done."""
        return self.page(
            request, "problem", status=status, message=message, remedy=remedy, code=status
        )

    @staticmethod
    def back(address: str) -> RedirectResponse:
        """After a form: to a page of ours (RFC 9110, 15.4.4)."""
        own = address.startswith("/") and not address.startswith(("//", "/\\"))
        return RedirectResponse(address if own else "/desk", 303)
