"""The two roles that open sealed content together, and how their keys are written. Pure.

A key is one line that a password manager can keep: what it is, whose role it is of, and in base32
its 32 bytes with four of a checksum, so that a key that was cut, mistyped or put in the other
role's place is refused before it is used.

    sgrole-reviewer-…     private: whoever holds it opens the reviewer's half
    sgrolepub-reviewer-…  public: stands in the gateway's settings
"""

from __future__ import annotations

import base64
import binascii
import hmac
from enum import StrEnum
from hashlib import sha256

__all__ = ["PRIVATE", "PUBLIC", "Role", "RoleKeyInvalid", "key_bytes", "key_text", "role_of"]

PRIVATE, PUBLIC = "sgrole", "sgrolepub"
KEY_BYTES = 32
CHECKSUM_BYTES = 4


class Role(StrEnum):
    """Who opens one half of what is sealed. Neither half tells anything alone."""

    REVIEWER = "reviewer"
    APPROVER = "approver"


class RoleKeyInvalid(ValueError):
    """The text is no role key, or not one of the kind and role that is asked for."""


def key_text(kind: str, role: Role, key: bytes) -> str:
    """A key's line.

    Args:
        kind: ``PRIVATE`` or ``PUBLIC``.
        role: whose it is.
        key: 32 bytes.
    """
    head = f"{kind}-{role}-"
    encoded = base64.b32encode(key + _checksum(head, key)).decode()
    return head + encoded.rstrip("=").lower()


def role_of(text: str) -> Role:
    """The role that a line names, private or public; whether the rest is right is not looked at.

    Raises:
        RoleKeyInvalid: it names none.
    """
    kind, _, rest = text.strip().partition("-")
    name = rest.partition("-")[0]
    if kind not in (PRIVATE, PUBLIC) or name not in list(Role):
        raise RoleKeyInvalid(
            f"no role key: one begins with {PRIVATE}-reviewer-, {PRIVATE}-approver-, or with "
            f"{PUBLIC} where it is the public one"
        )
    return Role(name)


def key_bytes(kind: str, role: Role, text: str) -> bytes:
    """The 32 bytes of a key's line; white space around it does not matter.

    Args:
        kind: ``PRIVATE`` or ``PUBLIC``.
        role: whose it must be.
        text: the line.

    Raises:
        RoleKeyInvalid: another kind, another role, or not as it was made; the text is never
            repeated.
    """
    line = text.strip()
    found = role_of(line)
    if found is not role:
        raise RoleKeyInvalid(f"this is the {found}'s key; the {role}'s is needed here")
    head = f"{kind}-{role}-"
    if not line.startswith(head):
        other = "public" if kind == PRIVATE else "private"
        mine = "private" if kind == PRIVATE else "public"
        raise RoleKeyInvalid(
            f"this is the {other} key; the {mine} one, which begins with {head}, is needed"
        )
    raw = _decoded(line.removeprefix(head))
    key, checksum = raw[:KEY_BYTES], raw[KEY_BYTES:]
    if not hmac.compare_digest(checksum, _checksum(head, key)):
        raise RoleKeyInvalid("the key was cut or mistyped: its checksum is not right")
    return key


def _decoded(text: str) -> bytes:
    try:
        raw = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError):
        raw = b""
    # Base32 leaves bits over that mean nothing; only one way of writing a key is a key.
    exact = base64.b32encode(raw).decode().rstrip("=").lower() == text
    if len(raw) != KEY_BYTES + CHECKSUM_BYTES or not exact:
        raise RoleKeyInvalid("the key was cut or mistyped: it has not the length or letters of one")
    return raw


def _checksum(head: str, key: bytes) -> bytes:
    return sha256(head.encode() + key).digest()[:CHECKSUM_BYTES]
