"""A cut raises in the SDKs; a stream that merely stops does not (K38)."""

import json

import anthropic
import httpx2
import openai
import pytest

from gateway.core.facts import Wire
from gateway.core.reasons import Reason
from gateway.core.refusal import Refusal
from gateway.wire.cuts import cut_events
from gateway.wire.dialects import Dialect
from gateway.wire.sse import StreamReader

REVOKED = Refusal(
    Reason.ACCESS_WITHDRAWN, "Your key was revoked.", "Ask for a new one.", code="key_revoked",
    rule="credential.status", decision_id="dec_1",
)  # fmt: skip


def sse(document, event=None):
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {json.dumps(document)}\n\n".encode()


BEGUN = {
    Dialect.CHAT: sse({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [{"index": 0, "delta": {"content": "hel"}, "finish_reason": None}]}),
    Dialect.ANTHROPIC: sse({"type": "message_start", "message": {"id": "msg_1", "type": "message",
        "role": "assistant", "model": "m", "content": [], "stop_reason": None,
        "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}}}, "message_start"),
    Dialect.RESPONSES: sse({"type": "response.created", "sequence_number": 0, "response": {
        "id": "resp_1", "object": "response", "created_at": 1, "model": "m", "output": [],
        "status": "in_progress", "parallel_tool_calls": True, "tool_choice": "auto",
        "tools": []}}, "response.created"),
}  # fmt: skip


def read_stream(dialect, body):
    """What the SDK makes of a stream: the number of events, then its exception, if any."""

    def endpoint(_):
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    web = httpx2.Client(transport=httpx2.MockTransport(endpoint))
    if dialect is Dialect.ANTHROPIC:
        client = anthropic.Anthropic(api_key="k", base_url="http://gate", http_client=web)
        stream = client.messages.create(model="m", max_tokens=9, messages=[], stream=True)
    elif dialect is Dialect.CHAT:
        client = openai.OpenAI(api_key="k", base_url="http://gate/v1", http_client=web)
        stream = client.chat.completions.create(model="m", messages=[], stream=True)
    else:
        client = openai.OpenAI(api_key="k", base_url="http://gate/v1", http_client=web)
        stream = client.responses.create(model="m", input="hi", stream=True)
    return list(stream)


@pytest.mark.parametrize("dialect", BEGUN)
def test_k38_a_bare_end_reads_as_finished(dialect):
    """Negative control: why a cut has to say so."""
    assert len(read_stream(dialect, BEGUN[dialect])) == 1


@pytest.mark.parametrize("dialect", BEGUN)
@pytest.mark.parametrize("mid_event", [False, True])
def test_k38_a_cut_raises_with_our_words(dialect, mid_event):
    cut = cut_events(dialect, REVOKED, "req_1", response_id="resp_1", mid_event=mid_event)
    expected = anthropic.APIStatusError if dialect is Dialect.ANTHROPIC else openai.APIError
    if mid_event:
        expected = Exception  # the SDKs raise on the broken event already
        body = BEGUN[dialect] + b'data: {"half":"an eve' + cut
    else:
        body = BEGUN[dialect] + cut
    with pytest.raises(expected) as caught:
        read_stream(dialect, body)
    if not mid_event:
        assert "Your key was revoked." in str(caught.value)


def test_k38_the_responses_helper_raises_too():
    body = BEGUN[Dialect.RESPONSES] + cut_events(
        Dialect.RESPONSES, REVOKED, "req_1", response_id="resp_1", sequence=1
    )

    def endpoint(_):
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    web = httpx2.Client(transport=httpx2.MockTransport(endpoint))
    client = openai.OpenAI(api_key="k", base_url="http://gate/v1", http_client=web)
    with (
        pytest.raises(openai.APIError, match="revoked"),
        client.responses.stream(model="m", input="hi") as stream,
    ):
        for _ in stream:
            pass


def test_the_forms_of_a_cut():
    assert cut_events(Dialect.CHAT, REVOKED, "req_1") == (
        b'data: {"error":{"message":"Your key was revoked. Ask for a new one. [code=key_revoked '
        b'rule=credential.status decision=dec_1]","type":"permission_error","param":null,'
        b'"code":"key_revoked"}}\n\n'
    )
    messages = cut_events(Dialect.ANTHROPIC, REVOKED, "req_1")
    assert messages.startswith(b'event: error\ndata: {"type":"error","error":{"type":"permission')
    events = cut_events(
        Dialect.RESPONSES, REVOKED, "req_1", response_id="resp_9", model="m", sequence=7
    ).split(b"\n\n")
    failed, error = (json.loads(e.partition(b"data: ")[2]) for e in events[:2])
    assert (failed["type"], failed["sequence_number"]) == ("response.failed", 7)
    assert failed["response"]["id"] == "resp_9"
    assert failed["response"]["error"]["code"] == "invalid_prompt"
    assert (error["type"], error["sequence_number"]) == ("error", 8)
    assert error["code"] == error["error"]["code"] == "invalid_prompt"
    assert error["message"] == error["error"]["message"]
    assert events[2] == b""


@pytest.mark.parametrize(
    ("wire", "dialect"),
    [(Wire.CHAT, Dialect.CHAT), (Wire.MESSAGES, Dialect.ANTHROPIC),
     (Wire.RESPONSES, Dialect.RESPONSES)],
)  # fmt: skip
@pytest.mark.parametrize("reason", Reason)
def test_a_gateway_in_front_of_a_gateway_reads_our_cuts(wire, dialect, reason):
    reader = StreamReader(wire)
    reader.feed(cut_events(dialect, Refusal(reason, "m"), "req_1"))
    assert reader.ended
    assert reader.facts.finish in {"error", "failed"}
    assert reader.facts.error
