"""An archive in S3 that nobody can delete or shorten, and that proves itself."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.app.destinations import destination_of
from gateway.audit.note import VerifierKey, parse_checkpoint
from gateway.audit.s3 import put_headers
from gateway.audit.stream import Event, Item, Mark, Parcel, decode_cursor
from gateway.audit.tlog import leaf_hash, root_of
from gateway.egress import EgressFailed
from gateway.settings import Exporter
from tests.functional.test_exporters import calls, exporter_pids, until, upstream
from tests.support.archive import ACCESS_KEY, BUCKET, REGION, SECRET, Archive, running_archive
from tests.support.gate import Gate, running_gate

__all__ = ["upstream"]

pytestmark = pytest.mark.needs("weed")


def settings(archive: Archive, **more: object) -> dict:
    return {
        "kind": "s3",
        "url": archive.url,
        "bucket": BUCKET,
        "prefix": "gate/",
        "region": REGION,
        "access_key": ACCESS_KEY,
        "secret": SECRET,
        "retention_days": 30,
        "piece_s": 1,
        "allowed_networks": ["127.0.0.1/32"],
        **more,
    }


@pytest.fixture
async def archive(tmp_path: Path):
    (tmp_path / "archive").mkdir()
    async with running_archive(tmp_path / "archive") as served:
        await served.bucket()
        yield served


def piece(*texts: bytes, first: int = 0) -> Parcel:
    events = [Event(Item(n, raw, {}), raw) for n, raw in enumerate(texts, first)]
    return Parcel(first, first + len(texts), events, b"a checkpoint\n")


async def retained(archive: Archive, key: str, version: str) -> str:
    query = [("retention", ""), ("versionId", version)]
    return (await archive.ask("GET", f"/{BUCKET}/{key}", query=query)).body.decode()


async def test_what_was_archived_is_neither_deleted_nor_shortened_by_anyone(archive):
    destination = destination_of(Exporter(**settings(archive)), SECRET, lambda _key, _why: None)
    await destination.send("data-0", piece(b"{}", b'{"a":1}'))
    await destination.send("data-0", piece(b"{}", b'{"a":1}'))  # tried again
    held = await archive.versions()
    assert [key.rpartition(".")[2] for key, _ in sorted(held)] == ["checkpoint", "ndjson"]
    for key, version in held:
        path = f"/{BUCKET}/{key}"
        before = await retained(archive, key, version)
        assert "<Mode>COMPLIANCE</Mode>" in before
        bypass = {"x-amz-bypass-governance-retention": "true"}
        for headers in ({}, bypass):
            refused = await archive.ask(
                "DELETE", path, headers=headers, query=[("versionId", version)]
            )
            assert refused.status == 403
        for mode, days in (("COMPLIANCE", 1), ("GOVERNANCE", 400)):
            until_ = (datetime.now(UTC) + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")
            body = (
                f"<Retention><Mode>{mode}</Mode><RetainUntilDate>{until_}</RetainUntilDate>"
                "</Retention>"
            ).encode()
            refused = await archive.ask(
                "PUT",
                path,
                headers=bypass,
                body=body,
                query=[("retention", ""), ("versionId", version)],
            )
            assert refused.status in (400, 403), refused
        assert await retained(archive, key, version) == before
    assert await archive.versions() == held
    await destination.close()


async def test_control_what_is_not_locked_is_deleted(archive):
    await archive.bucket("loose", locked=False)
    assert (await archive.ask("PUT", "/loose/x", body=b"x")).status == 200
    assert (await archive.ask("DELETE", "/loose/x")).status == 204
    assert (await archive.ask("GET", "/loose/x")).status == 404


async def test_an_object_of_somebody_else_is_not_taken_for_ours(archive):
    destination = destination_of(Exporter(**settings(archive)), SECRET, lambda _key, _why: None)
    name = f"gate/data-0/{0:020d}-{0:020d}.ndjson"
    locked = put_headers("text/plain", b"forged\n", 1, datetime.now(UTC))
    assert (
        await archive.ask("PUT", f"/{BUCKET}/{name}", headers=locked, body=b"forged\n")
    ).status == 200
    with pytest.raises(EgressFailed, match="another object"):
        await destination.send("data-0", piece(b"{}"))
    name = f"gate/data-0/{1:020d}-{1:020d}.ndjson"
    assert (await archive.ask("PUT", f"/{BUCKET}/{name}", body=b"{}\n")).status == 200
    with pytest.raises(EgressFailed, match="not seen to be locked"):
        await destination.send("data-0", piece(b"{}", first=1))
    await destination.close()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"bucket": "loose"}, "answered 40|not seen to be locked"),
        ({"bucket": "made-on-the-way"}, "answered 40|not seen to be locked"),
        ({"access_key": "AKIDOFNOBODY"}, "answered 403"),
    ],
)
async def test_what_the_archive_does_not_take_is_an_error(archive, wrong, said):
    await archive.bucket("loose", locked=False)
    destination = destination_of(
        Exporter(**settings(archive, **wrong)), SECRET, lambda _key, _why: None
    )
    with pytest.raises(Exception, match=said):
        await destination.send("data-0", piece(b"{}"))
    await destination.close()


async def pieces_of(archive: Archive, shard: str) -> dict[tuple[int, int], tuple[bytes, bytes]]:
    """By first and last record: the records, and the checkpoint."""
    found: dict[tuple[int, int], dict[str, bytes]] = {}
    for key, _ in await archive.versions():
        prefix, _, name = key.rpartition("/")
        if prefix == f"gate/{shard}":
            place, _, kind = name.partition(".")
            first, _, last = place.partition("-")
            found.setdefault((int(first), int(last)), {})[kind] = await archive.get(key)
    return {
        place: (each["ndjson"], each["checkpoint"])
        for place, each in sorted(found.items())
        if len(each) == 2
    }


async def proved(archive: Archive, gate: Gate, shard: str) -> list[bytes]:
    """The archive's records of a log, from its first, held against what the log's key signed."""
    key = VerifierKey.parse(gate.state.vkeys()[shard])
    records: list[bytes] = []
    for (first, last), (lines, note) in (await pieces_of(archive, shard)).items():
        assert first == len(records)
        records += lines.removesuffix(b"\n").split(b"\n")
        assert last == len(records) - 1
        checkpoint = parse_checkpoint(note, [key])
        assert checkpoint.size == len(records)
        assert checkpoint.root == root_of([leaf_hash(record) for record in records])
    return records


def archived(gate: Gate) -> dict[str, int]:
    """How many records of each log the cursor says to be archived."""
    path = gate.state.exporter_cursor("archive")
    marks = decode_cursor(path.read_bytes()).logs if path.exists() else {}
    return {shard: mark.next for shard, mark in marks.items()}


def durable(gate: Gate) -> dict[str, int]:
    """How many records each log has."""
    logs = [record["log"].rpartition("/")[2] for record in gate.records()]
    return {shard: logs.count(shard) for shard in gate.state.vkeys()}


@pytest.mark.timeout(180)
async def test_the_archive_of_a_gateway_proves_itself_and_nothing_is_put_twice(
    archive, tmp_path, upstream
):
    (tmp_path / "gate").mkdir()
    exporters = {"archive": settings(archive)}
    async with running_gate(tmp_path / "gate", upstream.url, exporters=exporters) as gate:
        key = await gate.member("red")
        for _ in range(3):
            await calls(gate, key, 5)
            pid = exporter_pids(gate).get("archive")
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
            await until(lambda: exporter_pids(gate).get("archive", pid) != pid, "another runs")  # noqa: B023
        cursor = gate.state.exporter_cursor("archive")
        await until(lambda: archived(gate) == durable(gate), "all is archived")
        sizes = archived(gate)
        for shard, size in sizes.items():
            records = await proved(archive, gate, shard)
            assert len(records) == size
        held = await archive.versions()
        assert len(held) == len({name for name, _ in held})
        # The cursor goes back to before the last piece, which was sealed: it is made the same.
        await gate.stop()
        first, last = list(await pieces_of(archive, "data-0"))[-1]
        marks = decode_cursor(cursor.read_bytes())
        marks.logs["data-0"] = Mark(first, last + 1)
        cursor.write_bytes(marks.encode())
        await gate.start()
        await calls(gate, key, 1)
        await until(lambda: archived(gate)["data-0"] > last + 1, "it goes on")
        assert len(await proved(archive, gate, "data-0")) > last + 1
        now = await archive.versions()
        assert set(held) <= set(now)
        assert len(now) == len({name for name, _ in now})
