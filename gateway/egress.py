"""The one client for what the gateway fetches on its own account (invariant 7).

Key sets of issuers and what exporters send go through here; model calls do not. The URL is an
operator's; nothing redirects it; the name is resolved once and the connection is made to the
addresses that were checked, so a name that changes its mind between check and use gains nothing.
Addresses that are not public are refused unless the operator listed their network. Proxy
variables, cookies and ``netrc`` are ignored.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

import aiohttp
import yarl
from aiohttp.abc import AbstractResolver, ResolveResult

from gateway.core.protocols import FetchFailed

__all__ = ["Answer", "Egress", "EgressFailed", "EgressRefused"]

TIMEOUT_S = 5.0
"""For the whole exchange: resolution, connection, answer."""
MAX_BYTES = 256 * 1024
_CONNECTIONS = 8

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Lookup = Callable[[str, int], Awaitable[list[str]]]
"""Addresses of a host and port, as texts; raises ``OSError``."""

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_UNICAST = ipaddress.IPv6Network("2000::/3")
"""All of IPv6 that is assigned to the public (RFC 4291, section 2.4; IANA)."""
_METADATA = ipaddress.ip_address("168.63.129.16")
"""A cloud's host agent that answers on a public address."""


class EgressRefused(FetchFailed):
    """The URL or an address behind it is not one that we may talk to."""


class EgressFailed(FetchFailed):
    """The other side did not answer in time, in size, or with 200."""


class Answer(NamedTuple):
    """What the other side said; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Egress:
    """Fetches documents over HTTPS.

    Args:
        allowed_networks: CIDRs that are not public and yet allowed. ``http`` is possible only to
            a loopback address, written as such, in one of these.
        timeout_s: seconds for a whole exchange.
        tls: certificates to trust; the system's by default.
        lookup: name resolution; injectable for tests.

    Raises:
        ValueError: a network is not a CIDR.
    """

    def __init__(
        self,
        allowed_networks: Sequence[str] = (),
        *,
        timeout_s: float = TIMEOUT_S,
        tls: ssl.SSLContext | None = None,
        lookup: Lookup | None = None,
    ) -> None:
        self._allowed = tuple(ipaddress.ip_network(cidr) for cidr in allowed_networks)
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._tls: ssl.SSLContext | bool = tls or True
        self._resolver = _CheckedResolver(self._allowed, lookup or _system_lookup)
        self._session: aiohttp.ClientSession | None = None

    async def get(self, url: str, *, max_bytes: int = MAX_BYTES) -> bytes:
        """The body of the document.

        Raises:
            EgressRefused: the URL is not allowed, or its host has an address that is not.
            EgressFailed: anything but a 200 of at most ``max_bytes`` in time.
        """
        answer = await self.request("GET", url, max_bytes=max_bytes)
        if answer.status != 200:  # noqa: PLR2004 - RFC 9110, 15.3.1
            raise EgressFailed(f"{self.check_url(url).host} answered {answer.status}")
        return answer.body

    async def post(self, url: str, body: bytes, *, max_bytes: int = MAX_BYTES) -> tuple[int, bytes]:
        """Status and body of the answer to a POST.

        Raises:
            EgressRefused: the URL is not allowed, or its host has an address that is not.
            EgressFailed: no answer of at most ``max_bytes`` in time.
        """
        answer = await self.request("POST", url, body, max_bytes=max_bytes)
        return answer.status, answer.body

    async def request(
        self,
        method: str,
        url: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        max_bytes: int = MAX_BYTES,
    ) -> Answer:
        """One exchange, whatever its answer says; a redirect is not followed.

        Raises:
            EgressRefused: the URL is not allowed, or its host has an address that is not.
            EgressFailed: no answer of at most ``max_bytes`` in time.
        """
        target = self.check_url(url)
        try:
            async with self._open().request(
                method, target, data=body, headers=headers, allow_redirects=False
            ) as answer:
                content = await _bounded(answer, max_bytes)
                named = {name.lower(): value for name, value in answer.headers.items()}
                return Answer(answer.status, named, content)
        except aiohttp.ClientSSLError:
            raise EgressFailed(f"{target.host} is not trusted: its certificate, or TLS") from None
        except TimeoutError:
            raise EgressFailed(f"{target.host} did not answer in time") from None
        except (aiohttp.ClientConnectorError, ConnectionError):
            raise EgressFailed(f"{target.host} cannot be reached") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # aiohttp's own base, the socket's, and what its parsers raise on a bad answer.
            raise EgressFailed(f"{target.host}: {type(error).__name__}") from None

    def check_url(self, url: str) -> yarl.URL:
        """The parsed URL, if its form is allowed; its host is not yet resolved.

        Raises:
            EgressRefused: says what is wrong with it.
        """
        try:
            target = yarl.URL(url)
            host, port = target.host, target.port
        except ValueError:
            raise EgressRefused("not a URL") from None
        if host is None or not port or target.user is not None or target.password is not None:
            raise EgressRefused("a URL here has a host, a port and no user")
        literal = _literal(host)
        if literal is not None:
            _check_address(literal, self._allowed)
        if target.scheme == "https":
            return target
        if target.scheme == "http" and literal is not None and literal.is_loopback:
            return target
        raise EgressRefused("only https; http only to a listed loopback address")

    async def addresses(self, host: str, port: int) -> list[str]:
        """The addresses of a host for what is not HTTP, each checked.

        Raises:
            EgressRefused: one of them is not allowed.
            EgressFailed: there is none.
        """
        literal = _literal(host)
        if literal is not None:
            _check_address(literal, self._allowed)
            return [str(literal)]
        try:
            return [found["host"] for found in await self._resolver.resolve(host, port)]
        except OSError:
            raise EgressFailed(f"{host} has no address") from None

    async def close(self) -> None:
        """Close idle connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        """The session, made where a loop runs."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=self._resolver,
                    use_dns_cache=False,
                    ssl=self._tls,
                    limit=_CONNECTIONS,
                    force_close=True,
                ),
                timeout=self._timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept-Encoding": "identity", "User-Agent": "sluicegate"},
                auto_decompress=False,
                trust_env=False,
            )
        return self._session


class _CheckedResolver(AbstractResolver):
    """Hands aiohttp only addresses that were checked; one bad address refuses the name."""

    def __init__(self, allowed: Sequence[Network], lookup: Lookup) -> None:
        self._allowed = allowed
        self._lookup = lookup

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002 - aiohttp's signature
    ) -> list[ResolveResult]:
        """All addresses of a host, each checked.

        Raises:
            EgressRefused: one of them is not allowed.
            OSError: there is none.
        """
        found = [ipaddress.ip_address(text) for text in await self._lookup(host, port)]
        if not found:
            raise OSError("no address")
        for address in found:
            _check_address(address, self._allowed)
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=socket.AF_INET if address.version == 4 else socket.AF_INET6,  # noqa: PLR2004
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in found
        ]

    async def close(self) -> None:
        """Nothing is held."""


async def _system_lookup(host: str, port: int) -> list[str]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]).partition("%")[0] for *_, sockaddr in found))


async def _bounded(answer: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > max_bytes:
            raise EgressFailed(f"answer larger than {max_bytes} bytes")
    return bytes(body)


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _check_address(address: Address, allowed: Sequence[Network]) -> None:
    """Refuse what is not public and not listed.

    Raises:
        EgressRefused: says which address.
    """
    meant = _embedded(address) or address
    if any(meant in network for network in allowed):
        return
    routed = meant.version == 4 or meant in _UNICAST  # noqa: PLR2004 - IP version
    if not (routed and meant.is_global) or meant.is_multicast or meant == _METADATA:
        raise EgressRefused(f"address {address} is not public and not listed")


def _embedded(address: Address) -> Address | None:
    """The IPv4 address that an IPv6 address carries to (RFC 4291, 6052, 3056, 4380)."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)
