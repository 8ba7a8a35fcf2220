"""Processes die, hang, restart and stop; the gateway keeps its promises (K45, K48, K56).

The tests share one gateway and leave it running; the last two end it.
"""

import asyncio
import contextlib
import os
import random
import signal

import httpx
import pytest
import pytest_asyncio

from gateway import bus
from gateway.audit.read import LogReader
from tests.support.calls import (
    CHAT,
    MESSAGES,
    WIRES,
    Call,
    Ticking,
    answered,
    records_of,
    said_so,
    streaming,
    tag_of,
)
from tests.support.gate import Gate, running_gate
from tests.support.upstream import Received, Reply, Upstream

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

RESTRICTED = "mythos-5"
MAX_AGE_S = 5
SLOTS = 8
DRAIN_S = 1


class Provider:
    """Ticks; what is tagged ``slow`` is answered whole, after a while that its tag names."""

    def __init__(self) -> None:
        self.ticking = Ticking()

    async def __call__(self, request: Received, reply: Reply) -> None:
        tag = tag_of(request)
        if tag.startswith("slow-"):
            await asyncio.sleep(int(tag.removeprefix("slow-")) / 1000)
        await self.ticking(request, reply)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream():
    served = Upstream(Provider())
    await served.start()
    yield served
    await served.stop()


@pytest_asyncio.fixture
async def ticking(upstream):
    upstream.script.ticking = script = Ticking()
    yield script
    script.finish.set()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gate(tmp_path_factory, upstream):
    directory = tmp_path_factory.mktemp("life")

    def prepare(gate: Gate) -> None:
        """No limit in the way of the soak."""
        limits = gate.data("limits")
        limits.write_text(limits.read_text().replace("burst: 600}", "burst: 60000}"))

    endpoint = {"url": upstream.url, "key_file": str(directory / "provider.key")}
    async with running_gate(
        directory,
        upstream.url,
        prepare=prepare,
        registry_max_age_s=MAX_AGE_S,
        data={"drain_s": DRAIN_S},
        upstreams={
            "openai": {**endpoint, "kind": "openai", "max_connections": SLOTS},
            "anthropic": {**endpoint, "kind": "anthropic", "max_connections": SLOTS},
        },
    ) as running:
        yield running
    assert all(report.verdict == "ok" for report in running.verify())


async def status_of(gate: Gate, key: str, model: str = "") -> int:
    """Of one whole call on messages; 0 where the connection ended without an answer."""
    try:
        body = MESSAGES.body(model=model, stream=False)
        answer = await (await Call.start(gate, MESSAGES, key, body)).end()
    except OSError:
        return 0
    return answer.status if answer is not None and answer.complete else 0


# A data worker dies


async def test_a_data_worker_killed_under_load_is_restarted_and_its_orphans_are_closed(
    gate, ticking
):
    """Its callers see no finished answer, nobody is told that his key is wrong, and every intent
    that it left without an outcome gets one."""
    key = await gate.member("loaded")
    running = [
        await streaming(gate, ticking, wire, key, f"loaded-{name}-{n}")
        for name, wire in WIRES.items()
        for n in range(2)
    ]
    before = gate.processes()["data-0"]
    os.kill(before, signal.SIGKILL)
    loop = asyncio.get_running_loop()
    since = loop.time()
    statuses = set()
    replaced = asyncio.create_task(gate.replaced("data-0", before))
    while not replaced.done():
        statuses.add(await status_of(gate, key))
    print(f"serving again after {loop.time() - since:.2f} s; meanwhile {sorted(statuses)}")
    assert statuses <= {0, 200, 503}
    for call in running:
        answer = await call.end()
        assert answer is None or not answer.complete
    assert await status_of(gate, key) == 200
    outcomes = await gate.recorded("access.outcome", 6, status="interrupted")
    streams = {
        record["request_id"]
        for record in await records_of(gate, "access.intent", "loaded")
        if record["request"].get("stream")
    }
    assert {outcome["request_id"] for outcome in outcomes} >= streams
    intents = [record["request_id"] for record in gate.records("access.intent")]
    assert sorted(intents) == sorted(
        record["request_id"] for record in gate.records("access.outcome")
    )


# The control process dies, hangs, or is missed


async def test_k56_with_the_control_process_dead_the_data_plane_serves(gate, ticking):
    red, blue = await gate.member("red"), await gate.member("blue")
    call = await streaming(gate, ticking, CHAT, red, "control-dies")
    before = gate.processes()["control"]
    os.kill(before, signal.SIGKILL)
    replaced = asyncio.create_task(gate.replaced("control", before))
    statuses = []
    while not replaced.done():
        statuses.append(await status_of(gate, red))
        await asyncio.sleep(0.02)
    assert set(statuses) == {200}, set(statuses)
    # Once it is back, what it changes reaches the worker, and what it says is what it said before.
    await gate.revoke("blue-1")
    assert await status_of(gate, blue) == 401
    assert await status_of(gate, await gate.member("green")) == 200
    assert await status_of(gate, red, RESTRICTED) == 200
    status = await gate.status()
    assert status["workers"][0]["epoch"] <= status["registry"]["epoch"]
    ticking.finish.set()
    answer = await asyncio.wait_for(call.end(), 5)
    assert answer.complete
    assert answer.body == ticking.replies["control-dies"].sent


async def test_a_control_process_that_hangs_makes_the_registry_stale(gate, ticking):
    """Restricted models wait until it is heard again, and their streams end; unrestricted ones go
    on."""
    key = await gate.member("staled")
    cut = await streaming(gate, ticking, MESSAGES, key, "stale-restricted", model=RESTRICTED)
    kept = await streaming(gate, ticking, CHAT, key, "stale-open")
    pid = gate.processes()["control"]
    loop = asyncio.get_running_loop()
    os.kill(pid, signal.SIGSTOP)
    since = loop.time()
    try:
        statuses = [await status_of(gate, key, RESTRICTED)]
        while statuses[-1] == 200:
            assert await status_of(gate, key) == 200
            await asyncio.sleep(0.1)
            statuses.append(await status_of(gate, key, RESTRICTED))
        took = loop.time() - since
        refused = await answered(gate, MESSAGES, key, MESSAGES.body(model=RESTRICTED))
        assert await status_of(gate, key) == 200
        ended = await asyncio.wait_for(cut.end(), 5)
        assert b"registry_stale" in ended.body
        ticking.finish.set()
        whole = await asyncio.wait_for(kept.end(), 5)
        assert whole.body == ticking.replies["stale-open"].sent
    finally:
        os.kill(pid, signal.SIGCONT)
    print(f"restricted models wait after {took:.1f} s of silence")
    assert statuses[0] == 200
    assert MAX_AGE_S - 1.5 < took < MAX_AGE_S + 2
    assert refused.status == 503
    assert refused.header("x-sluicegate-reason") == "registry_stale"
    since = loop.time()
    while await status_of(gate, key, RESTRICTED) != 200:
        await asyncio.sleep(0.05)
        assert loop.time() - since < 5


class LossyBus:
    """Stands between worker and control process, and can lose a registry change."""

    def __init__(self, gate: Gate) -> None:
        self._path = gate.state.bus_socket
        self._real = self._path.with_name("bus.real")
        self.lose = 0
        self.greetings = 0

    async def __aenter__(self):
        self._path.rename(self._real)
        self._server = await asyncio.start_unix_server(self._serve, self._path)
        return self

    async def __aexit__(self, *_):
        self._server.close()
        self._real.rename(self._path)

    async def _serve(self, reader, writer) -> None:
        worker = bus.Link(reader, writer)
        control = bus.Link(*await asyncio.open_unix_connection(self._real))
        up = asyncio.create_task(self._up(worker, control))
        with contextlib.suppress(ConnectionError):
            while True:
                message = await control.receive()
                self.greetings += isinstance(message, bus.RegistrySnapshot)
                if self.lose and isinstance(message, bus.RegistryDelta):
                    self.lose -= 1
                    await control.send(bus.Applied(message.ticket, 0))
                else:
                    await worker.send(message)
        up.cancel()
        await asyncio.gather(up, return_exceptions=True)
        await worker.close()
        await control.close()

    @staticmethod
    async def _up(worker: bus.Link, control: bus.Link) -> None:
        try:
            while True:
                await control.send(await worker.receive())
        finally:
            await control.close()


async def test_a_gap_on_the_bus_is_noticed_and_made_good(gate, ticking):
    """A revocation was lost on the way; the next change shows that, and the lost one counts."""
    lost, other = await gate.member("lost"), await gate.member("other")
    before = gate.processes()["data-0"]
    async with LossyBus(gate) as between:
        os.kill(before, signal.SIGKILL)
        await gate.replaced("data-0", before)
        greeted = between.greetings
        call = await streaming(gate, ticking, CHAT, lost, "lost")
        between.lose = 1
        assert (await gate.revoke("lost-1"))["ended"] == 0
        assert await status_of(gate, lost) == 200  # the worker cannot know
        await gate.set("member", "other", roles=["a-role"])
        await asyncio.wait_for(call.end(), 2)
        assert said_so(CHAT, call)["code"] == "credential_withdrawn"
        assert await status_of(gate, lost) == 401
        assert await status_of(gate, other) == 200
        assert between.greetings == greeted + 1


# Cancelled in any moment


@pytest.mark.parametrize("count", [300, pytest.param(2000, marks=pytest.mark.long)])
async def test_k45_random_cancels_lose_no_upstream_slot(gate, upstream, ticking, count):
    """64 at a time for 8 slots on each endpoint, each cancelled at a random moment; then as many
    calls as there are slots succeed at once, and every intent has its one outcome."""
    key = await gate.member(f"soak-{count}")
    chance = random.Random(count)
    room = asyncio.Semaphore(64)
    wires = list(WIRES.values())

    async def cancelled() -> None:
        async with room:
            wire = chance.choice(wires)
            stream = chance.random() < 0.5
            tag = f"soak-{chance.random()}" if stream else f"slow-{chance.randrange(30)}"
            sent = 1.0 if chance.random() < 0.9 else 0.7
            body = wire.body(tag, stream=stream)
            call = (await Call.start(gate, wire, key, body, sent=sent)).read()
            await asyncio.sleep(chance.random() * 0.1)
            call.gone()
            await call.reading

    await asyncio.gather(*(cancelled() for _ in range(count)))
    loop = asyncio.get_running_loop()
    since = loop.time()
    probes = [
        await streaming(gate, ticking, wire, key, f"probe-{wire.name}-{n}")
        for wire in (CHAT, MESSAGES)
        for n in range(SLOTS)
    ]
    print(f"{count} cancels; all slots taken again after {loop.time() - since:.2f} s")
    assert loop.time() - since < 5
    ticking.finish.set()
    for probe in probes:
        assert (await asyncio.wait_for(probe.end(), 5)).complete
    assert upstream.open_connections <= 3 * SLOTS
    await asyncio.sleep(0.2)
    intents = await records_of(gate, "access.intent", f"soak-{count}", 2 * SLOTS)
    outcomes = await records_of(gate, "access.outcome", f"soak-{count}", len(intents))
    assert sorted(one["request_id"] for one in outcomes) == sorted(
        one["request_id"] for one in intents
    )
    print({kind: sum(one["status"] == kind for one in outcomes) for kind in ("ok", "client_abort")})


# The end


def ends(gate: Gate) -> dict[str, dict]:
    """The last record of each shard."""
    return {
        shard.name: list(LogReader(shard).entries())[-1].json()
        for shard in gate.state.audit.iterdir()
    }


async def test_with_the_supervisor_killed_its_processes_stop_by_themselves(gate, ticking):
    """And in order: what runs is ended as at a stop, the logs are closed, the next start works."""
    key = await gate.member("orphaned")
    call = await streaming(gate, ticking, CHAT, key, "orphaned")
    children = list(gate.processes().values())
    loop = asyncio.get_running_loop()
    since = loop.time()
    await gate.stop(signal.SIGKILL)
    answer = await asyncio.wait_for(call.end(), DRAIN_S + 5)
    assert answer.complete
    assert said_so(CHAT, call)["code"] == "shutting_down"
    while any(os.path.exists(f"/proc/{pid}") for pid in children):  # noqa: ASYNC240, PTH110
        await asyncio.sleep(0.05)
        assert loop.time() - since < DRAIN_S + 10
    print(f"all stopped {loop.time() - since:.2f} s after the supervisor was killed")
    assert {end["type"] for end in ends(gate).values()} == {"log.closed"}
    await gate.start()
    assert await status_of(gate, key) == 200


async def test_k48_a_drain_is_bounded_and_ends_streams_with_an_error(gate, upstream, ticking):
    """Readiness off, nothing new; who finishes in time finishes, the others are told."""
    key = await gate.member("drained")
    endless = {
        wire: await streaming(gate, ticking, wire, key, f"endless-{name}")
        for name, wire in WIRES.items()
    }
    upstream.script.ticking = short = Ticking()
    finishing = await streaming(gate, short, CHAT, key, "short")
    deciding = await Call.start(gate, CHAT, key, CHAT.body("late"), sent=0.5)
    loop = asyncio.get_running_loop()
    since = loop.time()
    stopped = asyncio.create_task(gate.stop())
    async with httpx.AsyncClient() as probe:
        while (await probe.get(f"{gate.ops_url}/readyz")).status_code == 200:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    unready = loop.time() - since
    late = set()
    while loop.time() - since < DRAIN_S / 2:
        late.add(await status_of(gate, key))
        await asyncio.sleep(0.05)
    assert late <= {0, 503}, late  # refused by the kernel, or by the gateway
    assert 0 in late, "a new connection is neither taken nor refused"
    short.finish.set()
    answer = await asyncio.wait_for(finishing.end(), 5)
    assert answer.complete
    assert answer.body == short.replies["short"].sent
    for wire, call in endless.items():
        await asyncio.wait_for(call.end(), DRAIN_S + 5)
        assert DRAIN_S - 0.2 < call.ended_at - since < DRAIN_S + 2
        assert said_so(wire, call)["message"].startswith("This gateway process is stopping")
    assert await asyncio.wait_for(stopped, 15) == 0
    took = loop.time() - since
    print(f"unready after {unready * 1000:.0f} ms, ended after {took:.2f} s")
    assert took < DRAIN_S + 8  # a client that is still sending may hear its refusal for a while
    deciding.gone()
    statuses = [one["status"] for one in await records_of(gate, "access.outcome", "drained", 4)]
    assert sorted(statuses) == ["ok", "shutdown", "shutdown", "shutdown"]
    for end in ends(gate).values():
        assert end["type"] == "log.closed"
        assert end["open"] == 0
