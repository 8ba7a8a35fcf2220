"""Time that never runs backwards, and says when it should not be trusted.

Expiries use time that only moves forward, so a clock set back cannot revive what has expired.
Waves open only while the clock is ``ok``: after a jump against the monotonic clock it is
``unsure`` until it has run true for a minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Literal

from gateway.core.facts import Calendar

__all__ = ["MOMENTS", "Clock", "parse_rfc3339_ns", "parse_timestamp", "rfc3339_ns", "timestamp"]

ClockState = Literal["ok", "unsure"]
JUMP_S = 2.0
"""A difference between wall and monotonic clock that NTP slewing does not make at once."""
SETTLE_S = 60.0
"""How long a clock must run true after a jump."""


def timestamp(seconds: float) -> str:
    """Unix seconds as ``YYYY-MM-DDTHH:MM:SSZ``, rounded down."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(seconds)))


def parse_timestamp(text: str) -> int:
    """The Unix seconds of a ``facts.Timestamp``.

    Raises:
        ValueError: the text is not of that form.
    """
    return int(datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp())


MOMENTS: Final = range(int(datetime(2262, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000_000)
"""Nanoseconds since the epoch, from 1970 until 2262: what 63 bits hold and can be told as a date.
Times that people or other systems give are held against it."""


def rfc3339_ns(ns: int) -> str:
    """Unix nanoseconds as RFC 3339 with nine digits, as records carry them."""
    seconds, fraction = divmod(ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z"


def parse_rfc3339_ns(text: str) -> int:
    """The Unix nanoseconds of a record's time, as ``rfc3339_ns`` writes it.

    Raises:
        ValueError: the text is not of that form.
    """
    return parse_timestamp(f"{text[:19]}Z") * 1_000_000_000 + int(text[20:29])


class Clock:
    """Wall time for decisions.

    Args:
        wall: Unix seconds; the monotonic source is in seconds too. Both are injectable so that
            jumps can be tested.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._offset = wall() - monotonic()
        self._latest = wall()
        self._unsure_until = float("-inf")
        self._second = -1
        self._stamp = ""
        self._calendar = Calendar(weekday=1, hour=0)

    def now(self) -> float:
        """Unix seconds, never less than any earlier answer."""
        wall, monotonic = self._wall(), self._monotonic()
        offset = wall - monotonic
        if not -JUMP_S <= offset - self._offset <= JUMP_S:
            self._unsure_until = monotonic + SETTLE_S
        self._offset = offset
        self._latest = max(self._latest, wall)
        return self._latest

    @property
    def state(self) -> ClockState:
        """``unsure`` for a minute after a jump, and while time stands still after a step back."""
        if self._monotonic() < self._unsure_until or self._wall() < self._latest - JUMP_S:
            return "unsure"
        return "ok"

    def reading(self) -> tuple[str, Calendar]:
        """The current ``facts.Timestamp`` and ISO calendar; made once a second."""
        second = int(self.now())
        if second != self._second:
            moment = datetime.fromtimestamp(second, UTC)
            self._stamp = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
            self._calendar = Calendar(weekday=moment.isoweekday(), hour=moment.hour)
            self._second = second
        return self._stamp, self._calendar
