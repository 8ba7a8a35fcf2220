"""A circuit breaker, so that an outage of the store does not cost every call its deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Breaker"]


class Breaker:
    """Opens after ``threshold`` failures in a row; then lets one call through each ``cooldown_s``.

    Args:
        clock: monotonic seconds.
    """

    def __init__(
        self,
        threshold: int = 3,
        cooldown_s: float = 0.25,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._threshold = threshold
        self._cooldown_s = cooldown_s
        self._clock = clock
        self._failures = 0
        self._probe_at = 0.0

    @property
    def closed(self) -> bool:
        """True while calls pass."""
        return self._failures < self._threshold

    def allow(self) -> bool:
        """Whether this call may be made; while open, ``True`` makes the caller the probe."""
        if self.closed:
            return True
        now = self._clock()
        if now < self._probe_at:
            return False
        self._probe_at = now + self._cooldown_s
        return True

    def success(self) -> None:
        """The store answered."""
        self._failures = 0

    def failure(self) -> None:
        """The store did not answer, or not as it should."""
        self._failures += 1
        self._probe_at = self._clock() + self._cooldown_s
