"""Where exporters send to. Each destination cuts what was read, and sends a parcel until the other
side has acknowledged it.

What counts as acknowledged: of HTTP, an answer 2xx (with ``indexer_ack``, the indexer's own word;
of an archive, both objects stored, or found stored as they are here). Syslog has no answer; a
parcel is a connection, and the receiver's end of it (``close_notify``, which RFC 5425, section
4.4, demands) says that it read all there was.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec

from gateway import __version__
from gateway.audit.hec import hec_encoding, ndjson_encoding
from gateway.audit.otlp import otlp_encoding, rejected_by
from gateway.audit.s3 import Credentials, Object, Request, objects_of, put_headers, signed
from gateway.audit.stream import (
    Encoding,
    Event,
    Item,
    Mark,
    Parcel,
    Read,
    Refused,
    deliver,
    parcels,
    pieces,
    rendering,
)
from gateway.audit.syslog import syslog_encoding
from gateway.egress import Answer, Egress, EgressFailed
from gateway.settings import Exporter

__all__ = ["Destination", "destination_of"]

POLL_S = 0.5
ACK_POLL_S = 0.25
SAID = 200
"""Characters of an answer that are told."""
REFUSED = frozenset({400, 413, 422})
"""The same body would be answered in the same way (RFC 9110, sections 15.5.1, 15.5.14, 15.5.21)."""
CONFLICT, EXISTS = 409, 412
_READ_BYTES = 65_536

OnReplaced = Callable[[str, str], None]
"""Told the key of a record whose event was replaced by a notice, and why."""


class Destination(Protocol):
    """One place to send to."""

    poll_s: float
    """How long to wait for more, in seconds."""
    sealing: bool
    """Whether a parcel must be the same when it is sent again."""

    def cut(self, reads: Iterable[Read], mark: Mark) -> Iterator[Parcel]:
        """What was read, in parcels."""

    async def send(self, shard: str, parcel: Parcel) -> None:
        """Return when the parcel was acknowledged.

        Raises:
            EgressFailed, EgressRefused, Refused, OSError: it was not.
        """

    async def close(self) -> None:
        """Let go of connections."""


def destination_of(exporter: Exporter, secret: str | None, on_replaced: OnReplaced) -> Destination:
    """The destination that the settings describe.

    Raises:
        OSError: the certificates to trust cannot be read.
    """
    tls = ssl.create_default_context(cafile=exporter.ca)
    egress = Egress(exporter.allowed_networks, timeout_s=exporter.timeout_s, tls=tls)
    if exporter.kind == "s3":
        return _Archive(exporter, secret or "", egress)
    render = rendering(exporter.format, __version__)
    if exporter.kind == "syslog":
        encoding = syslog_encoding(render, exporter.enterprise_id)
        transmit = _Syslog(exporter, egress, tls).transmit
    elif exporter.kind == "otlp":
        encoding = otlp_encoding(__version__)
        transmit = _Otlp(exporter, secret, egress).transmit
    elif exporter.style == "hec":
        encoding = hec_encoding(render, exporter.format)
        transmit = _Hec(exporter, secret or "", egress).transmit
    else:
        encoding = ndjson_encoding(render, exporter.format)
        transmit = _Lines(exporter, secret, egress).transmit
    return _Events(exporter, encoding, transmit, egress, on_replaced)


class _Events:
    """A destination of events, one for each record."""

    poll_s = POLL_S
    sealing = False

    def __init__(
        self,
        exporter: Exporter,
        encoding: Encoding,
        transmit: Callable[[bytes], Awaitable[None]],
        egress: Egress,
        on_replaced: OnReplaced,
    ) -> None:
        self._encoding, self._transmit, self._egress = encoding, transmit, egress
        self._most, self._heartbeats = exporter.max_event_bytes, exporter.heartbeats
        self._timeout_s, self._on_replaced = exporter.timeout_s, on_replaced

    def cut(self, reads: Iterable[Read], mark: Mark) -> Iterator[Parcel]:
        return parcels(reads, mark.next, self._encode, heartbeats=self._heartbeats)

    def _encode(self, item: Item) -> Event:
        event, replaced = self._encoding.bounded(item, self._most)
        if replaced:
            self._on_replaced(item.key, f"longer than {self._most} bytes")
        return event

    async def send(self, shard: str, parcel: Parcel) -> None:  # noqa: ARG002 - the protocol's
        taken: list[tuple[str, str]] = []

        async def transmit(events: Sequence[Event]) -> None:
            async with asyncio.timeout(self._timeout_s):
                await self._transmit(self._encoding.body(events))

        def replace(event: Event, why: str) -> Event:
            taken.append((event.item.key, why))
            return self._encoding.notice(event.item, why[:SAID])

        await deliver(parcel.events, transmit, replace)
        for key, why in taken:
            self._on_replaced(key, why)

    async def close(self) -> None:
        await self._egress.close()


def _judge(answer: Answer) -> None:
    """Whether an answer acknowledges.

    Raises:
        Refused: it refuses this body for good.
        EgressFailed: it does not acknowledge, for another reason.
    """
    if answer.status // 100 == 2:  # noqa: PLR2004 - the class of success (RFC 9110, 15.3)
        return
    said = "".join(
        char if char.isprintable() else " "
        for char in answer.body[:SAID].decode("utf-8", "replace")
    )
    told = f"the destination answered {answer.status}: {said}".rstrip(": ")
    if answer.status in REFUSED:
        raise Refused(told)
    raise EgressFailed(told)


class _Lines:
    """NDJSON by POST."""

    def __init__(self, exporter: Exporter, secret: str | None, egress: Egress) -> None:
        self._url, self._egress = exporter.url, egress
        self._headers = {"content-type": "application/x-ndjson"}
        if secret is not None:
            self._headers["authorization"] = f"Bearer {secret}"

    async def transmit(self, body: bytes) -> None:
        _judge(await self._egress.request("POST", self._url, body, self._headers))


class _Otlp:
    """OTLP over HTTP."""

    def __init__(self, exporter: Exporter, secret: str | None, egress: Egress) -> None:
        bare = urlsplit(exporter.url).path in ("", "/")
        self._url = f"{exporter.url.rstrip('/')}/v1/logs" if bare else exporter.url
        self._egress = egress
        self._headers = {"content-type": "application/json"}
        if secret is not None:
            self._headers["authorization"] = f"Bearer {secret}"

    async def transmit(self, body: bytes) -> None:
        answer = await self._egress.request("POST", self._url, body, self._headers)
        _judge(answer)
        rejected = rejected_by(answer.body)
        if rejected:
            raise Refused(rejected)


class _Hec:
    """Splunk's HTTP event collector; with ``indexer_ack`` until the events are indexed."""

    def __init__(self, exporter: Exporter, secret: str, egress: Egress) -> None:
        self._url, self._egress = exporter.url, egress
        self._ack_url = f"{exporter.url.partition('?')[0].removesuffix('/event')}/ack"
        self._indexer_ack = exporter.indexer_ack
        self._headers = {"content-type": "application/json", "authorization": f"Splunk {secret}"}
        if exporter.indexer_ack:
            self._headers["x-splunk-request-channel"] = str(uuid4())

    async def transmit(self, body: bytes) -> None:
        answer = await self._egress.request("POST", self._url, body, self._headers)
        _judge(answer)
        if not self._indexer_ack:
            return
        number = _json(answer.body).get("ackId")
        if type(number) is not int:
            raise EgressFailed("the collector gave no ackId: is indexer acknowledgement on there?")
        asked = msgspec.json.encode({"acks": [number]})
        while True:
            answer = await self._egress.request("POST", self._ack_url, asked, self._headers)
            _judge(answer)
            acknowledged = _json(answer.body).get("acks")
            if isinstance(acknowledged, dict) and acknowledged.get(str(number)) is True:
                return
            await asyncio.sleep(ACK_POLL_S)


def _json(body: bytes) -> dict[str, Any]:
    with suppress(msgspec.DecodeError, UnicodeDecodeError):
        value = msgspec.json.decode(body)
        if isinstance(value, dict):
            return value
    return {}


class _Syslog:
    """Messages over TLS, a connection for each parcel."""

    def __init__(self, exporter: Exporter, egress: Egress, tls: ssl.SSLContext) -> None:
        parts = urlsplit(exporter.url)
        self._host, self._port = parts.hostname or "", parts.port or 0
        self._egress, self._tls = egress, tls

    async def transmit(self, body: bytes) -> None:
        with await self._connected() as connection:
            try:
                await _say(connection, self._tls, self._host, body)
            except ssl.SSLCertVerificationError as error:
                raise EgressFailed(f"{self._host} is not trusted: {error.verify_message}") from None
            except ssl.SSLError as error:
                raise EgressFailed(f"{self._host}: TLS: {error.reason or 'cut off'}") from None

    async def _connected(self) -> socket.socket:
        """A connection to the first of its addresses that takes one."""
        for address in await self._egress.addresses(self._host, self._port):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            connection = socket.socket(family, socket.SOCK_STREAM)
            connection.setblocking(False)
            try:
                await asyncio.get_running_loop().sock_connect(connection, (address, self._port))
            except OSError:
                connection.close()
            except asyncio.CancelledError:
                connection.close()
                raise
            else:
                return connection
        raise EgressFailed(f"{self._host} cannot be reached")


async def _say(connection: socket.socket, context: ssl.SSLContext, host: str, body: bytes) -> None:
    """Everything over a new TLS session, to the end of it on both sides."""
    loop = asyncio.get_running_loop()
    received, to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(received, to_send, server_hostname=host)

    async def until_done(step: Callable[[], object]) -> None:
        while True:
            try:
                step()
            except ssl.SSLWantReadError:
                waiting = True
            else:
                waiting = False
            if to_send.pending:
                await loop.sock_sendall(connection, to_send.read())
            if not waiting:
                return
            data = await loop.sock_recv(connection, _READ_BYTES)
            if data:
                received.write(data)
            else:
                received.write_eof()

    await until_done(tls.do_handshake)
    for start in range(0, len(body), _READ_BYTES):
        part = body[start : start + _READ_BYTES]
        await until_done(partial(tls.write, part))
    await until_done(tls.unwrap)


class _Archive:
    """Objects in S3."""

    sealing = True

    def __init__(self, exporter: Exporter, secret: str, egress: Egress) -> None:
        parts = urlsplit(exporter.url)
        default = {"https": 443, "http": 80}[parts.scheme]
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
        self._host = host if (parts.port or default) == default else f"{host}:{parts.port}"
        self._base = f"{parts.scheme}://{self._host}"
        self._exporter, self._egress = exporter, egress
        self._who = Credentials(exporter.access_key, secret, exporter.region)
        self.poll_s = exporter.piece_s

    def cut(self, reads: Iterable[Read], mark: Mark) -> Iterator[Parcel]:
        return pieces(reads, mark.next, lambda item: Event(item, item.raw), sealed=mark.sealed)

    async def send(self, shard: str, parcel: Parcel) -> None:
        for each in objects_of(self._exporter.prefix, shard, parcel):
            async with asyncio.timeout(self._exporter.timeout_s):
                await self._put(each)

    async def _put(self, each: Object) -> None:
        now = datetime.now(UTC)
        headers = put_headers(each.kind, each.body, self._exporter.retention_days, now)
        answer = await self._ask("PUT", each.key, headers, each.body)
        if answer.status not in (CONFLICT, EXISTS):
            _judge(answer)
            # There are services, and buckets, that take what asks to be locked and do not lock it.
            answer = await self._ask("HEAD", each.key, {}, b"")
            _judge(answer)
        else:
            answer = await self._ask("GET", each.key, {}, b"", len(each.body) + _READ_BYTES)
            _judge(answer)
            if answer.body != each.body:
                raise EgressFailed(f"there is another object under {each.key}: not put from here")
        if answer.headers.get("x-amz-object-lock-mode") != "COMPLIANCE":
            raise EgressFailed(
                f"{each.key} is not seen to be locked: is Object Lock on in the bucket, and may "
                "the key read it (s3:GetObject, s3:GetObjectRetention)?"
            )

    async def _ask(
        self,
        method: str,
        key: str,
        headers: Mapping[str, str],
        body: bytes,
        most: int = _READ_BYTES,
    ) -> Answer:
        path = f"/{self._exporter.bucket}/{key}"
        request = Request(method, self._host, path, headers, body)
        sent = signed(request, self._who, datetime.now(UTC))
        return await self._egress.request(
            method, self._base + path, body or None, sent, max_bytes=most
        )

    async def close(self) -> None:
        await self._egress.close()
