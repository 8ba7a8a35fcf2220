"""Invariant 1 end to end: the bytes forwarded are the bytes judged, the bytes answered are the
bytes that came, and each edit that the catalogue asks for is on the record."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random

import pytest
import pytest_asyncio

from tests.support import raw
from tests.support.gate import Gate
from tests.support.speaking import TARGETS, body_for, events_for, provider, whole_answer
from tests.support.upstream import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

STREAMED = ("chat", "responses", "messages")
EXTRA_MODELS = """
house-opus:
  id: house-opus
  display_name: Opus under the house's own name
  endpoint: anthropic
  wires: [messages, count_tokens]
  stage: general
  created_at: "2026-10-01T00:00:00Z"
  upstream_model: opus-4.8-20260915
  aliases: [house-latest]
  restricted: false
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream():
    server = Upstream(provider)
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gate(tmp_path_factory, upstream):
    running = Gate(tmp_path_factory.mktemp("gate"), upstream.url, {})
    with running.data("models").open("a") as catalogue:
        catalogue.write(EXTRA_MODELS)
    await running.start()
    try:
        await running.organisation()
        await running.member("red")
        yield running
    finally:
        await running.stop()


@pytest.fixture(autouse=True)
def _provider_again(upstream):
    upstream.script = provider


async def intent_of(gate, answer):
    decision_id = answer.header("x-sluicegate-decision-id")
    (intent,) = await gate.recorded("access.intent", decision_id=decision_id)
    return intent


# What goes out


ODD = {
    "chat": b'\r\n{ "messages":[\t{"content":"h\\u0069 \xe2\x98\x83 \\/ \\ud83d\\ude00",'
    b'"role":"user"}] ,"x_unknown":{"z":1.0,"a":1E2,"e":-0,"n":[ ]},\n'
    b'"model" : "gpt-\\u0035.5","temperature":0.7000}  ',
    "responses": b'{"input":"hi","model":"gpt-5.5","prompt_cache_key":"k",'
    b'"reasoning" :{"effort":"max","later":null},"future_field":[true,false,null]}\n\n',
    "messages": b'{"system":[{"type":"text","text":"a","cache_control":{"type":"ephemeral"}},'
    b'{"type":"text","text":"b"}],"max_tokens":50,"model":"opus-4.8","thinking":{"type":'
    b'"adaptive"},"context_management":{"edits":[]},"messages":[{"role":"user","content":"hi"}]}',
    "embeddings": b'{"model":"text-embedding-4","input":["\\n","\\u00e9"],"dimensions": 2}',
    "count_tokens": b'{\n  "model": "opus-4.8",\n  "messages": [{"role":"user","content":"hi"}]\n}',
}


@pytest.mark.parametrize("wire", TARGETS)
async def test_k43_a_body_is_forwarded_byte_for_byte(gate, upstream, wire):
    answer = await raw.call(gate.port, TARGETS[wire], ODD[wire], key=gate.keys["red-1"])
    assert answer.status == 200
    assert upstream.received[-1].body == ODD[wire]
    if wire != "count_tokens":
        assert answer.body == upstream.replies[-1].sent
    request = (await intent_of(gate, answer))["request"]
    assert request["content"] == {"digest": gate.digest("red", ODD[wire])}
    assert request["bytes"] == len(ODD[wire])
    assert "edits" not in request
    assert "forwarded_digest" not in request


async def test_k43_headers_that_we_do_not_know_pass_too(gate, upstream):
    passing = {
        "anthropic-version": "2031-01-01",
        "anthropic-beta": "one-2030-01-01,two-2031-01-01",
        "x-app": "cli",
        "x-claude-code-session-id": "s-1",
        "x-stainless-retry-count": "0",
        "user-agent": "an agent/1.0",
    }
    target = "/v1/messages?beta=true"
    body = body_for("messages")
    await raw.call(gate.port, target, body, key=gate.keys["red-1"], headers=passing)
    sent = upstream.received[-1]
    assert sent.target == target
    for name, value in passing.items():
        assert sent.header(name) == [value]


def agent_body(size: int) -> bytes:
    """What an agent sends late in a long session: many turns, tools, results, much escaping."""
    rng = random.Random(44)
    turns: list[object] = []
    written = 0
    while written < size:
        text = "".join(rng.choice('ab\n"\\é☃\t{}[]') for _ in range(4_000))
        use = {"type": "tool_use", "id": f"t{len(turns)}", "name": "run", "input": {"model": text}}
        result = {"type": "tool_result", "tool_use_id": f"t{len(turns)}", "content": text}
        turns += [
            {"role": "assistant", "content": [use]},
            {"role": "user", "content": [result]},
        ]
        written += 2 * len(json.dumps(text))
    tools = [{"name": "run", "input_schema": {"type": "object", "properties": {"model": {}}}}] * 24
    turns.insert(0, {"role": "user", "content": "begin"})
    return body_for("messages", messages=turns, tools=tools)


async def test_k44_a_two_megabyte_agent_body_passes_unchanged(gate, upstream):
    body = agent_body(2_000_000)
    assert len(body) > 2_000_000
    answer = await raw.call(gate.port, "/v1/messages", body, key=gate.keys["red-1"])
    assert answer.status == 200
    assert upstream.received[-1].sha256 == hashlib.sha256(body).hexdigest()


# What comes back


def cut(data: bytes, seed: int) -> list[bytes]:
    """The bytes in pieces of any size, one byte and whole events among them."""
    rng = random.Random(seed)
    pieces = []
    while data:
        size = rng.choice([1, 2, 3, 17, 100, 1000])
        pieces.append(data[:size])
        data = data[size:]
    return pieces


def odd_stream(wire: str, seed: int) -> bytes:
    """A stream with comments, blank lines, unknown events and, in part, CRLF line ends."""
    unknown = b'event: something.new\ndata: {"type":"something.new","x":1}\nid: 7\n\n'
    events = events_for(wire, json.loads(body_for(wire)))
    data = b": hello\n\n" + unknown.join([b"", *events[:-1]]) + b":ping\n\n\n" + events[-1]
    return data.replace(b"\n", b"\r\n") if seed % 2 else data


@pytest.mark.parametrize("wire", STREAMED)
async def test_a_stream_arrives_byte_for_byte_however_it_is_cut(gate, upstream, wire):
    for seed in range(8):
        stream = odd_stream(wire, seed)

        async def script(_received, reply, stream=stream, seed=seed):
            await reply.start_stream()
            for piece in cut(stream, seed):
                await reply.chunk(piece)
            await reply.end()

        upstream.script = script
        answer = await raw.call(
            gate.port, TARGETS[wire], body_for(wire, stream=True), key=gate.keys["red-1"]
        )
        assert answer.body == stream
        assert answer.complete


@pytest.mark.parametrize("wire", STREAMED)
async def test_a_stream_that_the_upstream_ends_by_closing_arrives_too(gate, upstream, wire):
    stream = b"".join(events_for(wire, json.loads(body_for(wire))))

    async def script(_received, reply):
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
        reply.writer.write(head + stream)
        await reply.writer.drain()
        reply.writer.close()

    upstream.script = script
    answer = await raw.call(
        gate.port, TARGETS[wire], body_for(wire, stream=True), key=gate.keys["red-1"]
    )
    assert answer.body == stream
    assert answer.complete


@pytest.mark.parametrize("wire", STREAMED)
async def test_k41_an_upstream_that_waits_for_the_client_does_not_stall(gate, upstream, wire):
    """Each event is sent only when the client has the one before: nothing may be held back."""
    events = events_for(wire, json.loads(body_for(wire)))
    received: asyncio.Queue[bytes] = asyncio.Queue()

    async def script(_received, reply):
        await reply.start_stream()
        for piece in events:
            await reply.chunk(piece)
            assert await received.get() == piece
        await reply.end()

    upstream.script = script
    asked = raw.request(TARGETS[wire], body_for(wire, stream=True), key=gate.keys["red-1"])
    async with asyncio.timeout(10), raw.connect(gate.port) as connection:
        await connection.send(asked)
        answer = await connection.head()
        async for chunk in connection.chunks(answer):
            received.put_nowait(chunk)
    assert answer.chunks == events
    assert answer.complete


@pytest.mark.parametrize("wire", TARGETS)
async def test_a_whole_answer_arrives_byte_for_byte(gate, upstream, wire):
    document = json.dumps(json.loads(whole_answer(wire, "m")), indent=3).encode() + b"\r\n "
    large = json.dumps({"padding": "x" * 5_000_000}).encode()

    async def with_length(_received, reply):
        await reply.whole(document)

    async def in_chunks(_received, reply):
        await reply.start_stream({"content-type": "application/json"})
        for piece in cut(document, 3):
            await reply.chunk(piece)
        await reply.end()

    async def too_large_to_read(_received, reply):
        await reply.whole(large)

    for script, sent in (
        (with_length, document),
        (in_chunks, document),
        (too_large_to_read, large),
    ):
        upstream.script = script
        answer = await raw.call(gate.port, TARGETS[wire], body_for(wire), key=gate.keys["red-1"])
        assert answer.body == sent
        assert answer.complete


# The edits


@pytest.mark.parametrize("wire", ["chat", "responses"])
async def test_the_safety_identifier_is_the_gateways_own(gate, upstream, wire):
    told = {}
    for name in (f"anna-{wire}", f"bert-{wire}"):
        key = await gate.member(name, 2)
        body = body_for(wire, "gpt-5.5-cyber", user="u", safety_identifier="forged", temperature=1)
        answer = await raw.call(gate.port, TARGETS[wire], body, key=key)
        assert answer.status == 200
        sent = upstream.received[-1]
        told[name] = sent.json()["safety_identifier"]
        assert sent.json() == {**json.loads(body), "safety_identifier": told[name]}
        request = (await intent_of(gate, answer))["request"]
        assert request["edits"] == ["safety_identifier"]
        assert request["content"]["digest"] == gate.digest(name, body)
        assert request["forwarded_digest"] == gate.digest(name, sent.body)
        await raw.call(gate.port, TARGETS[wire], body_for(wire, "gpt-5.5-cyber"), key=key)
        assert upstream.received[-1].json()["safety_identifier"] == told[name]
        assert name not in told[name]
    assert len(set(told.values())) == 2


async def test_the_usage_chunk_that_we_asked_for_is_taken_out_again(gate, upstream):
    key = await gate.member("greta", 1)
    body = body_for("chat", "glm-5.2", stream=True, stream_options={"x": 1})
    answer = await raw.call(gate.port, TARGETS["chat"], body, key=key)
    assert upstream.received[-1].json()["stream_options"] == {"x": 1, "include_usage": True}
    events = events_for("chat", json.loads(body))
    assert b"".join(events) == answer.body
    assert b"usage" in upstream.replies[-1].sent
    assert b"usage" not in answer.body
    intent = await intent_of(gate, answer)
    assert intent["request"]["edits"] == ["stream_options.include_usage"]
    sent = gate.digest("greta", upstream.received[-1].body)
    assert intent["request"]["forwarded_digest"] == sent
    (outcome,) = await gate.recorded("access.outcome", request_id=intent["request_id"])
    assert outcome["tokens"] == {"in": 7, "out": 5, "usage_source": "upstream"}


@pytest.mark.parametrize(
    "fields", [{}, {"stream": True, "stream_options": {"include_usage": True}}]
)
async def test_the_usage_chunk_that_the_client_asked_for_stays(gate, upstream, fields):
    key = await gate.member(f"greta-{len(fields)}", 1)
    body = body_for("chat", "glm-5.2", **fields)
    answer = await raw.call(gate.port, TARGETS["chat"], body, key=key)
    assert upstream.received[-1].body == body
    assert answer.body == upstream.replies[-1].sent
    assert b"usage" in answer.body


@pytest.mark.parametrize("model", ["house-opus", "house-latest"])
async def test_an_alias_reaches_the_endpoint_under_its_own_name(gate, upstream, model):
    body = body_for("messages", model, metadata={"model": "house-opus"}, stream=True)
    answer = await raw.call(gate.port, TARGETS["messages"], body, key=gate.keys["red-1"])
    sent = upstream.received[-1]
    assert sent.json() == {**json.loads(body), "model": "opus-4.8-20260915"}
    assert answer.body == upstream.replies[-1].sent
    intent = await intent_of(gate, answer)
    assert intent["model"] == {
        "requested": "house-opus", "authorised": "house-opus", "endpoint": "anthropic",
    }  # fmt: skip
    assert intent["request"]["edits"] == ["model"]
    assert intent["request"]["content"]["digest"] == gate.digest("red", body)
    assert intent["request"]["forwarded_digest"] == gate.digest("red", sent.body)
    (outcome,) = await gate.recorded("access.outcome", request_id=intent["request_id"])
    assert outcome["served_model"] == "opus-4.8-20260915"
    assert outcome["response"]["content"]["digest"] == gate.digest("red", answer.body)
