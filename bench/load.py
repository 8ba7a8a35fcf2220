"""The other side of every contender: a scripted model endpoint and the clients that call it.

Both are bare protocols on one event loop, so that one core can drive what is measured on the other
core. They understand just enough HTTP for what they themselves send: requests have a length, whole
answers too, streams are chunked.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Self

STREAM_MARK = b'"stream":true'
TICK_S = 0.005
"""Chunks are spread evenly over their period: each tick serves its share of the streams."""


def request_bytes(path: str, key: str, *, stream: bool, size: int = 1024) -> bytes:
    """A call of the Messages wire whose body has ``size`` bytes."""
    body = {
        "model": "mythos-5",
        "max_tokens": 64,
        "stream": stream,
        "messages": [{"role": "user", "content": ""}],
    }
    padding = size - len(json.dumps(body, separators=(",", ":")))
    body["messages"] = [{"role": "user", "content": "x" * padding}]
    payload = json.dumps(body, separators=(",", ":")).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"anthropic-version: 2023-06-01\r\nuser-agent: bench\r\naccept: application/json\r\n"
        f"x-api-key: {key}\r\ncontent-length: {len(payload)}\r\n\r\n"
    )
    return head.encode() + payload


# The endpoint

_ANSWER = json.dumps(
    {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "mythos-5",
        "content": [{"type": "text", "text": "A short answer, as long as it needs to be."}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 300, "output_tokens": 12},
    },
    separators=(",", ":"),
).encode()
_WHOLE = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nrequest-id: req_1\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_ANSWER), _ANSWER)
)
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nrequest-id: req_1\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


def _event(name: str, **fields: object) -> bytes:
    data = json.dumps({"type": name, **fields}, separators=(",", ":"))
    event = f"event: {name}\ndata: {data}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(event), event)


_STREAM_BEGIN = _event(
    "message_start",
    message={
        **json.loads(_ANSWER),
        "content": [],
        "stop_reason": None,
        "usage": {"input_tokens": 300, "output_tokens": 1},
    },
) + _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
_STREAM_CHUNK = _event(
    "content_block_delta", index=0, delta={"type": "text_delta", "text": "some words more "}
)
_STREAM_END = (
    _event("content_block_stop", index=0)
    + _event(
        "message_delta",
        delta={"stop_reason": "end_turn", "stop_sequence": None},
        usage={"output_tokens": 200},
    )
    + _event("message_stop")
    + b"0\r\n\r\n"
)


class Endpoint(asyncio.Protocol):
    """One connection of the scripted endpoint."""

    streaming: deque[asyncio.Transport]

    def __init__(self, streaming: deque[asyncio.Transport]) -> None:
        self.streaming = streaming
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data if self._buffer else data
        length = _message_length(data)
        if len(data) < length:
            self._buffer = data
            return
        self._buffer = b""
        if data.find(STREAM_MARK) < 0:
            self._transport.write(_WHOLE)
        else:
            self._transport.write(_STREAM_HEAD + _STREAM_BEGIN)
            self.streaming.append(self._transport)


class Upstream:
    """The endpoint's server; ``feed`` sends one chunk to every open stream each ``period_s``."""

    def __init__(self) -> None:
        self._streaming: deque[asyncio.Transport] = deque()

    async def start(self) -> int:
        """Listen; returns the port."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Endpoint(self._streaming), "127.0.0.1", 0)
        return server.sockets[0].getsockname()[1]

    async def feed(self, period_s: float) -> None:
        """Until cancelled; then every stream is ended."""
        due, next_at = 0.0, time.perf_counter()
        try:
            while True:
                due += len(self._streaming) * TICK_S / period_s
                for _ in range(int(due)):
                    self._streaming[0].write(_STREAM_CHUNK)
                    self._streaming.rotate(-1)
                due %= 1
                next_at += TICK_S
                await asyncio.sleep(max(0.0, next_at - time.perf_counter()))
        finally:
            while self._streaming:
                self._streaming.popleft().write(_STREAM_END)


# The clients


class Caller(asyncio.Protocol):
    """One client connection for whole answers."""

    def __init__(self, on_answer: Callable[[Caller], None], failed: asyncio.Future[None]) -> None:
        self._on_answer, self._failed = on_answer, failed
        self._buffer = b""
        self.sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def send(self, request: bytes) -> None:
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data if self._buffer else data
        if len(data) < _message_length(data):
            self._buffer = data
            return
        self._buffer = b""
        if data.startswith(b"HTTP/1.1 200 "):
            self._on_answer(self)
        else:
            _fail(self._failed, f"not a 200: {data[:400]!r}")

    def connection_lost(self, exc: Exception | None) -> None:
        _fail(self._failed, f"the connection was closed: {exc}")


class Listener(asyncio.Protocol):
    """One client connection for one stream; counts its chunks."""

    def __init__(self, request: bytes, failed: asyncio.Future[None]) -> None:
        self._request, self._failed = request, failed
        self.begun = False
        self.ended = False
        self.chunks = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self.begun:
            self.begun = True
            if not data.startswith(b"HTTP/1.1 200 "):
                _fail(self._failed, f"not a 200: {data[:400]!r}")
        self.chunks += data.count(b"data: {")
        if data.endswith(b"0\r\n\r\n"):
            self.ended = True

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended:
            _fail(self._failed, f"a stream broke off: {exc}")


def _message_length(data: bytes) -> int:
    """How long the message that ``data`` begins is; more than ``data`` while that is unknown."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return len(data) + 1
    head = data[:end].lower()
    start = head.find(b"content-length:") + len(b"content-length:")
    stop = head.find(b"\r\n", start)
    return end + 4 + int(head[start:] if stop < 0 else head[start:stop])


def _fail(failed: asyncio.Future[None], why: str) -> None:
    if not failed.done():
        failed.set_exception(RuntimeError(why))


async def _for(seconds: float, failed: asyncio.Future[None]) -> None:
    """Wait, unless a call fails first."""
    done, _ = await asyncio.wait({failed}, timeout=seconds)
    for each in done:
        each.result()


class ClosedLoop:
    """``connections`` clients, each of which sends its next request when an answer is here."""

    def __init__(self, port: int, requests: Sequence[bytes], connections: int) -> None:
        self._port, self._connections = port, connections
        self._requests: Iterator[bytes] = itertools.cycle(requests)
        self._callers: list[Caller] = []
        self.answered = 0

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._failed = loop.create_future()
        for _ in range(self._connections):
            _, caller = await loop.create_connection(
                lambda: Caller(self._again, self._failed), "127.0.0.1", self._port
            )
            self._callers.append(caller)
        for caller in self._callers:
            caller.send(next(self._requests))
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self._failed.done():
            self._failed.set_result(None)
        for caller in self._callers:
            caller.transport.abort()

    def _again(self, caller: Caller) -> None:
        self.answered += 1
        caller.send(next(self._requests))

    async def run(self, seconds: float) -> None:
        await _for(seconds, self._failed)

    async def until(self, answered: int) -> None:
        while self.answered < answered:
            await self.run(0.05)


async def open_loop(
    port: int, requests: Sequence[bytes], *, rate: float, seconds: float
) -> list[float]:
    """Calls at fixed instants, whatever becomes of the earlier ones.

    Returns:
        Seconds from the instant each call was due to its answer.
    """
    loop = asyncio.get_running_loop()
    failed: asyncio.Future[None] = loop.create_future()
    idle: deque[Caller] = deque()
    latencies: list[float] = []

    def answered(caller: Caller) -> None:
        latencies.append(time.perf_counter() - caller.sent_at)
        idle.append(caller)

    callers = []
    for _ in range(64):
        _, caller = await loop.create_connection(
            lambda: Caller(answered, failed), "127.0.0.1", port
        )
        idle.append(caller)
        callers.append(caller)
    source = itertools.cycle(requests)
    count = int(rate * seconds)
    begun = time.perf_counter() + 0.05
    for index in range(count):
        due = begun + index / rate
        await _for(max(0.0, due - time.perf_counter()), failed)
        while not idle:
            await _for(0.001, failed)
        caller = idle.popleft()
        caller.sent_at = due
        caller.send(next(source))
    while len(latencies) < count:
        await _for(0.01, failed)
    failed.set_result(None)
    for caller in callers:
        caller.transport.abort()
    return latencies


class Streams:
    """``count`` streams that stay open."""

    def __init__(self, port: int, requests: Sequence[bytes], count: int) -> None:
        self._port, self._requests, self._count = port, requests, count
        self._listeners: list[Listener] = []

    async def open(self) -> None:
        """Returns when every stream has begun."""
        loop = asyncio.get_running_loop()
        self._failed = loop.create_future()
        source = itertools.cycle(self._requests)
        for _ in range(self._count):
            request = next(source)
            _, listener = await loop.create_connection(
                lambda request=request: Listener(request, self._failed), "127.0.0.1", self._port
            )
            self._listeners.append(listener)
            await _for(0.002, self._failed)
        while not all(listener.begun for listener in self._listeners):
            await _for(0.01, self._failed)

    @property
    def chunks(self) -> int:
        return sum(listener.chunks for listener in self._listeners)

    async def run(self, seconds: float) -> None:
        await _for(seconds, self._failed)

    async def ended(self) -> None:
        """Returns when every stream has come to its end, as the endpoint sent it."""
        while not all(listener.ended for listener in self._listeners):
            await _for(0.01, self._failed)
        self._failed.set_result(None)
        for listener in self._listeners:
            listener.transport.abort()
