"""What the endpoint says, whichever protocol asks: one text, and words counted as tokens."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "MODEL",
    "WORDS_PER_S",
    "Answer",
    "Event",
    "Json",
    "Stream",
    "Unreadable",
    "answer_to",
    "count_words",
    "event",
    "parse",
]

Json = dict[str, Any]
Event = tuple[bytes, bool]
"""What a stream sends, and whether it is a word, which takes its time."""
Stream = Iterator[Event]

MODEL = "practice"
WORDS_PER_S = 25.0
SLOW_WORD = "slowly"
SLOW_WORDS = 600
SLOW_WORDS_PER_S = 10.0

ANSWER = (
    "This is the Sluicegate practice endpoint and no model: nobody thought about your question. "
    "The request for {model} was let through the gate, put on the record and forwarded here. "
    "Give the gateway a real upstream and a real answer will stand in this place."
)
SLOW_LINE = (
    "Line {line}: still the practice endpoint, no model, writing slowly so it can be stopped."
)


class Unreadable(Exception):
    """The request's body is not one this endpoint can answer; the text says why."""


@dataclass(frozen=True)
class Answer:
    """One answer, the same for every protocol; a word counts as a token."""

    model: str
    pieces: tuple[str, ...]
    cut: bool
    input_words: int
    words_per_s: float
    usage_chunk: bool
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def text(self) -> str:
        """The whole answer."""
        return "".join(self.pieces)


def parse(raw: bytes) -> Json:
    """The body as a JSON object; unknown fields are nobody's business here.

    Raises:
        Unreadable: it is not a JSON object with a string ``model``.
    """
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Unreadable("the body is not JSON") from error
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        raise Unreadable("the body has no model")
    return body


def answer_to(body: Json, turns: str, words_per_s: float) -> Answer:
    """Write the answer to the conversation in ``body[turns]``.

    Raises:
        Unreadable: there is no conversation.
    """
    if not isinstance(body.get(turns), str | list):
        raise Unreadable(f"the body has no {turns}")
    asked = last_user_text(body[turns])
    slow = SLOW_WORD in asked.lower()
    text = ANSWER.format(model=body["model"])
    if slow:
        words_per_line = len(SLOW_LINE.split())
        lines = range(1, SLOW_WORDS // words_per_line + 1)
        text = " ".join(SLOW_LINE.format(line=line) for line in lines)
    pieces = tuple(re.findall(r"\S+\s*", text))
    limits = (body.get(k) for k in ("max_tokens", "max_completion_tokens", "max_output_tokens"))
    most = min((n for n in limits if isinstance(n, int) and n > 0), default=len(pieces))
    options = body.get("stream_options")
    return Answer(
        model=body["model"],
        pieces=pieces[:most],
        cut=most < len(pieces),
        input_words=count_words(body.get("system"), body.get("instructions"), body[turns]),
        words_per_s=min(words_per_s, SLOW_WORDS_PER_S) if slow else words_per_s,
        usage_chunk=isinstance(options, dict) and options.get("include_usage") is True,
    )


def last_user_text(turns: str | list[Any]) -> str:
    """What the user said last: the last text part of the last user turn."""
    if isinstance(turns, str):
        return turns
    for turn in reversed(turns):
        if not isinstance(turn, dict) or turn.get("role") != "user":
            continue
        content = turn.get("content")
        parts = content if isinstance(content, list) else [{"text": content}]
        texts = [part.get("text") for part in parts if isinstance(part, dict)]
        return next((text for text in reversed(texts) if isinstance(text, str)), "")
    return ""


def count_words(*values: object) -> int:
    """The words of every string inside the values, at least one."""
    words, waiting = 0, list(values)
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            words += len(value.split())
        elif isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return max(words, 1)


def event(fields: Json, *, name: str | None = None) -> bytes:
    """One server-sent event (WHATWG HTML, section 9.2)."""
    text = json.dumps(fields, separators=(",", ":"))
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()
