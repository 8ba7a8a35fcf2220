"""``audit reconcile`` and ``audit report``, over a real gateway's log and over made ones."""

import asyncio
import json
import os
import shutil
import signal
import time

import pytest

from gateway.audit import records as r
from tests.functional.command_line import Operator
from tests.functional.test_cli_audit import ESCAPE, build, intent, write
from tests.support import raw
from tests.support.gate import running_gate
from tests.support.upstream import Upstream, message

HEADER = "request_id,timestamp,model,input_tokens,output_tokens,status\n"
CALLS = 6


def served(number, upstream_id, output=5):
    """An outcome as the endpoint served it."""
    return r.AccessOutcome(
        request_id=f"req_{number}",
        status="ok",
        http=200,
        upstream=r.UpstreamRef(endpoint="anthropic", request_id=upstream_id, status=200),
        served_model="opus-4.8",
        tokens=r.Tokens(input=3, output=output, usage_source="upstream"),
    )


def row(upstream_id, output=5, **fields):
    call = {"id": upstream_id, "model": "opus-4.8", "input_tokens": 3, "output_tokens": output}
    return json.dumps(call | fields) + "\n"


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Three calls with the endpoint's id and one without, which no test changes."""
    operator = build(tmp_path_factory.mktemp("kept"))
    parts = [(intent(n), served(n, f"up_{n}")) for n in (11, 12, 13)]
    write(operator, *(each for pair in parts for each in pair))
    return operator


@pytest.fixture
def reconcile(kept, tmp_path):
    def run(text, *options, code=0):
        file = tmp_path / "usage"
        file.write_text(text)
        return kept("audit", "reconcile", "--provider-usage", str(file), *options, code=code)

    return run


AGREED = row("up_11") + row("up_12") + row("up_13")


# A real gateway


async def test_a_real_gateways_log_and_its_providers_report(tmp_path):
    """The provider counts what reaches it: the gateway's calls, and one made around it."""
    usage = []

    async def script(_request, reply):
        upstream_id = f"up_{len(usage)}"
        usage.append(f"{upstream_id},{time.time():.3f},mythos-5,7,5,200")
        await reply.whole(json.dumps(message()).encode(), headers={"request-id": upstream_id})

    upstream = Upstream(script)
    await upstream.start()
    async with running_gate(tmp_path, upstream.url) as gate:
        key = await gate.member("red")
        body = {"model": "mythos-5", "max_tokens": 9, "messages": [], "stream": False}
        body["messages"] = [{"role": "user", "content": "hi"}]
        for _ in range(CALLS):
            answer = await raw.call(gate.port, "/v1/messages", json.dumps(body).encode(), key=key)
            assert answer.status == 200
        await gate.recorded("access.outcome", CALLS)
        operator = Operator(tmp_path / "operator")
        report = tmp_path / "usage.csv"

        def run(*words, lines, code=0):
            report.write_text(HEADER + "\n".join(lines) + "\n")
            arguments = ("--provider-usage", str(report), "--dir", str(gate.state.root))
            return operator.bare("audit", "reconcile", *arguments, *words, code=code)

        # Times in the log are the gateway's and end later: the period is given.
        assert "Both agree." in run("--since", "1h", "--endpoint", "anthropic", lines=usage).out
        around = f"up_around,{time.time():.3f},mythos-5,7,5,200"
        lines = [*usage[1:], around]
        found = run("--since", "1h", "--json", lines=lines, code=1).json
        named = [(each["kind"], each["id"]) for each in found["findings"]]
        assert named == [("not in the log", "up_around"), ("not in the report", "up_0")]
        assert (found["joined"], found["uncompared"]) == (CALLS - 1, 0)

        words = ("audit", "report", "completeness", "--dir", str(gate.state.root))
        running = operator.bare(*words, "--heartbeat", "60", "--json").json
        assert running["complete"] is True
        assert [each["closed"] for each in running["shards"]] == [False, False]
        await gate.stop()
        ended = operator.bare(*words, "--heartbeat", "60", "--json").json
        assert [each["closed"] for each in ended["shards"]] == [True, True]
        assert ended["shards"][1]["effects"] == {"allow": CALLS}
    await upstream.stop()


async def test_a_worker_that_stood_still_is_a_silence(tmp_path):
    upstream = Upstream(lambda *_: None)
    await upstream.start()
    async with running_gate(tmp_path, upstream.url, audit={"heartbeat_s": 1}) as gate:
        await gate.recorded("log.heartbeat", 2)
        pid = gate.processes()["data-0"]
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(5)
        os.kill(pid, signal.SIGCONT)
        count = len(gate.records("log.heartbeat"))
        await gate.recorded("log.heartbeat", count + 4)
        words = ("audit", "report", "completeness", "--dir", str(gate.state.root), "--json")
        operator = Operator(tmp_path / "operator")
        found = operator.bare(*words, "--heartbeat", "1", code=1).json["findings"]
        assert ("silence", "data-0") in [(each["kind"], each["shard"]) for each in found]
        assert operator.bare(*words, "--heartbeat", "60").json["complete"] is True
    await upstream.stop()


async def test_a_gateway_that_was_killed_is_told_and_is_complete(tmp_path):
    answering = asyncio.Event()

    async def script(_request, reply):
        answering.set()
        await reply.closed_by_peer.wait()

    upstream = Upstream(script)
    await upstream.start()
    async with running_gate(tmp_path, upstream.url) as gate:
        key = await gate.member("red")
        body = {"model": "mythos-5", "max_tokens": 9}
        body["messages"] = [{"role": "user", "content": "hi"}]
        call = asyncio.create_task(
            raw.call(gate.port, "/v1/messages", json.dumps(body).encode(), key=key)
        )
        await answering.wait()
        pid = gate.processes()["data-0"]
        words = ("audit", "report", "completeness", "--dir", str(gate.state.root))
        operator = Operator(tmp_path / "operator")
        running = operator.bare(*words, "--heartbeat", "60", "--json").json
        assert [each["running"] for each in running["shards"]] == [0, 1]
        os.kill(pid, signal.SIGKILL)
        await asyncio.wait([call])
        await gate.replaced("data-0", pid)
        said = operator.bare(*words, "--heartbeat", "60")
        assert "unclean start" in said.out
        assert "1 open calls ended" in said.out
        assert "Complete:" in said.out
    await upstream.stop()


# reconcile


def test_a_period_without_records_is_not_complete(kept):
    said = kept("audit", "report", "completeness", "--until", "2020-01-01", code=1).out
    assert "No record lies in this period" in said
    until = ("--until", "2020-01-01", "--json")
    assert kept("audit", "report", "completeness", *until, code=1).json["complete"] is False


def test_a_log_that_is_shorter_than_a_kept_checkpoint_is_damaged(kept, tmp_path):
    shutil.copytree(kept.state.root, tmp_path / "state")
    operator = type(kept)(tmp_path)
    segment = next(operator.state.log("data-0").glob("*.seg"))
    segment.write_bytes(segment.read_bytes()[:-40])
    said = operator("audit", "report", "completeness", code=3).err
    assert "records long" in said


def test_both_agree(reconcile):
    said = reconcile(AGREED, "--endpoint", "anthropic")
    assert said.out.endswith("Both agree.\n")
    assert "joined     3" in said.out
    assert "no id      1 calls cannot be joined" in said.out
    assert said.err == ""


def test_nothing_compared_is_not_agreement(reconcile):
    said = reconcile("id\n", "--until", "2020-01-01")
    assert said.out.endswith(
        "Nothing was compared: no call lies in the period that could be joined.\n"
    )


def test_what_does_not_agree_is_named_the_gravest_first(reconcile):
    text = row("up_9") + row("up_11", output=6) + row("up_12") + row("up_12")
    said = reconcile(text, code=1)
    heads = [line.split(":")[0] for line in said.out.splitlines() if ": 1 (" in line]
    assert heads == ["NOT IN THE LOG", "DIFFERS", "TWICE", "NOT IN THE REPORT"]
    assert "output_tokens: report 6, log 5" in said.out
    assert "line 3, line 4" in said.out
    assert said.out.endswith("They do not agree.\n")
    found = reconcile(text, "--json", code=1).json
    assert found["found"] == {
        "not in the log": 1,
        "differs": 1,
        "twice": 1,
        "not in the report": 1,
    }
    assert found["agree"] is False
    assert [each["id"] for each in found["findings"]] == ["up_9", "up_11", "up_12", "up_13"]
    assert found["findings"][1]["differences"] == {"output_tokens": [6, 5]}


def test_a_period_and_columns_are_given(reconcile):
    text = "call,model\nup_9,m\n"
    found = reconcile(text, "--column", "request_id=call", "--json", code=1).json
    assert found["found"]["not in the log"] == 1
    found = reconcile(
        text, "--column", "request_id=call", "--until", "2020-01-01", "--json", code=1
    )
    assert found.json["found"]["not in the report"] == 0
    assert found.json["until"] == "2020-01-01T00:00:00.000000000Z"
    assert found.json["outcomes_outside"] == 4


def test_malformed_lines_are_all_named_and_nothing_else_is_said(reconcile):
    said = reconcile(row("up_11") + "{\n" + row("") + row("u", input_tokens="many"), code=2)
    assert said.out == ""
    assert "nothing was compared" in said.err
    assert [line.strip().partition(":")[0] for line in said.err.splitlines()[1:]] == [
        "line 2",
        "line 3",
        "line 4",
    ]
    said = reconcile(row("up_11") + "{\n" * 30, "--json", code=2)
    assert said.out == ""
    assert "and 10 more" in said.err


def test_what_a_terminal_would_obey_is_not_printed(reconcile):
    said = reconcile(row(f"up{ESCAPE}\x9b1m", model=ESCAPE, status=ESCAPE) + AGREED, code=1)
    assert "\x1b" not in said.out
    assert "\x9b" not in said.out
    assert "[2Jgone" in said.out
    said = reconcile(f"id{ESCAPE},b\n1,2\n", code=2)
    assert "\x1b" not in said.err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--column", "request=x"), "--column request=x names no column"),
        (("--column", "model"), "write NAME=THEIRS"),
        (("--endpoint", "nowhere"), "there are: anthropic"),
        (("--provider-usage", "none.csv"), "none.csv"),
        (("--since", "soon"), "is no time"),
        (("--since", "999999w"), "is no time from 1970 until 2262"),
        (("--since", "0001-01-01"), "is no time from 1970 until 2262"),
        (("--until", "9999-01-01"), "is no time from 1970 until 2262"),
        (("--until", "2262-01-01"), "is no time from 1970 until 2262"),
        (("--since", "1h", "--until", "2h"), "--until is not after --since"),
    ],
)
def test_what_is_typed_wrong_is_told(reconcile, options, says):
    said = reconcile(AGREED, *options, code=2)
    assert says in said.err
    assert said.out == ""


# report completeness


def test_a_whole_record_is_complete(kept):
    said = kept("audit", "report", "completeness")
    assert "Complete:" in said.out
    assert "access.intent" in said.out
    answer = kept("audit", "report", "completeness", "--json").json
    assert answer["complete"] is True
    assert answer["heartbeat_s"] == 5
    shards = {each["shard"]: each for each in answer["shards"]}
    assert shards["data-0"]["effects"] == {"downgrade": 4, "deny": 1}
    assert shards["data-0"]["types"]["log.opened"] == 2
    assert shards["data-0"]["findings"] == []


def test_findings_name_log_index_and_time(tmp_path):
    operator = build(tmp_path)
    write(operator, intent(7))
    vkey = operator.state.vkey("control")
    (tmp_path / "state" / "vkeys" / "data-9").write_text(vkey.read_text())
    vkey.unlink()
    said = operator("audit", "report", "completeness", code=1)
    assert "Not complete; findings: 3." in said.out
    found = operator("audit", "report", "completeness", "--json", code=1).json["findings"]
    assert [(each["kind"], each["shard"], each["seq"]) for each in found] == [
        ("log missing", "data-9", -1),
        ("public key", "control", 6),
        ("intent without outcome", "data-0", 7),
    ]
    assert found[2]["time"] == operator.records("data-0")[7]["time"]
    late = operator("audit", "report", "completeness", "--since", "0s", "--json", code=1).json
    assert [each["kind"] for each in late["findings"]] == ["log missing", "public key"]


def test_the_interval_is_that_of_the_configuration_here(tmp_path, monkeypatch):
    operator = build(tmp_path)
    operator.configure(audit={"heartbeat_s": 60})
    words = ("audit", "report", "completeness", "--json")
    assert operator(*words).json["heartbeat_s"] == 5
    monkeypatch.chdir(tmp_path)
    assert operator(*words).json["heartbeat_s"] == 60
    assert operator(*words, "--heartbeat", "2.5").json["heartbeat_s"] == 2.5
    operator.configure(audit={"heartbeat_s": 60}, state_dir=str(tmp_path / "other"))
    assert operator(*words).json["heartbeat_s"] == 5


def test_a_log_that_is_not_there_or_is_damaged(tmp_path):
    operator = Operator(tmp_path / "none")
    usage = tmp_path / "usage"
    usage.write_text(AGREED)
    commands = (("report", "completeness"), ("reconcile", "--provider-usage", str(usage)))
    for words in commands:
        said = operator("audit", *words, code=3)
        assert (said.out, "there is no log in" in said.err) == ("", True)
    operator = build(tmp_path / "it")
    (segment,) = operator.state.log("data-0").glob("*.seg")
    shutil.copy(segment, segment.with_name(f"{99:020d}.seg"))
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    for words in commands:
        said = operator("audit", *words, code=3)
        assert (said.out, "the log is damaged" in said.err) == ("", True)
