"""The two phases of a record hold whatever happens (K59; invariant 3).

No upstream call without a durable intent, no finished answer without a durable outcome: with data
workers that are killed under load, and with a disk that is full.
"""

import asyncio
import contextlib
import hashlib
import os
import random
import signal
import subprocess
from collections import Counter
from pathlib import Path

import httpx
import pytest

from gateway.audit.content import keyed_digest
from tests.support.calls import CHAT, MESSAGES, WIRES, Call, Ticking, answered, said_so, streaming
from tests.support.gate import Gate, running_gate
from tests.support.upstream import Received, Reply, Upstream


class Brief:
    """A provider whose streams are short, with a pause in which a process may be killed."""

    def __init__(self) -> None:
        self.chance = random.Random(1)

    async def __call__(self, request: Received, reply: Reply) -> None:
        script = Ticking(every_s=self.chance.random() * 0.02)
        asyncio.get_running_loop().call_later(self.chance.random() * 0.05, script.finish.set)
        await script(request, reply)


def finished(wire, call: Call) -> bool:
    """Whether this client saw the end of its answer."""
    answer = call.answer
    if answer is None or answer.status != 200 or not answer.complete:
        return False
    streamed = answer.header("content-type").startswith("text/event-stream")
    return not streamed or answer.body.endswith(wire.parts()[2])


async def client(gate: Gate, key: str, number: int, done: asyncio.Event, seen: set[bytes]) -> int:
    """Call after call until done; ``seen`` gets the digest of each body that was answered to its
    end. Returns how many calls were made."""
    chance, calls = random.Random(number), 0
    while not done.is_set():
        wire = chance.choice(list(WIRES.values()))
        body = wire.body(f"{number}-{calls}", stream=chance.random() < 0.7)
        calls += 1
        with contextlib.suppress(OSError):
            call = await Call.start(gate, wire, key, body)
            await call.end()
            if finished(wire, call):
                seen.add(hashlib.sha256(body).digest())
        await asyncio.sleep(0.01)
    return calls


@pytest.mark.parametrize(
    ("kills", "clients"),
    [
        pytest.param(5, 20, marks=pytest.mark.timeout(120)),
        pytest.param(15, 40, marks=[pytest.mark.long, pytest.mark.timeout(900)]),
    ],
)
async def test_k59_workers_killed_under_load_leave_no_call_without_its_records(
    tmp_path, kills, clients
):
    upstream = Upstream(Brief())
    await upstream.start()

    def prepare(gate: Gate) -> None:
        """No limit in the way of the load."""
        limits = gate.data("limits")
        limits.write_text(limits.read_text().replace("burst: 600}", "burst: 600000}"))

    async with running_gate(tmp_path, upstream.url, prepare=prepare) as gate:
        key = await gate.member("loaded")
        done, seen = asyncio.Event(), set()
        load = [asyncio.create_task(client(gate, key, n, done, seen)) for n in range(clients)]
        chance = random.Random(kills)
        for _ in range(kills):
            await asyncio.sleep(0.3 + chance.random() * 0.5)
            before = gate.processes()["data-0"]
            os.kill(before, signal.SIGKILL)
            await gate.replaced("data-0", before)
        await asyncio.sleep(0.5)
        done.set()
        calls = sum(await asyncio.gather(*load))
    await upstream.stop()
    intents = {
        record["request"]["content"]["digest"]: record for record in gate.records("access.intent")
    }
    key = gate.subject_key("loaded")
    outcomes = {record["request_id"]: record for record in gate.records("access.outcome")}
    kinds = Counter(record["status"] for record in outcomes.values())
    print(f"{calls} calls, {len(upstream.received)} forwarded, {len(seen)} finished: {dict(kinds)}")
    assert len(seen) > 10 * kills
    assert kinds["interrupted"] >= kills
    for received in upstream.received:
        digest = keyed_digest(key, bytes.fromhex(received.sha256))
        assert digest in intents, "forwarded without an intent"
    for digest in seen:
        intent = intents[keyed_digest(key, digest)]
        outcome = outcomes[intent["request_id"]]
        assert outcome["status"] == "ok", "finished without its outcome"
    assert set(outcomes) == {intent["request_id"] for intent in intents.values()}
    assert len(gate.records("access.outcome")) == len(outcomes)
    assert all(report.verdict == "ok" for report in gate.verify())


# A full disk


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 6 MB, where the state of a gate goes."""
    place = tmp_path / "state"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m,mode=0700", "tmpfs", str(place)],
        capture_output=True,
        check=False,
    )
    if made.returncode and os.environ.get("CI") != "true":
        pytest.skip(f"needs root that may mount: {made.stderr.decode().strip()}")
    assert made.returncode == 0, made.stderr
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: Path) -> Path:
    """Leave no free page."""
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    return ballast


@pytest.mark.needs("root")
@pytest.mark.timeout(60)
async def test_k59_with_a_full_disk_nothing_is_forwarded_and_it_says_why(tmp_path, small_disk):
    ticking = Ticking()
    upstream = Upstream(ticking)
    await upstream.start()
    async with running_gate(tmp_path, upstream.url) as gate:
        red, newcomer = await gate.member("red"), await gate.member("newcomer", 0)
        running = {
            wire: await streaming(gate, ticking, wire, red, f"running-{name}")
            for name, wire in WIRES.items()
        }
        ballast = fill(small_disk)
        # The last page of the log may still hold a few records; the last of these calls may get
        # through, and its answer be withheld, for its end cannot be recorded.
        for number in range(50):
            tag = f"late-{number}"
            answer = await answered(gate, CHAT, red, CHAT.body(tag, stream=False))
            if answer.status == 503 and tag not in ticking.requests:
                break
            assert answer.status == 200 or "withholds the answer" in answer.body.decode()
        print(f"refused after {number} more calls")
        assert answer.header("x-sluicegate-reason") == "log_unavailable"
        for name, wire in WIRES.items():
            answer = await answered(gate, wire, red, wire.body(f"refused-{name}"))
            assert (answer.status, answer.header("x-sluicegate-reason")) == (503, "log_unavailable")
        # A denial that cannot be recorded is not given either.
        denied = await answered(gate, MESSAGES, newcomer, MESSAGES.body(model="mythos-5"))
        assert (denied.status, denied.header("x-sluicegate-reason")) == (503, "log_unavailable")
        assert not {tag, *(f"refused-{name}" for name in WIRES)} & set(ticking.requests)
        # An answer whose outcome cannot be recorded is never a finished one.
        ticking.finish.set()
        for wire, call in running.items():
            await asyncio.wait_for(call.end(), 10)
            assert not finished(wire, call)
            assert "cannot record" in said_so(wire, call)["message"]
        async with httpx.AsyncClient() as probe:
            while (await probe.get(f"{gate.ops_url}/readyz")).status_code == 200:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            assert "data-0 cannot write its log" in (await probe.get(f"{gate.ops_url}/readyz")).text
        problems = (await gate.status())["problems"]
        (problem,) = [one for one in problems if one["what"].startswith("data-0 cannot write")]
        assert "nothing is forwarded" in problem["reaches"]
        assert "restart" in problem["do"]
        await gate.stop()
        ballast.unlink()
        await gate.start()
        fresh = await answered(gate, CHAT, red, CHAT.body("fresh", stream=False))
        assert fresh.status == 200
        interrupted = await gate.recorded("access.outcome", 3, status="interrupted")
        streams = {
            record["request_id"]
            for record in gate.records("access.intent")
            if record["request"].get("stream")
        }
        assert {record["request_id"] for record in interrupted} >= streams
    assert all(report.verdict == "ok" for report in gate.verify())
    await upstream.stop()
