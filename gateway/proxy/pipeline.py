"""The request path. One request, eight numbered steps, one method each.

    0 route     exact allow-list of method and path; framing that leaves no doubt
    1 identify  credential to principal; the attempt guard
    2 read      bounded body, one strict parse
    3 decide    directives, then policy, for every model that the body names
    4 admit     every limit that the decision named, in one atomic call
    5 record    the intent is durable; only then is there a permit
    6 forward   the permit's body to the permit's target
    7 relay     chunk for chunk; the end of the answer waits for the outcome record
    8 settle    whatever happened: outcome, reservation, counters

A step that ends the exchange raises ``Refused`` (or ``UpstreamFailed``); ``run`` is the one place
that answers. ``docs/request-path.md`` follows one request through this file.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from gateway.audit.summary import RefusalSummary
from gateway.audit.writer import AuditLog
from gateway.core.catalogue import CatalogueEntry
from gateway.core.clock import Clock
from gateway.core.decision import Capture, Effect, LimitKey
from gateway.core.facts import Action, Wire
from gateway.core.ids import new_decision_id
from gateway.core.permit import Permit, Target
from gateway.core.protocols import (
    Limiter,
    LimiterUnavailable,
    LogUnavailable,
    Unreserved,
)
from gateway.core.reasons import Fault, Reason
from gateway.core.refusal import Refusal, Refused
from gateway.identity.credentials import presented
from gateway.identity.identify import Identifier
from gateway.limits.attempts import AttemptGuard
from gateway.proxy import recording, refusals
from gateway.proxy.answerer import Answerer
from gateway.proxy.evaluation import action_of
from gateway.proxy.exchange import Exchange, Step
from gateway.proxy.inflight import Inflight
from gateway.proxy.judging import Judged, Judging
from gateway.proxy.memory import MemoryBudget
from gateway.proxy.network import KeyedHashes
from gateway.proxy.pace import Pace
from gateway.proxy.relay import Relay
from gateway.proxy.upstream import UpstreamFailed, Upstreams
from gateway.telemetry.metrics import Metrics
from gateway.wire import edits, headers, models, request, routes
from gateway.wire.dialects import Dialect, dialect_of
from gateway.wire.framing import check_framing

__all__ = ["Pipeline", "PipelineSettings"]

COUNTED_REASONS = frozenset(
    {
        Reason.ROUTE_NOT_FOUND,
        Reason.CREDENTIAL_MISSING,
        Reason.CREDENTIAL_INVALID,
        Reason.CREDENTIAL_AMBIGUOUS,
        Reason.MODEL_NOT_FOUND,
        Reason.POLICY_DENIED,
        Reason.STEP_UP_REQUIRED,
        Reason.APPROVAL_REQUIRED,
        Reason.OBJECT_REFERENCE_UNSUPPORTED,
    }
)
"""Refusals that the attempt guard counts against their cause."""
CALLERS = frozenset({Fault.CALLER, Fault.POLICY})
"""Whose faults are paced; the gateway's and an upstream's never are."""

LISTED_WIRES = {
    False: frozenset({Wire.CHAT, Wire.RESPONSES, Wire.EMBEDDINGS}),
    True: frozenset({Wire.MESSAGES}),
}
"""The wires whose models stand in a list, by whether Anthropic's list was asked for."""
GENERATING = frozenset({Wire.CHAT, Wire.RESPONSES, Wire.MESSAGES})
BYTES_PER_TOKEN = 3
"""An estimate for reservations, on the high side; settlement corrects it."""


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    """Plain values that the steps need; seconds and bytes."""

    max_body_bytes: int
    body_timeout_s: float
    registry_max_age_s: float
    unrestricted_on_limiter_failure: bool
    sealable: bool
    max_answer_bytes: int


class Pipeline:
    """The steps and the rooms they use; one for each data worker.

    Args:
        settings: plain values.
        registry_age: seconds since the control process was last heard.
        trusted: networks of the proxies whose forwarded headers count.
    """

    def __init__(
        self,
        *,
        settings: PipelineSettings,
        clock: Clock,
        identifier: Identifier,
        guard: AttemptGuard,
        pace: Pace,
        judging: Judging,
        limiter: Limiter,
        log: AuditLog,
        summary: RefusalSummary,
        upstreams: Upstreams,
        relay: Relay,
        answerer: Answerer,
        metrics: Metrics,
        memory: MemoryBudget,
        addresses: KeyedHashes,
        registry_age: Callable[[], float],
    ) -> None:
        self.settings = settings
        self.identifier = identifier
        self.guard = guard
        self.pace = pace
        self.judging = judging
        self.limiter = limiter
        self.log = log
        self.summary = summary
        self.upstreams = upstreams
        self.relay = relay
        self.answerer = answerer
        self.metrics = metrics
        self.memory = memory
        self.addresses = addresses
        self.registry_age = registry_age
        self.inflight = Inflight(clock, judging.recheck)
        self.draining: Refusal | None = None

    # The whole path

    async def run(self, exchange: Exchange) -> None:
        """Take one exchange from its head to its settlement."""
        exchange.task = task = asyncio.current_task()
        exchange.channel.on_lost(exchange.client_lost)
        try:
            await self._steps(exchange)
        except Refused as refused:
            exchange.refusal = refused.refusal
        except UpstreamFailed as failed:
            exchange.refusal = refusals.upstream_failed(failed)
        except asyncio.CancelledError:
            exchange.interruptible = False
            if exchange.interruption is None or task is None:
                raise
            task.uncancel()
            exchange.refusal = exchange.interruption
        finally:
            exchange.interruptible = False
            if exchange.refusal is None and not exchange.answer.complete:
                # What no step foresaw is on its way to the edge, which logs it.
                exchange.refusal = self.draining or refusals.INTERNAL_ERROR
            try:
                if exchange.refusal is not None:
                    await self._refuse(exchange, exchange.refusal)
            finally:
                await self.settle(exchange)

    async def _steps(self, exchange: Exchange) -> None:
        if self.route(exchange):
            await self.answerer.health(exchange)
            return
        await self.identify(exchange)
        if exchange.wire is Wire.MODELS:
            await self.list_models(exchange)
            return
        await self.read(exchange)
        await self.decide(exchange)
        await self.admit(exchange)
        permit = await self.record(exchange)
        await self.forward_and_relay(exchange, permit)

    # 0 Route

    def route(self, exchange: Exchange) -> bool:
        """Match the allow-list; returns whether this is a health probe, which is answered at once.

        Raises:
            Refused: no such route, doubtful framing, or the process drains.
        """
        head = exchange.request
        exchange.source = self.addresses.digest(head.address)
        found = routes.match(head.method, head.raw_path, head.query, head.fields)
        if isinstance(found, Refusal):
            exchange.dialect = dialect_of(head.raw_path, head.fields)
            raise Refused(found)
        exchange.route, exchange.dialect = found, found.dialect
        if found.wire is None:
            return True
        exchange.wire, exchange.reached = found.wire, Step.ROUTE
        if self.draining is not None:
            raise Refused(self.draining)
        refusal = check_framing(head.method, head.target, head.fields, head.http_version)
        if refusal is not None:
            raise Refused(refusal)
        return False

    # 1 Identify

    async def identify(self, exchange: Exchange) -> None:
        """Find the principal. Refusals of the unknown count against their source, refusals of the
        known against their credential, so that neither closes the door on a neighbour.

        Raises:
            Refused: no, two or a bad credential; too many attempts; or nobody is known yet, which
                says nothing about the credential.
        """
        since = time.monotonic()
        head = exchange.request
        if self.registry_age() == math.inf:
            raise Refused(refusals.REGISTRY_AWAITED)
        found = presented(head.fields)
        if isinstance(found, Refusal):
            self._attempt(head.address, None)
            raise Refused(found)
        exchange.credential_sha256 = hashlib.sha256(found.text.encode()).hexdigest()
        try:
            with exchange.waiting:
                exchange.principal = await self.identifier.principal_of(
                    found, exchange.credential_sha256
                )
        except Refused:
            self._attempt(head.address, exchange.credential_sha256)
            raise
        exchange.network = self.judging.network_of(head.address)
        exchange.reached = Step.IDENTIFY
        self._attempt(None, exchange.credential_sha256)
        self.inflight.enter(exchange)
        exchange.clock_step("identify", since)

    def _attempt(self, address: str | None, credential: str | None) -> None:
        wait_s = self.guard.check(address, credential)
        if wait_s:
            raise Refused(refusals.attempts_exceeded(wait_s))

    # 2 Read

    async def read(self, exchange: Exchange) -> None:
        """Receive the body within its bounds and parse it, once and strictly.

        Raises:
            Refused: too large, too slow, over the memory budget, or not what the wire says.
        """
        since = time.monotonic()
        length = exchange.request.fields.get(b"content-length")
        if length is not None and int(length) > self.settings.max_body_bytes:
            raise Refused(refusals.too_large(self.settings.max_body_bytes))
        try:
            exchange.body = await self._receive(exchange)
        except ConnectionError:
            exchange.client_lost()
            raise Refused(refusals.CLIENT_GONE) from None
        exchange.body_sha256 = hashlib.sha256(exchange.body).digest()
        exchange.parsed = request.read_request(exchange.wire, exchange.body)
        exchange.reached = Step.READ
        exchange.clock_step("read", since)

    async def _receive(self, exchange: Exchange) -> bytes:
        """The whole body; one that is still on its way is waited for, within its time."""
        if not exchange.channel.receiving:
            body, _ = await exchange.channel.receive()
            self._hold(exchange, len(body))
            return body
        pieces: list[bytes] = []
        overdue = asyncio.get_running_loop().call_later(
            self.settings.body_timeout_s, exchange.interrupt, refusals.REQUEST_TIMEOUT
        )
        with exchange.waiting:
            try:
                more = True
                while more:
                    piece, more = await exchange.channel.receive()
                    self._hold(exchange, len(piece))
                    pieces.append(piece)
            finally:
                overdue.cancel()
        return b"".join(pieces)

    def _hold(self, exchange: Exchange, size: int) -> None:
        if exchange.held_bytes + size > self.settings.max_body_bytes:
            raise Refused(refusals.too_large(self.settings.max_body_bytes))
        if not self.memory.take(exchange.principal.member.id, size):
            self._let_go_of_body(exchange)  # now, so that what was full for him is not for others
            raise Refused(refusals.MEMORY_BUDGET_SPENT)
        exchange.held_bytes += size

    # 3 Decide

    async def decide(self, exchange: Exchange) -> None:
        """Judge every model that the body names; the strictest answer binds.

        Raises:
            Refused: anything but allow, or a downgrade that the credential opted in to.
        """
        since = time.monotonic()
        parsed = exchange.parsed
        exchange.decision_id = new_decision_id()
        action = action_of(exchange.wire, parsed)
        with exchange.waiting:
            names = (parsed.model, *parsed.other_models)
            judged = await self.judging.judge_all(exchange, action, names)
            binding = judged[0]
            if len(judged) > 1:
                binding = max(judged, key=lambda one: one.effect.severity)
            exchange.requested = judged[0].facts.resource.id
            exchange.judgement, exchange.reached = binding.judgement, Step.DECIDE
            if binding.effect is Effect.DOWNGRADE:
                alone = not parsed.other_models
                judged = await self._substitute(exchange, action, binding, alone=alone)
            elif binding.effect is not Effect.ALLOW:
                refusal = refusals.denied(
                    binding.judgement, exchange.decision_id, binding.entry, self.judging.hidden
                )
                if refusal.reason is not Reason.MODEL_NOT_FOUND:
                    exchange.model_label = binding.facts.resource.id
                raise Refused(refusal)
        exchange.entry = self._served_here(exchange, judged)
        exchange.model_label = exchange.entry.id
        exchange.standing = tuple([one.facts for one in judged])
        exchange.valid_until = min([one.judgement.valid_until for one in judged])
        self._prepare_capture(exchange, judged)
        self.inflight.schedule(exchange)
        exchange.clock_step("decide", since)

    async def _substitute(
        self, exchange: Exchange, action: Action, asked: Judged, *, alone: bool
    ) -> list[Judged]:
        """The model that a downgrade offers, judged in its own right: plainly allowed, or no.

        Only the top-level name is replaced: where the body names a model anywhere else, be it the
        same one again, what was not allowed would travel.
        """
        offered = asked.judgement.decision.model if alone else None
        if offered is None:
            raise Refused(refusals.downgrade_refused(exchange.decision_id))
        (substitute,) = await self.judging.judge_all(exchange, action, (offered,))
        if substitute.judgement.revision != asked.judgement.revision:
            raise Refused(refusals.POLICY_ERROR)  # offered by another revision
        if substitute.effect is not Effect.ALLOW:
            raise Refused(refusals.downgrade_refused(exchange.decision_id))
        exchange.judgement = recording.downgraded(asked.judgement, substitute.judgement)
        return [substitute]

    def _served_here(self, exchange: Exchange, judged: Sequence[Judged]) -> CatalogueEntry:
        """What is allowed must also be served: on this wire, by one endpoint that settings know.
        Only a caller who may use the model learns this much about it."""
        entries = []
        for entry in (one.entry for one in judged):
            if entry is None:
                raise Refused(refusals.POLICY_ERROR)  # a rule allowed what does not exist
            entries.append(entry)
            if exchange.wire not in entry.wires:
                raise Refused(refusals.wire_mismatch(entry))
            if entry.restricted and self.registry_age() > self.settings.registry_max_age_s:
                raise Refused(refusals.REGISTRY_STALE)
        first = entries[0]
        if first.endpoint not in self.upstreams or any(
            other.endpoint != first.endpoint for other in entries
        ):
            raise Refused(refusals.ENDPOINT_UNKNOWN)
        # Names inside the body travel as written, so there each must be the endpoint's own.
        nested = exchange.parsed.other_models
        for one, entry in zip(judged, entries, strict=True):
            known = one.name == entry.id and entry.upstream_model in (None, entry.id)
            if one.name in nested and not known:
                raise Refused(refusals.NESTED_NAME)
        return first

    def _prepare_capture(self, exchange: Exchange, judged: Sequence[Judged]) -> None:
        """Whatever the record has to keep of this call can be kept, or the call ends here.

        What an answer may take is set aside now: if it had to be found while the answer runs,
        calls enough at once would leave the rest of them unsealed.
        """
        wanted = [one.judgement.decision.capture for one in judged]
        exchange.capture = recording.strictest(wanted)
        if exchange.capture not in recording.SEALED:
            return
        if not self.settings.sealable:
            raise Refused(refusals.CONTENT_KEYS_MISSING)
        if exchange.capture is Capture.SEALED:
            size = self.settings.max_answer_bytes
            if not self.memory.take(exchange.principal.member.id, size):
                raise Refused(refusals.MEMORY_BUDGET_SPENT)
            exchange.held_bytes += size
            exchange.answer.keep_bytes = size

    # 4 Admit

    async def admit(self, exchange: Exchange) -> None:
        """Reserve all limits or none; not interruptible, so that nothing is taken and lost.

        Raises:
            Refused: a limit is spent, or the limiter could not be asked.
        """
        since = time.monotonic()
        judgement, principal, entry = exchange.judgement, exchange.principal, exchange.entry
        try:
            outcome = await self.limiter.reserve(
                judgement.decision.limits,
                {
                    LimitKey.SUBJECT: principal.member.id,
                    LimitKey.CREDENTIAL: principal.credential_id,
                    LimitKey.ORGANISATION: principal.organisation.id,
                },
                {
                    "requests": 1,
                    "streams": 1,
                    "input_tokens": len(exchange.body) // BYTES_PER_TOKEN + 1,
                    "output_tokens": exchange.parsed.max_output_tokens or entry.max_output_tokens
                    if exchange.wire in GENERATING
                    else 0,
                },
            )
        except LimiterUnavailable:
            self.metrics.alarm("limiter_unavailable")
            if entry.restricted or not self.settings.unrestricted_on_limiter_failure:
                raise Refused(refusals.LIMITER_UNAVAILABLE) from None
            outcome = Unreserved()
        if isinstance(outcome, tuple):
            raise Refused(refusals.limit_exceeded(outcome))
        exchange.reservation = outcome
        exchange.reached = Step.ADMIT
        exchange.clock_step("admit", since)
        exchange.raise_if_interrupted()

    # 5 Record

    async def record(self, exchange: Exchange) -> Permit:
        """Make the intent durable, then the permit: the one place where there is one.

        Raises:
            Refused: the log cannot be written; nothing is forwarded.
        """
        since = time.monotonic()
        judgement, entry, reservation = exchange.judgement, exchange.entry, exchange.reservation
        assert reservation is not None  # step 4 was taken
        try:
            body, exchange.edits = edits.apply(
                exchange.body,
                exchange.parsed.document,
                recording.edits_wanted(exchange, self.addresses),
            )
        except edits.EditFailed:
            raise Refused(refusals.INTERNAL_ERROR) from None
        exchange.forwarded_sha256 = (
            hashlib.sha256(body).digest() if exchange.edits else exchange.body_sha256
        )
        try:
            exchange.intent = await self.log.append(
                recording.intent(exchange),
                judgement.facts_json,
                exchange.principal.subject_key,
                recording.request_content(exchange),
            )
        except (LogUnavailable, ValueError):
            raise Refused(refusals.LOG_UNAVAILABLE) from None
        exchange.reached = Step.RECORD
        exchange.clock_step("record", since)
        exchange.raise_if_interrupted()
        return Permit(
            request_id=exchange.request_id,
            decision=judgement.decision,
            reservation=reservation,
            intent=exchange.intent,
            target=Target(
                endpoint=entry.endpoint,
                path=exchange.route.upstream_path,
                model=entry.upstream_model or entry.id,
                catalogue_id=entry.id,
            ),
            body=body,
        )

    # 6 Forward, 7 Relay

    async def forward_and_relay(self, exchange: Exchange, permit: Permit) -> None:
        """Send, and pass the answer on as it comes.

        Raises:
            Refused: the endpoint refused *our* key, or the client stalled.
            UpstreamFailed: no answer, or one that broke off.
        """
        endpoint = permit.target.endpoint
        sent = headers.upstream_request_headers(
            exchange.wire,
            exchange.request.headers,
            self.upstreams.key(endpoint),
            self.upstreams.configured_headers(endpoint),
        )
        since = time.monotonic()
        self.metrics.stream_open(exchange.wire)
        try:
            with exchange.waiting:
                async with self.upstreams.slot(endpoint):
                    exchange.reached = Step.FORWARD
                    with await self.upstreams.forward(permit, sent) as response:
                        exchange.clock_step("upstream", since)
                        exchange.upstream_status = response.status
                        exchange.upstream_request_id = response.request_id
                        await self.relay.answer(exchange, response, self.record_outcome)
        finally:
            self.metrics.stream_close(exchange.wire)

    # 8 Settle

    async def settle(self, exchange: Exchange) -> None:
        """Whatever happened: the outcome is recorded, the reservation settled, all counted."""
        exchange.channel.on_lost(None)
        await self._give_back(exchange)
        if exchange.reached >= Step.RECORD and not exchange.outcome_recorded:
            try:
                await self.record_outcome(exchange)
            except LogUnavailable:
                self.metrics.alarm("outcome_unrecorded")
        self.inflight.leave(exchange)
        self._let_go_of_body(exchange)
        recording.count(exchange, self.metrics)

    def _let_go_of_body(self, exchange: Exchange) -> None:
        exchange.body = b""
        if exchange.reached >= Step.READ:
            exchange.parsed = replace(exchange.parsed, document={})
        if exchange.held_bytes:
            self.memory.give_back(exchange.principal.member.id, exchange.held_bytes)
            exchange.held_bytes = 0

    async def record_outcome(self, exchange: Exchange) -> None:
        """Make the outcome durable; the end of an answer waits for this. The reservation is settled
        before, so that whoever has read the end may call again at once.

        Raises:
            LogUnavailable: it could not be written.
        """
        exchange.outcome_recorded = True
        await self._give_back(exchange)
        content = recording.answer_content(exchange)
        await self.log.append(recording.outcome(exchange), content=content)

    async def _give_back(self, exchange: Exchange) -> None:
        """Settle the reservation, if there is one that is not yet settled."""
        if exchange.reservation is not None and not exchange.settled:
            exchange.settled = True
            await exchange.reservation.settle(recording.tokens_used(exchange))
            self.judging.note_budgets(exchange)

    # Model lists: decided like calls, answered here

    async def list_models(self, exchange: Exchange) -> None:
        """What this credential may call now, and nothing else (D2).

        Raises:
            Refused: ``GET /v1/models/{id}`` names a model that he may not call.
        """
        route = exchange.route
        with exchange.waiting:
            allowed = await self.judging.callable_models(
                exchange, LISTED_WIRES[route.dialect is Dialect.ANTHROPIC]
            )
        entries = [entry for entry in allowed if entry.endpoint in self.upstreams]
        if not route.model_id:
            await self.answerer.document(exchange, models.model_list(route.dialect, entries))
            return
        wanted = self.judging.resolve(route.model_id)
        for entry in entries:
            if entry is wanted:
                await self.answerer.document(exchange, models.model_entry(route.dialect, entry))
                return
        raise Refused(refusals.MODEL_NOT_FOUND)

    # Refusing

    async def _refuse(self, exchange: Exchange, refusal: Refusal) -> None:
        """Record, then answer in the caller's dialect; after the answer began, cut it."""
        if exchange.answer.status:
            await self.answerer.cut(exchange, refusal)
            return
        known = exchange.reached >= Step.IDENTIFY
        source = None if known else exchange.request.address
        credential = exchange.credential_sha256 or None
        if refusal.reason in COUNTED_REASONS:
            self.guard.count(source, credential)
        if exchange.reached < Step.IDENTIFY or refusal.reason is Reason.ATTEMPTS_EXCEEDED:
            self.summary.count(refusal.reason, exchange.source)
        else:
            refusal = await self._record_refusal(exchange, refusal)
        gone = refusal.reason in (Reason.CLIENT_GONE, Reason.CLIENT_STALLED)
        if not gone and refusal.reason.fault in CALLERS and exchange.reached < Step.RECORD:
            self._let_go_of_body(exchange)
            gone = not await self.pace.hold(exchange.channel, source, credential)
        if gone:
            exchange.channel.abort()
            return
        await self.answerer.refuse(exchange, refusal)

    async def _record_refusal(self, exchange: Exchange, refusal: Refusal) -> Refusal:
        """The denial of a known principal is durable before its answer, or the answer is that the
        log cannot be written."""
        exchange.answer.status = self.answerer.status_of(exchange, refusal)
        try:
            if exchange.reached >= Step.RECORD:
                if not exchange.outcome_recorded:
                    await self.record_outcome(exchange)
            else:
                judged = exchange.reached >= Step.DECIDE
                facts = exchange.judgement.facts_json if judged else None
                await self.log.append(
                    recording.denial(exchange, refusal, self.addresses),
                    facts,
                    exchange.principal.subject_key if facts else None,
                )
        except (LogUnavailable, ValueError):
            intended = exchange.reached >= Step.RECORD
            refusal = refusals.ANSWER_UNRECORDED if intended else refusals.LOG_UNAVAILABLE
            exchange.refusal = refusal
        finally:
            exchange.answer.status = 0
        return refusal

    def malformed(self, address: str) -> None:
        """The server's parser refused a request before there was an exchange."""
        self.summary.count(Reason.FRAMING_INVALID, self.addresses.digest(address))
