"""A client's connection: HTTP/1.1 by llhttp, one request at a time, everything bounded.

uvicorn accepts the connections and stops the server; from the first byte on they are handled here
(docs/decisions/0011 says why). What this module guarantees:

- A request head arrives whole in time, and so does what is left of a request after its answer; an
  idle connection ends. A head is bounded in bytes and headers; trailers count with it and are
  thrown away.
- Framing that llhttp refuses is answered in JSON, as every refusal is, and counted; it writes no
  log line, which anyone could fill a disk with.
- Whatever a client asks to upgrade to, the bytes behind such a request are never read as another
  one, and the connection closes after the answer.
- What follows a request that is still being answered is not read, and the connection closes after
  the answer (RFC 9112, section 9.3.2: the client sends what was not answered again). Reading never
  stops meanwhile, so that a client who goes away is noticed at once.
- A connection that closes on a request that was not read to its end first reads on and throws away,
  within bounds: closing on a client that is still sending resets the connection, and most clients
  then lose the answer and send it all again (RFC 9112, section 9.6).
- A connection that closes does not wait for ever for its client to take the last bytes.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final, cast

import httptools
from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.proxy.exchange import ClientChannel, Headers, Request
from gateway.wire.framing import BODILESS
from gateway.wire.headers import combined

__all__ = ["MAX_HEADERS", "MAX_HEAD_BYTES", "Channel", "ClientConnection", "connection_class"]

Serve = Callable[[Request, ClientChannel], Coroutine[Any, Any, None]]

MAX_HEAD_BYTES: Final = 64 * 1024
"""Target, header names and values of one request, trailers included; agents send below 8 KiB."""
MAX_HEADERS: Final = 256
MAX_PIECES: Final = 4096
LEAST_PIECE_BYTES: Final = 16
"""A body in more pieces than this, of fewer bytes on average, costs more to take apart than it is
worth: its connection ends. (Clients that send chunks send some KiB in each.)"""
UNREAD_BYTES: Final = 64 * 1024
"""How much of a body is held that nobody has asked for yet; beyond it the socket is not read."""
IDLE_S: Final = 5.0
"""How long a connection may stay open without a request."""
DISCARD_HEAD_S: Final = 1.0
"""How long the rest of a head that is too large is still read, and thrown away."""
DISCARD_S: Final = 5.0
DISCARD_BYTES: Final = 64 * 1024 * 1024
"""How long, and how much, a connection is still read before it closes on a refused request."""

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
_STATUS_LINE = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode())
    for status in HTTPStatus
}
_NO_LINGER = struct.pack("ii", 1, 0)
"""``struct linger``: on, 0 s; closing the socket resets the connection (socket(7))."""
_NEVER: Final = float("inf")


class _Pipelined(Exception):
    """A request began before the answer to the one before it had ended."""


class _Crumbs(Exception):
    """A body in far too many pieces."""


class _HeadTooLarge(Exception):
    """More head than ``MAX_HEAD_BYTES`` or ``MAX_HEADERS``."""


class Channel:
    """``exchange.ClientChannel``: one request of a connection, and its answer.

    Args:
        connection: whose request it is.
        keep_alive: whether the client would send another one.
        without_body: the answer has none (HEAD).
        chunked: the client reads chunks (HTTP/1.1).
        expects_continue: it waits to be told to send its body (RFC 9110, section 10.1.1).
    """

    __slots__ = (
        "_chunked",
        "_connection",
        "_expects_continue",
        "_head",
        "_left",
        "_lost",
        "_pieces",
        "_unread",
        "_waiter",
        "_without_body",
        "answered",
        "begun",
        "keep_alive",
        "receiving",
    )

    def __init__(
        self,
        connection: ClientConnection,
        *,
        keep_alive: bool,
        without_body: bool,
        chunked: bool,
        expects_continue: bool,
    ) -> None:
        self._connection = connection
        self.keep_alive = keep_alive
        self._without_body = without_body
        self._chunked = chunked
        self._expects_continue = expects_continue
        self._left = -1
        self._head = b""
        self._lost: Callable[[], None] | None = None
        self._pieces: list[bytes] = []
        self._unread = 0
        self._waiter: asyncio.Future[None] | None = None
        self.receiving = True
        self.begun = False
        self.answered = False

    # What the request path uses

    @property
    def write_paused(self) -> bool:
        """Whether the client is not taking what was written: the next write would wait."""
        return self._connection.write_paused

    async def receive(self) -> tuple[bytes, bool]:
        """The next piece of the body, and whether more follows.

        Raises:
            ConnectionError: the client is gone.
        """
        if self._expects_continue and not self.begun:
            self._expects_continue = False
            if self.receiving and not self._pieces:  # else it did not wait
                self._connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        while self.receiving and not self._pieces and not self._connection.gone:
            self._waiter = self._connection.loop.create_future()
            await self._waiter
        if self._connection.gone:
            raise ConnectionError("the client went away")
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._unread = 0
        self._connection.resume_reading()
        return data, self.receiving

    async def start(self, status: int, headers: Headers, *, at_once: bool = True) -> None:
        """Send status and headers; with the first piece of the body, if that is not to be awaited
        (``at_once``)."""
        connection = self._connection
        if connection.write_paused:
            await connection.drained()
        self.begun = True
        if self._expects_continue:
            # It may leave its body out now: what came next would not be sure.
            self.keep_alive = False
        said = False
        lines = [_STATUS_LINE.get(status) or b"HTTP/1.1 %d \r\n" % status, connection.date]
        for name, value in headers:
            lines += (name, b": ", value, b"\r\n")
            if name == b"content-length":
                self._left = int(value)
            elif name == b"connection":  # the answer to a request that cannot be read to its end
                said, self.keep_alive = True, False
        if status in BODILESS:
            self._without_body = True
        if self._without_body or self._left >= 0:
            self._chunked = False
        elif self._chunked:
            lines.append(b"transfer-encoding: chunked\r\n")
        else:
            self.keep_alive = False  # HTTP/1.0: the end of the connection ends the answer
        lines.append(b"\r\n" if self.keep_alive or said else b"connection: close\r\n\r\n")
        self._head = b"".join(lines)
        if at_once:
            connection.send(self._head)
            self._head = b""

    async def write(self, data: bytes, *, more: bool) -> None:
        """Send a piece of the answer; ``more=False`` ends it."""
        connection = self._connection
        if connection.write_paused:
            await connection.drained()
        if connection.gone:
            return
        if self._left >= 0 and not self._without_body:
            self._left -= len(data)
            if self._left < 0 or not (more or self._left == 0):
                self.abort()  # not as long as was said: the client must not take it for whole
                return
        data = self._head + self._framed(data, more=more)
        self._head = b""
        if data:
            connection.send(data)
        if not more:
            if self.receiving and not (self.keep_alive or self._expects_continue):
                await self._discard()
            self.answered = True
            connection.answer_ended(self)

    def _framed(self, data: bytes, *, more: bool) -> bytes:
        if self._without_body:
            return b""
        if not self._chunked:
            return data
        chunk = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        return chunk if more else chunk + b"0\r\n\r\n"

    def abort(self) -> None:
        """Reset the connection: nothing that is still unsent will arrive. After the answer's end
        the connection is another request's."""
        if not self.answered:
            self._connection.reset()

    def on_lost(self, callback: Callable[[], None] | None) -> None:
        """Call back once when the connection is lost, at once if it is already."""
        if callback is not None and self._connection.gone:
            callback()
        else:
            self._lost = callback

    # What the connection tells

    def take(self, piece: bytes) -> bool:
        """A piece of the body has come; returns whether to go on reading."""
        if self.answered:
            return True
        self._pieces.append(piece)
        self._unread += len(piece)
        self._wake()
        return self._unread <= UNREAD_BYTES

    def received(self) -> None:
        """The request has come to its end."""
        self.receiving = False
        self._wake()

    def lost(self) -> None:
        """The connection is gone."""
        self._wake()
        lost, self._lost = self._lost, None
        if lost is not None:
            lost()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def _discard(self) -> None:
        left = DISCARD_BYTES
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(DISCARD_S):
                while self.receiving and left > 0:
                    piece, _ = await self.receive()
                    left -= len(piece)


class ClientConnection(asyncio.Protocol):
    """One client connection, as uvicorn's server makes it.

    Class attributes are set by ``connection_class``; times in seconds.
    """

    head_timeout_s: float = 15.0
    stall_timeout_s: float = 30.0
    max_connections: int = 10_000
    serve: Serve
    on_malformed: Callable[[str], None] = staticmethod(lambda _address: None)

    def __init__(
        self,
        config: Config,  # noqa: ARG002 - uvicorn's
        server_state: ServerState,
        app_state: dict[str, Any],  # noqa: ARG002 - uvicorn's
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.loop = _loop or asyncio.get_running_loop()
        self.gone = False
        self.write_paused = False
        self._drained: asyncio.Future[None] | None = None
        self._state = server_state
        self._parser: Any = httptools.HttpRequestParser(self)
        self._channel: Channel | None = None
        self._reading = True
        self._ignoring = False
        # The head that is being read
        self._target = b""
        self._headers: Headers = []
        self._in_head = False
        self._trailers = 0
        self._pieces = self._piece_bytes = 0
        self._unparsed = 0
        """Bytes since the last whole head, piece of a body or request."""
        self._head_too_large = False
        # The one timer: it is moved only to go off earlier, and looks when it does
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = _NEVER
        self._overdue: Callable[[], None] | None = None

    # What the event loop and uvicorn call

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        # uvloop's transports are of no common class with asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if isinstance(peer, tuple) and peer else ""
        self._state.connections.add(self)  # type: ignore[arg-type]
        if len(self._state.connections) > self.max_connections:
            self._transport.abort()
            return
        self._within(self.head_timeout_s, self.reset)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002, D102
        self.gone = True
        self._state.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._parser = self._overdue = None  # both refer to us
        self.resume_writing()
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.lost()

    def pause_writing(self) -> None:  # noqa: D102
        self.write_paused = not self.gone

    def resume_writing(self) -> None:  # noqa: D102
        self.write_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def shutdown(self) -> None:
        """Called when the server stops: end when the running answer has ended."""
        if self._answering:
            self._channel.keep_alive = False  # type: ignore[union-attr]
        else:
            self._close()

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if self._ignoring or self.gone:
            return
        self._unparsed += len(data)
        try:
            self._parser.feed_data(data)
            if self._unparsed > MAX_HEAD_BYTES:
                self._refuse_head()
        except httptools.HttpParserUpgrade:
            self._ignoring = True  # what follows is in another protocol, or pretends to be
        except (httptools.HttpParserError, _HeadTooLarge):
            self._malformed()
            return
        if self._deadline == _NEVER and not (self._answering or self._transport.is_closing()):
            # Blank lines, or the rest of a request that was refused.
            self._within(self.head_timeout_s, self.reset)

    # What the parser calls

    def on_message_begin(self) -> None:  # noqa: D102
        if self._answering:
            raise _Pipelined  # the parser stops, and so ``_malformed`` is reached
        self._headers = []
        self._in_head = True
        self._within(self.head_timeout_s, self.reset)

    def on_url(self, url: bytes) -> None:  # noqa: D102
        self._target = self._target + url if self._target else url

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: D102
        if self._in_head:
            self._headers.append((name, value))
            return
        # A trailer comes when the head is already judged: it says nothing here.
        self._trailers += 1
        if len(self._headers) + self._trailers > MAX_HEADERS:
            self._refuse_head()

    def on_headers_complete(self) -> None:  # noqa: D102
        parser = self._parser
        headers = [(name.lower(), value) for name, value in self._headers]
        size = len(self._target) + sum([len(name) + len(value) + 4 for name, value in headers])
        if size > MAX_HEAD_BYTES or len(headers) > MAX_HEADERS:
            self._refuse_head()
        fields = combined(headers)
        self._in_head = False
        self._trailers = self._unparsed = self._pieces = self._piece_bytes = 0
        self._deadline = _NEVER
        version = parser.get_http_version()
        method = parser.get_method().decode("ascii")
        target, self._target = self._target, b""
        raw_path, _, query = target.partition(b"?")
        channel = Channel(
            self,
            # Nothing is upgraded to here, and HTTP/1.0 is answered once.
            keep_alive=(
                version == "1.1" and parser.should_keep_alive() and not parser.should_upgrade()
            ),
            without_body=method == "HEAD",
            chunked=version == "1.1",
            expects_continue=fields.get(b"expect", b"").lower() == b"100-continue",
        )
        self._channel = channel
        request = Request(method, target, raw_path, query, headers, fields, self._address, version)
        task = self.loop.create_task(type(self).serve(request, channel))
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    def on_body(self, body: bytes) -> None:  # noqa: D102
        self._unparsed = 0
        self._pieces += 1
        self._piece_bytes += len(body)
        if self._pieces > MAX_PIECES and self._piece_bytes < self._pieces * LEAST_PIECE_BYTES:
            raise _Crumbs
        assert self._channel is not None
        if not self._channel.take(body) and self._reading:
            self._reading = False
            self._transport.pause_reading()

    def on_message_complete(self) -> None:  # noqa: D102
        self._unparsed = 0
        assert self._channel is not None
        self._channel.received()
        if self._channel.answered:  # it was refused before it ended, and now waits for the next
            self._within(IDLE_S, self._close)

    # What a channel uses

    @property
    def date(self) -> bytes:
        """The ``date`` header, made once a second by uvicorn."""
        return b"".join(b"%b: %b\r\n" % header for header in self._state.default_headers)

    async def drained(self) -> None:
        """Wait until the client takes what was written, or is gone."""
        while self.write_paused:
            self._drained = self.loop.create_future()
            await self._drained

    def send(self, data: bytes) -> None:
        """Write, unless the connection is gone or about to be."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def resume_reading(self) -> None:
        """Go on reading, if that had stopped."""
        if not self._reading:
            self._reading = True
            self._transport.resume_reading()

    def reset(self) -> None:
        """Reset the connection: nothing that is still unsent will arrive."""
        if self.gone:
            return
        connection = self._transport.get_extra_info("socket")
        if connection is not None:
            # Without this the kernel would go on delivering what it holds. asyncio says OSError,
            # uvloop ValueError, of a socket that is already closed.
            with suppress(OSError, ValueError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self._transport.abort()

    def answer_ended(self, channel: Channel) -> None:
        """The last byte of an answer was written."""
        self._state.total_requests += 1
        if self.gone:
            return
        if not channel.keep_alive:
            self._close()
            return
        self.resume_reading()
        if channel.receiving:
            self._within(self.head_timeout_s, self.reset)
        else:
            self._within(IDLE_S, self._close)

    # Ends

    @property
    def _answering(self) -> bool:
        return self._channel is not None and not self._channel.answered

    def _malformed(self) -> None:
        """Refuse what is not HTTP/1.1; within or behind a request that is being answered, let its
        answer be the last."""
        self._ignoring = True
        channel = self._channel
        if channel is not None and channel.receiving and channel.begun:
            self._transport.abort()  # nothing can be said within or after its answer
            return
        if channel is not None and not (channel.answered or channel.receiving):
            channel.keep_alive = False
            return
        self.on_malformed(self._address)
        status, body = _HEAD_TOO_LARGE if self._head_too_large else _MALFORMED
        self._transport.write(
            b"HTTP/1.1 %b\r\ncontent-type: application/json\r\n"
            b"x-should-retry: false\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
            % (status, len(body), body)
        )
        if self._head_too_large and (channel is None or channel.answered):
            # It is likely still sending, and would lose the answer to a reset (RFC 9112, 9.6).
            self._within(DISCARD_HEAD_S, self._close)
        else:
            self._close()

    def _close(self) -> None:
        """Close when what was written has been taken; who does not take it is reset."""
        if not self.gone:
            self._transport.close()
            self._within(self.stall_timeout_s, self.reset)

    def _refuse_head(self) -> None:
        """A head is bounded when it is whole, and by the bytes that come before it is (the parser
        bounds neither)."""
        self._head_too_large = True
        raise _HeadTooLarge

    def _within(self, seconds: float, overdue: Callable[[], None]) -> None:
        """Do ``overdue`` after ``seconds``, unless another limit or none is set before."""
        self._overdue = overdue
        self._deadline = deadline = self.loop.time() + seconds
        if self._timer is None or self._timer.when() > deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self.loop.call_at(deadline, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._deadline <= self.loop.time():
            self._deadline = _NEVER
            if self._overdue is not None:
                self._overdue()
        elif self._deadline < _NEVER:
            self._timer = self.loop.call_at(self._deadline, self._look)


def connection_class(
    *,
    serve: Serve,
    head_timeout_s: float,
    stall_timeout_s: float,
    max_connections: int,
    on_malformed: Callable[[str], None],
) -> type[ClientConnection]:
    """A protocol class for ``uvicorn.Config(http=...)``.

    Args:
        serve: answers one request.
        head_timeout_s: how long a request head may take to arrive.
        stall_timeout_s: how long a closing connection waits for its client to take the rest.
        max_connections: open at once; more are reset.
        on_malformed: told the address of whoever sent what is not HTTP/1.1.
    """
    return type(
        "BoundClientConnection",
        (ClientConnection,),
        {
            "serve": staticmethod(serve),
            "head_timeout_s": head_timeout_s,
            "stall_timeout_s": stall_timeout_s,
            "max_connections": max_connections,
            "on_malformed": staticmethod(on_malformed),
        },
    )
