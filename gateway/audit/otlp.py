"""Records as OpenTelemetry log records, in the JSON of OTLP/HTTP.

Pure; opentelemetry.io/docs/specs/otlp has the form. Names of attributes are those of
OpenTelemetry's GenAI conventions where there is one, else the gateway's own: ``access.…``,
``sluicegate.…``. The body is the exact record.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from gateway.audit.stream import Encoding, Item

__all__ = ["otlp_encoding", "rejected_by"]

_TRACE = re.compile(r"[0-9a-f]{32}")
_INFO, _WARN, _ERROR = (9, "INFO"), (13, "WARN"), (17, "ERROR")
_SEVERITY = {
    "access.denied": _WARN,
    "access.refused_summary": _WARN,
    "registry.tampered": _ERROR,
    "policy.rejected": _WARN,
    "policy.engine_error": _ERROR,
    "log.recovered": _WARN,
    "export.replaced": _WARN,
}
_ATTRIBUTES = (
    ("sluicegate.request_id", ("request_id",)),
    ("sluicegate.decision_id", ("decision_id",)),
    ("gen_ai.operation.name", ("action",)),
    ("gen_ai.request.model", ("model", "requested")),
    ("gen_ai.request.stream", ("request", "stream")),
    ("gen_ai.request.max_tokens", ("request", "max_output_tokens")),
    ("gen_ai.response.model", ("served_model",)),
    ("gen_ai.usage.input_tokens", ("tokens", "in")),
    ("gen_ai.usage.output_tokens", ("tokens", "out")),
    ("gen_ai.usage.cache_read.input_tokens", ("tokens", "cached")),
    ("gen_ai.usage.reasoning.output_tokens", ("tokens", "reasoning")),
    ("http.response.status_code", ("http",)),
    ("user.id", ("subject", "id")),
    ("access.organisation.id", ("subject", "org")),
    ("access.engagement.id", ("subject", "engagement")),
    ("access.decision", ("decision", "effect")),
    ("access.policy.digest", ("decision", "revision")),
    ("access.outcome", ("status",)),
    ("host.name", ("gateway", "node")),
)
"""What is told beside the body, and where it stands in a record or in the intent that it ends."""


def otlp_encoding(product_version: str) -> Encoding:
    """An export request; the key of each record is its attribute ``sluicegate.key``."""
    resource = {
        "attributes": _pairs([("service.name", "sluicegate"), ("service.version", product_version)])
    }
    scope = {"name": "sluicegate.audit", "version": product_version}
    head = b'{"resourceLogs":[{"resource":%s,"scopeLogs":[{"scope":%s,"logRecords":[' % (
        msgspec.json.encode(resource),
        msgspec.json.encode(scope),
    )
    return Encoding(_event, head, b",", b"]}]}]}")


def rejected_by(body: bytes) -> str:
    """What a collector's 200 says of records that it did not take; empty where it took all."""
    try:
        answer = msgspec.json.decode(body or b"{}")
        partial = answer.get("partialSuccess") or {}
        count = int(partial.get("rejectedLogRecords") or 0)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, TypeError, AttributeError):
        return ""
    return f"{count} records rejected: {partial.get('errorMessage', '')}" if count > 0 else ""


def _event(item: Item) -> bytes:
    number, text = _SEVERITY.get(str(item.record.get("type")), _INFO)
    about: dict[str, Any] = {
        "timeUnixNano": str(item.time_ns),
        "severityNumber": number,
        "severityText": text,
        "eventName": str(item.record.get("type", "")),
        "body": {"stringValue": item.raw.decode("utf-8", "replace")},
        "attributes": _pairs(_attributes(item)),
    }
    trace = _found(item, ("trace_id",))
    if isinstance(trace, str) and _TRACE.fullmatch(trace) and trace.strip("0"):
        about["traceId"] = trace
    return msgspec.json.encode(about)


def _attributes(item: Item) -> Iterator[tuple[str, Any]]:
    yield "sluicegate.key", item.key
    yield "sluicegate.log", str(item.record["log"])
    for name, path in _ATTRIBUTES:
        yield name, _found(item, path)
    tiers = _found(item, ("subject", "tiers"))
    if isinstance(tiers, dict):
        told = [f"{domain}={level}" for domain, level in tiers.items()]
        yield "access.tier", told
    decision = item.record.get("decision")
    reasons = decision.get("reasons") if isinstance(decision, dict) else None
    if isinstance(reasons, list):
        yield "access.reasons", [each.get("code", "") for each in reasons if isinstance(each, dict)]
    finish = _found(item, ("response", "finish"))
    if finish:
        yield "gen_ai.response.finish_reasons", [str(finish)]
    reason = item.record.get("reason")
    if reason and item.record.get("type") in ("access.outcome", "access.denied"):
        yield "error.type", reason


def _found(item: Item, path: tuple[str, ...]) -> Any:
    for source in (item.record, item.intent or {}):
        value: Any = source
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            return value
    return None


def _pairs(attributes: Any) -> list[dict[str, Any]]:
    """Key-value pairs; what says nothing is left out."""
    return [
        {"key": name, "value": _value(value)}
        for name, value in attributes
        if value is not None and value not in ("", [])
    ]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, list):
        return {"arrayValue": {"values": [_value(each) for each in value]}}
    return {"stringValue": str(value)}
