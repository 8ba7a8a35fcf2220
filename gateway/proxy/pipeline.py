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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from msgspec.structs import replace

from gateway.audit.summary import RefusalSummary
from gateway.audit.writer import AuditLog
from gateway.core.catalogue import CatalogueEntry
from gateway.core.clock import Clock
from gateway.core.decision import Effect, LimitKey
from gateway.core.facts import Facts, Wire
from gateway.core.ids import new_decision_id
from gateway.core.permit import Permit, Target
from gateway.core.protocols import (
    EngineUnavailable,
    Limiter,
    LimiterUnavailable,
    LogUnavailable,
    Revision,
    Unreserved,
)
from gateway.core.reasons import Fault, Reason
from gateway.core.refusal import Refusal, Refused
from gateway.identity.credentials import presented
from gateway.identity.identify import Identifier
from gateway.limits.attempts import AttemptGuard
from gateway.policy.judge import Judge, Judgement
from gateway.proxy import recording, refusals
from gateway.proxy.answerer import Answerer
from gateway.proxy.evaluation import action_of, context_of, facts_of, list_action
from gateway.proxy.exchange import Exchange, Step
from gateway.proxy.inflight import Inflight
from gateway.proxy.memory import MemoryBudget
from gateway.proxy.network import KeyedHashes, NetworkLabels
from gateway.proxy.pace import Pace
from gateway.proxy.relay import Relay
from gateway.proxy.subjects import Budgets, Subjects
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
DECIDE_ATTEMPTS = 3
BYTES_PER_TOKEN = 3
"""An estimate for reservations, on the high side; settlement corrects it."""


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    """Plain values that the steps need; seconds and bytes."""

    max_body_bytes: int
    body_timeout_s: float
    registry_max_age_s: float
    unrestricted_on_limiter_failure: bool


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
        judge: Judge,
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
        self.clock = clock
        self.identifier = identifier
        self.guard = guard
        self.pace = pace
        self.judge = judge
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
        self.inflight = Inflight(clock, self.recheck)
        self.subjects = Subjects()
        self.budgets = Budgets(clock)
        self.networks = NetworkLabels({})
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
        exchange.dialect = dialect_of(head.raw_path, head.headers)
        exchange.source = self.addresses.digest(head.address)
        found = routes.match(head.method, head.raw_path, head.query, head.headers)
        if isinstance(found, Refusal):
            raise Refused(found)
        exchange.route, exchange.dialect = found, found.dialect
        if found.wire is None:
            return True
        exchange.wire, exchange.reached = found.wire, Step.ROUTE
        if self.draining is not None:
            raise Refused(self.draining)
        refusal = check_framing(head.method, head.target, head.headers, head.http_version)
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
        found = presented(head.headers)
        if isinstance(found, Refusal):
            self._attempt(head.address, None)
            raise Refused(found)
        exchange.credential_sha256 = hashlib.sha256(found.text.encode()).hexdigest()
        try:
            with waiting(exchange):
                exchange.principal = await self.identifier.principal_of(found)
        except Refused:
            self._attempt(head.address, exchange.credential_sha256)
            raise
        exchange.network = self.networks.of(head.address)
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
        for name, value in exchange.request.headers:
            if name == b"content-length":
                self._hold(exchange, int(value))
        pieces: list[bytes] = []
        size = 0
        overdue = asyncio.get_running_loop().call_later(
            self.settings.body_timeout_s, exchange.interrupt, refusals.REQUEST_TIMEOUT
        )
        with waiting(exchange):
            try:
                more = True
                while more:
                    piece, more = await exchange.channel.receive()
                    size += len(piece)
                    if size > exchange.held_bytes:
                        self._hold(exchange, size - exchange.held_bytes)
                    pieces.append(piece)
            except ConnectionError:
                exchange.client_lost()
                raise Refused(refusals.CLIENT_GONE) from None
            finally:
                overdue.cancel()
        exchange.body = b"".join(pieces)
        exchange.body_sha256 = hashlib.sha256(exchange.body).hexdigest()
        exchange.parsed = request.read_request(exchange.wire, exchange.body)
        exchange.reached = Step.READ
        exchange.clock_step("read", since)

    def _hold(self, exchange: Exchange, size: int) -> None:
        if exchange.held_bytes + size > self.settings.max_body_bytes:
            raise Refused(refusals.too_large(self.settings.max_body_bytes))
        if not self.memory.take(size):
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
        with waiting(exchange):
            judged = await self._judge_all(exchange, action, (parsed.model, *parsed.other_models))
            _, facts, binding = max(judged, key=lambda one: one[2].decision.effect.severity)
            exchange.requested = judged[0][1].resource.id
            exchange.judgement, exchange.reached = binding, Step.DECIDE
            effect = binding.decision.effect
            if effect is Effect.DOWNGRADE:
                substitute = binding.decision.model if len(judged) == 1 else None
                judged = await self._judge_all(exchange, action, (substitute or "",))
                if judged[0][2].revision != binding.revision:
                    raise Refused(refusals.POLICY_ERROR)  # offered by another revision
                if judged[0][2].decision.effect is not Effect.ALLOW:
                    raise Refused(refusals.downgrade_refused(exchange.decision_id))
                exchange.judgement = recording.downgraded(binding, judged[0][2])
            elif effect is not Effect.ALLOW:
                refusal = refusals.denied(binding, exchange.decision_id)
                if refusal.reason is not Reason.MODEL_NOT_FOUND:
                    exchange.model_label = facts.resource.id
                raise Refused(refusal)
        exchange.entry = self._served_here(exchange, judged)
        exchange.model_label = exchange.entry.id
        exchange.standing = tuple(one[1] for one in judged)
        exchange.valid_until = min(one[2].valid_until for one in judged)
        self.inflight.schedule(exchange)
        exchange.clock_step("decide", since)

    async def _judge_all(
        self, exchange: Exchange, action: object, names: Sequence[str]
    ) -> list[tuple[CatalogueEntry | None, Facts, Judgement]]:
        """Judge under one revision and one state of the caller. Where an engine takes its time,
        either may change meanwhile; until this returns a re-check finds nothing to ask again."""
        for _ in range(DECIDE_ATTEMPTS):
            revision, principal = self._revision(), exchange.principal
            judged = [
                await self._judge(exchange, revision, action, name) for name in dict.fromkeys(names)
            ]
            if self.judge.revision is revision and exchange.principal is principal:
                return judged
        raise Refused(refusals.POLICY_ERROR)

    async def _judge(
        self, exchange: Exchange, revision: Revision, action: object, name: str
    ) -> tuple[CatalogueEntry | None, Facts, Judgement]:
        entry = revision.catalogue.get(revision.aliases.get(name, name))
        facts = facts_of(
            self.subjects.of(exchange.principal),
            action,  # type: ignore[arg-type]
            entry.id if entry is not None else None,
            context_of(self.clock, exchange.network, self.budgets.of(exchange.principal.member.id)),
        )
        try:
            judgement = await self.judge.judge(facts)
        except EngineUnavailable:
            self.metrics.engine_error()
            raise Refused(refusals.POLICY_ERROR) from None
        self.metrics.memo(hit=judgement.memo)
        return entry, facts, judgement

    def _served_here(
        self,
        exchange: Exchange,
        judged: Sequence[tuple[CatalogueEntry | None, Facts, Judgement]],
    ) -> CatalogueEntry:
        """What is allowed must also be served: on this wire, by one endpoint that settings know.
        Only a caller who may use the model learns this much about it."""
        entries = []
        for entry, _, _ in judged:
            if entry is None:
                raise Refused(refusals.POLICY_ERROR)  # a rule allowed what does not exist
            entries.append(entry)
            if exchange.wire not in entry.wires:
                raise Refused(refusals.wire_mismatch(entry))
            if entry.restricted and self.registry_age() > self.settings.registry_max_age_s:
                raise Refused(refusals.REGISTRY_STALE)
        first = entries[0]
        if first.endpoint not in self.upstreams or any(
            other.endpoint != first.endpoint or other.upstream_model not in (None, other.id)
            for other in entries[1:]
        ):
            raise Refused(refusals.ENDPOINT_UNKNOWN)
        return first

    def _revision(self) -> Revision:
        revision = self.judge.revision
        if revision is None:
            raise Refused(refusals.POLICY_ERROR)
        return revision

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
        if isinstance(outcome, Sequence):
            raise Refused(refusals.limit_exceeded(outcome))
        exchange.reservation = outcome
        exchange.reached = Step.ADMIT
        exchange.clock_step("admit", since)
        raise_if_interrupted(exchange)

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
            hashlib.sha256(body).hexdigest() if exchange.edits else exchange.body_sha256
        )
        try:
            exchange.intent = await self.log.append(
                recording.intent(exchange), judgement.facts_json, exchange.principal.subject_key
            )
        except (LogUnavailable, ValueError):
            raise Refused(refusals.LOG_UNAVAILABLE) from None
        exchange.reached = Step.RECORD
        exchange.clock_step("record", since)
        raise_if_interrupted(exchange)
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
        self.metrics.stream_open(exchange.wire.value)
        try:
            with waiting(exchange):
                exchange.reached = Step.FORWARD
                async with self.upstreams.forward(permit, sent) as response:
                    exchange.clock_step("upstream", since)
                    exchange.upstream_status = response.status
                    exchange.upstream_request_id = response.request_id
                    await self.relay.answer(exchange, response, self.record_outcome)
        finally:
            self.metrics.stream_close(exchange.wire.value)

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
        self.memory.give_back(exchange.held_bytes)
        exchange.held_bytes = 0

    async def record_outcome(self, exchange: Exchange) -> None:
        """Make the outcome durable; the end of an answer waits for this. The reservation is settled
        before, so that whoever has read the end may call again at once.

        Raises:
            LogUnavailable: it could not be written.
        """
        exchange.outcome_recorded = True
        await self._give_back(exchange)
        await self.log.append(recording.outcome(exchange))

    async def _give_back(self, exchange: Exchange) -> None:
        """Settle the reservation, if there is one that is not yet settled."""
        if exchange.reservation is not None and not exchange.settled:
            exchange.settled = True
            await exchange.reservation.settle(recording.tokens_used(exchange))
            self.budgets.note(exchange.principal.member.id, exchange.reservation.states)

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
            exchange.refusal = refusal = refusals.LOG_UNAVAILABLE
        finally:
            exchange.answer.status = 0
        return refusal

    def malformed(self, address: str) -> None:
        """The server's parser refused a request before there was an exchange."""
        self.summary.count(Reason.FRAMING_INVALID, self.addresses.digest(address))

    # Model lists: decided like calls, answered here

    async def list_models(self, exchange: Exchange) -> None:
        """What this credential may call now, and nothing else (D2).

        Raises:
            Refused: ``GET /v1/models/{id}`` names a model that he may not call.
        """
        route = exchange.route
        revision = self._revision()
        wires = LISTED_WIRES[route.dialect is Dialect.ANTHROPIC]
        callable_now = []
        with waiting(exchange):
            for entry in revision.catalogue.values():
                for wire in entry.wires:
                    if wire in wires:
                        _, _, judgement = await self._judge(
                            exchange, revision, list_action(wire), entry.id
                        )
                        if judgement.decision.allows:
                            callable_now.append(entry)
                            break
        if not route.model_id:
            await self.answerer.document(exchange, models.model_list(route.dialect, callable_now))
            return
        wanted = revision.aliases.get(route.model_id, route.model_id)
        for entry in callable_now:
            if entry.id == wanted:
                await self.answerer.document(exchange, models.model_entry(route.dialect, entry))
                return
        raise Refused(refusals.MODEL_NOT_FOUND)

    # Continuous re-check

    async def recheck(self, exchange: Exchange) -> Refusal | None:
        """Ask again what let a running exchange in; a refusal ends it."""
        if exchange.interruption is not None:
            return None
        principal = self.identifier.refresh(exchange.principal)
        if principal is None:
            return refusals.CREDENTIAL_WITHDRAWN
        exchange.principal = principal
        subject = self.subjects.of(principal)
        context = context_of(self.clock, exchange.network, self.budgets.of(principal.member.id))
        valid_until = float("inf")
        for facts in exchange.standing:
            current = facts_of(subject, facts.action, facts.resource.id, context)
            try:
                judgement = await self.judge.judge(current)
            except EngineUnavailable:
                self.metrics.engine_error()
                return refusals.POLICY_ERROR
            if judgement.decision.effect is not Effect.ALLOW:
                return refusals.withdrawn(judgement, exchange.decision_id)
            valid_until = min(valid_until, judgement.valid_until)
        if exchange.standing:
            now = self.clock.now()  # a rule that says that it is over is asked once a second
            exchange.valid_until = valid_until if valid_until > now else now + 1
        return None

    def revision_changed(self) -> None:
        """Compile what depends on the revision's data."""
        revision = self.judge.revision
        if revision is not None:
            self.networks = NetworkLabels(revision.networks)
            self.metrics.revision(revision.id)
            self.metrics.show_models(revision.catalogue.keys() - revision.hidden)


@contextmanager
def waiting(exchange: Exchange) -> Iterator[None]:
    """A part of the path that merely waits, so that an interruption may end it.

    Raises:
        Refused: it was interrupted before, or without being cancelled.
    """
    raise_if_interrupted(exchange)
    exchange.interruptible = True
    try:
        yield
    finally:
        exchange.interruptible = False
    raise_if_interrupted(exchange)


def raise_if_interrupted(exchange: Exchange) -> None:
    """Between two steps: go on only if nobody ended the exchange meanwhile."""
    if exchange.interruption is not None:
        raise Refused(exchange.interruption)
