"""Content whose time is over: which of it goes, and its removal once that is on the record.

Files are looked at whole, by the day in their name, so the one that a gateway writes is never among
them. In a file that holds pieces of a member under legal hold those stay where they are, and the
rest becomes holes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import BinaryIO

from gateway.audit.content_store import MAGIC, content_segments, day_of, hole, pieces
from gateway.audit.storage import Disk

__all__ = ["Expired", "expired", "first_day_kept", "remove"]

_COPY_BYTES = 1 << 20
_Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Expired:
    """What of one content file goes: ``ranges``, with ``pieces`` in them, ``bytes`` long; and what
    stays: ``kept``, with ``held`` pieces in it. Ranges are (start, end) in bytes. Where nothing
    stays the whole file goes.
    """

    path: Path
    ranges: Sequence[_Range]
    pieces: int
    bytes: int
    kept: Sequence[_Range]
    held: int


def first_day_kept(today: date, retention_days: int) -> date:
    """Content of earlier days goes: all of it is then older than ``retention_days`` days."""
    return today - timedelta(days=retention_days)


def expired(directory: Path, before: date, held: AbstractSet[str]) -> list[Expired]:
    """What of a log's content is of days before ``before`` and under no hold.

    What cannot be read at the end of a file, after a torn write or damage, may be anyone's: it
    stays while anyone is held.

    Args:
        directory: the content files of one log.
        before: the first day that stays.
        held: ids of the members under legal hold.

    Raises:
        OSError: a file cannot be read.
    """
    found = [
        _in_file(path, held)
        for path in content_segments(directory)
        if (day := day_of(path)) is not None and day < before
    ]
    return [each for each in found if each.ranges]


def _in_file(path: Path, held: AbstractSet[str]) -> Expired:
    frames, size = list(pieces(path)), path.stat().st_size
    theirs = [each for each in frames if each.head is not None and each.head.member in held]
    others = [each for each in frames if each.head is not None and each.head.member not in held]
    kept = [(each.offset, each.end) for each in theirs]
    readable = frames[-1].end if frames else len(MAGIC)
    if held and readable < size:
        kept.append((readable, size))
    ranges = _joined((each.offset, each.end) for each in others) if kept else [(0, size)]
    return Expired(
        path,
        ranges,
        pieces=len(others),
        bytes=sum(each.end - each.offset for each in others),
        kept=kept,
        held=len(theirs),
    )


def _joined(ranges: Iterable[_Range]) -> list[_Range]:
    """Ranges in order, those that touch made one."""
    joined: list[_Range] = []
    for start, end in ranges:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def remove(found: Expired) -> None:
    """Remove what was recorded as gone; doing it again after a crash does no harm.

    Raises:
        OSError: as the disk raises it.
    """
    if found.kept:
        _make_holes(found)
    else:
        found.path.unlink(missing_ok=True)
    Disk().sync_dir(found.path.parent)


def _make_holes(found: Expired) -> None:
    """The file anew, with what stays at its old place; the disk keeps no blocks for the rest."""
    beside = found.path.with_suffix(".pruning")
    beside.unlink(missing_ok=True)  # of a pruning that was cut short
    os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with found.path.open("rb") as source, beside.open("r+b") as target:
        target.write(MAGIC)
        at = len(MAGIC)
        for start, end in found.kept:
            if at < start:
                target.seek(at)
                target.write(hole(start - at))
            source.seek(start)
            target.seek(start)
            _copy(source, target, end - start)
            at = end
        size = found.path.stat().st_size
        if at < size:
            target.seek(at)
            target.write(hole(size - at))
        target.truncate(size)
        target.flush()
        os.fsync(target.fileno())
    beside.replace(found.path)


def _copy(source: BinaryIO, target: BinaryIO, left: int) -> None:
    while left > 0 and (data := source.read(min(left, _COPY_BYTES))):
        target.write(data)
        left -= len(data)
