"""The dialects: whose words an answer is put in. One model route may be asked for in two of them.

A request that no route knows still gets an answer that its client can read, so the dialect is
told from the path, and where that says nothing from the headers.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from gateway.core.facts import Wire

__all__ = ["Dialect", "dialect_of", "dialect_of_wire"]


class Dialect(StrEnum):
    """Four ways of saying no. ``OPENAI`` is for everything of OpenAI's but the two generators."""

    CHAT = "chat"
    RESPONSES = "responses"
    OPENAI = "openai"
    ANTHROPIC = "anthropic"


_BY_WIRE = {
    Wire.CHAT: Dialect.CHAT,
    Wire.RESPONSES: Dialect.RESPONSES,
    Wire.MESSAGES: Dialect.ANTHROPIC,
    Wire.COUNT_TOKENS: Dialect.ANTHROPIC,
}


def dialect_of_wire(wire: Wire) -> Dialect:
    """The dialect of a call; for ``MODELS`` it depends on the headers (see ``dialect_of``)."""
    return _BY_WIRE.get(wire, Dialect.OPENAI)


def dialect_of(raw_path: bytes, fields: Mapping[bytes, bytes]) -> Dialect:
    """The dialect to answer in, for any request, readable or not."""
    path = raw_path.lower()
    if path.startswith(b"/v1/chat"):
        return Dialect.CHAT
    if path.startswith(b"/v1/responses"):
        return Dialect.RESPONSES
    if path.startswith(b"/v1/messages"):
        return Dialect.ANTHROPIC
    return Dialect.ANTHROPIC if b"anthropic-version" in fields else Dialect.OPENAI
