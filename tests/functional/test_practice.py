"""The practice endpoint, as the vendors' own SDKs read it."""

import hashlib
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import anthropic
import openai
import pytest
import uvicorn

from gateway.demo.practice import Practice

KEY = "provider-key-for-tests"
SAYS_SO = "practice endpoint and no model"
MESSAGES = [{"role": "user", "content": "count to three"}]


@dataclass
class Served:
    app: Practice
    url: str


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    app = Practice(KEY, 0)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, lifespan="off", log_level="error", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield Served(app, f"http://127.0.0.1:{listener.getsockname()[1]}")
    server.should_exit = True
    thread.join(10)
    listener.close()
    assert not thread.is_alive()


@pytest.fixture
def oai(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=KEY, base_url=f"{served.url}/v1", max_retries=0) as client:
        yield client


@pytest.fixture
def ant(served: Served) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(api_key=KEY, base_url=served.url, max_retries=0) as client:
        yield client


def post(served: Served, path: str, body: bytes, **headers: str) -> tuple[int, dict, dict]:
    sent = {"content-type": "application/json", "x-api-key": KEY}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(served.url + path, data=body, headers=sent)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, dict(answer.headers), json.load(answer)
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, dict(refusal.headers), json.load(refusal)


# -- OpenAI ----------------------------------------------------------------------------------------


def test_chat_whole(oai):
    answer = oai.chat.completions.create(model="gpt-x", messages=MESSAGES)
    text = answer.choices[0].message.content
    assert SAYS_SO in text
    assert "gpt-x" in text
    assert answer.model == "gpt-x"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == len(text.split())
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@pytest.mark.parametrize("asked", [True, False])
def test_chat_streamed_reports_usage_only_when_asked(oai, asked):
    options = {"stream_options": {"include_usage": True}} if asked else {}
    chunks = list(oai.chat.completions.create(model="m", messages=MESSAGES, stream=True, **options))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert SAYS_SO in text
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert [bool(c.usage) for c in chunks].count(True) == asked
    assert [not c.choices for c in chunks].count(True) == asked
    if asked:
        assert chunks[-1].usage.completion_tokens == len(text.split())


def test_chat_stream_helper_accumulates(oai):
    with oai.chat.completions.stream(model="m", messages=MESSAGES) as stream:
        for _ in stream:
            pass
        assert SAYS_SO in stream.get_final_completion().choices[0].message.content


def test_responses_whole(oai):
    answer = oai.responses.create(model="m", input="hello there", instructions="be brief")
    assert SAYS_SO in answer.output_text
    assert answer.status == "completed"
    assert answer.usage.input_tokens == 4
    assert answer.usage.output_tokens == len(answer.output_text.split())


def test_responses_streamed_in_the_vendors_order(oai):
    events = list(oai.responses.create(model="m", input=MESSAGES, stream=True))
    assert [e.sequence_number for e in events] == list(range(len(events)))
    kinds = [e.type.removeprefix("response.") for e in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert set(kinds[4:-4]) == {"output_text.delta"}
    assert kinds[-4:] == [
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    said = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert said == events[-1].response.output_text
    assert SAYS_SO in said


def test_responses_stream_helper_accumulates(oai):
    with oai.responses.stream(model="m", input="hi") as stream:
        for _ in stream:
            pass
        assert SAYS_SO in stream.get_final_response().output_text


def test_embeddings_in_both_encodings(oai):
    plain = oai.embeddings.create(model="m", input=["a", "b"], encoding_format="float")
    packed = oai.embeddings.create(model="m", input="a")
    assert [len(row.embedding) for row in plain.data] == [64, 64]
    assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-6)
    assert plain.data[0].embedding != plain.data[1].embedding
    assert packed.usage.prompt_tokens == 1


def test_models_on_both_wires(oai, ant):
    assert [model.id for model in oai.models.list()] == ["practice"]
    listed = list(ant.models.list())
    assert [model.id for model in listed] == ["practice"]
    assert listed[0].lifecycle == "active"


# -- Anthropic -------------------------------------------------------------------------------------


def test_messages_whole_and_counted(ant):
    answer = ant.messages.create(model="m", max_tokens=500, messages=MESSAGES, system="you are")
    counted = ant.messages.count_tokens(model="m", messages=MESSAGES, system="you are")
    assert SAYS_SO in answer.content[0].text
    assert answer.stop_reason == "end_turn"
    assert answer.usage.input_tokens == counted.input_tokens
    assert answer.usage.output_tokens == len(answer.content[0].text.split())


def test_messages_streamed_with_a_ping(served, ant):
    with ant.messages.stream(model="m", max_tokens=500, messages=MESSAGES) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert SAYS_SO in final.content[0].text
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens == len(final.content[0].text.split())
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    body = json.dumps({"model": "m", "messages": MESSAGES, "stream": True}).encode()
    request = urllib.request.Request(
        f"{served.url}/v1/messages?beta=true", data=body, headers={"x-api-key": KEY}
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        raw = answer.read()
    named = [line[7:] for line in raw.decode().splitlines() if line.startswith("event: ")]
    assert named[:3] == ["message_start", "content_block_start", "ping"]
    assert named[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_what_agents_send_beside_the_question_is_ignored(ant, oai):
    tool = {"name": "Bash", "description": "runs", "input_schema": {"type": "object"}}
    answer = ant.beta.messages.create(
        model="m",
        max_tokens=128000,
        messages=[{"role": "user", "content": [{"type": "text", "text": "fix the tests"}]}],
        system=[{"type": "text", "text": "agent", "cache_control": {"type": "ephemeral"}}],
        tools=[tool],
        thinking={"type": "enabled", "budget_tokens": 4000},
        metadata={"user_id": "u"},
        extra_body={"context_management": {"edits": []}, "output_config": {}},
        timeout=5,
    )
    assert answer.content[0].type == "text"
    function = {"type": "function", "name": "shell", "parameters": {}, "strict": False}
    items = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]}]
    reply = oai.responses.create(model="m", input=items, tools=[function], store=False)
    assert SAYS_SO in reply.output_text


# -- limits of an answer ---------------------------------------------------------------------------


def test_an_answer_cut_short_says_so_on_every_wire(oai, ant):
    chat = oai.chat.completions.create(model="m", messages=MESSAGES, max_tokens=3)
    assert chat.choices[0].finish_reason == "length"
    assert chat.usage.completion_tokens == 3
    response = oai.responses.create(model="m", input="hi", max_output_tokens=3)
    assert (response.status, response.incomplete_details.reason) == (
        "incomplete",
        "max_output_tokens",
    )
    streamed = list(oai.responses.create(model="m", input="hi", max_output_tokens=3, stream=True))
    assert streamed[-1].type == "response.incomplete"
    message = ant.messages.create(model="m", max_tokens=3, messages=MESSAGES)
    assert message.stop_reason == "max_tokens"


def test_slowly_makes_a_long_answer(ant):
    asked = [{"role": "user", "content": "an early turn"}, *MESSAGES]
    asked[-1] = {"role": "user", "content": [{"type": "text", "text": "Write it SLOWLY."}]}
    answer = ant.messages.create(model="m", max_tokens=5000, messages=asked, timeout=5)
    assert 550 <= answer.usage.output_tokens <= 650
    assert "practice endpoint, no model" in answer.content[0].text


def test_nothing_the_caller_wrote_is_repeated(served):
    canary = "canary-58213"
    for path, field in (("chat/completions", "messages"), ("responses", "input")):
        turns = [{"role": "user", "content": canary}]
        body = json.dumps({"model": "m", field: turns, "user": canary, "stream": False})
        status, headers, answer = post(served, f"/v1/{path}", body.encode())
        assert status == 200
        assert canary not in json.dumps([headers, answer])


def test_a_client_who_leaves_stops_the_answer():
    paced = Practice(KEY, 20)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(paced, lifespan="off", log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        with openai.OpenAI(api_key=KEY, base_url=url, max_retries=0) as client:
            stream = client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
            next(iter(stream))
            assert paced.stopped == 0
            stream.close()
        deadline = time.monotonic() + 5
        while paced.stopped == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert paced.stopped == 1
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


# -- refusals --------------------------------------------------------------------------------------


def test_the_provider_key_is_required_in_either_header(served, oai, ant):
    with pytest.raises(openai.AuthenticationError, match="provider key"):
        oai.with_options(api_key="wrong").chat.completions.create(model="m", messages=MESSAGES)
    with pytest.raises(anthropic.AuthenticationError, match="provider key"):
        ant.with_options(api_key="wrong").messages.create(
            model="m", max_tokens=9, messages=MESSAGES
        )
    assert post(served, "/v1/embeddings", b'{"model":"m","input":"x"}')[0] == 200
    bearer = {"x_api_key": "", "authorization": f"Bearer {KEY}"}
    assert post(served, "/v1/embeddings", b'{"model":"m","input":"x"}', **bearer)[0] == 200
    assert post(served, "/v1/embeddings", b"{}", x_api_key="")[0] == 401


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"\xff", b"{}", b'{"model": 1}', b'{"model": "m"}', b"[" * 100_000],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
def test_an_unreadable_body_is_a_400_of_the_wire(served, path, body):
    status, _, answer = post(served, path, body)
    assert status == 400
    assert (answer.get("type") == "error") is (path == "/v1/messages")
    assert answer["error"]["type"] == "invalid_request_error"


def test_other_paths_are_404_and_every_answer_tells_the_digest(served):
    status, headers, answer = post(served, "/v1/files", b"abc")
    assert status == 404
    assert "POST /v1/files" in answer["error"]["message"]
    assert headers["x-practice-body-sha256"] == hashlib.sha256(b"abc").hexdigest()


# -- as a process ----------------------------------------------------------------------------------


def test_it_runs_as_a_process_of_its_own_and_stops_on_a_signal(tmp_path):
    key_file = tmp_path / "key"
    key_file.write_text(f"{KEY}\n")
    command = [sys.executable, "-m", "gateway.demo.practice", "--port", "0", "--key-file"]
    with subprocess.Popen([*command, str(key_file)], stdout=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().split()[-1]
            with openai.OpenAI(api_key=KEY, base_url=f"{url}/v1", max_retries=0) as client:
                assert [model.id for model in client.models.list()] == ["practice"]
        finally:
            process.terminate()
            process.wait(10)
    key_file.write_text("\n")
    refused = subprocess.run([*command, str(key_file)], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "the key file is empty" in refused.stderr


def test_it_shares_no_code_with_the_gateway():
    code = (
        "import sys, gateway.demo.practice; print([m for m in sys.modules"
        " if m.startswith('gateway.') and not m.startswith('gateway.demo')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
