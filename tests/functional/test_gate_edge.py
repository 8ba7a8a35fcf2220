"""The edge over raw sockets: what reads in two ways is refused, and nothing of it is forwarded."""

from __future__ import annotations

import gzip
import json
import re

import pytest
import pytest_asyncio

from tests.support import raw
from tests.support.gate import running_gate
from tests.support.speaking import body_for, provider
from tests.support.upstream import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"
BODY = body_for("chat")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream():
    server = Upstream(provider)
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gate(tmp_path_factory, upstream):
    async with running_gate(tmp_path_factory.mktemp("gate"), upstream.url) as running:
        await running.member("red")
        await running.member("newcomer", 0)
        yield running


@pytest.fixture
def nothing_forwarded(upstream):
    before = len(upstream.received)
    yield
    assert len(upstream.received) == before


def status_of(answer: bytes) -> int:
    """The status of the only answer; 0 where the connection was closed without one."""
    assert len(re.findall(rb"HTTP/1\.1 [0-9]", answer)) <= 1
    return int(answer[9:12]) if answer else 0


# K1, K2: one notion of the model


@pytest.mark.parametrize(
    "target",
    [
        f"{CHAT}?model=gpt-5.5",
        f"{CHAT}?",
        f"{CHAT}?api-version=2026-01-01",
        "/v1/messages?model=opus-4.8",
        "/v1/messages?beta=true&model=opus-4.8",
        "/v1/messages?beta=true&beta=true",
        "/v1/messages?beta=false",
        "/v1/models/gpt-5.5/chat/completions",
        f"{CHAT}/gpt-5.5",
        "/openai/deployments/gpt-5.5/chat/completions",
        "/v1/engines/gpt-5.5/chat/completions",
        "/model/opus-4.8/invoke",
        "/v1beta/models/gpt-5.5:generateContent",
        "/gpt-5.5/v1/chat/completions",
    ],
)
async def test_k1_a_model_in_path_or_query_goes_nowhere(gate, upstream, target):
    wire = "messages" if "messages" in target else "chat"
    before = len(upstream.received)
    answer = await raw.call(gate.port, target, body_for(wire), key=gate.keys["red-1"])
    if target == f"{CHAT}?":  # an empty query is none
        assert (answer.status, upstream.received[-1].target) == (200, CHAT)
        return
    assert answer.status in (400, 404)
    assert len(upstream.received) == before


async def test_k1_a_model_in_a_header_goes_nowhere(gate, upstream):
    names = ("model", "x-model", "x-model-id", "x-ai-eg-model", "x-selected-model", "openai-model")
    headers = dict.fromkeys(names, "mythos-5")
    answer = await raw.call(gate.port, CHAT, BODY, key=gate.keys["newcomer-1"], headers=headers)
    assert answer.status == 200
    assert upstream.received[-1].body == BODY
    assert not set(names) & {name.lower() for name, _ in upstream.received[-1].headers}


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"gpt-5.5","model":"gpt-5.5","messages":[]}',
        b'{"model":"gpt-5.5","mod\\u0065l":"mythos-5","messages":[]}',
        b'{"model":"gpt-5.5","Model":"mythos-5","messages":[]}',
        b'{"model":"gpt-5.5","messages":[],"temperature":NaN}',
        b'{"model":"gpt-5.5","messages":[]}{"model":"mythos-5"}',
        b'{"model":"gpt-5.5","messages":[]}\x00',
        b'\xef\xbb\xbf{"model":"gpt-5.5","messages":[]}',
        b'{"model":"gpt-5.5","messages":["\xff"]}',
        b'{"model":"gpt-5.5","messages":["\\ud800"]}',
        b'{"model":"gpt-5.5","x":' + b"9" * 5_000 + b"}",
        b'{"model":"gpt-5.5","x":' + b"[" * 2_000 + b"]" * 2_000 + b"}",
        b'{"model":["gpt-5.5"],"messages":[]}',
        b"[]",
        b" ",
        '{"model":"gpt-5.5","messages":[]}'.encode("utf-16"),
    ],
)
@pytest.mark.usefixtures("nothing_forwarded")
async def test_k1_a_body_that_reads_two_ways_goes_nowhere(gate, body):
    answer = await raw.call(gate.port, CHAT, body, key=gate.keys["red-1"])
    assert answer.status == 400


@pytest.mark.parametrize(
    "extra",
    [
        {"fallbacks": [{"model": "mythos-5"}]},
        {"fallback_model": "mythos-5"},
        {"models": ["opus-4.8", "mythos-5"]},
        {"tools": [{"type": "advisor_20260301", "name": "a", "model": "mythos-5"}]},
        {"agents": {"a": {"model": "mythos-5"}}},
    ],
)
@pytest.mark.usefixtures("nothing_forwarded")
async def test_k2_every_model_named_is_judged(gate, extra):
    body = body_for("messages", **extra)
    answer = await raw.call(gate.port, "/v1/messages", body, key=gate.keys["newcomer-1"])
    assert answer.status == 403
    assert b"needs cyber 3, has 0" in answer.body


# K3: one notion of the path


@pytest.mark.parametrize(
    "target",
    [
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/v1/../v1/chat/completions",
        "/v1/./chat/completions",
        "/v1/%2e%2e/v1/chat/completions",
        "/v1%2fchat%2fcompletions",
        "/v1/%63hat/completions",
        "/v1/chat%252fcompletions",
        "/V1/chat/completions",
        "/v1/chat/Completions",
        "/v1/chat/completions/",
        "/v1/chat/completions;x=1",
        "/v1/chat/completions%00",
        "/v1/chat/completions%20",
        "/v1/chat/completions#x",
        "/v1/chat\\completions",
        "/v1/messages/../chat/completions",
        "http://gate.test/v1/chat/completions",
        "http://evil.test/v1/chat/completions",
        "HTTP://gate.test:80/v1/chat/completions",
        "v1/chat/completions",
        "gate.test:80",
        "*",
        "/v1/chat/completions\t",
        "/v1/chat/completions\x7f",
        "/v1/chat/completions\xe9",
    ],
)
@pytest.mark.usefixtures("nothing_forwarded")
async def test_k3_only_the_path_as_spelled_is_the_path(gate, target):
    request = raw.request(target, BODY, key=gate.keys["red-1"])
    answer = await raw.send_raw(gate.port, request)
    assert status_of(answer) in (400, 404)


@pytest.mark.parametrize("host", ["gate.test", "evil.test:1", "[::1]:8080", "127.0.0.1"])
async def test_k3_the_host_moves_nothing(gate, upstream, host):
    answer = await raw.call(gate.port, CHAT, BODY, key=gate.keys["red-1"], headers={"host": host})
    assert answer.status == 200
    assert upstream.received[-1].target == CHAT
    assert upstream.received[-1].header("host") == [upstream.url.removeprefix("http://")]


@pytest.mark.parametrize(
    "host",
    ["", "gate.test/v1/models", "gate.test?x", "gate.test#x", "user@gate.test", "gate.test, evil",
     "gate.test:123456", "gate test", "gate.test\r\nhost: evil.test", "[::1", "gate.test:"],
)  # fmt: skip
@pytest.mark.parametrize("target", [CHAT, "/v1/models"])
@pytest.mark.usefixtures("nothing_forwarded")
async def test_k3_a_host_that_is_none_is_refused(gate, host, target):
    body = BODY if target == CHAT else None
    request = raw.request(target, body, key=gate.keys["red-1"], headers={"host": host})
    assert status_of(await raw.send_raw(gate.port, request)) == 400


# Framing: one notion of where a request ends


def framed(lines: str, body: bytes = BODY, *, first: str = f"POST {CHAT} HTTP/1.1") -> bytes:
    """A request with these framing lines; ``{key}`` and ``{n}`` are filled in."""
    fixed = "host: gate.test\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n"
    return f"{first}\r\n{fixed}{lines}\r\n\r\n".encode("latin-1") + body


CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
DOUBTFUL = {
    "CL and TE": framed("content-length: {n}\r\ntransfer-encoding: chunked", CHUNKED),
    "TE and CL": framed("transfer-encoding: chunked\r\ncontent-length: {n}", CHUNKED),
    "CL twice, the same": framed("content-length: {n}\r\ncontent-length: {n}"),
    "CL twice, two values": framed("content-length: {n}\r\ncontent-length: 5"),
    "CL a list": framed("content-length: {n}, {n}"),
    "CL with a sign": framed("content-length: +{n}"),
    "CL negative": framed("content-length: -1"),
    "CL hexadecimal": framed("content-length: 0x10"),
    "CL with an underscore": framed("content-length: 1_0"),
    "CL beyond 64 bits": framed("content-length: 99999999999999999999999"),
    "CL empty": framed("content-length:"),
    "no length": framed("x: y", b""),
    "TE xchunked": framed("transfer-encoding: xchunked", CHUNKED),
    "TE quoted": framed('transfer-encoding: "chunked"', CHUNKED),
    "TE twice": framed("transfer-encoding: chunked\r\ntransfer-encoding: chunked", CHUNKED),
    "TE chunked, identity": framed("transfer-encoding: chunked, identity", CHUNKED),
    "TE gzip, chunked": framed("transfer-encoding: gzip, chunked", CHUNKED),
    "TE with a vertical tab": framed("transfer-encoding:\x0bchunked", CHUNKED),
    "TE with a space before the colon": framed("transfer-encoding : chunked", CHUNKED),
    "TE in HTTP/1.0": framed("transfer-encoding: chunked", CHUNKED, first=f"POST {CHAT} HTTP/1.0"),
    "chunk size with a sign": framed("transfer-encoding: chunked", b"+" + CHUNKED),
    "chunk size with 0x": framed("transfer-encoding: chunked", b"0x" + CHUNKED),
    "chunk size too large": framed("transfer-encoding: chunked", b"f" * 17 + b"\r\n" + CHUNKED),
    "chunk without its end": framed(
        "transfer-encoding: chunked", CHUNKED.replace(b"}\r\n0", b"}xx0")
    ),
    "a folded header": framed("x-a: b\r\n c: d\r\ncontent-length: {n}"),
    "a folded length": framed("content-length:\r\n {n}"),
    "a bare LF in the head": framed("content-length: {n}\nx-a: b"),
    "a bare CR in a value": framed("x-a: b\rcontent-length: 1\r\ncontent-length: {n}"),
    "a NUL in a value": framed("x-a: b\x00c\r\ncontent-length: {n}"),
    "a name with a space": framed("x a: b\r\ncontent-length: {n}"),
    "a line without a colon": framed("xa\r\ncontent-length: {n}"),
    "no host": framed("content-length: {n}").replace(b"host: gate.test\r\n", b""),
    "two hosts": framed("host: gate.test\r\ncontent-length: {n}"),
    "HTTP/0.9": b"GET /v1/models\r\n\r\n",
    "HTTP/2.0": framed("content-length: {n}", first=f"POST {CHAT} HTTP/2.0"),
    "HTTP/1.1 misspelled": framed("content-length: {n}", first=f"POST {CHAT} HTTP/1.1x"),
    "an HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 32 + b"\r\n\r\n",
    "a method in lower case": framed("content-length: {n}", first=f"post {CHAT} HTTP/1.1"),
    "a GET with a body": framed("content-length: {n}", first="GET /v1/models HTTP/1.1"),
    "an unknown expectation": framed("expect: 200-ok\r\ncontent-length: {n}"),
}


@pytest.mark.parametrize("name", DOUBTFUL)
@pytest.mark.usefixtures("nothing_forwarded")
async def test_framing_in_doubt_is_refused_and_nothing_behind_it_is_read(gate, name):
    """A second, sound request follows each doubtful one on the connection: it must not run."""
    key = gate.keys["red-1"].encode()
    doubtful = DOUBTFUL[name].replace(b"{key}", key).replace(b"{n}", b"%d" % len(BODY))
    smuggled = raw.request(CHAT, BODY, key=gate.keys["red-1"])
    answer = await raw.send_raw(gate.port, doubtful + smuggled)
    status = status_of(answer)
    assert 400 <= status < 500
    assert answer.endswith(b"}") or b"content-length: 0" in answer


async def test_framing_without_doubt_passes(gate, upstream):
    """The control: the same requests, framed soundly, are let through."""
    key = gate.keys["red-1"].encode()
    for sound in (
        framed("content-length: {n}"),
        framed("transfer-encoding: chunked", CHUNKED),
        framed("transfer-encoding: CHUNKED", CHUNKED),
        framed(
            "transfer-encoding: chunked", b"".join(b"1\r\n%c\r\n" % b for b in BODY) + b"0\r\n\r\n"
        ),
        framed("content-length: {n}\r\nexpect: 100-continue"),
    ):
        wanted = sound.replace(b"{key}", key).replace(b"{n}", b"%d" % len(BODY))
        before = len(upstream.received)
        answer = await raw.send_raw(gate.port, wanted)
        answer = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert status_of(answer) == 200
        assert len(upstream.received) == before + 1
        assert upstream.received[-1].body == BODY


# K13: one notion of the content


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"content-encoding": "gzip"}, gzip.compress(BODY)),
        ({"content-encoding": "gzip"}, BODY),
        ({"content-encoding": "deflate"}, BODY),
        ({"content-encoding": "identity, gzip"}, BODY),
        ({"content-type": "multipart/form-data; boundary=x"}, b"--x\r\n\r\n--x--\r\n"),
        ({"content-type": "application/x-www-form-urlencoded"}, b"model=gpt-5.5"),
        ({"content-type": "application/json; charset=utf-16"}, BODY),
        ({"content-type": "application/json; charset=utf-7"}, BODY),
        ({"content-type": "application/json, text/plain"}, BODY),
        ({"content-type": "text/plain"}, BODY),
        ({"content-type": ""}, BODY),
        ({"content-type": "application/json\r\ncontent-type: application/json"}, BODY),
    ],
)
@pytest.mark.usefixtures("nothing_forwarded")
async def test_k13_content_that_needs_decoding_is_refused(gate, headers, body):
    request = raw.request(CHAT, body, key=gate.keys["red-1"], headers=headers)
    answer = await raw.send_raw(gate.port, request)
    assert status_of(answer) == 415
    told = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert told["error"]["message"][:100].startswith("Send ")
