"""What an upstream's answer says about itself: usage, served model, id and how it ended.

Answers travel on byte for byte; this is read in passing and never fails: what is missing or odd
is ``None`` or empty. Texts are the upstream's and are bounded, so that they can be recorded.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
from msgspec import Struct

from gateway.core.facts import Wire

__all__ = ["AnswerFacts", "Usage", "error_code", "read_answer", "read_usage", "short"]

_MAX_TEXT: Final = 128
_CODE: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}\Z")


class Usage(Struct, frozen=True):
    """Tokens as the provider counted them.

    ``input_tokens`` is all input: on the Messages wire that is ``input_tokens`` plus cache
    writes plus cache reads. ``cached_tokens`` is the part of it read from a cache,
    ``reasoning_tokens`` the part of ``output_tokens`` that was reasoning.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    def widened(self, later: Usage) -> Usage:
        """The larger of each count: stream counts are cumulative and never fall."""
        return Usage(
            max(self.input_tokens, later.input_tokens),
            max(self.output_tokens, later.output_tokens),
            max(self.cached_tokens, later.cached_tokens),
            max(self.reasoning_tokens, later.reasoning_tokens),
        )


class AnswerFacts(Struct, frozen=True):
    """``usage`` is ``None`` where the answer tells none.

    ``finish`` is the provider's own word (``stop``, ``end_turn``, ``refusal``, ``completed``, …);
    for an answer that is an error it is ``error`` and ``error`` holds its code or type.
    """

    usage: Usage | None = None
    served_model: str = ""
    upstream_id: str = ""
    finish: str = ""
    error: str = ""


def short(value: Any) -> str:
    """An upstream's text, if it is printable and of sane length; else empty."""
    if isinstance(value, str) and len(value) <= _MAX_TEXT and value.isprintable():
        return value
    return ""


def error_code(error: Any) -> str:
    """A label for an upstream's error object: its ``code``, else its ``type``, else ``error``."""
    if type(error) is dict:
        for name in ("code", "type"):
            value = error.get(name)
            if isinstance(value, int) and not isinstance(value, bool):
                value = str(value)
            if isinstance(value, str) and _CODE.match(value):
                return value
    return "error"


def read_usage(wire: Wire, usage: Any) -> Usage | None:
    """A usage object of this wire, or ``None`` if it is not one."""
    if type(usage) is not dict:
        return None
    if wire in (Wire.CHAT, Wire.EMBEDDINGS):
        counted = "prompt_tokens" in usage or "completion_tokens" in usage
        return (
            Usage(
                _count(usage, "prompt_tokens"),
                _count(usage, "completion_tokens"),
                _count(usage.get("prompt_tokens_details"), "cached_tokens"),
                _count(usage.get("completion_tokens_details"), "reasoning_tokens"),
            )
            if counted
            else None
        )
    if "input_tokens" not in usage and "output_tokens" not in usage:
        return None
    details = usage.get("output_tokens_details")
    if wire is Wire.RESPONSES:
        return Usage(
            _count(usage, "input_tokens"),
            _count(usage, "output_tokens"),
            _count(usage.get("input_tokens_details"), "cached_tokens"),
            _count(details, "reasoning_tokens"),
        )
    read = _count(usage, "cache_read_input_tokens")
    written = _count(usage, "cache_creation_input_tokens")
    return Usage(
        _count(usage, "input_tokens") + written + read,
        _count(usage, "output_tokens"),
        read,
        _count(details, "thinking_tokens") or _count(details, "reasoning_tokens"),
    )


def read_answer(wire: Wire, body: bytes) -> AnswerFacts:
    """The facts of a whole (not streamed) answer; of an error answer, its code. Never raises."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return AnswerFacts()
    if not isinstance(document, dict):
        return AnswerFacts()
    if isinstance(document.get("error"), dict):
        return AnswerFacts(
            usage=read_usage(wire, document.get("usage")),
            served_model=short(document.get("model")),
            upstream_id=short(document.get("id")),
            finish="error",
            error=error_code(document["error"]),
        )
    return AnswerFacts(
        usage=None if wire is Wire.COUNT_TOKENS else read_usage(wire, document.get("usage")),
        served_model=served_by(document),
        upstream_id=short(document.get("id")),
        finish=_finish(wire, document),
    )


def served_by(message: dict[str, Any]) -> str:
    """The model that answered: the last ``fallback`` block's target, else ``model``.

    Server-side fallback on the Messages wire marks each hop by a content block
    ``{"type": "fallback", "from": …, "to": {"model": …}}``.
    """
    content = message.get("content")
    for block in reversed(content) if isinstance(content, list) else ():
        if hop := fallback_target(block):
            return hop
    return short(message.get("model"))


def fallback_target(block: Any) -> str:
    """Where a ``fallback`` content block went; empty for every other block."""
    if type(block) is dict and block.get("type") == "fallback":
        target = block.get("to")
        return short(target.get("model")) if type(target) is dict else ""
    return ""


def _finish(wire: Wire, document: dict[str, Any]) -> str:
    if wire is Wire.CHAT:
        choices = document.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if type(choice) is dict and (reason := short(choice.get("finish_reason"))):
                return reason
        return ""
    if wire is Wire.MESSAGES:
        return short(document.get("stop_reason"))
    if wire is Wire.RESPONSES:
        return short(document.get("status"))
    return ""


def _count(container: Any, name: str) -> int:
    value = container.get(name) if type(container) is dict else None
    return value if type(value) is int and 0 <= value < 2**53 else 0
