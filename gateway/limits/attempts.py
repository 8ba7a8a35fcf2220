"""Attempts: refusals are counted against those who cause them, so that denials cost their sender.

Local to the process, a few microseconds a call, and bounded in memory. A success changes nothing:
one good key does not buy guesses. What is kept is a keyed hash of an address prefix and the hash of
a presented credential, never either.

Each table holds ``max_entries``. When it is full, the entry with the smallest backlog of refusals
in the whole table makes room. So to make the guard forget an offender with a backlog of ``b``
refusals, a flood needs ``max_entries`` other sources (each its own IPv4 address or IPv6 /64), every
one with a backlog as large: ``max_entries * b`` refusals faster than they drain. A flood of
sources with one refusal each only evicts its own kind.
"""

from __future__ import annotations

import heapq
import math
import secrets
import socket
import time
from collections.abc import Callable
from hashlib import blake2b

from gateway.limits.gcra import SECOND_NS, Bucket

__all__ = ["AttemptGuard", "source_prefix"]

_MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96, an IPv4 client on an IPv6 socket (RFC 4291)


def source_prefix(source: str) -> bytes:
    """The network an address counts for: 4 bytes of IPv4, 8 of IPv6, empty for anything else."""
    try:
        if ":" not in source:
            return socket.inet_pton(socket.AF_INET, source)
        packed = socket.inet_pton(socket.AF_INET6, source.partition("%")[0])
    except (OSError, ValueError):  # ValueError: a NUL, or not ASCII
        return b""
    return packed[12:] if packed.startswith(_MAPPED) else packed[:8]


class AttemptGuard:
    """Counts 401, 403 and 404 answers by source and by presented credential.

    Args:
        source_per_minute: refusals a source may cause each minute, with ``source_burst`` at once.
        credential_per_minute: the same for one presented credential, whether or not it is known.
        max_entries: sources, and credentials, kept in memory.
        clock_ns: monotonic nanoseconds.
    """

    def __init__(
        self,
        *,
        source_per_minute: int = 60,
        source_burst: int = 120,
        credential_per_minute: int = 30,
        credential_burst: int = 60,
        max_entries: int = 32_768,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._key = secrets.token_bytes(16)
        self._clock_ns = clock_ns
        self._sources = _Counts(Bucket.of(source_per_minute, 60, source_burst), max_entries)
        self._credentials = _Counts(
            Bucket.of(credential_per_minute, 60, credential_burst), max_entries
        )

    def check(self, source: str | None, credential_hash: str | bytes | None = None) -> int:
        """Whole seconds until another attempt is heard, at least 1; 0: it is heard now.

        Args:
            source: the client's address as text; all that are no address count as one source.
                ``None`` asks about the credential alone: a known caller is not made to wait for
                what others did from behind his address.
            credential_hash: a hash of the presented credential, ``None`` where none was.
        """
        now = self._clock_ns()
        wait_ns = 0
        if source is not None:
            wait_ns = self._sources.retry_ns(self._digest(source), now)
        if credential_hash is not None:
            wait_ns = max(wait_ns, self._credentials.retry_ns(credential_hash, now))
        return math.ceil(wait_ns / SECOND_NS)

    def count(self, source: str | None, credential_hash: str | bytes | None = None) -> None:
        """One refusal was answered; arguments as for ``check``."""
        now = self._clock_ns()
        if source is not None:
            self._sources.add(self._digest(source), now)
        if credential_hash is not None:
            self._credentials.add(credential_hash, now)

    def __len__(self) -> int:
        """Entries held in memory."""
        return len(self._sources) + len(self._credentials)

    def _digest(self, source: str) -> bytes:
        return blake2b(source_prefix(source), digest_size=12, key=self._key).digest()


class _Counts:
    """TATs by key. The heap has one entry a key, whose TAT may be older (so smaller) than true."""

    def __init__(self, bucket: Bucket, max_entries: int) -> None:
        self._bucket = bucket
        self._max_entries = max_entries
        self._tats: dict[str | bytes, int] = {}
        self._heap: list[tuple[int, int, str | bytes]] = []
        self._serial = 0  # keeps keys of two types from being compared

    def __len__(self) -> int:
        return len(self._tats)

    def retry_ns(self, key: str | bytes, now: int) -> int:
        """How long until one more fits."""
        return self._bucket.retry_ns(self._tats.get(key, now), now, 1)

    def add(self, key: str | bytes, now: int) -> None:
        """Count one, beyond the burst as well: calls already under way are counted in full."""
        tat = self._tats.get(key)
        if tat is None:
            self._make_room(now)
            tat = now
            self._serial += 1
            heapq.heappush(self._heap, (now, self._serial, key))
        self._tats[key] = max(tat, now) + self._bucket.interval_ns

    def _make_room(self, now: int) -> None:
        """Drop entries that have drained (two at most), and the smallest if the table is full."""
        for _ in range(2):
            full = len(self._tats) >= self._max_entries
            smallest = self._smallest()
            if smallest is None or (self._tats[smallest] > now and not full):
                return
            heapq.heappop(self._heap)
            del self._tats[smallest]

    def _smallest(self) -> str | bytes | None:
        """The key with the smallest TAT. Each entry set right here was counted since: amortised."""
        while self._heap:
            tat, serial, key = self._heap[0]
            true = self._tats[key]
            if true == tat:
                return key
            heapq.heapreplace(self._heap, (true, serial, key))
        return None
