"""Is this one request, framed in one way? Checked on the raw head, before anything else reads it.

The server's parser refuses most of this already; these checks hold whichever parser runs below
(RFC 9112 sections 3.2 and 6.3, K1, K3, K13). Refusals never repeat what was sent.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from gateway.core.reasons import Reason
from gateway.core.refusal import Refusal
from gateway.wire.headers import Header

__all__ = ["check_framing"]

_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?\Z")
_LENGTH: Final = re.compile(rb"[0-9]{1,18}\Z")
_JSON: Final = re.compile(
    rb'application/json(?:[ \t]*;[ \t]*charset="?utf-8"?)?[ \t]*\Z', re.IGNORECASE
)
_TARGET: Final = re.compile(rb"/[\x21\x22\x24-\x7e]*\Z")
"""Visible ASCII, without a fragment: a parser may drop what follows ``#``, another may not."""
_VERSIONS: Final = frozenset({"1.0", "1.1"})
_UNSAFE_VALUE: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def check_framing(
    method: str, raw_target: bytes, headers: Sequence[Header], http_version: str = "1.1"
) -> Refusal | None:
    """The first thing that is wrong with a request head, or ``None``.

    Args:
        method: as sent.
        raw_target: the request target as sent, or at least its path before decoding.
        headers: all of them, in order, repeated where repeated.
        http_version: as the request line has it, without ``HTTP/``.
    """
    values: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        values.setdefault(name.lower(), []).append(value)
        if _UNSAFE_VALUE.search(value):
            return _bad("A header value holds a control character.")
    if not _TARGET.match(raw_target):
        return _bad("Send the path alone as request target, starting with a slash.")
    hosts = values.get(b"host", [])
    if len(hosts) != 1 or not _HOST.match(hosts[0]):
        return _bad("Send exactly one Host header that is a host and an optional port.")
    if any(value.lower() != b"100-continue" for value in values.get(b"expect", [])):
        return _bad("The only expectation that is met is 100-continue.")
    connection = b",".join(values.get(b"connection", [])).lower().split(b",")
    if b"upgrade" in values or b"upgrade" in (token.strip() for token in connection):
        return _bad("Nothing is upgraded to here: send HTTP/1.1 without an Upgrade header.")
    return (
        _version(http_version, values)
        or _length(method, values)
        or (_content(values) if method == "POST" else None)
    )


def _version(http_version: str, values: dict[bytes, list[bytes]]) -> Refusal | None:
    if http_version not in _VERSIONS:
        return _bad("Send HTTP/1.1 on this connection.")
    if http_version == "1.0" and b"transfer-encoding" in values:
        return _bad("HTTP/1.0 knows no Transfer-Encoding: send Content-Length, or HTTP/1.1.")
    return None


def _length(method: str, values: dict[bytes, list[bytes]]) -> Refusal | None:
    lengths = values.get(b"content-length", [])
    codings = values.get(b"transfer-encoding", [])
    if len(lengths) + len(codings) > 1:
        return _bad("Frame the body once: one Content-Length or one Transfer-Encoding.")
    if lengths and not _LENGTH.match(lengths[0]):
        return _bad("Content-Length must be digits.")
    if codings and codings[0].lower() != b"chunked":
        return _bad("The only transfer coding taken is chunked.")
    has_body = bool(codings) or (bool(lengths) and int(lengths[0]) > 0)
    if has_body != (method == "POST"):
        return _bad("A POST carries a body, with Content-Length or in chunks; nothing else does.")
    return None


def _content(values: dict[bytes, list[bytes]]) -> Refusal | None:
    if any(value.lower() != b"identity" for value in values.get(b"content-encoding", [])):
        return _encoding("Send the body unencoded: no Content-Encoding is taken.")
    types = values.get(b"content-type", [])
    if len(types) != 1 or not _JSON.match(types[0]):
        return _encoding("Send Content-Type: application/json, once, in UTF-8.")
    return None


def _bad(message: str) -> Refusal:
    return Refusal(Reason.FRAMING_INVALID, message)


def _encoding(message: str) -> Refusal:
    return Refusal(Reason.ENCODING_UNSUPPORTED, message)
