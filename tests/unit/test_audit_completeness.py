"""Whether a log leaves out anything, as its records tell it."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.audit import records as r
from gateway.audit.completeness import (
    BEATS_MISSED,
    MAX_NAMED,
    Kind,
    Notice,
    logs_missing,
    shard_report,
)
from gateway.audit.note import SigningKey
from gateway.audit.read import LogReader
from gateway.audit.writer import AuditLog
from gateway.core.clock import rfc3339_ns
from tests.support import traffic

SECOND = 1_000_000_000
T0 = 1_780_000_000 * SECOND
KEY = SigningKey("example.org/gate/data-0", bytes(range(32)))
VKEY = str(KEY.verifier)
HEARTBEAT_S = 5


class Log:
    """Records as the writer makes them, one every second unless told otherwise."""

    def __init__(self):
        self.records = []
        self.now = 0.0
        self.boot = "boot-1"

    def add(self, kind, after=1.0, **fields):
        self.now += after
        at = int(self.now * SECOND)
        record = {"seq": len(self.records), "time": rfc3339_ns(T0 + at), "hlc": str(T0 + at)}
        record |= {"boot": self.boot, "mono": str(at), "clock": "ok", "v": "audit/1"}
        self.records.append(record | {"type": kind} | fields)
        return self

    def opened(self, *, clean=True, **fields):
        self.boot = f"boot-{len(self.records)}"
        key_id = KEY.key_id.hex()
        return self.add("log.opened", clean=clean, key_id=key_id, **fields)

    def intent(self, name, **fields):
        return self.add("access.intent", request_id=name, **{"decision": ALLOWED} | fields)

    def outcome(self, name, **fields):
        intents = [
            each["seq"]
            for each in self.records
            if (each["type"], each.get("request_id")) == ("access.intent", name)
        ]
        return self.add("access.outcome", request_id=name, **{"parent": intents[-1]} | fields)

    def beat(self, after=1.0):
        return self.add("log.heartbeat", after, open=0)

    def closed(self, after=1.0):
        return self.add("log.closed", after, open=0)

    def report(self, vkey=VKEY, **options):
        raw = [json.dumps(each).encode() for each in self.records]
        return shard_report("data-0", raw, heartbeat_s=HEARTBEAT_S, vkey=vkey, **options)


ALLOWED = {"effect": "allow"}


def found(report):
    return [(each.kind, each.seq) for each in report.findings]


def whole():
    """Two runs with calls, nothing wrong with them."""
    log = Log()
    for _ in range(2):
        log.opened().beat().intent("a").intent("b").outcome("a").beat().outcome("b")
        log.add("access.denied", request_id="c", decision={"effect": "deny"}).closed()
    return log


def test_a_whole_log_is_complete():
    report = whole().report()
    assert report.complete
    assert (report.findings, report.events) == ([], [])
    assert (report.records, report.first, report.last) == (18, 0, 17)
    assert (report.opens, report.clean_opens, report.closes) == (2, 2, 2)
    assert (report.closed, report.running) == (True, 0)
    assert report.types["access.outcome"] == 4
    assert report.effects == {"allow": 4, "deny": 2}
    assert report.first_time == rfc3339_ns(T0 + SECOND)


def test_calls_of_a_running_log_run():
    log = Log().opened().intent("a").intent("b").outcome("b")
    report = log.report()
    assert (found(report), report.running, report.closed) == ([], 1, False)
    report = log.closed().report()
    assert (found(report), report.running, report.closed) == ([(Kind.INTENT, 1)], 0, True)
    assert report.findings[0].time == rfc3339_ns(T0 + 2 * SECOND)


@pytest.mark.parametrize("seq", range(18))
def test_a_record_taken_out_is_a_gap(seq):
    log = whole()
    gone = log.records.pop(seq)
    kinds = found(log.report())
    if seq == 0:
        assert kinds[0] == (Kind.GAP, 1)
    elif seq < 17:
        assert (Kind.GAP, seq - 1) in kinds
        what = next(each.what for each in log.report().findings if each.kind is Kind.GAP)
        assert what == f"the next record is #{seq + 1}: 1 missing"
    else:  # the end of a log is told by a checkpoint kept elsewhere: `verify`'s matter
        assert (gone["type"], kinds) == ("log.closed", [])


def test_an_index_that_comes_again_is_told():
    log = whole()
    log.records.insert(5, log.records[5])
    assert (Kind.GAP, 5) in found(log.report())


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (Log().opened().intent("a").intent("a").outcome("a", parent=2), [(Kind.INTENT, 1)]),
        (Log().opened().add("access.outcome", request_id="a", parent=0), [(Kind.OUTCOME, 1)]),
        (Log().opened().intent("a").outcome("a").outcome("a"), [(Kind.OUTCOME, 3)]),
        (Log().opened().intent("a").outcome("a", parent=0), [(Kind.OUTCOME, 2)]),
        (Log().opened().intent("a").closed().opened().outcome("a"), []),
    ],
)
def test_every_intent_has_one_outcome(log, expected):
    assert found(log.report()) == expected


def test_a_silence_begins_where_the_last_heartbeat_was():
    limit = BEATS_MISSED * HEARTBEAT_S
    assert found(Log().opened().beat(limit).beat(limit).closed(limit).report()) == []
    report = Log().opened().beat().beat(limit + 0.5).closed().report()
    assert found(report) == [(Kind.SILENCE, 1)]
    what = report.findings[0].what
    assert what.startswith("no heartbeat for 15.5 s, and 0 other records, to #2 at 2026-")
    # To the close, to the last record of a log that is open, and of a process that broke off.
    assert found(Log().opened().closed(99).report()) == [(Kind.SILENCE, 0)]
    assert found(Log().opened().intent("a").outcome("a", after=99).report()) == [(Kind.SILENCE, 0)]
    broken = Log().opened().add("config.changed", 99).opened(clean=False).beat()
    assert found(broken.report()) == [(Kind.SILENCE, 0)]
    # Between a close and the next start nobody has to beat.
    between = Log().opened().closed()
    between.now += 9999
    assert found(between.opened().closed().report()) == []


def test_clocks_of_two_processes_are_not_compared():
    log = Log().opened().beat().add("log.heartbeat", 9999, boot="other", open=0)
    assert found(log.report()) == [(Kind.ORDER, 2)]


def test_other_records_are_no_heartbeats():
    log = Log().opened()
    for _ in range(20):
        log.add("config.changed")
    report = log.beat().closed().report()
    assert found(report) == [(Kind.SILENCE, 0)]
    assert "and 20 other records" in report.findings[0].what


def test_the_heartbeat_interval_is_the_gateways():
    log = Log().opened().beat(50).closed()
    raw = [json.dumps(each).encode() for each in log.records]
    assert shard_report("data-0", raw, heartbeat_s=60, vkey=VKEY).complete
    assert not shard_report("data-0", raw, heartbeat_s=5, vkey=VKEY).complete


def test_a_wall_clock_that_is_set_is_no_silence():
    log = Log().opened().beat().beat()
    log.records[2] |= {"time": rfc3339_ns(T0 + 3600 * SECOND), "hlc": str(T0 + 3600 * SECOND)}
    assert log.report().complete


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (Log().beat(), [(Kind.ORDER, 0)]),
        (Log().opened().closed().beat(), [(Kind.ORDER, 2)]),
        (Log().opened().beat().opened(), [(Kind.ORDER, 2)]),
        (Log().opened().add("config.changed", boot="other"), [(Kind.ORDER, 1)]),
        (Log().opened().beat().opened(clean=False), []),
    ],
)
def test_a_process_opens_writes_and_closes(log, expected):
    assert found(log.report()) == expected


def test_starts_recoveries_and_clocks_are_told_and_are_no_findings():
    log = Log().opened().beat().opened(clean=False)
    log.add("log.recovered", segment="s", offset=1, torn_bytes=77, orphans=2)
    for _ in range(3):
        log.add("config.changed", clock="regressed")
    log.beat().add("config.changed", clock="regressed")
    report = log.report()
    assert report.complete
    assert (report.opens, report.clean_opens, report.closes) == (2, 1, 0)
    assert [(each.kind, each.seq) for each in report.events] == [
        (Kind.UNCLEAN, 2),
        (Kind.RECOVERED, 3),
        (Kind.CLOCK, 4),
        (Kind.CLOCK, 8),
    ]
    assert report.events[1].what == "77 torn bytes cut off, 2 open calls ended"
    assert report.events[2].what.startswith("3 records")


def test_a_log_that_stopped_is_told():
    last = T0 + 2 * SECOND
    limit = BEATS_MISSED * HEARTBEAT_S * SECOND
    log = Log().opened().beat()
    assert log.report(now=last + limit).events == []
    report = log.report(now=last + limit + 1)
    assert [(each.kind, each.seq) for each in report.events] == [(Kind.STOPPED, 1)]
    assert report.complete
    # It lasts, so a period that begins later has it; one that ended before has not.
    assert len(log.report(now=last + 99 * limit, since=last + 9 * limit).events) == 1
    assert log.report(now=last + 99 * limit, until=last).events == []
    assert log.closed().report(now=last + 99 * limit).events == []


def test_the_public_key_has_to_be_there_and_to_be_the_logs():
    assert found(whole().report(vkey="")) == [(Kind.KEY, 9)]
    other = SigningKey("example.org/gate/data-0", bytes(32))
    assert found(whole().report(vkey=str(other.verifier))) == [(Kind.KEY, 9)]
    assert found(whole().report(vkey="nonsense")) == [(Kind.KEY, 9)]
    assert [each[:2] for each in logs_missing(["a"], ["a", "c", "b"])] == [
        (Kind.MISSING, "b"),
        (Kind.MISSING, "c"),
    ]


def test_what_is_no_record_is_told_where_it_lies():
    lines = [json.dumps(each).encode() for each in whole().records]
    for bad in (b"", b"{}", b"[" * 2000, lines[3].replace(b'"hlc": "', b'"hlc": "x')):
        changed = [*lines[:3], bad, *lines[4:]]
        report = shard_report("data-0", changed, heartbeat_s=5, vkey=VKEY)
        assert found(report)[0] == (Kind.UNREADABLE, 3)
        assert report.findings[0].time == whole().records[2]["time"]
        assert Kind.GAP not in dict(found(report))
    assert found(shard_report("data-0", [b"x"], heartbeat_s=5, vkey=VKEY)) == [
        (Kind.UNREADABLE, 0),
        (Kind.GAP, -1),
    ]


def test_a_log_without_records_is_not_complete():
    report = shard_report("data-0", [], heartbeat_s=5, vkey=VKEY)
    assert report.findings == [Notice(Kind.GAP, "data-0", -1, "", "there is no record in it")]


def test_a_period_leaves_out_what_lies_outside():
    log = Log().opened().intent("lost").beat().beat(20).beat().closed()
    all_of_it = [(Kind.SILENCE, 2), (Kind.INTENT, 1)]
    assert found(log.report()) == all_of_it
    second = SECOND
    # Seconds 1, 2, 3, 23, 24, 25: the silence lasts into a period that begins within it.
    assert found(log.report(since=T0 + 10 * second)) == [(Kind.SILENCE, 2)]
    assert found(log.report(since=T0 + 24 * second)) == []
    assert found(log.report(until=T0 + 3 * second)) == [(Kind.INTENT, 1)]
    report = log.report(since=T0 + 3 * second, until=T0 + 25 * second)
    assert (report.records, report.first, report.last) == (3, 2, 4)
    assert report.types == {"log.heartbeat": 3}
    assert (report.opens, report.closes) == (0, 0)
    # An outcome after the period still ends the call.
    log = Log().opened().intent("a").outcome("a").closed()
    assert found(log.report(until=T0 + 3 * second)) == []


def test_findings_and_events_are_bounded():
    log = Log().opened()
    for number in range(MAX_NAMED + 7):
        log.add("access.outcome", 0.001, request_id=str(number), parent=0, clock="regressed")
        log.add("config.changed", 0.001)
    report = log.report()
    assert (len(report.findings), report.unnamed) == (MAX_NAMED, 7)
    assert (len(report.events), report.unnamed_events) == (MAX_NAMED, 7)


def test_a_log_that_the_writer_wrote(tmp_path):
    traffic.write(tmp_path, KEY, traffic.calls(400), segment_bytes=100_000)
    assert len(list(tmp_path.glob("*.seg"))) > 2
    raw = [entry.raw for entry in LogReader(tmp_path).entries()]
    report = shard_report("data-0", raw, heartbeat_s=5, vkey=VKEY)
    assert report.findings == []
    kinds = Counter(json.loads(each)["type"] for each in raw)
    assert report.types == kinds
    assert report.effects["allow"] == kinds["access.intent"]


def test_a_process_that_broke_off(tmp_path):
    log = AuditLog.open(tmp_path, KEY.name, KEY, node=r.Gateway(node="data-0"))
    (call,) = (parts for parts in traffic.calls(9, seed=4)[:1])
    log.append_sync(call[0])
    raw = [entry.raw for entry in LogReader(tmp_path).entries()]
    report = shard_report("data-0", raw, heartbeat_s=5, vkey=VKEY)
    assert (report.findings, report.running, report.closed) == ([], 1, False)
    log.close()
    with AuditLog.open(tmp_path, KEY.name, KEY, node=r.Gateway(node="data-0")):
        pass
    raw = [entry.raw for entry in LogReader(tmp_path).entries()]
    report = shard_report("data-0", raw, heartbeat_s=5, vkey=VKEY)
    assert (report.findings, report.running, report.closed) == ([], 0, True)
    assert report.types["access.outcome"] == 1


PARTS = ["call", "denied", "beat", "lost", "orphan", "twice", "silence"]
EXPECTED = {
    "lost": (Kind.INTENT, 0),
    "orphan": (Kind.OUTCOME, 0),
    "twice": (Kind.OUTCOME, 2),
    "silence": (Kind.SILENCE, -1),
}


@given(st.lists(st.sampled_from(PARTS), max_size=30))
@settings(max_examples=200)
def test_what_is_planted_is_found_and_nothing_else(parts):
    log = Log().opened()
    expected = []
    for number, part in enumerate(parts):
        name = f"req_{number}"
        log.beat()
        if part in EXPECTED:
            kind, offset = EXPECTED[part]
            expected.append((kind, len(log.records) + offset))
        if part in ("call", "twice"):
            log.intent(name).outcome(name)
        if part == "twice":
            log.outcome(name)
        if part == "denied":
            log.add("access.denied", request_id=name, decision={"effect": "deny"})
        if part == "lost":
            log.intent(name)
        if part == "orphan":
            log.add("access.outcome", request_id=name, parent=0)
        if part == "silence":
            log.beat(60)
    assert Counter(found(log.closed().report())) == Counter(expected)
