"""Reading a log: in order, by id, as it grows, with sealed facts, with proofs.

Only batches whose checkpoint is there are given out, so a reader beside a live writer never sees a
record that was not acknowledged, or is about to be. CRCs and order are checked here; signatures
are ``verify``'s matter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from gateway.audit.note import Checkpoint, VerifierKey, parse_checkpoint
from gateway.audit.proof import format_proof
from gateway.audit.records import FactsRef
from gateway.audit.seal import SealError, open_sealed, row_binding
from gateway.audit.segments import (
    CHECKPOINT,
    HEADER,
    MAX_PAYLOAD,
    RECORD,
    SEALED,
    Frame,
    LogCorrupt,
    frames,
    read_opening,
    segment_files,
)
from gateway.audit.tlog import inclusion_proof, leaf_hash, root_of

__all__ = ["Batch", "Entry", "LogReader", "Position"]

POLL_S = 0.2
PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One record as stored: where it lies, its exact bytes, and its sealed frame if it has one."""

    segment: str
    offset: int
    seq: int
    raw: bytes
    sealed: bytes | None

    def json(self) -> dict[str, Any]:
        """The record as plain values; every field that was written, known to us or not."""
        value: dict[str, Any] = msgspec.json.decode(self.raw)
        return value

    def facts(self, subject_key: bytes) -> bytes:
        """The sealed facts: the exact bytes that were evaluated; of a change of the registry, the
        exact row that it made.

        Raises:
            SealError: there are none, or they do not open with this key.
        """
        record = self.json()
        if self.sealed is None:
            raise SealError("this record has no sealed facts")
        ref = msgspec.convert(record["facts"], FactsRef)
        return open_sealed(self.sealed, subject_key, _bound_to(record, self.seq), self.seq, ref)


def _bound_to(record: dict[str, Any], seq: int) -> str:
    """The additional data of what is sealed beside a record."""
    if record["type"] != "registry.changed":
        return str(record["request_id"])
    return row_binding(
        record["log"], seq, record["kind"], record["id"], record.get("digest_after", "")
    )


class Position(NamedTuple):
    """Between two batches: a segment's name, the byte offset there, the leaf index that follows."""

    segment: str
    offset: int
    seq: int


class Batch(NamedTuple):
    """Records that were made durable together, the signed checkpoint over all so far, and where
    the batch ends."""

    entries: list[Entry]
    checkpoint: bytes
    end: Position


class LogReader:
    """Reads the log of one directory; takes no lock and writes nothing.

    Args:
        directory: that of one log.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def entries(
        self,
        start: int = 0,
        *,
        follow: bool = False,
        poll_s: float = POLL_S,
        stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Entry]:
        """The records from leaf ``start`` on.

        Args:
            start: the first leaf index wanted.
            follow: wait for more at the end, until ``stop`` says so.
            poll_s: how long to wait between looks, in seconds.
            stop: asked at every look.

        Raises:
            LogCorrupt: a segment that is not the last does not end with a checkpoint.
            OSError: a segment cannot be read.
        """
        position: Position | None = None
        while True:
            for batch in self.batches(position, start=start):
                position = batch.end
                yield from (entry for entry in batch.entries if entry.seq >= start)
            if not follow or stop():
                return
            time.sleep(poll_s)

    def batches(self, after: Position | None = None, *, start: int = 0) -> Iterator[Batch]:
        """The whole batches that lie on disk by now, in order.

        Args:
            after: where the last one seen ended; reading goes on there.
            start: else, a leaf index: begin with the segment that holds it.

        Raises:
            LogCorrupt: a segment that is not the last does not end with a checkpoint, or ``after``
                is not a place in this log.
            OSError: a segment cannot be read.
        """
        segments = segment_files(self._directory)
        if after is None:
            before = [path for path in segments if int(path.stem) <= start]
            first, offset, seq = before[-1:] or segments[:1], 0, 0
        else:
            first = [path for path in segments if path.name == after.segment]
            offset, seq = after.offset, after.seq
            if not first or offset > first[0].stat().st_size:
                raise LogCorrupt(after.segment, offset, seq, "the log was longer when last read")
        left = [*first, *(path for path in segments if first and path > first[0])]
        for path, following in zip_longest(left, left[1:]):
            data = _read_from(path, offset)
            done = 0
            if offset == 0:
                done, seq = _opening(data, path.stem)
            for found in _batches(data, done) if offset or done else ():
                entries = list(_entries(found, path.name, offset, seq))
                seq += len(entries)
                done = found[-1].end
                end = Position(path.name, offset + done, seq)
                yield Batch(entries, found[-1].payload, end)
            if following is not None and done < len(data):
                raise LogCorrupt(path.name, offset + done, seq, "the segment is damaged here")
            offset = 0

    def check_settled(self, end: Position | None, patience_s: float = PATIENCE_S) -> None:
        """Whether what lies after the last whole batch is only a batch that is being written.

        Args:
            end: where reading stopped; ``None`` where there was no batch.
            patience_s: how long a writer may take, in seconds.

        Raises:
            LogCorrupt: it stayed as it is: damage, with whatever lies behind it.
        """
        last = next(iter(reversed(segment_files(self._directory))), None)
        if last is None:
            return
        offset = end.offset if end is not None and end.segment == last.name else 0
        seen, until = last.stat().st_size, time.monotonic() + patience_s
        while offset < seen:
            offset = _whole_until(last, offset)
            if offset < seen and time.monotonic() > until:
                seq = end.seq if end is not None else 0
                raise LogCorrupt(last.name, offset, seq, "damaged, or after the last checkpoint")
            if offset < seen:
                time.sleep(POLL_S / 4)

    def raw(self, segment: str, offset: int) -> bytes:
        """The exact bytes of the record whose frame lies at ``offset`` of a segment.

        Raises:
            LogCorrupt: there is no intact record.
            OSError: the segment cannot be read.
        """
        with (self._directory / segment).open("rb") as file:
            file.seek(offset)
            head = file.read(HEADER.size)
            length = HEADER.unpack(head)[0] if len(head) == HEADER.size else 0
            data = head + file.read(min(length, MAX_PAYLOAD))
        found = next(frames(data, 0), None)
        if found is None or found.kind != RECORD:
            raise LogCorrupt(segment, offset, 0, "there is no record here")
        return found.payload

    def find(self, seq: int) -> Entry | None:
        """The record at leaf ``seq``."""
        first = next(self.entries(seq), None)
        return first if first is not None and first.seq == seq else None

    def by_request(self, request_id: str) -> list[Entry]:
        """All records of one request, in order. Reads the whole log."""
        return self._matching("request_id", request_id)

    def by_decision(self, decision_id: str) -> list[Entry]:
        """All records of one decision, in order. Reads the whole log."""
        return self._matching("decision_id", decision_id)

    def latest(self, keys: Sequence[VerifierKey]) -> Checkpoint:
        """The newest checkpoint in the log.

        Raises:
            LogCorrupt: there is none.
            NoteError: it is not signed by one of ``keys``.
        """
        for path in reversed(segment_files(self._directory)):
            data = path.read_bytes()
            start, _ = _opening(data, path.stem)
            notes = [batch[-1].payload for batch in _batches(data, start)] if start else []
            if notes:
                return parse_checkpoint(notes[-1], keys)
        raise LogCorrupt("", 0, 0, "the log has no checkpoint")

    def proof(self, seq: int, keys: Sequence[VerifierKey]) -> bytes:
        """A ``tlog-proof`` of the record at ``seq`` against the newest checkpoint.

        Reads the whole log.

        Raises:
            ValueError: there is no such record, or the log's beginning has been removed.
            LogCorrupt: the records do not give the checkpoint's root.
            NoteError: the checkpoint is not signed by one of ``keys``.
        """
        checkpoint = self.latest(keys)
        leaves: list[bytes] = []
        for entry in self.entries():
            if entry.seq != len(leaves):
                raise ValueError("the beginning of the log has been removed")
            if entry.seq == checkpoint.size:
                break
            leaves.append(leaf_hash(entry.raw))
        if root_of(leaves) != checkpoint.root:
            raise LogCorrupt("", 0, 0, "the records do not give the root that was signed")
        return format_proof(seq, inclusion_proof(leaves, seq), checkpoint.note)

    def _matching(self, name: str, value: str) -> list[Entry]:
        needle = msgspec.json.encode(value)
        return [
            entry
            for entry in self.entries()
            if needle in entry.raw and entry.json().get(name) == value
        ]


def _read_from(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read()


def _opening(data: bytes, stem: str) -> tuple[int, int]:
    """Offset and leaf index of the first batch; offset 0 while the head is not there yet."""
    try:
        head, offset = read_opening(data)
    except ValueError:
        return 0, int(stem)
    return offset, head.first


def _whole_until(path: Path, offset: int) -> int:
    """Where the whole batches of a segment end, read from ``offset``; 0 while it has no head."""
    data = _read_from(path, offset)
    done = _opening(data, path.stem)[0] if offset == 0 else 0
    for batch in _batches(data, done) if offset or done else ():
        done = batch[-1].end
    return offset + done


def _batches(data: bytes, start: int) -> Iterator[list[Frame]]:
    """The whole batches, each with its checkpoint last."""
    batch: list[Frame] = []
    for found in frames(data, start):
        batch.append(found)
        if found.kind == CHECKPOINT:
            yield batch
            batch = []


def _entries(batch: list[Frame], segment: str, base: int, seq: int) -> Iterator[Entry]:
    """The records of a batch; ``base`` is the file offset of its frames' offset 0."""
    for found, following in pairwise(batch):
        if found.kind == RECORD:
            sealed = following.payload if following.kind == SEALED else None
            yield Entry(segment, base + found.offset, seq, found.payload, sealed)
            seq += 1
