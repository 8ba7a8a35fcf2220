"""The upstream connection against an endpoint that answers byte for byte what each case says."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from gateway.core.reasons import Reason
from gateway.proxy.upstream import REST_S, Upstreams
from gateway.proxy.upstream_connection import (
    MAX_HEAD_BYTES,
    MAX_IN_ADVANCE,
    UNREAD_BYTES,
    UpstreamConnection,
    UpstreamFailed,
)
from gateway.settings import Upstream
from tests.support.certificates import self_signed

HEAD = b"HTTP/1.1 200 OK\r\n"
LENGTH = HEAD + b"content-length: 3\r\n\r\nabc"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n2;ext=1\r\nbc\r\n0\r\n\r\n"


class Endpoint:
    """Answers the requests of each connection in turn with what it is given."""

    def __init__(self, *answers: bytes, close: bool = False) -> None:
        self.answers, self.close = list(answers), close
        self.connections = 0
        self.requests = 0
        self.writers: list[asyncio.StreamWriter] = []
        self.ended = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                await reader.readexactly(length)
                self.requests += 1
                writer.write(self.answers.pop(0) if self.answers else b"")
                await writer.drain()
                if self.close:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.ended.set()
            writer.close()


@asynccontextmanager
async def connected(endpoint: Endpoint) -> AsyncIterator[UpstreamConnection]:
    server = await asyncio.start_server(endpoint.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(UpstreamConnection, "127.0.0.1", port)
    try:
        yield connection
    finally:
        connection.close()
        server.close()
        await asyncio.sleep(0.01)


async def ask(connection: UpstreamConnection) -> bytes:
    head = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n"
    await connection.ask(head, b"{}", 1)
    whole = b""
    while piece := await connection.read(1):
        whole += piece
    return whole


@pytest.mark.parametrize(
    ("answer", "close", "reusable"),
    [
        (LENGTH, False, True),
        (CHUNKED, False, True),
        (CHUNKED[:-2] + b"x-trailer: 1\r\n\r\n", False, True),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 X\r\nlink: x\r\n\r\n" + LENGTH, False, True),
        (HEAD + b"connection: close\r\ncontent-length: 3\r\n\r\nabc", False, False),
        (HEAD + b"\r\nabc", True, False),
        (b"HTTP/1.0 200 OK\r\n\r\nabc", True, False),
    ],
    ids=["length", "chunks", "trailer", "in advance", "closing", "to the end", "HTTP/1.0"],
)  # fmt: skip
async def test_an_answer_is_whole_when_its_framing_says_so(answer, close, reusable):
    async with connected(Endpoint(answer, close=close)) as connection:
        assert await ask(connection) == b"abc"
        assert connection.status == 200
        assert connection.reusable is reusable


@pytest.mark.parametrize("cut", range(1, len(CHUNKED)))
async def test_k42_a_chunked_answer_cut_anywhere_is_never_whole(cut):
    async with connected(Endpoint(CHUNKED[:cut], close=True)) as connection:
        with pytest.raises(UpstreamFailed):
            await ask(connection)
        assert not connection.reusable


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"content-length: 3\r\ncontent-length: 3\r\n\r\nabc",
        HEAD + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: identity\r\n\r\nabc",
        HEAD + b"content-length: 0x3\r\n\r\nabc",
        HEAD + b"a: b\n\r\n",
        HEAD + b"content-length : 3\r\n\r\nabc",
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nabc",
        b"HTTP/2 200\r\n\r\n",
        HEAD + b"".join(b"a: %s\r\n" % (b"b" * 1000) for _ in range(MAX_HEAD_BYTES // 1000 + 1)),
        HEAD + b"a: " + b"b" * (MAX_HEAD_BYTES + 10),
        b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_IN_ADVANCE + 1) + LENGTH,
        b"HTTP/1.1 600 X\r\ncontent-length: 3\r\n\r\nabc",
        b"HTTP/1.1 099 X\r\ncontent-length: 3\r\n\r\nabc" + LENGTH,
    ],
    ids=range(14),
)
async def test_k1_an_answer_that_reads_in_two_ways_or_without_end_is_none(answer):
    async with connected(Endpoint(answer)) as connection:
        with pytest.raises(UpstreamFailed) as failed:
            await asyncio.wait_for(ask(connection), 5)
        assert failed.value.reason is Reason.UPSTREAM_PROTOCOL
        assert not connection.reusable


@pytest.mark.parametrize("more", [b"x", LENGTH])
async def test_k1_what_nobody_asked_for_ends_the_connection(more):
    """A second answer must not be taken for that of the next caller (K46)."""
    endpoint = Endpoint(LENGTH + more)
    async with connected(endpoint) as connection:
        assert await ask(connection) == b"abc"
        assert not connection.reusable
    endpoint = Endpoint(LENGTH)
    async with connected(endpoint) as connection:
        assert await ask(connection) == b"abc"
        assert connection.reusable
        connection.rest()
        connection.data_received(more)
        await asyncio.wait_for(endpoint.ended.wait(), 2)
        assert not connection.reusable


async def test_k41_what_is_not_taken_is_not_read():
    size = 50_000_000
    endpoint = Endpoint(HEAD + b"content-length: %d\r\n\r\n" % size + b"x" * size)
    async with connected(endpoint) as connection:
        await connection.ask(b"POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n", b"", 5)
        await asyncio.sleep(0.3)
        assert connection._unread <= UNREAD_BYTES + 256 * 1024
        taken = 0
        while piece := await connection.read(5):
            taken += len(piece)
        assert taken == size


@asynccontextmanager
async def pool(endpoint: Endpoint, **tls: ssl.SSLContext) -> AsyncIterator[tuple[Upstreams, int]]:
    server = await asyncio.start_server(endpoint.serve, "127.0.0.1", 0, **tls)
    port = server.sockets[0].getsockname()[1]
    scheme = "https" if tls else "http"
    settings = Upstream(url=f"{scheme}://localhost:{port}", kind="vllm")
    upstreams = Upstreams({"it": settings}, {})
    try:
        yield upstreams, port
    finally:
        upstreams.close()
        server.close()
        await asyncio.sleep(0.01)


async def test_a_connection_serves_one_exchange_after_another_and_no_two_at_once(permit):
    endpoint = Endpoint(*[LENGTH] * 6)
    async with pool(endpoint) as (upstreams, _):
        for _ in range(3):
            with await upstreams.forward(permit, []) as response:
                assert await response.read() == b"abc"
                assert await response.read() == b""
            await asyncio.sleep(REST_S * 1.5)
        assert (endpoint.connections, endpoint.requests) == (1, 3)
        with (
            await upstreams.forward(permit, []) as one,
            await upstreams.forward(permit, []) as other,
        ):
            assert await one.read() == await other.read() == b"abc"
        assert endpoint.connections == 2


@pytest.mark.parametrize("connections", [1, 10])
async def test_k46_what_follows_an_answer_is_nobodys_answer(permit, connections):
    """An endpoint that frames wrongly sends the rest of one member's answer a moment later; the
    call that comes next is not given it, and no more connections are opened than there may be."""
    planted = HEAD + b"content-length: 5\r\n\r\nOTHER"
    open_at_once = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_at_once
        open_at_once += 1
        try:
            while True:
                await reader.readuntil(b"{}")
                writer.write(LENGTH)
                await asyncio.sleep(0.004)
                writer.write(planted)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            open_at_once -= 1
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    settings = Upstream(url=url, kind="vllm", max_connections=connections)
    upstreams = Upstreams({"it": settings}, {})
    for pause in (0, 0.001, 0.003, 0.005, 0.02) * 3:
        async with upstreams.slot("it"):
            with await upstreams.forward(permit, []) as response:
                assert await response.read() == b"abc"
                assert upstreams._endpoints["it"]._open <= connections
        await asyncio.sleep(pause)
    upstreams.close()
    server.close()
    await asyncio.sleep(0.02)
    assert open_at_once == 0


async def test_k46_what_waits_in_the_kernel_is_found_before_the_next_exchange(permit):
    endpoint = Endpoint(LENGTH, LENGTH)
    async with pool(endpoint) as (upstreams, _):
        with await upstreams.forward(permit, []) as response:
            assert await response.read() == b"abc"
        await asyncio.sleep(REST_S)
        ((_, kept),) = upstreams._endpoints["it"]._kept
        assert not kept.readable
        endpoint.writers[0].write(b"late")
        time.sleep(REST_S)  # noqa: ASYNC251 - the loop is busy, and does not see what has come
        assert kept.readable
        with await upstreams.forward(permit, []) as response:
            assert await response.read() == b"abc"
        assert endpoint.connections == 2


async def test_k40_who_is_cancelled_as_his_answer_begins_leaves_no_connection(permit, monkeypatch):
    """In that very turn of the loop there is neither a wait to cancel nor a response to leave."""
    endpoint = Endpoint(HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
    begun = UpstreamConnection.on_headers_complete

    def begins(connection: UpstreamConnection) -> None:
        begun(connection)
        asking.cancel()

    async def ask_and_read(upstreams: Upstreams) -> None:
        with await upstreams.forward(permit, []) as response:
            await response.read()

    monkeypatch.setattr(UpstreamConnection, "on_headers_complete", begins)
    async with pool(endpoint) as (upstreams, _):
        asking = asyncio.create_task(ask_and_read(upstreams))
        await asyncio.gather(asking, return_exceptions=True)
        assert asking.cancelled()
        await asyncio.wait_for(endpoint.ended.wait(), 1)


@pytest.mark.parametrize("dripped", [b"x", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_an_answer_that_only_ever_begins_is_given_up(dripped):
    """The time in which an answer must begin is one, however often a few bytes come."""

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            if dripped == b"x":
                writer.write(b"HTTP/1.1 200 OK\r\na: ")
            while not writer.is_closing():
                writer.write(dripped)
                await writer.drain()
                await asyncio.sleep(0.1)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(UpstreamConnection, "127.0.0.1", port)
    since = loop.time()
    with pytest.raises(UpstreamFailed):
        await connection.ask(b"POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n", b"", 0.5)
    assert loop.time() - since < 3
    server.close()
    await asyncio.sleep(0.15)


async def test_a_connection_that_was_lost_before_is_not_asked():
    async with connected(Endpoint()) as connection:
        connection.close()
        await asyncio.sleep(0.01)
        with pytest.raises(UpstreamFailed):
            await connection.ask(b"POST / HTTP/1.1\r\n\r\n", b"", 1)


async def test_k45_an_exchange_left_early_closes_its_connection(permit):
    endpoint = Endpoint(HEAD + b"content-length: 9\r\n\r\nabc", LENGTH)
    async with pool(endpoint) as (upstreams, _):
        with await upstreams.forward(permit, []) as response:
            assert await response.read() == b"abc"
        await asyncio.wait_for(endpoint.ended.wait(), 1)
        with await upstreams.forward(permit, []) as response:
            assert await response.read() == b"abc"
        assert endpoint.connections == 2


async def test_a_certificate_that_nobody_vouches_for_is_not_taken(permit, tmp_path: Path):
    certificate, key = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    endpoint = Endpoint(LENGTH, LENGTH)
    async with pool(endpoint, ssl=context) as (upstreams, _):
        with pytest.raises(UpstreamFailed) as failed:
            await upstreams.forward(permit, [])
        assert failed.value.reason is Reason.UPSTREAM_UNREACHABLE
        assert endpoint.requests == 0
        # The control: with a certificate authority that does vouch, the same endpoint is taken.
        upstreams._endpoints["it"]._tls.load_verify_locations(certificate)
        with await upstreams.forward(permit, []) as response:
            assert await response.read() == b"abc"
