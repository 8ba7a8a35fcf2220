"""The MAC on every privileged row, and the secret files behind it.

HMAC-SHA256 (RFC 2104) over kind, id, body, record and epoch, so a row's tag fits no other row,
no other content and no other record. Whoever can write the database but not read the key file
cannot make a row that is believed.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

import msgspec

from gateway.registry.rows import Row

__all__ = ["SECRET_BYTES", "KeyFileRefused", "MacKey", "load_secret"]

SECRET_BYTES = 32
_DISTINCT_BYTES = 8
"""Fewer different bytes than this in a secret and it was typed, not drawn (chance: 1e-26)."""
_CONTEXT = b"sluicegate registry row v1\0"


class KeyFileRefused(Exception):
    """A secret file is absent, open to others, of the wrong length, or no secret."""


def load_secret(path: Path, *, create: bool) -> bytes:
    """Read a secret of 32 bytes from a file of mode 0600 that we own.

    Args:
        path: the file.
        create: make it if it is absent. True only for a registry that is new: a registry whose
            key is lost must not quietly get another.

    Raises:
        KeyFileRefused: says which file and why.
    """
    if create and not path.exists():
        _create(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise KeyFileRefused(f"{path}: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as file:
        state = os.fstat(file.fileno())
        secret = file.read(SECRET_BYTES + 1)
    if stat.S_IMODE(state.st_mode) & 0o077 or state.st_uid != os.geteuid():
        raise KeyFileRefused(f"{path}: must be yours alone: chmod 600")
    if len(secret) != SECRET_BYTES:
        raise KeyFileRefused(f"{path}: a key has exactly {SECRET_BYTES} bytes")
    if len(set(secret)) < _DISTINCT_BYTES:
        raise KeyFileRefused(f"{path}: not a random key")
    return secret


def _create(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(SECRET_BYTES))
        file.flush()
        os.fsync(file.fileno())


class MacKey:
    """Tags rows and checks their tags.

    Args:
        secret: 32 bytes.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) != SECRET_BYTES:
            raise ValueError("a MAC key has 32 bytes")
        self._secret = secret

    def tagged(self, row: Row) -> Row:
        """The row with its MAC."""
        return msgspec.structs.replace(row, mac=self._tag(row))

    def good(self, row: Row) -> bool:
        """Whether the row's MAC is that of its content."""
        return hmac.compare_digest(self._tag(row).encode(), str(row.mac).encode())

    def _tag(self, row: Row) -> str:
        # JSON of a list tells the fields apart whatever they hold.
        content = msgspec.json.encode([row.kind, row.id, row.body, row.record, row.epoch])
        return hmac.new(self._secret, _CONTEXT + content, hashlib.sha256).hexdigest()
