"""Refusals cost their sender: whoever causes too many of them gets the next answers late.

A refused call costs the gateway about what an admitted one does, and a sender with nothing to lose
asks again as fast as he is answered. So beyond a burst of refusals his answers are held for a
while; his connection is not read meanwhile, and neighbours have the time that he would have taken.
What was decided does not change.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from gateway.limits.attempts import AttemptGuard
from gateway.proxy.exchange import ClientChannel

__all__ = ["HOLD_S", "MAX_HELD", "Pace"]

HOLD_S = 1.0
"""How long an answer is held, on average: from half of it to one and a half."""
MAX_HELD = 2_000
"""Answers held at once in one worker; beyond it, connections are reset instead."""


class Pace:
    """Counts refusals of every kind, and holds the answers to those that are too many.

    Args:
        refusals: the count: by source for unknown callers, by credential for known ones.
        hold_s: how long an answer is held, in seconds, on average.
    """

    def __init__(self, refusals: AttemptGuard, *, hold_s: float = HOLD_S) -> None:
        self._refusals = refusals
        self._hold_s = hold_s
        self._held = 0
        self._spread = 0.0

    async def hold(
        self, channel: ClientChannel, source: str | None, credential: str | None
    ) -> bool:
        """Count one refusal, and wait if it is one too many.

        Args:
            channel: the client's; its ``on_lost`` is taken over.
            source: the client's address, ``None`` for a known caller.
            credential: a hash of what was presented, if anything was.

        Returns:
            Whether to answer; else the client is gone, or too many wait already.
        """
        late = self._refusals.check(source, credential) > 0
        self._refusals.count(source, credential)
        if not late:
            return True
        if self._held >= MAX_HELD:
            return False
        lost = asyncio.Event()
        channel.on_lost(lost.set)
        # Golden-ratio steps: what came together does not come back together.
        self._spread = (self._spread + 0.618) % 1
        self._held += 1
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._hold_s * (0.5 + self._spread)):
                    await lost.wait()
        finally:
            self._held -= 1
        return not lost.is_set()
