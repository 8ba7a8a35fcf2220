"""The key that seals each member's facts, wrapped under a master key.

AES-256-GCM with the member's id as associated data: a wrapped key moved to another member does
not open. Destroying the row destroys what it sealed, and leaves every proof in the log.
"""

from __future__ import annotations

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["SUBJECT_KEY_BYTES", "new_subject_key", "unwrap", "wrap"]

SUBJECT_KEY_BYTES = 32
_NONCE_BYTES = 12
_CONTEXT = b"sluicegate subject key v1\0"


def new_subject_key() -> bytes:
    """32 random bytes."""
    return secrets.token_bytes(SUBJECT_KEY_BYTES)


def wrap(master: bytes, member: str, key: bytes) -> bytes:
    """Nonce, ciphertext and tag (60 bytes) of a subject key."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(master).encrypt(nonce, key, _CONTEXT + member.encode())


def unwrap(master: bytes, member: str, wrapped: bytes) -> bytes | None:
    """The subject key; ``None`` if this was not wrapped by this master key for this member."""
    if len(wrapped) <= _NONCE_BYTES:
        return None
    nonce, sealed = wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:]
    try:
        key = AESGCM(master).decrypt(nonce, sealed, _CONTEXT + member.encode())
    except InvalidTag:
        return None
    return key if len(key) == SUBJECT_KEY_BYTES else None
