"""The endpoint's server: routes, the provider key, the pace, and a client who leaves."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import hmac
import json
import socket
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import uvicorn

from gateway.demo.practice import anthropic, openai
from gateway.demo.practice.answer import (
    WORDS_PER_S,
    Answer,
    Json,
    Stream,
    Unreadable,
    answer_to,
    count_words,
    parse,
)

__all__ = ["Practice", "main"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

BODY_LIMIT_BYTES = 64 * 1024 * 1024
DRAIN_S = 1


class Dialect(Protocol):
    """What a caller's protocol says when there is no answer to write."""

    def error(self, status: int, message: str) -> Json:
        """An error body."""

    def models(self) -> Json:
        """The list of models."""


GENERATING: dict[str, tuple[str, Callable[[Answer], Json], Callable[[Answer], Stream]]] = {
    "POST /v1/chat/completions": ("messages", openai.chat_whole, openai.chat_stream),
    "POST /v1/responses": ("input", openai.response_whole, openai.response_stream),
    "POST /v1/messages": ("messages", anthropic.message_whole, anthropic.message_stream),
}


class Practice:
    """The ASGI application.

    Args:
        key: what a caller must send, as ``Authorization: Bearer`` or ``x-api-key``.
        words_per_s: the pace of streams; 0 sends without a pause. Whole answers are sent at once.

    ``stopped`` counts the streams that ended because their client left.
    """

    def __init__(self, key: str, words_per_s: float = WORDS_PER_S) -> None:
        self._key = key.encode()
        self._words_per_s = words_per_s
        self.stopped = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; anything but HTTP is none of this endpoint's protocols."""
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        headers = dict(scope["headers"])
        raw = await read_body(receive)
        if raw is None:
            return
        call = Call(receive, send, hashlib.sha256(raw).hexdigest())
        messages = scope["path"].startswith("/v1/messages")
        dialect = anthropic if messages or b"anthropic-version" in headers else openai
        if not self._admits(headers):
            text = "the practice endpoint wants the provider key it was started with"
            await call.whole(401, dialect.error(401, text))
        elif len(raw) > BODY_LIMIT_BYTES:
            await call.whole(413, dialect.error(413, "the body is too large"))
        else:
            try:
                await self._answer(call, f"{scope['method']} {scope['path']}", raw, dialect)
            except Unreadable as reason:
                await call.whole(400, dialect.error(400, str(reason)))

    def _admits(self, headers: dict[bytes, bytes]) -> bool:
        scheme, _, bearer = headers.get(b"authorization", b"").partition(b" ")
        given = bearer if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        return hmac.compare_digest(given.strip(), self._key)

    async def _answer(self, call: Call, route: str, raw: bytes, dialect: Dialect) -> None:
        match route:
            case "GET /v1/models":
                await call.whole(200, dialect.models())
            case "POST /v1/embeddings":
                await call.whole(200, openai.embeddings(parse(raw)))
            case "POST /v1/messages/count_tokens":
                body = parse(raw)
                words = count_words(body.get("system"), body.get("messages"))
                await call.whole(200, {"input_tokens": words})
            case _ if route in GENERATING:
                turns, whole, stream = GENERATING[route]
                body = parse(raw)
                answer = answer_to(body, turns, self._words_per_s)
                if body.get("stream") is not True:
                    await call.whole(200, whole(answer))
                elif not await call.stream(stream(answer), answer.words_per_s):
                    self.stopped += 1
            case _:
                await call.whole(404, dialect.error(404, f"the practice endpoint has no {route}"))


async def read_body(receive: Receive) -> bytes | None:
    """The body, read to its end but kept only just over the limit; ``None`` if the client left."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        if len(body) <= BODY_LIMIT_BYTES:
            body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


@dataclass(frozen=True)
class Call:
    """One request whose body is read."""

    receive: Receive
    send: Send
    body_sha256: str

    async def _start(self, status: int, kind: bytes) -> None:
        mark = b"req_" + uuid.uuid4().hex.encode()
        headers = [
            (b"content-type", kind),
            (b"x-request-id", mark),
            (b"request-id", mark),
            (b"x-practice-body-sha256", self.body_sha256.encode()),
        ]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def whole(self, status: int, body: Json) -> None:
        """Send a JSON body."""
        await self._start(status, b"application/json")
        raw = json.dumps(body, separators=(",", ":")).encode()
        await self.send({"type": "http.response.body", "body": raw})

    async def stream(self, events: Stream, words_per_s: float) -> bool:
        """Send events at the pace of a writer; ``False`` if the client left before the end."""
        await self._start(200, b"text/event-stream; charset=utf-8")
        gone = asyncio.ensure_future(self.receive())
        try:
            for event, is_word in events:
                pause_s = 1 / words_per_s if is_word and words_per_s else 0
                await asyncio.wait({gone}, timeout=pause_s)
                if gone.done():
                    return False
                part = {"type": "http.response.body", "body": event, "more_body": True}
                await self.send(part)
            await self.send({"type": "http.response.body", "body": b""})
            return True
        finally:
            gone.cancel()


def main(arguments: list[str] | None = None) -> None:
    """Serve on loopback until a signal; prints the address once it is bound."""
    parser = argparse.ArgumentParser(prog="python -m gateway.demo.practice", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="0 takes a free one")
    parser.add_argument("--key-file", type=Path, required=True, help="holds the provider key")
    parser.add_argument(
        "--pace", type=float, default=WORDS_PER_S, help="words a second; 0: no wait"
    )
    given = parser.parse_args(arguments)
    try:
        key = given.key_file.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as reason:
        parser.error(f"the key file cannot be read: {reason}")
    if not key or given.pace < 0:
        parser.error("the key file is empty, or the pace is below 0")
    try:
        listener = socket.create_server(("127.0.0.1", given.port))
    except (OSError, OverflowError) as reason:
        parser.error(f"port {given.port} cannot be used: {reason}")
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    print(f"practice endpoint on {address}", flush=True)
    config = uvicorn.Config(
        Practice(key, given.pace),
        access_log=False,
        lifespan="off",
        log_level="warning",
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=DRAIN_S,
    )
    uvicorn.Server(config).run(sockets=[listener])
