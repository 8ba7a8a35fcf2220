"""A denial as its caller meets it: the SDK's own error, raised once, whose first hundred
characters say what is wrong and what to do (K39: the status decides how often a client asks)."""

from __future__ import annotations

import time

import anthropic
import openai
import pytest
import pytest_asyncio

from gateway.identity import api_keys
from tests.support import raw
from tests.support.gate import Gate
from tests.support.raw import CountingProxy
from tests.support.speaking import TARGETS, body_for, events_for, provider
from tests.support.upstream import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

WIRES = ("chat", "responses", "messages")
SAID = [{"role": "user", "content": "hi"}]
DENIED = {
    "chat": openai.PermissionDeniedError,
    "responses": openai.BadRequestError,
    "messages": anthropic.PermissionDeniedError,
}


def entry(name: str, stage: str, requires: str) -> str:
    """A model for the OpenAI wires and one for Messages that ask for the same."""
    return "".join(
        f"{kind}-{name}:\n  id: {kind}-{name}\n  display_name: {name}\n  endpoint: {endpoint}\n"
        f'  wires: {wires}\n  stage: {stage}\n  created_at: "2026-10-01T00:00:00Z"\n'
        f"  requires: {requires}\n"
        for kind, endpoint, wires in (
            ("gpt", "openai", "[chat, responses]"),
            ("opus", "anthropic", "[messages]"),
        )
    )


def model_of(wire: str, name: str) -> str:
    return f"{'opus' if wire == 'messages' else 'gpt'}-{name}"


def limited(name: str, rate: int, period_s: int) -> str:
    one = f"{{name: requests.{name}, key: subject, rate: {rate}, period_s: {period_s}, burst: 1}}"
    return f"  {name}:\n    - from_level: 0\n      limits:\n        - {one}\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream():
    server = Upstream(provider)
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gate(tmp_path_factory, upstream):
    running = Gate(tmp_path_factory.mktemp("gate"), upstream.url, {})
    models, stages, limits = (running.data(name) for name in ("models", "stages", "limits"))
    models.write_text(
        models.read_text()
        + entry("vetted", "general", "{tiers: {cyber: 3}}")
        + entry("bound", "general", "{bound_credential: true}")
        + entry("study", "general", "{purposes: [research]}")
        + entry("hourly", "hourly", "{}")
        + entry("minutely", "minutely", "{}")
        + entry("brisk", "brisk", "{}")
    )
    named = ("hourly", "minutely", "brisk")
    stages.write_text(stages.read_text() + "".join(f"{n}: {{admits: [{{}}]}}\n" for n in named))
    spelled = limited("hourly", 1, 3600) + limited("minutely", 3, 60) + limited("brisk", 1, 1)
    limits.write_text(limits.read_text().replace("stages:\n", f"stages:\n{spelled}", 1))
    await running.start()
    try:
        await running.organisation()
        await running.member("newcomer", 0)
        await running.member("student", 0, purposes=["research"])
        yield running
    finally:
        await running.stop()


@pytest.fixture(autouse=True)
def _provider_again(upstream):
    upstream.script = provider


def post(wire: str, client, model: str, **more):
    """The call that an application makes on this wire."""
    if wire == "chat":
        return client.chat.completions.create(model=model, messages=SAID, max_tokens=50, **more)
    if wire == "responses":
        return client.responses.create(model=model, input="hi", max_output_tokens=50, **more)
    return client.messages.create(model=model, messages=SAID, max_tokens=50, **more)


def client_of(wire: str, url: str, key: str, **more):
    """The vendor's client as it comes, with its two retries."""
    if wire == "messages":
        return anthropic.AsyncAnthropic(base_url=url, api_key=key, **more)
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, **more)


def said_in(error: Exception) -> str:
    body = error.body
    return body["error"]["message"] if "error" in body else body["message"]


async def refused(gate, wire, key, model, error, *, client=None, posts=1, **more):
    """Call once; the error, and its message after it was checked to have been raised once."""
    async with (
        CountingProxy(gate.port) as proxy,
        client_of(wire, proxy.url, key, **(client or {})) as sdk,
    ):
        with pytest.raises(error) as caught:
            await post(wire, sdk, model, **more)
    assert proxy.posts == posts
    return caught.value, said_in(caught.value)


def stands_alone(message: str, *words: str) -> None:
    """The first hundred characters hold all of these, and none is cut off."""
    for word in words:
        assert word in message[:100], message


# Denials of policy


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
async def test_k39_a_tier_denial_is_raised_once(gate, upstream, wire, stream):
    before = len(upstream.received)
    key, model = gate.keys["newcomer-1"], model_of(wire, "vetted")
    error, message = await refused(gate, wire, key, model, DENIED[wire], stream=stream)
    stands_alone(
        message, "needs cyber 3, has 0", "Ask your organisation's administrator for cyber tier 3"
    )
    assert error.response.headers["x-should-retry"] == "false"
    decision_id = error.response.headers["x-sluicegate-decision-id"]
    assert f"decision={decision_id}" in message
    assert "rule=tiers.insufficient" in message
    assert f" model={model} " in message
    assert "Appeal: your organisation's administrator" in message
    (record,) = await gate.recorded("access.denied", decision_id=decision_id)
    assert record["reason"] == "tier_insufficient"
    assert record["http"] == error.status_code
    assert len(upstream.received) == before


@pytest.mark.parametrize("wire", WIRES)
async def test_k39_a_step_up_is_raised_once(gate, wire):
    key, model = gate.keys["newcomer-1"], model_of(wire, "bound")
    error, message = await refused(gate, wire, key, model, DENIED[wire])
    stands_alone(message, "needs a key-bound credential", "Call with mTLS or DPoP")
    assert error.response.headers["x-sluicegate-reason"] == "bound_credential_required"


@pytest.mark.parametrize("wire", WIRES)
async def test_k39_an_approval_is_raised_once(gate, wire):
    key, model = gate.keys["student-1"], model_of(wire, "study")
    error, message = await refused(gate, wire, key, model, DENIED[wire])
    stands_alone(message, "your purpose needs a second person", "Have the call approved")
    if wire != "messages":
        assert error.code == "approval_required"
    assert error.response.headers["x-sluicegate-reason"] == "purpose_needs_approval"


@pytest.mark.parametrize("wire", WIRES)
async def test_k39_no_such_model_is_raised_once(gate, wire):
    expected = anthropic.NotFoundError if wire == "messages" else openai.NotFoundError
    error, message = await refused(gate, wire, gate.keys["newcomer-1"], "no-such", expected)
    stands_alone(message, "This model does not exist, or this credential may not use it")
    if wire != "messages":
        assert error.code == "model_not_found"


@pytest.mark.parametrize(
    ("wire", "model", "served"),
    [("chat", "opus-4.8", "/v1/messages or /v1/messages/count_tokens"),
     ("responses", "opus-4.8", "/v1/messages or /v1/messages/count_tokens"),
     ("messages", "gpt-5.5", "/v1/chat/completions or /v1/responses")],
)  # fmt: skip
async def test_k39_the_wrong_api_is_raised_once(gate, wire, model, served):
    vendor = anthropic if wire == "messages" else openai
    key = gate.keys["newcomer-1"]
    _, message = await refused(gate, wire, key, model, vendor.BadRequestError)
    stands_alone(message, f"Call it at {served}: this API does not serve {model}")


# Credentials, routes, bodies


@pytest.mark.parametrize("wire", WIRES)
async def test_k39_a_bad_credential_is_raised_once(gate, wire):
    vendor = anthropic if wire == "messages" else openai
    good, model = gate.keys["newcomer-1"], model_of(wire, "vetted")
    nothing = {"Authorization": vendor.Omit(), "X-Api-Key": vendor.Omit()}
    another = {"X-Api-Key": api_keys.mint().text}
    for key, headers, words in (
        (api_keys.mint().text, {}, ("key",)),
        ("sk-proj-of-somebody-else", {}, ("Credential not readable", "sk-sg-")),
        (good, nothing, ("No credential", "Bearer")),
        (good, another, ("Two credentials", "send one")),
    ):
        error, message = await refused(
            gate, wire, key, model, vendor.AuthenticationError, extra_headers=headers
        )
        stands_alone(message, *words)
        assert error.response.headers["x-should-retry"] == "false"
        assert "www-authenticate" in error.response.headers
        assert good not in message


@pytest.mark.parametrize("wire", WIRES)
async def test_k23_the_same_credential_in_both_headers_is_one(gate, wire):
    key = gate.keys["newcomer-1"]
    model = "opus-4.8" if wire == "messages" else "gpt-5.5"
    async with client_of(wire, gate.url, key, default_headers={"x-api-key": key}) as client:
        await post(wire, client, model)


@pytest.mark.parametrize("wire", WIRES)
async def test_k39_a_route_that_is_none_is_raised_once(gate, wire):
    vendor = anthropic if wire == "messages" else openai
    async with (
        CountingProxy(gate.port) as proxy,
        client_of(wire, proxy.url, gate.keys["newcomer-1"]) as sdk,
    ):
        with pytest.raises(vendor.NotFoundError) as caught:
            await sdk.post("/v1/batches" if wire == "messages" else "/batches", cast_to=object)
    assert proxy.posts == 1
    stands_alone(said_in(caught.value), "no such route", "It serves chat/completions")


@pytest.mark.parametrize("key", ["", "newcomer-1"])
async def test_a_path_of_ours_by_another_method_says_its_own(gate, key):
    answer = await raw.call(
        gate.port, "/v1/messages", None, key=key and gate.keys[key], method="GET"
    )
    assert answer.status == 404
    assert answer.header("x-sluicegate-reason") == "route_not_found"
    assert b"/v1/messages takes POST and no other method" in answer.body


@pytest.mark.parametrize(
    ("wire", "extra", "words"),
    [
        ("chat", {"Model": "gpt-5.5"}, ("`model`", "spell it")),
        ("chat", {"max_completion_tokens": "many"}, ("`max_completion_tokens` must be a whole",)),
        (
            "responses",
            {"previous_response_id": "r-1"},
            ("Send content inline", "previous_response"),
        ),
        ("responses", {"background": True}, ("Send content inline", "`background`")),
        ("messages", {"fallbacks": "default"}, ("fallbacks", "list the models")),
        ("messages", {"container": "c-1"}, ("Send content inline", "`container`")),
    ],
)
async def test_k39_a_body_that_cannot_be_judged_is_raised_once(gate, wire, extra, words):
    vendor = anthropic if wire == "messages" else openai
    model = "opus-4.8" if wire == "messages" else "gpt-5.5"
    key = gate.keys["newcomer-1"]
    _, message = await refused(gate, wire, key, model, vendor.BadRequestError, extra_body=extra)
    stands_alone(message, *words)


@pytest.mark.parametrize("key", ["", "a key"])
async def test_a_websocket_is_told_at_once_to_post(gate, key):
    headers = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        "openai-beta": "responses_websockets=2026-02-06",
    }
    begun = time.monotonic()
    wanted = raw.request("/v1/responses", key=key and gate.keys["newcomer-1"], headers=headers)
    async with raw.connect(gate.port) as connection:
        await connection.send(wanted)
        answer = await connection.answer()
        assert await connection.rest() == b""  # and closes
    assert answer.status == 426
    assert b"WebSocket is not offered here: send the same call as a POST." in answer.body
    assert time.monotonic() - begun < 1


# Limits


@pytest.mark.parametrize("wire", WIRES)
async def test_k55_a_short_wait_is_told_in_seconds(gate, wire):
    vendor = anthropic if wire == "messages" else openai
    key, model = await gate.member(f"short-{wire}", 0), model_of(wire, "minutely")
    async with client_of(wire, gate.url, key) as client:
        await post(wire, client, model)
    error, message = await refused(
        gate, wire, key, model, vendor.RateLimitError, client={"max_retries": 0}
    )
    stands_alone(message, "Limit reached: requests per subject, 3 per 60 s", "Retry in 20 s")
    headers = error.response.headers
    assert headers["retry-after"] == "20"
    assert "x-should-retry" not in headers
    assert "requests.minutely" in headers["ratelimit"]
    family = "anthropic-ratelimit-requests-" if wire == "messages" else "x-ratelimit-"
    assert any(name.startswith(family) for name in headers)


@pytest.mark.parametrize("wire", WIRES)
async def test_k39_a_long_wait_is_raised_once_and_at_once(gate, wire):
    vendor = anthropic if wire == "messages" else openai
    key, model = await gate.member(f"long-{wire}", 0), model_of(wire, "hourly")
    async with client_of(wire, gate.url, key) as client:
        await post(wire, client, model)
    begun = time.monotonic()
    error, message = await refused(gate, wire, key, model, vendor.RateLimitError)
    assert time.monotonic() - begun < 5
    stands_alone(message, "Limit reached: requests per subject, 1 per 3600 s", "Retry in 3600 s")
    headers = error.response.headers
    assert headers["x-should-retry"] == "false"
    assert ("retry-after" in headers) == (wire != "responses")  # Codex would sleep the hour


@pytest.mark.parametrize("wire", WIRES)
async def test_k39_a_wait_of_a_second_is_ridden_out(gate, wire):
    key, model = await gate.member(f"brisk-{wire}", 0), model_of(wire, "brisk")
    async with CountingProxy(gate.port) as proxy, client_of(wire, proxy.url, key) as client:
        await post(wire, client, model)
        await post(wire, client, model)
    assert proxy.posts == 3


# What the upstream did


@pytest.mark.parametrize("wire", WIRES)
async def test_k39_what_no_retry_would_mend_is_raised_once_the_rest_thrice(gate, upstream, wire):
    vendor = anthropic if wire == "messages" else openai
    key, model = gate.keys["newcomer-1"], "opus-4.8" if wire == "messages" else "gpt-5.5"

    async def refuses_our_key(_received, reply):
        await reply.whole(b"{}", 401)

    async def hangs_up(_received, reply):
        reply.reset()

    for script, posts, words in (
        (refuses_our_key, 1, ("refused the gateway's own key", "operator")),
        (hangs_up, 3, ("try again",)),
    ):
        upstream.script = script
        _, message = await refused(gate, wire, key, model, vendor.InternalServerError, posts=posts)
        stands_alone(message, *words)


@pytest.mark.parametrize("helper", [False, True])
@pytest.mark.parametrize("wire", WIRES)
async def test_k38_access_withdrawn_in_mid_stream_is_raised_once(gate, upstream, wire, helper):
    name = f"revoked-{wire}-{int(helper)}"
    key, model = await gate.member(name, 0), "opus-4.8" if wire == "messages" else "gpt-5.5"

    async def script(received, reply):
        await reply.start_stream()
        for piece in events_for(wire, received.json())[:-2]:
            await reply.chunk(piece)
        await gate.revoke(f"{name}-1")
        await reply.until_closed()

    upstream.script = script

    async def read(client) -> None:
        if not helper:
            async for _ in await post(wire, client, model, stream=True):
                pass
            return
        resource = {
            "chat": lambda: client.chat.completions, "responses": lambda: client.responses,
            "messages": lambda: client.messages,
        }[wire]()  # fmt: skip
        said = {"input": "hi"} if wire == "responses" else {"messages": SAID, "max_tokens": 50}
        async with resource.stream(model=model, **said) as stream:
            async for _ in stream:
                pass

    expected = anthropic.APIStatusError if wire == "messages" else openai.APIError
    async with CountingProxy(gate.port) as proxy, client_of(wire, proxy.url, key) as client:
        with pytest.raises(expected) as caught:
            await read(client)
    assert proxy.posts == 1
    message = said_in(caught.value) if wire == "messages" else str(caught.value)
    stands_alone(message, "Access withdrawn", "Ask your administrator")
    denied = await raw.call(gate.port, TARGETS[wire], body_for(wire), key=key)
    assert denied.status == 401  # and the client's next call finds the door shut
    intent = gate.records("access.intent")[-1]
    (outcome,) = await gate.recorded("access.outcome", request_id=intent["request_id"])
    assert (outcome["status"], outcome["reason"]) == ("policy_cut", "credential_withdrawn")
