r"""The file format: segments of frames. Pure; ``docs/audit-format.md`` gives it byte for byte.

A segment is ``AUDSEG1\n``, a head frame, and batches: records (``R``), each directly followed by
its sealed facts (``S``) if it has any, ended by a signed checkpoint (``C``). A frame is
``u32 length | u32 crc | u8 kind | payload``, little-endian; the CRC-32 of the payload starts from
the value of the kind byte, so a changed kind is a changed CRC. The CRC finds accidents and ends of
torn writes; the tree and the signatures find everything else.

Segments grow; they are not preallocated. Measured, preallocation won nothing end to end without
filling the file with zeros beforehand, a growing file needs no background filler and no rule for
what zeros mean, and its length says how much a torn write left.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from gateway.audit.tlog import Tree

__all__ = [
    "CHECKPOINT",
    "HEAD",
    "HEADER",
    "MAX_PAYLOAD",
    "RECORD",
    "SEALED",
    "Frame",
    "Head",
    "LogCorrupt",
    "frame",
    "frames",
    "opening",
    "read_opening",
    "segment_files",
    "segment_name",
]

MAGIC = b"AUDSEG1\n"
HEADER = struct.Struct("<IIB")
MAX_PAYLOAD = 1 << 20
HEAD, RECORD, CHECKPOINT, SEALED = 0x48, 0x52, 0x43, 0x53
_NAME = re.compile(r"\d{20}\.seg\Z")
_HEAD_VERSION = "audseg/1"


class LogCorrupt(Exception):
    """The log is not what was written and signed; it is refused.

    Args:
        segment: file name, or empty where no one file is at fault.
        offset: byte offset of the fault in it.
        leaf: index of the first record that cannot be vouched for.
        message: what is wrong.
    """

    def __init__(self, segment: str, offset: int, leaf: int, message: str) -> None:
        where = f"{segment}@{offset}, " if segment else ""
        super().__init__(f"{where}leaf {leaf}: {message}")
        self.segment, self.offset, self.leaf, self.message = segment, offset, leaf, message


class Frame(NamedTuple):
    """An intact frame: where it begins and ends, its kind, its payload."""

    offset: int
    end: int
    kind: int
    payload: bytes


class Head(Struct, frozen=True, forbid_unknown_fields=True):
    """What a segment continues: with it, a start reads only the last segment.

    ``first`` is the index of its first leaf, ``prev_root`` the root at that size, ``frontier`` the
    tree there (hashes in hex), ``key_id`` the key that signs (hex), ``open`` the intents that still
    wait for their outcome, as (leaf index, request id) in order.
    """

    v: str
    origin: str
    first: int
    prev_root: str
    key_id: str
    frontier: tuple[str, ...]
    open: tuple[tuple[int, str], ...]

    def tree(self) -> Tree:
        """The tree before the segment's first leaf.

        Raises:
            ValueError: frontier, size and root do not fit.
        """
        tree = Tree(self.first, [bytes.fromhex(node) for node in self.frontier])
        if tree.root().hex() != self.prev_root:
            raise ValueError("the head's frontier does not give its root")
        return tree


_encoder = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder(Head)


def segment_name(first: int) -> str:
    """The file name of the segment whose first leaf has this index."""
    return f"{first:020d}.seg"


def segment_files(directory: Path) -> list[Path]:
    """The segments of a log, oldest first."""
    return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))


def frame(kind: int, payload: bytes) -> bytes:
    """One frame."""
    return HEADER.pack(len(payload), zlib.crc32(payload, kind), kind) + payload


def frames(data: bytes, start: int) -> Iterator[Frame]:
    """The intact frames from ``start`` up to the first that is not one, or the end."""
    size = len(data)
    while start + HEADER.size <= size:
        length, crc, kind = HEADER.unpack_from(data, start)
        end = start + HEADER.size + length
        if length > MAX_PAYLOAD or end > size:
            return
        payload = data[start + HEADER.size : end]
        if zlib.crc32(payload, kind) != crc:
            return
        yield Frame(start, end, kind, payload)
        start = end


def opening(origin: str, key_id: bytes, tree: Tree, intents: dict[str, int]) -> bytes:
    """The first bytes of a segment that continues a log in this state."""
    head = Head(
        v=_HEAD_VERSION,
        origin=origin,
        first=tree.size,
        prev_root=tree.root().hex(),
        key_id=key_id.hex(),
        frontier=tuple(node.hex() for node in tree.frontier),
        open=tuple((seq, request_id) for request_id, seq in intents.items()),
    )
    return MAGIC + frame(HEAD, _encoder.encode(head))


def read_opening(data: bytes) -> tuple[Head, int]:
    """A segment's head, and the offset of its first batch.

    Raises:
        ValueError: magic or head is missing, damaged, or of another version.
    """
    first = next(frames(data, len(MAGIC)), None)
    if not data.startswith(MAGIC) or first is None or first.kind != HEAD:
        raise ValueError("the segment has no head")
    try:
        head = _decoder.decode(first.payload)
    except msgspec.DecodeError as error:
        raise ValueError(f"the segment's head is malformed: {error}") from None
    if head.v != _HEAD_VERSION:
        raise ValueError(f"unknown segment version {head.v!r}")
    return head, first.end
