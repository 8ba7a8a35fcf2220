"""A scripted model endpoint: it says exactly the bytes that a test gives it, when it gives them.

It knows no protocol but HTTP framing, so what arrives and what leaves can be compared byte for
byte.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field


@dataclass
class Received:
    """One request as it arrived."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    at: float = 0.0

    def header(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.body).hexdigest()

    def json(self) -> dict:
        return json.loads(self.body)


class Reply:
    """The endpoint's side of one exchange."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.sent = b""
        self.closed_by_peer = asyncio.Event()
        self.closed_at = 0.0

    async def whole(self, body: bytes, status: int = 200, headers: dict | None = None) -> None:
        """A whole answer with its length."""
        lines = {"content-type": "application/json", **(headers or {})}
        head = f"HTTP/1.1 {status} X\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items())
        self.writer.write(head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)
        self.sent += body
        await self.writer.drain()

    async def start_stream(self, headers: dict | None = None) -> None:
        """The head of a chunked event stream."""
        lines = {"content-type": "text/event-stream; charset=utf-8", **(headers or {})}
        head = "HTTP/1.1 200 OK\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items())
        self.writer.write(head.encode() + b"transfer-encoding: chunked\r\n\r\n")
        await self.writer.drain()

    async def chunk(self, data: bytes) -> None:
        self.writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.sent += data
        await self.writer.drain()

    async def end(self) -> None:
        """The last chunk: a clean end."""
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()

    def reset(self) -> None:
        self.writer.transport.abort()

    def note_close(self) -> None:
        """The peer has closed; the first who sees it says when."""
        self.closed_at = self.closed_at or asyncio.get_running_loop().time()
        self.closed_by_peer.set()

    async def until_closed(self) -> None:
        """Wait until the peer has closed its side."""
        await self.closed_by_peer.wait()


Script = Callable[[Received, Reply], Awaitable[None]]


@dataclass
class Upstream:
    """The server. Set ``script``; read ``received`` and ``replies``."""

    script: Script
    received: list[Received] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    url: str = ""
    open_connections: int = 0
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task] = field(default_factory=set)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.open_connections += 1
        try:
            while (request := await self._read(reader)) is not None:
                self.received.append(request)
                reply = Reply(reader, writer)
                self.replies.append(reply)
                watcher = asyncio.create_task(self._watch(reader, reply))
                try:
                    await self.script(request, reply)
                except ConnectionError:  # seen by a write, before the watcher looked
                    reply.note_close()
                    raise
                finally:
                    if not watcher.done():
                        watcher.cancel()
                    await asyncio.gather(watcher, return_exceptions=True)
                if reply.closed_by_peer.is_set():
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.open_connections -= 1
            self._tasks.discard(task)
            writer.transport.abort()

    async def _watch(self, reader: asyncio.StreamReader, reply: Reply) -> None:
        """Between request and next request the gateway sends nothing: data is a close."""
        while not reader.at_eof() and reader.exception() is None:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        reply.note_close()

    async def _read(self, reader: asyncio.StreamReader) -> Received | None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError:
            return None
        first, *lines = head.split("\r\n")[:-2]
        method, target, _ = first.split(" ")
        headers = [tuple(line.split(": ", 1)) for line in lines]
        length = int(next((v for k, v in headers if k.lower() == "content-length"), "0"))
        chunked = any(k.lower() == "transfer-encoding" for k, _ in headers)
        assert not chunked, "the gateway sends a length"
        body = await reader.readexactly(length)
        return Received(method, target, headers, body, asyncio.get_running_loop().time())


def event(data: object, name: str = "") -> bytes:
    """One server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def chat_events(
    text: str = "hello there", usage: bool = False, model: str = "gpt-5.5"
) -> list[bytes]:
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model}
    events = [
        event(
            {**base, "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]}
        )
        for word in text.split()
    ]
    events.append(event({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
    if usage:
        spent = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
        events.append(event({**base, "choices": [], "usage": spent}))
    return [*events, event("[DONE]")]


def chat_answer(text: str = "hello there", model: str = "gpt-5.5") -> bytes:
    return json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": model,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12},
        }
    ).encode()


def message(text: str = "hello there", model: str = "mythos-5") -> dict:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 7, "output_tokens": 5},
    }


def message_events(text: str = "hello there", model: str = "mythos-5") -> list[bytes]:
    start = {**message("", model), "content": [], "stop_reason": None}
    start["usage"] = {"input_tokens": 7, "output_tokens": 1}
    block = {"type": "text", "text": ""}
    events = [
        event({"type": "message_start", "message": start}, "message_start"),
        event(
            {"type": "content_block_start", "index": 0, "content_block": block},
            "content_block_start",
        ),
        event({"type": "ping"}, "ping"),
    ]
    events += [
        event(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": word + " "},
            },
            "content_block_delta",
        )
        for word in text.split()
    ]
    ending = {"stop_reason": "end_turn", "stop_sequence": None}
    return [
        *events,
        event({"type": "content_block_stop", "index": 0}, "content_block_stop"),
        event(
            {"type": "message_delta", "delta": ending, "usage": {"output_tokens": 5}},
            "message_delta",
        ),
        event({"type": "message_stop"}, "message_stop"),
    ]


def response(text: str = "hello there", model: str = "gpt-5.5", status: str = "completed") -> dict:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": model,
        "output": [
            {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": text, "annotations": []}],
            }
        ],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": {
            "input_tokens": 7,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 12,
        },
    }


def response_events(text: str = "hello there", model: str = "gpt-5.5") -> list[bytes]:
    begun = {**response("", model, "in_progress"), "output": [], "usage": None}
    number = iter(range(1000))

    def sent(kind: str, **fields: object) -> bytes:
        return event({"type": kind, "sequence_number": next(number), **fields}, kind)

    item = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    (answered,) = response(text, model)["output"]
    opened = {**answered, "status": "in_progress", "content": []}
    part = {"type": "output_text", "text": "", "annotations": []}
    return [
        sent("response.created", response=begun),
        sent("response.in_progress", response=begun),
        sent("response.output_item.added", output_index=0, item=opened),
        sent("response.content_part.added", part=part, **item),
        *(
            sent("response.output_text.delta", delta=word + " ", logprobs=[], **item)
            for word in text.split()
        ),
        sent("response.output_text.done", text=text, logprobs=[], **item),
        sent("response.content_part.done", part={**part, "text": text}, **item),
        sent("response.output_item.done", output_index=0, item=answered),
        sent("response.completed", response=response(text, model)),
    ]
