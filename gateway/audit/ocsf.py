"""Records as OCSF events, for the tools that read those (schema.ocsf.io, version 1.8.0).

Pure: one record in, one event out. A record keeps its place (``metadata.uid`` is the position that
``audit show`` and ``audit prove`` take), and every field without a home in the schema stands in
``unmapped`` under its own name, so that nothing recorded is lost. A record that this version does
not know becomes a Base Event that holds it whole.

Numbers follow what the schema says they mean, not what they are called: a step-up is not a
``Challenge`` (there, a silent test for a browser) and a wanted approval is not ``Delayed`` (there,
an operation that still goes on). Both are ``Unauthorized``, and ``authorizations`` says which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import msgspec

from gateway.audit.records import VERSION, AnyRecord, Record
from gateway.core.decision import Effect
from gateway.core.reasons import Fault, Reason

__all__ = ["OCSF_VERSION", "event"]

OCSF_VERSION = "1.8.0"
PRODUCT = "Sluicegate"

Json = dict[str, Any]
Coded = tuple[int, str]
"""A number of one of the schema's enumerations, and its caption there."""

_NOTHING_KNOWN = "Unknown"
"""The name of a part that the schema requires and the record does not have."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_OTHER = 99

_BASE, _FINDING, _INCIDENT = 0, 2004, 2005
_AUTHENTICATION, _ENTITY, _PRIVILEGES = 3002, 3004, 3005
_LIFECYCLE, _API, _ERROR = 6002, 6003, 6008
_CLASSES: Mapping[int, tuple[str, str]] = {
    _BASE: ("Base Event", "Uncategorized"),
    _FINDING: ("Detection Finding", "Findings"),
    _INCIDENT: ("Incident Finding", "Findings"),
    _AUTHENTICATION: ("Authentication", "Identity & Access Management"),
    _ENTITY: ("Entity Management", "Identity & Access Management"),
    _PRIVILEGES: ("User Access Management", "Identity & Access Management"),
    _LIFECYCLE: ("Application Lifecycle", "Application Activity"),
    _API: ("API Activity", "Application Activity"),
    _ERROR: ("Application Error", "Application Activity"),
}

_UNKNOWN: Coded = (0, "Unknown")
_INFORMATIONAL: Coded = (1, "Informational")
_LOW: Coded = (2, "Low")
_MEDIUM: Coded = (3, "Medium")
_HIGH: Coded = (4, "High")

_SUCCESS: Coded = (1, "Success")
_FAILURE: Coded = (2, "Failure")
_PENDING: Coded = (_OTHER, "pending")
"""An intent has not ended: only its outcome counts as a success or a failure."""

_ALLOWED: Coded = (1, "Allowed")
_DENIED: Coded = (2, "Denied")
_MODIFIED: Coded = (4, "Modified")

_BLOCKED: Coded = (2, "Blocked")
_ACCESS_REVOKED: Coded = (24, "Access Revoked")
_REJECTED: Coded = (25, "Rejected")
_UNAUTHORIZED: Coded = (26, "Unauthorized")
_FAULTED: Coded = (27, "Error")

_ACTION_OF_EFFECT: Mapping[str, Coded] = {Effect.ALLOW: _ALLOWED, Effect.DOWNGRADE: _MODIFIED}

_DISPOSITION_OF_FAULT: Mapping[Fault, Coded] = {
    Fault.CALLER: _REJECTED,
    Fault.POLICY: _UNAUTHORIZED,
    Fault.GATEWAY: _FAULTED,
    Fault.UPSTREAM: _FAULTED,
}
_DISPOSITION_OF_REASON: Mapping[str, Coded] = {
    **{reason: _DISPOSITION_OF_FAULT[reason.fault] for reason in Reason},
    Reason.CREDENTIAL_MISSING: _UNAUTHORIZED,
    Reason.CREDENTIAL_INVALID: _UNAUTHORIZED,
    Reason.CREDENTIAL_AMBIGUOUS: _UNAUTHORIZED,
    Reason.ATTEMPTS_EXCEEDED: _BLOCKED,
    Reason.LIMIT_EXCEEDED: _BLOCKED,
}
"""A reason that is not here is a code of the policy's own."""

_STATUS_OF_OUTCOME: Mapping[str, Coded] = {"ok": _SUCCESS, "interrupted": _UNKNOWN}
"""All others failed. Nobody knows how far a call came that a crash interrupted."""

_CREATE: Coded = (1, "Create")
_START: Coded = (3, "Start")
_STOP: Coded = (4, "Stop")
_GENERAL_ERROR: Coded = (1, "General Error")
_UPDATE: Coded = (3, "Update")
_READ: Coded = (2, "Read")
_ACTIVATE: Coded = (10, "Activate")
_ASSIGN: Coded = (1, "Assign Privileges")
_REVOKE: Coded = (2, "Revoke Privileges")
_ACTIVITY_OF_VERB: Mapping[str, Coded] = {
    "add": _CREATE,
    "set": _UPDATE,
    "suspend": (12, "Suspend"),
    "resume": (13, "Resume"),
    "revoke": (9, "Disable"),
    "withdraw": (9, "Disable"),
    "erase": (4, "Delete"),
}
"""What is revoked or withdrawn keeps its row, so it is not a Delete."""

_TYPE_OF_ENTITY: Mapping[str, Coded] = {
    "member": (2, "User"),
    "organisation": (4, "Organization"),
    "policy": (5, "Policy"),
}
_TYPE_OF_USER: Mapping[str, Coded] = {"member": (1, "User"), "workload": (4, "Service")}
_TARGET: Coded = (1, "Target")
_AFFECTED: Coded = (3, "Affected")
_NEW: Coded = (1, "New")

_SHAPES: Mapping[str, type[Record]] = {
    str(kind.__struct_config__.tag): kind for kind in get_args(AnyRecord)
}
"""By name: ``convert`` takes a tenth of the time that it needs to find one in the union."""

_IN_METADATA = frozenset({"v", "type", "log", "seq", "time", "truncated"})


def event(
    record: Mapping[str, Any],
    *,
    product_version: str,
    intent: Mapping[str, Any] | None = None,
) -> Json:
    """One record as one OCSF event.

    Args:
        record: decoded JSON, as stored; nothing is changed in it.
        product_version: of the program that exports.
        intent: of an outcome, the ``access.intent`` it ends. It says who called what; without it
            caller and source of an outcome read ``Unknown``. Other records do without.

    Returns:
        The event; ``metadata.profiles`` names the profiles it uses. ``time`` is in milliseconds of
        Unix time, ``metadata.original_time`` as recorded.

    Raises:
        ValueError: ``intent`` is not the intent of this outcome.
    """
    product = {"name": PRODUCT, "vendor_name": PRODUCT, "version": product_version}
    if not _known(record):
        return _finished(_unknown(record), record, product)
    source = _Source(record, product)
    about = source
    if intent is not None and record["type"] == "access.outcome":
        about = _intent_of(record, intent, product)
    mapped = _MAPPINGS[record["type"]](source, about)
    node = source.take("gateway", "node")
    finished = _finished(mapped, record, product)
    if node:
        finished["metadata"]["reporter"] = {"name": node}
    if source.left:
        finished["unmapped"] = source.left
    return finished


class _Source:
    """A record on its way: its place, and in ``left`` the fields that have no home yet."""

    def __init__(self, record: Mapping[str, Any], product: Json) -> None:
        self.record = record
        self.product = product
        self.uid = f"{record['log']}#{record['seq']}"
        self.left: Json = {
            name: dict(value) if isinstance(value, dict) else value
            for name, value in record.items()
            if name not in _IN_METADATA
        }

    def take(self, name: str, inner: str = "") -> Any:
        """A field, or a field within one, which then is at home; ``""`` where there is none."""
        if not inner:
            return self.left.pop(name, "")
        part = self.left.get(name)
        if not part:
            return ""
        value = part.pop(inner, "")
        if not part:
            del self.left[name]
        return value


_Mapping = Callable[[_Source, _Source], Json]
"""From a record, and the record that says who called what, to the attributes of a class."""


# The frame


def _known(record: Mapping[str, Any]) -> bool:
    """Whether the record is of a version, type and shape that the mappings were written for."""
    placed = bool(record.get("log")) and _is_index(record.get("seq"))
    name = record.get("type")
    if not placed or record.get("v") != VERSION:
        return False
    if not isinstance(name, str) or name not in _MAPPINGS:
        return False
    try:
        msgspec.convert(record, _SHAPES[name])
        _milliseconds(record.get("time", ""))
    except (msgspec.ValidationError, ValueError):
        return False
    return True


def _is_index(value: object) -> bool:
    return type(value) is int and value >= 0


def _intent_of(outcome: Mapping[str, Any], intent: Mapping[str, Any], product: Json) -> _Source:
    one_call = intent.get("request_id") == outcome.get("request_id")
    if not one_call or intent.get("type") != "access.intent":
        raise ValueError("the intent that was given is not that of this outcome")
    if not _known(intent):
        raise ValueError("the intent that was given is not a record of this version")
    return _Source(intent, product)


def _finished(mapped: Json, record: Mapping[str, Any], product: Json) -> Json:
    """What every class has, around the attributes of one."""
    class_uid: int = mapped["class_uid"]
    class_name, category_name = _CLASSES[class_uid]
    activity_id: int = mapped["activity_id"]
    activity_name = "Other" if activity_id == _OTHER else mapped["activity_name"]
    return {
        **mapped,
        "category_uid": class_uid // 1000,
        "category_name": category_name,
        "class_name": class_name,
        "type_uid": class_uid * 100 + activity_id,
        "type_name": f"{class_name}: {activity_name}",
        "time": _milliseconds_or_zero(record.get("time")),
        "metadata": _metadata(mapped, record, product),
    }


def _metadata(mapped: Json, record: Mapping[str, Any], product: Json) -> Json:
    log, seq, truncated = record.get("log"), record.get("seq"), record.get("truncated")
    texts = {
        "log_name": log,
        "log_version": record.get("v"),
        "event_code": record.get("type"),
        "original_time": record.get("time"),
        "correlation_uid": record.get("request_id"),
    }
    metadata: Json = {"version": OCSF_VERSION, "product": product}
    metadata |= {name: text for name, text in texts.items() if text and isinstance(text, str)}
    if "log_name" in metadata and _is_index(seq):
        metadata |= {"uid": f"{log}#{seq}", "sequence": seq}
    if isinstance(truncated, bool):
        metadata["is_truncated"] = truncated
    if mapped["class_uid"] == _API:
        trace = ["trace"] if "trace" in mapped else []
        metadata["profiles"] = ["ai_operation", "security_control", *trace]
    return metadata


def _milliseconds(text: str) -> int:
    """Unix time in milliseconds, rounded down.

    Raises:
        ValueError: not RFC 3339 in UTC.
    """
    if not text.endswith("Z"):
        raise ValueError("a time of a record is in UTC")
    return (datetime.fromisoformat(text) - _EPOCH) // _MILLISECOND


def _milliseconds_or_zero(text: object) -> int:
    try:
        return _milliseconds(text) if isinstance(text, str) else 0
    except ValueError:
        return 0


def _activity(class_uid: int, activity: Coded, severity: Coded, message: str) -> Json:
    return {
        "class_uid": class_uid,
        "activity_id": activity[0],
        "activity_name": activity[1],
        "severity_id": severity[0],
        "severity": severity[1],
        "message": message,
    }


def _coded(name: str, coded: Coded) -> Json:
    return {f"{name}_id": coded[0], name: coded[1]}


def _present(**attributes: Any) -> Json:
    """The attributes that say something; zero does."""
    return {name: value for name, value in attributes.items() if value or value == 0}


# Calls of models


def _intent(source: _Source, about: _Source) -> Json:
    return {
        **_call(source, about, _INFORMATIONAL, "A model call was let through."),
        **_control(_action(about), _ALLOWED),
        **_coded("status", _PENDING),
        **_judged(about),
    }


def _outcome(source: _Source, about: _Source) -> Json:
    status = source.take("status")
    reason = source.record.get("reason", "")
    control, severity = _control(_action(about), _FAULTED), _LOW
    if status == "ok":
        control, severity = _control(_action(about), _ALLOWED), _INFORMATIONAL
    elif status == "client_abort":
        control = _control(_action(about), _ALLOWED)
    elif status == "policy_cut":
        control, severity = _control(_DENIED, _ACCESS_REVOKED), _MEDIUM
    elif status == "denied":
        control = _control(_DENIED, _DISPOSITION_OF_REASON.get(reason, _BLOCKED))
    call = _call(source, about, severity, "A model call ended.")
    duration = source.take("dur_ms")
    return {
        **call,
        **control,
        **_coded("status", _STATUS_OF_OUTCOME.get(status, _FAILURE)),
        "status_code": status,
        **_judged(about),
        **_answered(source),
        **_present(duration=duration),
        **_tokens(source, call.get("dst_endpoint", {}).get("svc_name", PRODUCT)),
    }


def _denied(source: _Source, about: _Source) -> Json:
    reason = source.record.get("reason", "")
    effect = (source.record.get("decision") or {}).get("effect", Effect.ALLOW)
    by_policy = effect not in _ACTION_OF_EFFECT
    disposition = _DISPOSITION_OF_REASON.get(reason, _UNAUTHORIZED if by_policy else _BLOCKED)
    return {
        **_call(source, about, _LOW, "A model call was refused."),
        **_control(_DENIED, disposition),
        **_coded("status", _FAILURE),
        **_judged(about),
        **_answered(source),
    }


def _refused_summary(source: _Source, about: _Source) -> Json:
    """Refusals of nobody known, counted over a window that ends with the record."""
    window_ms = source.take("window_s") * 1000
    end = _milliseconds(source.record["time"])
    return {
        **_call(source, about, _LOW, "Calls by nobody known were refused."),
        **_control(_DENIED, _BLOCKED),
        **_coded("status", _FAILURE),
        "count": sum(source.record["counts"].values()),
        "start_time": end - window_ms,
        "end_time": end,
        "duration": window_ms,
    }


def _call(source: _Source, about: _Source, severity: Coded, message: str) -> Json:
    """Who called what from where; ``about`` is the record that says so."""
    action = about.take("action")
    return {
        **_activity(_API, (_OTHER, action) if action else _UNKNOWN, severity, message),
        "actor": {"user": _user(about)},
        "api": {
            "operation": action or _NOTHING_KNOWN,
            **_present(
                service=_present(name=about.take("wire")),
                request=_present(uid=source.take("request_id")),
            ),
        },
        "src_endpoint": _source_endpoint(about),
        **_present(
            http_request=_present(body_length=about.take("request", "bytes")),
            trace=_present(uid=about.take("trace_id")),
        ),
        **_served(source, about),
    }


def _user(about: _Source) -> Json:
    uid = about.take("subject", "id")
    if not uid:
        return {"name": _NOTHING_KNOWN, **_coded("type", _UNKNOWN)}
    kind, credential = about.take("subject", "kind"), about.take("subject", "credential")
    shown = {"uid": credential, **_present(type=about.take("subject", "cred_kind"))}
    return {
        "uid": uid,
        **_coded("type", _TYPE_OF_USER.get(kind, (_OTHER, kind))),
        "org": {"uid": about.take("subject", "org")},
        "programmatic_credentials": [shown],
    }


def _source_endpoint(about: _Source) -> Json:
    uid, country = about.take("src", "hmac"), about.take("src", "country")
    name = {"uid": uid} if uid else {"name": _NOTHING_KNOWN}
    return {**name, **_present(location=_present(country=country))}


def _served(source: _Source, about: _Source) -> Json:
    """The model asked for, the one that answers, and where.

    The log knows endpoints and not companies, so the endpoint stands for the provider.
    """
    requested, hashed = about.take("model", "requested"), about.take("model", "requested_hmac")
    authorised, endpoint = about.take("model", "authorised"), about.take("model", "endpoint")
    endpoint = source.take("upstream", "endpoint") or endpoint
    version = source.take("served_model")
    name = authorised or requested or version
    served = {"ai_provider": endpoint or _NOTHING_KNOWN, "name": name, **_present(version=version)}
    asked = {**_present(uid_alt=hashed), "type": "model", **_coded("role", _TARGET)}
    return _present(
        ai_model=served if name else {},
        resources=[{"uid": requested, **asked}] if requested else [],
        dst_endpoint=_present(svc_name=endpoint),
    )


def _action(about: _Source) -> Coded:
    """What the decision did to a call that was let through."""
    effect = (about.record.get("decision") or {}).get("effect", Effect.ALLOW)
    return _ACTION_OF_EFFECT.get(effect, _ALLOWED)


def _control(action: Coded, disposition: Coded) -> Json:
    return {**_coded("action", action), **_coded("disposition", disposition)}


def _judged(about: _Source) -> Json:
    """The policy that decided; one authorization for each reason, with its rule."""
    effect, revision = about.take("decision", "effect"), about.take("decision", "revision")
    if not effect:
        return {}
    bundle = {"uid": revision, "type": "policy bundle"}
    policies = [
        {"uid": reason["rule"], "version": revision, "data": _without(reason, "rule")}
        for reason in about.take("decision", "reasons")
    ]
    return {
        "policy": {**bundle, "is_applied": True},
        "authorizations": [
            {"decision": effect, "policy": policy} for policy in policies or [bundle]
        ],
    }


def _without(part: Json, name: str) -> Json:
    return {key: value for key, value in part.items() if key != name}


def _answered(source: _Source) -> Json:
    """What the client was told."""
    code = source.take("http")
    # A length has no home without a status: the schema requires one of every answer.
    length = "" if code == "" else source.take("response", "bytes")
    return _present(
        status_detail=source.take("reason"),
        http_response=_present(code=code, body_length=length),
    )


def _tokens(source: _Source, service: str) -> Json:
    if not source.left.get("tokens"):
        return {}
    prompt, completion = source.take("tokens", "in"), source.take("tokens", "out")
    context = {
        "service": {"name": service},
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
    return {"message_context": context}


# Registry, policy, configuration


def _registry_changed(source: _Source, _: _Source) -> Json:
    record = source.record
    verb = record["op"].rpartition(".")[2]
    added = not record.get("digest_before") and bool(record.get("tiers"))
    changed = "tiers" in record.get("fields", ()) and verb != "erase"
    if record["kind"] == "member" and (added or changed):
        return _tiers_changed(source)
    activity = _ACTIVITY_OF_VERB.get(verb, (_OTHER, record["op"]))
    return _managed(
        source,
        _activity(_ENTITY, activity, _INFORMATIONAL, "The registry was changed."),
        source.take("kind"),
        source.take("id"),
    )


def _tiers_changed(source: _Source) -> Json:
    """The record holds the levels after the change only, so one that fell reads Assign too."""
    tiers: dict[str, int] = source.take("tiers") or {}
    activity = _ASSIGN if tiers else _REVOKE
    return {
        **_activity(_PRIVILEGES, activity, _INFORMATIONAL, "A member's tiers were changed."),
        **_coded("status", _SUCCESS),
        "user": {"uid": source.take("id")},
        "privileges": [f"{domain}={level}" for domain, level in tiers.items()],
        **_author(source),
    }


def _registry_tampered(source: _Source, _: _Source) -> Json:
    affected: list[Json] = []
    if source.record["id"]:
        kind = source.take("kind")
        affected = [{"uid": source.take("id"), "type": kind, **_coded("role", _AFFECTED)}]
    return {
        **_activity(_FINDING, _CREATE, _HIGH, "The registry is not what the log recorded."),
        **_coded("status", _NEW),
        "is_alert": True,
        "finding_info": {
            "uid": source.uid,
            "title": "The registry is not what the log recorded",
            "desc": source.take("finding"),
        },
        **_present(resources=affected),
    }


def _policy_activated(source: _Source, _: _Source) -> Json:
    activity = _activity(_ENTITY, _ACTIVATE, _INFORMATIONAL, "A policy revision became active.")
    return _managed(source, activity, "policy", source.take("revision"))


def _policy_rejected(source: _Source, _: _Source) -> Json:
    activity = _activity(_ENTITY, _ACTIVATE, _MEDIUM, "A policy revision was refused.")
    managed = _managed(source, activity, "policy", source.take("revision"))
    return {**managed, **_coded("status", _FAILURE)}


def _config_changed(source: _Source, _: _Source) -> Json:
    activity = _activity(_ENTITY, _UPDATE, _INFORMATIONAL, "The configuration was changed.")
    return _managed(source, activity, "configuration", source.take("digest_after"))


def _managed(source: _Source, activity: Json, kind: str, uid: str) -> Json:
    name = {"uid": uid} if uid else {"name": _NOTHING_KNOWN}
    return {
        **activity,
        **_coded("status", _SUCCESS),
        "entity": {**name, **_coded("type", _TYPE_OF_ENTITY.get(kind, (_OTHER, kind)))},
        **_present(comment=source.take("reason")),
        **_author(source),
    }


def _author(source: _Source) -> Json:
    """Who changed; a name that the operator gave, and not an id of the registry."""
    return _present(actor=_present(user=_present(name=source.take("actor"))))


# Staff: who signed in, what they read, what they settled


def _staff(activity: Coded, status: Coded, message: str) -> _Mapping:
    def mapped(source: _Source, _: _Source) -> Json:
        member = source.take("member") or source.take("actor")
        return {
            **_activity(_AUTHENTICATION, activity, _INFORMATIONAL, message),
            **_coded("status", status),
            **_present(status_detail=source.take("reason")),
            "user": _present(uid=member) or {"name": _NOTHING_KNOWN},
            "service": {"name": "console"},
            **_present(session=_present(uid=source.take("session"))),
            **_author(source),
        }

    return mapped


def _read(activity: Coded, severity: Coded, message: str) -> _Mapping:
    """What a member of the staff did with the record itself."""

    def mapped(source: _Source, _: _Source) -> Json:
        return {
            **_activity(_API, activity, severity, message),
            **_coded("status", _SUCCESS),
            **_present(status_detail=source.take("reason")),
            "api": {"operation": source.record["type"]},
            "src_endpoint": {"name": _NOTHING_KNOWN},
            "actor": {"user": _present(uid=source.take("actor")) or {"name": _NOTHING_KNOWN}},
        }

    return mapped


def _case(activity: Coded, status: Coded, message: str) -> _Mapping:
    def mapped(source: _Source, _: _Source) -> Json:
        uid = source.take("case")
        info = {"uid": uid or source.uid, "title": "Case", **_present(desc=source.take("reason"))}
        return {
            **_activity(_INCIDENT, activity, _MEDIUM, message),
            **_coded("status", status),
            "finding_info_list": [info],
            "assignee": _present(uid=source.take("actor")) or {"name": _NOTHING_KNOWN},
        }

    return mapped


def _approval(activity: Coded, status: Coded, message: str) -> _Mapping:
    def mapped(source: _Source, _: _Source) -> Json:
        shown = _activity(_ENTITY, activity, _INFORMATIONAL, message)
        managed = _managed(source, shown, "approval", source.take("approval"))
        return {**managed, **_coded("status", status)}

    return mapped


# The gateway and its log


def _engine_error(source: _Source, _: _Source) -> Json:
    message = source.take("reason") or "The policy engine gave no answer."
    error = _activity(_ERROR, _GENERAL_ERROR, _HIGH, message)
    return {**error, "count": source.take("count") or 1}


def _log_recovered(_source: _Source, _: _Source) -> Json:
    return _activity(_ERROR, _GENERAL_ERROR, _MEDIUM, "The log was recovered after a crash.")


def _log_opened(source: _Source, _: _Source) -> Json:
    severity = _INFORMATIONAL if source.record["clean"] else _LOW
    return _lifecycle(source, _START, severity, "The gateway opened its log.")


def _log_closed(source: _Source, _: _Source) -> Json:
    return _lifecycle(source, _STOP, _INFORMATIONAL, "The gateway closed its log.")


def _log_heartbeat(source: _Source, _: _Source) -> Json:
    alive = (_OTHER, "heartbeat")
    return _lifecycle(source, alive, _INFORMATIONAL, "The gateway's log is alive.")


def _lifecycle(source: _Source, activity: Coded, severity: Coded, message: str) -> Json:
    return {**_activity(_LIFECYCLE, activity, severity, message), "app": source.product}


def _unknown(record: Mapping[str, Any]) -> Json:
    kind = record.get("type")
    activity = (_OTHER, kind) if kind and isinstance(kind, str) else _UNKNOWN
    message = "A record of a kind that this version does not know."
    return {**_activity(_BASE, activity, _UNKNOWN, message), "unmapped": dict(record)}


_MAPPINGS: Mapping[str, _Mapping] = {
    "access.intent": _intent,
    "access.outcome": _outcome,
    "access.denied": _denied,
    "access.refused_summary": _refused_summary,
    "registry.changed": _registry_changed,
    "registry.tampered": _registry_tampered,
    "policy.activated": _policy_activated,
    "policy.rejected": _policy_rejected,
    "policy.engine_error": _engine_error,
    "config.changed": _config_changed,
    "staff.link_made": _staff((_OTHER, "link made"), _SUCCESS, "A sign-in link was made."),
    "staff.signed_in": _staff((1, "Logon"), _SUCCESS, "A member of the staff signed in."),
    "staff.signed_out": _staff((2, "Logoff"), _SUCCESS, "A member of the staff signed out."),
    "staff.refused": _staff((_OTHER, "refused"), _FAILURE, "A role did not allow an act."),
    "review.searched": _read(_READ, _INFORMATIONAL, "The record was searched."),
    "review.viewed": _read(_READ, _INFORMATIONAL, "The record was read."),
    "review.exported": _read(_READ, _LOW, "Records were exported."),
    "review.assigned": _read(_UPDATE, _INFORMATIONAL, "A reviewer took calls or gave them back."),
    "review.noted": _read(_UPDATE, _INFORMATIONAL, "A reviewer wrote a note."),
    "review.resolved": _read(_UPDATE, _INFORMATIONAL, "A reviewer settled calls."),
    "case.opened": _case(_CREATE, _NEW, "A case was opened."),
    "case.extended": _case((2, "Update"), (2, "In Progress"), "A case grew."),
    "case.closed": _case((3, "Close"), (5, "Closed"), "A case was closed."),
    "approval.requested": _approval(_CREATE, _PENDING, "An act waits for approval."),
    "approval.given": _approval(_UPDATE, _SUCCESS, "An act was approved."),
    "approval.refused": _approval(_UPDATE, _FAILURE, "An act was refused."),
    "content.revealed": _read(_READ, _MEDIUM, "Sealed content was opened."),
    "content.pruned": _read((4, "Delete"), _LOW, "Sealed content was removed."),
    "log.opened": _log_opened,
    "log.recovered": _log_recovered,
    "log.closed": _log_closed,
    "log.heartbeat": _log_heartbeat,
}
