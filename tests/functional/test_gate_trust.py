"""What a caller writes moves nothing but his call: no header, path or field of his is trusted."""

from __future__ import annotations

import asyncio
import json
import re
from unittest.mock import Mock

import httpx
import pytest
import pytest_asyncio

from gateway.control.api import control_api
from gateway.control.console import console_app
from gateway.control.ops import ops_app
from tests.support import raw
from tests.support.gate import PROVIDER_KEY, Gate
from tests.support.speaking import TARGETS, body_for, events_for, provider, whole_answer
from tests.support.upstream import Upstream, event

pytestmark = pytest.mark.asyncio(loop_scope="module")

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
FORGED = {
    "x-forwarded-for": "192.0.2.7",
    "x-forwarded-host": "gate.test",
    "x-forwarded-proto": "https",
    "x-forwarded-uri": "/livez",
    "x-forwarded-client-cert": "Hash=abc;Subject=CN=red",
    "forwarded": "for=192.0.2.7;proto=https;host=gate.test",
    "x-real-ip": "192.0.2.7",
    "x-client-ip": "192.0.2.7",
    "true-client-ip": "192.0.2.7",
    "cf-connecting-ip": "192.0.2.7",
    "x-original-url": "/livez",
    "x-rewrite-url": "/livez",
    "x-http-method-override": "GET",
    "x-envoy-internal": "true",
    "x-sluicegate-member": "red",
    "x-sluicegate-tier": "4",
    "x-sluicegate-decision-id": "dec_forged",
    "via": "1.1 trusted",
    "client-cert": ":abc:",
}


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
        catalogue.write(LAB_MODEL)
    await running.start()
    try:
        await running.organisation()
        await running.member("red")
        await running.member("newcomer", 0)
        yield running
    finally:
        await running.stop()


@pytest.fixture(autouse=True)
def _provider_again(upstream):
    upstream.script = provider


async def record_of(gate, answer, kind="access.intent"):
    request_id = answer.header("request-id") or answer.header("x-request-id")
    (record,) = await gate.recorded(kind, request_id=request_id)
    return record


# K4, K16, K17: headers


async def test_k4_forged_headers_change_no_decision_and_no_record(gate, upstream):
    key = gate.keys["newcomer-1"]
    for model, status in (("lab-opus", 403), ("mythos-5", 403), ("opus-4.8", 200)):
        told = []
        for headers in ({}, FORGED):
            body = body_for("messages", model)
            answer = await raw.call(gate.port, "/v1/messages", body, key=key, headers=headers)
            assert answer.status == status
            record = await record_of(
                gate, answer, "access.intent" if status == 200 else "access.denied"
            )
            told.append((record["src"], record["subject"], record["decision"]["reasons"]
                         if status == 403 else record["model"]))  # fmt: skip
        assert told[0] == told[1]
        assert told[0][0]["labels"] == ["loopback"]
    sent = {name.lower() for name, _ in upstream.received[-1].headers}
    assert not sent & FORGED.keys()


async def test_k4_no_header_is_a_credential_but_the_two(gate):
    key = gate.keys["red-1"]
    for name in ("api-key", "x-auth-token", "cookie", "proxy-authorization", "x-goog-api-key"):
        for value in (key, f"Bearer {key}"):
            answer = await raw.call(
                gate.port, "/v1/messages", body_for("messages"), headers={name: value}
            )
            assert answer.status == 401
    answer = await raw.call(gate.port, "/v1/messages", body_for("messages"), headers={
        "user-agent": "kube-probe/1.31", "x-api-key": key[:-1]})  # fmt: skip
    assert answer.status == 401


async def test_k16_the_record_names_the_authenticated_alone(gate):
    headers = {
        "litellm-changed-by": "red",
        "x-user": "red",
        "x-forwarded-user": "red",
        "x-remote-user": "red",
        "x-litellm-end-user-id": "red",
        "anthropic-user-profile-id": "red",
        "openai-organization": "org-of-somebody-else",
    }
    body = body_for("messages", metadata={"user_id": "red"})
    answer = await raw.call(
        gate.port, "/v1/messages", body, key=gate.keys["newcomer-1"], headers=headers
    )
    record = await record_of(gate, answer)
    assert record["subject"]["id"] == "newcomer"
    assert record["subject"]["credential"] == "newcomer-1"
    assert "red" not in re.findall(r'"(\w+)"', json.dumps(record))


async def test_k17_nothing_moves_the_upstream(gate, upstream):
    touched = []
    decoy = await asyncio.start_server(lambda *_: touched.append(1), "127.0.0.1", 0)
    host = f"127.0.0.1:{decoy.sockets[0].getsockname()[1]}"
    names = (
        "x-portkey-custom-host x-target-url x-upstream x-original-host x-base-url x-api-base "
        "helicone-target-url helicone-openai-api-base x-custom-host x-forwarded-host"
    ).split()
    headers = dict.fromkeys(names, f"http://{host}") | {"host": host}
    fields = {"api_base": f"http://{host}", "base_url": f"http://{host}", "api_key": "sk-theirs"}
    before = len(upstream.received)
    for wire in ("chat", "responses", "messages"):
        body = body_for(wire, **fields)
        key = gate.keys["red-1"]
        answer = await raw.call(gate.port, TARGETS[wire], body, key=key, headers=headers)
        assert answer.status == 200
        assert upstream.received[-1].body == body
        assert PROVIDER_KEY in "".join(value for _, value in upstream.received[-1].headers)
    decoy.close()
    assert len(upstream.received) == before + 3
    assert touched == []


# K10, K11: routes


def admin_routes() -> list[tuple[str, str]]:
    """Every route of every FastAPI application that there is, as method and path."""
    apps = (
        control_api(Mock(), Mock(), Mock(), ""),
        ops_app(Mock(), Mock(), Mock()),
        console_app(Mock(), Mock(), Mock(), Mock(), Mock()),
    )
    found = [
        (method, re.sub(r"\{[^}]*\}", "member", route.path))
        for app in apps
        for route in app.routes
        for method in route.methods
    ]
    assert len(found) >= 9
    return found


async def test_k10_no_admin_route_is_on_the_data_listener(gate):
    key = gate.keys["red-1"]
    for method, path in admin_routes():
        if path == "/":
            continue  # the console's front page; on this listener only HEAD / is a probe
        for headers in ({}, {"host": gate.ops_url.removeprefix("http://")}):
            answer = await raw.call(gate.port, path, method=method, key=key, headers=headers)
            assert answer.status == 404, (method, path)
    assert (await raw.call(gate.port, "/", key=key)).status == 404


async def test_k10_each_listener_has_its_own_routes_and_no_others(gate):
    own = {
        gate.console_url: {("GET", "/")},
        gate.ops_url: {("GET", "/livez"), ("GET", "/readyz"), ("GET", "/metrics")},
    }  # fmt: skip
    async with httpx.AsyncClient() as client:
        for url, routes in own.items():
            wires = [("POST", target) for target in TARGETS.values()]
            for method, path in {*admin_routes(), *wires, ("GET", "/v1/models")}:
                answer = await client.request(method, url + path)
                served = answer.status_code == 200
                assert served == ((method, path) in routes), (url, method, path)
            for path in ("/docs", "/redoc", "/openapi.json", "/static/x", "/../etc/passwd"):
                assert (await client.get(url + path)).status_code == 404


async def test_k11_what_is_not_listed_is_no_route(gate, upstream):
    before = len(upstream.received)
    paths = (
        "/invocations /tokenize /detokenize /pause /resume /sleep /wake_up /update_weights "
        "/ping /health /version /metrics /load /score /rerank /pooling /classify "
        "/server_info /abort /v1/load_lora_adapter /v1/unload_lora_adapter /v1/completions "
        "/v1/files /v1/batches /v1/audio/speech /v1/images/generations /v1/fine_tuning/jobs "
        "/v1/assistants /v1/threads /v1/responses/resp_1 /v1/responses/resp_1/cancel "
        "/v1/responses/compact /v1/messages/batches /v1/chat/completions/x /v1/conversations "
        "/v1/containers /v1/vector_stores /v1/realtime /v1/realtime/client_secrets "
        "/v1/organization/admin_api_keys /v1/skills /config/update /key/generate "
        "/prompts/test /v1 /.env /debug/pprof /access/nothing"
    ).split()
    for path in paths:
        for method, body in (("POST", body_for("chat")), ("GET", None)):
            answer = await raw.call(gate.port, path, body, key=gate.keys["red-1"], method=method)
            assert answer.status == 404, (method, path)
            assert b"no such route" in answer.body
    assert len(upstream.received) == before


async def test_k11_each_route_takes_its_own_method_alone(gate, upstream):
    before = len(upstream.received)
    methods = ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY", "PROPFIND")
    for path in (*TARGETS.values(), "/v1/models", "/v1/models/gpt-5.5", "/api/hello"):
        for method in (*methods, "POST"):
            if (method, path) == ("HEAD", "/api/hello") or (
                path.startswith("/v1/models") and method == "GET"
            ) or (path in TARGETS.values() and method == "POST"):  # fmt: skip
                continue
            async with raw.connect(gate.port) as connection:
                await connection.send(raw.request(path, method=method, key=gate.keys["red-1"]))
                assert (await connection.head()).status == 404, (method, path)
    assert len(upstream.received) == before


# K14, K15, K18: bodies and answers


async def test_k14_no_answer_is_kept_for_another(gate, upstream):
    answers = iter([b'{"secret":"of red"}', b'{"secret":"of newcomer"}', b'{"secret":"again"}'])

    async def script(_received, reply):
        await reply.whole(next(answers), headers={"cache-control": "public, max-age=3600"})

    upstream.script = script
    before, body = len(upstream.received), body_for("messages", cache=True)
    seen = []
    for name in ("red", "newcomer", "red"):
        answer = await raw.call(gate.port, "/v1/messages", body, key=gate.keys[f"{name}-1"])
        assert (await record_of(gate, answer))["subject"]["id"] == name
        seen.append(answer.body)
    assert len(set(seen)) == 3
    assert len(upstream.received) == before + 3


async def test_k15_control_looking_fields_are_the_providers_business(gate, upstream):
    fields = {
        "mock_response": "pwned", "litellm_params": {"api_key": "x"}, "guardrails": [],
        "no-log": True, "user_api_key_dict": {"tier": 9}, "custom_llm_provider": "openai",
        "cache": {"no-cache": False}, "tags": ["admin"], "max_retries": 9, "timeout": 0.001,
        "extra_headers": {"authorization": "Bearer x"}, "extra_body": {"x": 1},
        "sluicegate": {"allow": True}, "decision": "allow", "tier": 4, "roles": ["evaluator"],
    }  # fmt: skip
    for wire in ("chat", "responses", "messages"):
        body = body_for(wire, **fields)
        answer = await raw.call(gate.port, TARGETS[wire], body, key=gate.keys["red-1"])
        assert answer.body == whole_answer(wire, json.loads(body)["model"])
        assert upstream.received[-1].body == body
    body = body_for("messages", "mythos-5", **fields)
    denied = await raw.call(gate.port, "/v1/messages", body, key=gate.keys["newcomer-1"])
    assert denied.status == 403


NOTICES = {
    "responses": event(
        {"type": "response.metadata", "sequence_number": 2, "headers": {
            "openai_verification_recommendation": ["trusted_access_for_cyber"],
            "reroute_reason": "high_risk_cyber_activity"}},
        "response.metadata",
    ),
    "messages": event(
        {"type": "content_block_start", "index": 1, "content_block": {"type": "fallback",
            "from": {"model": "opus-4.8"}, "to": {"model": "opus-4.7"}, "trigger": "refusal"}},
        "content_block_start",
    ),
}  # fmt: skip


@pytest.mark.parametrize("wire", NOTICES)
async def test_k18_notices_reach_client_and_record(gate, upstream, wire):
    events = events_for(wire, json.loads(body_for(wire)))
    events.insert(2, NOTICES[wire])
    headers = {
        "openai-model": "gpt-5.5-safer",
        "anthropic-safety-notice": "n",
        "x-models-etag": "e",
    }

    async def script(_received, reply):
        await reply.start_stream(headers)
        for piece in events:
            await reply.chunk(piece)
        await reply.end()

    upstream.script = script
    answer = await raw.call(
        gate.port, TARGETS[wire], body_for(wire, stream=True), key=gate.keys["red-1"]
    )
    assert answer.body == b"".join(events)
    assert answer.header("openai-model") == "gpt-5.5-safer"
    if wire == "messages":
        assert answer.header("anthropic-safety-notice") == "n"
        assert (await record_of(gate, answer, "access.outcome"))["served_model"] == "opus-4.7"


async def test_k18_a_refusal_is_an_answer(gate, upstream):
    document = json.loads(whole_answer("messages", "opus-4.8")) | {
        "stop_reason": "refusal",
        "stop_details": {"type": "refusal", "category": "cyber", "explanation": "no"},
    }
    body = json.dumps(document).encode()

    async def script(_received, reply):
        await reply.whole(body)

    upstream.script = script
    answer = await raw.call(gate.port, "/v1/messages", body_for("messages"), key=gate.keys["red-1"])
    assert (answer.status, answer.body) == (200, body)
    outcome = await record_of(gate, answer, "access.outcome")
    assert (outcome["status"], outcome["response"]["finish"]) == ("ok", "refusal")


# K62: metrics


async def test_k62_a_model_that_a_caller_invents_is_no_label(gate):
    for number in range(60):
        body = body_for("chat", f"invented-{number}")
        await raw.call(gate.port, TARGETS["chat"], body, key=gate.keys["red-1"])
        await raw.call(gate.port, f"/invented-{number}", key=gate.keys["red-1"])
    await raw.call(gate.port, TARGETS["chat"], body_for("chat"), key=gate.keys["red-1"])
    await asyncio.sleep(1.2)  # a worker reports once a second
    async with httpx.AsyncClient() as client:
        metrics = (await client.get(f"{gate.ops_url}/metrics")).text
    assert "invented" not in metrics
    assert 'model="other"' in metrics
    assert 'model="gpt-5.5"' in metrics
