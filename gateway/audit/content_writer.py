"""Sealed content on its way to disk: durable before the record that names it.

All of it runs in the log writer's thread, within its flush. An ``OSError`` latches the log, as any
of the log's own does. A start never appends to an earlier file, so a torn end stays as it is and
hurts nothing.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from hashlib import sha256
from pathlib import Path

from msgspec import Struct

from gateway.audit.content import ContentContext, Part, RolePublicKey, sealed_content
from gateway.audit.content_store import (
    MAGIC,
    PieceHead,
    content_segments,
    frame_head,
    segment_name,
)
from gateway.audit.records import ContentRef
from gateway.audit.storage import Disk, Storage, write_all

__all__ = ["Content", "ContentWriter"]

SEGMENT_BYTES = 64 * 1024 * 1024
NS = 1_000_000_000


class Content(Struct, frozen=True):
    """A body to be sealed: its bytes, whose it is, his key (32 bytes), its keyed digest, and
    whether there was more of it than ``data``."""

    data: bytes
    member: str
    subject_key: bytes
    digest: str
    truncated: bool = False


class ContentWriter:
    """Seals pieces and appends them to the content files of one log.

    Args:
        directory: the log's content files; made when there is something to keep, mode 0700.
        origin: the log's name.
        reviewer: seals the one half.
        approver: seals the other.
        storage: the disk.
        segment_bytes: when to begin the next file.
    """

    def __init__(
        self,
        directory: Path,
        origin: str,
        reviewer: RolePublicKey,
        approver: RolePublicKey,
        *,
        storage: Storage | None = None,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        self._directory, self._origin = directory, origin
        self._reviewer, self._approver = reviewer, approver
        self._storage = storage or Disk()
        self._segment_bytes = segment_bytes
        self._path: Path | None = None
        self._day: date | None = None
        self._fd: int | None = None
        self._size = 0
        self._written = False

    def add(self, content: Content, request_id: str, part: Part, wall: int) -> ContentRef:
        """Seal one piece and write it; durable after ``sync``.

        Args:
            content: what to seal.
            request_id: of the record that will name it.
            part: which side of the call it is.
            wall: Unix nanoseconds.

        Raises:
            OSError: as the disk raises it.
            ValueError: a key is not one.
        """
        context = ContentContext(self._origin, request_id, part)
        piece = sealed_content(
            content.data, content.subject_key, self._reviewer, self._approver, context
        )
        digest = sha256()
        for each in piece:
            digest.update(each)
        head = PieceHead(member=content.member, request_id=request_id, part=part)
        fd, path = self._place(datetime.fromtimestamp(wall // NS, UTC).date())
        offset = self._size
        for each in (frame_head(head, sum(map(len, piece))), *piece):
            write_all(self._storage, fd, each)
            self._size += len(each)
        self._written = True
        return ContentRef(
            digest=content.digest,
            sealed_sha256=digest.hexdigest(),
            segment=path.name,
            offset=offset,
            kept=len(content.data),
            truncated=content.truncated,
        )

    def sync(self) -> None:
        """Return when all that was added is durable.

        Raises:
            OSError: as the disk raises it, or the file was deleted or replaced.
        """
        if not self._written or self._fd is None or self._path is None:
            return
        self._storage.sync(self._fd)
        if not self._storage.holds(self._fd, self._path):
            raise OSError(f"{self._path.name} was deleted or replaced")
        self._written = False

    def close(self) -> None:
        """Give the descriptor back."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            self._storage.close(fd)

    def _place(self, day: date) -> tuple[int, Path]:
        """The file for content of a day; the next one begins where the day or the size ends."""
        if self._fd is not None and self._path is not None:
            if day == self._day and self._size < self._segment_bytes:
                return self._fd, self._path
            self.sync()
            self.close()
        if not self._directory.is_dir():
            self._directory.mkdir(mode=0o700, parents=True)
            self._storage.sync_dir(self._directory.parent)
        last = content_segments(self._directory)
        number = 1 + max((int(path.stem.partition("-")[2]) for path in last), default=0)
        path = self._directory / segment_name(day, number)
        fd = self._storage.create(path)
        self._fd, self._path, self._day = fd, path, day
        write_all(self._storage, fd, MAGIC)
        self._storage.sync_dir(self._directory)
        self._size = len(MAGIC)
        return fd, path
