"""The upstream leg: takes a ``Permit`` and nothing else, and sends to where its key belongs.

Settings bind a provider key to one scheme, host and port; the permit names an endpoint of the
settings and a path that was built from a template. Redirects are not followed, no proxy of the
environment is used, answers are not decompressed, a POST is never sent again. A cancelled or failed
exchange closes its connection, so the endpoint sees it at once. Foreign exceptions become
``UpstreamFailed`` here and in ``upstream_connection``, and nowhere else.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

from gateway.core.permit import Permit
from gateway.core.reasons import Reason
from gateway.proxy.upstream_connection import UpstreamConnection, UpstreamFailed
from gateway.settings import Upstream
from gateway.wire.headers import combined

__all__ = ["UpstreamFailed", "UpstreamResponse", "Upstreams"]

KEPT_S: Final = {"vllm": 4.0}
KEPT_OTHERWISE_S: Final = 15.0
"""How long an idle connection is kept, by the kind of endpoint: vLLM's server, uvicorn, closes its
own after 5 s, the vendors' after a minute or more."""
REST_S: Final = 0.05
"""How long a connection rests before the next exchange takes it. What an endpoint that frames
wrongly sends behind an answer arrives in that time, belongs to nobody, and ends the connection,
where it could otherwise be read as the answer to another member's call (K46)."""


class UpstreamResponse:
    """Status and headers of an answer, and its bytes as they come. Leaving its context ends the
    exchange: its connection goes back to the others if the answer was read to its end, and is
    closed if not."""

    __slots__ = ("_connection", "_endpoint", "_fields", "headers", "status")

    def __init__(self, endpoint: _Endpoint, connection: UpstreamConnection) -> None:
        self._endpoint, self._connection = endpoint, connection
        self.status = connection.status
        self.headers = connection.headers
        self._fields = combined(connection.headers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._endpoint.give_back(self._connection)

    @property
    def content_type(self) -> bytes:
        """The media type, lower case, without parameters."""
        return self._fields.get(b"content-type", b"").partition(b";")[0].strip().lower()

    @property
    def encoded(self) -> bool:
        """Whether the bytes are compressed or otherwise not what they say."""
        return self._fields.get(b"content-encoding", b"identity").lower() != b"identity"

    @property
    def content_length(self) -> int | None:
        """The length that the endpoint announced, in bytes."""
        length = self._fields.get(b"content-length")
        return int(length) if length is not None else None

    @property
    def request_id(self) -> str:
        """The endpoint's own id of this call, for reconciliation; empty if it gave none."""
        told = self._fields.get(b"request-id") or self._fields.get(b"x-request-id", b"")
        return told.decode("latin-1")[:128]

    async def read(self) -> bytes:
        """The answer's next bytes, as they come and with back-pressure; empty at its end.

        Raises:
            UpstreamFailed: the answer broke off, or nothing came for the idle timeout.
        """
        return await self._connection.read(self._endpoint.settings.idle_timeout_s)


class _Endpoint:
    """One endpoint of the settings and its connections."""

    def __init__(self, settings: Upstream) -> None:
        parts = urlsplit(settings.origin)
        host = parts.hostname or ""
        secure = parts.scheme == "https"
        self.settings = settings
        # Concurrency is bounded above the connections: a cancelled waiter inside a pool is how
        # pools lose slots (K45).
        self.slots = asyncio.Semaphore(settings.max_connections)
        self._host = host
        self._port = parts.port or (443 if secure else 80)
        self._tls = ssl.create_default_context() if secure else None
        if self._tls is not None:
            self._tls.set_alpn_protocols(["http/1.1"])
        named = f"[{host}]" if ":" in host else host
        self._authority = (f"{named}:{parts.port}" if parts.port else named).encode("ascii")
        # Longest rested first; with the instant at which each began to rest.
        self._kept: deque[tuple[float, UpstreamConnection]] = deque()
        self._keep_s = KEPT_S.get(settings.kind, KEPT_OTHERWISE_S)
        self._open = 0
        self._sweeper: asyncio.TimerHandle | None = None

    async def connection(self) -> UpstreamConnection:
        """One that nobody uses and that has rested, or a new one.

        Raises:
            UpstreamFailed: the endpoint cannot be reached.
        """
        rested = asyncio.get_running_loop().time() - REST_S
        while self._kept and self._kept[0][0] <= rested:
            _, connection = self._kept.popleft()
            if connection.reusable and not connection.readable:
                return connection
            self.give_up(connection)
        if self._kept and self._open >= self.settings.max_connections:
            self.give_up(self._kept.popleft()[1])
        self._open += 1  # before it is: others who connect meanwhile count it
        connected = False
        try:
            connection = await self._connect()
            connected = True
        finally:
            if not connected:
                self._open -= 1
        return connection

    async def _connect(self) -> UpstreamConnection:
        try:
            async with asyncio.timeout(self.settings.connect_timeout_s):
                _, connection = await asyncio.get_running_loop().create_connection(
                    UpstreamConnection,
                    self._host,
                    self._port,
                    ssl=self._tls,
                    server_hostname=self._host if self._tls else None,
                )
        except (OSError, TimeoutError) as error:  # refused, unknown, bad certificate, too slow
            raise UpstreamFailed(Reason.UPSTREAM_UNREACHABLE, type(error).__name__) from None
        return connection

    def give_back(self, connection: UpstreamConnection) -> None:
        """Keep a connection whose exchange is over; close any other."""
        if not connection.reusable:
            self.give_up(connection)
            return
        connection.rest()
        loop = asyncio.get_running_loop()
        self._kept.append((loop.time(), connection))
        if self._sweeper is None:
            self._sweeper = loop.call_later(self._keep_s, self._sweep)

    def give_up(self, connection: UpstreamConnection) -> None:
        """Close a connection, whatever is under way on it."""
        self._open -= 1
        connection.close()

    def head(self, path: str, headers: Sequence[tuple[bytes, bytes]], length: int) -> bytes:
        """The head of a POST to this endpoint."""
        lines = [b"POST ", path.encode("ascii"), b" HTTP/1.1\r\nhost: ", self._authority]
        for name, value in headers:
            lines += (b"\r\n", name, b": ", value)
        lines.append(b"\r\ncontent-length: %d\r\n\r\n" % length)
        return b"".join(lines)

    def close(self) -> None:
        """Close what is kept."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        while self._kept:
            self.give_up(self._kept.pop()[1])

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while self._kept and self._kept[0][0] + self._keep_s <= loop.time():
            self.give_up(self._kept.popleft()[1])
        self._sweeper = None
        if self._kept:
            self._sweeper = loop.call_at(self._kept[0][0] + self._keep_s, self._sweep)


class Upstreams:
    """All endpoints of the settings.

    Args:
        upstreams: by endpoint id; ``keys`` holds the key of each that has one.
    """

    def __init__(self, upstreams: Mapping[str, Upstream], keys: Mapping[str, str]) -> None:
        self._endpoints = {name: _Endpoint(upstream) for name, upstream in upstreams.items()}
        self._keys = keys

    def close(self) -> None:
        """Close the connections that nobody uses; the others close with their exchange."""
        for endpoint in self._endpoints.values():
            endpoint.close()

    def key(self, endpoint: str) -> str:
        """The provider key of an endpoint; empty where it has none."""
        return self._keys.get(endpoint, "")

    def __contains__(self, endpoint: str) -> bool:
        return endpoint in self._endpoints

    def configured_headers(self, endpoint: str) -> Mapping[str, str]:
        """Headers that every call to an endpoint bears: the provider's account selectors."""
        return self._endpoints[endpoint].settings.headers

    def slot(self, endpoint: str) -> asyncio.Semaphore:
        """A place among an endpoint's connections: to be entered before ``forward``, so that a
        caller who gives up while he waits for it has sent nothing."""
        return self._endpoints[endpoint].slots

    async def forward(
        self, permit: Permit, headers: Sequence[tuple[bytes, bytes]]
    ) -> UpstreamResponse:
        """Send the permit's body to the permit's target, once.

        Returns:
            The answer, once it has begun; to be used as a context.

        Raises:
            UpstreamFailed: no answer began.
        """
        endpoint = self._endpoints[permit.target.endpoint]
        head = endpoint.head(permit.target.path, headers, len(permit.body))
        connection = await endpoint.connection()
        answered = False
        try:
            await connection.ask(head, permit.body, endpoint.settings.response_timeout_s)
            answered = True
        finally:
            # Whoever is cancelled here has no response to leave, even if its answer has just begun.
            if not answered:
                endpoint.give_up(connection)
        return UpstreamResponse(endpoint, connection)
