"""What people write into forms, as a record keeps it."""

from __future__ import annotations

from gateway.control.console.guard import Denied

__all__ = ["MAX_TEXT", "said"]

MAX_TEXT = 500
"""Characters of a note or reason."""


def said(text: str, *, needed: bool = True) -> str:
    """The text on one line.

    Raises:
        Denied: it is needed and empty, or a record would cut it.
    """
    text = " ".join(text.split())
    if needed and not text:
        raise Denied(422, "Nothing was done: say why.", "Go back and fill in the text.")
    if len(text) > MAX_TEXT:
        raise Denied(
            422,
            f"Nothing was done: the text has {len(text)} characters; a record keeps {MAX_TEXT}.",
            "Go back and shorten it.",
        )
    return text
