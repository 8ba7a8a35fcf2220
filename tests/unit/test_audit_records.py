"""What records look like as bytes, sealed facts, and bounded summaries."""

import hashlib
import json

import msgspec
import pytest

from gateway.audit import records as r
from gateway.audit.seal import MAX_FACTS_BYTES, SealError, open_sealed, seal
from gateway.audit.summary import MAX_SOURCES, RefusalSummary

KEY = b"k" * 32


def example(kind: type[r.Record]) -> r.Record:
    """Any record of a type, with every field set."""
    subject = r.SubjectRef(
        id="red", org="acme", kind="member", credential="c1", cred_kind="api_key", engagement="e1"
    )
    source = r.SourceRef(hmac="h", labels=("office",), country="DE")
    model = r.ModelRef(requested="unknown", requested_hmac="h", authorised="m", endpoint="e")
    decision = r.DecisionRef(
        effect="deny",
        revision="rev",
        reasons=(r.ReasonRef(code="tier", rule="tiers.cyber"),),
        directives=("d1",),
        review=True,
        memo=True,
        eval_us=1,
    )
    content = r.ContentRef(
        digest="d", sealed_sha256="s", segment="s", offset=8, kept=1, truncated=True
    )
    known = {
        "ranges": (r.ContentRange(segment="s", start=8, end=9),),
        "request_id": "req_1",
        "status": "ok",
        "subject": subject,
        "src": source,
        "model": model,
        "decision": decision,
        "limits": (r.LimitTaken(name="requests", key="subject", limit=5, left=4),),
        "request": r.RequestRef(bytes=9, content=content, edits=("model",), stream=True),
        "facts": r.FactsRef(commitment="c", sealed_sha256="s"),
        "upstream": r.UpstreamRef(endpoint="e", request_id="u", status=200),
        "tokens": r.Tokens(input=1, output=2, usage_source="upstream", cached=3),
        "response": r.ResponseRef(bytes=1, content=content, finish="stop"),
        "counts": {"credential_missing": 2},
        "sources": {"b": 1, "a": 1},
        "findings": ("one",),
        "fields": ("tiers",),
        "tiers": {"cyber": 3},
        "clock": "ok",
        "gateway": r.Gateway(node="n"),
        "span": r.Span(subject="red", credential="red-1", since="1", until="2"),
        "roles": ("reviewer",),
        "eligible": ("ann",),
    }
    values = {}
    for field in msgspec.structs.fields(kind):
        plain = {int: 7, bool: True, str: "text"}.get(field.type, "text")
        values[field.name] = known.get(field.name, plain)
    return kind(**values)


ALL = r.AnyRecord.__args__


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_record_is_sorted_compact_json_without_floats_and_reads_back(kind):
    record = example(kind)
    raw = r.encode(record)
    plain = json.loads(raw, parse_float=lambda _: pytest.fail("a float"))
    again = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert raw == again.encode()
    assert plain["type"] == kind.__struct_config__.tag
    assert r.decode(raw) == record


def test_fields_that_a_later_version_adds_are_passed_over_and_other_types_refused():
    raw = b'{"open":1,"seq":3,"type":"log.heartbeat","v":"audit/1","zone":"new"}'
    assert r.decode(raw) == r.LogHeartbeat(open=1, seq=3, v="audit/1")
    with pytest.raises(ValueError, match="not a record"):
        r.decode(b'{"type":"other"}')


def test_free_text_is_capped_and_says_so():
    record = r.PolicyActivated(revision="r", actor="a", reason="é" * 600)
    assert (len(record.reason), record.truncated) == (r.MAX_TEXT, True)
    assert not r.PolicyActivated(revision="r", actor="a", reason="why").truncated
    rejected = r.PolicyRejected(findings=("x" * 600,) * 40)
    assert (len(rejected.findings), len(rejected.findings[0])) == (r.MAX_FINDINGS, r.MAX_TEXT)
    assert rejected.truncated
    assert not r.PolicyRejected(findings=("x",)).truncated


def test_what_cannot_be_kept_is_refused():
    with pytest.raises(ValueError, match="at most"):
        r.encode(r.RegistryTampered(kind="member", id="m", finding="x" * 40_000))
    with pytest.raises(ValueError, match=r"surrogate|utf-8"):
        r.encode(r.RegistryTampered(kind="member", id="m", finding="\ud800"))


def test_sealed_facts_open_with_the_subjects_key_alone():
    ref, payload = seal(b'{"a":1}', KEY, "req_1", 5)
    assert open_sealed(payload, KEY, "req_1", 5, ref) == b'{"a":1}'
    flipped = bytes([*payload[:-1], payload[-1] ^ 1])
    other, another = seal(b'{"a":1}', KEY, "req_1", 5)
    assert other.commitment != ref.commitment, "equal facts must not show in the leaf"
    for args in (
        (payload, b"x" * 32, "req_1", 5, ref),
        (payload, KEY, "req_2", 5, ref),
        (payload, KEY, "req_1", 6, ref),
        (flipped, KEY, "req_1", 5, ref),
        (another, KEY, "req_1", 5, ref),
    ):
        with pytest.raises(SealError):
            open_sealed(*args)


def test_a_sealed_frame_with_a_digest_made_to_fit_still_does_not_open():
    ref, payload = seal(b"facts", KEY, "req_1", 5)
    bad = payload[:-1] + bytes([payload[-1] ^ 1])
    forged = r.FactsRef(commitment=ref.commitment, sealed_sha256=hashlib.sha256(bad).hexdigest())
    with pytest.raises(SealError, match="does not open"):
        open_sealed(bad, KEY, "req_1", 5, forged)
    lying = r.FactsRef(commitment="0" * 64, sealed_sha256=ref.sealed_sha256)
    with pytest.raises(SealError, match="commits"):
        open_sealed(payload, KEY, "req_1", 5, lying)


def test_facts_and_keys_of_wrong_length_are_not_sealed():
    with pytest.raises(ValueError, match="at most"):
        seal(b"x" * (MAX_FACTS_BYTES + 1), KEY, "r", 0)
    with pytest.raises(ValueError, match="32 bytes"):
        seal(b"x", b"short", "r", 0)


def test_a_flood_of_anonymous_refusals_stays_small_and_keeps_the_sum():
    now = [0.0]
    summary = RefusalSummary(lambda: now[0])
    assert summary.take() is None
    for i in range(3 * MAX_SOURCES):
        summary.count("credential_missing", f"h{i}")
        summary.count("credential_invalid", "busy")
    for i in range(200):
        summary.count(f"reason{i}", "busy")
    assert len(summary._sources) == MAX_SOURCES
    now[0] = 60.0
    record = summary.take()
    assert record.window_s == 60
    assert sum(record.counts.values()) == 6 * MAX_SOURCES + 200
    assert len(record.counts) <= 65
    assert len(record.sources) == 20
    assert record.sources["busy"] == 3 * MAX_SOURCES + 200
    assert record.other + sum(record.sources.values()) == sum(record.counts.values())
    assert len(r.encode(record)) < r.MAX_RECORD_BYTES
    assert summary.take() is None
