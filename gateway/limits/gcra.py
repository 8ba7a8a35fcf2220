"""The arithmetic of limits: a generic cell rate algorithm in whole nanoseconds. Pure.

A bucket's whole state is its TAT (theoretical arrival time): the instant at which all that was
taken will have drained. ``TAT - now`` is the backlog; a bucket whose TAT has passed is full, so
nothing need be stored for it. Nothing here reads a clock or keeps state, and every result is an
integer: two stores that hold the same TAT give the same answer, remainder and wait.

Guarantees, for a bucket of ``rate`` units each ``period_s`` and ``burst``:

* what is taken and not given back is, in any window of ``t`` seconds, at most
  ``burst + rate * t / period_s`` units;
* counted from the bucket's beginning, that bound also holds with give-backs and counts only what
  was kept. Within a shorter window, what earlier reservations gave back may be taken again;
* the interval between two units is rounded up to a whole nanosecond, so the rate is never higher
  than stated (and lower by at most ``rate / period_s`` parts in 10^9);
* one call reserves at most ``burst``. What it uses beyond its reservation is charged at settlement
  as debt: the backlog then exceeds the burst and later calls wait for it. So the overshoot of a
  call is what it used less ``burst``, once, and the next call pays for it.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.core.decision import LimitSpec
from gateway.core.refusal import LimitState

__all__ = ["HORIZON_NS", "STREAM_RETRY_S", "Bucket", "bucket_state", "correct", "stream_state"]

SECOND_NS = 1_000_000_000
HORIZON_NS = 100 * 365 * 86_400 * SECOND_NS
"""No backlog is longer than a century: a burst that takes longer to refill is cut to fit, and so
is a debt. It keeps every number of the shared store within 2^53 microseconds."""

STREAM_RETRY_S = 1.0
"""The wait that is suggested where all streams are taken: one may end at any moment."""


class Bucket(NamedTuple):
    """The shape of a bucket: nanoseconds for one unit, and units at once."""

    interval_ns: int
    burst: int

    @classmethod
    def of(cls, rate: int, period_s: int, burst: int) -> Bucket:
        """A bucket of ``rate`` units each ``period_s`` seconds, ``burst`` at once."""
        interval_ns = -(-period_s * SECOND_NS // rate)
        return cls(interval_ns, min(burst, HORIZON_NS // interval_ns))

    @property
    def burst_ns(self) -> int:
        """The backlog of a bucket from which everything was taken."""
        return self.burst * self.interval_ns

    def take(self, tat: int, now: int, cost: int) -> int | None:
        """The TAT after ``cost`` units (at most ``burst``) are taken, or ``None``: they do not fit.

        Nothing always fits, even in debt: a call that takes none is not held up.
        """
        after = max(tat, now) + cost * self.interval_ns
        return after if cost == 0 or after - now <= self.burst_ns else None

    def remaining(self, tat: int, now: int) -> int:
        """Whole units that may be taken now."""
        return max(0, (self.burst_ns - max(0, tat - now)) // self.interval_ns)

    def retry_ns(self, tat: int, now: int, cost: int) -> int:
        """How long until ``cost`` units fit; 0 where they fit."""
        if cost == 0:
            return 0
        return max(0, max(tat, now) + cost * self.interval_ns - now - self.burst_ns)


def correct(bucket: Bucket, tat: int, now: int, units: int) -> int:
    """The TAT after a settlement: more was used (``units`` > 0, may become debt) or less (< 0).

    What is given back to a bucket that has drained meanwhile is lost: it was full.
    """
    after = max(tat, now) + units * bucket.interval_ns
    return min(max(after, now), now + HORIZON_NS)


def bucket_state(
    spec: LimitSpec, bucket: Bucket, tat: int, now: int, refused: int = 0
) -> LimitState:
    """What to tell about a bucket. ``refused`` are the units for which there was no room."""
    return LimitState(
        name=spec.name,
        key=spec.key,
        limit=bucket.burst,
        remaining=bucket.remaining(tat, now),
        reset_s=max(0, tat - now) / SECOND_NS,
        period_s=spec.period_s,
        rate=spec.rate,
        retry_s=bucket.retry_ns(tat, now, refused) / SECOND_NS if refused else 0.0,
    )


def stream_state(spec: LimitSpec, running: int, *, wanted: bool = False) -> LimitState:
    """What to tell about concurrent streams: ``running`` now, one more ``wanted``.

    When a stream ends nobody knows, so reset and retry are ``STREAM_RETRY_S`` where they apply.
    """
    return LimitState(
        name=spec.name,
        key=spec.key,
        limit=spec.burst,
        remaining=max(0, spec.burst - running),
        reset_s=STREAM_RETRY_S if running else 0.0,
        period_s=spec.period_s,
        rate=spec.rate,
        retry_s=STREAM_RETRY_S if wanted and running >= spec.burst else 0.0,
    )
