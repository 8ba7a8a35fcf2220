"""Streams: byte for byte, event by event, the terminal event apart (K18, K42, K43)."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.facts import Wire
from gateway.wire.answers import Usage
from gateway.wire.sse import EVENT_CAP, TERMINAL_CAP, StreamReader


def data(document, event=None, end="\n"):
    lines = [f"event: {event}"] if event else []
    lines.append(f"data: {json.dumps(document)}")
    return (end.join([*lines, "", ""])).encode()


def chat(end="\n"):
    base = {"id": "chatcmpl-1", "model": "served", "object": "chat.completion.chunk"}
    return [
        f": hello{end}".encode(),
        data({**base, "choices": [{"delta": {"content": "a"}, "finish_reason": None}]}, end=end),
        data({**base, "choices": [{"delta": {}, "finish_reason": "stop"}]}, end=end),
        data({**base, "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
             end=end),
        f"data: [DONE]{end}{end}".encode(),
    ]  # fmt: skip


def messages(end="\n"):
    start = {"id": "msg_1", "model": "asked", "usage": {"input_tokens": 5, "output_tokens": 1,
             "cache_read_input_tokens": 10}}  # fmt: skip
    fallback = {"type": "fallback", "from": {"model": "asked"}, "to": {"model": "served"}}
    delta = {"type": "message_delta", "delta": {"stop_reason": "refusal", "stop_details": {
        "type": "refusal", "category": "cyber"}}, "usage": {"output_tokens": 9}}  # fmt: skip
    return [
        data({"type": "message_start", "message": start}, "message_start", end),
        data({"type": "ping"}, "ping", end),
        data(
            {"type": "content_block_start", "content_block": fallback}, "content_block_start", end
        ),
        f": keep-alive{end}".encode(),
        data(delta, "message_delta", end),
        data({"type": "message_stop"}, "message_stop", end),
    ]


def responses(end="\n"):
    usage = {
        "input_tokens": 4,
        "output_tokens": 6,
        "output_tokens_details": {"reasoning_tokens": 1},
    }
    response = {"id": "resp_1", "model": "served", "status": "completed", "usage": usage}
    created = {
        "type": "response.created",
        "sequence_number": 0,
        "response": {"id": "resp_1", "model": "served"},
    }
    notice = {"type": "response.metadata", "openai_verification_recommendation": ["x"]}
    done = {"type": "response.completed", "response": response}
    return [
        data(created, "response.created", end),
        data(notice, "response.metadata", end),
        data({"type": "response.output_text.delta", "delta": "é"}, None, end),
        data(done, "response.completed", end),
        f"data: [DONE]{end}{end}".encode(),  # some servers add it; it belongs to the end
    ]


STREAMS = {
    "chat": (Wire.CHAT, chat, 4),
    "messages": (Wire.MESSAGES, messages, 5),
    "responses": (Wire.RESPONSES, responses, 3),
}


def run(wire, chunks, **options):
    reader = StreamReader(wire, **options)
    forward, terminal = [], []
    for chunk in chunks:
        relay = reader.feed(chunk)
        forward.append(relay.forward)
        terminal.append(relay.terminal)
    return reader, b"".join(forward), b"".join(terminal), reader.finish()


@pytest.mark.parametrize(
    "prefix", [b"", b"\xef\xbb\xbf", b"\n\n", b": c\n\n", b"id: 7\nretry: 3\n\n"]
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", STREAMS)
def test_every_cut_in_two_gives_the_same(name, end, prefix):
    wire, events, last = STREAMS[name]
    parts = events(end)
    stream = prefix + b"".join(parts)
    whole = run(wire, [stream])
    held_back = b"".join(parts[last:])
    assert whole[1:] == (stream.removesuffix(held_back), held_back, b"")
    assert whole[0].terminal_seen
    for cut in range(len(stream) + 1):
        reader, forward, terminal, left = run(wire, [stream[:cut], stream[cut:]])
        # A line feed that a cut tore from its carriage return may travel with either side.
        assert forward + terminal == stream
        assert left == b""
        assert terminal.lstrip(b"\n") == held_back.lstrip(b"\n")
        assert reader.facts == whole[0].facts


@pytest.mark.parametrize("name", STREAMS)
def test_byte_by_byte(name):
    wire, events, last = STREAMS[name]
    stream = b"".join(events())
    reader, forward, terminal, left = run(wire, [bytes([b]) for b in stream])
    assert forward + terminal + left == stream
    assert terminal == b"".join(events()[last:])
    assert reader.ended


_lines = st.sampled_from(
    [b"", b"", b": c", b"data: {}", b"data", b"data: [DONE]", b"event: error", b"event:x", b"id: 1",
     b"\xef\xbb\xbf", b"\xff\xfe", b'data: {"choices":[],"usage":{}}', b'data: {"type":',
     b"event: message_stop", b'data: {"type":"response.failed"}', b"junk"]
)  # fmt: skip


@given(
    st.sampled_from([Wire.CHAT, Wire.MESSAGES, Wire.RESPONSES]),
    st.lists(st.tuples(_lines, st.sampled_from([b"\n", b"\r\n", b"\r", b""])), max_size=25),
    st.randoms(use_true_random=False),
)
def test_random_streams_in_random_pieces_keep_every_byte(wire, lines, dice):
    stream = b"".join(line + end for line, end in lines)
    chunks, rest = [], stream
    while rest:
        size = dice.randint(0, min(len(rest), 12))
        chunks.append(rest[:size])
        rest = rest[size:]
    reader, forward, terminal, left = run(wire, chunks)
    assert forward + terminal + left == stream
    assert reader.terminal_seen or not terminal
    once = run(wire, [stream])
    assert (forward + terminal, left) == (once[1] + once[2], once[3])
    assert reader.facts == once[0].facts


def test_chat_facts():
    reader, *_ = run(Wire.CHAT, chat())
    facts = reader.facts
    assert facts.usage == Usage(3, 2)
    assert (facts.served_model, facts.upstream_id, facts.finish) == ("served", "chatcmpl-1", "stop")


def test_k18_messages_facts_show_refusal_and_fallback():
    reader, forward, terminal, _ = run(Wire.MESSAGES, messages())
    facts = reader.facts
    assert facts.usage == Usage(15, 9, 10)
    assert (facts.served_model, facts.finish) == ("served", "refusal")
    assert forward + terminal == b"".join(messages())


def test_k18_responses_facts_and_notices():
    reader, forward, terminal, _ = run(Wire.RESPONSES, responses())
    facts = reader.facts
    assert facts.usage == Usage(4, 6, 0, 1)
    assert (facts.served_model, facts.upstream_id, facts.finish) == (
        "served",
        "resp_1",
        "completed",
    )
    assert reader.next_sequence == 1
    assert b"openai_verification_recommendation" in forward
    assert forward + terminal == b"".join(responses())


@pytest.mark.parametrize("kind", ["completed", "failed", "incomplete"])
@pytest.mark.parametrize("named", ["event", "type", "both", "disagree"])
def test_a_responses_stream_ends_by_event_name_or_type(kind, named):
    terminal = f"response.{kind}"
    document = {"type": terminal, "response": {"status": kind}} if named != "event" else {}
    name = {"event": terminal, "both": terminal, "disagree": "message"}.get(named)
    event = data(document, name)
    reader, forward, held, _ = run(Wire.RESPONSES, [event])
    assert (forward, held) == (b"", event)
    assert reader.terminal_seen


def test_everything_after_the_terminal_event_waits_too():
    reader = StreamReader(Wire.CHAT)
    assert reader.feed(b"data: [DONE]\n\n: bye\n") == (b"", b"data: [DONE]\n\n: bye\n")
    assert reader.feed(b"data: more\n\n") == (b"", b"data: more\n\n")


def test_done_is_no_end_of_other_wires():
    for wire in (Wire.MESSAGES, Wire.RESPONSES):
        reader, forward, terminal, _ = run(wire, [b"data: [DONE]\n\n"])
        assert (forward, terminal) == (b"data: [DONE]\n\n", b"")
        assert not reader.ended


@pytest.mark.parametrize("left", [b"data: [DONE]", b"data: [DONE]\n", b"data: [DONE]\r\n"])
def test_an_end_without_its_blank_line_is_an_end(left):
    reader, forward, terminal, rest = run(Wire.CHAT, [left])
    assert (forward, terminal, rest) == (b"", b"", left)
    assert reader.ended


def test_an_incomplete_event_is_held_and_comments_are_not():
    reader = StreamReader(Wire.CHAT)
    assert reader.feed(b": ping\n").forward == b": ping\n"
    assert reader.feed(b": pi").forward == b""
    assert reader.feed(b"ng\n\n").forward == b": ping\n\n"
    assert reader.feed(b'data: {"a":1}\n').forward == b""
    assert not reader.mid_event
    assert reader.feed(b"\ndata: {").forward == b'data: {"a":1}\n\n'
    assert reader.finish() == b"data: {"


def test_the_usage_chunk_we_asked_for_is_taken_out_again():
    parts = chat()
    reader, forward, terminal, _ = run(Wire.CHAT, [b"".join(parts)], strip_usage_chunk=True)
    assert forward == b"".join(parts[:3])
    assert terminal == parts[4]
    assert reader.facts.usage == Usage(3, 2)


def test_only_the_usage_chunk_is_taken_out():
    kept = [
        data({"choices": [], "prompt_filter_results": []}),
        data({"choices": [], "usage": None}),
        data({"choices": [{"delta": {}}], "usage": {"prompt_tokens": 1}}),
        data({"usage": {"prompt_tokens": 1}}),
    ]
    for part in kept:
        assert run(Wire.CHAT, [part], strip_usage_chunk=True)[1] == part


@pytest.mark.parametrize(
    ("wire", "event", "code"),
    [
        (Wire.CHAT, data({"error": {"code": "server_error"}}), "server_error"),
        (Wire.MESSAGES, data({"type": "error", "error": {"type": "overloaded_error"}}, "error"),
         "overloaded_error"),
        (Wire.MESSAGES, b"event: error\ndata: not json\n\n", "error"),
        (Wire.RESPONSES, data({"type": "error", "code": "rate_limit_exceeded"}, "error"),
         "rate_limit_exceeded"),
        (Wire.RESPONSES, data({"type": "response.failed", "response": {"status": "failed",
            "error": {"code": "cyber_policy"}}}), "cyber_policy"),
    ],
)  # fmt: skip
def test_k42_the_upstreams_own_error_is_a_finish_and_passes(wire, event, code):
    reader, forward, terminal, _ = run(wire, [event])
    assert reader.facts.error == code
    assert reader.ended
    assert forward + terminal == event


def test_k42_a_stream_that_stops_short_has_not_ended():
    for wire, events, last in STREAMS.values():
        stream = b"".join(events()[: last + 1])
        for cut in range(len(stream) + 1):
            reader, *_ = run(wire, [stream[:cut]])
            # The terminal event's blank line may be missing, none of its data.
            assert reader.ended == (cut >= len(stream.rstrip()))


def test_cumulative_usage_never_falls():
    counts = [{"prompt_tokens": 5, "completion_tokens": n} for n in (1, 3, 2)]
    reader, *_ = run(Wire.CHAT, [data({"choices": [{}], "usage": usage}) for usage in counts])
    assert reader.facts.usage == Usage(5, 3)


def _pieces(stream, size=16_384):
    return [stream[i : i + size] for i in range(0, len(stream), size)]


def test_an_event_too_large_to_hold_passes_as_it_comes():
    big = data({"choices": [{"delta": {"content": "x" * (EVENT_CAP + 100_000)}}]}, end="\r\n")
    stream = chat()[1] + big + chat()[4]
    reader = StreamReader(Wire.CHAT)
    forwarded, was_mid_event, longest = b"", False, 0
    for piece in _pieces(stream):
        relay = reader.feed(piece)
        forwarded += relay.forward
        was_mid_event |= reader.mid_event
        longest = max(longest, len(relay.forward))
    assert was_mid_event
    assert longest < EVENT_CAP + 20_000
    assert not reader.mid_event
    assert forwarded == chat()[1] + big
    assert relay.terminal == chat()[4]


@pytest.mark.parametrize("named", ["response.completed", None])
def test_a_large_terminal_event_is_still_held(named):
    usage = {"input_tokens": 1, "output_tokens": 2}
    response = {"output": "x" * (EVENT_CAP * 2), "status": "completed", "usage": usage}
    event = data({"type": "response.completed", "response": response}, named)
    reader, forward, terminal, _ = run(Wire.RESPONSES, _pieces(responses()[0] + event))
    assert forward == responses()[0]
    assert terminal == event
    assert reader.facts.usage == Usage(1, 2)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_of_a_huge_terminal_event_the_blank_line_is_held(end):
    response = {"output": "x" * (TERMINAL_CAP + 2_000_000), "status": "completed"}
    event = data({"type": "response.completed", "response": response}, "response.completed", end)
    pieces = _pieces(event, 1_000_003)
    reader, forward, terminal, _ = run(Wire.RESPONSES, pieces)
    assert terminal == 2 * end.encode()
    assert forward + terminal == event
    assert reader.terminal_seen
    assert not reader.mid_event


def test_many_events_in_few_reads_keep_their_order():
    dice = random.Random(7)
    stream = b"".join(data({"choices": [{"delta": {"content": str(n)}}]}) for n in range(2_000))
    chunks, position = [], 0
    while position < len(stream):
        size = dice.randint(1, 5_000)
        chunks.append(stream[position : position + size])
        position += size
    _, forward, terminal, left = run(Wire.CHAT, chunks)
    assert (forward, terminal, left) == (stream, b"", b"")
