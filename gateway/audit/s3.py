"""Pieces of a log as objects in S3 that cannot be deleted, and the signature of requests. Pure.

A piece is two objects, named for the first and the last record in it, so that whoever sends it
again sends the same::

    <prefix><shard>/<first>-<last>.ndjson      the exact records, one a line
    <prefix><shard>/<first>-<last>.checkpoint  the log's signed checkpoint over all up to the last

So an archive proves itself: the records from 0 on give the root that each checkpoint signs.

Requests are signed as AWS Signature Version 4 says (AWS, "Signature Calculations for the
Authorization Header: Transferring Payload in a Single Chunk").
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import NamedTuple
from urllib.parse import quote

from gateway.audit.stream import Encoding, Parcel

__all__ = ["ARCHIVE", "Credentials", "Object", "Request", "objects_of", "put_headers", "signed"]

_ALGORITHM = "AWS4-HMAC-SHA256"
_DIGITS = 20

ARCHIVE = Encoding(lambda item: item.raw, joint=b"\n", tail=b"\n")
"""The records of a piece, byte for byte."""


class Credentials(NamedTuple):
    """Who signs, and for which region's service."""

    access_key: str
    secret: str
    region: str
    service: str = "s3"


class Request(NamedTuple):
    """What is signed: ``host`` as in its header, with the port where it is not the scheme's own;
    ``path`` from its slash on and ``query``, not escaped; names of ``headers`` in lower case."""

    method: str
    host: str
    path: str
    headers: Mapping[str, str] = {}
    body: bytes = b""
    query: Sequence[tuple[str, str]] = ()


class Object(NamedTuple):
    """What is put under which key."""

    key: str
    body: bytes
    kind: str


def objects_of(prefix: str, shard: str, piece: Parcel) -> list[Object]:
    """The objects of a piece; the checkpoint comes last and says that the piece is whole."""
    name = f"{prefix}{shard}/{piece.first:0{_DIGITS}d}-{piece.end - 1:0{_DIGITS}d}"
    return [
        Object(f"{name}.ndjson", ARCHIVE.body(piece.events), "application/x-ndjson"),
        Object(f"{name}.checkpoint", piece.checkpoint, "text/plain; charset=utf-8"),
    ]


def put_headers(kind: str, body: bytes, retention_days: int, now: datetime) -> dict[str, str]:
    """What makes an object that is whole, new, and stays: without these, S3 would overwrite."""
    until = now.astimezone(UTC) + timedelta(days=retention_days)
    return {
        "content-type": kind,
        "if-none-match": "*",
        "x-amz-checksum-sha256": base64.b64encode(sha256(body).digest()).decode(),
        "x-amz-object-lock-mode": "COMPLIANCE",
        "x-amz-object-lock-retain-until-date": until.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def signed(request: Request, who: Credentials, now: datetime) -> dict[str, str]:
    """The headers of a request, with its signature.

    Args:
        request: each of its headers is signed.
        who: signs.
        now: aware; S3 takes no request whose time is more than 15 minutes away.
    """
    moment = now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{moment[:8]}/{who.region}/{who.service}/aws4_request"
    digest = sha256(request.body).hexdigest()
    sent = {**request.headers, "x-amz-content-sha256": digest, "x-amz-date": moment}
    stated = {**sent, "host": request.host}
    names = ";".join(sorted(stated))
    canonical = "\n".join(
        [
            request.method,
            quote(request.path, safe="/-_.~"),
            "&".join(
                f"{_escaped(name)}={_escaped(value)}" for name, value in sorted(request.query)
            ),
            *(f"{name}:{' '.join(stated[name].split())}" for name in sorted(stated)),
            "",
            names,
            digest,
        ]
    )
    text = "\n".join([_ALGORITHM, moment, scope, sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{who.secret}".encode()
    for part in scope.split("/"):
        key = _hmac(key, part)
    credential = f"{who.access_key}/{scope}"
    signature = _hmac(key, text).hex()
    sent["authorization"] = (
        f"{_ALGORITHM} Credential={credential},SignedHeaders={names},Signature={signature}"
    )
    return sent


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")


def _escaped(text: str) -> str:
    return quote(text, safe="-_.~")
