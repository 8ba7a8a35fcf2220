"""Start-up: one writer, a log that is what was signed, and no tail that was promised to nobody.

Healing never destroys: cut bytes are first copied to ``<segment>.torn-<ms>``, durably. Every step
can be cut short and the next start does it again.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path

from gateway.audit.note import Checkpoint, VerifierKey
from gateway.audit.records import LogRecovered
from gateway.audit.replay import LogState, Tail, replay
from gateway.audit.segments import segment_files
from gateway.audit.storage import Storage, write_all
from gateway.core.protocols import LogUnavailable

__all__ = ["lock", "recover"]

_LOCK = "lock"


def lock(directory: Path) -> int:
    """Make the directory if need be and lock it for this process.

    Returns:
        The descriptor that holds the lock.

    Raises:
        LogUnavailable: another process writes this log.
        OSError: the directory cannot be made or written.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise LogUnavailable(f"another process writes the log in {directory.name}") from None
    return fd


def recover(
    directory: Path,
    origin: str,
    keys: Sequence[VerifierKey],
    storage: Storage,
    *,
    known: Checkpoint | None,
    full: bool,
    now_ms: int,
) -> tuple[LogState, Path | None, LogRecovered | None]:
    """Read the log, and heal what a power cut left.

    Returns:
        Its state, the segment to go on with (``None``: begin one), and the record of what was
        healed, with ``orphans`` still open in the state.

    Raises:
        LogCorrupt: refused; nothing was changed.
        OSError: the disk failed.
    """
    found = replay(segment_files(directory), origin, keys, known=known, full=full)
    state, tail = found.state, found.tail
    if tail is None and not state.open:
        return state, found.segment, None
    record = LogRecovered(
        segment=(tail.segment if tail else found.segment or directory).name,
        offset=tail.offset if tail else 0,
        torn_bytes=tail.size if tail else 0,
        orphans=len(state.open),
        kept_as=_heal(storage, tail, now_ms) if tail else "",
    )
    return state, found.segment, record


def _heal(storage: Storage, tail: Tail, now_ms: int) -> str:
    """Put a torn tail aside; the name it is kept under."""
    aside = tail.segment.with_name(f"{tail.segment.name}.torn-{now_ms}")
    while aside.exists():
        now_ms += 1
        aside = tail.segment.with_name(f"{tail.segment.name}.torn-{now_ms}")
    if tail.unopened:
        storage.rename(tail.segment, aside)
        storage.sync_dir(aside.parent)
        return aside.name
    fd = storage.create(aside)
    try:
        write_all(storage, fd, tail.segment.read_bytes()[tail.offset :])
        storage.sync(fd)
    finally:
        storage.close(fd)
    storage.sync_dir(aside.parent)
    fd = storage.open(tail.segment)
    try:
        storage.truncate(fd, tail.offset)
    finally:
        storage.close(fd)
    return aside.name
