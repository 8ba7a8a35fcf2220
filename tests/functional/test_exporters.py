"""Exporters of a real gateway, with real receivers: what is durable arrives, and nobody waits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.functional.command_line import Operator
from tests.support.calls import CHAT, answered
from tests.support.certificates import self_signed
from tests.support.gate import PROVIDER_KEY, Gate, running_gate
from tests.support.receivers import TOKEN, Collector, SyslogReceiver, server_context
from tests.support.upstream import Received, Reply, Upstream

CALM = {"allowed_networks": ["127.0.0.1/32"], "timeout_s": 10.0}
"""For destinations that are in order: no attempt fails because the machine is busy."""
LOCAL = {"allowed_networks": ["127.0.0.1/32"], "timeout_s": 1.0}


@pytest.fixture
async def upstream():
    async def script(_request: Received, reply: Reply) -> None:
        await reply.whole(CHAT.whole())

    served = Upstream(script)
    await served.start()
    yield served
    await served.stop()


@pytest.fixture
async def receivers(tmp_path: Path):
    """A syslog receiver and four collectors, the second with TLS; and the certificate."""
    certificate, key = self_signed(tmp_path)
    tls = server_context(certificate, key)
    syslog = SyslogReceiver(tls)
    collectors = [Collector(), Collector(tls), Collector(), Collector()]
    for each in (syslog, *collectors):
        await each.start()
    yield syslog, collectors, certificate
    for each in (syslog, *collectors):
        await each.stop()


def webhook(collector: Collector, **more: object) -> dict:
    return {"kind": "webhook", "url": f"{collector.url}/in", "format": "record", **LOCAL, **more}


def durable(gate: Gate) -> set[str]:
    """The keys of all records that are not heartbeats."""
    return {
        f"{record['log']}#{record['seq']}"
        for record in gate.records()
        if record["type"] != "log.heartbeat"
    }


async def until(holds: Callable[[], bool], what: str, seconds: float = 60) -> None:
    try:
        async with asyncio.timeout(seconds):
            while not holds():  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"not in {seconds} s: {what}") from None


async def calls(gate: Gate, key: str, count: int) -> list[float]:
    """So many calls, each answered; how long each took, in seconds."""
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        answer = await answered(gate, CHAT, key, CHAT.body(stream=False))
        taken.append(time.perf_counter() - began)
        assert answer.status == 200
    return taken


def exporter_pids(gate: Gate) -> dict[str, int]:
    """The exporters that run, by name."""
    found = {}
    children = Path(f"/proc/{gate.pid}/task/{gate.pid}/children").read_text().split()
    for pid in map(int, children):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            if "gateway.app.exporter" in words:
                found[words[words.index("--name") + 1]] = pid
    return found


async def test_every_kind_of_destination_gets_every_record(tmp_path, upstream, receivers):
    syslog, (hec, lines, otel, _), certificate = receivers
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN + "\n")
    splunk = {
        "kind": "webhook",
        "style": "hec",
        "indexer_ack": True,
        "url": f"{hec.url}/services/collector/event",
        "secret_file": str(token_file),
        **CALM,
    }
    exporters = {
        "logs": {
            "kind": "syslog",
            "url": f"tls://localhost:{syslog.port}",
            "ca": str(certificate),
            **CALM,
        },
        "siem": splunk,
        "lines": webhook(lines, ca=str(certificate), heartbeats=True, **CALM),
        "otel": {"kind": "otlp", "url": otel.url, **CALM},
        "untrusted": {**webhook(lines), "url": f"{lines.url}/untrusted"},
    }
    async with running_gate(
        tmp_path, upstream.url, exporters=exporters, audit={"heartbeat_s": 0.5}
    ) as gate:
        key = await gate.member("red")
        await calls(gate, key, 10)
        for each in (syslog, hec, lines, otel):
            await until(lambda: durable(gate) <= set(each.keys()), f"{each} has all")  # noqa: B023
        status = await gate.status()
        told = {each["name"]: each for each in status["exporters"]}
        assert {name: each["failures"] for name, each in told.items() if name != "untrusted"} == {
            "logs": 0,
            "siem": 0,
            "lines": 0,
            "otel": 0,
        }
        while not (  # its first attempt may still be under way
            failing := [each for each in status["problems"] if "exporter" in each["what"]]
        ):
            await asyncio.sleep(0.2)
            status = await gate.status()
        (problem,) = failing
        assert "untrusted fails" in problem["what"]
        assert "is not trusted" in problem["what"]
        async with httpx.AsyncClient() as client:
            metrics = (await client.get(f"{gate.ops_url}/metrics")).text
        assert 'sluicegate_exporter_lag_records{exporter="untrusted",worker="control"}' in metrics
        assert 'sluicegate_exporter_failures{exporter="siem",worker="control"} 0.0' in metrics
        said = gate.log()
    assert TOKEN not in said
    assert PROVIDER_KEY not in said
    (record,) = [m for m in syslog.messages if 'key="sluicegate/data-0#0"' in m]
    assert json.loads(record[record.index("] {") + 2 :])["metadata"]["uid"] == "sluicegate/data-0#0"
    (request, *_) = hec.received
    assert request.header("authorization") == [f"Splunk {TOKEN}"]
    assert any(request.target.endswith("/services/collector/ack") for request in hec.received)
    beats = [event for _, event in lines.taken if event["record"]["type"] == "log.heartbeat"]
    assert beats
    assert not any("log.heartbeat" in message for message in syslog.messages)
    outcomes = [e for _, e in otel.taken if e["eventName"] == "access.outcome"]
    about = {each["key"]: each["value"] for each in outcomes[0]["attributes"]}
    assert about["gen_ai.request.model"] == {"stringValue": CHAT.model}


@pytest.mark.timeout(240)
async def test_destinations_that_hang_reset_or_fail_delay_no_call_and_lose_no_record(
    tmp_path, upstream, receivers
):
    syslog, (resetting, failing, good, spare), certificate = receivers
    (tmp_path / "without").mkdir()
    (tmp_path / "with").mkdir()
    async with running_gate(tmp_path / "without", upstream.url) as gate:
        key = await gate.member("red")
        await calls(gate, key, 20)
        alone = await calls(gate, key, 100)
    syslog.mood, resetting.mood, failing.mood, spare.mood = "hangs", "resets", "fails", "hangs"
    deadline = 3.0
    exporters = {
        "logs": {
            "kind": "syslog",
            "url": f"tls://127.0.0.1:{syslog.port}",
            "ca": str(certificate),
            **LOCAL,
            "timeout_s": deadline,
        },
        "resetting": webhook(resetting),
        "failing": webhook(failing, ca=str(certificate)),
        "good": webhook(good),
        "hanging": webhook(spare, timeout_s=deadline),
    }
    async with running_gate(tmp_path / "with", upstream.url, exporters=exporters) as gate:
        key = await gate.member("red")
        await calls(gate, key, 20)
        await until(
            lambda: len(exporter_pids(gate)) == 5 and syslog.connections > 0, "all exporters try"
        )
        beside = await calls(gate, key, 100)
        for taken in (alone, beside):
            print(f"{statistics.median(taken) * 1e3:.1f} ms, {max(taken) * 1e3:.1f} ms")
        assert statistics.median(beside) < 3 * statistics.median(alone) + 0.010
        assert max(beside) < deadline  # a call that waited for a hanging attempt would take it all
        await until(lambda: durable(gate) <= set(good.keys()), "the good one has all meanwhile")
        # What is killed in the middle of an attempt, and of the time after.
        for _ in range(2):
            killed = exporter_pids(gate)
            for pid in killed.values():
                os.kill(pid, signal.SIGKILL)
            await calls(gate, key, 10)
            await until(lambda: _replaced(gate, killed), "all run again")  # noqa: B023
        told = {each["name"]: each for each in (await gate.status())["exporters"]}
        assert told["hanging"]["lag_records"] > 0
        for each in (syslog, resetting, failing, spare):
            each.mood = "takes"
        await calls(gate, key, 5)
        for each in (syslog, resetting, failing, good, spare):
            await until(lambda: durable(gate) <= set(each.keys()), "all is there")  # noqa: B023
        for each in (resetting, failing, good, spare):
            first: dict[str, str] = {}
            for name, event in each.taken:  # what came twice is the same
                assert first.setdefault(name, json.dumps(event)) == json.dumps(event)
            assert set(first) >= durable(gate)
            for log in {name.partition("#")[0] for name in first}:
                places = [int(n.partition("#")[2]) for n in first if n.startswith(f"{log}#")]
                assert places == sorted(places)
        assert len(resetting.keys()) > len(set(resetting.keys()))  # the test did see duplicates


def _replaced(gate: Gate, killed: dict[str, int]) -> bool:
    """Whether other processes have taken the places of all of these."""
    now = exporter_pids(gate)
    return now.keys() == killed.keys() and not set(now.values()) & set(killed.values())


async def test_what_is_refused_for_good_gives_way_to_a_notice_and_is_told(
    tmp_path, upstream, receivers
):
    _, (strict, _, short, wrong), _ = receivers
    strict.bad = {"sluicegate/data-0#2"}
    wrong.mood = "refuses"
    exporters = {
        "strict": webhook(strict),
        "short": webhook(short, max_event_bytes=2048, format="ocsf"),
        "wrong": webhook(wrong),
    }
    async with running_gate(tmp_path, upstream.url, exporters=exporters) as gate:
        key = await gate.member("red")
        await calls(gate, key, 6)
        suspend = {"change": "move", "kind": "member", "id": "red", "verb": "suspend"}
        long = {"change": suspend, "actor": "test", "reason": "\N{SNAKE}" * 500}
        await gate.control.post("/changes", long)
        for each in (strict, short):
            await until(lambda: durable(gate) <= set(each.keys()), "all is there")  # noqa: B023
        await until(lambda: "Incorrect index" in str(_told(gate)), "the third says why")
        for name in ("strict", "short"):
            account = gate.state.exporter_account(name)
            await until(lambda: '"replaced": 1' in account.read_text(), "it says so")  # noqa: B023
        status = await gate.status()
        told = {each["name"]: each for each in status["exporters"]}
        assert told["strict"]["replaced"] == 1
        assert told["strict"]["last_replaced"].startswith("sluicegate/data-0#2: ")
        assert told["short"]["last_replaced"].endswith("longer than 2048 bytes")
        assert told["wrong"]["replaced"] == 0
        assert told["wrong"]["lag_records"] == len(gate.records())
        (problem,) = [each["what"] for each in status["problems"] if "exporter" in each["what"]]
        assert "wrong fails" in problem
        assert "Incorrect index" in problem
        said = gate.log()
    replaced = [event for key, event in strict.taken if key == "sluicegate/data-0#2"]
    assert [each["record"]["type"] for each in replaced] == ["export.replaced"]
    assert "event replaced by a notice" in said
    # Without a gateway the command tells what was kept.
    operator = Operator.__new__(Operator)
    operator.state = gate.state
    shown = operator("audit", "exporters", "--json", code=1)
    assert {each["name"] for each in shown.json} == {"strict", "short", "wrong"}
    assert "Incorrect index" in operator("audit", "exporters", code=1).out


def _told(gate: Gate) -> list[str]:
    return [path.read_text() for path in gate.state.exporters.glob("*.json")]


async def test_secrets_reach_the_process_that_needs_them_and_no_other(
    tmp_path, upstream, receivers, monkeypatch
):
    _, (one, _, two, _), _ = receivers
    monkeypatch.setenv("SLUICEGATE_EXPORTERS__ONE__SECRET", TOKEN)
    monkeypatch.setenv("SLUICEGATE_EXPORTERS__TWO__SECRET", TOKEN[::-1])
    exporters = {"one": webhook(one), "two": webhook(two)}
    async with running_gate(tmp_path, upstream.url, exporters=exporters) as gate:
        await until(lambda: bool(one.received and two.received), "both have sent")
        assert one.received[0].header("authorization") == [f"Bearer {TOKEN}"]
        assert two.received[0].header("authorization") == [f"Bearer {TOKEN[::-1]}"]
        pids = {**gate.processes(), **exporter_pids(gate)}
        assert pids.keys() == {"control", "data-0", "one", "two"}
        assert {name for name, pid in pids.items() if TOKEN in _environment(pid)} == {"one"}


def _environment(pid: int) -> str:
    return Path(f"/proc/{pid}/environ").read_text()
