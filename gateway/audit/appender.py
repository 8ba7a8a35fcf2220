"""The open end of a log on disk: batches go in durably, and segments follow one another."""

from __future__ import annotations

from pathlib import Path

from gateway.audit.segments import opening, segment_name
from gateway.audit.storage import Storage, write_all
from gateway.audit.tlog import Tree

__all__ = ["Appender"]

MAX_OPEN_AT_ROTATION = 16_000
"""A head must fit into a frame; with more intents open, rotation waits."""


class Appender:
    """Appends to the last segment and begins new ones. After an ``OSError`` it is done for.

    Args:
        directory: the log's.
        origin: the log's.
        key_id: of the key that signs.
        storage: the disk.
        segment: the segment to go on with; ``None`` begins the first one at the first batch.
        segment_bytes: the batch after the one that passes this size opens the next segment.
    """

    def __init__(
        self,
        directory: Path,
        origin: str,
        key_id: bytes,
        storage: Storage,
        *,
        segment: Path | None,
        segment_bytes: int,
    ) -> None:
        self._directory, self._origin, self._key_id = directory, origin, key_id
        self._storage = storage
        self._segment_bytes = segment_bytes
        self._path = segment
        self._fd = storage.open(segment) if segment else None
        self._size = segment.stat().st_size if segment else 0

    def prepare(self, tree: Tree, intents: dict[str, int]) -> None:
        """Begin the next segment if it is time, before the batch that follows this state.

        The head is flushed, and then the directory, before any batch is written: a segment
        without a readable head holds nothing.

        Raises:
            OSError: as the disk raises it.
        """
        full = self._size >= self._segment_bytes and len(intents) <= MAX_OPEN_AT_ROTATION
        if self._fd is not None and not full:
            return
        self.close()
        data = opening(self._origin, self._key_id, tree, intents)
        self._path = self._directory / segment_name(tree.size)
        self._fd = self._storage.create(self._path)
        write_all(self._storage, self._fd, data)
        self._storage.sync(self._fd)
        self._storage.sync_dir(self._directory)
        self._size = len(data)

    def append(self, batch: bytes) -> None:
        """Write one batch and return when it is durable. Follows ``prepare``.

        Raises:
            OSError: as the disk raises it; what is on disk is then unknown until a restart.
        """
        if self._fd is None or self._path is None:
            raise OSError("no segment is open")
        write_all(self._storage, self._fd, batch)
        self._storage.sync(self._fd)
        if not self._storage.holds(self._fd, self._path):
            raise OSError(f"{self._path.name} was deleted or replaced")
        self._size += len(batch)

    def close(self) -> None:
        """Give the descriptor back."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            self._storage.close(fd)
