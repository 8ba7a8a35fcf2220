"""What counts as acknowledged by a syslog receiver: that it read all, and nothing less."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import msgspec
import pytest

from gateway.app.destinations import destination_of
from gateway.audit.stream import Encoding, Event, Item, Parcel, rendering
from gateway.audit.syslog import syslog_encoding
from gateway.egress import EgressFailed, EgressRefused
from gateway.settings import Exporter
from tests.support.certificates import self_signed
from tests.support.receivers import SyslogReceiver, server_context

ENCODING: Encoding = syslog_encoding(rendering("ocsf", "1"), 32473)


def parcel(count: int = 3, reason: str = "") -> Parcel:
    events = []
    for seq in range(count):
        record = {"v": "audit/1", "type": "t", "log": "g/data-0", "seq": seq, "reason": reason}
        item = Item(seq, msgspec.json.encode(record), record)
        events.append(Event(item, ENCODING.event(item)))
    return Parcel(0, count, events)


@pytest.fixture
async def receiver(tmp_path: Path):
    certificate, key = self_signed(tmp_path)
    served = SyslogReceiver(server_context(certificate, key))
    await served.start()
    yield served, certificate
    await served.stop()


async def send(sent: Parcel, port: int, certificate: Path | None, **more: object) -> None:
    options: dict = {"allowed_networks": ["127.0.0.1/32"], "timeout_s": 2.0, **more}
    host = options.pop("host", "localhost")
    url = f"tls://{host}:{port}"
    exporter = Exporter(kind="syslog", url=url, ca=certificate, **options)
    destination = destination_of(exporter, None, lambda _key, _why: None)
    try:
        await destination.send("data-0", sent)
    finally:
        await destination.close()


async def test_control_what_is_read_to_the_end_is_acknowledged(receiver):
    served, certificate = receiver
    await send(parcel(), served.port, certificate)
    assert served.keys() == ["g/data-0#0", "g/data-0#1", "g/data-0#2"]
    large = parcel(40, "x" * 30_000)  # more than the sockets between hold
    await send(large, served.port, certificate)
    assert len(served.messages) == 43


async def test_a_receiver_that_breaks_off_or_hangs_has_acknowledged_nothing(receiver, free_port):
    served, certificate = receiver
    served.mood = "resets"
    with pytest.raises((EgressFailed, OSError)):  # more than its TLS reads ahead of it
        await send(parcel(40, "x" * 30_000), served.port, certificate)
    served.mood = "hangs"
    with pytest.raises(TimeoutError):
        await send(parcel(), served.port, certificate)
    with pytest.raises(EgressFailed, match="cannot be reached"):
        await send(parcel(), free_port, certificate)


async def test_a_connection_that_ends_without_a_word_is_no_acknowledgement(tmp_path):
    """A receiver that was killed leaves a clean end of TCP behind, whatever it had written."""
    certificate, key = self_signed(tmp_path)
    context = server_context(certificate, key)

    sent = parcel()
    length = sum(len(event.data) for event in sent.events)

    def reads_and_dies(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        tls = context.wrap_socket(connection, server_side=True)
        read = b""
        while len(read) < length:
            read += tls.recv(65_536)
        socket.socket(fileno=tls.detach()).close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        dying = asyncio.create_task(asyncio.to_thread(reads_and_dies, listener))
        with pytest.raises((EgressFailed, OSError)):
            await send(sent, listener.getsockname()[1], certificate)
        await dying


async def test_only_the_receiver_that_was_named_gets_a_message(receiver, tmp_path):
    served, certificate = receiver
    other = tmp_path / "other"
    other.mkdir()
    foreign, _ = self_signed(other)
    with pytest.raises(EgressFailed, match="not trusted"):
        await send(parcel(), served.port, foreign)
    with pytest.raises(EgressFailed, match="not trusted"):
        await send(parcel(), served.port, None)
    address = {"host": "127.0.0.2", "allowed_networks": ["127.0.0.0/8"]}
    server = await asyncio.start_server(served._serve, "127.0.0.2", served.port)
    with pytest.raises(EgressFailed, match="not trusted"):  # the name is not the certificate's
        await send(parcel(), served.port, certificate, **address)
    server.close()
    with pytest.raises(EgressRefused, match="not public"):
        await send(parcel(), served.port, certificate, allowed_networks=[])
    assert served.messages == []
