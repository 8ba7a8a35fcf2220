"""The one table: dialect x reason -> status, headers and body of the gateway's own answers.

Measured behaviour of real clients decides the statuses (each wrong choice costs a storm of POSTs):

* **Policy denial**: 403 with ``x-should-retry: false`` on Chat, Messages and the rest. On Responses
  400: Codex sends a 403 six times, a 400 once. ``denial_status`` overrides this by dialect.
* **``code`` on Responses**: Codex prints ``message`` cleanly for ``cyber_policy``, ``bio_policy``
  and ``invalid_prompt``, the raw JSON for every other. We use ``invalid_prompt`` for denials and
  for bodies we cannot take: the other two are a provider's verdict on content, which clients and
  monitors count, and which a gateway must not forge. Step-up and approval say
  ``approval_required``. On the other dialects ``code`` is the policy's own.
* **Gateway faults**: 503 with ``x-should-retry: false``; on Responses with the code
  ``server_is_overloaded``, which makes five POSTs of Codex's thirty.
* **Limits**: 429. A wait of at most 60 s is told by ``Retry-After`` in whole seconds. A longer one
  adds ``x-should-retry: false``, for some SDKs would sleep the hour; on Responses it leaves
  ``Retry-After`` out, for Codex sleeps whatever ``x-should-retry`` says.
* **No such model**: one constant answer, 404, whatever the refusal holds besides its reason, so
  that an embargoed model cannot be told from a missing one (invariant 8).

On every dialect our own reason code stands in ``x-sluicegate-reason`` and at the end of the
message; the request id in ``request-id`` (Anthropic) or ``x-request-id`` (OpenAI).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gateway.core.reasons import Fault, Reason
from gateway.core.refusal import Refusal
from gateway.wire.dialects import Dialect
from gateway.wire.headers import Header
from gateway.wire.rate_headers import rate_headers

__all__ = ["MODEL_NOT_FOUND_MESSAGE", "Answer", "Row", "answer", "error_body", "row_of"]

LONGEST_TOLD_WAIT_S: Final = 60
MODEL_NOT_FOUND_MESSAGE: Final = (
    "This model does not exist, or this credential may not use it. "
    "List the models it may use: GET /v1/models, with anthropic-version those of Messages."
)

_HEADER_SAFE: Final = re.compile(r"[A-Za-z0-9_.:/-]{1,128}\Z")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    ``type`` and ``code`` are OpenAI's, ``anthropic`` is Anthropic's error type, ``responses_code``
    the code on Responses. ``code`` empty: the refusal's own. ``retry`` False: the client is told
    not to. ``close``: the request was not read to its end, so the connection cannot go on.
    """

    status: int
    type: str
    code: str
    anthropic: str
    responses_code: str = ""
    retry: bool = False
    close: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole HTTP response."""

    status: int
    headers: list[Header]
    body: bytes


_INVALID: Final = "invalid_request_error"
_DENIAL: Final = Row(403, "permission_error", "", "permission_error", "invalid_prompt")
_APPROVAL: Final = Row(
    403, "permission_error", "approval_required", "permission_error", "approval_required"
)
_CREDENTIAL: Final = Row(401, "authentication_error", "invalid_api_key", "authentication_error")
_LIMIT: Final = Row(429, "rate_limit_error", "rate_limit_exceeded", "rate_limit_error")
_FAULT: Final = Row(503, "server_error", "", "api_error", "server_is_overloaded")


def _bad(status: int, *, close: bool = False, anthropic: str = "invalid_request_error") -> Row:
    return Row(status, _INVALID, "", anthropic, "invalid_prompt", close=close)


def _upstream(status: int, *, retry: bool = True, anthropic: str = "api_error") -> Row:
    return Row(status, "server_error", "", anthropic, "server_error", retry=retry)


_TABLE: Final[Mapping[Reason, Row]] = {
    Reason.ROUTE_NOT_FOUND: _bad(404, anthropic="not_found_error"),
    Reason.WEBSOCKET_NOT_OFFERED: _bad(426, close=True),
    Reason.FRAMING_INVALID: _bad(400, close=True),
    Reason.CREDENTIAL_MISSING: _CREDENTIAL,
    Reason.CREDENTIAL_INVALID: _CREDENTIAL,
    Reason.CREDENTIAL_AMBIGUOUS: _CREDENTIAL,
    Reason.ATTEMPTS_EXCEEDED: _LIMIT,
    Reason.REQUEST_INVALID: _bad(400),
    Reason.REQUEST_TOO_LARGE: _bad(413, close=True, anthropic="request_too_large"),
    Reason.REQUEST_TIMEOUT: _bad(408, close=True),
    Reason.ENCODING_UNSUPPORTED: _bad(415, close=True),
    Reason.OBJECT_REFERENCE_UNSUPPORTED: _bad(400),
    Reason.MODEL_NOT_FOUND: Row(
        404, _INVALID, "model_not_found", "not_found_error", "model_not_found"
    ),
    Reason.WIRE_MISMATCH: _bad(400),
    Reason.POLICY_DENIED: _DENIAL,
    Reason.STEP_UP_REQUIRED: _APPROVAL,
    Reason.APPROVAL_REQUIRED: _APPROVAL,
    Reason.ACCESS_WITHDRAWN: _DENIAL,
    Reason.LIMIT_EXCEEDED: _LIMIT,
    Reason.UPSTREAM_UNREACHABLE: _upstream(502),
    Reason.UPSTREAM_TIMEOUT: _upstream(504, anthropic="timeout_error"),
    Reason.UPSTREAM_CREDENTIAL: _upstream(502, retry=False),
    Reason.UPSTREAM_PROTOCOL: _upstream(502),
    Reason.UPSTREAM_TRUNCATED: _upstream(502),
    # Nobody reads these two; they have a row so that every reason has one.
    Reason.CLIENT_STALLED: _bad(408, close=True),
    Reason.CLIENT_GONE: _bad(499, close=True),
    **{reason: _FAULT for reason in Reason if reason.fault is Fault.GATEWAY},
}


def row_of(reason: Reason) -> Row:
    """The table's line for a reason; total over ``Reason``."""
    return _TABLE[reason]


def answer(
    dialect: Dialect,
    refusal: Refusal,
    request_id: str,
    *,
    now: float = 0.0,
    denial_status: Mapping[Dialect, int] | None = None,
    appeal: str = "",
) -> Answer:
    """The response to send for a refusal.

    Args:
        dialect: the caller's own error format.
        refusal: why; for ``MODEL_NOT_FOUND`` only the reason is used.
        request_id: ours, the same that is in the log.
        now: Unix seconds, for rate-limit resets.
        denial_status: status of a policy denial by dialect, where it differs from the table.
        appeal: where to appeal a denial: an operator's text or address.
    """
    row = row_of(refusal.reason)
    status = row.status
    if row in (_DENIAL, _APPROVAL):
        status = (denial_status or {}).get(dialect, 400 if dialect is Dialect.RESPONSES else status)
    body = msgspec.json.encode(error_body(dialect, refusal, request_id, appeal=appeal))
    headers = _headers(dialect, refusal, request_id, row)
    headers += _retry_headers(dialect, refusal, row)
    if refusal.reason is not Reason.MODEL_NOT_FOUND:
        headers += rate_headers(dialect, refusal.limits, now)
    headers.append((b"content-length", b"%d" % len(body)))
    return Answer(status, headers, body)


def error_body(
    dialect: Dialect, refusal: Refusal, request_id: str, *, appeal: str = ""
) -> dict[str, Any]:
    """The error object as this dialect has it; a stream's error event holds the same."""
    row = row_of(refusal.reason)
    message = _message(refusal, appeal)
    if dialect is Dialect.ANTHROPIC:
        return {
            "type": "error",
            "error": {"type": row.anthropic, "message": message},
            "request_id": request_id,
        }
    code = row.code or _reason_code(refusal)
    if dialect is Dialect.RESPONSES:
        code = row.responses_code or code
    return {"error": {"message": message, "type": row.type, "param": None, "code": code}}


def _reason_code(refusal: Refusal) -> str:
    if refusal.reason is Reason.MODEL_NOT_FOUND:
        return Reason.MODEL_NOT_FOUND.value
    return refusal.code or refusal.reason.value


def _message(refusal: Refusal, appeal: str) -> str:
    """What happened and what to do; then, after that stands, what to quote and where."""
    if refusal.reason is Reason.MODEL_NOT_FOUND:
        return MODEL_NOT_FOUND_MESSAGE
    message = refusal.message
    words = [message if message.endswith((".", "!", "?")) else message + ".", refusal.remedy]
    tail = [f"code={_reason_code(refusal)}"]
    if refusal.model:
        tail.append(f"model={refusal.model}")
    if refusal.rule:
        tail.append(f"rule={refusal.rule}")
    if refusal.decision_id:
        tail.append(f"decision={refusal.decision_id}")
    words.append(f"[{' '.join(tail)}]")
    if appeal and refusal.reason.fault is Fault.POLICY:
        words.append(f"Appeal: {appeal}")
    return " ".join(word for word in words if word)


def _headers(dialect: Dialect, refusal: Refusal, request_id: str, row: Row) -> list[Header]:
    name = b"request-id" if dialect is Dialect.ANTHROPIC else b"x-request-id"
    headers = [
        (b"content-type", b"application/json"),
        (b"cache-control", b"no-store"),
        (name, request_id.encode()),
    ]
    headers += _own(b"x-sluicegate-reason", _reason_code(refusal))
    if refusal.reason is not Reason.MODEL_NOT_FOUND:
        headers += _own(b"x-sluicegate-decision-id", refusal.decision_id)
    if row is _CREDENTIAL:
        headers.append((b"www-authenticate", b'Bearer realm="sluicegate"'))
    if row.status == 426:  # noqa: PLR2004 - RFC 9110 15.5.22 wants to know what to use instead
        headers += [(b"upgrade", b"HTTP/1.1"), (b"connection", b"upgrade, close")]
    elif row.close:
        headers.append((b"connection", b"close"))
    return headers


def _retry_headers(dialect: Dialect, refusal: Refusal, row: Row) -> list[Header]:
    if row is not _LIMIT:
        return [] if row.retry else [(b"x-should-retry", b"false")]
    wait = refusal.retry_after_s
    if wait is None:
        wait = max((limit.retry_s for limit in refusal.limits), default=0.0)
    seconds = max(1, math.ceil(wait))
    told = (b"retry-after", b"%d" % seconds)
    if 0 < seconds <= LONGEST_TOLD_WAIT_S and wait > 0:
        return [told]
    never = (b"x-should-retry", b"false")
    return [never] if dialect is Dialect.RESPONSES or wait <= 0 else [never, told]


def _own(name: bytes, value: str) -> list[Header]:
    """A header of ours; a value that is no plain label is left out, never sent bent."""
    return [(name, value.encode())] if _HEADER_SAFE.match(value) else []
