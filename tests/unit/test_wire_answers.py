"""Whole answers, read in passing."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.facts import Wire
from gateway.wire.answers import AnswerFacts, Usage, read_answer


def read(wire, document):
    return read_answer(wire, json.dumps(document).encode())


def test_chat():
    facts = read(
        Wire.CHAT,
        {
            "id": "chatcmpl-1",
            "model": "served",
            "choices": [{"index": 0, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 4},
                "completion_tokens_details": {"reasoning_tokens": 2},
            },
        },
    )
    assert facts == AnswerFacts(Usage(10, 5, 4, 2), "served", "chatcmpl-1", "stop")


def test_messages_count_cache_reads_and_writes_as_input():
    facts = read(
        Wire.MESSAGES,
        {
            "id": "msg_1",
            "model": "served",
            "stop_reason": "refusal",
            "usage": {
                "input_tokens": 1,
                "cache_creation_input_tokens": 20,
                "cache_read_input_tokens": 300,
                "output_tokens": 7,
                "output_tokens_details": {"thinking_tokens": 3},
            },
        },
    )
    assert facts == AnswerFacts(Usage(321, 7, 300, 3), "served", "msg_1", "refusal")


def test_k18_the_model_that_really_answered_is_read_from_the_fallback_block():
    content = [
        {"type": "fallback", "from": {"model": "a"}, "to": {"model": "b"}},
        {"type": "fallback", "from": {"model": "b"}, "to": {"model": "c"}},
        {"type": "text", "text": "hi"},
    ]
    assert read(Wire.MESSAGES, {"model": "a", "content": content}).served_model == "c"


def test_responses():
    usage = {
        "input_tokens": 9,
        "output_tokens": 8,
        "input_tokens_details": {"cached_tokens": 1},
        "output_tokens_details": {"reasoning_tokens": 6},
    }
    document = {"id": "resp_1", "model": "served", "status": "incomplete", "error": None}
    facts = read(Wire.RESPONSES, {**document, "usage": usage})
    assert facts == AnswerFacts(Usage(9, 8, 1, 6), "served", "resp_1", "incomplete")


def test_embeddings_and_counting():
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    assert read(Wire.EMBEDDINGS, {"model": "e", "usage": usage}).usage == Usage(3)
    assert read(Wire.COUNT_TOKENS, {"input_tokens": 42}).usage is None


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"code": "cyber_policy", "type": "invalid_request_error"}, "cyber_policy"),
        ({"code": None, "type": "overloaded_error"}, "overloaded_error"),
        ({"code": 404}, "404"),
        ({"code": "spaces are no code"}, "error"),
        ({}, "error"),
    ],
)
def test_an_error_answer_is_known_by_its_code(error, code):
    facts = read(Wire.CHAT, {"error": error})
    assert (facts.finish, facts.error) == ("error", code)


@pytest.mark.parametrize(
    "usage", [None, [], "x", {}, {"total_tokens": 3}, {"prompt_tokens_details": {}}]
)
def test_usage_of_another_shape_is_no_usage(usage):
    assert read(Wire.CHAT, {"usage": usage}).usage is None


def test_counts_that_are_no_counts_are_zero():
    usage = {"prompt_tokens": -1, "completion_tokens": True, "prompt_tokens_details": [1]}
    assert read(Wire.CHAT, {"usage": usage}).usage == Usage()
    assert read(Wire.CHAT, {"usage": {"prompt_tokens": 1.5}}).usage == Usage()


_odd = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["usage", "content", "choices", "model", "id", "error", "type", "to", "status",
                 "stop_reason", "input_tokens", "prompt_tokens", "prompt_tokens_details"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=15,
)  # fmt: skip


@given(st.sampled_from(Wire), _odd)
def test_odd_answers_never_raise(wire, document):
    assert isinstance(read(wire, document), AnswerFacts)


@given(st.sampled_from(Wire), st.binary(max_size=30))
def test_broken_answers_never_raise(wire, body):
    assert isinstance(read_answer(wire, body), AnswerFacts)


def test_texts_are_bounded():
    facts = read(Wire.CHAT, {"model": "m" * 129, "id": "line\nbreak"})
    assert facts == AnswerFacts()
