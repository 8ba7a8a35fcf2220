"""Facts, encrypted beside their record so that a person's can be erased and every proof kept.

The record (a leaf of the tree) holds only a salted commitment to the facts and the digest of the
sealed frame. The frame holds the facts under the subject's key; when that key is destroyed, what
remains tells nothing: the salt, without which the commitment could be tested by guessing, is
inside the ciphertext.

Sealed payload: ``u64 BE leaf index || nonce, 12 bytes || AES-256-GCM(salt, 16 bytes || facts)``,
with the request id as additional data. Commitment: ``SHA256(salt || facts)``.

The row that a ``registry.changed`` made is sealed beside its record in the same way. It has no
request id; its additional data is ``row_binding``.
"""

from __future__ import annotations

import hmac
import os
import struct
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.audit.records import FactsRef

__all__ = ["MAX_FACTS_BYTES", "SealError", "open_sealed", "row_binding", "seal"]

MAX_FACTS_BYTES = 256 * 1024
SALT_BYTES = 16
NONCE_BYTES = 12
_INDEX = struct.Struct(">Q")


class SealError(ValueError):
    """The sealed facts are not those of the record, or the key is not the subject's."""


def row_binding(log: str, seq: int, kind: str, entity_id: str, digest: str) -> str:
    """What ties a sealed row to its one record: position, what was changed, and what it became.

    No request id has a line feed, so no row passes for facts.

    Args:
        log: the origin.
        seq: the leaf index.
        kind: of the row.
        entity_id: the row's.
        digest: the record's ``digest_after``.
    """
    return f"registry.changed\n{log}#{seq}\n{kind}\n{entity_id}\n{digest}"


def seal(facts: bytes, key: bytes, bound_to: str, seq: int) -> tuple[FactsRef, bytes]:
    """Encrypt ``facts`` (at most ``MAX_FACTS_BYTES``) for the record at ``seq``.

    Args:
        facts: the exact bytes that were evaluated, or those of the row.
        key: the subject's 32 bytes.
        bound_to: the record's request id, or its ``row_binding``.
        seq: the record's leaf index.

    Returns:
        What the record says of them, and the payload of the sealed frame.

    Raises:
        ValueError: facts or key have another length.
    """
    if len(facts) > MAX_FACTS_BYTES:
        raise ValueError(f"facts of {len(facts)} bytes; at most {MAX_FACTS_BYTES} are sealed")
    if len(key) != 32:  # noqa: PLR2004  AES-256
        raise ValueError("a subject key has 32 bytes")
    random = os.urandom(SALT_BYTES + NONCE_BYTES)
    plain, nonce = random[:SALT_BYTES] + facts, random[SALT_BYTES:]
    cipher = AESGCM(key).encrypt(nonce, plain, bound_to.encode())
    payload = _INDEX.pack(seq) + nonce + cipher
    ref = FactsRef(
        commitment=sha256(plain).hexdigest(),
        sealed_sha256=sha256(payload).hexdigest(),
    )
    return ref, payload


def open_sealed(payload: bytes, key: bytes, bound_to: str, seq: int, ref: FactsRef) -> bytes:
    """The facts of one record.

    Raises:
        SealError: the payload is not the one that the record names, the key is not the subject's,
            or the facts are not those committed to.
    """
    if sha256(payload).hexdigest() != ref.sealed_sha256:
        raise SealError("the sealed frame is not the one that the record names")
    start = _INDEX.size + NONCE_BYTES
    if len(payload) < start or _INDEX.unpack_from(payload)[0] != seq:
        raise SealError("the sealed frame belongs to another record")
    try:
        plain = AESGCM(key).decrypt(
            payload[_INDEX.size : start], payload[start:], bound_to.encode()
        )
    except (InvalidTag, ValueError):
        raise SealError("the key does not open these facts") from None
    if not hmac.compare_digest(sha256(plain).hexdigest(), ref.commitment):
        raise SealError("the facts are not those the record commits to")
    return plain[SALT_BYTES:]
