"""The closed list of edits to a body: ``model``, ``safety_identifier``, ``include_usage``.

Everything else keeps its bytes, and a body that needs no edit is forwarded as the very object that
was read. An edited body is parsed again and must equal the judged document but for the edits
(invariant 1); if it does not, nothing is forwarded.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from gateway.core.facts import Wire
from gateway.wire.strict_json import parse

__all__ = ["EditFailed", "Edits", "apply"]

_WITH_SAFETY_IDENTIFIER: Final = frozenset({Wire.CHAT, Wire.RESPONSES})


class EditFailed(Exception):
    """The edited body does not read as judged; a fault of the gateway."""


class Edits(Struct, frozen=True):
    """What is to stand in the body. ``None`` and ``False`` leave a field as it is.

    ``safety_identifier`` replaces what the client sent. ``include_usage`` adds to
    ``stream_options``; the reader of the stream takes the extra chunk out again.
    """

    model: str | None = None
    safety_identifier: str | None = None
    include_usage: bool = False

    @classmethod
    def on(
        cls,
        wire: Wire,
        *,
        stream: bool,
        model: str | None = None,
        safety_identifier: str | None = None,
        include_usage: bool = False,
    ) -> Edits:
        """The edits that this wire knows: others are dropped.

        ``safety_identifier`` is a field of Chat Completions and Responses, ``include_usage`` one
        of streamed Chat Completions.
        """
        return cls(
            model=model,
            safety_identifier=safety_identifier if wire in _WITH_SAFETY_IDENTIFIER else None,
            include_usage=include_usage and stream and wire is Wire.CHAT,
        )


def apply(body: bytes, document: dict[str, Any], edits: Edits) -> tuple[bytes, tuple[str, ...]]:
    """Edit the top level of a body.

    Args:
        body: the bytes that ``document`` was strictly parsed from.
        document: that parse; it is not changed.
        edits: what is wanted.

    Returns:
        The bytes to forward (``body`` itself if nothing changes) and the names of the edits made.

    Raises:
        EditFailed: the result does not parse to the expected document.
    """
    changes: dict[str, Any] = {}
    made: list[str] = []
    if edits.model is not None and edits.model != document.get("model"):
        changes["model"] = edits.model
        made.append("model")
    if edits.safety_identifier not in (None, document.get("safety_identifier")):
        changes["safety_identifier"] = edits.safety_identifier
        made.append("safety_identifier")
    options = document.get("stream_options") or {}
    if edits.include_usage and options.get("include_usage") is not True:
        changes["stream_options"] = {**options, "include_usage": True}
        made.append("stream_options.include_usage")
    if not changes:
        return body, ()
    members: dict[str, Any] = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    if "stream_options" in changes and options:
        kept = msgspec.json.decode(members["stream_options"], type=dict[str, msgspec.Raw])
        members |= {**changes, "stream_options": {**kept, "include_usage": True}}
    else:
        members |= changes
    edited = msgspec.json.encode(members)
    # Compared as JSON, not by ``==``: Python holds 1, 1.0 and True for equal.
    if msgspec.json.encode(parse(edited)) != msgspec.json.encode({**document, **changes}):
        raise EditFailed("the edited body does not read as judged")
    return edited, tuple(made)
