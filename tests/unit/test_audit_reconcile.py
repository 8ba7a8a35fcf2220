"""A provider's report held against the log, and how such a report is read."""

import json
import random
from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.audit import records as r
from gateway.audit.note import SigningKey
from gateway.audit.provider_usage import MAX_LINE, MAX_PROBLEMS, Row, UsageRefused, read_usage
from gateway.audit.read import LogReader
from gateway.audit.reconcile import MAX_UNREPORTED, Kind, call_of, reconciled
from tests.support import traffic

SECOND = 1_000_000_000
T0 = traffic.START_NS - traffic.START_NS % SECOND
UTF8 = "\N{SNOWMAN}"


def read(text, columns=None):
    raw = text if isinstance(text, bytes) else text.encode()
    return read_usage(raw.splitlines(keepends=True), columns)


def refused(text, columns=None):
    with pytest.raises(UsageRefused) as caught:
        read(text, columns)
    return caught.value


# Reading a report


def test_csv_is_read():
    rows = read(
        "request_id,time,model,input_tokens,output_tokens,status\r\n"
        "up_1,2026-11-25T08:30:00.25Z,opus,12,34,200\r\n"
        "\r\n"
        'up_2,1764059400,"a ""b"", c",,,\n'
    )
    assert rows == [
        Row(2, "up_1", 1_795_595_400_250_000_000, "opus", 12, 34, "200"),
        Row(4, "up_2", 1_764_059_400 * SECOND, 'a "b", c'),
    ]


def test_ndjson_is_read_and_other_names_are_known():
    call = {"id": "up_1", "created_at": 1764059400.5, "prompt_tokens": 1, "completion_tokens": 2}
    rows = read("\n".join(["\ufeff", json.dumps(call), "", '{"request_id": "up_2", "id": "x"}']))
    assert rows == [
        Row(2, "up_1", 1_764_059_400_500_000_000, "", 1, 2),
        Row(4, "up_2"),
    ]


def test_columns_are_mapped_and_fields_lie_inside_others():
    columns = {"request_id": "call", "input_tokens": "usage.in", "model": "Model Name"}
    rows = read('{"call": "u", "usage": {"in": 3}, "Model Name": "m"}', columns)
    assert rows == [Row(1, "u", None, "m", 3)]
    rows = read("call,usage.in,Model Name\nu,3,m\n", columns)
    assert rows == [Row(2, "u", None, "m", 3)]


def test_input_is_all_input():
    """Providers of the Messages wire tell cache reads and writes beside the input; a record does
    not."""
    cached = {"cache_read_input_tokens": 100, "cache_creation_input_tokens": 7}
    assert read(json.dumps({"id": "u", "input_tokens": 3, **cached}))[0].input_tokens == 110
    assert read(json.dumps({"id": "u", "prompt_tokens": 3, **cached}))[0].input_tokens == 3
    assert read(json.dumps({"id": "u", "n": 3, **cached}), {"input_tokens": "n"}) == [
        Row(1, "u", input_tokens=3)
    ]


def test_a_long_id_is_cut_as_the_gateway_cuts_it():
    assert [len(each.id) for each in read(f"id\n{'u' * 500}\n")] == [128]


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ("2026-11-25T08:30:00Z", 1_795_595_400),
        ("2026-11-25 09:30:00+01:00", 1_795_595_400),
        ("2026-11-25T08:30:00", 1_795_595_400),
        ("1795595400", 1_795_595_400),
        ("", None),
    ],
)
def test_times(told, seconds):
    found = read(f"id,timestamp\nu,{told}\n")[0].time
    assert found == (None if seconds is None else seconds * SECOND)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", ["line 1: the file is empty"]),
        ("\n\n", ["line 1: the file is empty"]),
        (b"\x1f\x8b\x08\x00", ["line 1: the file is compressed", "gunzip"]),
        ('[{"id": "u"}]', ["line 1: a JSON array", "jq -c"]),
        ("\nwho,what\nu,1\n", ["line 2: no column 'request_id' or 'id'", "'who', 'what'"]),
        ("id,id\nu,v\n", ["line 1: two columns are named 'id'"]),
        ("id,model\nu\n", ["line 2: 1 fields where the header has 2", "quotes"]),
        ('id,model\nu,"a\nb"c\n', ["line 2: not CSV"]),
        ('id,model\nu,"a\n', ["line 2: not CSV"]),
        ("id\n \n", ["line 2: no request id"]),
        ("id,model\n,\n", ["line 2: no request id"]),
        ("id,input_tokens\nu,1.5\n", ["line 2: 'input_tokens' is '1.5'; write a whole number"]),
        ("id,input_tokens\nu,-1\n", ["line 2: 'input_tokens' is '-1'"]),
        ("id,input_tokens\nu,٣\n", ["line 2: 'input_tokens'"]),
        ("id,time\nu,yesterday\n", ["line 2: 'time' is 'yesterday'", "Unix seconds"]),
        ("id,time\nu,1795595400000\n", ["line 2: 'time'", "Unix seconds"]),
        ("id,time\nu,2026-11-25\n", ["line 2: 'time'"]),
        ("id,time\nu,2026-13-25T00:00:00Z\n", ["line 2: 'time'"]),
        ("id,time\nu,99999999999\n", ["line 2: 'time' is '99999999999'", "Unix seconds"]),
        ("id,time\nu,0001-01-01T00:00:00Z\n", ["line 2: 'time'", "Unix seconds"]),
        ("id,time\nu,1969-12-31T23:59:59.5Z\n", ["line 2: 'time'", "Unix seconds"]),
        ("id,time\nu,2262-01-01T00:00:00Z\n", ["line 2: 'time'", "Unix seconds"]),
        ('{"id": "u", "time": "9999-01-01T00:00:00Z"}\n', ["line 1: 'time'", "Unix seconds"]),
        (b"id,model\nu,\xff\n", ["line 2: not UTF-8"]),
        ('{"id": "u"}\n{"id": }\n', ["line 2: not JSON"]),
        ('{"id": "u"}\n"u"\n', ["line 2: not a JSON object"]),
        ('{"id": "u"}\n{"id": ["u"]}\n', ["line 2: 'id' is", "write a text"]),
        ('{"id": "u", "prompt_tokens": true}\n', ["line 1: 'prompt_tokens' is 'True'"]),
        ('{"id": "u", "prompt_tokens": ' + "9" * 5000 + "}\n", ["line 1: not JSON"]),
        ('{"id": "u", "a": ' + "[" * 100_000 + "\n", ["line 1: not JSON"]),
        ('{"model": "m"}\n', ["line 1: no request id"]),
        (b'{"id": "\xff"}\n', ["line 1: not UTF-8"]),
        (b'{"id": "u"}\n' + b"x" * (MAX_LINE + 1), ["line 2: longer than"]),
    ],
)
def test_what_is_malformed_is_named_with_its_line_and_remedy(text, says):
    problems = refused(text).problems
    assert len(problems) == 1
    for words in says:
        assert words in problems[0]


def test_a_mapped_column_has_to_be_there():
    (problem,) = refused("id,model\nu,m\n", {"status": "code"}).problems
    assert problem.startswith("line 1: no column 'code'")
    assert "--column status=NAME" in problem


def test_a_mapped_field_has_to_be_in_some_line():
    calls = '{"id": "u", "usage": {"out": 1}}\n{"id": "v"}\n'
    assert len(read(calls, {"output_tokens": "usage.out"})) == 2
    (problem,) = refused(calls, {"output_tokens": "usage.ouch"}).problems
    assert problem.startswith("line 1: neither this nor any other line has 'usage.ouch'")


def test_all_problems_are_named_at_once_and_so_many_at_most():
    lines = ["id,output_tokens"] + [f"u{i},{'x' if i % 2 else i}" for i in range(100)]
    error = refused("\n".join(lines))
    assert (len(error.problems), error.more) == (MAX_PROBLEMS, 50 - MAX_PROBLEMS)
    named = [problem.partition(":")[0] for problem in error.problems]
    assert named == [f"line {3 + 2 * i}" for i in range(MAX_PROBLEMS)]


def test_a_problem_quotes_nothing_that_a_terminal_obeys():
    for text in ("id,time\nu,\x1b[2J\x9bx" + UTF8 * 99, "id\x1b[2J,b\nu,v", '{"id": ["\\u001b"]}'):
        for problem in refused(text).problems:
            assert problem.isascii()
            assert problem.isprintable()
            assert len(problem) < 300


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@settings(max_examples=300)
def test_any_bytes_are_read_or_refused(raw):
    for head in (b"", b"id,time,prompt_tokens\n", b'{"id":"u"}\n'):
        rows = []
        with suppress(UsageRefused):
            rows = read(head + raw)
        assert all(row.id for row in rows)


IDS = st.text(min_size=1, max_size=20).map(str.strip).filter(bool).filter(str.isprintable)
ROWS = st.builds(
    Row,
    line=st.just(0),
    id=IDS,
    time=st.none() | st.integers(10**9, 9 * 10**9).map(lambda s: s * SECOND),
    model=IDS | st.just(""),
    input_tokens=st.none() | st.integers(0, 10**12),
    output_tokens=st.none() | st.integers(0, 10**12),
    status=st.sampled_from(["", "200", "ok"]),
)


@given(st.lists(ROWS, min_size=1, max_size=8))
def test_what_a_report_says_is_what_is_read(rows):
    def quoted(value):
        return '"' + str("" if value is None else value).replace('"', '""') + '"'

    names = ("request_id", "time", "model", "input_tokens", "output_tokens", "status")
    told = [(row.id, None if row.time is None else row.time // SECOND, *row[3:]) for row in rows]
    ndjson = "\n".join(json.dumps(dict(zip(names, each, strict=True))) for each in told)
    csv = "\n".join([",".join(names), *(",".join(map(quoted, each)) for each in told)])
    for text in (ndjson, csv):
        assert [row._replace(line=0) for row in read(text)] == rows


# Holding it against the log


def intent(number, time=0, endpoint="east"):
    return r.AccessIntent(
        request_id=f"req_{number}",
        decision_id=f"dec_{number}",
        subject=r.SubjectRef(id="red", org="acme", kind="m", credential="c", cred_kind="api_key"),
        src=r.SourceRef(hmac="hmac:1:00"),
        wire="chat",
        action="model.generate",
        model=r.ModelRef(requested="m", authorised="m", endpoint=endpoint),
        decision=r.DecisionRef(effect="allow", revision="r"),
        request=r.RequestRef(bytes=1),
        seq=2 * number,
        hlc=str(T0 + time),
    )


def outcome(number, time=0, *, upstream_id=None, status=200, used=(3, 5), **fields):
    source = fields.pop("usage_source", "upstream")
    tokens = r.Tokens(input=used[0], output=used[1], usage_source=source) if used else None
    told = f"up_{number}" if upstream_id is None else upstream_id
    return r.AccessOutcome(
        request_id=f"req_{number}",
        status="ok",
        upstream=r.UpstreamRef(
            endpoint=fields.pop("endpoint", "east"), request_id=told, status=status
        ),
        tokens=tokens,
        served_model=fields.pop("served_model", "m-1"),
        seq=2 * number + 1,
        hlc=str(T0 + time),
        **fields,
    )


def row(number, time=None, **fields):
    told = {"id": f"up_{number}", "model": "m-1", "input_tokens": 3, "output_tokens": 5} | fields
    return Row(line=number + 2, time=None if time is None else T0 + time, **told)


def held(rows, *outcomes, **options):
    return reconciled(rows, [("data-0", each) for each in outcomes], **options)


def kinds(found):
    return [(finding.kind, finding.id) for finding in found.findings]


def test_both_agree():
    found = held([row(1), row(2)], intent(1), outcome(1), intent(2), outcome(2))
    assert found.agree
    assert (found.joined, found.rows, found.outcomes, found.running) == (2, 2, 2, 0)
    assert found.endpoints == {"east": 2}


def test_what_either_side_lacks_is_named():
    found = held([row(1), row(3, time=0)], outcome(1), outcome(2))
    bypass, absent = found.findings
    assert (bypass.kind, bypass.id, bypass.lines) == (Kind.NOT_IN_LOG, "up_3", (5,))
    assert (bypass.model, bypass.input_tokens, bypass.output_tokens) == ("m-1", 3, 5)
    assert bypass.time.endswith("Z")
    assert (absent.kind, absent.id, absent.records) == (Kind.NOT_IN_REPORT, "up_2", ("data-0#5",))
    assert absent.request_id == "req_2"


@pytest.mark.parametrize(
    ("theirs", "ours", "differences"),
    [
        ({"output_tokens": 6}, {}, {"output_tokens": (6, 5)}),
        ({"input_tokens": 2, "model": "x"}, {}, {"model": ("x", "m-1"), "input_tokens": (2, 3)}),
        ({"model": "x"}, {"served_model": ""}, {}),
        ({"model": ""}, {}, {}),
        ({"output_tokens": None}, {}, {}),
        ({"output_tokens": 9}, {"usage_source": "reserved"}, {}),
        # The log says that a call failed and used nothing, and the provider charges for it.
        (
            {},
            {"status": 500, "used": (0, 0), "usage_source": "none", "served_model": ""},
            {"input_tokens": (3, 0), "output_tokens": (5, 0)},
        ),
    ],
)
def test_what_differs_is_told_from_both_sides(theirs, ours, differences):
    found = held([row(1, **theirs)], outcome(1, **ours))
    assert [finding.differences for finding in found.findings] == (
        [differences] * bool(differences)
    )
    assert found.joined == 1
    tokens_known = theirs.get("output_tokens", 0) is not None and "reserved" not in ours.values()
    assert found.uncompared == (not tokens_known)


def test_an_id_that_stands_twice_is_named_on_either_side():
    found = held([row(1), row(1)._replace(line=9)], outcome(1))
    assert [(each.kind, each.lines) for each in found.findings] == [(Kind.TWICE, (3, 9))]
    outside = [row(1, time=0), row(1, time=9 * SECOND)]
    assert held(outside, outcome(1), since=T0, until=T0 + SECOND).agree
    found = held([row(1)], outcome(1), outcome(2, upstream_id="up_1"))
    assert [(each.kind, each.records) for each in found.findings] == [
        (Kind.TWICE, ("data-0#3", "data-0#5"))
    ]
    assert found.joined == 1
    found = held([], outcome(1), outcome(2, upstream_id="up_1"))
    assert kinds(found) == [(Kind.TWICE, "up_1"), (Kind.NOT_IN_REPORT, "up_1")]


def test_what_cannot_be_joined_is_counted_apart():
    found = held(
        [],
        outcome(1, upstream_id=""),
        outcome(2, upstream_id="", status=0, used=None),
        r.AccessOutcome(request_id="req_3", status="interrupted", hlc=str(T0)),
        intent(4),
    )
    assert found.agree
    assert (found.unjoinable, found.unjoinable_answered, found.running) == (3, 1, 1)


def test_a_report_need_not_hold_what_brought_no_tokens():
    found = held(
        [], outcome(1, status=429), outcome(2, used=(0, 0)), outcome(3, used=None), outcome(4)
    )
    assert kinds(found) == [(Kind.NOT_IN_REPORT, "up_4")]
    assert found.without_tokens == 3


def test_the_period_is_that_of_the_report():
    second = SECOND
    log = [outcome(n, time=n * second) for n in range(1, 7)]
    rows = [row(2, time=2 * second), row(5, time=5 * second)]
    found = held(rows, *log)
    assert kinds(found) == [(Kind.NOT_IN_REPORT, "up_3"), (Kind.NOT_IN_REPORT, "up_4")]
    assert (found.since, found.until) == (T0 + 2 * second, T0 + 6 * second)
    assert found.outcomes_outside == 2
    # Without times it is the whole log.
    assert len(held([row(2), row(5)], *log).findings) == 4


def test_a_period_is_given():
    log = [outcome(n, time=n * SECOND) for n in range(1, 7)]
    rows = [row(n, time=n * SECOND) for n in (1, 3, 9)] + [row(8)]
    found = held(rows, *log, since=T0 + 3 * SECOND, until=T0 + 5 * SECOND)
    assert kinds(found) == [(Kind.NOT_IN_LOG, "up_8"), (Kind.NOT_IN_REPORT, "up_4")]
    assert (found.rows_outside, found.outcomes_outside) == (2, 4)
    # A row without a time lies where its call does; a row with one is joined beyond the border.
    found = held([row(1, output_tokens=9)], *log[:1], since=T0 + 3 * SECOND)
    assert (found.agree, found.joined) == (True, 0)
    found = held([row(1, time=3 * SECOND)], *log[:1], since=T0 + 3 * SECOND)
    assert (found.agree, found.joined) == (True, 1)


def test_a_call_across_the_border_is_left_out():
    calls = [intent(1, time=0), outcome(1, time=9 * SECOND)]
    assert held([], *calls, since=T0 + SECOND).agree
    assert held([], *calls, until=T0 + 9 * SECOND).agree
    assert not held([], *calls, since=T0, until=T0 + 9 * SECOND + 1).agree


def test_a_report_of_one_endpoint_is_held_against_its_calls():
    calls = [
        *(intent(1), outcome(1)),
        *(intent(2, endpoint="west"), outcome(2, endpoint="west")),
        intent(3, endpoint="west"),
        *(intent(4), r.AccessOutcome(request_id="req_4", status="interrupted", hlc=str(T0))),
    ]
    found = held([row(1)], *calls, endpoint="east")
    assert found.agree
    assert (found.outcomes, found.running, found.unjoinable) == (2, 0, 1)
    assert found.endpoints == {"east": 2, "west": 1}
    assert kinds(held([row(1)], *calls)) == [(Kind.NOT_IN_REPORT, "up_2")]
    # A call that the log has at another endpoint was not made around the gateway.
    assert held([row(1), row(2)], *calls, endpoint="east").agree


def test_calls_that_the_report_lacks_are_bounded(monkeypatch):
    monkeypatch.setattr("gateway.audit.reconcile.MAX_UNREPORTED", 5)
    assert MAX_UNREPORTED > 5
    found = held([], *(outcome(n) for n in range(8)))
    assert (len(found.findings), found.unnamed) == (5, 3)


def test_records_of_calls_are_picked_out():
    assert call_of(r.encode(outcome(1))) == outcome(1)
    assert call_of(r.encode(intent(1))) == intent(1)
    assert call_of(r.encode(r.LogHeartbeat(open=1))) is None
    hidden = r.RegistryChanged(
        kind="m", id='"type":"access.outcome"', op="o", actor="a", epoch=1, reason='"type":"x"'
    )
    assert call_of(r.encode(hidden)) is None
    with pytest.raises(ValueError, match="not the record of a call"):
        call_of(b'{"type":"access.outcome"}')


# What is planted is what is found


PLANTS = ["agree", "agree", "no row", "no record", "tokens", "model", "row twice", "record twice"]
EXPECTED = {
    "no row": Kind.NOT_IN_REPORT,
    "no record": Kind.NOT_IN_LOG,
    "tokens": Kind.DIFFERS,
    "model": Kind.DIFFERS,
    "row twice": Kind.TWICE,
    "record twice": Kind.TWICE,
}


@given(
    st.lists(st.sampled_from(PLANTS), max_size=40),
    st.randoms(use_true_random=False),
    st.booleans(),
)
def test_any_plants_are_found_and_nothing_else(plants, dice, timed):
    rows, log = [], []
    for number, plant in enumerate(plants):
        each = row(number, time=number * SECOND if timed else None)
        if plant == "tokens":
            each = each._replace(output_tokens=dice.choice([0, 4, 6]))
        if plant == "model":
            each = each._replace(model="other")
        rows += [each] * ((plant != "no row") + (plant == "row twice"))
        call = [intent(number, number * SECOND), outcome(number, number * SECOND)]
        log += call * (plant != "no record")
        if plant == "record twice":
            log.append(replace(call[1], seq=9000 + number))
    dice.shuffle(rows)
    whole = {} if rows and not timed else {"since": T0, "until": T0 + 10**6 * SECOND}
    found = held(rows, *log, **whole)
    expected = [(EXPECTED[p], f"up_{n}") for n, p in enumerate(plants) if p in EXPECTED]
    assert Counter(kinds(found)) == Counter(expected)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_ten_omissions_in_a_log_of_thousands_are_found(tmp_path, seed):
    """Five calls that the report lacks and five that the log lacks, over a log on disk."""
    dice = random.Random(seed)
    calls = traffic.calls(3000, seed)
    served = [parts for parts in calls if len(parts) == 2]
    chosen = dice.sample(range(1, len(served) - 1), 10)
    unlogged = [served[index] for index in chosen[:5]]
    logged = [parts for parts in calls if parts not in unlogged]
    key = SigningKey("example.org/gate/data-0", bytes(32))
    traffic.write(tmp_path, key, logged, wall=traffic.Wall(SECOND // 100), segment_bytes=1 << 20)
    assert len(list(tmp_path.glob("*.seg"))) > 1

    def line(index, parts):
        done = parts[1]
        return json.dumps(
            {
                "id": done.upstream.request_id,
                "created_at": T0 // SECOND + 60 * index // len(served),
                "model": done.served_model,
                "prompt_tokens": done.tokens.input,
                "completion_tokens": done.tokens.output,
            }
        )

    reported = [line(index, parts) for index, parts in enumerate(served) if index not in chosen[5:]]
    found = reconciled(
        read("\n".join(reported)),
        [
            ("data-0", call)
            for entry in LogReader(tmp_path).entries()
            if (call := call_of(entry.raw)) is not None
        ],
        since=T0,
        until=T0 + 86_400 * SECOND,
    )
    ids = [served[index][1].upstream.request_id for index in chosen]
    expected = [(Kind.NOT_IN_LOG, each) for each in ids[:5]]
    expected += [(Kind.NOT_IN_REPORT, each) for each in ids[5:]]
    assert sorted(kinds(found)) == sorted(expected)
    assert found.joined == len(served) - 10
