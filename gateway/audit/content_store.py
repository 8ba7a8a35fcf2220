r"""Where sealed content lies: files of its own beside the log, so that it can go while proofs stay.

``content/<shard>/<day>-<number>.cnt``: ``AUDCNT1\n``, then frames, each ``u64 length | u16 head
length | u32 crc | head | sealed piece``, little-endian. The head is JSON and says whose the piece
is (``member``), of which request, and which part; ``length`` is that of head and piece. The CRC-32
is that of both lengths and the head, which prunings go by; of the piece itself the record holds the
SHA-256. A file takes content of one day (UTC) only, so that its name says when its time is over.

What was pruned among pieces that a legal hold keeps is a hole: a frame whose head length is
``0xFFFF`` and whose bytes are gone from the disk. So every other frame stays where its record says.

A frame is durable before the record that names it. What a crash leaves at the end of a file is
therefore named by no record; it is passed over, and the next start begins another file.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec
from msgspec import Struct

from gateway.audit.content import Altered, ContentContext, Part
from gateway.audit.records import ContentRef
from gateway.audit.seal import SealError

__all__ = [
    "HOLE",
    "MAGIC",
    "ContentMissing",
    "Piece",
    "PieceHead",
    "content_of",
    "content_segments",
    "context_of",
    "day_of",
    "frame_head",
    "hole",
    "pieces",
    "ref_of",
    "segment_name",
]

MAGIC = b"AUDCNT1\n"
HOLE = 0xFFFF
_LENGTHS = struct.Struct("<QH")
_CRC = struct.Struct("<I")
_HEADER_BYTES = _LENGTHS.size + _CRC.size
_NAME = re.compile(r"(\d{8})-\d{6}\.cnt\Z")
_PLACES: Mapping[Part, str] = {Part.REQUEST: "request", Part.ANSWER: "response"}
"""Where a record speaks of each part."""


class ContentMissing(SealError):
    """The record names a piece, and it is not where it says: pruned, or gone."""


class PieceHead(Struct, frozen=True, kw_only=True):
    """Whose a piece is; nothing that its record does not say too."""

    member: str
    request_id: str
    part: Part


class Piece(NamedTuple):
    """A frame in a content file: where it begins and ends; a hole has no head."""

    offset: int
    end: int
    head: PieceHead | None


_encoder = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder(PieceHead)


def segment_name(day: date, number: int) -> str:
    """The name of a content file; numbers grow from file to file whatever the day."""
    return f"{day:%Y%m%d}-{number:06d}.cnt"


def day_of(path: Path) -> date | None:
    """The day (UTC) of a content file by its name; ``None`` if it is none."""
    found = _NAME.fullmatch(path.name)
    try:
        return datetime.strptime(found[1], "%Y%m%d").replace(tzinfo=UTC).date() if found else None
    except ValueError:
        return None


def content_segments(directory: Path) -> list[Path]:
    """The content files of one log, by name; none where nothing was ever sealed."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if day_of(path) is not None)


def frame_head(head: PieceHead, piece_bytes: int) -> bytes:
    """What stands before a sealed piece of so many bytes."""
    told = _encoder.encode(head)
    return _header(len(told) + piece_bytes, len(told), told)


def hole(size: int) -> bytes:
    """The first bytes of a hole of ``size`` bytes in place of frames; what follows is not read."""
    return _header(size - _HEADER_BYTES, HOLE, b"")


def _header(length: int, head_length: int, told: bytes) -> bytes:
    lengths = _LENGTHS.pack(length, head_length)
    return lengths + _CRC.pack(zlib.crc32(told, zlib.crc32(lengths))) + told


def pieces(path: Path) -> Iterator[Piece]:
    """The frames of a content file, up to the first that is not whole. Reads heads only: a piece
    that was altered is still one.

    Raises:
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        at = len(MAGIC) if file.read(len(MAGIC)) == MAGIC else size
        while (found := _piece_at(file, at, size)) is not None:
            yield found
            at = found.end


def _piece_at(file: BinaryIO, at: int, size: int) -> Piece | None:
    """The whole frame that begins at ``at``; the file then stands at its sealed piece."""
    file.seek(at)
    header = file.read(_HEADER_BYTES)
    if len(header) < _HEADER_BYTES:
        return None
    length, head_length = _LENGTHS.unpack_from(header)
    told = b"" if head_length == HOLE else file.read(head_length)
    end = at + _HEADER_BYTES + length
    if end > size or len(told) > length or header + told != _header(length, head_length, told):
        return None
    if head_length == HOLE:
        return Piece(at, end, None)
    try:
        return Piece(at, end, _decoder.decode(told))
    except msgspec.DecodeError:
        return None


def context_of(record: Mapping[str, Any], part: Part) -> ContentContext:
    """What a piece of this record is bound to; the record as stored, in plain values."""
    return ContentContext(str(record["log"]), str(record["request_id"]), part)


def ref_of(record: Mapping[str, Any], part: Part) -> ContentRef | None:
    """What a record says of one part's content; ``None`` where nothing is kept of it.

    Raises:
        ValueError: it is not of its shape.
    """
    found = (record.get(_PLACES[part]) or {}).get("content")
    return None if found is None else msgspec.convert(found, ContentRef)


def content_of(directory: Path, record: Mapping[str, Any], part: Part) -> bytes:
    """The sealed piece that a record names: exactly the one that was recorded.

    Args:
        directory: the content files of the record's log (``StateDirectory.content``).
        record: an ``access.intent`` for the request, an ``access.outcome`` for the answer; as
            stored, in plain values.
        part: which of them.

    Raises:
        SealError: nothing was sealed for this part.
        ContentMissing: it is not there any more; a ``content.pruned`` record says if it was pruned.
        Altered: something else lies there.
        OSError: it cannot be read.
    """
    ref = ref_of(record, part)
    if ref is None or not ref.sealed_sha256:
        raise SealError(f"nothing was sealed of the {part} of this call")
    path = directory / ref.segment
    if day_of(path) is None:
        raise Altered("the record names no content file")
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise ContentMissing(f"{ref.segment} is not there: it was pruned, or is gone") from None
    with file:
        found = _piece_at(file, ref.offset, path.stat().st_size)
        if found is None or found.head is None:
            raise ContentMissing(f"nothing lies at {ref.segment}@{ref.offset}: pruned, or damaged")
        blob = file.read(found.end - file.tell())
    if sha256(blob).hexdigest() != ref.sealed_sha256:
        raise Altered(f"what lies at {ref.segment}@{ref.offset} is not what was recorded")
    return blob
