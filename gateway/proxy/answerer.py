"""The gateway's own words to a client: refusals, cuts, model lists, probes, and its headers.

``wire`` knows how each dialect says it; this sends it. After an answer began, a stream is ended
with the protocol's own error event, between two events; a whole answer can only be reset.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from gateway.core.clock import Clock
from gateway.core.decision import Effect
from gateway.core.reasons import Reason
from gateway.core.refusal import Refusal
from gateway.proxy.exchange import Exchange, Headers, Step
from gateway.telemetry.timing import server_timing
from gateway.wire.cuts import cut_events
from gateway.wire.dialects import Dialect
from gateway.wire.errors import Answer, answer
from gateway.wire.rate_headers import rate_headers

__all__ = ["Answerer"]

DRAIN_S = 1.0
"""How long a client may take to accept the end of a cut stream before its connection is reset."""
HTTP_OK = 200


class Answerer:
    """Answers on the gateway's own behalf.

    Args:
        clock: for reset times.
        denial_status: statuses of policy denials that the operator set, by dialect.
        appeal: whom a refused caller may turn to.
        stall_timeout_s: how long a client may take nothing.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        denial_status: Mapping[Dialect, int],
        appeal: str,
        stall_timeout_s: float,
    ) -> None:
        self._clock = clock
        self._denial_status = denial_status
        self._appeal = appeal
        self._stall_timeout_s = stall_timeout_s

    def headers_of(self, exchange: Exchange) -> Headers:
        """The gateway's headers on an answer that it relays."""
        anthropic = exchange.dialect is Dialect.ANTHROPIC
        headers = [
            (b"request-id" if anthropic else b"x-request-id", exchange.request_id.encode()),
            (b"server-timing", server_timing(exchange.steps.items()).encode()),
        ]
        if exchange.decision_id:
            headers.append((b"x-sluicegate-decision-id", exchange.decision_id.encode()))
        judged = exchange.reached >= Step.DECIDE
        if judged and exchange.judgement.decision.effect is Effect.DOWNGRADE:
            headers.append((b"x-sluicegate-effect", b"downgrade"))
            headers.append((b"x-sluicegate-requested-model", exchange.requested.encode()))
            headers.append((b"x-sluicegate-served-model", exchange.entry.id.encode()))
        if exchange.reservation is not None:
            headers += rate_headers(
                exchange.dialect, exchange.reservation.states, self._clock.now()
            )
        return headers

    def status_of(self, exchange: Exchange, refusal: Refusal) -> int:
        """The status with which a refusal is going to be answered."""
        return self._answer(exchange, refusal).status

    async def refuse(self, exchange: Exchange, refusal: Refusal) -> None:
        """Answer with a refusal."""
        told = self._answer(exchange, refusal)
        await self._send(exchange, told.status, told.headers, told.body)

    async def document(self, exchange: Exchange, body: bytes) -> None:
        """Answer with a JSON document of our own."""
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            *self.headers_of(exchange),
        ]
        await self._send(exchange, HTTP_OK, headers, body)

    async def health(self, exchange: Exchange) -> None:
        """Answer a client's reachability probe: an empty 200."""
        await self._send(exchange, HTTP_OK, [(b"content-length", b"0")], b"")

    async def cut(self, exchange: Exchange, refusal: Refusal) -> None:
        """End an answer that has begun so that the client's SDK raises (invariant 5)."""
        answer_ = exchange.answer
        if answer_.complete or refusal.reason in (Reason.CLIENT_GONE, Reason.CLIENT_STALLED):
            exchange.channel.abort()
            return
        reader = exchange.reader
        if not answer_.streamed or reader is None or reader.mid_event:
            exchange.channel.abort()
            return
        ending = cut_events(
            exchange.dialect,
            refusal,
            exchange.request_id,
            response_id=reader.facts.upstream_id,
            model=reader.facts.served_model,
            sequence=reader.next_sequence,
        )
        try:
            async with asyncio.timeout(DRAIN_S):
                await exchange.channel.write(ending, more=True)
                await exchange.channel.write(b"", more=False)
        except TimeoutError:
            exchange.channel.abort()
        answer_.took(ending)

    def _answer(self, exchange: Exchange, refusal: Refusal) -> Answer:
        return answer(
            exchange.dialect,
            refusal,
            exchange.request_id,
            now=self._clock.now(),
            denial_status=self._denial_status,
            appeal=self._appeal,
        )

    async def _send(self, exchange: Exchange, status: int, headers: Headers, body: bytes) -> None:
        exchange.answer.status = status
        exchange.answer.bytes += len(body)
        exchange.answer.complete = True
        try:
            async with asyncio.timeout(self._stall_timeout_s):
                await exchange.channel.start(status, headers, at_once=False)
                await exchange.channel.write(body, more=False)
        except TimeoutError:
            exchange.channel.abort()
