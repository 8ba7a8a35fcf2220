"""Where exporters send to, as a test needs it: real servers that take, hang, reset or fail."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import re
import ssl
from pathlib import Path
from typing import Any, Literal

from tests.support.upstream import Received, Reply, Upstream

Mood = Literal["takes", "hangs", "resets", "fails", "refuses"]
TOKEN = "token-canary-0123456789abcdef"


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context


class SyslogReceiver:
    """RFC 5425: frames over TLS. ``messages`` are those of connections that were read to the end.

    While it hangs it accepts connections and reads nothing; while it resets it reads some and then
    breaks the connection.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self.mood: Mood = "takes"
        self.messages: list[str] = []
        self.connections = 0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 24)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._open):
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(writer)
        try:
            if self.mood == "hangs":
                await asyncio.Event().wait()
            await writer.start_tls(self._context)
            if self.mood == "resets":
                await reader.read(100)
                writer.transport.abort()
                return
            data = await reader.read(-1)  # to the sender's close_notify, which is answered
            self.messages += list(_frames(data))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def keys(self) -> list[str]:
        return [re.search(r'key="([^"]*)"', message)[1] for message in self.messages]


def _frames(data: bytes):
    while data:
        length, _, data = data.partition(b" ")
        assert len(data) >= int(length), "a frame is cut off"
        yield data[: int(length)].decode("ascii")
        data = data[int(length) :]


class Collector(Upstream):
    """HTTP: Splunk's collector with indexer acknowledgement, NDJSON, and OTLP, by path.

    ``taken`` holds (key, event) of all requests that were read; while it resets, they are taken and
    the answer is not given. ``bad`` are keys that it refuses for good.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        super().__init__(self._answer)
        self._context = context
        self.mood: Mood = "takes"
        self.taken: list[tuple[str, Any]] = []
        self.bad: set[str] = set()
        self.acks: list[int] = []

    async def start(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", 0, limit=1 << 24, ssl=self._context
        )
        scheme = "https" if self._context else "http"
        self.url = f"{scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def keys(self) -> list[str]:
        return [key for key, _ in self.taken]

    async def _answer(self, request: Received, reply: Reply) -> None:
        if self.mood == "hangs":
            await reply.until_closed()
            return
        if self.mood == "fails":
            await reply.whole(b"no", 500)
            return
        if self.mood == "refuses":
            await reply.whole(b'{"text":"Incorrect index","code":7}', 400)
            return
        if request.target.endswith("/ack"):
            asked = request.json()["acks"]
            await reply.whole(
                json.dumps({"acks": {str(n): n in self.acks for n in asked}}).encode()
            )
            self.acks += asked  # known when asked a second time
            return
        events = list(_events(request))
        if self.bad & {key for key, event in events if "export.replaced" not in json.dumps(event)}:
            await reply.whole(b'{"text":"Invalid data format","code":6}', 400)
            return
        self.taken += events
        if self.mood == "resets":
            reply.reset()
            return
        answer = {"text": "Success", "code": 0, "ackId": len(self.received)}
        await reply.whole(b"{}" if request.target == "/v1/logs" else json.dumps(answer).encode())


def _events(request: Received):
    body = gzip.decompress(request.body) if request.header("content-encoding") else request.body
    if request.target == "/v1/logs":
        for resource in json.loads(body)["resourceLogs"]:
            for scope in resource["scopeLogs"]:
                for record in scope["logRecords"]:
                    about = {each["key"]: each["value"] for each in record["attributes"]}
                    yield about["sluicegate.key"]["stringValue"], record
        return
    for line in body.split(b"\n"):
        if line:
            event = json.loads(line)
            fields = event.get("fields", {})
            key = fields.get("sluicegate_key") or event.get("key") or event["metadata"]["uid"]
            yield key, event
