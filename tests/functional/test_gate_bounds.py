"""What a client may cost: how long a head and a body may take, how large a body may be, how much
all of them together. And K4's other half: a proxy that the operator listed is believed."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack, suppress
from itertools import cycle
from pathlib import Path

import anthropic
import openai
import pytest
import pytest_asyncio

from gateway.identity import api_keys
from gateway.proxy.connection import MAX_PIECES
from gateway.proxy.memory import LARGEST_SHARE
from tests.support import raw
from tests.support.gate import Gate
from tests.support.speaking import TARGETS, body_for, provider
from tests.support.upstream import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20
HEAD_S, BODY_S = 1.0, 3.0
BUDGET = 8 * MIB
SETTINGS = {
    "data": {
        "trusted_proxies": ["127.0.0.0/8"],
        "head_timeout_s": HEAD_S,
        "body_timeout_s": BODY_S,
        "max_body_bytes": MIB,
        "memory_budget_bytes": BUDGET,
    }
}
LAB_MODEL = """
lab-opus:
  id: lab-opus
  display_name: Opus of the evaluation lab
  endpoint: anthropic
  wires: [messages]
  stage: general
  created_at: "2026-10-01T00:00:00Z"
  requires: {networks: [evaluation-lab]}
"""
HOMELESS = """
homeless-1:
  id: homeless-1
  display_name: A model whose endpoint is in no settings
  endpoint: nowhere
  wires: [chat]
  stage: general
  created_at: "2026-10-01T00:00:00Z"
  restricted: false
"""
INSIDE, OUTSIDE = "192.0.2.7", "198.51.100.9"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream():
    server = Upstream(provider)
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gate(tmp_path_factory, upstream):
    running = Gate(tmp_path_factory.mktemp("gate"), upstream.url, SETTINGS)
    with running.data("models").open("a") as catalogue:
        catalogue.write(LAB_MODEL + HOMELESS)
    await running.start()
    try:
        await running.organisation()
        await running.member("red")
        yield running
    finally:
        await running.stop()


def sized(wire: str, size: int) -> bytes:
    """A body of exactly so many bytes."""
    padding = size - len(body_for(wire, metadata={"p": ""}))
    body = body_for(wire, metadata={"p": "x" * padding})
    assert len(body) == size
    return body


# Time


@pytest.mark.parametrize(
    "begun", [b"", b"POST /v1/mess", b"POST /v1/messages HTTP/1.1\r\nhost: gate.test\r\nx-a: "]
)
async def test_a_head_that_does_not_come_whole_in_time_ends_the_connection(gate, begun):
    async with raw.connect(gate.port) as connection:
        since = time.monotonic()
        await connection.send(begun)
        dripping = asyncio.create_task(drip(connection, b"a" if begun else b""))
        assert await connection.rest() == b""
        assert HEAD_S * 0.8 < time.monotonic() - since < HEAD_S + 5
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)


async def drip(connection: raw.Connection, byte: bytes) -> None:
    """One byte now and then: a slow client is not an idle one."""
    while byte:
        await asyncio.sleep(0.1)
        await connection.send(byte)


async def test_a_body_that_does_not_come_in_time_is_refused(gate, upstream):
    before, body = len(upstream.received), body_for("messages")
    asked = raw.request("/v1/messages", body, key=gate.keys["red-1"])
    async with raw.connect(gate.port) as connection:
        since = time.monotonic()
        await connection.send(asked[: -len(body)])
        for byte in body[:10]:
            await connection.send(bytes([byte]))
            await asyncio.sleep(0.05)
        answer = await connection.answer()
        assert BODY_S * 0.8 < time.monotonic() - since < BODY_S + 5
    assert answer.status == 408
    assert b"did not arrive in time" in answer.body
    assert len(upstream.received) == before


async def test_a_body_may_come_in_pieces_however_small(gate, upstream):
    body = body_for("messages")
    async with raw.connect(gate.port) as connection:
        asked = raw.request("/v1/messages", body, key=gate.keys["red-1"])
        for byte in asked:
            await connection.send(bytes([byte]))
        assert (await connection.answer()).status == 200
    assert upstream.received[-1].body == body


# Size (K44)


@pytest.mark.parametrize("wire", ["chat", "responses", "messages"])
async def test_k44_the_bound_is_exact(gate, upstream, wire):
    key = gate.keys["red-1"]
    answer = await raw.call(gate.port, TARGETS[wire], sized(wire, MIB), key=key)
    assert answer.status == 200
    assert len(upstream.received[-1].body) == MIB
    before = len(upstream.received)
    over = sized(wire, MIB + 1)
    answer = await raw.call(gate.port, TARGETS[wire], over, key=key)
    assert answer.status == 413
    assert b"larger than 1048576 bytes: send a smaller one" in answer.body
    chunked = {"transfer-encoding": "chunked"}
    head = raw.request(TARGETS[wire], b"", key=key, headers=chunked)
    head = head.replace(b"content-length: 0\r\n", b"")
    async with raw.connect(gate.port) as connection:
        await connection.send(head + b"%x\r\n" % len(over) + over + b"\r\n0\r\n\r\n")
        assert (await connection.answer()).status == 413
    assert len(upstream.received) == before


@pytest.mark.parametrize("wire", ["chat", "responses", "messages"])
@pytest.mark.parametrize("size", [2 * MIB, 30 * MIB])
async def test_k44_a_body_over_the_bound_is_a_clear_413_to_the_sdk(gate, wire, size):
    """The client is still sending when it is refused: it must read why, not meet a reset, which
    it would answer with the whole body again."""
    key, text = await gate.member(f"large-{wire}-{size}"), "x" * size
    said = [{"role": "user", "content": text}]
    if wire == "messages":
        client = anthropic.AsyncAnthropic(base_url=gate.url, api_key=key)
        call = client.messages.create(model="opus-4.8", max_tokens=9, messages=said)
    else:
        client = openai.AsyncOpenAI(base_url=f"{gate.url}/v1", api_key=key)
        if wire == "chat":
            call = client.chat.completions.create(model="gpt-5.5", messages=said)
        else:
            call = client.responses.create(model="gpt-5.5", input=text)
    async with client:
        with pytest.raises((openai.APIStatusError, anthropic.APIStatusError)) as caught:
            await call
    assert caught.value.status_code == 413
    told = gate.records("access.denied")
    assert [each["subject"]["id"] for each in told].count(f"large-{wire}-{size}") == 1


async def test_a_refused_request_does_not_hold_its_connection_for_ever(gate):
    """Whatever follows an answer is bounded too: the rest of a body, blank lines, nothing."""
    good, bad = gate.keys["red-1"], api_keys.mint().text
    endless = {"content-length": str(100 * MIB)}
    expecting = {**endless, "expect": "100-continue"}

    async def outstay(asked: bytes, status: int, byte: bytes) -> None:
        async with raw.connect(gate.port) as connection:
            await connection.send(asked)
            assert (await connection.answer()).status == status
            dripping = asyncio.create_task(drip(connection, byte))
            assert await connection.rest() == b""
            dripping.cancel()
            await asyncio.gather(dripping, return_exceptions=True)

    async with asyncio.timeout(15):
        await asyncio.gather(
            outstay(raw.request("/v1/messages", b"{", key=good, headers=endless), 413, b"x"),
            outstay(raw.request("/v1/messages", b"{", key=bad, headers=endless), 401, b"x"),
            outstay(raw.request("/v1/messages", b"{", key=bad, headers=endless), 401, b""),
            outstay(raw.request("/v1/messages", b"", key=bad, headers=expecting), 401, b"x"),
            outstay(raw.request("/v1/models", key=bad), 401, b"\n"),
            outstay(raw.request("/v1/models", key=bad), 401, b""),
        )


async def test_a_refused_request_that_ends_soon_keeps_its_connection(gate):
    asked = raw.request("/v1/messages", body_for("messages"), key=api_keys.mint().text)
    async with raw.connect(gate.port) as connection:
        for pause in (0.0, 0.0, HEAD_S * 1.5):
            await connection.send(asked[:-10])
            assert (await connection.answer()).status == 401
            await connection.send(asked[-10:])
            await asyncio.sleep(pause)
        await connection.send(raw.request("/v1/models", key=gate.keys["red-1"]))
        assert (await connection.answer()).status == 200


async def test_a_model_that_no_endpoint_serves_is_not_listed(gate):
    key = gate.keys["red-1"]
    listed = json.loads((await raw.call(gate.port, "/v1/models", key=key)).body)["data"]
    names = {entry["id"] for entry in listed}
    assert "gpt-5.5" in names
    assert "homeless-1" not in names
    body = body_for("chat", "homeless-1")
    answer = await raw.call(gate.port, "/v1/chat/completions", body, key=key)
    assert b"No endpoint is configured" in answer.body  # the control: it is allowed


async def test_a_client_that_asks_before_it_sends_is_answered_at_once(gate):
    """Expect: 100-continue saves a body that would be refused."""
    headers = {"expect": "100-continue", "content-length": str(100 * MIB)}
    asked = raw.request("/v1/messages", b"", key=gate.keys["red-1"], headers=headers)
    async with raw.connect(gate.port) as connection, asyncio.timeout(3):
        await connection.send(asked)
        answer = await connection.answer()
        assert (answer.status, answer.header("connection")) == (413, "close")  # said, and once
        assert await connection.rest() == b""


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no such process")


async def test_k44_a_hundred_large_uploads_stay_within_the_memory_budget(gate, upstream):
    worker = (await gate.status())["workers"][0]
    before = resident_bytes(worker["pid"])
    body = sized("messages", MIB)
    keys = [await gate.member(f"uploader-{number}") for number in range(LARGEST_SHARE)]
    requests = [raw.request("/v1/messages", body, key=key) for key in keys]
    received = len(upstream.received)
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(raw.connect(gate.port)) for _ in range(100)]
        for connection, asked in zip(connections, cycle(requests), strict=False):
            connection.writer.write(asked[:-1])  # all but the last byte: held at the same time
        answers = [asyncio.create_task(connection.answer()) for connection in connections]
        while sum(task.done() for task in answers) < 100 - BUDGET // MIB:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        grown = resident_bytes(worker["pid"]) - before
        refused = [await task for task in answers if task.done()]
        assert len(refused) == 100 - BUDGET // MIB
        assert {answer.status for answer in refused} == {503}
        assert all(b"send this one again in a moment" in answer.body for answer in refused)
        assert grown < 5 * BUDGET  # the budget counts bodies, not the buffers they came by
        for connection, task in zip(connections, answers, strict=True):
            if not task.done():
                connection.writer.write(body[-1:])
        admitted = [await task for task in answers]
        assert sorted(answer.status for answer in admitted) == [200] * 8 + [503] * 92
    assert len(upstream.received) == received + BUDGET // MIB
    again = await raw.call(gate.port, "/v1/messages", body, key=gate.keys["red-1"])
    assert again.status == 200  # all of it was given back
    denials = await gate.recorded("access.denied", 92, reason="memory_budget_spent")
    assert len(denials) == 92


async def test_k44_one_member_holds_a_share_of_the_budget_and_only_of_what_has_come(gate):
    """He can keep nobody else out, neither by bodies nor by heads that promise them."""
    body, hoarder = sized("messages", MIB), await gate.member("hoarder")
    whole = raw.request("/v1/messages", body, key=hoarder)
    promised = whole.removesuffix(body)
    for sent in (whole[:-1], promised):
        async with AsyncExitStack() as stack:
            for _ in range(4 * BUDGET // MIB):
                connection = await stack.enter_async_context(raw.connect(gate.port))
                await connection.send(sent)
            await asyncio.sleep(0.3)
            other = await raw.call(gate.port, "/v1/messages", body, key=gate.keys["red-1"])
            assert other.status == 200
            if sent is promised:
                own = await raw.call(gate.port, "/v1/messages", body, key=hoarder)
                assert own.status == 200


@pytest.mark.parametrize("known", [True, False])
async def test_k57_a_body_in_crumbs_ends_its_connection(gate, known):
    """Each piece costs about the same, however small: a body of 1-byte chunks kept a worker busy,
    be it read for its call or thrown away behind a refusal."""
    key = gate.keys["red-1"] if known else "sk-none"
    head = raw.request("/v1/messages", b"", key=key, headers={"transfer-encoding": "chunked"})
    head = head.replace(b"content-length: 0\r\n", b"")
    async with raw.connect(gate.port) as connection, asyncio.timeout(10):
        await connection.send(head)
        if not known:
            assert (await connection.answer()).status == 401
        with suppress(ConnectionError):
            await connection.send(b"1\r\n \r\n" * (MAX_PIECES + 10))
        with suppress(ConnectionError):
            received = await connection.rest()
            assert (b" 400 " in received) is known
    body = body_for("messages")
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    asked = head.replace(b"sk-none", gate.keys["red-1"].encode()) + chunks
    answer = await raw.send_raw(gate.port, asked)
    assert answer.startswith(b"HTTP/1.1 200")  # the control: a small body may come so


async def test_k44_an_upload_that_is_given_up_gives_its_memory_back(gate):
    asked = raw.request("/v1/messages", sized("messages", MIB), key=gate.keys["red-1"])
    for _ in range(3):
        async with AsyncExitStack() as stack:
            for _ in range(BUDGET // MIB // LARGEST_SHARE):
                connection = await stack.enter_async_context(raw.connect(gate.port))
                await connection.send(asked[:-1])
            await asyncio.sleep(0.1)
    for _ in range(100):
        body = sized("messages", MIB)
        answer = await raw.call(gate.port, "/v1/messages", body, key=gate.keys["red-1"])
        if answer.status == 200:
            break
        await asyncio.sleep(0.05)
    assert answer.status == 200


# K4: a listed proxy


@pytest.mark.parametrize(
    ("forwarded", "inside"),
    [
        ([INSIDE], True),
        ([OUTSIDE], False),
        ([f"{OUTSIDE}, {INSIDE}"], True),  # read from the right: the rest is the client's word
        ([f"{INSIDE}, {OUTSIDE}"], False),
        ([f"{INSIDE}, 127.0.0.9"], True),  # a listed proxy behind a listed proxy
        ([f"{INSIDE}, {OUTSIDE}, 127.0.0.9"], False),
        ([INSIDE, OUTSIDE], False),  # two lines are one list
        ([OUTSIDE, INSIDE], True),
        ([f"{INSIDE}, unknown"], False),
        ([f"{INSIDE}:4711"], False),
        ([f'for="{INSIDE}"'], False),
        ([""], False),
        ([], False),
    ],
)
async def test_k4_a_listed_proxy_is_read_from_the_right(gate, forwarded, inside):
    lines = "".join(f"x-forwarded-for: {value}\r\n" for value in forwarded).encode()
    asked = raw.request("/v1/messages", body_for("messages", "lab-opus"), key=gate.keys["red-1"])
    asked = asked.replace(b"host: gate.test\r\n", b"host: gate.test\r\n" + lines, 1)
    async with raw.connect(gate.port) as connection:
        await connection.send(asked)
        answer = await connection.answer()
    assert answer.status == (200 if inside else 403)
    kind = "access.intent" if inside else "access.denied"
    (record,) = await gate.recorded(kind, request_id=answer.header("request-id"))
    assert ("evaluation-lab" in record["src"].get("labels", [])) == inside
    assert INSIDE not in json.dumps(record)


async def test_k4_other_forwarded_headers_are_not_read_even_from_a_listed_proxy(gate):
    headers = {"forwarded": f"for={INSIDE}", "x-real-ip": INSIDE, "x-client-ip": INSIDE}
    body = body_for("messages", "lab-opus")
    answer = await raw.call(
        gate.port, "/v1/messages", body, key=gate.keys["red-1"], headers=headers
    )
    assert answer.status == 403
