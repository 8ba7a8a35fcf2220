"""One connection to a model endpoint: HTTP/1.1 by llhttp, one exchange at a time.

What it guarantees: an answer is whole only if its own framing says so (a length, the last chunk, or
the end of a connection that was announced as the end of the answer); a connection on which anything
was odd is never used again; a closed exchange closes the connection at once; what the reader does
not take is not read. It knows nothing of who may call, and nothing of TLS but the transport's word.
"""

from __future__ import annotations

import asyncio
import select
from collections import deque
from typing import Any, Final, cast

import httptools

from gateway.core.reasons import Reason
from gateway.wire.framing import BODILESS

__all__ = ["UpstreamConnection", "UpstreamFailed"]

MAX_HEAD_BYTES: Final = 64 * 1024
"""Status line and headers of one answer, trailers included."""
UNREAD_BYTES: Final = 64 * 1024
"""How much of an answer is held that the client has not taken; beyond it the socket is not read."""
_NEVER: Final = float("inf")
MAX_IN_ADVANCE: Final = 16
"""Informational answers before the answer."""
_LEAST, _MOST = 100, 599
_SWITCHING_PROTOCOLS: Final = 101
_OK: Final = 200


class UpstreamFailed(Exception):
    """The endpoint could not be reached, kept us waiting, or broke off."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class _Odd(Exception):
    """An answer that is not what HTTP/1.1 allows here."""


class UpstreamConnection(asyncio.Protocol):
    """``ask`` begins an exchange, ``read`` takes its answer; ``reusable`` says whether there may be
    another one after it.

    Attributes:
        status: of the answer, once ``ask`` has returned.
        headers: of the answer, names in lower case, in order.
        begun: an answer has begun.
        complete: the answer came to its end.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser: Any = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._failure: UpstreamFailed | None = None
        self._reading = True
        self._asked = False
        self._lost = False
        # The answer
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = False
        self.begun = False
        self._in_head = False
        self._in_advance = 0
        self._unparsed = 0
        """Bytes since the last whole head or piece of a body."""
        self._until_end = False
        self._keeps = False
        self._pieces: deque[bytes] = deque()
        self._unread = 0
        # The one timer: it is moved only to go off earlier, and looks when it does
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = _NEVER

    # One exchange

    async def ask(self, head: bytes, body: bytes, within_s: float) -> None:
        """Send a request and wait for the answer to begin.

        Raises:
            UpstreamFailed: none began in time, or none that is HTTP/1.1.
        """
        self._asked = True
        self.begun = self.complete = self._keeps = False
        self._unparsed = self._in_advance = 0
        if self._lost or self._transport.is_closing():
            raise UpstreamFailed(Reason.UPSTREAM_PROTOCOL, "the connection was closed")
        deadline = self._loop.time() + within_s
        # One write: a small request is one segment.
        self._transport.write(head + body if len(body) < UNREAD_BYTES else head)
        if len(body) >= UNREAD_BYTES:
            self._transport.write(body)
        while not self.begun:
            await self._wait(deadline)

    async def read(self, within_s: float) -> bytes:
        """What has come of the answer since; empty at its end.

        Raises:
            UpstreamFailed: nothing came for ``within_s`` seconds, or the answer broke off.
        """
        if not self._pieces and not self.complete:
            deadline = self._loop.time() + within_s
            while not self._pieces and not self.complete:
                await self._wait(deadline)
        pieces = self._pieces
        if not pieces:
            return b""
        if self._unread > UNREAD_BYTES or len(pieces) == 1:
            data = pieces.popleft()  # much has come: in its own pieces, so that no copy is large
        else:
            data = b"".join(pieces)
            pieces.clear()
        self._unread -= len(data)
        if self._unread <= UNREAD_BYTES and not self._reading:
            self._reading = True
            self._transport.resume_reading()
        return data

    @property
    def reusable(self) -> bool:
        """Whether the exchange is over and another one may follow it on this connection."""
        return (
            self.complete
            and self._keeps
            and not (self._lost or self._transport.is_closing())
            and self._failure is None
            and not self._pieces
            and self._transport.get_write_buffer_size() == 0
        )

    @property
    def readable(self) -> bool:
        """Whether the kernel holds bytes, or the end, that nobody has seen yet."""
        descriptor = self._transport.get_extra_info("socket").fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(0))

    def rest(self) -> None:
        """The exchange is over; what comes from now on belongs to none."""
        self._asked = False

    def close(self) -> None:
        """Close at once, whatever is under way."""
        self._transport.abort()

    async def _wait(self, deadline: float) -> None:
        if self._failure is not None:
            raise self._failure
        self._deadline = deadline
        if self._timer is None or self._timer.when() > deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(deadline, self._look)
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._deadline = _NEVER
        if self._failure is not None and not self._pieces:
            raise self._failure

    def _look(self) -> None:
        self._timer = None
        if self._deadline <= self._loop.time():
            self._fail(
                Reason.UPSTREAM_TIMEOUT,
                "idle for too long" if self.begun else "no answer began in time",
            )
        elif self._deadline < _NEVER:
            self._timer = self._loop.call_at(self._deadline, self._look)

    def _fail(self, reason: Reason, detail: str) -> None:
        if self._failure is None:
            self._failure = UpstreamFailed(reason, detail)
        self._transport.abort()
        self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if not self._asked or self._failure is not None:
            self._keeps = False  # said without being asked: nothing on this connection is sure
            self._transport.abort()
            return
        self._unparsed += len(data)
        try:
            self._parser.feed_data(data)
            odd = self._unparsed > MAX_HEAD_BYTES
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            odd = True
        if odd:
            self._keeps = False
            if not self.complete:
                self._fail(Reason.UPSTREAM_PROTOCOL, "not HTTP/1.1")
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._lost = True
        self._parser = None  # the parser refers to us
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._asked and not self.complete and self._failure is None:
            if self.begun and self._until_end and exc is None:
                self.complete = True
            else:
                self._failure = UpstreamFailed(
                    Reason.UPSTREAM_TRUNCATED if self.begun else Reason.UPSTREAM_PROTOCOL,
                    "the connection was closed" if exc is None else type(exc).__name__,
                )
        self._wake()

    # What the parser calls

    def on_message_begin(self) -> None:  # noqa: D102
        if self.complete:
            raise _Odd("an answer that was not asked for")
        self.headers = []
        self._in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: D102
        if self._in_head:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:  # noqa: D102
        self._in_head = False
        self._unparsed = 0
        status = self._parser.get_status_code()
        if status == _SWITCHING_PROTOCOLS or not _LEAST <= status <= _MOST:
            raise _Odd("another protocol, or no status of this one")
        self.status = status
        if status < _OK:  # a word in advance (RFC 9110, section 15.2)
            self._in_advance += 1
            if self._in_advance > MAX_IN_ADVANCE:
                raise _Odd("words in advance without end")
            return
        lengths = [value for name, value in self.headers if name == b"content-length"]
        codings = [value for name, value in self.headers if name == b"transfer-encoding"]
        if len(lengths) + len(codings) > 1 or any(c.lower() != b"chunked" for c in codings):
            raise _Odd("framed in two ways, or in one that is not asked for")
        self._until_end = not lengths and not codings and status not in BODILESS
        self.begun = True

    def on_body(self, body: bytes) -> None:  # noqa: D102
        self._unparsed = 0
        self._pieces.append(body)
        self._unread += len(body)
        if self._unread > UNREAD_BYTES and self._reading:
            self._reading = False
            self._transport.pause_reading()

    def on_message_complete(self) -> None:  # noqa: D102
        self._unparsed = 0
        if self.status >= _OK:
            self.complete = True
            self._keeps = not self._until_end and self._parser.should_keep_alive()
