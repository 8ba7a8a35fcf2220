"""Is this one request, framed in one way? Checked on the raw head, before anything else reads it.

The server's parser refuses most of this already; these checks hold whichever parser runs below
(RFC 9112 sections 3.2 and 6.3, K1, K3, K13). Refusals never repeat what was sent.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.core.reasons import Reason
from gateway.core.refusal import Refusal
from gateway.wire.headers import UNSAFE, Fields

__all__ = ["BODILESS", "check_framing"]

BODILESS: Final = frozenset({204, 304})
"""Statuses whose answers have no body, whatever is said (RFC 9110, section 6.4.1)."""

_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?\Z")
_LENGTH: Final = re.compile(rb"[0-9]{1,18}\Z")
_JSON: Final = re.compile(
    rb'application/json(?:[ \t]*;[ \t]*charset="?utf-8"?)?[ \t]*\Z', re.IGNORECASE
)
_TARGET: Final = re.compile(rb"/[\x21\x22\x24-\x7e]*\Z")
"""Visible ASCII, without a fragment: a parser may drop what follows ``#``, another may not."""
_VERSIONS: Final = frozenset({"1.0", "1.1"})


def check_framing(
    method: str, raw_target: bytes, fields: Fields, http_version: str = "1.1"
) -> Refusal | None:
    """The first thing that is wrong with a request head, or ``None``.

    Args:
        method: as sent.
        raw_target: the request target as sent, or at least its path before decoding.
        fields: all headers, combined: a value with a comma may have stood in several lines.
        http_version: as the request line has it, without ``HTTP/``.
    """
    values = b" ".join(fields.values())
    if len(values.translate(None, UNSAFE)) != len(values):
        return _bad("A header value holds a control character.")
    if not _TARGET.match(raw_target):
        return _bad("Send the path alone as request target, starting with a slash.")
    if not _HOST.match(fields.get(b"host", b"")):
        return _bad("Send exactly one Host header that is a host and an optional port.")
    if b"expect" in fields and fields[b"expect"].lower() != b"100-continue":
        return _bad("The only expectation that is met is 100-continue.")
    connection = fields.get(b"connection", b"").lower().split(b",")
    if b"upgrade" in fields or b"upgrade" in [token.strip() for token in connection]:
        return _bad("Nothing is upgraded to here: send HTTP/1.1 without an Upgrade header.")
    return (
        _version(http_version, fields)
        or _length(method, fields)
        or (_content(fields) if method == "POST" else None)
    )


def _version(http_version: str, fields: Fields) -> Refusal | None:
    if http_version not in _VERSIONS:
        return _bad("Send HTTP/1.1 on this connection.")
    if http_version == "1.0" and b"transfer-encoding" in fields:
        return _bad("HTTP/1.0 knows no Transfer-Encoding: send Content-Length, or HTTP/1.1.")
    return None


def _length(method: str, fields: Fields) -> Refusal | None:
    length, coding = fields.get(b"content-length"), fields.get(b"transfer-encoding")
    if length is not None and coding is not None:
        return _bad("Frame the body once: one Content-Length or one Transfer-Encoding.")
    if length is not None and not _LENGTH.match(length):
        return _bad("Content-Length must be digits, once.")
    if coding is not None and coding.lower() != b"chunked":
        return _bad("The only transfer coding taken is chunked, once.")
    has_body = coding is not None or (length is not None and int(length) > 0)
    if has_body != (method == "POST"):
        return _bad("A POST carries a body, with Content-Length or in chunks; nothing else does.")
    return None


def _content(fields: Fields) -> Refusal | None:
    if fields.get(b"content-encoding", b"identity").lower() != b"identity":
        return _encoding("Send the body unencoded: no Content-Encoding is taken.")
    if not _JSON.match(fields.get(b"content-type", b"")):
        return _encoding("Send Content-Type: application/json, once, in UTF-8.")
    return None


def _bad(message: str) -> Refusal:
    return Refusal(Reason.FRAMING_INVALID, message)


def _encoding(message: str) -> Refusal:
    return Refusal(Reason.ENCODING_UNSUPPORTED, message)
