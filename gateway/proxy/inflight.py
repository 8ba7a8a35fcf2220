"""The exchanges that run now, and their continuous re-check (invariant 5).

Revocation, expiry, recall, stage change and rollback are one mechanism: what let an exchange in is
asked again, and anything but ``allow`` of the same model ends it. A registry change asks again for
those whom it touches, a new revision for all (restricted models first), and a decision that
reaches its ``valid_until`` for itself.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator

from gateway.core.clock import Clock
from gateway.core.refusal import Refusal
from gateway.proxy.exchange import Exchange

__all__ = ["Inflight"]

Recheck = Callable[[Exchange], Awaitable[Refusal | None]]
SLICE_S = 0.005
"""A re-check gives the loop back after so long."""


class Inflight:
    """The table. ``idle`` is set while it is empty.

    Args:
        clock: decision time.
        recheck: judges one exchange again; a refusal ends it.
    """

    def __init__(self, clock: Clock, recheck: Recheck) -> None:
        self._clock = clock
        self._recheck = recheck
        self._exchanges: dict[str, Exchange] = {}
        # By the second in which they are asked again; there are as many as a validity is long.
        self._due: dict[int, dict[str, Exchange]] = {}
        self._wake = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()

    def __len__(self) -> int:
        return len(self._exchanges)

    def __iter__(self) -> Iterator[Exchange]:
        return iter(list(self._exchanges.values()))

    def enter(self, exchange: Exchange) -> None:
        """Watch an exchange from the moment its caller is known."""
        self._exchanges[exchange.request_id] = exchange
        self.idle.clear()

    def leave(self, exchange: Exchange) -> None:
        """Forget it; it has settled."""
        self._exchanges.pop(exchange.request_id, None)
        self._unschedule(exchange)
        if not self._exchanges:
            self.idle.set()

    def schedule(self, exchange: Exchange) -> None:
        """Ask again when ``exchange.valid_until`` (Unix seconds) has come; whoever changes that
        schedules it anew."""
        self._unschedule(exchange)
        exchange.due = second = math.ceil(exchange.valid_until)
        due = self._due.get(second)
        if due is None:
            due = self._due[second] = {}
            self._wake.set()
        due[exchange.request_id] = exchange

    def _unschedule(self, exchange: Exchange) -> None:
        due = self._due.get(exchange.due)
        if due is not None:
            due.pop(exchange.request_id, None)

    async def touch(self, members: set[str], organisations: set[str]) -> int:
        """Ask again for the members and organisations that a registry change names.

        Returns:
            How many exchanges were ended.
        """
        return await self._sift(
            exchange
            for exchange in self
            if exchange.principal.member.id in members
            or exchange.principal.organisation.id in organisations
        )

    async def touch_all(self) -> int:
        """Ask again for every exchange, restricted models first."""
        return await self._sift(
            sorted(
                self,
                key=lambda exchange: not exchange.restricted,
            )
        )

    def interrupt_all(self, refusal: Refusal) -> int:
        """End every exchange, as at the end of a drain."""
        running = list(self)
        for exchange in running:
            exchange.interrupt(refusal)
        return len(running)

    async def watch(self) -> None:
        """Re-check what falls due; runs for the life of the process."""
        while True:
            self._wake.clear()
            delay = min(self._due) - self._clock.now() if self._due else None
            if delay is None or delay > 0:
                try:
                    # A second at most, so that a clock set forward is noticed in time.
                    async with asyncio.timeout(None if delay is None else min(delay, 1.0)):
                        await self._wake.wait()
                except TimeoutError:
                    pass
                continue
            now = self._clock.now()
            come = sorted(second for second in self._due if second <= now)
            await self._sift(
                [exchange for second in come for exchange in self._due.pop(second).values()]
            )

    async def _sift(self, exchanges: Iterable[Exchange]) -> int:
        ended = 0
        started = time.monotonic()
        for exchange in exchanges:
            before = exchange.valid_until
            refusal = await self._recheck(exchange)
            if exchange.request_id not in self._exchanges:
                continue
            if refusal is not None:
                exchange.interrupt(refusal)
                ended += 1
            elif exchange.valid_until != before:
                self.schedule(exchange)
            if time.monotonic() - started > SLICE_S:
                await asyncio.sleep(0)
                started = time.monotonic()
        return ended
