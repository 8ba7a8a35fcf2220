"""API keys: how they are made, and how one is recognised without being stored.

A key is ``sk-sg-``, 256 random bits in base 32 and six characters of checksum, so a typing error
is told from an unknown key without a lookup. The registry holds only the SHA-256 of the whole
text: with 256 bits of entropy a fast hash is enough, and no slow one stands on the request path.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import zlib
from dataclasses import dataclass, field

from gateway.core.entities import Credential
from gateway.core.protocols import Directory
from gateway.identity.credentials import KEY_PREFIX

__all__ = ["MintedKey", "credential_of", "digest_of", "is_whole", "mint"]

SECRET_BYTES = 32
SHOWN = len(KEY_PREFIX) + 6
"""Characters of a key that may be shown: 30 of its 256 bits."""
_SHAPE = re.compile(r"sk-sg-([a-z2-7]{52})([a-z2-7]{6})")
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]


@dataclass(frozen=True, slots=True)
class MintedKey:
    """A new key: ``text`` is shown to its holder once; the rest is what the registry keeps."""

    text: str = field(repr=False)
    sha256: str
    prefix: str


def mint() -> MintedKey:
    """Make a key of 256 bits from the operating system's generator."""
    secret = base64.b32encode(secrets.token_bytes(SECRET_BYTES)).decode("ascii")
    body = secret.rstrip("=").lower()
    text = KEY_PREFIX + body + _checksum(body)
    return MintedKey(text, _sha256(text), text[:SHOWN])


def is_whole(text: str) -> bool:
    """Whether this is a key without a typing error, known or not."""
    shape = _SHAPE.fullmatch(text)
    return shape is not None and hmac.compare_digest(_checksum(shape[1]), shape[2])


def digest_of(text: str) -> str | None:
    """The SHA-256 (hex) by which the registry knows a key; ``None`` if this is no whole key."""
    return _sha256(text) if is_whole(text) else None


def credential_of(sha256: str, directory: Directory) -> Credential | None:
    """The credential of a key's digest, whatever its state."""
    credential = directory.credential(sha256)
    if credential is None or not hmac.compare_digest(credential.sha256, sha256):
        return None
    return credential


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _checksum(body: str) -> str:
    """30 bits of CRC-32: it guards against mistakes, not against people."""
    bits = zlib.crc32(body.encode("ascii")) >> 2
    return _PAIRS[bits >> 20] + _PAIRS[bits >> 10 & 1023] + _PAIRS[bits & 1023]
