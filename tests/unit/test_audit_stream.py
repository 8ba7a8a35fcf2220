"""Records on their way elsewhere: each once, in order, under its key, whatever stands in them."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.audit.hec import hec_encoding, ndjson_encoding
from gateway.audit.otlp import otlp_encoding, rejected_by
from gateway.audit.s3 import Credentials, Request, objects_of, put_headers, signed
from gateway.audit.stream import (
    Account,
    Cursor,
    Event,
    Item,
    Mark,
    Parcel,
    Read,
    Refused,
    decode_account,
    decode_cursor,
    deliver,
    parcels,
    pieces,
    rendering,
)
from gateway.audit.syslog import syslog_encoding

ORIGIN = "sluicegate/data-0"
TEXT = st.text(max_size=60)
HOSTILE = '"]\\ \n\r\x00\x1b[31m\x7f\x85\u2028\u202eé<34>1 ü😀'


def item(seq: int = 7, **fields: object) -> Item:
    record = {
        "v": "audit/1",
        "type": "access.denied",
        "log": ORIGIN,
        "seq": seq,
        "time": "2026-11-25T11:00:00.123456789Z",
        "gateway": {"node": "gate-1"},
        **fields,
    }
    return Item(seq, msgspec.json.encode(record, order="sorted"), record)


records = st.builds(
    item,
    st.integers(0, 10**9),
    type=TEXT,
    reason=TEXT,
    time=TEXT,
    gateway=st.one_of(TEXT, st.fixed_dictionaries({"node": TEXT})),
    subject=st.dictionaries(TEXT, TEXT, max_size=3),
)
FORMS = st.sampled_from(["ocsf", "record"])


# Syslog


SYSLOG = re.compile(
    rb"<(\d{1,3})>1 (\S+) (\S+) (\S+) (\S+) (\S+) "
    rb'\[sluicegate@32473 key="((?:[^"\\\]]|\\.)*)"\] (.*)',
    re.DOTALL,
)


def frames_of(data: bytes) -> list[bytes]:
    """Octet counting (RFC 5425, section 4.3), as a receiver reads it."""
    found = []
    while data:
        length, _, data = data.partition(b" ")
        assert re.fullmatch(rb"[1-9]\d*", length)
        found.append(data[: int(length)])
        assert len(found[-1]) == int(length)
        data = data[int(length) :]
    return found


@given(st.lists(records, min_size=1, max_size=5), FORMS)
def test_what_stands_in_records_neither_ends_nor_forges_a_syslog_message(items, form):
    encoding = syslog_encoding(rendering(form, "1"), 32473)
    data = encoding.body([Event(each, encoding.event(each)) for each in items])
    assert all(0x20 <= byte < 0x7F for byte in data)
    found = [SYSLOG.fullmatch(frame) for frame in frames_of(data)]
    assert [each[7].decode() for each in found] == [each.key for each in items]
    for each, sent in zip(found, items, strict=True):
        assert all(len(each[n]) <= most for n, most in ((2, 32), (3, 255), (5, 128), (6, 32)))
        if form == "record":
            assert json.loads(each[8]) == sent.record


def test_a_syslog_message_reads_as_the_standard_says():
    (message,) = frames_of(syslog_encoding(rendering("record", "1"), 32473).event(item()))
    assert message.startswith(
        b"<109>1 2026-11-25T11:00:00.123456Z gate-1 sluicegate data-0 access.denied "
        b'[sluicegate@32473 key="sluicegate/data-0#7"] {'
    )
    hostile = item(type=HOSTILE, gateway={"node": HOSTILE}, log=f"x/{HOSTILE}", time=HOSTILE)
    (message,) = frames_of(syslog_encoding(rendering("record", "1"), 32473).event(hostile))
    found = SYSLOG.fullmatch(message)
    assert found[2] == b"-"
    assert json.loads(found[8])["type"] == HOSTILE


# Webhooks


@given(st.lists(records, min_size=1, max_size=5), FORMS)
def test_each_line_of_a_webhook_is_one_event_with_its_key(items, form):
    for make in (hec_encoding, ndjson_encoding):
        encoding = make(rendering(form, "1"), form)
        lines = encoding.body([Event(each, encoding.event(each)) for each in items]).split(b"\n")
        events = [json.loads(line) for line in lines if line]
        assert len(events) == len(items)
        for event, sent in zip(events, items, strict=True):
            if make is hec_encoding:
                assert event["fields"] == {"sluicegate_key": sent.key}
                inner = event["event"]
            else:
                inner = event.get("record", event)
                assert sent.key in (event.get("key"), event.get("metadata", {}).get("uid"))
            if form == "record":
                assert inner == sent.record


def test_a_record_keeps_its_bytes_and_its_time():
    sent = item(reason=HOSTILE)
    line = ndjson_encoding(rendering("record", "1"), "record").event(sent)
    assert line == b'{"key":"sluicegate/data-0#7","record":' + sent.raw + b"}"
    event = json.loads(hec_encoding(rendering("record", "1"), "record").event(sent))
    assert (event["time"], event["host"]) == ("1795604400.123", "gate-1")
    assert (event["source"], event["sourcetype"]) == (ORIGIN, "sluicegate:record")


# OTLP


@given(st.lists(records, min_size=1, max_size=4))
def test_an_otlp_request_is_json_and_holds_each_record_once(items):
    encoding = otlp_encoding("1")
    body = json.loads(encoding.body([Event(each, encoding.event(each)) for each in items]))
    (resource,) = body["resourceLogs"]
    (scope,) = resource["scopeLogs"]
    assert [json.loads(each["body"]["stringValue"]) for each in scope["logRecords"]] == [
        each.record for each in items
    ]
    for found, sent in zip(scope["logRecords"], items, strict=True):
        about = {each["key"]: each["value"] for each in found["attributes"]}
        assert about["sluicegate.key"] == {"stringValue": sent.key}


def test_an_outcome_tells_the_model_of_its_intent():
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    intent = item(
        3,
        type="access.intent",
        action="chat",
        trace_id=trace,
        model={"requested": "mythos-5"},
        subject={"id": "red", "org": "acme", "tiers": {"cyber": 3}},
        decision={"effect": "allow", "revision": "sha256:1", "reasons": [{"code": "x"}]},
    )
    outcome = item(
        4, type="access.outcome", status="ok", tokens={"in": 7, "out": 5}, http=200
    )._replace(intent=intent.record)
    found = json.loads(otlp_encoding("1").event(outcome))
    about = {each["key"]: next(iter(each["value"].values())) for each in found["attributes"]}
    assert about["gen_ai.request.model"] == "mythos-5"
    assert about["gen_ai.operation.name"] == "chat"
    assert about["gen_ai.usage.input_tokens"] == "7"
    assert about["access.tier"] == {"values": [{"stringValue": "cyber=3"}]}
    assert about["user.id"] == "red"
    assert found["traceId"] == trace
    assert found["timeUnixNano"] == "1795604400123456789"
    forged = item(trace_id="0" * 32)
    assert "traceId" not in json.loads(otlp_encoding("1").event(forged))


@pytest.mark.parametrize(
    ("body", "rejected"),
    [
        (b"", False),
        (b"{}", False),
        (b"ok", False),
        (b"[]", False),
        (b'{"partialSuccess":{}}', False),
        (b'{"partialSuccess":{"errorMessage":"slow down"}}', False),
        (b'{"partialSuccess":{"rejectedLogRecords":"2","errorMessage":"long"}}', True),
        (b'{"partialSuccess":{"rejectedLogRecords":1}}', True),
    ],
)
def test_what_a_collector_rejects_within_a_200_is_seen(body, rejected):
    assert bool(rejected_by(body)) is rejected


# Bounds


@given(records, st.integers(2048, 4096), st.integers(0, 6000))
def test_an_event_that_is_too_long_gives_way_to_a_notice_with_its_key(sent, most, length):
    sent = item(sent.seq, reason="x" * length)
    for encoding in (
        ndjson_encoding(rendering("record", "1"), "record"),
        hec_encoding(rendering("ocsf", "1"), "ocsf"),
        syslog_encoding(rendering("ocsf", "1"), 32473),
        otlp_encoding("1"),
    ):
        event, replaced = encoding.bounded(sent, most)
        assert len(event.data) <= most
        assert replaced is (len(encoding.event(sent)) > most)
        assert event.item.key == sent.key
        assert sent.key.encode() in event.data
    assert json.loads(encoding.notice(sent, "too long").item.raw)["replaced"]["bytes"] == len(
        sent.raw
    )


# Parcels


@st.composite
def logs(draw):
    """What a follower reads: batches of 1 to 5 records, some of them heartbeats, from ``first``."""
    first = seq = draw(st.integers(0, 50))
    reads = []
    for count in draw(st.lists(st.integers(1, 5), max_size=8)):
        items = []
        for _ in range(count):
            kind = draw(st.sampled_from(["log.heartbeat", "access.denied"]))
            items.append(item(seq, type=kind, reason="x" * draw(st.integers(0, 40))))
            seq += 1
        reads.append(Read(items, f"checkpoint {seq}".encode(), seq))
    return first, seq, reads


def plain(sent: Item) -> Event:
    return Event(sent, sent.raw)


@given(logs(), st.integers(1, 4), st.integers(1, 900), st.booleans())
def test_parcels_account_for_each_record_once_and_in_order(log, most_events, most_bytes, beats):
    first, end, reads = log
    cut = list(
        parcels(
            reads, first, plain, heartbeats=beats, most_events=most_events, most_bytes=most_bytes
        )
    )
    sent = [event.item.seq for parcel in cut for event in parcel.events]
    wanted = [
        each.seq
        for read in reads
        for each in read.items
        if beats or each.record["type"] != "log.heartbeat"
    ]
    assert sent == wanted
    places = [first, *(parcel.end for parcel in cut)]
    assert [parcel.first for parcel in cut] == places[:-1]
    assert places[-1] == end
    for parcel in cut:
        assert all(parcel.first <= event.item.seq < parcel.end for event in parcel.events)
        assert len(parcel.events) <= most_events
        size = sum(len(event.data) for event in parcel.events)
        assert size <= most_bytes or len(parcel.events) == 1


@given(logs(), st.integers(1, 2000), st.data())
def test_pieces_hold_every_record_and_end_with_its_checkpoint(log, most, data):
    first, end, reads = log
    cut = list(pieces(reads, first, plain, most_bytes=most))
    held = [event.item.seq for piece in cut for event in piece.events]
    assert held == list(range(first, end))
    assert all(piece.checkpoint == f"checkpoint {piece.end}".encode() for piece in cut)
    if not cut:
        return
    # What was begun is made again the same, though the log has grown and the bound is another.
    again = data.draw(st.integers(1, 4000))
    sealed = list(pieces(reads, first, plain, sealed=cut[0].end, most_bytes=again))
    assert sealed[0] == cut[0]
    assert objects_of("p/", "data-0", sealed[0]) == objects_of("p/", "data-0", cut[0])


def test_a_piece_is_named_for_what_it_holds():
    piece = Parcel(5, 7, [plain(item(5)), plain(item(6))], b"note")
    records, checkpoint = objects_of("gate/", "data-0", piece)
    assert records.key == f"gate/data-0/{5:020d}-{6:020d}.ndjson"
    assert records.body == item(5).raw + b"\n" + item(6).raw + b"\n"
    assert (checkpoint.key, checkpoint.body) == (
        f"gate/data-0/{5:020d}-{6:020d}.checkpoint",
        b"note",
    )


# What is refused for good


@given(st.integers(1, 40), st.sets(st.integers(0, 39)))
async def test_what_is_refused_is_replaced_and_nothing_else(count, bad):
    got: list[Event] = []

    async def send(events):
        if any(event.item.seq in bad and event.data != b"notice" for event in events):
            raise Refused("400")
        got.extend(events)

    sent = [plain(item(seq)) for seq in range(count)]
    await deliver(sent, send, lambda event, _why: Event(event.item, b"notice"))
    assert [event.item.seq for event in got] == list(range(count))
    assert {event.item.seq for event in got if event.data == b"notice"} == bad & set(range(count))


async def test_a_destination_that_refuses_the_notice_too_gets_nothing_more():
    asked = SimpleNamespace(times=0)

    async def send(_events):
        asked.times += 1
        raise Refused("400 no such index")

    with pytest.raises(Refused, match="no such index"):
        await deliver([plain(item(seq)) for seq in range(4)], send, lambda event, _why: event)
    assert asked.times == 4  # all four, two, one, and the notice of that one


# What is kept


@given(st.dictionaries(TEXT, st.builds(Mark, st.integers(0, 2**53), st.integers(0, 2**53))))
def test_a_cursor_is_read_as_it_was_written(marks):
    assert decode_cursor(Cursor(marks).encode()).logs == marks


@given(st.binary(max_size=60))
def test_whatever_else_is_no_cursor_and_no_account(data):
    for decode in (decode_cursor, decode_account):
        with pytest.raises(ValueError, match="not a"):
            decode(data)


@pytest.mark.parametrize("text", ['{"logs":{"a":{"next":-1}}}', '{"v":"cursor/2"}', '{"logs":[]}'])
def test_a_cursor_of_another_kind_is_refused(text):
    with pytest.raises(ValueError, match="not a cursor"):
        decode_cursor(text.encode())


def test_an_account_is_read_as_it_was_written():
    account = Account("siem", "webhook", failures=2, last_error="data-0: 503", through=1.5)
    assert decode_account(account.encode()) == account


# Signatures: AWS's published examples ("Examples: Signature Calculations", for the S3 API)


EXAMPLE = Credentials(
    "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1"
)
AT = datetime(2013, 5, 24, tzinfo=UTC)
HOST = "examplebucket.s3.amazonaws.com"


@pytest.mark.parametrize(
    ("request_", "signature"),
    [
        (
            Request("GET", HOST, "/test.txt", {"range": "bytes=0-9"}),
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            Request(
                "PUT",
                HOST,
                "/test$file.text",
                {
                    "date": "Fri, 24 May 2013 00:00:00 GMT",
                    "x-amz-storage-class": "REDUCED_REDUNDANCY",
                },
                b"Welcome to Amazon S3.",
            ),
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
        (
            Request("GET", HOST, "/", query=(("lifecycle", ""),)),
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        ),
        (
            Request("GET", HOST, "/", query=(("prefix", "J"), ("max-keys", "2"))),
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ],
)
def test_requests_are_signed_as_aws_publishes(request_, signature):
    headers = signed(request_, EXAMPLE, AT)
    assert headers["authorization"].endswith(f",Signature={signature}")
    assert (
        "Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request"
        in (headers["authorization"])
    )
    # The control: one bit of what is signed, and it is another signature.
    other = signed(request_._replace(body=request_.body + b"x"), EXAMPLE, AT)
    assert not other["authorization"].endswith(signature)


def test_an_object_is_put_once_and_kept():
    headers = put_headers("text/plain", b"abc", 400, AT)
    assert headers["if-none-match"] == "*"
    assert headers["x-amz-object-lock-mode"] == "COMPLIANCE"
    assert headers["x-amz-object-lock-retain-until-date"] == "2014-06-28T00:00:00Z"
    assert headers["x-amz-checksum-sha256"] == "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="
