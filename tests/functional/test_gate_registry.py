"""The registry under a running gateway: rows changed behind its back narrow and alarm, no call
needs the file, every change has its record; and what operators see of it all.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from gateway.core.protocols import Position
from tests.support.gate import VETTED, Gate, running_gate
from tests.support.upstream import Received, Reply, Upstream, message, message_events

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(90)]

CANARY = "canary-7b1f93"
RAISE = "UPDATE members SET body = json_set(body, '$.tiers.cyber', 3) WHERE id = ?"
PASSWORD_FREE_LINES = re.compile(r"(data|console|ops) +http|stopping: |data-0 ended with code -9;")


async def script(request: Received, reply: Reply) -> None:
    if not request.json().get("stream"):
        await reply.whole(json.dumps(message()).encode())
        return
    await reply.start_stream()
    first, *_ = events = message_events()
    await reply.chunk(first)
    while not reply.closed_by_peer.is_set():
        await asyncio.sleep(0.05)
        await reply.chunk(events[3])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[Upstream]:
    server = Upstream(script)
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gate(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gate]:
    async with running_gate(tmp_path_factory.mktemp("gate"), upstream.url) as gate:
        yield gate


def write(gate: Gate, statement: str, *values: object) -> None:
    """What somebody with the file and without the gateway does."""
    with contextlib.closing(sqlite3.connect(gate.state.registry, timeout=10)) as database, database:
        assert database.execute(statement, values).rowcount == 1


def body(model: str = "mythos-5", **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": CANARY}]
    return {"model": model, "max_tokens": 10, "messages": messages, **fields}


async def call(gate: Gate, key: str, model: str = "mythos-5") -> int:
    async with (
        session_of(key) as session,
        session.post(f"{gate.url}/v1/messages", json=body(model)) as response,
    ):
        return response.status


def session_of(key: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(headers={"x-api-key": key, "anthropic-version": "2023-06-01"})


async def fetch(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.text()


async def becomes(gate: Gate, key: str, status: int, within_s: float = 10) -> float:
    """Seconds until a call to a restricted model is answered so."""
    since = time.monotonic()
    while await call(gate, key) != status:
        assert time.monotonic() - since < within_s
        await asyncio.sleep(0.05)
    return time.monotonic() - since


async def alarms(gate: Gate) -> dict[str, float]:
    _, text = await fetch(f"{gate.ops_url}/metrics")
    return {
        sample.labels["name"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "sluicegate_alarms_total"
    }


async def restate(gate: Gate, name: str) -> None:
    """What the finding tells the operator to do."""
    status = await gate.status()
    (remedy,) = [each["do"] for each in status["problems"] if each["reaches"] == f"member {name}"]
    assert f"sluicegate member add {name}" in remedy
    fields = {"id": name, "organisation": "acme", "name": name, "tiers": {"cyber": 3}}
    fields |= {"purposes": ["defence"], "vetting": VETTED, "residence": "DE"}
    await gate.change({"change": "add", "kind": "member", "fields": fields})


async def test_a_tier_raised_by_hand_is_refused_alarms_and_cuts(gate: Gate) -> None:
    insider, neighbour = await gate.member("insider", 0), await gate.member("neighbour")
    assert await call(gate, insider) == 403
    url = f"{gate.url}/v1/messages"
    async with session_of(insider) as session, session_of(neighbour) as other:
        mine = await session.post(url, json=body("opus-4.8", stream=True))
        theirs = await other.post(url, json=body("opus-4.8", stream=True))
        await asyncio.gather(mine.content.readany(), theirs.content.readany())
        since = time.monotonic()
        write(gate, RAISE, "insider")
        rest = await mine.content.read()
        cut_after = time.monotonic() - since
        refused_after = cut_after + await becomes(gate, insider, 401)
        print(f"\ncut after {cut_after:.2f} s, refused after {refused_after:.2f} s")
        assert cut_after < 4
        assert b"event: error" in rest, "the SDK must raise"
        assert b"message_stop" not in rest
        await theirs.content.readany()
        assert not theirs.content.at_eof(), "the neighbour's stream goes on"
        mine.close()
        theirs.close()
    (record,) = await gate.recorded("registry.tampered", id="insider")
    assert record["kind"] == "member"
    status = await gate.status()
    assert any("registry.tampered: member insider" in each["what"] for each in status["problems"])
    assert status["alarms"]["registry_tampered"]["count"] >= 1
    assert (await alarms(gate))["registry_tampered"] >= 1
    assert await call(gate, neighbour) == 200
    await restate(gate, "insider")
    assert await call(gate, insider) == 200
    assert not [each for each in (await gate.status())["problems"] if "insider" in each["what"]]


@pytest.mark.parametrize(
    ("name", "statement"),
    [
        ("deleted", "DELETE FROM members WHERE id = ?"),
        ("demoted", "UPDATE members SET mac = 'x' WHERE id = ?"),
        ("re-keyed", "UPDATE subject_keys SET wrapped = x'00' WHERE member = ?"),
    ],
)
async def test_any_other_change_by_hand_only_narrows(gate: Gate, name: str, statement: str) -> None:
    key = await gate.member(name)
    assert await call(gate, key) == 200
    write(gate, statement, name)
    await becomes(gate, key, 401)
    await gate.recorded("registry.tampered", id=name)
    await restate(gate, name)
    assert await call(gate, key) == 200


async def test_an_older_row_put_back_and_a_row_without_a_record_are_left_out(gate: Gate) -> None:
    key = await gate.member("reduced", 3)
    with contextlib.closing(sqlite3.connect(gate.state.registry)) as database:
        before = database.execute("SELECT * FROM members WHERE id = 'reduced'").fetchone()
    await gate.set("member", "reduced", tiers={"cyber": 0})
    assert await call(gate, key) == 403
    values = "id, body, record, epoch, mac"
    write(gate, f"REPLACE INTO members ({values}) VALUES (?, ?, ?, ?, ?)", *before)
    await becomes(gate, key, 401)
    await gate.recorded("registry.tampered", id="reduced")
    _, *rest = before
    write(gate, f"INSERT INTO members ({values}) VALUES ('stranger', ?, ?, ?, ?)", *rest)
    await gate.recorded("registry.tampered", id="stranger")


async def test_every_change_has_its_record_and_every_row_names_it(gate: Gate) -> None:
    await gate.organisation(id="borealis", name="Borealis")
    await gate.member("nils", 2, organisation="borealis")
    await gate.set("member", "nils", tiers={"cyber": 1})
    for verb in ("suspend", "resume"):
        await gate.move("member", "nils", verb)
    await gate.revoke("nils-1")
    records = gate.records("registry.changed")
    mine = [each for each in records if each["id"] in ("borealis", "nils", "nils-1")]
    assert [each["op"] for each in mine] == [
        "organisation.add",
        "member.add",
        "credential.add",
        "member.set",
        "member.suspend",
        "member.resume",
        "credential.revoke",
    ]
    assert all(each["actor"] == "test" and each["reason"] for each in mine)
    epochs = [each["epoch"] for each in records]
    assert epochs == sorted(set(epochs))
    assert mine[3]["tiers"] == {"cyber": 1}
    by_id = {each["id"]: each for each in mine}
    for table, row in (
        ("organisations", "borealis"),
        ("members", "nils"),
        ("credentials", "nils-1"),
    ):
        with contextlib.closing(sqlite3.connect(gate.state.registry)) as database:
            stored = database.execute(f"SELECT record FROM {table} WHERE id = ?", (row,)).fetchone()
        assert stored == (str(Position(by_id[row]["log"], by_id[row]["seq"])),)


EXPECTED = {
    "sluicegate_worker_up": set(),
    "sluicegate_requests": {"wire", "model", "effect", "status"},
    "sluicegate_tokens": {"kind", "model"},
    "sluicegate_decision_memo": {"result"},
    "sluicegate_streams_open": {"wire"},
    "sluicegate_log_lag_records": set(),
    "sluicegate_log_lag_seconds": set(),
    "sluicegate_registry_epoch": set(),
    "sluicegate_step_seconds": {"step"},
    "sluicegate_added_latency_seconds": set(),
    "sluicegate_policy_revision_info": {"revision"},
    "sluicegate_alarms": {"name"},
}


async def test_k62_metrics_parse_and_no_label_is_the_clients_choice(gate: Gate) -> None:
    key = await gate.member("metered")
    assert await call(gate, key) == 200
    for number in range(40):
        await call(gate, key, f"{CANARY}-{number}")
    await call(gate, key, "mythos-6")  # embargoed: no label tells it from what does not exist
    await fetch(f"{gate.url}/{CANARY}")
    families: dict[str, Any] = {}
    for _ in range(100):  # workers report once a second
        status, text = await fetch(f"{gate.ops_url}/metrics")
        assert status == 200
        families = {each.name: each for each in text_string_to_metric_families(text)}
        shown = families.get("sluicegate_requests")
        counted = {
            (each.labels["model"], each.labels["effect"]): each.value
            for each in (shown.samples if shown else ())
        }
        if counted.get(("other", "model_not_found"), 0) >= 41:
            break
        await asyncio.sleep(0.05)
    else:
        raise AssertionError(text)
    assert CANARY not in text
    assert "mythos-6" not in text
    for name, labels in EXPECTED.items():
        assert families[name].samples, name
        for sample in families[name].samples:
            assert set(sample.labels) - {"worker", "le"} == labels, name
    models = {each.labels["model"] for each in families["sluicegate_requests"].samples}
    assert models <= {"mythos-5", "opus-4.8", "other"}
    assert len(text.splitlines()) < 1000


async def test_server_timing_names_the_steps(gate: Gate) -> None:
    key = await gate.member("timed", 0)
    for model, steps in (
        ("opus-4.8", ["identify", "read", "decide", "admit", "record", "upstream"]),
        ("mythos-5", []),
    ):
        async with (
            session_of(key) as session,
            session.post(f"{gate.url}/v1/messages", json=body(model)) as response,
        ):
            timing = response.headers.get("server-timing", "")
            assert response.headers["request-id"].startswith("req_")
        entries = [
            re.fullmatch(r"([a-z]+);dur=\d+\.\d+", each) for each in timing.split(", ") if each
        ]
        assert [each and each[1] for each in entries] == steps


async def test_probes_and_logs(gate: Gate) -> None:
    """Alive throughout; ready only while a worker is; every log line is JSON without a secret."""
    assert await fetch(f"{gate.ops_url}/livez") == (200, "alive\n")
    assert await fetch(f"{gate.ops_url}/readyz") == (200, "ready\n")
    worker = gate.processes()["data-0"]
    os.kill(worker, signal.SIGKILL)
    async with asyncio.timeout(20):
        while (await fetch(f"{gate.ops_url}/readyz"))[0] != 503:  # noqa: ASYNC110 - a probe
            await asyncio.sleep(0.02)
        assert (await fetch(f"{gate.ops_url}/livez"))[0] == 200
        await gate.replaced("data-0", worker)
    assert (await fetch(f"{gate.ops_url}/readyz"))[0] == 200
    lines = gate.log().splitlines()
    logged = [json.loads(line) for line in lines if line.startswith("{")]
    assert {"worker_gone", "alarm", "policy_activated"} <= {each["event"] for each in logged}
    assert all({"event", "level", "time"} <= each.keys() for each in logged)
    for line in lines:
        assert line.startswith("{") or PASSWORD_FREE_LINES.match(line), line
    assert CANARY not in gate.log()
    assert not [key for key in gate.keys.values() if key in gate.log()]


async def test_a_tier_raised_while_nothing_ran_is_refused_at_the_next_start(gate: Gate) -> None:
    sleeper, other = await gate.member("sleeper", 0), await gate.member("other")
    await gate.stop()
    write(gate, RAISE, "sleeper")
    await gate.start()
    assert await call(gate, sleeper) == 401
    assert await call(gate, other) == 200
    await gate.recorded("registry.tampered", id="sleeper")
    assert (await alarms(gate))["registry_tampered"] >= 1
    await restate(gate, "sleeper")
    assert await call(gate, sleeper) == 200
    assert {report.verdict for report in gate.verify()} == {"ok"}


@contextlib.contextmanager
def moved_away(gate: Gate) -> Iterator[None]:
    beside = gate.directory / "elsewhere"
    beside.mkdir()
    files = list(gate.state.root.glob("registry.db*"))
    for path in files:
        path.rename(beside / path.name)
    yield
    for path in files:
        (beside / path.name).rename(path)


def open_files(process: int) -> list[str]:
    return [str(each.readlink()) for each in Path(f"/proc/{process}/fd").iterdir()]


async def test_k56_calls_need_no_database(gate: Gate) -> None:
    key = await gate.member("served")
    worker = gate.processes()["data-0"]
    assert not [path for path in open_files(worker) if "registry.db" in path]
    with moved_away(gate):
        until = time.monotonic() + 2
        while time.monotonic() < until:
            assert await call(gate, key) == 200
            await asyncio.sleep(0.05)
        assert (await fetch(f"{gate.ops_url}/readyz"))[0] == 200, "readiness is not shared fate"
        with pytest.raises(Exception, match="file is not as we left it"):
            await gate.member("newcomer")
        status = await gate.status()
        assert any("registry.replaced" in each["what"] for each in status["problems"])
