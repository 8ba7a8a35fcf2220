"""Every record as an OCSF event, held against the schema of version 1.8.0 itself."""

import copy
import functools
import json
import re
import types
import typing
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

from gateway.audit import ocsf
from gateway.audit import records as r
from gateway.audit.note import SigningKey
from gateway.audit.read import LogReader
from gateway.audit.writer import AuditLog
from gateway.core.decision import Effect
from gateway.core.reasons import Reason

ROOT = Path(__file__).resolve().parents[2]
RAW = get_ocsf_schema(ocsf.OCSF_VERSION)
SCHEMA = OcsfJsonSchemaEmbedded(RAW)
KINDS = r.AnyRecord.__args__
ORIGIN = "example.org/gate/data-0"
TIME = "2026-07-23T10:00:00.123456789Z"
COMMON = {"v": r.VERSION, "log": ORIGIN, "seq": 7, "time": TIME}


# The schema


@functools.cache
def validator(class_uid: int, profiles: tuple[str, ...]) -> Draft202012Validator:
    schema = SCHEMA.get_class_schema(SCHEMA.lookup_class_name_from_uid(class_uid), list(profiles))
    assert schema["additionalProperties"] is False
    return Draft202012Validator(schema)


def errors(event):
    """What the schema says against an event, under the profiles that the event names."""
    judge = validator(event["class_uid"], tuple(event["metadata"].get("profiles", ())))
    return [f"{error.json_path}: {error.message}" for error in judge.iter_errors(event)]


SIBLINGS = {"activity_id": "activity_name", "class_uid": "class_name"} | {
    "category_uid": "category_name",
    "type_uid": "type_name",
}


def misnamed(event):
    """Numbers whose caption beside them is not the schema's, and attributes it has deprecated."""
    found = []

    def walk(attributes, value):
        for name, item in value.items():
            attribute = attributes[name]
            if "@deprecated" in attribute:
                found.append(f"{name} is deprecated")
            sibling = SIBLINGS.get(name, name.removesuffix("_id"))
            if "enum" in attribute and sibling != name and item != 99:
                caption = attribute["enum"][str(item)]["caption"]
                if value[sibling] != caption:
                    found.append(f"{name} {item} is {caption}, not {value[sibling]}")
            inner = RAW["objects"].get(attribute.get("object_type"), {}).get("attributes")
            for part in (item if isinstance(item, list) else [item]) if inner else ():
                walk(inner, part)

    walk(RAW["classes"][SCHEMA.lookup_class_name_from_uid(event["class_uid"])]["attributes"], event)
    return found


# Records


def stored(record):
    """A record as a reader of the log gets it."""
    return json.loads(r.encode(record))


def event_of(record, **options):
    return ocsf.event(record, product_version="1.2.3", **options)


class Numbered:
    """Values that occur once: a text or a number tells which field it came from."""

    def __init__(self):
        self.count = 9_000_000

    def of(self, hint):
        self.count += 1
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        plain = {str: f"text{self.count}", int: self.count, bool: True}
        if hint in plain:
            return plain[hint]
        if origin is typing.Literal:
            return args[-1]
        if origin is types.UnionType:
            return self.of(args[0])
        if origin is tuple:
            return (self.of(args[0]), self.of(args[0]))
        if origin is dict:
            return {self.of(args[0]): self.of(args[1])}
        fields = typing.get_type_hints(hint)
        return hint(**{name: self.of(inner) for name, inner in fields.items()})


def full(kind, /, **fields):
    """A record with every field set to a value of its own."""
    return msgspec.structs.replace(Numbered().of(kind), **COMMON, **fields)


def bare(kind, /, **fields):
    """A record with what it cannot be without."""
    numbered, hints = Numbered(), typing.get_type_hints(kind)
    needed = {field.name: numbered.of(hints[field.name]) for field in required(kind)}
    return kind(**needed | COMMON | fields)


def unlinked(kind):
    """What the writer fills by itself."""
    return {"parent": -1} if kind is r.AccessOutcome else {}


def required(kind):
    return [field for field in msgspec.structs.fields(kind) if field.required]


def variants(kind):
    """Each field and part absent in turn, beside the full and the bare record."""
    whole = full(kind)
    yield from (stored(whole), stored(bare(kind)))
    for field in msgspec.structs.fields(kind):
        if field.required or field.name in COMMON:
            continue
        without = {} if field.default is msgspec.NODEFAULT else field.default
        yield stored(msgspec.structs.replace(whole, **{field.name: without}))
    for name, part in msgspec.structs.asdict(whole).items():
        if isinstance(part, msgspec.Struct):
            needed = {field.name: getattr(part, field.name) for field in required(type(part))}
            yield stored(msgspec.structs.replace(whole, **{name: type(part)(**needed)}))


LIKELY = {
    "effect": list(Effect),
    "reason": list(Reason),
    "kind": ["member", "workload", "organisation", "credential", "issuer"],
    "op": ["member.add", "member.set", "key.revoke", "org.withdraw", "a.suspend", "a.resume"],
    "fields": [(), ("tiers",), ("name", "tiers")],
    "id": ["", "red"],
}


def likely(name, hint):
    drawn = values(hint)
    return st.one_of(st.sampled_from(LIKELY[name]), drawn) if name in LIKELY else drawn


def values(hint):
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    plain = {str: st.text(max_size=6), int: st.integers(0, 2**53 - 1), bool: st.booleans()}
    if hint in plain:
        return plain[hint]
    if origin is typing.Literal:
        return st.sampled_from(args)
    if origin is types.UnionType:
        return st.one_of(*(values(arg) for arg in args if arg is not types.NoneType))
    if origin is tuple:
        return st.lists(values(args[0]), max_size=2).map(tuple)
    if origin is dict:
        return st.dictionaries(values(args[0]), values(args[1]), max_size=2)
    hints = typing.get_type_hints(hint)
    drawn = {name: likely(name, inner) for name, inner in hints.items()}
    needed = {field.name for field in required(hint)}
    return st.fixed_dictionaries(
        {name: drawn[name] for name in needed},
        optional={name: drawn[name] for name in set(hints) - needed},
    ).map(lambda fields: hint(**fields))


ANY_RECORD = st.one_of(*(values(kind) for kind in KINDS)).map(
    lambda record: stored(msgspec.structs.replace(record, **COMMON))
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)


def leaves(value, path=()):
    if isinstance(value, dict):
        for name, item in value.items():
            yield from leaves(item, (*path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    else:
        yield path, value


def lost(record, event):
    """Leaves of a record that the event does not hold. Flags must keep their name."""
    text, kept = json.dumps(event, ensure_ascii=False), dict(leaves(event.get("unmapped", {})))
    flags = {("truncated",): event["metadata"].get("is_truncated")}
    return [
        path
        for path, value in leaves(record)
        if (
            (flags | kept).get(path) is not value
            if isinstance(value, bool)
            else str(value) not in text
        )
    ]


# Validity and completeness


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__struct_config__.tag)
def test_every_variant_of_every_record_is_valid_and_nothing_in_it_is_lost(kind):
    for record in variants(kind):
        before = copy.deepcopy(record)
        event = event_of(record)
        assert errors(event) == []
        assert misnamed(event) == []
        assert lost(record, event) == []
        assert event["class_uid"] != 0
        assert record == before


@given(ANY_RECORD)
@settings(max_examples=400, deadline=None)
def test_any_record_is_a_valid_event_of_a_class_of_its_own(record):
    event = event_of(record)
    assert errors(event) == []
    assert misnamed(event) == []
    assert event["class_uid"] != 0


@given(values(r.AccessIntent), values(r.AccessOutcome))
@settings(max_examples=150, deadline=None)
def test_any_outcome_with_any_intent_is_a_valid_event(intent, outcome):
    parent = stored(msgspec.structs.replace(intent, request_id="req_1", **COMMON))
    child = stored(msgspec.structs.replace(outcome, request_id="req_1", **COMMON))
    event = event_of(child, intent=parent)
    assert errors(event) == []
    assert misnamed(event) == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__struct_config__.tag)
def test_fields_that_a_later_version_adds_are_kept(kind):
    record = stored(full(kind)) | {"later": {"field": "new"}}
    for part in record.values():
        if isinstance(part, dict):
            part["added"] = 123
    event = event_of(record)
    assert errors(event) == []
    assert event["class_uid"] != 0
    assert event["unmapped"]["later"] == {"field": "new", "added": 123}
    parts = [name for name, part in record.items() if isinstance(part, dict) and name != "tiers"]
    assert all(event["unmapped"][name]["added"] == 123 for name in parts)


def test_records_as_the_writer_stores_them_have_their_position_and_time(tmp_path):
    log = AuditLog.open(
        tmp_path, ORIGIN, SigningKey(ORIGIN, bytes(range(32))), node=r.Gateway(node="data-0")
    )
    with log:
        for kind in KINDS:
            record = Numbered().of(kind)
            if kind in (r.AccessIntent, r.AccessOutcome):
                record = msgspec.structs.replace(record, request_id="req_1", **unlinked(kind))
            log.append_sync(record)
    entries = list(LogReader(tmp_path).entries())
    assert {entry.json()["type"] for entry in entries} == set(ocsf._MAPPINGS)
    for entry in entries:
        record, event = entry.json(), event_of(entry.json())
        assert errors(event) == []
        assert event["class_uid"] != 0
        metadata = event["metadata"]
        assert (metadata["uid"], metadata["sequence"]) == (f"{ORIGIN}#{entry.seq}", entry.seq)
        assert metadata["original_time"] == record["time"]
        assert metadata["reporter"] == {"name": "data-0"}
        assert abs(event["time"] - int(record["hlc"]) // 1_000_000) < 60_000


# The tests can fail


def broken(event):
    """Copies of an event, each with one thing that the schema does not allow."""
    changes = {
        "a required attribute is missing": lambda it: it.pop("severity_id"),
        "an attribute is not of the class": lambda it: it.update(note="x"),
        "an attribute is not of the object": lambda it: it["metadata"].update(note="x"),
        "a number is not of the enumeration": lambda it: it.update(severity_id=7),
        "the type is of another class": lambda it: it.update(type_uid=1),
        "a text stands for a number": lambda it: it.update(time="now"),
        "the product has no name": lambda it: it["metadata"].update(product={}),
    }
    for what, change in changes.items():
        copied = copy.deepcopy(event)
        change(copied)
        yield what, copied


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__struct_config__.tag)
def test_a_broken_event_is_refused(kind):
    event = event_of(stored(full(kind)))
    assert [what for what, wrong in broken(event) if not errors(wrong)] == []


def test_profiles_are_asked_for_one_by_one():
    event = event_of(stored(full(r.AccessOutcome)), intent=None)
    assert event["message_context"]
    for profile in ("ai_operation", "security_control"):
        without = copy.deepcopy(event)
        without["metadata"]["profiles"].remove(profile)
        assert errors(without)


def test_a_wrong_caption_a_deprecated_attribute_and_a_loss_are_seen():
    record = stored(full(r.RegistryChanged))
    event = event_of(record)
    assert misnamed(event | {"severity": "Fatal"}) == ["severity_id 1 is Informational, not Fatal"]
    assert misnamed(event | {"actor": {"invoked_by": "x"}}) == ["invoked_by is deprecated"]
    del event["unmapped"]["epoch"]
    assert lost(record, event) == [("epoch",)]


def homeless(union):
    """The types of a union that have no mapping."""
    return {kind.__struct_config__.tag for kind in union.__args__} - set(ocsf._MAPPINGS)


def test_every_type_of_record_has_a_mapping_and_a_new_one_without_would_be_seen():
    class Later(r.Record, frozen=True, kw_only=True, tag="later.thing"):
        """A type that nobody has mapped."""

    assert homeless(r.AnyRecord) == set()
    assert homeless(r.AnyRecord | Later) == {"later.thing"}
    assert {kind.__struct_config__.tag for kind in KINDS} == set(ocsf._MAPPINGS)


def test_the_page_about_the_format_names_the_class_of_every_type():
    page = (ROOT / "docs" / "audit-format.md").read_text()
    section = page.partition("## OCSF\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+`) \| (.+) \|", section, re.MULTILINE)
    told = {
        name: {int(number) for number in re.findall(r"\b[2-6]00\d\b", classes)}
        for names, classes in rows
        for name in re.findall(r"`([a-z_]+\.[a-z_]+)`", names)
    }
    made = {kind.__struct_config__.tag: set() for kind in KINDS}
    for kind in KINDS:
        for entity in ("member", "organisation") if kind is r.RegistryChanged else ("",):
            record = full(kind, kind=entity, fields=("tiers",)) if entity else full(kind)
            made[kind.__struct_config__.tag].add(event_of(stored(record))["class_uid"])
    assert told == made


# What this version does not know


@pytest.mark.parametrize(
    "change",
    [
        {"type": "later.thing"},
        {"v": "audit/2"},
        {"open": "many"},
        {"time": "yesterday"},
        {"time": ""},
        {"time": "2026-07-23T10:00:00"},
        {"seq": -1},
        {"log": ""},
        {"log": 5},
        {"type": ["log.heartbeat"]},
    ],
    ids=str,
)
def test_what_is_not_known_becomes_a_base_event_that_holds_it_whole(change):
    known = stored(bare(r.LogHeartbeat))
    assert event_of(known)["class_uid"] == 6002
    record = known | change
    event = event_of(record)
    assert errors(event) == []
    assert misnamed(event) == []
    assert (event["class_uid"], event["unmapped"]) == (0, record)
    assert event["severity_id"] == 0


@given(st.dictionaries(st.sampled_from([*COMMON, "type", "request_id", "truncated", "x"]), JSON))
@settings(max_examples=300, deadline=None)
def test_no_json_object_is_too_odd(record):
    event = event_of(record)
    assert errors(event) == []
    assert event["unmapped"] == record


def test_an_unknown_record_has_a_place_and_a_time_where_it_says_so():
    event = event_of(COMMON | {"type": "later.thing", "request_id": "req_1"})
    assert event["metadata"]["uid"] == f"{ORIGIN}#7"
    assert event["metadata"]["correlation_uid"] == "req_1"
    assert event["time"] == 1_784_800_800_123
    assert event["activity_name"] == "later.thing"


# Meanings


def intent(effect="allow", **fields):
    return stored(
        full(r.AccessIntent, decision=r.DecisionRef(effect=effect, revision="r"), **fields)
    )


def control(event):
    return (event["action"], event["disposition"], event["status"])


@pytest.mark.parametrize(("effect", "action"), [("allow", "Allowed"), ("downgrade", "Modified")])
def test_an_intent_is_a_call_that_was_let_through_and_has_not_ended(effect, action):
    event = event_of(intent(effect))
    assert control(event) == (action, "Allowed", "pending")
    assert event["authorizations"][0]["decision"] == effect


@pytest.mark.parametrize(
    ("effect", "reason", "disposition"),
    [
        ("deny", "licence_missing", "Unauthorized"),
        ("step_up", "mfa_stale", "Unauthorized"),
        ("require_approval", "two_persons", "Unauthorized"),
        ("deny", "policy_error", "Error"),
        ("allow", "limit_exceeded", "Blocked"),
        ("allow", "log_unavailable", "Error"),
        ("", "request_invalid", "Rejected"),
        ("", "model_not_found", "Unauthorized"),
        ("", "credential_invalid", "Unauthorized"),
        ("", "of_another_time", "Blocked"),
    ],
)
def test_a_denial_says_who_refused(effect, reason, disposition):
    decision = r.DecisionRef(effect=effect, revision="rev") if effect else None
    event = event_of(stored(full(r.AccessDenied, reason=reason, decision=decision)))
    assert control(event) == ("Denied", disposition, "Failure")
    assert event["status_detail"] == reason
    assert [one["decision"] for one in event.get("authorizations", ())] == ([effect] * bool(effect))


@pytest.mark.parametrize(
    ("status", "reason", "expected"),
    [
        ("ok", "", ("Modified", "Allowed", "Success")),
        ("denied", "log_unavailable", ("Denied", "Error", "Failure")),
        ("upstream_error", "", ("Modified", "Error", "Failure")),
        ("client_abort", "client_gone", ("Modified", "Allowed", "Failure")),
        ("policy_cut", "access_withdrawn", ("Denied", "Access Revoked", "Failure")),
        ("timeout", "upstream_timeout", ("Modified", "Error", "Failure")),
        ("interrupted", "", ("Modified", "Error", "Unknown")),
        ("shutdown", "shutting_down", ("Modified", "Error", "Failure")),
    ],
)
def test_an_outcome_says_how_the_call_ended(status, reason, expected):
    parent = intent("downgrade", request_id="req_1")
    record = stored(full(r.AccessOutcome, status=status, reason=reason, request_id="req_1"))
    event = event_of(record, intent=parent)
    assert control(event) == expected
    assert event["status_code"] == status
    alone = control(event_of(record))
    assert alone == (expected[0].replace("Modified", "Allowed"), *expected[1:])


def test_every_status_of_an_outcome_has_been_asked():
    marks = test_an_outcome_says_how_the_call_ended.pytestmark
    asked = [case[0] for mark in marks if mark.name == "parametrize" for case in mark.args[1]]
    assert sorted(asked) == sorted(typing.get_args(r.OutcomeStatus))


def test_an_outcome_with_its_intent_says_who_called_what_and_what_it_used():
    parent = stored(
        bare(
            r.AccessIntent,
            request_id="req_1",
            subject=r.SubjectRef(
                id="red", org="acme", kind="workload", credential="k1", cred_kind="api_key"
            ),
            src=r.SourceRef(hmac="h1", country="DE"),
            wire="messages",
            action="model.generate",
            model=r.ModelRef(requested="mythos-5", authorised="mythos-5-safe", endpoint="east"),
            decision=r.DecisionRef(
                effect="downgrade", revision="rev1", reasons=(r.ReasonRef(code="c", rule="p.q"),)
            ),
            request=r.RequestRef(bytes=0),
            trace_id="4bf9",
        )
    )
    record = stored(
        bare(
            r.AccessOutcome,
            request_id="req_1",
            status="ok",
            http=200,
            upstream=r.UpstreamRef(endpoint="east", request_id="u1", status=200),
            served_model="mythos-5-safe-2026",
            tokens=r.Tokens(input=5, output=0, usage_source="upstream", cached=2),
            response=r.ResponseRef(bytes=0),
            dur_ms=30,
        )
    )
    event = event_of(record, intent=parent)
    assert errors(event) == []
    assert (event["class_uid"], event["type_uid"]) == (6003, 600399)
    assert event["activity_name"] == "model.generate"
    assert event["actor"]["user"] == {
        "uid": "red",
        "type_id": 4,
        "type": "Service",
        "org": {"uid": "acme"},
        "programmatic_credentials": [{"uid": "k1", "type": "api_key"}],
    }
    assert event["src_endpoint"] == {"uid": "h1", "location": {"country": "DE"}}
    assert event["api"] == {
        "operation": "model.generate",
        "service": {"name": "messages"},
        "request": {"uid": "req_1"},
    }
    assert event["ai_model"] == {
        "ai_provider": "east",
        "name": "mythos-5-safe",
        "version": "mythos-5-safe-2026",
    }
    assert event["resources"][0]["uid"] == "mythos-5"
    assert event["policy"] == {"uid": "rev1", "type": "policy bundle", "is_applied": True}
    assert event["authorizations"] == [
        {
            "decision": "downgrade",
            "policy": {"uid": "p.q", "version": "rev1", "data": {"code": "c"}},
        }
    ]
    assert event["message_context"] == {
        "service": {"name": "east"},
        "prompt_tokens": 5,
        "completion_tokens": 0,
        "total_tokens": 5,
    }
    assert event["http_request"] == {"body_length": 0}
    assert event["http_response"] == {"code": 200, "body_length": 0}
    assert (event["duration"], event["trace"]) == (30, {"uid": "4bf9"})
    assert event["metadata"]["correlation_uid"] == "req_1"
    assert event["metadata"]["profiles"] == ["ai_operation", "security_control", "trace"]
    assert event["metadata"]["product"]["version"] == "1.2.3"
    assert event["unmapped"] == {
        "upstream": {"request_id": "u1", "status": 200},
        "tokens": {"usage_source": "upstream", "cached": 2},
    }
    alone = event_of(record)
    assert alone["actor"]["user"]["name"] == alone["src_endpoint"]["name"] == "Unknown"


@pytest.mark.parametrize(
    "other", [{"request_id": "req_2"}, {"type": "access.denied"}, {"v": "audit/2"}], ids=str
)
def test_the_intent_of_another_call_is_refused(other):
    outcome = stored(bare(r.AccessOutcome, request_id="req_1"))
    parent = intent(request_id="req_1")
    assert event_of(outcome, intent=parent)
    with pytest.raises(ValueError, match="the intent"):
        event_of(outcome, intent=parent | other)


def test_an_intent_beside_another_record_changes_nothing():
    parent = intent(request_id="req_1")
    assert event_of(parent, intent=parent) == event_of(parent)


def changed(**fields):
    return event_of(stored(bare(r.RegistryChanged, **{"id": "red", "actor": "ops"} | fields)))


@pytest.mark.parametrize(
    ("fields", "type_name"),
    [
        ({"kind": "member", "op": "member.add"}, "Entity Management: Create"),
        ({"kind": "member", "op": "member.set"}, "Entity Management: Update"),
        ({"kind": "credential", "op": "credential.suspend"}, "Entity Management: Suspend"),
        ({"kind": "credential", "op": "credential.resume"}, "Entity Management: Resume"),
        ({"kind": "credential", "op": "credential.revoke"}, "Entity Management: Disable"),
        ({"kind": "organisation", "op": "organisation.withdraw"}, "Entity Management: Disable"),
        ({"kind": "issuer", "op": "issuer.turn"}, "Entity Management: Other"),
        (
            {"kind": "member", "op": "member.add", "tiers": {"cyber": 2}},
            "User Access Management: Assign Privileges",
        ),
        (
            {
                "kind": "member",
                "op": "member.set",
                "digest_before": "d",
                "fields": ("tiers",),
                "tiers": {"cyber": 2},
            },
            "User Access Management: Assign Privileges",
        ),
        (
            {"kind": "member", "op": "member.set", "digest_before": "d", "fields": ("tiers",)},
            "User Access Management: Revoke Privileges",
        ),
        (
            {
                "kind": "member",
                "op": "member.revoke",
                "digest_before": "d",
                "fields": ("status",),
                "tiers": {"cyber": 2},
            },
            "Entity Management: Disable",
        ),
        (
            {
                "kind": "organisation",
                "op": "organisation.set",
                "digest_before": "d",
                "fields": ("tiers",),
                "tiers": {"cyber": 2},
            },
            "Entity Management: Update",
        ),
    ],
)
def test_a_change_of_the_registry_is_of_an_entity_or_of_a_members_tiers(fields, type_name):
    event = changed(**fields)
    assert event["type_name"] == type_name
    assert errors(event) == []
    assert event["actor"] == {"user": {"name": "ops"}}
    if event["class_uid"] == 3005:
        assert event["user"] == {"uid": "red"}
        assert event["privileges"] == [
            f"{name}={level}" for name, level in fields.get("tiers", {}).items()
        ]
    else:
        assert event["entity"]["uid"] == "red"


def test_anonymous_refusals_are_one_counted_event_over_their_window():
    record = stored(
        bare(
            r.AccessRefusedSummary,
            window_s=60,
            counts={"credential_missing": 2, "credential_invalid": 3},
            sources={"h1": 4},
            other=1,
        )
    )
    event = event_of(record)
    assert event["count"] == 5
    assert event["end_time"] - event["start_time"] == event["duration"] == 60_000
    assert event["unmapped"] == {"counts": record["counts"], "sources": {"h1": 4}, "other": 1}


def test_a_tampered_row_is_an_alert_and_a_tampered_file_one_without_a_row():
    row = event_of(stored(bare(r.RegistryTampered, kind="member", id="red", finding="why")))
    assert (row["class_uid"], row["is_alert"], row["status"]) == (2004, True, "New")
    assert row["finding_info"]["uid"] == f"{ORIGIN}#7"
    assert row["finding_info"]["desc"] == "why"
    assert row["resources"][0]["uid"] == "red"
    file = event_of(stored(bare(r.RegistryTampered, kind="", id="", finding="why")))
    assert "resources" not in file
    assert errors(file) == []


def test_a_revision_that_was_refused_is_a_failed_activation():
    refused = event_of(stored(bare(r.PolicyRejected, findings=("a", "b"))))
    assert (refused["type_name"], refused["status"]) == ("Entity Management: Activate", "Failure")
    assert refused["entity"]["name"] == "Unknown"
    assert refused["unmapped"] == {"findings": ["a", "b"]}
    active = event_of(stored(bare(r.PolicyActivated, revision="rev2", reason="why")))
    assert (active["type_uid"], active["status"]) == (300410, "Success")
    assert (active["entity"]["uid"], active["comment"]) == ("rev2", "why")


def test_the_gateways_own_life_and_errors():
    names = {
        kind: event_of(stored(bare(kind)))["type_name"]
        for kind in (r.LogOpened, r.LogClosed, r.LogHeartbeat, r.LogRecovered, r.PolicyEngineError)
    }
    assert list(names.values()) == [
        "Application Lifecycle: Start",
        "Application Lifecycle: Stop",
        "Application Lifecycle: Other",
        "Application Error: General Error",
        "Application Error: General Error",
    ]
    assert event_of(stored(full(r.PolicyEngineError, reason="no answer")))["message"] == "no answer"
    unclean = event_of(stored(bare(r.LogOpened, clean=False)))
    assert (unclean["severity"], unclean["unmapped"]["clean"]) == ("Low", False)


def test_a_record_that_was_cut_says_so():
    cut = event_of(stored(bare(r.PolicyActivated, reason="x" * 600)))
    assert cut["metadata"]["is_truncated"] is True
    assert "is_truncated" not in event_of(stored(bare(r.PolicyActivated)))["metadata"]
