"""Records on their way to another system: which, in what pieces, how far. Pure, but for reading.

A log is followed from its disk; each record becomes an event with the key ``origin#seq``, by which
the other side knows one that comes twice. Events of one log travel in parcels, in order. A cursor
says how far each log has arrived: it moves when a parcel was acknowledged, so what is sent twice is
possible and what is left out is not.

An event that is longer than its destination takes, or that the destination refuses for good, is
replaced by a notice that stands in its place: key, type, time, length and leaf hash of the record,
and why. So nothing stops behind it, and nobody overlooks that it is missing.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from gateway.audit.ocsf import event as ocsf_event
from gateway.audit.read import Entry, LogReader, Position
from gateway.audit.segments import LogCorrupt
from gateway.audit.tlog import leaf_hash

__all__ = [
    "Account",
    "Cursor",
    "Encoding",
    "Event",
    "Follower",
    "Item",
    "Mark",
    "Parcel",
    "Read",
    "Refused",
    "Rendering",
    "decode_account",
    "decode_cursor",
    "deliver",
    "parcels",
    "pieces",
    "rendering",
]

HEARTBEAT = "log.heartbeat"
PARCEL_EVENTS = 500
PARCEL_BYTES = 1 << 20
"""Bounds of one parcel of events."""
PIECE_BYTES = 8 << 20
"""An archive's object is closed by the batch of the log that reaches this."""
NOTICE = "export.replaced"
NOTICE_VERSION = "export/1"
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z", re.ASCII)


class Refused(Exception):
    """A destination took a parcel for malformed or too large: the same again would be refused."""


class Item(NamedTuple):
    """A record to be sent; of an outcome, with the intent that it ends where that is known."""

    seq: int
    raw: bytes
    record: dict[str, Any]
    intent: dict[str, Any] | None = None

    @property
    def key(self) -> str:
        """``origin#seq``: the same whenever this record is sent."""
        return f"{self.record['log']}#{self.seq}"

    @property
    def time_ns(self) -> int:
        """Unix time of the record in nanoseconds; 0 where it tells none."""
        told = self.record.get("time")
        found = _TIME.fullmatch(told) if isinstance(told, str) else None
        if found is None:
            return 0
        try:
            seconds = datetime.fromisoformat(f"{found[1]}+00:00").timestamp()
        except ValueError:
            return 0
        return int(seconds) * 1_000_000_000 + int((found[2] or "").ljust(9, "0"))


class Read(NamedTuple):
    """The records of one batch of a log, the checkpoint that they are under, what comes next."""

    items: list[Item]
    checkpoint: bytes
    end: int


class Event(NamedTuple):
    """An item as its destination reads it."""

    item: Item
    data: bytes


class Parcel(NamedTuple):
    """Events of one log that are sent together, in order.

    ``first`` is the index of the first record that it accounts for, and ``end`` that after the
    last: records between them that are not sent were not wanted. ``checkpoint`` is, of a piece of
    an archive, the one over all records before ``end``.
    """

    first: int
    end: int
    events: list[Event]
    checkpoint: bytes = b""


class Encoding(NamedTuple):
    """How a destination reads an event, and several of them together."""

    event: Callable[[Item], bytes]
    head: bytes = b""
    joint: bytes = b""
    tail: bytes = b""

    def body(self, events: Sequence[Event]) -> bytes:
        """Several events in one."""
        return self.head + self.joint.join(event.data for event in events) + self.tail

    def bounded(self, item: Item, most: int) -> tuple[Event, bool]:
        """The event, or where it is longer than ``most`` bytes its notice; and whether it is."""
        event = Event(item, self.event(item))
        if len(event.data) <= most:
            return event, False
        return self.notice(item, f"the event is longer than {most} bytes"), True

    def notice(self, item: Item, why: str) -> Event:
        """What stands in the place of an event that cannot be sent."""
        record = {
            "v": NOTICE_VERSION,
            "type": NOTICE,
            "log": item.record["log"],
            "seq": item.seq,
            "time": item.record.get("time", ""),
            "replaced": {
                "type": str(item.record.get("type", ""))[:64],
                "bytes": len(item.raw),
                "leaf_sha256": leaf_hash(item.raw).hex(),
                "why": why,
            },
        }
        replaced = Item(item.seq, msgspec.json.encode(record, order="sorted"), record)
        return Event(replaced, self.event(replaced))


Rendering = Callable[[Item], bytes]
"""An item as one JSON object, without a line end."""


def rendering(form: str, product_version: str) -> Rendering:
    """Items as ``ocsf``, or as ``record``: the exact bytes."""
    if form == "record":
        return lambda item: item.raw

    def ocsf(item: Item) -> bytes:
        try:
            event = ocsf_event(item.record, product_version=product_version, intent=item.intent)
        except ValueError:  # the intent is of a shape that this version does not know
            event = ocsf_event(item.record, product_version=product_version)
        return msgspec.json.encode(event)

    return ocsf


# Following a log


class Follower:
    """Reads one log as it grows, and keeps in mind the intents that wait for their outcome.

    Args:
        directory: of the log.
        start: the first record wanted. Reading begins with the segment that holds it, for the
            intents before it.
    """

    def __init__(self, directory: Path, start: int) -> None:
        self._reader = LogReader(directory)
        self._start = start
        self._after: Position | None = None
        self._expected = start
        self._open: dict[int, dict[str, Any]] = {}

    def read(self) -> Iterator[Read]:
        """What was made durable since, batch by batch.

        Raises:
            LogCorrupt: the log is damaged, shorter than it was, or a record is missing.
            OSError: it cannot be read.
        """
        for batch in self._reader.batches(self._after, start=self._start):
            self._after = batch.end
            items = [self._item(entry) for entry in batch.entries]
            wanted = [item for item in items if item.seq >= self._start]
            if wanted:
                if wanted[0].seq != self._expected:
                    message = f"the records from {self._expected} on are not there"
                    raise LogCorrupt(batch.end.segment, 0, wanted[0].seq, message)
                self._expected = batch.end.seq
                yield Read(wanted, batch.checkpoint, batch.end.seq)
        size = self._after.seq if self._after is not None else 0
        if size < self._start:
            message = f"the log is shorter than when {self._start} records of it were exported"
            raise LogCorrupt("", 0, size, message)

    def _item(self, entry: Entry) -> Item:
        try:
            record = entry.json()
            kind, _ = record["type"], record["log"]
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
            message = "what is stored is not a record"
            raise LogCorrupt(entry.segment, entry.offset, entry.seq, message) from None
        intent = None
        if kind == "access.intent":
            self._open[entry.seq] = record
        elif kind == "access.outcome" and entry.seq >= self._start:
            intent = self._intent(record)
        elif kind == "access.outcome":
            self._open.pop(record.get("parent", -1), None)
        return Item(entry.seq, entry.raw, record, intent)

    def _intent(self, outcome: dict[str, Any]) -> dict[str, Any] | None:
        """Of a call that runs longer than a segment, after a start, it lies further back."""
        parent = outcome.get("parent")
        if type(parent) is not int or parent < 0:
            return None
        intent = self._open.pop(parent, None)
        if intent is None:
            found = self._reader.find(parent)
            intent = found.json() if found is not None else None
        if intent is None or intent.get("request_id") != outcome.get("request_id"):
            return None
        return intent


def parcels(
    reads: Iterable[Read],
    first: int,
    encode: Callable[[Item], Event],
    *,
    heartbeats: bool = False,
    most_events: int = PARCEL_EVENTS,
    most_bytes: int = PARCEL_BYTES,
) -> Iterator[Parcel]:
    """Cut what was read into parcels.

    Args:
        reads: in order.
        first: the first record that no parcel has accounted for.
        encode: makes an event.
        heartbeats: whether records that say no more than that a log is alive are sent.
        most_events: in one parcel.
        most_bytes: in one parcel, unless one event alone is longer.
    """
    events: list[Event] = []
    size, end = 0, first
    for read in reads:
        for item in read.items:
            if heartbeats or item.record["type"] != HEARTBEAT:
                event = encode(item)
                full = len(events) >= most_events or size + len(event.data) > most_bytes
                if events and full:
                    yield Parcel(first, end, events)
                    events, size, first = [], 0, end
                events.append(event)
                size += len(event.data)
            end = item.seq + 1
    if end > first:
        yield Parcel(first, end, events)


def pieces(
    reads: Iterable[Read],
    first: int,
    encode: Callable[[Item], Event],
    *,
    sealed: int = 0,
    most_bytes: int = PIECE_BYTES,
) -> Iterator[Parcel]:
    """Cut what was read into whole pieces of the log, each with the checkpoint that it ends with.

    Args:
        reads: in order.
        first: the first record that no piece has accounted for.
        encode: makes an event.
        sealed: where the first piece has to end, if it was begun before; else 0.
        most_bytes: the batch that reaches this closes a piece.
    """
    events: list[Event] = []
    size, note, end = 0, b"", first
    for read in reads:
        events += [encode(item) for item in read.items]
        size += sum(len(item.raw) for item in read.items)
        note, end = read.checkpoint, read.end
        if end == sealed or (end > sealed and size >= most_bytes):
            yield Parcel(first, end, events, note)
            events, size, first = [], 0, end
    if end > first:
        yield Parcel(first, end, events, note)


async def deliver(
    events: Sequence[Event],
    send: Callable[[Sequence[Event]], Awaitable[None]],
    replace: Callable[[Event, str], Event],
) -> None:
    """Send events in order; one that is refused for good is replaced, and the others are not.

    Args:
        events: of one parcel.
        send: raises ``Refused`` where the destination will never take these.
        replace: makes the notice that takes the place of an event, and why.

    Raises:
        Refused: the destination refuses the notice too: it is not the event's fault. Whatever else
            ``send`` raises, as it comes.
    """
    if not events:
        return
    try:
        await send(events)
    except Refused as refused:
        if len(events) > 1:
            half = len(events) // 2
            await deliver(events[:half], send, replace)
            await deliver(events[half:], send, replace)
            return
        await send([replace(events[0], str(refused))])


# How far it has come


class Mark(Struct, frozen=True, omit_defaults=True):
    """How far a log has arrived: ``next`` is the first record that was not acknowledged.
    ``sealed`` is where the piece ends that was begun, so that trying again makes the same one."""

    next: int
    sealed: int = 0


class Cursor(Struct, tag_field="v", tag="cursor/1"):
    """How far each log has arrived, by shard."""

    logs: dict[str, Mark]

    def encode(self) -> bytes:
        """As it is kept."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


def decode_cursor(data: bytes) -> Cursor:
    """What ``Cursor.encode`` gave.

    Raises:
        ValueError: it is something else.
    """
    try:
        cursor = msgspec.json.decode(data, type=Cursor)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"not a cursor: {error}") from None
    if any(mark.next < 0 for mark in cursor.logs.values()):
        raise ValueError("not a cursor: a log has no record before its first")
    return cursor


class Account(Struct, omit_defaults=True):
    """How an exporter does, in its own words; kept beside its cursor for whoever asks.

    Times are Unix seconds. All that was durable at ``through`` has arrived; 0 where nothing has
    yet. ``failures`` counts attempts since the last that succeeded; ``replaced`` events since the
    exporter's first start, of which ``last_replaced`` was the last.
    """

    name: str
    kind: str
    pid: int = 0
    through: float = 0.0
    sent: int = 0
    replaced: int = 0
    last_replaced: str = ""
    failures: int = 0
    last_error: str = ""
    last_error_at: float = 0.0

    def encode(self) -> bytes:
        """As it is kept."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


def decode_account(data: bytes) -> Account:
    """What ``Account.encode`` gave.

    Raises:
        ValueError: it is something else.
    """
    try:
        return msgspec.json.decode(data, type=Account)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"not an exporter's account: {error}") from None
