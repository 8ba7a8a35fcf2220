"""What stands before every page: who asks, whether he may, and whether it is he who asks.

A form is taken only with its session's own token and from a page of ours (``Origin``,
``Sec-Fetch-Site``); the cookie is sent along by no other site (``SameSite=Strict``), and no script
reads it. Every answer forbids whatever its page does not need.
"""

from __future__ import annotations

import hmac
import time

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.audit.records import StaffRefused
from gateway.control.console.access import ACCESS, allowed
from gateway.control.sessions import LIFE_S, Session
from gateway.control.staff import Staff
from gateway.core.staff import Role
from gateway.settings import Listener

__all__ = ["Cookie", "Denied", "Edge", "Guard", "SignedOut"]

MAX_FORM_BYTES = 16 * 1024
REFUSED_EVERY_S = 60.0
_FORM = "application/x-www-form-urlencoded"
_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    # Not "no-referrer": with it browsers send forms with "Origin: null" (Fetch, section 3.2).
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}


class Denied(Exception):
    """Not done. ``status`` is HTTP's."""

    def __init__(self, status: int, message: str, remedy: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.remedy = remedy


class SignedOut(Exception):
    """Nobody is signed in, and the page is for somebody."""


class Cookie:
    """The session's cookie; with TLS, one that no other host can have set (RFC 6265bis, 4.1.3)."""

    def __init__(self, listener: Listener) -> None:
        self.secure = listener.tls is not None or listener.behind_proxy
        self.name = "__Host-sluicegate" if self.secure else "sluicegate"

    def set(self, secret: str) -> str:
        """The header's value that begins a session."""
        return self._header(secret, int(LIFE_S))

    def clear(self) -> str:
        """The header's value that ends one."""
        return self._header("", 0)

    def _header(self, value: str, age_s: int) -> str:
        secure = "; Secure" if self.secure else ""
        return f"{self.name}={value}; Path=/; Max-Age={age_s}; HttpOnly; SameSite=Strict{secure}"


class Guard:
    """The dependency of every route; puts ``session`` and ``roles`` into ``request.state``."""

    def __init__(self, staff: Staff, cookie: Cookie) -> None:
        self._staff = staff
        self._cookie = cookie
        self._noted: dict[tuple[str, str], float] = {}

    async def __call__(self, request: Request) -> None:
        """Let the request through.

        Raises:
            SignedOut, Denied: it is not let through.
        """
        route = request.scope["route"].path
        session, roles = self._who(request)
        request.state.session, request.state.roles = session, roles
        method = "GET" if request.method == "HEAD" else request.method
        public = ACCESS.get((method, route), frozenset()) is None
        if method != "GET":
            self._check_origin(request)
        if public:
            return
        if session is None:
            raise SignedOut
        if not allowed(method, route, roles):
            await self._note_refused(session.member, f"{method} {route}")
            raise Denied(403, "Your roles do not allow this.", "Ask whoever keeps the roles.")
        if method != "GET":
            await self._check_form(request, session)

    async def _note_refused(self, member: str, action: str) -> None:
        """Once a minute for each member and act: who tries again and again fills no log."""
        now, key = time.monotonic(), (member, action)
        if now - self._noted.get(key, -REFUSED_EVERY_S) >= REFUSED_EVERY_S:
            self._noted[key] = now
            await self._staff.record(StaffRefused(actor=member, action=action))

    def _who(self, request: Request) -> tuple[Session | None, frozenset[Role]]:
        session = self._staff.sessions.find(request.cookies.get(self._cookie.name, ""))
        if session is None:
            return None, frozenset()
        roles = self._staff.roles(session.member)
        if roles is None:
            self._staff.sessions.end(session)
            return None, frozenset()
        return session, roles

    @staticmethod
    def _check_origin(request: Request) -> None:
        host = request.headers.get("host", "")
        origin = request.headers.get("origin")
        site = request.headers.get("sec-fetch-site", "same-origin")
        own = origin in {None, f"http://{host}", f"https://{host}"}
        if not own or site not in {"same-origin", "none"}:
            raise Denied(403, "This form was sent by another site.", "Use the console's own pages.")

    @staticmethod
    async def _check_form(request: Request, session: Session) -> None:
        form = await request.form()
        sent = str(form.get("csrf", "")).encode("utf-8", "replace")
        if not hmac.compare_digest(sent, session.csrf.encode()):
            raise Denied(403, "This form is of another session.", "Load its page again.")


class Edge:
    """ASGI, around all of it: a form that is too long or of another kind is not read, and answers
    forbid what no page needs."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        if scope["type"] == "http" and scope["method"] == "POST":
            headers = Headers(scope=scope)
            length = headers.get("content-length", "")
            if not (length.isascii() and length.isdigit() and int(length[:9]) <= MAX_FORM_BYTES):
                await PlainTextResponse("the form is too long\n", 413)(scope, receive, sent)
                return
            if headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
                await PlainTextResponse("send a form of this console\n", 415)(scope, receive, sent)
                return
        await self._app(scope, receive, sent)
