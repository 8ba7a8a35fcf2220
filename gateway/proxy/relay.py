"""Step 7: the answer's bytes, chunk for chunk, in the order and with the timing they came.

The end of an answer waits for its outcome record: of a stream the terminal event, of a whole
answer its last piece. A stream that stops without its terminal event is never ended cleanly.
A client that takes nothing is ended after the stall timeout; what it costs until then is one
write buffer and one chunk.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext

from gateway.core.protocols import LogUnavailable
from gateway.core.reasons import Reason
from gateway.core.refusal import Refused
from gateway.proxy import refusals
from gateway.proxy.exchange import Exchange, Headers
from gateway.proxy.upstream import UpstreamFailed, UpstreamResponse
from gateway.wire import headers
from gateway.wire.answers import AnswerFacts, read_answer
from gateway.wire.framing import BODILESS
from gateway.wire.sse import StreamReader

__all__ = ["Relay"]

RecordOutcome = Callable[[Exchange], Awaitable[None]]

READ_USAGE_BYTES = 4 * 1024 * 1024
"""A whole answer larger than this passes, but its usage is not read."""
REFUSAL_BYTES = 64 * 1024
"""How much of a 401 or 403 answer is read to tell whose key it is about."""
TRAILING_S = 1.0
"""How long an upstream may take to close after its terminal event, to keep its connection."""
USAGE_EDIT = "stream_options.include_usage"
CONTENT_POLICY_CODES = frozenset(
    {"cyber_policy", "bio_policy", "misalignment_policy_violation", "invalid_prompt"}
)
"""Error codes of a provider's 403 that speak of the request, not of our account."""
HTTP_UNAUTHORIZED = 401
HTTP_FORBIDDEN = 403
HTTP_REDIRECTION = 300
HTTP_ERROR = 400

_NO_WAIT = nullcontext()


class Relay:
    """Passes answers on.

    Args:
        stall_timeout_s: how long a client may take nothing.
        answer_headers: the gateway's own headers for an exchange.
    """

    def __init__(
        self, *, stall_timeout_s: float, answer_headers: Callable[[Exchange], Headers]
    ) -> None:
        self._stall_timeout_s = stall_timeout_s
        self._answer_headers = answer_headers

    async def answer(
        self, exchange: Exchange, response: UpstreamResponse, record_outcome: RecordOutcome
    ) -> None:
        """Relay one answer to its end.

        Raises:
            Refused: the endpoint refused our key; the client stalled; the log failed.
            UpstreamFailed: the answer broke off.
        """
        if response.status in (HTTP_UNAUTHORIZED, HTTP_FORBIDDEN):
            await self._refused_by_endpoint(exchange, response, record_outcome)
            return
        if response.encoded:
            raise UpstreamFailed(Reason.UPSTREAM_PROTOCOL, "encoded, though not asked to be")
        if HTTP_REDIRECTION <= response.status < HTTP_ERROR:
            # An SDK would follow, and its credential with it.
            raise UpstreamFailed(Reason.UPSTREAM_PROTOCOL, "redirects are not passed on")
        streamed = response.content_type == b"text/event-stream"
        exchange.answer.streamed = streamed and response.status < HTTP_ERROR
        if exchange.answer.streamed:
            await self._stream(exchange, response, record_outcome)
        else:
            await self._whole(exchange, response, record_outcome)

    async def _stream(
        self,
        exchange: Exchange,
        response: UpstreamResponse,
        record_outcome: RecordOutcome,
    ) -> None:
        reader = StreamReader(exchange.wire, strip_usage_chunk=USAGE_EDIT in exchange.edits)
        exchange.reader = reader
        await self._start(exchange, response, length=False)
        try:
            while chunk := await response.read():
                relayed = reader.feed(chunk)
                if relayed.forward:
                    await self._write(exchange, relayed.forward)
                if reader.terminal_seen:
                    await self._end(exchange, relayed.terminal, record_outcome, more=True)
                    await self._trailing(exchange, response)
                    return
            left = reader.finish()
            if not reader.ended:
                raise UpstreamFailed(Reason.UPSTREAM_TRUNCATED, "no terminal event")
            await self._end(exchange, left, record_outcome, more=True)
            await self._close(exchange)
        finally:
            self._note(exchange, reader.facts)

    async def _trailing(self, exchange: Exchange, response: UpstreamResponse) -> None:
        """After the terminal event: what else comes in a moment, then the end."""
        try:
            async with asyncio.timeout(TRAILING_S):
                while chunk := await response.read():
                    await self._write(exchange, chunk)
        except (TimeoutError, UpstreamFailed):
            pass  # the answer is complete; only the connection is not kept
        await self._close(exchange)

    async def _whole(
        self,
        exchange: Exchange,
        response: UpstreamResponse,
        record_outcome: RecordOutcome,
    ) -> None:
        held = b""
        kept = bytearray()
        started = False
        while chunk := await response.read():
            if len(kept) <= READ_USAGE_BYTES:
                kept += chunk
            if held:
                if not started:
                    await self._start(exchange, response, length=True)
                    started = True
                await self._write(exchange, held)
            held = chunk
        self._read_whole(exchange, kept)
        unsent = None if started else response
        await self._end(exchange, held, record_outcome, more=False, unsent=unsent)

    async def _refused_by_endpoint(
        self,
        exchange: Exchange,
        response: UpstreamResponse,
        record_outcome: RecordOutcome,
    ) -> None:
        """A 401, or a 403 that is not about content, speaks of *our* key: the caller must not
        read it (it may quote the key), nor think that it is his."""
        body = bytearray()
        while chunk := await response.read():
            body += chunk
            if len(body) > REFUSAL_BYTES:
                break
        told = read_answer(exchange.wire, bytes(body))
        if response.status == HTTP_UNAUTHORIZED or told.error not in CONTENT_POLICY_CODES:
            raise Refused(refusals.UPSTREAM_CREDENTIAL)
        self._read_whole(exchange, body)
        await self._end(exchange, bytes(body), record_outcome, more=False, unsent=response)

    # The client's side

    async def _start(self, exchange: Exchange, response: UpstreamResponse, *, length: bool) -> None:
        sent = headers.client_response_headers(
            exchange.wire, response.headers, status=response.status
        )
        if length and response.content_length is not None and response.status not in BODILESS:
            sent.append((b"content-length", b"%d" % response.content_length))
        exchange.answer.status = response.status
        try:
            async with self._patience(exchange):
                await exchange.channel.start(
                    response.status, sent + self._answer_headers(exchange), at_once=not length
                )
        except TimeoutError:  # it has not even taken the answer before this one
            raise Refused(refusals.CLIENT_STALLED) from None

    async def _write(self, exchange: Exchange, data: bytes, *, more: bool = True) -> None:
        try:
            async with self._patience(exchange):
                await exchange.channel.write(data, more=more)
        except TimeoutError:
            raise Refused(refusals.CLIENT_STALLED) from None
        answer = exchange.answer
        if not answer.first_byte_at:
            answer.first_byte_at = time.monotonic()
        answer.took(data)

    async def _end(
        self,
        exchange: Exchange,
        data: bytes,
        record_outcome: RecordOutcome,
        *,
        more: bool,
        unsent: UpstreamResponse | None = None,
    ) -> None:
        """The end of an answer: recorded first. From here on nothing may end it otherwise.

        Of an answer in one piece nothing has left yet, its head included: it is ``unsent``.
        """
        if exchange.reader is not None:
            self._note(exchange, exchange.reader.facts)
        exchange.interruptible = False
        if exchange.interruption is not None:
            raise Refused(exchange.interruption)
        if unsent is not None:
            exchange.answer.status = unsent.status
        exchange.answer.complete = True
        exchange.answer.took(data)
        try:
            await record_outcome(exchange)
        except LogUnavailable:
            exchange.answer.complete = False
            if unsent is not None:
                exchange.answer.status = 0  # so that it can still be refused in words
            raise Refused(refusals.ANSWER_UNRECORDED) from None
        if unsent is not None:
            await self._start(exchange, unsent, length=True)
        await self._last(exchange, data, more=more)

    def _patience(self, exchange: Exchange) -> AbstractAsyncContextManager[object]:
        """The stall timeout, where the next write would wait; elsewhere it is not worth a timer."""
        if exchange.channel.write_paused:
            return asyncio.timeout(self._stall_timeout_s)
        return _NO_WAIT

    async def _close(self, exchange: Exchange) -> None:
        await self._last(exchange, b"", more=False)

    async def _last(self, exchange: Exchange, data: bytes, *, more: bool) -> None:
        """Write of what is already recorded: a client that does not take it is cut off."""
        try:
            async with self._patience(exchange):
                await exchange.channel.write(data, more=more)
        except TimeoutError:
            exchange.channel.abort()

    @staticmethod
    def _note(exchange: Exchange, facts: AnswerFacts) -> None:
        exchange.usage = facts.usage
        exchange.served_model = facts.served_model
        exchange.finish = facts.error or facts.finish
        exchange.upstream_error = facts.error

    def _read_whole(self, exchange: Exchange, body: bytearray) -> None:
        if len(body) <= READ_USAGE_BYTES:
            self._note(exchange, read_answer(exchange.wire, bytes(body)))
