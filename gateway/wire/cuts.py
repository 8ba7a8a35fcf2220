"""How a stream that must not go on is ended so that the client raises, in each dialect.

A stream that simply stops reads as a finished answer in every SDK, so a cut always says so (K38):

* **Chat**: one ``data:`` chunk with an ``error`` object and no ``[DONE]``; then a clean end.
* **Messages**: ``event: error``; then a clean end.
* **Responses**: ``response.failed`` *and then* ``error`` whose data has the fields both flat and
  nested. SDKs swallow the first, some swallow a flat second; Codex heeds the first alone and stops
  retrying for the codes that ``errors`` uses for denials.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.core.refusal import Refusal
from gateway.wire.dialects import Dialect
from gateway.wire.errors import error_body

__all__ = ["cut_events"]


def cut_events(
    dialect: Dialect,
    refusal: Refusal,
    request_id: str,
    *,
    response_id: str = "",
    model: str = "",
    created_at: int = 0,
    sequence: int = 0,
    mid_event: bool = False,
    appeal: str = "",
) -> bytes:
    """The bytes that end a stream.

    Args:
        dialect: of the stream.
        refusal: why it ends.
        request_id: ours.
        response_id: the upstream's response id, if the client has seen one (Responses).
        model: the served model, if the client has seen one (Responses).
        created_at: Unix seconds (Responses).
        sequence: the next ``sequence_number`` (Responses).
        mid_event: the client holds part of an event, which is closed first so that ours can be
            read; what it holds is no JSON then, and that raises too.
        appeal: as in ``errors.answer``.
    """
    body = error_body(dialect, refusal, request_id, appeal=appeal)
    opening = b"\n\n" if mid_event else b""
    if dialect is Dialect.ANTHROPIC:
        return opening + _event("error", body)
    if dialect is not Dialect.RESPONSES:
        return opening + b"data: " + msgspec.json.encode(body) + b"\n\n"
    error = body["error"]
    failed = {
        "type": "response.failed",
        "sequence_number": sequence,
        "response": {
            "id": response_id or f"resp_{request_id}",
            "object": "response",
            "created_at": created_at,
            "status": "failed",
            "error": {"code": error["code"], "message": error["message"]},
            "incomplete_details": None,
            "instructions": None,
            "metadata": {},
            "model": model,
            "output": [],
            "parallel_tool_calls": False,
            "tool_choice": "auto",
            "tools": [],
            "usage": None,
        },
    }
    flat = {
        "type": "error",
        "sequence_number": sequence + 1,
        "code": error["code"],
        "message": error["message"],
        "param": None,
        "error": error,
    }
    return opening + _event("response.failed", failed) + _event("error", flat)


def _event(name: str, data: dict[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"
