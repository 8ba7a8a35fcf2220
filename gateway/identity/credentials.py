"""Which one credential a request presents, decided from its headers alone.

Pure. One request carries one credential: two that differ are refused rather than ranked
(K23), and what is not shaped like a credential is refused before anything is looked up (K6).
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from gateway.core.reasons import Reason
from gateway.core.refusal import Refusal

__all__ = ["MAX_CREDENTIAL_BYTES", "Presented", "invalid", "presented"]

MAX_CREDENTIAL_BYTES = 16 * 1024

KEY_PREFIX = "sk-sg-"
_HOW = "send your key as 'Authorization: Bearer sk-sg-…' or 'x-api-key: sk-sg-…'."
_BEARER = re.compile(rb"bearer +(.*)", re.IGNORECASE | re.DOTALL)
_TOKEN68 = re.compile(rb"[A-Za-z0-9._~+/-]+=*")
"""RFC 6750, section 2.1: the characters of a bearer token."""
_COMPACT_JWS = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


class Presented(Struct, frozen=True):
    """The one credential of a request; its text stays out of every ``repr``."""

    kind: Literal["api_key", "jwt"]
    text: str

    def __repr__(self) -> str:
        return f"Presented({self.kind!r})"


def invalid(message: str, remedy: str = "") -> Refusal:
    """A ``CREDENTIAL_INVALID`` refusal; ``message`` must be a constant of the source."""
    return Refusal(Reason.CREDENTIAL_INVALID, message, remedy)


MISSING = Refusal(
    Reason.CREDENTIAL_MISSING,
    f"No credential: {_HOW}",
    "Ask your organisation's operator for a key, or sign in with your organisation's issuer.",
)
AMBIGUOUS = Refusal(
    Reason.CREDENTIAL_AMBIGUOUS,
    "Two credentials in one request: send one, as 'Authorization: Bearer' or as 'x-api-key'.",
    "Unset the key that you do not mean to use in your client's settings or environment.",
)
UNKNOWN_SCHEME = invalid(
    "Authorization is not 'Bearer' and one key or token: no other scheme is taken.",
    f"With an API key, {_HOW}",
)
MALFORMED = invalid(
    "Credential not readable: a key is 'sk-sg-' and 58 characters; a token is three parts.",
    "Copy the whole key again; look for a cut end, quotation marks or blanks.",
)
TOO_LONG = invalid("Credential too long: at most 16 KiB; a Sluicegate key has 64 characters.")


def presented(fields: Mapping[bytes, bytes]) -> Presented | Refusal:
    """Find the one credential.

    Args:
        fields: header values by lower-case name; those of a name that stands twice are joined by
            a comma, which no credential holds.

    Returns:
        The credential, or why there is none: ``CREDENTIAL_MISSING``, ``CREDENTIAL_AMBIGUOUS``
        (a header twice, or two that differ) or ``CREDENTIAL_INVALID``.
    """
    authorization, api_key = fields.get(b"authorization"), fields.get(b"x-api-key")
    if authorization is None:
        return MISSING if api_key is None else _classify(api_key)
    if len(authorization) > MAX_CREDENTIAL_BYTES:
        return TOO_LONG
    bearer = _BEARER.fullmatch(authorization)
    if bearer is None:
        return UNKNOWN_SCHEME
    token: bytes = bearer[1]
    if api_key is not None and not hmac.compare_digest(token, api_key):
        return AMBIGUOUS
    return _classify(token)


def _classify(token: bytes) -> Presented | Refusal:
    if b"," in token:
        return AMBIGUOUS
    if len(token) > MAX_CREDENTIAL_BYTES:
        return TOO_LONG
    if not _TOKEN68.fullmatch(token):
        return MALFORMED
    text = token.decode("ascii")
    if text.startswith(KEY_PREFIX):
        return Presented("api_key", text)
    if _COMPACT_JWS.fullmatch(text):
        return Presented("jwt", text)
    return MALFORMED
