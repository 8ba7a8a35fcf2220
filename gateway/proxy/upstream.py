"""The upstream leg: takes a ``Permit`` and nothing else, and sends to where its key belongs.

Settings bind a provider key to one scheme, host and port; the permit names an endpoint of the
settings and a path that was built from a template. Redirects are not followed, the environment's
proxies not used, answers not decompressed. A cancelled or failed exchange closes its connection,
so the upstream sees it at once. Foreign exceptions become ``UpstreamFailed`` here and nowhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import aiohttp
from msgspec import Struct
from multidict import CIMultiDict
from yarl import URL

from gateway.core.permit import Permit
from gateway.core.reasons import Reason
from gateway.settings import Upstream

__all__ = ["UpstreamFailed", "UpstreamResponse", "Upstreams"]

READ_BUFFER_BYTES = 64 * 1024


class UpstreamFailed(Exception):
    """The endpoint could not be reached, kept us waiting, or broke off."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class UpstreamResponse(Struct, frozen=True):
    """Status and headers of an answer, and its bytes as they come."""

    status: int
    headers: list[tuple[bytes, bytes]]
    _response: aiohttp.ClientResponse
    _idle_timeout_s: float

    @property
    def content_type(self) -> str:
        """The media type, lower case, without parameters."""
        return self._response.content_type

    @property
    def encoded(self) -> bool:
        """Whether the bytes are compressed or otherwise not what they say."""
        return self._response.headers.get("content-encoding", "identity").lower() != "identity"

    @property
    def content_length(self) -> int | None:
        """The length that the endpoint announced, in bytes."""
        return self._response.content_length

    @property
    def request_id(self) -> str:
        """The endpoint's own id of this call, for reconciliation; empty if it gave none."""
        headers = self._response.headers
        return (headers.get("request-id") or headers.get("x-request-id") or "")[:128]

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The answer's bytes, chunk for chunk, with back-pressure.

        Raises:
            UpstreamFailed: the answer broke off, or nothing came for the idle timeout.
        """
        content = self._response.content
        patience = _Patience(self._idle_timeout_s, self._response.close)
        try:
            while True:
                data = content.read_nowait(READ_BUFFER_BYTES)
                if not data and not content.at_eof():
                    with patience:
                        data = await content.read(READ_BUFFER_BYTES)
                if not data:
                    return
                yield data
        except (aiohttp.ClientError, OSError) as error:
            if patience.lost:
                raise UpstreamFailed(Reason.UPSTREAM_TIMEOUT, "idle for too long") from None
            raise UpstreamFailed(Reason.UPSTREAM_TRUNCATED, type(error).__name__) from None
        finally:
            patience.end()


class _Patience:
    """Bounds each of many waits with one timer, which is set anew only when it goes off: a timer
    for each chunk would be a tenth of what a chunk costs.

    Args:
        limit_s: how long one wait may last.
        lose: called once when a wait has lasted too long.
    """

    def __init__(self, limit_s: float, lose: Callable[[], None]) -> None:
        self.lost = False
        self._limit_s, self._lose = limit_s, lose
        self._loop = asyncio.get_running_loop()
        self._since: float | None = None
        self._timer = self._loop.call_later(limit_s, self._look)

    def __enter__(self) -> None:
        self._since = self._loop.time()

    def __exit__(self, *_: object) -> None:
        self._since = None

    def _look(self) -> None:
        now = self._loop.time()
        over_at = (now if self._since is None else self._since) + self._limit_s
        if over_at > now:
            self._timer = self._loop.call_at(over_at, self._look)
        else:
            self.lost = True
            self._lose()

    def end(self) -> None:
        """The last wait is over."""
        self._timer.cancel()


class Upstreams:
    """All endpoints of the settings, each with its pool.

    Args:
        upstreams: by endpoint id; ``keys`` holds the key of each that has one.
    """

    def __init__(self, upstreams: Mapping[str, Upstream], keys: Mapping[str, str]) -> None:
        self._upstreams = upstreams
        self._keys = keys
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        # Concurrency is bounded above the pool: a cancelled waiter inside one is how pools lose
        # slots (K45).
        self._slots = {
            name: asyncio.Semaphore(upstream.max_connections)
            for name, upstream in upstreams.items()
        }

    async def start(self) -> None:
        """Open the sessions; belongs to the running loop."""
        for name, upstream in self._upstreams.items():
            self._sessions[name] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=upstream.max_connections, keepalive_timeout=15, ttl_dns_cache=30
                ),
                timeout=aiohttp.ClientTimeout(
                    total=None, connect=None, sock_connect=upstream.connect_timeout_s
                ),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                read_bufsize=READ_BUFFER_BYTES,
            )

    async def close(self) -> None:
        """Close every connection."""
        for session in self._sessions.values():
            await session.close()

    def key(self, endpoint: str) -> str:
        """The provider key of an endpoint; empty where it has none."""
        return self._keys.get(endpoint, "")

    def __contains__(self, endpoint: str) -> bool:
        return endpoint in self._upstreams

    def configured_headers(self, endpoint: str) -> Mapping[str, str]:
        """Headers that every call to an endpoint bears: the provider's account selectors."""
        return self._upstreams[endpoint].headers

    def slot(self, endpoint: str) -> asyncio.Semaphore:
        """A place among an endpoint's connections: to be entered before ``forward``, so that a
        caller who gives up while he waits for it has sent nothing."""
        return self._slots[endpoint]

    @asynccontextmanager
    async def forward(
        self, permit: Permit, headers: Sequence[tuple[bytes, bytes]]
    ) -> AsyncIterator[UpstreamResponse]:
        """Send the permit's body to the permit's target, once; a POST is never retried.

        Raises:
            UpstreamFailed: no answer began.
        """
        upstream = self._upstreams[permit.target.endpoint]
        url = URL(upstream.origin + permit.target.path, encoded=True)
        session = self._sessions[permit.target.endpoint]
        response = await self._send(session, url, permit.body, headers, upstream)
        try:
            yield UpstreamResponse(
                status=response.status,
                headers=list(response.raw_headers),
                _response=response,
                _idle_timeout_s=upstream.idle_timeout_s,
            )
        finally:
            # Back to the pool only when the answer was read to its end.
            if response.content.at_eof():
                response.release()
            else:
                response.close()

    async def _send(
        self,
        session: aiohttp.ClientSession,
        url: URL,
        body: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        upstream: Upstream,
    ) -> aiohttp.ClientResponse:
        sent = CIMultiDict((name.decode(), value.decode("latin-1")) for name, value in headers)
        try:
            async with asyncio.timeout(upstream.response_timeout_s):
                return await session.post(url, data=body, headers=sent, allow_redirects=False)
        except TimeoutError:
            raise UpstreamFailed(Reason.UPSTREAM_TIMEOUT, "no answer began in time") from None
        except (aiohttp.ClientConnectorError, ConnectionRefusedError) as error:
            raise UpstreamFailed(Reason.UPSTREAM_UNREACHABLE, type(error).__name__) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise UpstreamFailed(Reason.UPSTREAM_PROTOCOL, type(error).__name__) from None
