"""What the request path says when it refuses: every text in one place.

Each message tells rule and remedy within its first 100 characters, names no secret, and helps
nobody tune an attack.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.core.catalogue import CatalogueEntry
from gateway.core.decision import Effect
from gateway.core.reasons import Reason
from gateway.core.refusal import LimitState, Refusal
from gateway.policy.judge import Judgement
from gateway.proxy.upstream import UpstreamFailed
from gateway.wire.routes import path_of

__all__ = [
    "ACCESS_REMOVED",
    "ANSWER_UNRECORDED",
    "CLIENT_GONE",
    "CLIENT_STALLED",
    "CONTENT_KEYS_MISSING",
    "CREDENTIAL_WITHDRAWN",
    "ENDPOINT_UNKNOWN",
    "INTERNAL_ERROR",
    "LIMITER_UNAVAILABLE",
    "LOG_UNAVAILABLE",
    "MEMORY_BUDGET_SPENT",
    "MODEL_NOT_FOUND",
    "NESTED_NAME",
    "POLICY_ERROR",
    "REGISTRY_AWAITED",
    "REGISTRY_STALE",
    "REQUEST_TIMEOUT",
    "SHUTTING_DOWN",
    "UPSTREAM_CREDENTIAL",
    "attempts_exceeded",
    "denied",
    "downgrade_refused",
    "limit_exceeded",
    "too_large",
    "upstream_failed",
    "wire_mismatch",
    "withdrawn",
]

CLIENT_GONE = Refusal(Reason.CLIENT_GONE, "The client went away.")
CLIENT_STALLED = Refusal(Reason.CLIENT_STALLED, "The client took no bytes for too long.")
REQUEST_TIMEOUT = Refusal(
    Reason.REQUEST_TIMEOUT, "The request body did not arrive in time: send it again, faster."
)
MEMORY_BUDGET_SPENT = Refusal(
    Reason.MEMORY_BUDGET_SPENT,
    "The gateway holds too many large requests at once: send this one again in a moment.",
)
MODEL_NOT_FOUND = Refusal(
    Reason.MODEL_NOT_FOUND, "No such model: list the models that you may call at /v1/models."
)
POLICY_ERROR = Refusal(
    Reason.POLICY_ERROR,
    "The gateway cannot decide right now, so it lets nothing through: try again later.",
    "Tell the gateway's operator if it lasts; this is a fault of the gateway, not a denial.",
)
LIMITER_UNAVAILABLE = Refusal(
    Reason.LIMITER_UNAVAILABLE,
    "The gateway cannot check your limits right now: try again later.",
    "Tell the gateway's operator if it lasts; this is a fault of the gateway, not a denial.",
)
LOG_UNAVAILABLE = Refusal(
    Reason.LOG_UNAVAILABLE,
    "The gateway cannot record this call, so it does not forward it: try again later.",
    "Tell the gateway's operator if it lasts; this is a fault of the gateway, not a denial.",
)
CONTENT_KEYS_MISSING = Refusal(
    Reason.CONTENT_KEYS_MISSING,
    "The gateway must seal this call's content and has no keys for it, so it does not forward it.",
    "Tell the gateway's operator: this is a fault of the gateway, not a denial.",
)
ANSWER_UNRECORDED = Refusal(
    Reason.LOG_UNAVAILABLE,
    "The gateway cannot record how this call ended, so it withholds the answer: try again later.",
    "Tell the gateway's operator if it lasts; this is a fault of the gateway, not a denial.",
)
REGISTRY_STALE = Refusal(
    Reason.REGISTRY_STALE,
    "The gateway's registry is out of date: restricted models wait until it is current.",
    "Tell the gateway's operator if it lasts; this is a fault of the gateway, not a denial.",
)
REGISTRY_AWAITED = Refusal(
    Reason.REGISTRY_STALE,
    "The gateway has just started and does not know its members yet: try again in a moment.",
)
ENDPOINT_UNKNOWN = Refusal(
    Reason.UPSTREAM_UNREACHABLE,
    "No endpoint is configured for this model: tell the gateway's operator.",
)
NESTED_NAME = Refusal(
    Reason.REQUEST_INVALID,
    "A model named inside the body must be named as its endpoint calls it: no alias serves there.",
    "Only the top-level `model` is rewritten; a model that its endpoint knows by another name than "
    "its id can be named there alone.",
)
UPSTREAM_CREDENTIAL = Refusal(
    Reason.UPSTREAM_CREDENTIAL,
    "The model endpoint refused the gateway's own key: tell the gateway's operator.",
    "Your credential is fine; nothing on your side would change this.",
)
INTERNAL_ERROR = Refusal(
    Reason.INTERNAL_ERROR,
    "The gateway made an error with this request: tell its operator the request id.",
)
SHUTTING_DOWN = Refusal(
    Reason.SHUTTING_DOWN, "This gateway process is stopping: send the request again."
)
CREDENTIAL_WITHDRAWN = Refusal(
    Reason.ACCESS_WITHDRAWN,
    "Access withdrawn: your credential or your membership ended. Ask your administrator.",
    code="credential_withdrawn",
)
ACCESS_REMOVED = "Access withdrawn while this ran: "


def attempts_exceeded(wait_s: int) -> Refusal:
    """Too many refusals from one source or credential."""
    return Refusal(
        Reason.ATTEMPTS_EXCEEDED,
        f"Too many refused requests: wait {wait_s} s, and mend what was refused before.",
        retry_after_s=wait_s,
    )


def too_large(limit: int) -> Refusal:
    """The body is larger than the configured bound."""
    return Refusal(
        Reason.REQUEST_TOO_LARGE,
        f"The request body is larger than {limit} bytes: send a smaller one.",
        "The bound is the operator's setting data.max_body_bytes.",
    )


def wire_mismatch(entry: CatalogueEntry) -> Refusal:
    """The model is allowed, but is not served on this API."""
    paths = " or ".join(path_of(wire) for wire in entry.wires)
    return Refusal(Reason.WIRE_MISMATCH, f"Call it at {paths}: this API does not serve {entry.id}.")


def denied(
    judgement: Judgement, decision_id: str, entry: CatalogueEntry | None, hidden: frozenset[str]
) -> Refusal:
    """Policy refused. A hidden model's refusal is the one constant, with no decision id.

    Args:
        judgement: the one that binds.
        decision_id: of the whole call.
        entry: the model that it is about; named, so that a body with several says which.
        hidden: models that no answer names, even to those who may know of them.
    """
    decision = judgement.decision
    if decision.hides:
        return MODEL_NOT_FOUND
    first = decision.reasons[0]
    reason = {
        Effect.STEP_UP: Reason.STEP_UP_REQUIRED,
        Effect.REQUIRE_APPROVAL: Reason.APPROVAL_REQUIRED,
    }.get(decision.effect, Reason.POLICY_DENIED)
    return Refusal(
        reason,
        first.message,
        first.remedy,
        code=first.code,
        rule=first.rule,
        decision_id=decision_id,
        model=entry.id if entry is not None and entry.id not in hidden else "",
    )


def downgrade_refused(decision_id: str) -> Refusal:
    """A substitute was offered that cannot be served here."""
    return Refusal(
        Reason.POLICY_DENIED,
        "No substitute can serve this request: name a model that you may call.",
        "List your models at /v1/models; a request that names several models is not downgraded.",
        code="downgrade_refused",
        decision_id=decision_id,
    )


def withdrawn(judgement: Judgement, decision_id: str) -> Refusal:
    """A running exchange is no longer allowed."""
    first = judgement.decision.reasons[0]
    hidden = judgement.decision.hides
    return Refusal(
        Reason.ACCESS_WITHDRAWN,
        ACCESS_REMOVED + ("this model is no longer available." if hidden else first.message),
        "" if hidden else first.remedy,
        code="" if hidden else first.code,
        rule="" if hidden else first.rule,
        decision_id=decision_id,
    )


def limit_exceeded(states: Sequence[LimitState]) -> Refusal:
    """A limit refused; the longest wait is the one that counts."""
    worst = max(states, key=lambda state: state.retry_s)
    wait = max(1, -int(-worst.retry_s // 1))
    unit = worst.kind.replace("_", " ")
    what = (
        f"{worst.limit} at the same time"
        if worst.kind == "streams"
        else f"{worst.rate} per {worst.period_s} s"
    )
    return Refusal(
        Reason.LIMIT_EXCEEDED,
        f"Limit reached: {unit} per {worst.key}, {what}. Retry in {wait} s.",
        code=f"limit.{worst.name}",
        retry_after_s=wait,
        limits=tuple(states),
    )


def upstream_failed(failed: UpstreamFailed) -> Refusal:
    """The endpoint gave no answer, or one that broke off."""
    message = {
        Reason.UPSTREAM_UNREACHABLE: "The model endpoint cannot be reached: try again.",
        Reason.UPSTREAM_TIMEOUT: "The model endpoint took too long: try again.",
        Reason.UPSTREAM_TRUNCATED: "The model endpoint broke off its answer: send it again.",
    }.get(failed.reason, "The model endpoint answered with something that is not HTTP: try again.")
    return Refusal(failed.reason, message)
