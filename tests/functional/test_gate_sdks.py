"""The vendors' own SDKs, unmodified, through the gate: every call they make, whole and streamed."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import anthropic
import openai
import pytest
import pytest_asyncio

from tests.support.gate import PROVIDER_KEY, running_gate
from tests.support.speaking import provider
from tests.support.upstream import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

SAID = [{"role": "user", "content": "hi"}]
OPENAI = {
    "newcomer": {"gpt-5.5", "text-embedding-4"},
    "blue": {"gpt-5.5", "text-embedding-4", "gpt-5.5-cyber", "glm-5.2"},
    "red": {"gpt-5.5", "text-embedding-4", "gpt-5.5-cyber", "glm-5.2"},
}
ANTHROPIC = {
    "newcomer": {"opus-4.8"},
    "blue": {"opus-4.8"},
    "red": {"opus-4.8", "fable-5", "mythos-5"},
}
"""What each member may call now: policies/data, read by hand."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream():
    server = Upstream(provider)
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gate(tmp_path_factory, upstream):
    async with running_gate(tmp_path_factory.mktemp("gate"), upstream.url) as running:
        await running.member("newcomer", 0)
        await running.member("blue", 2)
        await running.member("red", 3)
        await running.key("blue", "opted-in", scopes=["downgrade"])
        yield running


@asynccontextmanager
async def openai_client(gate, key: str):
    async with openai.AsyncOpenAI(
        base_url=f"{gate.url}/v1", api_key=gate.keys[key], max_retries=0
    ) as client:
        yield client


@asynccontextmanager
async def anthropic_client(gate, key: str):
    async with anthropic.AsyncAnthropic(
        base_url=gate.url, api_key=gate.keys[key], max_retries=0
    ) as client:
        yield client


# OpenAI


async def test_chat_whole(gate, upstream):
    async with openai_client(gate, "red-1") as client:
        answer = await client.chat.completions.create(model="gpt-5.5", messages=SAID)
    assert answer.choices[0].message.content == "hello there"
    assert answer.usage.total_tokens == 12
    sent = upstream.received[-1]
    assert sent.header("authorization") == [f"Bearer {PROVIDER_KEY}"]
    assert sent.header("x-stainless-lang") == ["python"]
    assert sent.target == "/v1/chat/completions"


async def test_chat_streamed(gate):
    async with openai_client(gate, "red-1") as client:
        stream = await client.chat.completions.create(model="gpt-5.5", messages=SAID, stream=True)
        words = [chunk.choices[0].delta.content async for chunk in stream]
    assert words == ["hello", "there", None]


async def test_chat_streamed_with_the_callers_own_usage_chunk(gate):
    async with openai_client(gate, "red-1") as client:
        stream = await client.chat.completions.create(
            model="gpt-5.5", messages=SAID, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert chunks[-1].usage.total_tokens == 12


async def test_chat_stream_helper(gate):
    async with (
        openai_client(gate, "red-1") as client,
        client.chat.completions.stream(model="gpt-5.5", messages=SAID) as stream,
    ):
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == "hellothere"


async def test_responses_whole(gate):
    async with openai_client(gate, "red-1") as client:
        answer = await client.responses.create(model="gpt-5.5", input="hi")
    assert answer.output_text == "hello there"
    assert answer.usage.total_tokens == 12


async def test_responses_streamed(gate):
    async with openai_client(gate, "red-1") as client:
        stream = await client.responses.create(model="gpt-5.5", input="hi", stream=True)
        kinds = [event.type async for event in stream]
    assert kinds[0] == "response.created"
    assert kinds.count("response.output_text.delta") == 2
    assert kinds[-1] == "response.completed"


async def test_responses_stream_helper(gate):
    async with (
        openai_client(gate, "red-1") as client,
        client.responses.stream(model="gpt-5.5", input="hi") as stream,
    ):
        final = await stream.get_final_response()
    assert final.output_text == "hello there"


async def test_embeddings(gate, upstream):
    async with openai_client(gate, "red-1") as client:
        answer = await client.embeddings.create(model="text-embedding-4", input="hi")
        plain = await client.embeddings.create(
            model="text-embedding-4", input=["hi"], encoding_format="float"
        )
    assert list(answer.data[0].embedding) == list(plain.data[0].embedding) == [0.25, -0.5]
    assert upstream.received[-1].target == "/v1/embeddings"


async def test_the_synchronous_clients(gate):
    def calls() -> tuple[str, str]:
        with openai.OpenAI(base_url=f"{gate.url}/v1", api_key=gate.keys["red-1"]) as client:
            chat = client.chat.completions.create(model="gpt-5.5", messages=SAID)
        with anthropic.Anthropic(base_url=gate.url, api_key=gate.keys["red-1"]) as client:
            message = client.messages.create(model="mythos-5", max_tokens=9, messages=SAID)
        return chat.choices[0].message.content, message.content[0].text

    assert await asyncio.to_thread(calls) == ("hello there", "hello there")


# Anthropic


async def test_messages_whole(gate, upstream):
    async with anthropic_client(gate, "red-1") as client:
        answer = await client.messages.create(model="mythos-5", max_tokens=50, messages=SAID)
    assert answer.content[0].text == "hello there"
    assert answer.usage.output_tokens == 5
    sent = upstream.received[-1]
    assert sent.header("x-api-key") == [PROVIDER_KEY]
    assert sent.header("authorization") == []
    assert len(sent.header("anthropic-version")) == 1


async def test_messages_streamed(gate):
    async with anthropic_client(gate, "red-1") as client:
        stream = await client.messages.create(
            model="mythos-5", max_tokens=50, messages=SAID, stream=True
        )
        kinds = [event.type async for event in stream]
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"


async def test_messages_stream_helper(gate):
    async with (
        anthropic_client(gate, "red-1") as client,
        client.messages.stream(model="mythos-5", max_tokens=50, messages=SAID) as stream,
    ):
        words = [word async for word in stream.text_stream]
        final = await stream.get_final_message()
    assert words == ["hello ", "there "]
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens == 5


async def test_a_beta_that_nobody_knows_yet_keeps_its_header(gate, upstream):
    async with anthropic_client(gate, "red-1") as client:
        await client.beta.messages.create(
            model="mythos-5", max_tokens=50, messages=SAID, betas=["a-beta-of-tomorrow-2027-01-01"]
        )
    assert upstream.received[-1].header("anthropic-beta") == ["a-beta-of-tomorrow-2027-01-01"]


async def test_count_tokens(gate, upstream):
    async with anthropic_client(gate, "red-1") as client:
        counted = await client.messages.count_tokens(model="mythos-5", messages=SAID)
    assert counted.input_tokens == 42
    assert upstream.received[-1].target == "/v1/messages/count_tokens"


# Models


@pytest.mark.parametrize("name", OPENAI)
async def test_the_openai_list_is_exactly_what_the_key_may_call(gate, upstream, name):
    before = len(upstream.received)
    async with openai_client(gate, f"{name}-1") as client:
        listed = {model.id async for model in client.models.list()}
        assert listed == OPENAI[name]
        for model in OPENAI["red"] | ANTHROPIC["red"] | {"fable-5.1", "opus-4.1"}:
            if model in listed:
                assert (await client.models.retrieve(model)).id == model
            else:
                with pytest.raises(openai.NotFoundError):
                    await client.models.retrieve(model)
    assert len(upstream.received) == before


@pytest.mark.parametrize("name", ANTHROPIC)
async def test_the_anthropic_list_is_exactly_what_the_key_may_call(gate, upstream, name):
    before = len(upstream.received)
    async with anthropic_client(gate, f"{name}-1") as client:
        listed = {model.id async for model in client.models.list()}
        assert listed == ANTHROPIC[name]
        for model in OPENAI["red"] | ANTHROPIC["red"] | {"fable-5.1", "opus-4.1"}:
            if model in listed:
                assert (await client.models.retrieve(model)).id == model
            else:
                with pytest.raises(anthropic.NotFoundError):
                    await client.models.retrieve(model)
    assert len(upstream.received) == before


@pytest.mark.parametrize("name", ["newcomer", "blue", "red"])
async def test_a_list_and_the_calls_agree(gate, name):
    """Every model of either list can be called, and no other model of the catalogue can."""
    async with anthropic_client(gate, f"{name}-1") as client:
        for model in ("mythos-5", "fable-5", "fable-5.1", "opus-4.8", "opus-4.1"):
            call = client.messages.create(model=model, max_tokens=9, messages=SAID)
            if model in ANTHROPIC[name]:
                await call
            else:
                with pytest.raises(anthropic.PermissionDeniedError):
                    await call
    async with openai_client(gate, f"{name}-1") as client:
        for model in ("gpt-5.5", "gpt-5.5-cyber", "glm-5.2", "gpt-rosalind"):
            call = client.chat.completions.create(model=model, messages=SAID)
            if model in OPENAI[name]:
                await call
            else:
                with pytest.raises(openai.PermissionDeniedError):
                    await call


# Downgrade


@pytest.mark.parametrize("stream", [False, True])
async def test_a_downgrade_serves_the_substitute_and_says_so(gate, upstream, stream):
    async with anthropic_client(gate, "opted-in") as client:
        raw = await client.messages.with_raw_response.create(
            model="fable-5", max_tokens=50, messages=SAID, stream=stream
        )
        answer = await raw.parse()
        if stream:
            models = [e.message.model async for e in answer if e.type == "message_start"]
            assert models == ["opus-4.8"]
        else:
            assert answer.model == "opus-4.8"
    assert raw.headers["x-sluicegate-effect"] == "downgrade"
    assert raw.headers["x-sluicegate-requested-model"] == "fable-5"
    assert raw.headers["x-sluicegate-served-model"] == "opus-4.8"
    assert upstream.received[-1].json()["model"] == "opus-4.8"
    decision_id = raw.headers["x-sluicegate-decision-id"]
    (intent,) = await gate.recorded("access.intent", decision_id=decision_id)
    assert intent["model"] == {
        "requested": "fable-5", "authorised": "opus-4.8", "endpoint": "anthropic",
    }  # fmt: skip
    assert intent["decision"]["effect"] == "downgrade"
    assert intent["request"]["edits"] == ["model"]
    sent = gate.digest("blue", upstream.received[-1].body)
    assert intent["request"]["forwarded_digest"] == sent
    async with anthropic_client(gate, "blue-1") as client:
        with pytest.raises(anthropic.PermissionDeniedError, match=r"opus-4\.8"):
            await client.messages.create(model="fable-5", max_tokens=50, messages=SAID)
