"""K42: an upstream that fails. Its own errors pass as they are, what speaks of our key does not,
and an answer that broke off is never ended as if it were whole. Each ends on the record."""

from __future__ import annotations

import asyncio
import gzip
import json

import anthropic
import openai
import pytest
import pytest_asyncio

from tests.support import raw
from tests.support.gate import PROVIDER_KEY, running_gate
from tests.support.speaking import TARGETS, body_for, events_for, whole_answer
from tests.support.upstream import Upstream, event

pytestmark = pytest.mark.asyncio(loop_scope="module")

STREAMED = ("chat", "responses", "messages")
TERMINAL = {
    "chat": b"data: [DONE]",
    "responses": b"event: response.completed",
    "messages": b"event: message_stop",
}
ERROR_EVENT = {
    "chat": b'data: {"error":{',
    "responses": b"event: error\ndata: {",
    "messages": b"event: error\ndata: {",
}
SAID = [{"role": "user", "content": "hi"}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream():
    server = Upstream(lambda *_: None)
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gate(tmp_path_factory, upstream):
    async with running_gate(tmp_path_factory.mktemp("gate"), upstream.url) as running:
        await running.member("red")
        yield running


async def ask(gate, wire, **fields):
    body = body_for(wire, **fields)
    return await raw.call(gate.port, TARGETS[wire], body, key=gate.keys["red-1"])


async def outcome_of(gate, answer):
    request_id = answer.header("request-id") or answer.header("x-request-id")
    (outcome,) = await gate.recorded("access.outcome", request_id=request_id)
    return outcome


# Its own errors


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [400, 404, 413, 429, 500, 503, 529])
@pytest.mark.parametrize("wire", ["chat", "responses", "messages", "embeddings", "count_tokens"])
async def test_an_upstreams_error_passes_byte_for_byte(gate, upstream, wire, status, stream):
    body = b'{ "error" : {"message":"capability_rejected: bound to a different conversation",'
    body += b'"type":"x","code":"y"} }\n'
    told = {"retry-after": "7", "x-should-retry": "true", "set-cookie": "a=b", "request-id": "up-9"}

    async def script(_received, reply):
        await reply.whole(body, status, told)

    upstream.script = script
    answer = await ask(gate, wire, **({"stream": True} if stream else {}))
    assert (answer.status, answer.body, answer.complete) == (status, body, True)
    assert answer.header("retry-after") == "7"
    assert answer.header("x-should-retry") == "true"
    assert answer.header("x-upstream-request-id") == "up-9"
    assert answer.header("set-cookie") == ""
    outcome = await outcome_of(gate, answer)
    assert outcome["status"] == "upstream_error"
    assert outcome["upstream"]["status"] == status
    assert outcome["http"] == status


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("wire", STREAMED)
async def test_k20_what_the_upstream_says_of_our_key_stays_with_us(gate, upstream, wire, status):
    told = f"Incorrect API key provided: {PROVIDER_KEY}. Organisation org-secret."
    body = json.dumps({"error": {"message": told, "code": "invalid_api_key", "type": "t"}}).encode()

    async def script(_received, reply):
        await reply.whole(body, status, {"www-authenticate": f'Bearer realm="{PROVIDER_KEY}"'})

    upstream.script = script
    answer = await ask(gate, wire)
    assert answer.status == 502
    assert answer.header("x-should-retry") == "false"
    assert b"the gateway's own key" in answer.body
    for secret in (PROVIDER_KEY.encode(), b"org-secret", b"Incorrect"):
        assert secret not in answer.raw
    outcome = await outcome_of(gate, answer)
    assert (outcome["status"], outcome["upstream"]["status"]) == ("upstream_error", status)


async def test_status_says_which_endpoint_fails_and_what_to_do(gate, upstream):
    async def script(_received, reply):
        await reply.whole(b"{}", 401)

    upstream.script = script
    before = (await gate.status())["endpoints"]["anthropic"]["failures"]
    await ask(gate, "messages")
    while (  # noqa: ASYNC110 - a report comes once a second
        (status := await gate.status())["endpoints"]["anthropic"]["failures"] == before
    ):
        await asyncio.sleep(0.05)
    (problem,) = [one for one in status["problems"] if "endpoint anthropic" in one["what"]]
    assert "upstream_credential" in problem["what"]
    assert "upstreams.anthropic" in problem["do"]
    assert PROVIDER_KEY not in json.dumps(status)


@pytest.mark.parametrize("wire", ["chat", "responses"])
async def test_k18_a_providers_verdict_on_content_is_the_callers_to_read(gate, upstream, wire):
    body = b'{"error": {"message":"flagged","type":"t","param":null,"code":"cyber_policy"}}'

    async def script(_received, reply):
        await reply.whole(body, 403)

    upstream.script = script
    answer = await ask(gate, wire)
    assert (answer.status, answer.body) == (403, body)
    assert (await outcome_of(gate, answer))["response"]["finish"] == "cyber_policy"


@pytest.mark.parametrize("wire", STREAMED)
async def test_the_upstreams_own_error_event_passes_and_is_no_success(gate, upstream, wire):
    events = events_for(wire, json.loads(body_for(wire)))[:3]
    error = {"type": "overloaded_error", "message": "Overloaded", "code": "overloaded_error"}
    events.append(
        event({"error": error})
        if wire == "chat"
        else event(
            {"type": "error", "error": error, **({} if wire == "messages" else error)}, "error"
        )
    )

    async def script(_received, reply):
        await reply.start_stream()
        for piece in events:
            await reply.chunk(piece)
        await reply.end()

    upstream.script = script
    answer = await ask(gate, wire, stream=True)
    assert answer.body == b"".join(events)
    outcome = await outcome_of(gate, answer)
    assert outcome["status"] == "upstream_error"
    assert outcome["response"]["finish"] == "overloaded_error"


# What is no answer


PROTOCOL_FAULTS = {
    "compressed": b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(gzip.compress(b"{}")), gzip.compress(b"{}")),
    "compressed stream": b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    b"content-encoding: br\r\nconnection: close\r\n\r\nx",
    "redirect": b"HTTP/1.1 307 X\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
    "not HTTP": b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
    "half a head": b"HTTP/1.1 200 OK\r\ncontent-type: appl",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}x",
    "nothing": b"",
}


@pytest.mark.parametrize("fault", PROTOCOL_FAULTS)
@pytest.mark.parametrize("wire", STREAMED)
async def test_an_answer_that_is_none_is_our_502(gate, upstream, wire, fault):
    async def script(_received, reply):
        reply.writer.write(PROTOCOL_FAULTS[fault])
        await reply.writer.drain()
        reply.writer.close()

    upstream.script = script
    answer = await ask(gate, wire)
    assert answer.status == 502
    assert answer.header("x-sluicegate-reason") == "upstream_protocol"
    assert answer.header("location") == ""
    outcome = await outcome_of(gate, answer)
    assert (outcome["status"], outcome["http"]) == ("upstream_error", 502)


async def test_an_answer_without_a_body_announces_none(gate, upstream):
    """RFC 9110, 8.6: whoever believed the length of a 204 would wait for it."""

    async def script(_received, reply):
        reply.writer.write(b"HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n")
        await reply.writer.drain()

    upstream.script = script
    answer = await asyncio.wait_for(ask(gate, "chat"), 3)
    assert (answer.status, answer.header("content-length"), answer.body) == (204, "", b"")


@pytest.mark.parametrize("wire", STREAMED)
async def test_a_whole_answer_to_a_call_for_a_stream_passes_whole(gate, upstream, wire):
    async def script(_received, reply):
        await reply.whole(whole_answer(wire, "m"))

    upstream.script = script
    answer = await ask(gate, wire, stream=True)
    assert answer.body == upstream.replies[-1].sent
    assert answer.header("content-length") == str(len(answer.body))
    assert (await outcome_of(gate, answer))["status"] == "ok"


# An answer that breaks off


def offsets(data: bytes) -> list[int]:
    """Places to break a stream: around each event's end, and every few bytes between."""
    ends = [at + 2 for at in range(len(data)) if data.startswith(b"\n\n", at)]
    near = {end + shift for end in ends for shift in (-2, -1, 0, 1)}
    return sorted(at for at in near | set(range(0, len(data), 97)) if at < len(data))


@pytest.mark.parametrize("ending", ["reset", "end of chunks", "close"])
@pytest.mark.parametrize("wire", STREAMED)
async def test_k42_a_stream_that_breaks_off_never_looks_finished(gate, upstream, wire, ending):
    stream = b"".join(events_for(wire, json.loads(body_for(wire))))
    asked = 0
    for offset in offsets(stream):

        async def script(_received, reply, offset=offset):
            await reply.start_stream()
            if offset:
                await reply.chunk(stream[:offset])
            if ending == "end of chunks":
                await reply.end()
            elif ending == "close":
                reply.writer.close()
            else:
                reply.reset()

        upstream.script = script
        answer = await ask(gate, wire, stream=True)
        asked += 1
        if answer.status != 200:  # the reset overtook the head: then it is an error from the start
            assert answer.status == 502
            continue
        if offset >= len(stream) - 2 and TERMINAL[wire] in answer.body:
            # All but the last line ends had come: some servers end so, and it is an end.
            assert answer.body == stream[:offset]
            continue
        assert TERMINAL[wire] not in answer.body
        assert b"broke off" in answer.body
        assert answer.complete
        kept = answer.body[: answer.body.index(ERROR_EVENT[wire])]
        if wire == "responses":
            kept = kept[: kept.index(b"event: response.failed")]
        assert kept == stream[: len(kept)]
        assert kept == b"" or kept.endswith(b"\n\n")
    intents = {record["request_id"] for record in gate.records("access.intent")}
    outcomes = await gate.recorded("access.outcome", len(intents))
    assert {record["request_id"] for record in outcomes} == intents
    assert len(outcomes) == len(intents)
    mine = [record for record in outcomes[-asked:] if record["status"] != "ok"]
    assert len(mine) >= asked - 4
    assert {record["status"] for record in mine} == {"upstream_error"}


async def test_k42_a_whole_answer_that_breaks_off_is_no_answer(gate, upstream):
    document = whole_answer("messages", "m")
    for offset in range(0, len(document), 23):

        async def script(_received, reply, offset=offset):
            head = (
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            )
            reply.writer.write(head % len(document) + document[:offset])
            await reply.writer.drain()
            reply.writer.close()

        upstream.script = script
        answer = await ask(gate, "messages")
        assert answer.status == 502 or not answer.complete
        assert offset or answer.status == 502


async def test_k42_a_cut_inside_an_event_too_large_to_hold_resets(gate, upstream):
    """What the client holds is half an event: no error event could be read after it."""

    async def script(_received, reply):
        await reply.start_stream()
        await reply.chunk(b'data: {"padding":"' + b"x" * 600_000)
        reply.reset()

    upstream.script = script
    answer = await ask(gate, "chat", stream=True)
    assert not answer.complete


@pytest.mark.parametrize("wire", STREAMED)
async def test_k38_the_sdk_raises_where_a_stream_breaks_off(gate, upstream, wire):
    events = events_for(wire, json.loads(body_for(wire)))
    key = gate.keys["red-1"]
    for ending in ("end of chunks", "reset"):
        for kept in range(1, len(events)):

            async def script(_received, reply, kept=kept, ending=ending):
                await reply.start_stream()
                for piece in events[:kept]:
                    await reply.chunk(piece)
                await reply.chunk(events[kept][:11])
                if ending == "reset":
                    reply.reset()
                else:
                    await reply.end()

            upstream.script = script
            with pytest.raises((openai.APIError, anthropic.APIStatusError), match="broke off"):
                await read_with_sdk(gate, wire, key)


async def read_with_sdk(gate, wire: str, key: str) -> None:
    """Read a stream to its end as an application does."""
    if wire == "messages":
        async with anthropic.AsyncAnthropic(
            base_url=gate.url, api_key=key, max_retries=0
        ) as client:
            async for _ in await client.messages.create(
                model="opus-4.8", max_tokens=50, messages=SAID, stream=True
            ):
                pass
        return
    async with openai.AsyncOpenAI(base_url=f"{gate.url}/v1", api_key=key, max_retries=0) as client:
        if wire == "chat":
            stream = await client.chat.completions.create(
                model="gpt-5.5", messages=SAID, max_tokens=50, stream=True
            )
        else:
            stream = await client.responses.create(
                model="gpt-5.5", input="hi", max_output_tokens=50, stream=True
            )
        async for _ in stream:
            pass
