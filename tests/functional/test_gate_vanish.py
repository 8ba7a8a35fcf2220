"""A client that vanishes or does not read (K40, K41, K45, K53).

Wherever it vanishes, the upstream sees the close within a second, the reservation is settled, and
the record says so. A client that reads nothing costs bounded memory and is cut in time.
"""

import asyncio
import itertools
import re
import socket
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support import raw
from tests.support.calls import (
    CHAT,
    MESSAGES,
    RESPONSES,
    WIRES,
    Call,
    Ticking,
    answered,
    records_of,
    silent,
    tag_of,
    unfinished,
)
from tests.support.gate import PROVIDER_KEY, Gate, running_gate
from tests.support.upstream import Received, Reply, Upstream, event

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

BOUND_S = 1.0
OUTPUT_BURST = 100_000
RESERVED = 1000
"""What each call of ``tests.support.calls`` reserves of it."""
FLOOD = 64 * 1024
PADDED = event({"id": "x", "choices": [{"index": 0, "delta": {"content": "x" * FLOOD}}]})
DARK = """
dark-1:
  id: dark-1
  display_name: Dark
  endpoint: dark
  wires: [chat]
  stage: general
  created_at: "2026-01-01T00:00:00Z"
  restricted: false
"""


async def script(request: Received, reply: Reply) -> None:
    """What the tag says; by default a stream, or a small whole answer."""
    kind = tag_of(request).partition("-")[0]
    if kind == "silent":
        await silent(request, reply)
    elif kind == "mid":
        await Ticking(every_s=0.02)(request, reply)
    elif kind == "part":
        await unfinished(request, reply)
    elif kind == "flood":
        await reply.start_stream()
        while True:
            await reply.chunk(PADDED)
    elif kind == "big":
        await reply.whole(b" " * 50_000)
    elif kind == "flow":
        await reply.whole(b" " * 50_000_000)
    else:
        await Ticking()(request, reply)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream():
    served = Upstream(script)
    await served.start()
    yield served
    await served.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def dark():
    """A port whose backlog is full: connections to it stay half open."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = []
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            fillers.append(filler)
        yield listener.getsockname()[1]
        for filler in fillers:
            filler.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gate(tmp_path_factory, upstream, dark):
    directory = tmp_path_factory.mktemp("vanish")
    key_file = directory / "key"
    key_file.write_text(PROVIDER_KEY)
    about = {"kind": "vllm", "key_file": str(key_file)}

    def prepare(gate: Gate) -> None:
        """One stream for each key, and output tokens that do not come back by themselves."""
        models, limits = gate.data("models"), gate.data("limits")
        models.write_text(models.read_text() + DARK)
        text = re.sub(
            r"(output_tokens\.\w+, key: subject), rate: \d+, period_s: \d+, burst: \d+",
            rf"\1, rate: 1, period_s: 3600, burst: {OUTPUT_BURST}",
            limits.read_text(),
        )
        limits.write_text(re.sub(r"(streams\.\w+, .*burst:) \d+", r"\1 1", text))

    async with running_gate(
        directory,
        upstream.url,
        prepare=prepare,
        data={"stall_timeout_s": 1},
        upstreams={
            "vllm": {**about, "url": upstream.url, "max_connections": 1},
            "dark": {**about, "url": f"http://127.0.0.1:{dark}"},
        },
    ) as running:
        yield running
    assert all(report.verdict == "ok" for report in running.verify())


async def until_received(upstream: Upstream, tag: str) -> Reply:
    while True:
        for received, reply in zip(upstream.received, upstream.replies, strict=False):
            if tag_of(received) == tag:
                return reply
        await asyncio.sleep(0.005)


async def time_to_close(reply: Reply, call: Call) -> float:
    since = asyncio.get_running_loop().time()
    call.gone()
    await asyncio.wait_for(reply.until_closed(), 10)
    return reply.closed_at - since


async def assert_settled(gate: Gate, member: str, wire, status: str = "client_abort") -> None:
    """Its stream is free again, its output tokens are spent as reserved, the record says so."""
    (outcome,) = await records_of(gate, "access.outcome", member)
    assert outcome["status"] == status, outcome
    assert outcome["tokens"]["usage_source"] == "reserved"
    after = await answered(gate, wire, gate.keys[f"{member}-1"], wire.body("ok", stream=False))
    assert after.status == 200, after.body
    intents = await records_of(gate, "access.intent", member, 2)
    (output,) = [one for one in intents[1]["limits"] if one["name"].startswith("output_tokens")]
    assert output["left"] == OUTPUT_BURST - 2 * RESERVED


@pytest.mark.parametrize("wire", WIRES.values(), ids=WIRES)
@pytest.mark.parametrize("where", ["silent", "mid", "part"])
async def test_k40_the_upstream_sees_a_vanished_client_within_a_second(gate, upstream, where, wire):
    """Before the first byte, in the middle of a stream, in the middle of a whole answer."""
    tag = f"{where}-{wire.name}"
    key = await gate.member(tag)
    call = await Call.start(gate, wire, key, wire.body(tag, stream=where == "mid"))
    reply = await until_received(upstream, tag)
    if where != "silent":
        assert (await call.head()).status == 200
    took = await time_to_close(reply, call)
    print(f"{where}, {wire.name}: upstream closed after {took * 1000:.1f} ms")
    assert took < BOUND_S
    await assert_settled(gate, tag, wire)


async def test_k40_a_client_that_pipelined_another_request_is_missed_all_the_same(gate, upstream):
    """Whoever holds back reading a second request must still notice that the client is gone."""
    key = await gate.member("pipelined")
    body = CHAT.body("silent-pipelined")
    call = await Call.start(gate, CHAT, key, body)
    reply = await until_received(upstream, "silent-pipelined")
    for _ in range(3):
        await call.connection.send(raw.request(CHAT.target, body, key=key))
    await asyncio.sleep(0.1)
    took = await time_to_close(reply, call)
    print(f"pipelined: upstream closed after {took * 1000:.1f} ms")
    assert took < BOUND_S
    await assert_settled(gate, "pipelined", CHAT)
    assert len([one for one in upstream.received if tag_of(one) == "silent-pipelined"]) == 1


async def test_a_pipelined_request_is_not_answered_and_the_connection_closed(gate):
    """RFC 9112, 9.3.2: what a client pipelined after a closed answer it sends again."""
    key = await gate.member("pipeliner")
    one = raw.request(CHAT.target, CHAT.body("ok", stream=False), key=key)
    back = await raw.send_raw(gate.port, one + one + b"and no HTTP at all")
    assert back.count(b"HTTP/1.1") == 1
    assert back.startswith(b"HTTP/1.1 200")
    assert b"connection: close\r\n" in back


async def test_k40_queued_for_an_upstream_slot(gate, upstream):
    """It gives up its place in the queue, and the slot is not lost."""
    model = "glm-5.2"  # its endpoint takes one connection
    first, second = await gate.member("first"), await gate.member("second")
    holding = await Call.start(gate, CHAT, first, CHAT.body("mid-slot", model=model))
    reply = await until_received(upstream, "mid-slot")
    waiting = await Call.start(gate, CHAT, second, CHAT.body("queued", model=model))
    await records_of(gate, "access.intent", "second")
    loop = asyncio.get_running_loop()
    since = loop.time()
    waiting.gone()
    (outcome,) = await records_of(gate, "access.outcome", "second")
    took = loop.time() - since
    print(f"queued: recorded after {took * 1000:.1f} ms")
    assert took < BOUND_S
    assert outcome["status"] == "client_abort"
    assert await time_to_close(reply, holding) < BOUND_S
    body = CHAT.body("after", model=model, stream=False)
    assert (await answered(gate, CHAT, second, body)).status == 200
    assert "queued" not in {tag_of(received) for received in upstream.received}


def half_open(port: int) -> int:
    """How many sockets of this machine wait for that port to accept them (SYN_SENT)."""
    wanted = f":{port:04X}"
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(wanted) and row[3] == "02" for row in rows)


async def test_k40_connecting(gate, dark):
    key = await gate.member("connecting")
    before = half_open(dark)
    call = await Call.start(gate, CHAT, key, CHAT.body(model="dark-1"))
    while half_open(dark) == before:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    loop = asyncio.get_running_loop()
    since = loop.time()
    call.gone()
    while half_open(dark) > before:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    took = loop.time() - since
    print(f"connecting: given up after {took * 1000:.1f} ms")
    assert took < BOUND_S
    await assert_settled(gate, "connecting", CHAT)


@pytest.mark.parametrize("wire", WIRES.values(), ids=WIRES)
async def test_k40_while_its_body_is_still_on_its_way(gate, upstream, wire):
    """Nothing was judged, so nothing is forwarded; the record is a refusal."""
    member = f"upload-{wire.name}"
    key = await gate.member(member)
    call = await Call.start(gate, wire, key, wire.body(member), sent=0.5)
    await asyncio.sleep(0.1)
    call.gone()
    (denied,) = await records_of(gate, "access.denied", member)
    assert denied["reason"] == "client_gone"
    assert member not in {tag_of(received) for received in upstream.received}
    assert (await answered(gate, wire, key, wire.body("ok", stream=False))).status == 200


# Clients that do not read


def resident_mb(pid: int) -> float:
    (line,) = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(line) / 1024


async def deaf(gate: Gate, wire, key: str, tag: str) -> Call:
    """A client with the smallest of buffers that never reads."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", gate.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=4096)
    writer.transport.pause_reading()
    body = wire.body(tag, stream=tag.startswith("flood"))
    extra = {"anthropic-version": "2023-06-01"}
    writer.write(raw.request(wire.target, body, key=key, headers=extra))
    return Call(raw.Connection(reader, writer))


async def test_k41_clients_that_read_nothing_cost_bounded_memory_and_are_cut(gate, upstream):
    names = [f"flood-{number}" for number in range(20)]
    keys = [await gate.member(name) for name in names]
    pid = gate.processes()["data-0"]
    warm = await gate.member("flood-warm")
    first = await deaf(gate, CHAT, warm, "flood-warm")
    await (await until_received(upstream, "flood-warm")).until_closed()
    first.gone()
    before = largest = resident_mb(pid)
    loop = asyncio.get_running_loop()
    since = loop.time()
    wires = [CHAT, RESPONSES, MESSAGES]
    calls = [
        await deaf(gate, wires[number % 3], key, name)
        for number, (name, key) in enumerate(zip(names, keys, strict=True))
    ]
    replies = [await until_received(upstream, name) for name in names]
    while not all(reply.closed_by_peer.is_set() for reply in replies):
        largest = max(largest, resident_mb(pid))
        await asyncio.sleep(0.02)
        assert loop.time() - since < 10, "not all were cut"
    last = max(reply.closed_at for reply in replies) - since
    print(f"20 deaf clients: +{largest - before:.1f} MB, the last cut after {last:.2f} s")
    assert largest - before < 20
    for name in names:
        (outcome,) = await records_of(gate, "access.outcome", name)
        assert (outcome["status"], outcome["reason"]) == ("client_abort", "client_stalled")
    for call in calls:
        call.gone()
    await assert_settled(gate, "flood-0", CHAT)


async def test_k41_a_whole_answer_that_is_not_read(gate, upstream):
    key = await gate.member("flow-1")
    call = await deaf(gate, CHAT, key, "flow-1")
    reply = await until_received(upstream, "flow-1")
    await asyncio.wait_for(reply.until_closed(), 10)
    (outcome,) = await records_of(gate, "access.outcome", "flow-1")
    assert (outcome["status"], outcome["reason"]) == ("client_abort", "client_stalled")
    call.gone()


def sockets(local: int, remote: int) -> list[list[str]]:
    """The kernel's rows of the TCP sockets of this machine between two ports."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ends = f":{local:04X}", f":{remote:04X}"
    return [row for row in rows if row[1].endswith(ends[0]) and row[2].endswith(ends[1])]


async def ask_without_reading(gate: Gate, upstream: Upstream, last: str) -> float:
    """Ask until the kernel takes no more and one answer waits in the gateway, then ask for
    ``last``. Returns the seconds after which the connection is reset."""
    key = await gate.member(f"asker-{last}")
    call = await deaf(gate, CHAT, key, "big-0")
    port = call.connection.writer.get_extra_info("sockname")[1]
    big = raw.request(CHAT.target, CHAT.body(f"big-{last}", stream=False), key=key)
    own = raw.request("/v1/models", key=key)
    closing = raw.request("/v1/models", key=key, headers={"connection": "close"})
    queued, now = -1, 0
    for sent in itertools.count():
        while sum(tag_of(one) == f"big-{last}" for one in upstream.received) < sent:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        queued, now = now, int(sockets(gate.port, port)[0][4].partition(":")[0], 16)
        if now and now == queued:
            break
        call.connection.writer.write(big)
    await asyncio.sleep(0.1)
    call.connection.writer.write({"relayed": big, "own": own, "closing": closing}[last])
    loop = asyncio.get_running_loop()
    since = loop.time()
    while sockets(port, gate.port):
        await asyncio.sleep(0.02)
        assert loop.time() - since < 4, f"{last}: it still holds its connection"
    call.gone()
    return loop.time() - since


async def test_k41_a_client_that_asks_and_asks_and_reads_no_answer_is_cut(gate, upstream):
    """Whichever answer it is that finds no room: a relayed one, one of the gateway's own, or one
    that is complete and waits in a connection that closes."""
    kinds = ["relayed", "own", "closing"]
    for kind, took in zip(
        kinds,
        await asyncio.gather(*(ask_without_reading(gate, upstream, kind) for kind in kinds)),
        strict=True,
    ):
        print(f"{kind}: reset {took:.2f} s after it took nothing more")
