"""The three generation wires as a test needs them: a body, a call, a stream that ticks.

A ``tag`` in the prompt ties what a client sent to what the upstream saw of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.support import raw
from tests.support.gate import Gate
from tests.support.upstream import (
    Received,
    Reply,
    chat_answer,
    chat_events,
    message,
    message_events,
    response,
    response_events,
)


@dataclass(frozen=True)
class Wire:
    """One wire: where it is, an unrestricted model, and the parts of its stream."""

    name: str
    target: str
    model: str
    prompt: str
    bound: str
    events: Callable[[str], list[bytes]]
    whole: Callable[[], bytes]
    delta: int
    """Which of the events of a one-word answer may come any number of times."""

    def body(
        self, tag: str = "hi", *, stream: bool = True, model: str = "", **more: object
    ) -> bytes:
        said: object = tag if self.prompt == "input" else [{"role": "user", "content": tag}]
        document = {"model": model or self.model, self.prompt: said, self.bound: 1000}
        return json.dumps(document | {"stream": stream} | more).encode()

    def parts(self) -> tuple[bytes, bytes, bytes]:
        """What opens a stream, what comes again and again, what closes it."""
        events = self.events("word")
        opening, closing = events[: self.delta], events[self.delta + 1 :]
        return b"".join(opening), events[self.delta], b"".join(closing)


CHAT = Wire(
    "chat", "/v1/chat/completions", "gpt-5.5", "messages", "max_tokens", chat_events, chat_answer, 0
)
RESPONSES = Wire(
    "responses",
    "/v1/responses",
    "gpt-5.5",
    "input",
    "max_output_tokens",
    response_events,
    lambda: json.dumps(response()).encode(),
    2,
)
MESSAGES = Wire(
    "messages",
    "/v1/messages",
    "opus-4.8",
    "messages",
    "max_tokens",
    message_events,
    lambda: json.dumps(message()).encode(),
    3,
)
WIRES = {wire.name: wire for wire in (CHAT, RESPONSES, MESSAGES)}


def wire_of(received: Received) -> Wire:
    return next(wire for wire in WIRES.values() if received.target.startswith(wire.target))


def tag_of(received: Received) -> str:
    document = received.json()
    return document.get("input") or document["messages"][0]["content"]


@dataclass(eq=False)
class Call:
    """A call over a connection of its own, read as far as the test reads it."""

    connection: raw.Connection
    answer: raw.Answer | None = None
    reading: asyncio.Task[None] | None = None
    ended_at: float = 0.0

    @classmethod
    async def start(
        cls, gate: Gate, wire: Wire, key: str, body: bytes = b"", *, sent: float = 1.0
    ) -> Call:
        """Send a request, or its first part; ``sent`` is the share of the body that goes out."""
        reader, writer = await asyncio.open_connection("127.0.0.1", gate.port, limit=1 << 24)
        body = body or wire.body()
        extra = {"anthropic-version": "2023-06-01"} if wire is MESSAGES else {}
        data = raw.request(wire.target, body, key=key, headers=extra)
        writer.write(data[: len(data) - len(body) + int(len(body) * sent)])
        return cls(raw.Connection(reader, writer))

    async def head(self) -> raw.Answer:
        self.answer = await self.connection.head()
        return self.answer

    async def _read(self) -> None:
        try:
            answer = self.answer or await self.head()
            async for _ in self.connection.chunks(answer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            if self.answer is not None:
                self.answer.complete = False
        finally:
            self.ended_at = asyncio.get_running_loop().time()

    def read(self) -> Call:
        """Go on reading in the background."""
        self.reading = asyncio.create_task(self._read())
        return self

    async def end(self) -> raw.Answer | None:
        """The whole answer; ``None`` where not even its head came."""
        await (self.reading or self.read().reading)
        self.gone()
        return self.answer

    def gone(self) -> None:
        """The client process ends: its connection is closed, whatever was unread is dropped."""
        self.connection.writer.transport.abort()


async def answered(gate: Gate, wire: Wire, key: str, body: bytes = b"") -> raw.Answer:
    """One call, to its end."""
    answer = await (await Call.start(gate, wire, key, body)).end()
    assert answer is not None, "the connection ended without an answer"
    return answer


async def silent(_request: Received, reply: Reply) -> None:
    """An upstream script that takes the call and says nothing."""
    await reply.until_closed()


async def unfinished(_request: Received, reply: Reply) -> None:
    """An upstream script: a whole answer of which the end never comes."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n"
    for piece in (head, b" " * 100, b" " * 100):
        reply.writer.write(piece)
        await asyncio.sleep(0.05)
    await reply.until_closed()


@dataclass
class Ticking:
    """An upstream script: streams one event each ``every_s`` until told to ``finish``.

    What is not streamed is answered whole. ``replies`` finds a reply by its tag.
    """

    every_s: float = 0.1
    finish: asyncio.Event = field(default_factory=asyncio.Event)
    replies: dict[str, Reply] = field(default_factory=dict)
    requests: dict[str, Received] = field(default_factory=dict)

    async def __call__(self, request: Received, reply: Reply) -> None:
        wire, tag = wire_of(request), tag_of(request)
        self.replies[tag], self.requests[tag] = reply, request
        if not request.json().get("stream"):
            await reply.whole(wire.whole())
            return
        opening, tick, closing = wire.parts()
        await reply.start_stream()
        if opening:
            await reply.chunk(opening)
        while not self.finish.is_set():
            await reply.chunk(tick)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.every_s):
                    await reply.until_closed()
                    return
        await reply.chunk(closing)
        await reply.end()

    async def reached(self, tag: str) -> Reply:
        """Wait until the upstream has seen this call."""
        while tag not in self.replies:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        return self.replies[tag]


async def streaming(
    gate: Gate, ticking: Ticking, wire: Wire, key: str, tag: str, **body: object
) -> Call:
    """A call whose stream has begun and is read in the background."""
    call = (await Call.start(gate, wire, key, wire.body(tag, **body))).read()
    await asyncio.wait_for(ticking.reached(tag), 10)
    return call


def said_so(wire: Wire, call: Call) -> dict[str, str]:
    """The error that ended this stream, as its dialect has it; the stream ended cleanly after it
    and not as a finished answer does."""
    assert call.answer is not None
    assert call.answer.complete, "the connection was cut without a word"
    events = call.answer.body.decode().strip().split("\n\n")
    last = dict(line.split(": ", 1) for line in events[-1].split("\n"))
    if wire is RESPONSES:
        assert "event: response.failed" in events[-2]
    assert last.get("event", "") == ("" if wire is CHAT else "error")
    assert "[DONE]" not in last["data"]
    return json.loads(last["data"])["error"]


async def records_of(gate: Gate, kind: str, member: str, count: int = 1) -> list[dict]:
    """Wait for this member's records of a type; of outcomes, those of his intents."""
    while True:
        mine = [each for each in gate.records() if each.get("subject", {}).get("id") == member]
        if kind == "access.outcome":
            calls = {each["request_id"] for each in mine if each["type"] == "access.intent"}
            found = [each for each in gate.records(kind) if each["request_id"] in calls]
        else:
            found = [each for each in mine if each["type"] == kind]
        if len(found) >= count:
            return found
        await asyncio.sleep(0.02)
