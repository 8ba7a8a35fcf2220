"""Every bundle that was activated, kept under its digest: what a decision was made by can be read.

``DIRECTORY/<64 hex digits>.tar.gz`` holds the archive as it was published, signed if it was. A
file's name proves nothing: what is read is unpacked and its digest taken again, so an archive that
was changed or put under another's name is refused.
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from gateway.policy.archive import MAX_ARCHIVE_BYTES, read_archive
from gateway.policy.bundle import Bundle
from gateway.policy.findings import BundleError

__all__ = [
    "RevisionNotKept",
    "forget_revision",
    "keep_revision",
    "kept_archive",
    "kept_revision",
    "path_of",
]

_ID = re.compile(r"sha256:([0-9a-f]{64})")


class RevisionNotKept(Exception):
    """A revision cannot be had: it is not there, cannot be read, or is not what its name says."""

    def __init__(self, revision: str, problem: str) -> None:
        super().__init__(f"revision {ascii(revision[:80])[1:-1]}: {problem}")
        self.revision = revision


def keep_revision(directory: Path, revision: str, archive: bytes) -> bool:
    """Keep the archive of a revision; done when it is on the disk. One that is kept as it is stays.

    Args:
        directory: made, mode 0700, if it is missing.
        revision: the bundle's id.
        archive: the ``tar.gz`` of this very bundle.

    Returns:
        Whether the revision was not kept before.

    Raises:
        ValueError: the id is not of a bundle's form.
        OSError: it cannot be written.
    """
    path = path_of(directory, revision)
    directory.mkdir(mode=0o700, exist_ok=True)
    new = not path.exists()
    if not new and path.read_bytes() == archive:
        return False
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(archive)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    _flush_names(directory)
    return new


def forget_revision(directory: Path, revision: str) -> None:
    """Remove one that was kept for an activation that did not come about."""
    path_of(directory, revision).unlink(missing_ok=True)


def kept_revision(directory: Path, revision: str) -> Bundle:
    """The bundle of a revision.

    Args:
        directory: where revisions are kept.
        revision: ``sha256:`` and 64 hex digits, as records name it.

    Raises:
        RevisionNotKept: it is not there, cannot be read, or is another.
    """
    return _checked(revision, _read(directory, revision))


def kept_archive(directory: Path, revision: str) -> bytes:
    """The archive of a revision as it was published; its content is checked too.

    Raises:
        RevisionNotKept: it is not there, cannot be read, or is another.
    """
    archive = _read(directory, revision)
    _checked(revision, archive)
    return archive


def path_of(directory: Path, revision: str) -> Path:
    """Where a revision is kept.

    Raises:
        ValueError: the id is not of a bundle's form.
    """
    match = _ID.fullmatch(revision)
    if match is None:
        raise ValueError("no id of a bundle: sha256: and 64 hex digits")
    return directory / f"{match[1]}.tar.gz"


def _read(directory: Path, revision: str) -> bytes:
    try:
        with path_of(directory, revision).open("rb") as file:
            return file.read(MAX_ARCHIVE_BYTES + 1)
    except FileNotFoundError:
        raise RevisionNotKept(revision, f"it is not kept in {directory}") from None
    except (OSError, ValueError) as error:
        raise RevisionNotKept(revision, str(error)) from None


def _checked(revision: str, archive: bytes) -> Bundle:
    try:
        bundle = read_archive(archive, None)
    except BundleError as error:
        raise RevisionNotKept(revision, f"its archive is damaged: {error.findings[0]}") from None
    if bundle.id != revision:
        raise RevisionNotKept(revision, f"the archive under its name is that of {bundle.id}")
    return bundle


def _flush_names(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
