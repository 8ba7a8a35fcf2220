"""The edge: a raw ASGI callable that turns a scope into an ``Exchange`` and knows nothing more.

This is the one place of the data plane where an unforeseen exception is caught: it is logged
without the request's content. The pipeline has answered by then, as for any other refusal.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import suppress
from typing import Any

import structlog

from gateway.proxy.exchange import Exchange, Headers, Request
from gateway.proxy.network import client_address
from gateway.proxy.pipeline import Pipeline
from gateway.proxy.protocol import EXTENSION, GatewayProtocol

__all__ = ["Entry"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

DISCARD_S = 5.0
DISCARD_BYTES = 64 * 1024 * 1024
"""How long, and how much, a connection is still read before it closes on a refused request."""

_log = structlog.get_logger("sluicegate.data")


class AsgiChannel:
    """``exchange.ClientChannel`` over ASGI and the connection's own protocol.

    Where the connection closes on a request that was not read to its end (it is too large), the
    rest is first read and thrown away, within bounds: closing on a client that is still sending
    resets the connection, and most clients then lose the answer and send it all again (RFC 9112,
    section 9.6).
    """

    def __init__(self, receive: Receive, send: Send, connection: GatewayProtocol) -> None:
        self._receive = receive
        self._send = send
        self._connection = connection
        self.on_lost = connection.on_lost
        self.abort = connection.abort

    @property
    def write_paused(self) -> bool:
        """Whether the client is not taking what was written."""
        return self._connection.write_paused

    async def receive(self) -> tuple[bytes, bool]:
        """The next piece of the body, and whether more follows."""
        message = await self._receive()
        if message["type"] != "http.request":
            raise ConnectionError("the client went away")
        return message.get("body", b""), message.get("more_body", False)

    async def start(self, status: int, headers: Headers) -> None:
        """Send status and headers."""
        self._connection.answer_begins()
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes, *, more: bool) -> None:
        """Send a piece of the answer."""
        if not more and self._connection.closes_on_request:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})
            await self._discard()
            data = b""
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def _discard(self) -> None:
        left = DISCARD_BYTES
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(DISCARD_S):
                while self._connection.closes_on_request and left > 0:
                    piece, _ = await self.receive()
                    left -= len(piece)


class Entry:
    """The ASGI application of a data worker.

    Args:
        pipeline: the request path.
        trusted: networks of the proxies whose forwarded headers count.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        trusted: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network] = (),
    ) -> None:
        self._pipeline = pipeline
        self._trusted = trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        if scope["type"] != "http":
            return
        connection: GatewayProtocol = scope["extensions"][EXTENSION]
        peer = scope["client"][0] if scope["client"] else ""
        headers: Headers = scope["headers"]
        exchange = Exchange(
            request=Request(
                method=scope["method"],
                target=connection.target,
                raw_path=scope["raw_path"],
                query=scope["query_string"],
                headers=headers,
                address=client_address(peer, headers, self._trusted),
                http_version=scope["http_version"],
            ),
            channel=AsgiChannel(receive, send, connection),
        )
        try:
            await self._pipeline.run(exchange)
        except Exception as error:  # noqa: BLE001 - the edge of the data plane
            _log.error(
                "internal_error",
                request_id=exchange.request_id,
                error=type(error).__name__,
                where=_where(error),
            )
            if not exchange.answer.complete:
                connection.abort()


def _where(error: BaseException) -> str:
    """File and line of a fault, without the values that a traceback may quote."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    code = trace.tb_frame.f_code
    return f"{code.co_filename.rpartition('gateway/')[2]}:{trace.tb_lineno}"
