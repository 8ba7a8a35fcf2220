"""Server-sent events, read in passing: whole events go on, the terminal event waits.

The promise: ``forward + terminal`` of every ``feed``, then ``finish()``, concatenate to exactly the
bytes that came (whatever the line endings, comments, unknown fields or a byte order mark), except
for the usage chunk that the gateway itself asked for (``strip_usage_chunk``).

* Only complete events are forwarded, comments and blank lines between events at once, so a cut
  falls between events. An event larger than ``EVENT_CAP`` passes as it comes; until it ends
  ``mid_event`` is true.
* The terminal event and all after it is handed out apart, so that the caller can hold it until the
  outcome is durable (invariant 3). A terminal event may be large (it repeats the whole answer):
  it is held to ``TERMINAL_CAP``; beyond that its body passes, and the blank line that makes the
  client act on it is what waits.
* Nothing the upstream sends raises here.

Framing follows the WHATWG HTML standard, section 9.2.6 (lines end in LF, CRLF or CR).
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Any, Final, NamedTuple

import msgspec

from gateway.core.facts import Wire
from gateway.wire.answers import (
    AnswerFacts,
    Usage,
    error_code,
    fallback_target,
    read_usage,
    short,
)

__all__ = ["EVENT_CAP", "TERMINAL_CAP", "Relay", "StreamReader"]

EVENT_CAP: Final = 256 * 1024
"""Bytes held back of an event that has not ended."""
TERMINAL_CAP: Final = 8 * 1024 * 1024
"""Bytes held back of an event that is known to be the terminal one."""

_BOM: Final = b"\xef\xbb\xbf"
# A CRLF must never be taken apart into two line ends: hence atomic groups here, and below two line
# ends spelled out (their first bytes are a set that the search can skip to; three times as fast).
_BETWEEN_STARTS: Final = (b":", b"\r", b"\n")
_BETWEEN: Final = re.compile(rb"(?>(?::[^\r\n]*+)?(?>\r\n|\n|\r))*+")
_BOUNDARY: Final = re.compile(rb"\n(?:\n|\r\n?)|\r(?:\r\n?|\n(?:\n|\r\n?))")
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_LARGE_TYPE: Final = re.compile(rb'\{\s*"type"\s*:\s*"(response\.[a-z_.]+)"')
_TERMINAL: Final = {
    Wire.MESSAGES: frozenset({"message_stop"}),
    Wire.RESPONSES: frozenset({"response.completed", "response.failed", "response.incomplete"}),
}


class Relay(NamedTuple):
    """What one chunk released: bytes to send now, and bytes to send once the outcome stands."""

    forward: bytes
    terminal: bytes


class _Event(Enum):
    PASSES = auto()
    ENDS = auto()
    WAS_ASKED_FOR = auto()  # by the gateway, not by the client


class StreamReader:
    """Reads one upstream stream.

    Attributes:
        facts: what the stream has told so far.
        terminal_seen: the protocol's own end has come.
        mid_event: the client holds part of an event.
        next_sequence: the number that the next event would carry (Responses).
    """

    def __init__(self, wire: Wire, *, strip_usage_chunk: bool = False) -> None:
        self.terminal_seen = False
        self.mid_event = False
        self.next_sequence = 0
        self._wire = wire
        self._terminal = _TERMINAL.get(wire, frozenset())
        self._strip = strip_usage_chunk and wire is Wire.CHAT
        self._held = bytearray()
        self._scanned = 0
        self._started = False
        self._passing_terminal = False
        self._usage: Usage | None = None
        self._served_model = ""
        self._upstream_id = ""
        self._finish = ""
        self._error = ""

    @property
    def facts(self) -> AnswerFacts:
        """Usage, served model, id and finish as of now."""
        return AnswerFacts(
            self._usage, self._served_model, self._upstream_id, self._finish, self._error
        )

    @property
    def ended(self) -> bool:
        """Whether end of file is an end: after the terminal event, or the upstream's own error."""
        return self.terminal_seen or bool(self._error)

    def feed(self, chunk: bytes) -> Relay:
        """Take the next bytes, however they were cut."""
        if self.terminal_seen:
            return Relay(b"", chunk)
        data: bytes | bytearray = chunk
        if self._held:
            self._held += chunk
            data = self._held
        position, scanned = self._skip_bom(data), self._scanned
        out = [bytes(data[:position])]
        if self.mid_event:
            position = self._end_large(data, out)
        while not (self.mid_event or self.terminal_seen):
            position = self._skip_comments(data, position, out)
            end = _BOUNDARY.search(data, max(position, scanned))
            scanned = 0
            if end is None:
                break
            event = bytes(data[position : end.end()])
            verdict = self._inspect(event)
            if verdict is _Event.ENDS:
                self.terminal_seen = True
                break
            if verdict is _Event.PASSES:
                out.append(event)
            position = end.end()
        if self.terminal_seen:
            terminal = bytes(data[position:])
            self._held.clear()
            return Relay(b"".join(out), terminal)
        self._hold(data, position, out)
        return Relay(b"".join(out), b"")

    def finish(self) -> bytes:
        """The upstream has closed: whatever is left, to be sent or dropped by the caller.

        A last event without its blank line is read too: some servers end on ``data: [DONE]``. Cut
        short it is no end, whatever its name says.
        """
        left = bytes(self._held)
        self._held.clear()
        if left and not self.mid_event and _is_whole(left):
            self.terminal_seen = self._inspect(left) is _Event.ENDS
        return left

    def _skip_bom(self, data: bytes | bytearray) -> int:
        """Where reading starts; a mark that came in pieces waits among the held bytes."""
        if self._started or (len(data) < len(_BOM) and _BOM.startswith(data)):
            return 0
        self._started = True
        return len(_BOM) if data.startswith(_BOM) else 0

    @staticmethod
    def _skip_comments(data: bytes | bytearray, position: int, out: list[bytes]) -> int:
        """Pass on what stands between events: blank lines and whole comment lines."""
        if data[position : position + 1] in _BETWEEN_STARTS:
            between = _BETWEEN.match(data, position)
            if between is not None:
                out.append(bytes(between.group()))
                return between.end()
        return position

    def _end_large(self, data: bytes | bytearray, out: list[bytes]) -> int:
        """Look for the end of an event that was too large to hold; where reading goes on."""
        end = _BOUNDARY.search(data)
        if end is None:
            return 0
        self.mid_event = False
        self.terminal_seen = self._passing_terminal
        position = end.start() if self._passing_terminal else end.end()
        out.append(bytes(data[:position]))
        return position

    def _hold(self, data: bytes | bytearray, position: int, out: list[bytes]) -> None:
        """Keep what has not ended; let go of an event too large, but for a possible line end."""
        held = self._held
        if data is held:
            del held[:position]
        else:
            held += data[position:]
        if not self.mid_event and len(held) > EVENT_CAP:
            self._passing_terminal = self._begins_terminal(bytes(held[:512]))
            self.mid_event = not self._passing_terminal or len(held) > TERMINAL_CAP
        if self.mid_event:
            passing = len(held) - (2 if held.endswith(b"\r\n") else held.endswith((b"\r", b"\n")))
            out.append(bytes(held[:passing]))
            del held[:passing]
        self._scanned = max(0, len(held) - 3)

    def _begins_terminal(self, start: bytes) -> bool:
        name, data = _fields(start)
        first = _LARGE_TYPE.match(data)
        return name in self._terminal or (
            first is not None and first.group(1).decode() in self._terminal
        )

    def _inspect(self, event: bytes) -> _Event:
        """Read one event and say what becomes of it."""
        name, data = _fields(event)
        if self._wire is Wire.CHAT and data.startswith(b"[DONE]"):
            return _Event.ENDS
        try:
            document = msgspec.json.decode(data) if data else None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            document = None
        if not isinstance(document, dict):
            document = {}
        if self._wire is Wire.CHAT:
            return self._read_chat(document)
        kind = short(document.get("type")) or name
        if "error" in (kind, name):
            self._fail(document.get("error") or document)
        elif self._wire is Wire.MESSAGES:
            self._read_messages(kind, document)
        else:
            self._read_responses(kind, document.get("response"))
            if type(number := document.get("sequence_number")) is int:
                self.next_sequence = number + 1
        # Clients differ in which of the two they obey.
        ends = kind in self._terminal or name in self._terminal
        return _Event.ENDS if ends else _Event.PASSES

    def _fail(self, error: Any) -> None:
        self._finish = "error"
        self._error = error_code(error)

    def _count(self, usage: Any) -> None:
        if (read := read_usage(self._wire, usage)) is not None:
            self._usage = self._usage.widened(read) if self._usage else read

    def _identify(self, message: dict[str, Any]) -> None:
        model, upstream_id = message.get("model"), message.get("id")
        if model != self._served_model:
            self._served_model = short(model) or self._served_model
        if upstream_id != self._upstream_id:
            self._upstream_id = short(upstream_id) or self._upstream_id

    def _read_chat(self, chunk: dict[str, Any]) -> _Event:
        if chunk.get("error"):
            self._fail(chunk["error"])
            return _Event.PASSES
        self._identify(chunk)
        usage, choices = chunk.get("usage"), chunk.get("choices")
        if usage is not None:
            self._count(usage)
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                self._finish = short(choice.get("finish_reason")) or self._finish
        if self._strip and choices == [] and isinstance(usage, dict):
            return _Event.WAS_ASKED_FOR
        return _Event.PASSES

    def _read_messages(self, kind: str, event: dict[str, Any]) -> None:
        if kind == "message_start" and isinstance(message := event.get("message"), dict):
            self._identify(message)
            self._count(message.get("usage"))
        elif kind == "content_block_start":
            self._served_model = fallback_target(event.get("content_block")) or self._served_model
        elif kind == "message_delta":
            self._count(event.get("usage"))
            if isinstance(delta := event.get("delta"), dict):
                self._finish = short(delta.get("stop_reason")) or self._finish

    def _read_responses(self, kind: str, response: Any) -> None:
        if not isinstance(response, dict):
            return
        self._identify(response)
        if kind in self._terminal:
            self._count(response.get("usage"))
            self._finish = short(response.get("status")) or kind.removeprefix("response.")
            if isinstance(response.get("error"), dict):
                self._error = error_code(response["error"])


def _is_whole(event: bytes) -> bool:
    """Whether the data of an event that has no blank line after it came to its end."""
    _, data = _fields(event)
    if data == b"[DONE]":
        return True
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _fields(event: bytes) -> tuple[str, bytes]:
    """The event's name and joined data; other fields are not ours to read."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and b"\r" not in event:
        return "", event[6:-2]  # what nearly every event of Chat Completions is
    name, data = "", []
    for line in event.split(b"\n") if b"\r" not in event else _LINE_END.split(event):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value.decode("utf-8", "replace")
    return name, b"\n".join(data)
