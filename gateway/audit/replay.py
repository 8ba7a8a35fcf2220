"""Segments read back into the state of their log. Reads only, so a refusal changes nothing.

Every batch is taken whole or not at all: its records are applied when its checkpoint, signed by a
known key, gives the root that they make. What is not of that form is either a torn tail, which
may be cut because nobody was promised it, or damage, for which the log is refused:

* The writer writes batch k+1 only after the flush of batch k returned, so a power cut can damage
  only the last batch, whose sectors may reach the disk in any order.
* Hence damage that has two checkpoints from itself on (itself included, if it was one) lies in a
  batch that had been flushed, and is refused. Only checkpoints with a valid signature and a size
  beyond the last good one count; text that looks like one does not.
* Damage with fewer is taken for a torn tail. The one case that this cannot tell apart, an
  alteration of the very last batch, is settled by a checkpoint kept outside the log.
* A last segment without a readable head, no longer than its head would be, was never opened: the
  head is flushed before the first batch is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import msgspec
from msgspec import Struct

from gateway.audit.note import Checkpoint, NoteError, VerifierKey, parse_checkpoint
from gateway.audit.records import FactsRef
from gateway.audit.segments import (
    CHECKPOINT,
    HEADER,
    RECORD,
    SEALED,
    Frame,
    Head,
    LogCorrupt,
    frames,
    opening,
    read_opening,
)
from gateway.audit.tlog import Tree, leaf_hash

__all__ = ["LogState", "Replayed", "Tail", "replay"]


@dataclass(slots=True)
class LogState:
    """Where a log stands.

    ``open`` maps the request ids of intents without an outcome to their leaf index, in order;
    ``closed`` says that the last record is ``log.closed``.
    """

    tree: Tree = field(default_factory=Tree)
    open: dict[str, int] = field(default_factory=dict)
    hlc: int = 0
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Tail:
    """What may be cut: ``size`` bytes of ``segment`` from ``offset`` on.

    ``damage`` is the offset of the first bytes in it that are not an intact frame. With
    ``unopened`` the segment itself was never begun.
    """

    segment: Path
    offset: int
    size: int
    damage: int
    unopened: bool


@dataclass(frozen=True, slots=True)
class Replayed:
    """The state, the segment to go on with (``None`` for a new log), and a torn tail if any."""

    state: LogState
    segment: Path | None
    tail: Tail | None


class _Leaf(Struct):
    """What the state needs of a record."""

    type: str
    log: str
    seq: int
    hlc: str
    request_id: str = ""
    parent: int = -1
    facts: FactsRef | None = None


_decoder = msgspec.json.Decoder(_Leaf)


class _Replay:
    """One pass over consecutive segments."""

    def __init__(self, origin: str, keys: Sequence[VerifierKey], known: Checkpoint | None) -> None:
        self.origin, self.keys, self.known = origin, keys, known
        self.state: LogState | None = None
        self._segment = ""

    def segment(self, path: Path, *, last: bool) -> Tail | None:
        """Apply one segment; its torn tail, which only the last may have."""
        data = path.read_bytes()
        self._segment = path.name
        try:
            head, offset = read_opening(data)
        except ValueError as error:
            if not last:
                raise self._corrupt(0, str(error)) from None
            return self._unopened(path, data, str(error))
        state = self._enter(head)
        batch: list[Frame] = []
        for found in frames(data, offset):
            batch.append(found)
            if found.kind == CHECKPOINT:
                self._apply(state, batch)
                offset, batch = found.end, []
        if offset == len(data):
            return None
        damage = batch[-1].end if batch else offset
        if not last or self._checkpoints(data, damage) > 1:
            records = sum(found.kind == RECORD for found in batch)
            raise self._corrupt(damage, "damaged after it had been flushed", records)
        return Tail(path, offset, len(data) - offset, damage, unopened=False)

    def _corrupt(self, offset: int, message: str, records: int = 0) -> LogCorrupt:
        leaf = self.state.tree.size if self.state else segment_first(self._segment)
        return LogCorrupt(self._segment, offset, leaf + records, message)

    def _unopened(self, path: Path, data: bytes, problem: str) -> Tail:
        state = self.state or LogState()
        expected = opening(self.origin, bytes(4), state.tree, state.open)
        if int(path.stem) != state.tree.size or len(data) > len(expected):
            raise self._corrupt(0, problem)
        return Tail(path, 0, len(data), 0, unopened=True)

    def _enter(self, head: Head) -> LogState:
        try:
            tree = head.tree()
        except ValueError as error:
            raise self._corrupt(0, str(error)) from None
        if head.origin != self.origin or segment_first(self._segment) != head.first:
            raise self._corrupt(0, f"the segment belongs to {head.origin} at {head.first}")
        if self.state is None:
            self.state = LogState(tree, {name: seq for seq, name in head.open})
            self._compare_known(tree, 0)
            return self.state
        same = (head.first, head.prev_root) == (self.state.tree.size, self.state.tree.root().hex())
        if not same or dict(self.state.open) != {name: seq for seq, name in head.open}:
            raise self._corrupt(0, "the segment does not continue the one before it")
        return self.state

    def _apply(self, state: LogState, batch: list[Frame]) -> None:
        expected: str | None = None
        for found in batch:
            if expected is not None or found.kind == SEALED:
                if found.kind != SEALED or sha256(found.payload).hexdigest() != expected:
                    raise self._corrupt(found.offset, "sealed facts do not belong to their record")
                expected = None
            elif found.kind == RECORD:
                expected = self._record(state, found)
            elif found.kind == CHECKPOINT:
                self._checkpoint(state, found)
            else:
                raise self._corrupt(found.offset, f"unknown frame kind {found.kind}")

    def _record(self, state: LogState, found: Frame) -> str | None:
        """Apply one record; the digest of the sealed frame that must follow it."""
        try:
            leaf = _decoder.decode(found.payload)
            hlc = int(leaf.hlc)
        except (msgspec.DecodeError, ValueError) as error:
            raise self._corrupt(found.offset, f"not a record: {error}") from None
        if leaf.seq != state.tree.size or leaf.log != self.origin:
            raise self._corrupt(found.offset, f"the record says it is {leaf.log}#{leaf.seq}")
        if leaf.type == "access.intent":
            state.open[leaf.request_id] = leaf.seq
        elif leaf.type == "access.outcome" and state.open.pop(leaf.request_id, None) != leaf.parent:
            raise self._corrupt(found.offset, "an outcome without its intent")
        state.hlc, state.closed = hlc, leaf.type == "log.closed"
        state.tree.append(leaf_hash(found.payload))
        self._compare_known(state.tree, found.offset)
        return leaf.facts.sealed_sha256 if leaf.facts else None

    def _checkpoint(self, state: LogState, found: Frame) -> None:
        try:
            checkpoint = parse_checkpoint(found.payload, self.keys)
        except NoteError as error:
            raise self._corrupt(found.offset, str(error)) from None
        signed = (checkpoint.origin, checkpoint.size, checkpoint.root)
        if signed != (self.origin, state.tree.size, state.tree.root()):
            raise self._corrupt(found.offset, "the checkpoint is not of these records")

    def _compare_known(self, tree: Tree, offset: int) -> None:
        known = self.known
        if known and tree.size == known.size and tree.root() != known.root:
            raise self._corrupt(offset, f"not the log that the kept checkpoint {known.size} is of")

    def _checkpoints(self, data: bytes, damage: int) -> int:
        """How many checkpoints stand from the damage on, the damaged frame included."""
        size = self.state.tree.size if self.state else 0
        line = self.origin.encode() + b"\n"
        payload = damage + HEADER.size
        kind = data[payload - 1 : payload]
        count = int(kind == bytes([CHECKPOINT]) or data.startswith(line, payload))
        at = data.find(line, payload + 1)
        while at != -1:
            found = next(frames(data, at - HEADER.size), None)
            if found and found.kind == CHECKPOINT and self._is_later(found.payload, size):
                count += 1
            at = data.find(line, at + 1)
        return count

    def _is_later(self, note: bytes, size: int) -> bool:
        try:
            checkpoint = parse_checkpoint(note, self.keys)
        except NoteError:
            return False
        return checkpoint.origin == self.origin and checkpoint.size > size


def segment_first(name: str) -> int:
    """The leaf index that a segment's file name gives."""
    return int(name.partition(".")[0])


def _start(segments: Sequence[Path], known: Checkpoint | None) -> int:
    """The latest segment to begin with so that what follows can be checked."""
    start = len(segments) - 1
    if start > 0 and not _has_batch(segments[start]):
        start -= 1  # a head alone is not signed: the segment before it vouches for it
    while start > 0 and known and segment_first(segments[start].name) > known.size:
        start -= 1
    return max(start, 0)


def _has_batch(path: Path) -> bool:
    data = path.read_bytes()
    try:
        _, offset = read_opening(data)
    except ValueError:
        return False
    return any(found.kind == CHECKPOINT for found in frames(data, offset))


def replay(
    segments: Sequence[Path],
    origin: str,
    keys: Sequence[VerifierKey],
    *,
    known: Checkpoint | None = None,
    full: bool = False,
) -> Replayed:
    """The state of the log that ``segments`` hold.

    Args:
        segments: all of them, oldest first.
        origin: the log's.
        keys: those that may have signed it.
        known: a checkpoint kept outside the log, which it must extend.
        full: read every segment, not just the last.

    Raises:
        LogCorrupt: the log is refused.
        OSError: a segment cannot be read.
    """
    if known and known.origin != origin:
        raise LogCorrupt("", 0, 0, f"the kept checkpoint is of {known.origin}")
    if segments and segment_first(segments[0].name) != 0:
        raise LogCorrupt(segments[0].name, 0, 0, "the segments before this one are missing")
    run = _Replay(origin, keys, known)
    tail: Tail | None = None
    at = 0 if full else _start(segments, known)
    for path in segments[at:]:
        tail = run.segment(path, last=path is segments[-1])
    going_on = list(segments[:-1] if tail and tail.unopened else segments)
    state = run.state or LogState()
    if known and state.tree.size < known.size:
        name = segments[-1].name if segments else ""
        message = f"the log has {state.tree.size} records, the kept checkpoint {known.size}"
        raise LogCorrupt(name, tail.damage if tail else 0, state.tree.size, message)
    return Replayed(state, going_on[-1] if going_on else None, tail)
