"""No web page reaches console or ops through a browser on this machine.

By DNS rebinding a page makes its own name resolve to our address, and then reads our answers as its
own. The browser still sends the page's name as ``Host``, and a page of that kind has no certificate
for us: so without TLS, only addresses and ``localhost`` are names of ours (RFC 9110, 15.5.20).
"""

from __future__ import annotations

import ipaddress
import re

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.settings import Listener

__all__ = ["own_host_only"]

MISDIRECTED = 421
_HOST = re.compile(r"(?:\[(?P<six>[^\]]*)\]|(?P<name>[^:\[\]]+))(?::[0-9]*)?", re.ASCII)


def own_host_only(app: ASGIApp, listener: Listener) -> ASGIApp:
    """``app``, which answers 421 where ``Host`` is neither an IP address nor ``localhost``.

    The listener's own address is always an IP address. A listener with TLS is left as it is, for
    the client has checked the name, and so is one behind a proxy, which has a name of its own.
    """
    if listener.tls is not None or listener.behind_proxy:
        return app

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        answer = app
        if scope["type"] == "http":
            hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
            if len(hosts) != 1 or not _is_own(hosts[0]):
                answer = PlainTextResponse(
                    "call this listener by its IP address or as localhost\n", MISDIRECTED
                )
        await answer(scope, receive, send)

    return guarded


def _is_own(host: str) -> bool:
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    name = found["name"]
    if name is not None and name.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name or found["six"])
    except ValueError:
        return False
    return (address.version == 6) == (name is None)  # noqa: PLR2004  in brackets
