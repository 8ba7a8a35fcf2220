"""A connection carries one request at a time, costs a bounded amount, and ends."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from contextlib import suppress

import pytest
import pytest_asyncio

from gateway.proxy.connection import MAX_HEAD_BYTES, MAX_HEADERS
from gateway.proxy.relay import TRAILING_S
from tests.support import raw
from tests.support.gate import running_gate
from tests.support.speaking import TARGETS, body_for, provider
from tests.support.upstream import Reply, Upstream, response_events

pytestmark = pytest.mark.asyncio(loop_scope="module")

HEAD_S, STALL_S = 1.0, 1.0
LAST_WORD = b"x" * (6 << 20)
"""More than the buffers of a connection take from one who does not read."""


async def script(request, reply: Reply) -> None:
    if b"last word" not in request.body:
        await provider(request, reply)
        return
    *events, last = response_events()
    await reply.start_stream()
    for event in events:
        await reply.chunk(event)
    await reply.chunk(last.replace(b"hello there", LAST_WORD))
    await reply.end()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream():
    server = Upstream(script)
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gate(tmp_path_factory, upstream):
    bounds = {"head_timeout_s": HEAD_S, "stall_timeout_s": STALL_S}
    async with running_gate(tmp_path_factory.mktemp("gate"), upstream.url, data=bounds) as running:
        await running.member("red")
        yield running


def answers(received: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 ([0-9]{3})", received)]


# Upgrades


@pytest.mark.parametrize("identified", [True, False])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"connection": "Upgrade", "upgrade": "h2c"}, 400),
        ({"connection": "keep-alive, upgrade", "upgrade": "TLS/1.0"}, 400),
        ({"upgrade": "h2c"}, 400),
        ({"connection": "Upgrade"}, 400),
        ({"connection": "Upgrade", "upgrade": "websocket"}, 426),
    ],
)
async def test_k1_what_follows_an_upgrade_is_never_a_request(
    gate, upstream, headers, status, identified
):
    key, before = gate.keys["red-1"], len(upstream.received)
    smuggled = raw.request("/v1/models", key=key)
    wanted = raw.request(TARGETS["chat"], smuggled, key=key if identified else "", headers=headers)
    head = wanted.removesuffix(smuggled)
    for pieces in ([wanted], [head, smuggled]):
        async with raw.connect(gate.port) as connection:
            for piece in pieces:
                await connection.send(piece)
                await asyncio.sleep(0.05)
            received = await asyncio.wait_for(connection.rest(), 5)  # which ends: it closes
        assert answers(received) == [status]
    assert len(upstream.received) == before


@pytest.mark.parametrize("first", ["HEAD / HTTP/1.1", "CONNECT /v1/models HTTP/1.1"])
async def test_k1_an_upgrade_of_what_is_no_call_ends_the_connection_too(gate, first):
    asked = f"{first}\r\nhost: gate.test\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n".encode()
    async with raw.connect(gate.port) as connection:
        await connection.send(asked + raw.request("/v1/models", key=gate.keys["red-1"]))
        received = await asyncio.wait_for(connection.rest(), 5)
    assert len(answers(received)) == 1


async def test_malformed_and_upgrading_requests_write_no_log_line(gate):
    before = gate.log()
    for asked in (b"\x16\x03\x01\r\n\r\n", raw.request("/", headers={
        "connection": "upgrade", "upgrade": "h2c"})):  # fmt: skip
        assert answers(await raw.send_raw(gate.port, asked))
    assert gate.log() == before


# Size of a head


@pytest.mark.parametrize(
    "lines",
    [
        [f"x-{number}: a" for number in range(MAX_HEADERS)],
        [f"x-{number}: {'a' * 1000}" for number in range(MAX_HEAD_BYTES // 1000 + 2)],
    ],
    ids=["many", "large"],
)
async def test_k44_a_head_larger_than_its_bound_is_refused_and_a_smaller_one_is_not(gate, lines):
    key = gate.keys["red-1"]
    head = raw.request("/v1/models", key=key).removesuffix(b"\r\n")
    for kept, status in ((lines, 431), (lines[: len(lines) - 8], 200)):
        async with raw.connect(gate.port) as connection:
            await connection.send(head + "\r\n".join(kept).encode() + b"\r\n\r\n")
            answer = await connection.answer()
            assert answer.status == status
            if status == 431:
                assert json.loads(answer.body)["error"]["code"] == "framing_invalid"
                assert await connection.rest() == b""


@pytest.mark.parametrize("begun", [b"GET /", b"GET / HTTP/1.1\r\nx-a: ", b"GET / HTTP/1.1\r\nx"])
async def test_k44_a_head_part_without_end_is_refused_at_the_bound(gate, begun):
    async with raw.connect(gate.port) as connection:
        await connection.send(begun + b"a" * (MAX_HEAD_BYTES - 100))
        await asyncio.sleep(0.1)
        await connection.send(b"a" * 200)
        assert (await connection.answer()).status == 431
        assert await connection.rest() == b""


# Trailers


async def test_k1_trailers_are_no_headers(gate, upstream):
    """A second credential in the head would be refused, as would a second content type."""
    body, key = body_for("chat"), gate.keys["red-1"]
    head = raw.request(TARGETS["chat"], b"", key=key, headers={"transfer-encoding": "chunked"})
    head = head.replace(b"content-length: 0\r\n", b"")
    trailers = b"x-api-key: other\r\ncontent-type: text/plain\r\nexpect: 200-ok\r\n"
    whole = head + b"%x\r\n%s\r\n0\r\n%s\r\n" % (len(body), body, trailers)
    assert answers(await raw.send_raw(gate.port, whole)) == [200]
    assert upstream.received[-1].body == body
    refused = head.replace(b"\r\n\r\n", b"\r\n" + trailers + b"\r\n")
    assert answers(await raw.send_raw(gate.port, refused))[0] >= 400  # the control


async def test_k44_trailers_count_with_the_head(gate, upstream):
    body, before = body_for("chat"), len(upstream.received)
    headers = {"transfer-encoding": "chunked"}
    head = raw.request(TARGETS["chat"], b"", key=gate.keys["red-1"], headers=headers)
    head = head.replace(b"content-length: 0\r\n", b"")
    async with raw.connect(gate.port) as connection:
        await connection.send(head + b"%x\r\n%s\r\n0\r\n" % (len(body), body))
        await connection.send(b"".join(b"x-%d: a\r\n" % number for number in range(MAX_HEADERS)))
        assert (await connection.answer()).status == 431
    assert len(upstream.received) == before


# Idle connections


@pytest.mark.parametrize(
    ("asked", "dripped"),
    [
        (raw.request("/", method="HEAD"), b"\r\n"),
        (raw.request(TARGETS["chat"], b"a" * 1000).removesuffix(b"a" * 1000), b"a"),
    ],
    ids=["blank lines", "the rest of a refused request"],
)
async def test_bytes_that_begin_no_request_keep_no_connection(gate, asked, dripped):
    for times in (1, 200):
        async with raw.connect(gate.port) as connection:
            since = time.monotonic()
            await connection.send(asked)
            await connection.head()
            dripping = asyncio.create_task(drip(connection, dripped, times))
            await asyncio.wait_for(connection.rest(), 15)
            assert time.monotonic() - since < HEAD_S + 8
            dripping.cancel()
            await asyncio.gather(dripping, return_exceptions=True)


async def drip(connection: raw.Connection, data: bytes, times: int) -> None:
    for _ in range(times):
        await connection.send(data)
        await asyncio.sleep(0.1)


async def test_a_client_that_does_not_take_the_terminal_event_is_ended(gate):
    body = body_for("responses", stream=True, metadata={"p": "last word"})
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with client:
        client.connect(("127.0.0.1", gate.port))
        asked = raw.request(TARGETS["responses"], body, key=gate.keys["red-1"])
        before = len(gate.records("access.outcome"))
        client.sendall(asked)
        await gate.recorded("access.outcome", before + 1)
        await asyncio.sleep(STALL_S + TRAILING_S + 1)
        taken = await asyncio.to_thread(everything, client)
    assert len(taken) < len(LAST_WORD)  # it was reset: who reads only now does not get the rest


def everything(client: socket.socket) -> bytes:
    received = bytearray()
    client.settimeout(5)
    with suppress(ConnectionError):
        while data := client.recv(1 << 16):
            received += data
    return bytes(received)
