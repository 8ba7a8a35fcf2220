"""Anthropic's protocol: Messages, errors, and the list of models."""

from __future__ import annotations

from gateway.demo.practice.answer import MODEL, Answer, Json, Stream, event

__all__ = ["error", "message_stream", "message_whole", "models"]


def message_usage(answer: Answer, output_tokens: int) -> Json:
    """Usage as Messages reports it, first with one token and at the end with all."""
    return {
        "input_tokens": answer.input_words,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": output_tokens,
    }


def message_whole(answer: Answer) -> Json:
    """A ``message``."""
    return {
        "id": f"msg_{answer.mark}",
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": [{"type": "text", "text": answer.text, "citations": None}],
        "stop_reason": "max_tokens" if answer.cut else "end_turn",
        "stop_sequence": None,
        "stop_details": None,
        "usage": message_usage(answer, len(answer.pieces)),
    }


def message_stream(answer: Answer) -> Stream:
    """``message_start`` to ``message_stop``, with a ping as the vendor sends one."""
    whole = message_whole(answer)
    start = {**whole, "content": [], "stop_reason": None, "usage": message_usage(answer, 1)}
    ending = {key: whole[key] for key in ("stop_reason", "stop_sequence", "stop_details")}

    def named(name: str, **fields: object) -> bytes:
        return event({"type": name, **fields}, name=name)

    yield named("message_start", message=start), False
    yield named("content_block_start", index=0, content_block={"type": "text", "text": ""}), False
    yield named("ping"), False
    for piece in answer.pieces:
        delta = {"type": "text_delta", "text": piece}
        yield named("content_block_delta", index=0, delta=delta), True
    yield named("content_block_stop", index=0), False
    yield named("message_delta", delta=ending, usage=whole["usage"]), False
    yield named("message_stop"), False


def models() -> Json:
    """The one name this endpoint gives itself; it answers to every other as well."""
    entry = {
        "type": "model",
        "id": MODEL,
        "display_name": "Practice endpoint, no model",
        "created_at": "1970-01-01T00:00:00Z",
        "lifecycle": "active",
    }
    return {"data": [entry], "has_more": False, "first_id": MODEL, "last_id": MODEL}


def error(status: int, message: str) -> Json:
    """An error body."""
    kinds = {401: "authentication_error", 404: "not_found_error", 413: "request_too_large"}
    kind = kinds.get(status, "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": None}
