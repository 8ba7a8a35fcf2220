"""OpenAI's protocols: Chat Completions, Responses, Embeddings, errors, and the list of models."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import sys
import time
from http import HTTPStatus

from gateway.demo.practice.answer import MODEL, Answer, Json, Stream, Unreadable, count_words, event

__all__ = [
    "chat_stream",
    "chat_whole",
    "embeddings",
    "error",
    "models",
    "response_stream",
    "response_whole",
]

WIDTHS = range(1, 4097)

# -- OpenAI Chat Completions -----------------------------------------------------------------------


def chat_usage(answer: Answer) -> Json:
    """Usage as Chat Completions reports it."""
    return {
        "prompt_tokens": answer.input_words,
        "completion_tokens": len(answer.pieces),
        "total_tokens": answer.input_words + len(answer.pieces),
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def chat_frame(answer: Answer, kind: str, choices: list[Json]) -> Json:
    """What a whole completion and each chunk have in common."""
    return {
        "id": f"chatcmpl-{answer.mark}",
        "object": kind,
        "created": answer.created,
        "model": answer.model,
        "service_tier": "default",
        "system_fingerprint": "fp_practice",
        "choices": choices,
    }


def chat_whole(answer: Answer) -> Json:
    """A ``chat.completion``."""
    choice = {
        "index": 0,
        "message": {
            "role": "assistant",
            "content": answer.text,
            "refusal": None,
            "annotations": [],
        },
        "logprobs": None,
        "finish_reason": "length" if answer.cut else "stop",
    }
    return {**chat_frame(answer, "chat.completion", [choice]), "usage": chat_usage(answer)}


def chat_stream(answer: Answer) -> Stream:
    """``chat.completion.chunk`` events, the usage chunk if it was asked for, and ``[DONE]``."""
    unused = {"usage": None} if answer.usage_chunk else {}

    def chunk(delta: Json, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return event({**chat_frame(answer, "chat.completion.chunk", [choice]), **unused})

    yield chunk({"role": "assistant", "content": "", "refusal": None}), False
    for piece in answer.pieces:
        yield chunk({"content": piece}), True
    yield chunk({}, "length" if answer.cut else "stop"), False
    if answer.usage_chunk:
        last = chat_frame(answer, "chat.completion.chunk", [])
        yield event({**last, "usage": chat_usage(answer)}), False
    yield b"data: [DONE]\n\n", False


# -- OpenAI Responses ------------------------------------------------------------------------------


def response_item(answer: Answer, status: str, text: str) -> Json:
    """The one output message."""
    return {
        "id": f"msg_{answer.mark}",
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}],
    }


def response_object(answer: Answer, status: str, output: list[Json]) -> Json:
    """A ``response`` in one of its states; usage comes with the last one."""
    running = status == "in_progress"
    return {
        "id": f"resp_{answer.mark}",
        "object": "response",
        "created_at": answer.created,
        "completed_at": None if running else int(time.time()),
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": None,
        "max_output_tokens": None,
        "metadata": {},
        "model": answer.model,
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None
        if running
        else {
            "input_tokens": answer.input_words,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": len(answer.pieces),
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": answer.input_words + len(answer.pieces),
        },
    }


def response_whole(answer: Answer) -> Json:
    """A finished ``response``."""
    status = "incomplete" if answer.cut else "completed"
    return response_object(answer, status, [response_item(answer, status, answer.text)])


def response_stream(answer: Answer) -> Stream:
    """The events of one message, numbered from 0; the last one carries the whole response."""
    numbers = iter(range(sys.maxsize))
    at = {"item_id": f"msg_{answer.mark}", "output_index": 0, "content_index": 0}
    started = response_object(answer, "in_progress", [])
    finished = response_whole(answer)
    empty = {**response_item(answer, "in_progress", ""), "content": []}
    item = finished["output"][0]
    part = item["content"][0]

    def numbered(name: str, **fields: object) -> bytes:
        kind = f"response.{name}"
        return event({"type": kind, "sequence_number": next(numbers), **fields}, name=kind)

    yield numbered("created", response=started), False
    yield numbered("in_progress", response=started), False
    yield numbered("output_item.added", output_index=0, item=empty), False
    yield numbered("content_part.added", **at, part={**part, "text": ""}), False
    for piece in answer.pieces:
        yield numbered("output_text.delta", **at, delta=piece, logprobs=[]), True
    yield numbered("output_text.done", **at, text=answer.text, logprobs=[]), False
    yield numbered("content_part.done", **at, part=part), False
    yield numbered("output_item.done", output_index=0, item=item), False
    yield numbered(finished["status"], response=finished), False


def embeddings(body: Json) -> Json:
    """Unit-free vectors out of a hash: equal inputs have equal ones, and that is all they mean."""
    given = body.get("input")
    if not isinstance(given, str | list) or not given:
        raise Unreadable("the body has no input")
    one = isinstance(given, str) or isinstance(given[0], int)
    inputs = [given] if one else given
    width = body.get("dimensions", 64)
    if width not in WIDTHS:
        raise Unreadable("dimensions must be 1 to 4096")

    def vector(value: object) -> list[float]:
        noise = hashlib.shake_256(json.dumps(value).encode()).digest(width)
        return [byte / 127.5 - 1 for byte in noise]

    def encoded(values: list[float]) -> list[float] | str:
        if body.get("encoding_format") != "base64":
            return values
        return base64.b64encode(struct.pack(f"<{width}f", *values)).decode()

    rows = [
        {"object": "embedding", "index": index, "embedding": encoded(vector(value))}
        for index, value in enumerate(inputs)
    ]
    words = count_words(given)
    usage = {"prompt_tokens": words, "total_tokens": words}
    return {"object": "list", "data": rows, "model": body["model"], "usage": usage}


def models() -> Json:
    """The one name this endpoint gives itself; it answers to every other as well."""
    entry = {"id": MODEL, "object": "model", "created": 0, "owned_by": "sluicegate"}
    return {"object": "list", "data": [entry]}


def error(status: int, message: str) -> Json:
    """An error body."""
    code = "invalid_api_key" if status == HTTPStatus.UNAUTHORIZED else None
    kind = "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
