"""Anonymous refusals, counted in bounded memory and taken as one record now and then.

A refusal without a known principal costs no durable write of its own (a flood of them would be an
attack on the log); it is counted here, by reason and by keyed hash of its source.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from gateway.audit.records import AccessRefusedSummary

__all__ = ["RefusalSummary"]

MAX_SOURCES = 4096
TOP_SOURCES = 20
MAX_REASONS = 64


class RefusalSummary:
    """Counts since the last ``take``. Used from one thread.

    Args:
        monotonic: seconds; injectable for tests.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._since = monotonic()
        self._reasons: Counter[str] = Counter()
        self._sources: Counter[str] = Counter()

    def count(self, reason: str, source: str) -> None:
        """One refusal for ``reason`` (of ``core.reasons.Reason``) from ``source``, a keyed hash.

        Sources beyond the first 4,096 of a window are counted together.
        """
        if reason not in self._reasons and len(self._reasons) >= MAX_REASONS:
            reason = "other"
        self._reasons[reason] += 1
        if source in self._sources or len(self._sources) < MAX_SOURCES:
            self._sources[source] += 1

    def take(self) -> AccessRefusedSummary | None:
        """The record of the window that ends now, and a new window; ``None`` if nothing happened.

        ``sources`` holds the 20 busiest; ``other`` counts the refusals from all the rest.
        """
        now = self._monotonic()
        window, self._since = max(1, round(now - self._since)), now
        if not self._reasons:
            return None
        top = dict(self._sources.most_common(TOP_SOURCES))
        record = AccessRefusedSummary(
            window_s=window,
            counts=dict(self._reasons),
            sources=top,
            other=self._reasons.total() - sum(top.values()),
        )
        self._reasons.clear()
        self._sources.clear()
        return record
