"""The HTTP/1.1 server protocol: uvicorn's, with what a gateway at the edge must add.

- A request head must arrive whole in time (uvicorn waits for ever on slow headers), and so must
  what is left of a request after its answer.
- Framing that llhttp refuses is answered in JSON, as every refusal is, and counted.
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
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

__all__ = ["EXTENSION", "GatewayProtocol", "protocol_class"]

EXTENSION = "sluicegate.connection"
"""The ASGI scope extension under which an application finds its ``GatewayProtocol``."""

_MALFORMED = (
    b'{"error":{"message":"Malformed HTTP request: the message framing or a header is not valid '
    b'HTTP/1.1.","type":"invalid_request_error","param":null,"code":"framing_invalid"}}'
)
_NO_LINGER = struct.pack("ii", 1, 0)
"""``struct linger``: on, 0 s; closing the socket resets the connection (socket(7))."""


class _Pipelined(Exception):
    """A request began before the answer to the one before it had ended."""


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
        self.cycle.disconnected = True
        self.flow.resume_writing()
        connection = self.transport.get_extra_info("socket")
        if connection is not None:  # it is not yet closed
            # Without this the kernel would go on delivering what it holds.
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
        super().data_received(data)
        timed = self._head_timer is not None or self.timeout_keep_alive_task is not None
        if not (timed or self._answering or self.transport.is_closing()):
            # Blank lines, or the rest of a request that was refused: uvicorn set no timer.
            self._arm_head_timer()

    def on_message_begin(self) -> None:  # noqa: D102 - httptools'
        if self._answering:
            raise _Pipelined  # the parser stops and ``send_400_response`` is called
        self._unset_keepalive_if_required()
        super().on_message_begin()
        self._arm_head_timer()

    def on_headers_complete(self) -> None:  # noqa: D102 - httptools'
        self._disarm_head_timer()
        self.scope["extensions"] = {EXTENSION: self}  # type: ignore[dict-item]
        super().on_headers_complete()

    def on_message_complete(self) -> None:  # noqa: D102 - httptools'
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
        self.on_malformed(self.client[0] if self.client else "")
        self.transport.write(
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            b"x-should-retry: false\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s"
            % (len(_MALFORMED), _MALFORMED)
        )
        self.transport.close()

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

    def _linger(self) -> None:
        if self in self.connections:
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
