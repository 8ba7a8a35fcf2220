"""Where a call came from: the client's address, digested before any rule sees it.

A forwarded header counts only when the peer itself is a listed proxy, and is read from the right:
the nearest address that is no listed proxy is the client (K4). Rules get labels of the revision's
networks; the record gets a keyed hash.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable, Mapping, Sequence

from gateway.core.facts import Network

__all__ = ["KeyedHashes", "NetworkLabels", "client_address"]

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
MAX_CACHED = 16_384
COUNTRY_PREFIX = "country."
"""A network label of this prefix names a country: ``country.de`` holds Germany's addresses."""


def client_address(
    peer: str, headers: Iterable[tuple[bytes, bytes]], trusted: Sequence[IpNetwork]
) -> str:
    """The client's address as text.

    Args:
        peer: the address at the other end of the connection.
        headers: lower-case names and values as received.
        trusted: the listed proxies; none by default, and then ``peer`` is the answer.
    """
    if not trusted or not _within(peer, trusted):
        return peer
    hops: list[str] = []
    for name, value in headers:
        if name == b"x-forwarded-for":
            hops += [hop.strip() for hop in value.decode("latin-1").split(",")]
    for hop in reversed(hops):
        try:
            ipaddress.ip_address(hop)
        except ValueError:
            return peer  # what a trusted proxy cannot spell is no address
        if not _within(hop, trusted):
            return hop
    return peer


def _within(address: str, networks: Sequence[IpNetwork]) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed.version == network.version and parsed in network for network in networks)


class KeyedHashes:
    """Keyed hashes of addresses and names: linkable inside one key epoch, readable by nobody.

    Args:
        key: at least 16 secret bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._digests: dict[str, str] = {}

    def digest(self, address: str) -> str:
        """``hmac:1:`` and 24 hex digits for an IPv4 address or an IPv6 /64."""
        found = self._digests.get(address)
        if found is None:
            if len(self._digests) >= MAX_CACHED:
                self._digests.clear()
            found = self._digests[address] = self._digest(address)
        return found

    def _digest(self, address: str) -> str:
        try:
            parsed = ipaddress.ip_address(address)
            packed = parsed.packed if parsed.version == 4 else parsed.packed[:8]  # noqa: PLR2004
        except ValueError:
            packed = b""
        return self._hash(b"address\0" + packed)

    def pseudonym(self, text: str) -> str:
        """The same for a text, such as a member's id or a model name that nobody knows."""
        return self._hash(b"text\0" + text.encode("utf-8", "surrogatepass"))

    def _hash(self, data: bytes) -> str:
        return "hmac:1:" + hmac.digest(self._key, data, hashlib.sha256).hex()[:24]


class NetworkLabels:
    """Which listed networks hold an address; compiled once a revision."""

    def __init__(self, networks: Mapping[str, Sequence[str]]) -> None:
        self._networks = [
            (label, ipaddress.ip_network(cidr, strict=False))
            for label, cidrs in networks.items()
            for cidr in cidrs
        ]
        self._cache: dict[str, Network] = {}

    def of(self, address: str) -> Network:
        """The facts about an address; country ``ZZ`` where no label names one."""
        found = self._cache.get(address)
        if found is None:
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            found = self._cache[address] = self._compute(address)
        return found

    def _compute(self, address: str) -> Network:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return Network(labels=(), country="ZZ")
        labels = sorted(
            {
                label
                for label, network in self._networks
                if network.version == parsed.version and parsed in network
            }
        )
        countries = [label for label in labels if label.startswith(COUNTRY_PREFIX)]
        country = countries[0].removeprefix(COUNTRY_PREFIX).upper() if countries else "ZZ"
        return Network(labels=tuple(labels), country=country)
