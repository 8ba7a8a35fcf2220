"""Content that two people open together: what a caller sent, and for some calls what he got.

A piece is a request's body or an answer's bytes. It is encrypted under a key of its own, made for
it; that key is wrapped under the member's, so that erasing the member destroys all of it; and what
comes of that is split in two. Each half is sealed to one role. So the disk with the members' keys
opens nothing, nor does that and one role's private key; it takes both roles, and a member who has
not been erased.

    dek          32 random bytes
    ciphertext   AES-256-GCM(dek, content), bound to log, request and part
    wrapped      AES-KW(kek, dek), 40 bytes; kek derived from the member's key     (RFC 3394)
    wrapped      = reviewer's half XOR approver's half; the one is random
    a half       HPKE to the role's key: X25519, HKDF-SHA256, AES-256-GCM          (RFC 9180),
                 whose ``info`` binds log, request, part and role

A sealed piece, byte for byte: ``u8 version 1 | reviewer's key id, 8 | approver's key id, 8 |
reviewer's half, 88 | approver's half, 88 | nonce, 12 | ciphertext with its tag, 16``. All that
stands before the ciphertext is authenticated with it.

The record says of a piece only what nobody can guess from: a digest keyed with the member's key
(``keyed_digest``), and the SHA-256 of the sealed bytes. Pure; nothing here reads or writes a file.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from gateway.audit.seal import SealError
from gateway.core.role_keys import PRIVATE, PUBLIC, Role, key_bytes, key_text, role_of

__all__ = [
    "Altered",
    "ContentContext",
    "NotOpened",
    "Part",
    "RoleKey",
    "RolePublicKey",
    "Share",
    "WrongRecord",
    "WrongRole",
    "keyed_digest",
    "new_role_key",
    "open_share",
    "opened",
    "parse_public_role_key",
    "parse_role_key",
    "sealed_content",
    "wanted_keys",
]

VERSION = 1
KEY_BYTES = 32
KEY_ID_BYTES = 8
NONCE_BYTES = 12
TAG_BYTES = 16
WRAPPED_BYTES = 40
"""AES-KW adds 8 bytes to the key."""
HALF_BYTES = 88
"""The ephemeral key (32), the half (40), the tag (16)."""
KEYS_END = 1 + 2 * KEY_ID_BYTES
HALVES_END = KEYS_END + 2 * HALF_BYTES
HEAD_BYTES = HALVES_END + NONCE_BYTES

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_ROLES = (Role.REVIEWER, Role.APPROVER)
_LABEL = b"sluicegate content v1\0"


class WrongRole(SealError):
    """A key or a half of the other role, or a key that this piece was not sealed to."""


class WrongRecord(SealError):
    """The piece, or a half of it, belongs to another record or another part."""


class Altered(SealError):
    """Not the bytes that were sealed, or not a sealed piece at all."""


class NotOpened(SealError):
    """The halves or the member's key are not those of this piece: of another one, or he was erased
    and the key is new."""


class Part(StrEnum):
    """Which side of a call a piece holds."""

    REQUEST = "request"
    ANSWER = "answer"


@dataclass(frozen=True, slots=True)
class ContentContext:
    """What a piece belongs to: the log's origin, the request, and which part of it."""

    origin: str
    request_id: str
    part: Part

    def bound(self, purpose: bytes) -> bytes:
        """Bytes that stand for this context and purpose and for nothing else: each field with its
        length before it."""
        fields = (purpose, self.origin.encode(), self.request_id.encode(), self.part.encode())
        return _LABEL + b"".join(len(each).to_bytes(2) + each for each in fields)


@dataclass(frozen=True, slots=True)
class RolePublicKey:
    """What is sealed to. ``id`` tells keys of one role apart, after one was replaced."""

    role: Role
    id: bytes
    key: X25519PublicKey

    @property
    def text(self) -> str:
        """The line that stands in the settings."""
        return key_text(PUBLIC, self.role, self.key.public_bytes_raw())


@dataclass(frozen=True, slots=True)
class RoleKey:
    """A role's private key. The gateway keeps none; it is given to open one half, and let go."""

    role: Role
    id: bytes
    key: X25519PrivateKey = field(repr=False)

    @property
    def public(self) -> RolePublicKey:
        """The key to seal to."""
        return RolePublicKey(self.role, self.id, self.key.public_key())

    @property
    def text(self) -> str:
        """The secret line."""
        return key_text(PRIVATE, self.role, self.key.private_bytes_raw())


@dataclass(frozen=True, slots=True)
class Share:
    """One opened half of a piece: nothing without the other. ``piece`` is the SHA-256 of the
    sealed bytes that it was taken from."""

    role: Role
    piece: bytes
    half: bytes = field(repr=False)


def new_role_key(role: Role) -> RoleKey:
    """A new key for a role, from the system's randomness."""
    key = X25519PrivateKey.generate()
    return RoleKey(role, _key_id(key.public_key()), key)


def parse_role_key(text: str) -> RoleKey:
    """A private role key from its line.

    Raises:
        RoleKeyInvalid: it is none; the message never repeats it.
    """
    role = role_of(text)
    key = X25519PrivateKey.from_private_bytes(key_bytes(PRIVATE, role, text))
    return RoleKey(role, _key_id(key.public_key()), key)


def parse_public_role_key(text: str) -> RolePublicKey:
    """A public role key from its line.

    Raises:
        RoleKeyInvalid: it is none.
    """
    role = role_of(text)
    key = X25519PublicKey.from_public_bytes(key_bytes(PUBLIC, role, text))
    return RolePublicKey(role, _key_id(key), key)


def keyed_digest(subject_key: bytes, digest: bytes) -> str:
    """What a record says of content, in hex: HMAC-SHA256 of the content's SHA-256 under a key
    derived from the member's. A short prompt has a SHA-256 that can be found by trying; this one
    can only be tried by who has the member's key, and by nobody once he is erased.

    Args:
        subject_key: the member's 32 bytes.
        digest: the SHA-256 of the content, 32 bytes.
    """
    return hmac.digest(_derived(subject_key, b"digest"), digest, "sha256").hex()


def sealed_content(
    content: bytes,
    subject_key: bytes,
    reviewer: RolePublicKey,
    approver: RolePublicKey,
    context: ContentContext,
) -> tuple[bytes, bytes]:
    """Seal one piece.

    Args:
        content: the bytes as received, or as they left.
        subject_key: the member's 32 bytes.
        reviewer: the one role's key.
        approver: the other's.
        context: what the piece belongs to.

    Returns:
        Its head and its ciphertext, which are written one after the other: joining them would copy
        the largest bodies once more.

    Raises:
        ValueError: a key is not of its role or length.
    """
    keys = (reviewer, approver)
    if tuple(key.role for key in keys) != _ROLES or len(subject_key) != KEY_BYTES:
        raise ValueError(
            "a reviewer's key, an approver's key and a member's of 32 bytes are needed"
        )
    dek = os.urandom(KEY_BYTES)
    wrapped = aes_key_wrap(_derived(subject_key, b"wrap"), dek)
    one = os.urandom(WRAPPED_BYTES)
    halves = [
        _SUITE.encrypt(half, key.key, context.bound(key.role.encode()))
        for half, key in zip((one, _xor(one, wrapped)), keys, strict=True)
    ]
    nonce = os.urandom(NONCE_BYTES)
    head = b"".join((bytes([VERSION]), *(key.id for key in keys), *halves, nonce))
    return head, AESGCM(dek).encrypt(nonce, content, _associated(head, context))


def wanted_keys(blob: bytes) -> Mapping[Role, bytes]:
    """The ids of the two keys that a piece was sealed to.

    Raises:
        Altered: it is no sealed piece of this version.
    """
    if len(blob) < HEAD_BYTES + TAG_BYTES or blob[0] != VERSION:
        raise Altered("this is no sealed piece, or one of another version")
    ids = (blob[1 : 1 + KEY_ID_BYTES], blob[1 + KEY_ID_BYTES : KEYS_END])
    return dict(zip(_ROLES, ids, strict=True))


def open_share(blob: bytes, role_key: RoleKey, context: ContentContext) -> Share:
    """Open one role's half of a piece. It needs no key of the member, and tells nothing alone.

    Args:
        blob: the sealed piece.
        role_key: the role's private key.
        context: the record and part that the piece is said to belong to.

    Raises:
        WrongRole: the piece was sealed to another key of this role.
        WrongRecord: the half is not of this record, or was altered.
        Altered: this is no sealed piece.
    """
    if wanted_keys(blob)[role_key.role] != role_key.id:
        raise WrongRole(f"this piece was sealed to another {role_key.role}'s key")
    place = KEYS_END + _ROLES.index(role_key.role) * HALF_BYTES
    info = context.bound(role_key.role.encode())
    try:
        half = _SUITE.decrypt(blob[place : place + HALF_BYTES], role_key.key, info)
    except (InvalidTag, ValueError):
        raise WrongRecord("the half is not of this record and part, or it was altered") from None
    return Share(role_key.role, sha256(blob).digest(), half)


def opened(
    blob: bytes,
    reviewer: Share,
    approver: Share,
    subject_key: bytes,
    context: ContentContext,
) -> bytes:
    """The content, from both halves and the member's key.

    Whether ``blob`` is the one that a record names is the reader's matter (``content_store``); here
    it must only be one that was sealed for this record and these halves.

    Raises:
        WrongRole: not one half of each role.
        WrongRecord: a half is of another piece.
        NotOpened: halves and member's key do not fit together.
        Altered: the sealed bytes are not as they were made, or belong to another record.
    """
    if (reviewer.role, approver.role) != _ROLES:
        raise WrongRole("one half of the reviewer and one of the approver are needed")
    wanted_keys(blob)  # it is a sealed piece
    piece = sha256(blob).digest()
    if not piece == reviewer.piece == approver.piece:
        raise WrongRecord("a half was taken from another piece")
    if len(subject_key) != KEY_BYTES:
        raise NotOpened("the member's key has not 32 bytes")
    wrapped = _xor(reviewer.half, approver.half)
    try:
        dek = aes_key_unwrap(_derived(subject_key, b"wrap"), wrapped)
    except (InvalidUnwrap, ValueError):
        raise NotOpened("the halves and the member's key do not fit together") from None
    head = blob[:HEAD_BYTES]
    try:
        return AESGCM(dek).decrypt(head[HALVES_END:], blob[HEAD_BYTES:], _associated(head, context))
    except InvalidTag:
        raise Altered("the content was altered, or belongs to another record") from None


def _associated(head: bytes, context: ContentContext) -> bytes:
    return context.bound(b"content") + head[:HALVES_END]


def _derived(subject_key: bytes, purpose: bytes) -> bytes:
    """A key of its own for each purpose: HKDF-Expand, one block. The member's key is uniformly
    random, so there is nothing to extract (RFC 5869, section 3.3)."""
    return hmac.digest(subject_key, _LABEL + purpose + b"\x01", "sha256")


def _key_id(key: X25519PublicKey) -> bytes:
    return sha256(_LABEL + b"key\0" + key.public_bytes_raw()).digest()[:KEY_ID_BYTES]


def _xor(one: bytes, other: bytes) -> bytes:
    mixed = int.from_bytes(one) ^ int.from_bytes(other)
    return mixed.to_bytes(WRAPPED_BYTES)
