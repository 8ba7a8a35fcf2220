"""K20: a canary in every string, key and header that a caller can write, and in every credential.

It reaches the provider, for that is what the call is for, and nothing else: no fact, record, log
line, metric, file or answer of ours. What the provider says passes; here it says nothing of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json

import httpx
import pytest
import pytest_asyncio

from gateway.identity import api_keys
from tests.support import raw
from tests.support.gate import PROVIDER_KEY, running_gate
from tests.support.speaking import BOUNDS, MODELS, TARGETS, body_for, provider
from tests.support.upstream import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

CANARY = "canaryq7x"
HEADERS = {
    CANARY: CANARY,
    f"x-{CANARY}": CANARY,
    "user-agent": CANARY,
    "referer": f"http://{CANARY}/",
    "cookie": f"{CANARY}={CANARY}",
    "x-request-id": CANARY,
    "request-id": CANARY,
    "traceparent": f"00-{CANARY}",
    "idempotency-key": CANARY,
    "anthropic-beta": CANARY,
    "openai-organization": CANARY,
    "x-forwarded-for": CANARY,
    "x-codex-turn-metadata": f'{{"model":"{CANARY}"}}',
    "host": f"{CANARY}.test",
}
SAID = {
    "chat": {
        "messages": [
            {"role": "system", "content": CANARY, "name": CANARY},
            {"role": "user", "content": [
                {"type": "text", "text": CANARY},
                {"type": "image_url", "image_url": {"url": f"https://{CANARY}.test/i.png"}},
            ]},
            {"role": "assistant", "tool_calls": [
                {"id": CANARY, "type": "function",
                 "function": {"name": CANARY, "arguments": f'{{"{CANARY}":1}}'}}]},
        ],
        "tools": [
            {"type": "function", "function": {"name": CANARY, "description": CANARY,
             "parameters": {"properties": {CANARY: {"enum": [CANARY]}}}}},
            {"type": CANARY, CANARY: CANARY},
        ],
        "response_format": {"type": "json_schema", "json_schema": {"name": CANARY}},
        "stop": [CANARY], "safety_identifier": CANARY, "prompt_cache_key": CANARY,
        "service_tier": CANARY,
    },
    "responses": {
        "input": [{"role": "user", "content": [{"type": "input_text", "text": CANARY}]},
                  {"type": CANARY, CANARY: CANARY}],
        "instructions": CANARY, "tools": [{"type": "custom", "name": CANARY}], "include": [CANARY],
        "reasoning": {"effort": CANARY}, "safety_identifier": CANARY, "truncation": CANARY,
    },
    "messages": {
        "messages": [{"role": "user", "content": [
            {"type": "text", "text": CANARY, "cache_control": {"type": CANARY}},
            {"type": "image", "source": {"type": "url", "url": f"https://{CANARY}.test/"}},
        ]}],
        "system": [{"type": "text", "text": CANARY}], "stop_sequences": [CANARY],
        "tools": [{"name": CANARY, "input_schema": {CANARY: CANARY}},
                  {"type": CANARY, "name": CANARY}],
        "thinking": {"type": CANARY}, "service_tier": CANARY,
    },
    "embeddings": {"input": [CANARY], "encoding_format": CANARY, "user": CANARY},
    "count_tokens": {"messages": [{"role": "user", "content": CANARY}], "system": CANARY},
}  # fmt: skip
ANYWHERE = {
    CANARY: {CANARY: [CANARY, {CANARY: None}]},
    "metadata": {"user_id": CANARY, CANARY: CANARY},
    "user": CANARY,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream():
    server = Upstream(provider)
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gate(tmp_path_factory, upstream):
    directory = tmp_path_factory.mktemp("gate")
    async with running_gate(directory, upstream.url, log_level="debug") as running:
        await running.member("red")
        await running.member("newcomer", 0)
        yield running


def full(wire: str, model: str = "") -> bytes:
    return body_for(wire, model, **{**ANYWHERE, **SAID[wire]})


def bounded(wire: str) -> list[bytes]:
    """A bound on the output that is none, on the wires that know one."""
    return [body_for(wire, **{BOUNDS[wire]: CANARY})] if wire in BOUNDS else []


async def allowed(gate) -> list[raw.Answer]:
    key = gate.keys["red-1"]
    answers = [
        await raw.call(gate.port, TARGETS[wire], full(wire), key=key, headers=HEADERS)
        for wire in TARGETS
    ]
    assert [answer.status for answer in answers] == [200] * len(answers), [
        answer.body for answer in answers if answer.status != 200
    ]
    return answers


async def denied(gate) -> list[raw.Answer]:
    """Refusals of every kind, each with the canary where the refused thing is."""
    red, newcomer = gate.keys["red-1"], gate.keys["newcomer-1"]
    answers = []
    for wire, target in TARGETS.items():
        for model in (CANARY, "mythos-5", "gpt-5.5-cyber"):
            body = full(wire, model)
            answers.append(await raw.call(gate.port, target, body, key=newcomer, headers=HEADERS))
        for broken in (
            full(wire)[:-1] + b',"%s":NaN}' % CANARY.encode(),
            full(wire)[:-1] + b',"%s":1,"%s":2}' % (CANARY.encode(), CANARY.encode()),
            full(wire)[:-20],
            full(wire).replace(b'"model"', b'"Model"', 1),
            full(wire)[:-1] + b',"fallbacks":"%s"}' % CANARY.encode(),
            full(wire)[:-1] + b',"previous_response_id":"%s"}' % CANARY.encode(),
            full(wire)[:-1] + b',"access_programs":{"cyber":"%s"}}' % CANARY.encode(),
            CANARY.encode(),
            *bounded(wire),
        ):
            answer = await raw.call(gate.port, target, broken, key=red, headers=HEADERS)
            answers.append(answer)
        answers.append(await raw.call(gate.port, f"{target}?{CANARY}={CANARY}", b"{}", key=red))
        answers.append(
            await raw.call(gate.port, target, full(wire), key=red, headers={"content-type": CANARY})
        )
    answers += [
        await raw.call(gate.port, f"/v1/models/{CANARY}", key=red),
        await raw.call(gate.port, f"/v1/{CANARY}", key=red),
        await raw.call(gate.port, "/v1/models", key=red, method=CANARY.upper()),
        await raw.call(gate.port, "/v1/models", headers={"host": f"{CANARY}/x"}),
    ]
    for credential in (
        f"Bearer sk-sg-{CANARY}",
        f"Bearer {CANARY}",
        f"Basic {CANARY}",
        f"Bearer eyJ{CANARY}.{CANARY}.{CANARY}",
        f"{CANARY} {CANARY}",
        f"Bearer {api_keys.mint().text}",
    ):
        headers = {"authorization": credential}
        answers.append(await raw.call(gate.port, "/v1/models", headers=headers))
    assert [i for i, answer in enumerate(answers) if answer.status < 400] == []
    assert {answer.status for answer in answers} >= {400, 401, 403, 404, 415}
    return answers


async def failed(gate, upstream) -> list[raw.Answer]:
    async def hangs_up(_received, reply):
        reply.reset()

    async def refuses_our_key(_received, reply):
        await reply.whole(json.dumps({"error": {"message": PROVIDER_KEY}}).encode(), 401)

    answers = []
    for script in (hangs_up, refuses_our_key):
        upstream.script = script
        for wire, target in TARGETS.items():
            answer = await raw.call(gate.port, target, full(wire), key=gate.keys["red-1"])
            assert answer.status == 502
            answers.append(answer)
    upstream.script = provider
    return answers


async def malformed(gate) -> list[bytes]:
    """What the server's own parser refuses."""
    return [
        await raw.send_raw(gate.port, data)
        for data in (
            f"GET /{CANARY} HTTP/1.1\r\n{CANARY}\r\n\r\n".encode(),
            f"{CANARY}\r\n\r\n".encode(),
            f"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: {CANARY}\r\n\r\n".encode(),
            f"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: {CANARY}\r\n\r\n".encode(),
        )
    ]


async def test_k20_a_canary_in_everything_stays_out_of_everything(gate, upstream):
    answers = [*await allowed(gate), *await denied(gate), *await failed(gate, upstream)]
    told = [answer.raw for answer in answers] + await malformed(gate)
    # The control: the canary was sent, and what is searched below is really there.
    assert len(upstream.received) == 3 * len(TARGETS)
    assert all(received.body.count(CANARY.encode()) > 3 for received in upstream.received)
    intents = await gate.recorded("access.intent", 3 * len(TARGETS))
    await gate.recorded("access.denied", len(TARGETS) * 3)
    facts = gate.facts()
    assert {record["request_id"] for record in intents} <= facts.keys()
    assert all(b'"subject"' in each for each in facts.values())
    assert json.loads(facts[intents[0]["request_id"]])["resource"]["id"] == MODELS["chat"]

    await asyncio.sleep(1.2)  # a worker reports once a second
    async with httpx.AsyncClient() as client:
        metrics = (await client.get(f"{gate.ops_url}/metrics")).text
        pages = [
            (await client.get(url)).text for url in (gate.console_url, f"{gate.ops_url}/readyz")
        ]
    status = json.dumps(await gate.status())
    assert "sluicegate_requests_total" in metrics
    searched: dict[str, bytes] = {
        "facts": b"".join(facts.values()),
        "records": json.dumps(gate.records()).encode(),
        "log": gate.log().encode(),
        "metrics": metrics.encode(),
        "pages": "".join(pages).encode() + status.encode(),
        "answers": b"".join(told),
    }
    for path in gate.state.root.rglob("*"):
        if path.is_file():
            searched[str(path.relative_to(gate.state.root))] = path.read_bytes()
    assert {"registry.db", "audit"} <= {name.split("/")[0] for name in searched}
    secrets = {CANARY, PROVIDER_KEY, *gate.keys.values()}
    for place, content in searched.items():
        for secret in secrets:
            assert secret.lower().encode() not in content.lower(), (place, secret)
    # Nor under a hash that could be looked up: credentials are not even recorded as digests.
    for key in gate.keys.values():
        digest = hashlib.sha256(key.encode()).hexdigest().encode()
        assert digest not in searched["records"] + searched["log"] + searched["facts"]


async def test_k20_a_clients_key_never_reaches_the_provider_nor_the_providers_the_client(
    gate, upstream
):
    key = gate.keys["red-1"]
    for headers in ({}, {"x-api-key": key}, {"api-key": key, "x-auth-token": key, "cookie": key}):
        for wire, target in TARGETS.items():
            answer = await raw.call(gate.port, target, body_for(wire), key=key, headers=headers)
            assert PROVIDER_KEY.encode() not in answer.raw
            sent = upstream.received[-1]
            assert key not in str(sent.headers)
            given = sent.header("authorization") + sent.header("x-api-key")
            assert [value.removeprefix("Bearer ") for value in given] == [PROVIDER_KEY]
