"""The bus: how news travels between the control process and the data workers on one machine.

A local socket (0600) carries length-prefixed MessagePack frames. The control process sends the
registry snapshot and then every change, each revision's bundle, and a heartbeat; a worker sends
what it applied, its newest checkpoint (kept outside the log, so that a rewound log is noticed)
and its counters. A worker that hears nothing knows that it is blind, and refuses restricted models
once its registry is too old.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from typing import ClassVar

import msgspec
from msgspec import Struct

__all__ = [
    "Alarm",
    "Applied",
    "BundleNews",
    "Checkpoint",
    "EndpointFailures",
    "Heartbeat",
    "Hello",
    "Link",
    "Message",
    "RegistryDelta",
    "RegistrySnapshot",
    "Report",
]

MAX_FRAME_BYTES = 1 << 30
_LENGTH = struct.Struct("<I")


class Hello(Struct, frozen=True, tag=True):
    """A worker's first words: its shard, process id and log key."""

    shard: str
    pid: int
    vkey: str


class RegistrySnapshot(Struct, frozen=True, tag=True):
    """The whole registry, as ``registry.snapshot`` encodes it."""

    payload: bytes


class RegistryDelta(Struct, frozen=True, tag=True):
    """One change, as ``registry.snapshot`` encodes it; ``ticket`` is echoed in ``Applied``."""

    ticket: int
    payload: bytes


class BundleNews(Struct, frozen=True, tag=True):
    """A revision to activate: an OPA bundle archive; ``ticket`` is echoed in ``Applied``."""

    ticket: int
    revision: str
    archive: bytes


class Applied(Struct, frozen=True, tag=True):
    """News took effect here, and so many running exchanges were ended by it."""

    ticket: int
    ended: int
    findings: tuple[str, ...] = ()


class Heartbeat(Struct, frozen=True, tag=True):
    """The control process lives."""


class Checkpoint(Struct, frozen=True, tag=True):
    """A worker's newest signed checkpoint."""

    note: bytes


class EndpointFailures(Struct, frozen=True):
    """How often a model endpoint failed since the worker started, when last (Unix seconds), and
    how (a ``core.reasons.Reason``)."""

    times: int
    last_at: float
    reason: str


class Report(Struct, frozen=True, tag=True):
    """A worker's state once a second, and its counters. ``failures`` are by endpoint."""

    ready: bool
    revision: str
    epoch: int
    running: int
    log_size: int
    log_failed: str
    metrics: bytes
    memo_hits: int = 0
    memo_misses: int = 0
    failures: dict[str, EndpointFailures] = {}


class Alarm(Struct, frozen=True, tag=True):
    """Something that people must see."""

    name: str
    detail: str


Message = (
    Hello
    | RegistrySnapshot
    | RegistryDelta
    | BundleNews
    | Applied
    | Heartbeat
    | Checkpoint
    | Report
    | Alarm
)


class Link:
    """One end of a connection."""

    _decoder: ClassVar[msgspec.msgpack.Decoder[Message]] = msgspec.msgpack.Decoder(Message)
    _encoder: ClassVar[msgspec.msgpack.Encoder] = msgspec.msgpack.Encoder()

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._sending = asyncio.Lock()

    async def send(self, message: Message) -> None:
        """Send one message.

        Raises:
            ConnectionError: the other end is gone.
        """
        frame = self._encoder.encode(message)
        async with self._sending:
            self._writer.write(_LENGTH.pack(len(frame)) + frame)
            await self._writer.drain()

    async def receive(self) -> Message:
        """Wait for one message.

        Raises:
            ConnectionError: the other end is gone or does not keep to the format.
        """
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            if length > MAX_FRAME_BYTES:
                raise ConnectionError("frame too long")
            return self._decoder.decode(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, msgspec.DecodeError) as error:
            raise ConnectionError(str(error)) from None

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
