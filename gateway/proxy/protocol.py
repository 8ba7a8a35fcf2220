"""The HTTP/1.1 server protocol: uvicorn's, with what a gateway at the edge must add.

- A request head must arrive whole in time (uvicorn waits for ever on slow headers), and so must
  what is left of a request after its answer.
- A request head is bounded in bytes and headers; trailers count with it and are thrown away.
- Framing that llhttp refuses is answered in JSON, as every refusal is, and counted; it writes no
  log line, which anyone could fill a disk with.
- Whatever a client asks to upgrade to, the bytes behind such a request are never read as another
  one, and the connection closes after the answer.
- One request at a time: what follows a request that is still being answered is not read (uvicorn
  would stop reading, and so miss that its client is gone), and the connection closes after the
  answer (RFC 9112, section 9.3.2: the client sends what was not answered again).
- A connection that closes does not wait for ever for its client to take the last bytes.
- The application learns at once that its client is gone, can reset a connection, and sees the
  request target as it was sent (uvicorn's ``path`` is already rebuilt from it).
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

__all__ = ["EXTENSION", "MAX_HEADERS", "MAX_HEAD_BYTES", "GatewayProtocol", "protocol_class"]

EXTENSION = "sluicegate.connection"
"""The ASGI scope extension under which an application finds its ``GatewayProtocol``."""

MAX_HEAD_BYTES = 64 * 1024
"""Target, header names and values of one request, trailers included; agents send below 8 KiB."""
MAX_HEADERS = 256
DISCARD_S = 1.0
"""How long the rest of a head that is too large is still read, and thrown away."""

_BODY = (
    b'{"error":{"message":"%s","type":"invalid_request_error","param":null,'
    b'"code":"framing_invalid"}}'
)
_MALFORMED = (
    b"400 Bad Request",
    _BODY % b"Malformed HTTP request: the message framing or a header is not valid HTTP/1.1.",
)
_HEAD_TOO_LARGE = (
    b"431 Request Header Fields Too Large",
    _BODY
    % b"The request head is larger than %d bytes or %d headers: send a smaller one."
    % (MAX_HEAD_BYTES, MAX_HEADERS),
)
_NO_LINGER = struct.pack("ii", 1, 0)
"""``struct linger``: on, 0 s; closing the socket resets the connection (socket(7))."""


class _Pipelined(Exception):
    """A request began before the answer to the one before it had ended."""


class _HeadTooLarge(Exception):
    """More head than ``MAX_HEAD_BYTES`` or ``MAX_HEADERS``."""


class GatewayProtocol(HttpToolsProtocol):
    """One client connection.

    Class attributes are set by ``protocol_class``; ``head_timeout_s`` and ``stall_timeout_s`` in
    seconds.
    """

    head_timeout_s: float = 15.0
    stall_timeout_s: float = 30.0
    max_connections: int = 10_000
    on_malformed: Callable[[str], None] = staticmethod(lambda _address: None)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        self._no_more = False
        self._withheld = False
        self._in_head = False
        self._head_bytes = 0
        self._head_count = 0
        self._unparsed = 0
        self._head_too_large = False
        self._lost: Callable[[], None] | None = None

    # What the application uses

    @property
    def target(self) -> bytes:
        """The request target as it was sent (origin-form, or what should have been)."""
        return self.url

    @property
    def write_paused(self) -> bool:
        """Whether the client is not taking what was written: the next write would wait."""
        return self.flow.write_paused

    def answer_begins(self) -> None:
        """Status and headers are about to be sent. A client that still waits to be told to send
        its body (Expect: 100-continue) may leave it out now: what came next would not be sure."""
        self._withheld = self.cycle.waiting_for_100_continue
        if self._withheld:
            self.cycle.keep_alive = False

    @property
    def closes_on_request(self) -> bool:
        """Whether the connection is going to close while its client still sends a request."""
        cycle = self.cycle
        return cycle.more_body and not (cycle.keep_alive or cycle.disconnected or self._withheld)

    def on_lost(self, callback: Callable[[], None] | None) -> None:
        """Call back when the connection is lost, at once if it is already."""
        if callback is not None and self.cycle.disconnected:
            callback()
            return
        self._lost = callback

    def abort(self) -> None:
        """Reset the connection: nothing that is still unsent will arrive."""
        cycle: RequestResponseCycle | None = self.cycle  # uvicorn declares it otherwise
        if cycle is not None:
            cycle.disconnected = True
        self.flow.resume_writing()
        connection = self.transport.get_extra_info("socket")
        if connection is not None:
            # Without this the kernel would go on delivering what it holds. asyncio says OSError,
            # uvloop ValueError, of a socket that is already closed.
            with suppress(OSError, ValueError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.transport.abort()

    # What uvicorn and the event loop call

    def connection_made(  # noqa: D102 - asyncio's
        self,
        transport: asyncio.Transport,  # type: ignore[override]
    ) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            transport.abort()
            return
        self._arm_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102 - asyncio's
        self._disarm_head_timer()
        if self._linger_timer is not None:
            self._linger_timer.cancel()
        super().connection_lost(exc)
        lost, self._lost = self._lost, None
        if lost is not None:
            lost()

    def data_received(self, data: bytes) -> None:  # noqa: D102 - asyncio's
        if self._no_more:
            return
        self._unset_keepalive_if_required()
        self._unparsed += len(data)
        try:
            self.parser.feed_data(data)
            self._bound(self._unparsed)
        except httptools.HttpParserUpgrade:
            self._no_more = True  # what follows is in another protocol, or pretends to be
        except (httptools.HttpParserError, _HeadTooLarge):
            self.send_400_response("")
            return
        timed = self._head_timer is not None or self.timeout_keep_alive_task is not None
        if not (timed or self._answering or self.transport.is_closing()):
            # Blank lines, or the rest of a request that was refused: uvicorn set no timer.
            self._arm_head_timer()

    def on_message_begin(self) -> None:  # noqa: D102 - httptools'
        if self._answering:
            raise _Pipelined  # the parser stops and ``send_400_response`` is called
        self._unset_keepalive_if_required()
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = self._head_count = 0
        self._arm_head_timer()

    def on_url(self, url: bytes) -> None:  # noqa: D102 - httptools'
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: D102 - httptools'
        self._head_count += 1
        self._count(len(name) + len(value) + len(": \r\n"))
        if self._in_head:  # a trailer comes when the head is already judged: it says nothing here
            super().on_header(name, value)

    def on_headers_complete(self) -> None:  # noqa: D102 - httptools'
        self._in_head = False
        self._unparsed = 0
        self._disarm_head_timer()
        self.scope["extensions"] = {EXTENSION: self}  # type: ignore[dict-item]
        super().on_headers_complete()
        if self.parser.should_upgrade():
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:  # noqa: D102 - httptools'
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:  # noqa: D102 - httptools'
        self._unparsed = 0
        super().on_message_complete()
        if not self._answering:  # it was refused before it ended, and now waits for the next
            self._disarm_head_timer()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def send_400_response(self, msg: str) -> None:  # noqa: D102 - uvicorn's
        del msg  # uvicorn's words; ours are JSON
        if self._answering:
            self._no_more = True
            if self.cycle.more_body and self.cycle.response_started:
                self.transport.abort()  # nothing can be said within an answer
                return
            if not self.cycle.more_body:
                self.cycle.keep_alive = False
                return
        self._no_more = True
        self.on_malformed(self.client[0] if self.client else "")
        status, body = _HEAD_TOO_LARGE if self._head_too_large else _MALFORMED
        self.transport.write(
            b"HTTP/1.1 %s\r\ncontent-type: application/json\r\n"
            b"x-should-retry: false\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s"
            % (status, len(body), body)
        )
        if self._head_too_large and not self._answering:
            # It is likely still sending, and would lose the answer to a reset (RFC 9112, 9.6).
            self.loop.call_later(DISCARD_S, self.timeout_keep_alive_handler)
            return
        self.transport.close()
        self._linger()

    def on_response_complete(self) -> None:  # noqa: D102 - uvicorn's
        super().on_response_complete()
        if self.transport.is_closing():
            self._linger()

    def timeout_keep_alive_handler(self) -> None:  # noqa: D102 - uvicorn's
        super().timeout_keep_alive_handler()
        self._linger()

    @property
    def _answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # uvicorn declares it otherwise
        return cycle is not None and not cycle.response_complete

    def _count(self, size: int) -> None:
        self._head_bytes += size
        self._bound(self._head_bytes)

    def _bound(self, size: int) -> None:
        """Refuse a head that grows too large, counted by its parts as the parser hands them over,
        and by what it keeps to itself until a part is whole (the parser bounds neither)."""
        if size > MAX_HEAD_BYTES or self._head_count > MAX_HEADERS:
            self._head_too_large = True
            self._disarm_head_timer()
            raise _HeadTooLarge

    def _linger(self) -> None:
        if self in self.connections and self._linger_timer is None:
            self._linger_timer = self.loop.call_later(self.stall_timeout_s, self.abort)

    def _arm_head_timer(self) -> None:
        self._disarm_head_timer()
        self._head_timer = self.loop.call_later(self.head_timeout_s, self._head_overdue)

    def _disarm_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_overdue(self) -> None:
        if not self.transport.is_closing():
            self.transport.abort()


def protocol_class(
    *,
    head_timeout_s: float,
    stall_timeout_s: float,
    max_connections: int,
    on_malformed: Callable[[str], None],
) -> type[GatewayProtocol]:
    """A protocol class for ``uvicorn.Config(http=...)`` with these settings bound."""
    return type(
        "BoundGatewayProtocol",
        (GatewayProtocol,),
        {
            "head_timeout_s": head_timeout_s,
            "stall_timeout_s": stall_timeout_s,
            "max_connections": max_connections,
            "on_malformed": staticmethod(on_malformed),
        },
    )
