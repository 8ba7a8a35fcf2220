"""What is written of an exchange: its records, and its place in the counters. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from gateway.audit.content import keyed_digest
from gateway.audit.content_writer import Content
from gateway.audit.records import (
    AccessDenied,
    AccessIntent,
    AccessOutcome,
    ContentRef,
    DecisionRef,
    LimitTaken,
    ModelRef,
    ReasonRef,
    RequestRef,
    ResponseRef,
    SourceRef,
    SubjectRef,
    Tokens,
    UpstreamRef,
)
from gateway.core.decision import Capture, Decision
from gateway.core.entities import Principal
from gateway.core.facts import UNKNOWN_MODEL
from gateway.core.reasons import Fault, Reason
from gateway.core.refusal import LimitState, Refusal
from gateway.policy.judge import Judgement
from gateway.proxy.exchange import Exchange, Step
from gateway.proxy.network import KeyedHashes
from gateway.telemetry.metrics import Metrics
from gateway.wire.edits import Edits

__all__ = [
    "SEALED",
    "answer_content",
    "count",
    "denial",
    "downgraded",
    "edits_wanted",
    "intent",
    "outcome",
    "request_content",
    "strictest",
    "tokens_used",
]

HTTP_ERROR = 400
SEALED = frozenset({Capture.SEALED_REQUEST, Capture.SEALED})
"""What cannot be kept without the keys of both roles."""
MOST_TOKENS = 10_000_000
"""What one call is charged at most of each kind, whatever its endpoint says (the record keeps the
endpoint's own figure): no model reads or writes more, and a wrong figure must not shut a member out
for good."""

_STATUS_OF_REASON = {
    Reason.CLIENT_GONE: "client_abort",
    Reason.CLIENT_STALLED: "client_abort",
    Reason.ACCESS_WITHDRAWN: "policy_cut",
    Reason.POLICY_ERROR: "policy_cut",
    Reason.UPSTREAM_TIMEOUT: "timeout",
    Reason.SHUTTING_DOWN: "shutdown",
}


def downgraded(asked: Judgement, substitute: Judgement) -> Judgement:
    """The judgement that binds a downgraded call: the effect and reasons of what was asked, the
    limits and facts of the model that serves it."""
    decision = Decision(
        effect=asked.decision.effect,
        reasons=asked.decision.reasons,
        model=asked.decision.model,
        limits=substitute.decision.limits,
        capture=substitute.decision.capture,
        review=asked.decision.review or substitute.decision.review,
        valid_until=substitute.decision.valid_until,
    )
    return replace(asked, decision=decision)


def strictest(captures: Iterable[Capture]) -> Capture:
    """The one that keeps the most."""
    return max(captures, key=list(Capture).index)


def edits_wanted(exchange: Exchange, addresses: KeyedHashes) -> Edits:
    """The closed list of edits, each where the catalogue asks for it (invariant 1)."""
    entry = exchange.entry
    return Edits.on(
        exchange.wire,
        stream=exchange.parsed.stream,
        model=entry.upstream_model or entry.id,
        safety_identifier=(
            addresses.pseudonym(exchange.principal.member.id) if entry.safety_identifier else None
        ),
        include_usage=entry.include_usage,
    )


def intent(exchange: Exchange) -> AccessIntent:
    """The record before the first upstream byte."""
    entry = exchange.entry
    return AccessIntent(
        request_id=exchange.request_id,
        decision_id=exchange.decision_id,
        subject=_subject(exchange.principal),
        src=_source(exchange),
        wire=exchange.wire,
        action=exchange.standing[0].action.name,
        model=ModelRef(requested=exchange.requested, authorised=entry.id, endpoint=entry.endpoint),
        decision=_decision(exchange.judgement, exchange.capture),
        request=_request(exchange, exchange.capture),
        limits=_limits(exchange),
    )


def request_content(exchange: Exchange) -> Content | None:
    """What is to be sealed of the request, exactly as received."""
    if exchange.capture not in SEALED:
        return None
    principal = exchange.principal
    digest = keyed_digest(principal.subject_key, exchange.body_sha256)
    return Content(exchange.body, principal.member.id, principal.subject_key, digest)


def answer_content(exchange: Exchange) -> Content | None:
    """What is to be sealed of the answer, as far as it left for the client."""
    answer, principal = exchange.answer, exchange.principal
    if exchange.capture is not Capture.SEALED or not answer.bytes:
        return None
    return Content(
        bytes(answer.kept),
        principal.member.id,
        principal.subject_key,
        keyed_digest(principal.subject_key, answer.digest.digest()),
        truncated=answer.bytes > len(answer.kept),
    )


def denial(exchange: Exchange, refusal: Refusal, addresses: KeyedHashes) -> AccessDenied:
    """The record of a known principal's refusal, with whatever was known by then."""
    judged = exchange.reached >= Step.DECIDE
    model = None
    if judged:
        requested = exchange.requested
        # Hashed whether or not the catalogue holds it: the same work for both (invariant 8).
        named = addresses.pseudonym(exchange.parsed.model)
        model = ModelRef(
            requested=requested, requested_hmac=named if requested == UNKNOWN_MODEL else ""
        )
    # What is refused goes nowhere, so of its content there is a digest at most.
    captured = exchange.judgement.decision.capture if judged else exchange.capture
    return AccessDenied(
        request_id=exchange.request_id,
        decision_id=exchange.decision_id,
        http=exchange.answer.status,
        reason=refusal.code or refusal.reason,
        subject=_subject(exchange.principal),
        src=_source(exchange),
        wire=exchange.wire,
        model=model,
        decision=_decision(exchange.judgement, captured) if judged else None,
        request=_request(exchange, captured) if exchange.body_sha256 else None,
        limits=_taken(refusal.limits),
    )


def outcome(exchange: Exchange) -> AccessOutcome:
    """The record of how an intent ended."""
    refusal, answer = exchange.refusal, exchange.answer
    now = time.monotonic()
    return AccessOutcome(
        request_id=exchange.request_id,
        parent=exchange.intent.seq,
        status=outcome_status(exchange),  # type: ignore[arg-type]
        reason="" if refusal is None else refusal.code or refusal.reason,
        http=answer.status,
        upstream=UpstreamRef(
            endpoint=exchange.entry.endpoint,
            request_id=exchange.upstream_request_id,
            status=exchange.upstream_status,
        ),
        served_model=exchange.served_model,
        tokens=_tokens(exchange),
        response=ResponseRef(
            bytes=answer.bytes,
            content=_digest(exchange, answer.digest.digest(), exchange.capture),
            finish=exchange.finish,
        ),
        ttfb_ms=_ms(answer.first_byte_at - exchange.started_at) if answer.first_byte_at else 0,
        dur_ms=_ms(now - exchange.started_at),
    )


def outcome_status(exchange: Exchange) -> str:
    """One word for how an exchange ended."""
    refusal = exchange.refusal
    if refusal is None:
        failed = exchange.upstream_error or exchange.upstream_status >= HTTP_ERROR
        return "upstream_error" if failed else "ok"
    if refusal.reason in _STATUS_OF_REASON:
        return _STATUS_OF_REASON[refusal.reason]
    return "upstream_error" if refusal.reason.fault is Fault.UPSTREAM else "denied"


def tokens_used(exchange: Exchange) -> Mapping[str, int]:
    """What settlement knows: all of a complete answer; of one that broke off only what was told;
    nothing was used where nothing was forwarded. A kind that is missing stays reserved."""
    if exchange.upstream_status == 0 or exchange.upstream_status >= HTTP_ERROR:
        sent = exchange.interruption is not None and exchange.reached >= Step.FORWARD
        return {} if sent else {"input_tokens": 0, "output_tokens": 0}
    usage = exchange.usage
    if usage is None:
        return {}
    used = {"input_tokens": min(usage.input_tokens, MOST_TOKENS)}
    if exchange.answer.complete:
        used["output_tokens"] = min(usage.output_tokens, MOST_TOKENS)
    return used


def count(exchange: Exchange, metrics: Metrics) -> None:
    """Counters of one finished exchange; labels come from closed sets only (K62)."""
    refusal, model = exchange.refusal, exchange.model_label
    wire = exchange.wire if exchange.reached >= Step.ROUTE else "none"
    effect = "none"
    if refusal is not None:
        effect = refusal.reason
    elif exchange.reached >= Step.DECIDE:
        effect = exchange.judgement.decision.effect
    metrics.request(wire, model, effect, f"{exchange.answer.status // 100}xx")
    if refusal is not None:
        _count_refusal(exchange, refusal, metrics)
    metrics.steps(exchange.steps)
    if exchange.reached >= Step.RECORD:
        upstream = exchange.steps.get("upstream", 0.0)
        metrics.added_latency(sum(exchange.steps.values()) - upstream)
        if exchange.usage is not None:
            metrics.tokens("input", model, exchange.usage.input_tokens)
            metrics.tokens("output", model, exchange.usage.output_tokens)


def _count_refusal(exchange: Exchange, refusal: Refusal, metrics: Metrics) -> None:
    if refusal.reason is Reason.ATTEMPTS_EXCEEDED:
        metrics.attempt_refused()
    elif refusal.reason is Reason.LIMIT_EXCEEDED:
        for kind in {state.kind for state in refusal.limits if state.retry_s > 0}:
            metrics.limit_refused(kind)
    elif refusal.reason.fault is Fault.UPSTREAM and exchange.reached >= Step.RECORD:
        metrics.upstream_error(exchange.entry.endpoint, refusal.reason)


def _ms(seconds: float) -> int:
    return max(0, int(seconds * 1000))


def _subject(principal: Principal) -> SubjectRef:
    return SubjectRef(
        id=principal.member.id,
        org=principal.organisation.id,
        kind=principal.member.kind,
        credential=principal.credential_id,
        cred_kind=principal.kind,
        bound=principal.bound,
        engagement=principal.engagement.id if principal.engagement is not None else "",
        tiers=principal.tiers,
    )


def _source(exchange: Exchange) -> SourceRef:
    network = exchange.network
    return SourceRef(hmac=exchange.source, labels=network.labels, country=network.country)


def _decision(judgement: Judgement, capture: Capture) -> DecisionRef:
    decision = judgement.decision
    return DecisionRef(
        effect=decision.effect,
        revision=judgement.revision,
        reasons=tuple(
            [ReasonRef(code=reason.code, rule=reason.rule) for reason in decision.reasons]
        ),
        directives=judgement.directives,
        valid_until=judgement.valid_until_text,
        capture=capture,
        review=decision.review,
        eval_us=judgement.eval_us,
        memo=judgement.memo,
    )


def _request(exchange: Exchange, capture: Capture) -> RequestRef:
    parsed = exchange.parsed if exchange.reached >= Step.READ else None
    key = exchange.principal.subject_key
    edited = exchange.edits and capture is not Capture.METADATA
    return RequestRef(
        bytes=len(exchange.body),
        content=_digest(exchange, exchange.body_sha256, capture),
        forwarded_digest=keyed_digest(key, exchange.forwarded_sha256) if edited else "",
        edits=exchange.edits,
        stream=parsed.stream if parsed is not None else False,
        max_output_tokens=parsed.max_output_tokens if parsed is not None else 0,
    )


def _digest(exchange: Exchange, sha256: bytes, capture: Capture) -> ContentRef | None:
    """A body's digest, keyed with the member's key, unless only metadata is kept."""
    if capture is Capture.METADATA:
        return None
    return ContentRef(digest=keyed_digest(exchange.principal.subject_key, sha256))


def _limits(exchange: Exchange) -> tuple[LimitTaken, ...]:
    if exchange.reservation is None:
        return ()
    return _taken(exchange.reservation.states)


def _taken(states: Sequence[LimitState]) -> tuple[LimitTaken, ...]:
    return tuple(
        [
            LimitTaken(name=state.name, key=state.key, limit=state.limit, left=state.remaining)
            for state in states
        ]
    )


def _tokens(exchange: Exchange) -> Tokens:
    used, usage = tokens_used(exchange), exchange.usage
    if usage is None:
        return Tokens(input=0, output=0, usage_source="none" if used else "reserved")
    return Tokens(
        input=usage.input_tokens,
        output=usage.output_tokens,
        cached=usage.cached_tokens,
        reasoning=usage.reasoning_tokens,
        usage_source="upstream" if exchange.answer.complete else "reserved",
    )
