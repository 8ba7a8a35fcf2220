"""The file operations that the log is made of, behind a seam where tests cut the power.

``Disk`` is the real one. Every operation either has its whole effect or raises ``OSError``; none is
repeated after an error (after a failed flush the kernel may have dropped the pages and call the
next flush a success).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

__all__ = ["Disk", "Storage", "replace_durably", "write_all"]


class Storage(Protocol):
    """What the log asks of a disk. Descriptors are opaque numbers."""

    def create(self, path: Path) -> int:
        """A new empty file, mode 0600, open for appending; it must not exist."""

    def open(self, path: Path) -> int:
        """An existing file, open for appending."""

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """Append; how many bytes were taken, which may be fewer than given."""

    def sync(self, fd: int) -> None:
        """Return when all that was written is durable (fdatasync: data and file size)."""

    def truncate(self, fd: int, size: int) -> None:
        """Cut the file and return when that is durable."""

    def rename(self, source: Path, target: Path) -> None:
        """Rename within one directory; durable after ``sync_dir``."""

    def sync_dir(self, path: Path) -> None:
        """Make creations and renames in a directory durable."""

    def holds(self, fd: int, path: Path) -> bool:
        """Whether ``path`` still names the open file, which was not deleted or replaced."""

    def close(self, fd: int) -> None:
        """Give the descriptor back."""


class Disk:
    """The operating system's files."""

    def create(self, path: Path) -> int:
        """See ``Storage``."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        return os.open(path, flags, 0o600)

    def open(self, path: Path) -> int:
        """See ``Storage``."""
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """See ``Storage``."""
        return os.write(fd, data)

    def sync(self, fd: int) -> None:
        """See ``Storage``."""
        os.fdatasync(fd)

    def truncate(self, fd: int, size: int) -> None:
        """See ``Storage``."""
        os.ftruncate(fd, size)
        os.fsync(fd)

    def rename(self, source: Path, target: Path) -> None:
        """See ``Storage``."""
        source.rename(target)

    def sync_dir(self, path: Path) -> None:
        """See ``Storage``."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def holds(self, fd: int, path: Path) -> bool:
        """See ``Storage``."""
        try:
            return os.path.samestat(os.fstat(fd), path.stat())
        except FileNotFoundError:
            return False

    def close(self, fd: int) -> None:
        """See ``Storage``."""
        os.close(fd)


def write_all(storage: Storage, fd: int, data: bytes) -> None:
    """Write all of ``data``, however many calls the disk takes for it.

    Raises:
        OSError: as the disk raises it; also when it takes nothing.
    """
    view = memoryview(data)
    while view:
        taken = storage.write(fd, view)
        if taken <= 0:
            raise OSError("the disk takes no more bytes")
        view = view[taken:]


def replace_durably(path: Path, data: bytes) -> None:
    """A small file, this user's alone: on disk when this returns, whole or as it was before.

    Raises:
        OSError: as the disk raises it.
    """
    partial = path.with_name(f"{path.name}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
    Disk().sync_dir(path.parent)
