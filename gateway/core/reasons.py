"""Why the gateway itself refused: one closed enumeration.

Policy has reason codes of its own (labels in ``Decision.reasons``); those reach the caller under
``Reason.POLICY_DENIED``, ``STEP_UP_REQUIRED`` or ``APPROVAL_REQUIRED``. The one exception is the
policy code ``model_not_found``, which becomes ``MODEL_NOT_FOUND`` so that an embargoed model and
one that does not exist are the same value from there on (invariant 8).
"""

from __future__ import annotations

from enum import StrEnum

__all__ = ["POLICY_MODEL_NOT_FOUND", "Fault", "Reason"]

POLICY_MODEL_NOT_FOUND = "model_not_found"
"""The policy reason code that hides a model's existence."""


class Fault(StrEnum):
    """Who has to act for the same call to succeed."""

    CALLER = "caller"
    POLICY = "policy"
    GATEWAY = "gateway"
    UPSTREAM = "upstream"


class Reason(StrEnum):
    """A refusal or a cut, as recorded, metered and mapped to a status by the wire table."""

    # Step 0, route
    ROUTE_NOT_FOUND = "route_not_found"
    WEBSOCKET_NOT_OFFERED = "websocket_not_offered"
    FRAMING_INVALID = "framing_invalid"
    # Step 1, identify
    CREDENTIAL_MISSING = "credential_missing"
    CREDENTIAL_INVALID = "credential_invalid"
    CREDENTIAL_AMBIGUOUS = "credential_ambiguous"
    ATTEMPTS_EXCEEDED = "attempts_exceeded"
    REGISTRY_STALE = "registry_stale"
    # Step 2, read
    REQUEST_INVALID = "request_invalid"
    REQUEST_TOO_LARGE = "request_too_large"
    REQUEST_TIMEOUT = "request_timeout"
    ENCODING_UNSUPPORTED = "encoding_unsupported"
    OBJECT_REFERENCE_UNSUPPORTED = "object_reference_unsupported"
    MEMORY_BUDGET_SPENT = "memory_budget_spent"
    # Step 3, decide
    MODEL_NOT_FOUND = "model_not_found"
    WIRE_MISMATCH = "wire_mismatch"
    POLICY_DENIED = "policy_denied"
    STEP_UP_REQUIRED = "step_up_required"
    APPROVAL_REQUIRED = "approval_required"
    POLICY_ERROR = "policy_error"
    # Step 4, admit
    LIMIT_EXCEEDED = "limit_exceeded"
    LIMITER_UNAVAILABLE = "limiter_unavailable"
    # Step 5, record
    LOG_UNAVAILABLE = "log_unavailable"
    CONTENT_KEYS_MISSING = "content_keys_missing"
    # Steps 6 and 7, forward and relay
    UPSTREAM_UNREACHABLE = "upstream_unreachable"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    UPSTREAM_CREDENTIAL = "upstream_credential"
    UPSTREAM_PROTOCOL = "upstream_protocol"
    UPSTREAM_TRUNCATED = "upstream_truncated"
    ACCESS_WITHDRAWN = "access_withdrawn"
    CLIENT_STALLED = "client_stalled"
    CLIENT_GONE = "client_gone"
    # Any step
    SHUTTING_DOWN = "shutting_down"
    INTERNAL_ERROR = "internal_error"

    @property
    def fault(self) -> Fault:
        """Who has to act."""
        return _FAULTS.get(self, Fault.CALLER)


_FAULTS = {
    Reason.POLICY_DENIED: Fault.POLICY,
    Reason.STEP_UP_REQUIRED: Fault.POLICY,
    Reason.APPROVAL_REQUIRED: Fault.POLICY,
    Reason.MODEL_NOT_FOUND: Fault.POLICY,
    Reason.ACCESS_WITHDRAWN: Fault.POLICY,
    Reason.REGISTRY_STALE: Fault.GATEWAY,
    Reason.MEMORY_BUDGET_SPENT: Fault.GATEWAY,
    Reason.POLICY_ERROR: Fault.GATEWAY,
    Reason.LIMITER_UNAVAILABLE: Fault.GATEWAY,
    Reason.LOG_UNAVAILABLE: Fault.GATEWAY,
    Reason.CONTENT_KEYS_MISSING: Fault.GATEWAY,
    Reason.SHUTTING_DOWN: Fault.GATEWAY,
    Reason.INTERNAL_ERROR: Fault.GATEWAY,
    Reason.UPSTREAM_UNREACHABLE: Fault.UPSTREAM,
    Reason.UPSTREAM_TIMEOUT: Fault.UPSTREAM,
    Reason.UPSTREAM_CREDENTIAL: Fault.UPSTREAM,
    Reason.UPSTREAM_PROTOCOL: Fault.UPSTREAM,
    Reason.UPSTREAM_TRUNCATED: Fault.UPSTREAM,
}
