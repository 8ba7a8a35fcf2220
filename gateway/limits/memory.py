"""The limiter of one process. More than one data worker needs ``redis.RedisLimiter``.

Guarantees: a reservation takes from every limit or from none (nothing here awaits, so nothing
runs in between); it is settled once, later settlements change nothing; memory is bounded by the
buckets that are not full: whoever adds a bucket looks at two old ones, and drops those that are.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from gateway.core.decision import LimitSpec
from gateway.core.protocols import LimiterUnavailable
from gateway.core.refusal import LimitState
from gateway.limits.claims import RESERVATION_TTL_S, Claim, claims_of
from gateway.limits.gcra import SECOND_NS, bucket_state, correct, stream_state

__all__ = ["MemoryLimiter"]

_INSPECTED_FOR_NEW = 2
_INSPECTED_WHEN_FULL = 100


class MemoryLimiter:
    """A ``core.protocols.Limiter`` over two dictionaries.

    Args:
        ttl_s: how long a reservation lives without ``renew``.
        max_buckets: buckets in use at once, beyond which calls are refused as unavailable.
        clock_ns: monotonic nanoseconds.
    """

    def __init__(
        self,
        *,
        ttl_s: int = RESERVATION_TTL_S,
        max_buckets: int = 200_000,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._ttl_ns = ttl_s * SECOND_NS
        self._max_buckets = max_buckets
        self._clock_ns = clock_ns
        self._tats: dict[str, int] = {}
        self._leases: dict[str, dict[object, int]] = {}
        self._known: deque[str] = deque()  # every key of both, once, in the order of inspection

    def __len__(self) -> int:
        """Buckets held in memory."""
        return len(self._known)

    async def reserve(
        self,
        limits: Sequence[LimitSpec],
        owners: Mapping[str, str],
        amounts: Mapping[str, int],
    ) -> MemoryReservation | tuple[LimitState, ...]:
        """See ``core.protocols.Limiter``.

        Raises:
            LimiterUnavailable: ``max_buckets`` are in use.
        """
        now = self._clock_ns()
        claims = claims_of(limits, owners, amounts)
        # What each bucket holds after this call; a limit that refuses ends it for all.
        after = [self._taken(claim, now) for claim in claims]
        if None in after:
            return tuple([self._state(claim, now, refused=claim.cost) for claim in claims])
        if not self._has_room(claims):
            self._forget(now, _INSPECTED_WHEN_FULL)
        if not self._has_room(claims):
            raise LimiterUnavailable("too many buckets are in use")
        reservation = MemoryReservation(self, claims)
        reservation.expires_ns = now + self._ttl_ns
        states = []
        for claim, level in zip(claims, after, strict=True):
            assert level is not None
            if claim.is_stream:
                self._lease(claim, reservation, now)
                states.append(stream_state(claim.spec, level))
            else:
                if claim.cost:
                    self._know(claim.key, now)
                    self._tats[claim.key] = level
                states.append(bucket_state(claim.spec, claim.bucket, level, now))
        reservation.states = tuple(states)
        return reservation

    def settle(self, reservation: MemoryReservation, used: Mapping[str, int]) -> None:
        """Correct and give back, if the reservation has not expired."""
        now = self._clock_ns()
        for claim in reservation.claims:
            if claim.is_stream:
                self._leases.get(claim.key, {}).pop(reservation, None)
            elif now < reservation.expires_ns and (units := claim.correction(used)):
                self._write(claim.key, self._tats.get(claim.key, now), now, claim, units)

    def renew(self, reservation: MemoryReservation) -> None:
        """Let the reservation live for another ``ttl_s``, even one that has lapsed: it runs."""
        now = self._clock_ns()
        reservation.expires_ns = now + self._ttl_ns
        for claim in reservation.claims:
            if claim.is_stream:
                self._lease(claim, reservation, now)

    def _taken(self, claim: Claim, now: int) -> int | None:
        """The bucket's TAT, or the number of running streams, with this claim; ``None``: no."""
        if claim.is_stream:
            running = self._running(claim.key, now) + claim.cost
            return running if running <= claim.spec.burst or not claim.cost else None
        return claim.bucket.take(self._tats.get(claim.key, now), now, claim.cost)

    def _state(self, claim: Claim, now: int, refused: int = 0) -> LimitState:
        if claim.is_stream:
            running = self._running(claim.key, now)
            return stream_state(claim.spec, running, wanted=refused > 0)
        return bucket_state(claim.spec, claim.bucket, self._tats.get(claim.key, now), now, refused)

    def _write(self, key: str, tat: int, now: int, claim: Claim, units: int) -> None:
        self._know(key, now)
        self._tats[key] = correct(claim.bucket, tat, now, units)

    def _lease(self, claim: Claim, reservation: MemoryReservation, now: int) -> None:
        if claim.cost:
            self._know(claim.key, now)
            leases = self._leases.setdefault(claim.key, {})
            leases.pop(reservation, None)  # to the end: they stay in the order of their expiry
            leases[reservation] = now + self._ttl_ns

    def _running(self, key: str, now: int) -> int:
        leases = self._leases.get(key)
        if not leases:
            return 0
        while leases and next(iter(leases.values())) <= now:
            del leases[next(iter(leases))]
        return len(leases)

    def _has_room(self, claims: Sequence[Claim]) -> bool:
        room = self._max_buckets - len(self._known)
        return len(claims) <= room or sum(self._is_new(claim.key) for claim in claims) <= room

    def _is_new(self, key: str) -> bool:
        return key not in self._tats and key not in self._leases

    def _know(self, key: str, now: int) -> None:
        if self._is_new(key):
            self._forget(now, _INSPECTED_FOR_NEW)
            self._known.append(key)

    def _forget(self, now: int, inspected: int) -> None:
        for _ in range(min(inspected, len(self._known))):
            key = self._known.popleft()
            if self._tats.get(key, now) > now or (key in self._leases and self._running(key, now)):
                self._known.append(key)
            else:
                self._tats.pop(key, None)
                self._leases.pop(key, None)


class MemoryReservation:
    """A ``core.protocols.Reservation`` of a ``MemoryLimiter``."""

    __slots__ = ("_limiter", "_settled", "claims", "expires_ns", "states")

    def __init__(self, limiter: MemoryLimiter, claims: Sequence[Claim]) -> None:
        self._limiter = limiter
        self._settled = False
        self.claims = claims
        self.expires_ns = 0
        self.states: Sequence[LimitState] = ()

    async def settle(self, used: Mapping[str, int]) -> None:
        """See ``core.protocols.Reservation``."""
        if not self._settled:
            self._settled = True
            self._limiter.settle(self, used)

    async def renew(self) -> None:
        """See ``core.protocols.Reservation``."""
        if not self._settled:
            self._limiter.renew(self)
