"""HTTP/1.1 by hand: exactly these bytes out, exactly those bytes back, in the pieces they came.

SDKs hide what a gateway must not change; this client shows it, and can send what no SDK would.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Self


@dataclass
class Answer:
    """One answer. ``raw`` is all of it as received; ``body`` is without chunk framing.

    ``chunks`` are the chunks of a chunked body. ``complete`` is false where the connection ended
    before the framing said so.
    """

    status: int
    headers: list[tuple[str, str]]
    raw: bytes = b""
    body: bytes = b""
    chunks: list[bytes] = field(default_factory=list)
    complete: bool = True

    def header(self, name: str) -> str:
        """The value of a header; values of one that stands several times are joined."""
        return ", ".join(value for key, value in self.headers if key == name)


class Connection:
    """One client connection, kept for any number of requests in turn."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> Answer:
        """Status and headers of the next answer."""
        raw = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").split("\r\n")[:-2]
        pairs = [line.partition(": ") for line in lines]
        headers = [(name.lower(), value) for name, _, value in pairs]
        return Answer(int(first.split(" ", 2)[1]), headers, raw)

    async def chunks(self, answer: Answer) -> AsyncIterator[bytes]:
        """The body as it comes, into ``answer`` too; its end without a last chunk is noted."""
        try:
            if answer.header("transfer-encoding") == "chunked":
                while True:
                    line = await self.reader.readuntil(b"\r\n")
                    data = (await self.reader.readexactly(int(line, 16) + 2))[:-2]
                    answer.raw += line + data + b"\r\n"
                    if not data:
                        return
                    answer.body += data
                    answer.chunks.append(data)
                    yield data
            elif answer.header("content-length"):
                answer.body = await self.reader.readexactly(int(answer.header("content-length")))
                answer.raw += answer.body
                yield answer.body
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            answer.complete = False
            answer.body += getattr(error, "partial", b"")

    async def answer(self) -> Answer:
        """The next answer, to its end."""
        answer = await self.head()
        async for _ in self.chunks(answer):
            pass
        return answer

    async def rest(self) -> bytes:
        """Whatever comes until the gateway closes; of a reset, what came before it."""
        received = bytearray()
        try:
            while data := await self.reader.read(65_536):
                received += data
        except ConnectionError:
            pass
        return bytes(received)


@asynccontextmanager
async def connect(port: int) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    try:
        yield Connection(reader, writer)
    finally:
        writer.transport.abort()


def request(
    target: str,
    body: bytes | None = None,
    *,
    key: str = "",
    method: str = "",
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """One well-framed request. With a body it is a POST of JSON; ``headers`` come on top."""
    lines = {"host": "gate.test"}
    if key:
        lines["authorization"] = f"Bearer {key}"
    if body is not None:
        lines |= {"content-type": "application/json", "content-length": str(len(body))}
    lines |= headers or {}
    method = method or ("GET" if body is None else "POST")
    head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items())
    return head.encode("latin-1") + b"\r\n" + (body or b"")


async def call(
    port: int,
    target: str,
    body: bytes | None = None,
    *,
    key: str = "",
    method: str = "",
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """One request on a connection of its own, and its answer."""
    async with connect(port) as connection:
        await connection.send(request(target, body, key=key, method=method, headers=headers))
        return await connection.answer()


async def send_raw(port: int, data: bytes, *, silence_s: float = 0.2) -> bytes:
    """Exactly these bytes; everything that comes back before the gateway closes or falls silent.

    The first byte may take five seconds; after it, so long a pause is the end.
    """
    async with connect(port) as connection:
        await connection.send(data)
        received = bytearray()
        try:
            while True:
                async with asyncio.timeout(silence_s if received else 5.0):
                    piece = await connection.reader.read(65_536)
                if not piece:
                    break
                received += piece
        except (TimeoutError, ConnectionError):
            pass
        return bytes(received)


class CountingProxy:
    """A TCP proxy in front of a port: how many requests did a client really send?"""

    def __init__(self, port: int) -> None:
        self._port = port
        self.sent = bytearray()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def posts(self) -> int:
        return self.sent.count(b"POST /")

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            async with connect(self._port) as inner:
                pumps = {
                    asyncio.ensure_future(self._pump(reader, inner.writer, self.sent)),
                    asyncio.ensure_future(self._pump(inner.reader, writer, bytearray())),
                }
                try:
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in pumps:
                        pump.cancel()
                    await asyncio.gather(*pumps, return_exceptions=True)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    @staticmethod
    async def _pump(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, copy: bytearray
    ) -> None:
        while data := await reader.read(65_536):
            copy += data
            writer.write(data)
            await writer.drain()
