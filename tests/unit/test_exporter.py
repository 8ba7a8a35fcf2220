"""An exporter against logs on disk and destinations that fail: nothing is left out, ever."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from gateway.app import exporter as exporter_module
from gateway.app.exporter import Export, backoff
from gateway.audit.note import SigningKey
from gateway.audit.records import ConfigChanged, Gateway, LogHeartbeat
from gateway.audit.stream import (
    Account,
    Cursor,
    Event,
    Follower,
    Mark,
    Refused,
    decode_account,
    decode_cursor,
    parcels,
)
from gateway.audit.writer import AuditLog
from gateway.egress import EgressFailed
from gateway.state import StateDirectory
from gateway.telemetry.logs import Redactor


class Writer:
    """The logs of a gateway, each with records that tell their number."""

    def __init__(self, root: Path, *shards: str) -> None:
        self.state = StateDirectory(root)
        self.state.prepare()
        self.state.exporters.mkdir()
        self.logs = {shard: self.open(shard) for shard in shards}
        self.written: dict[str, int] = {}

    def open(self, shard: str) -> AuditLog:
        path = self.state.log_key(shard)
        key = SigningKey.load(path) if path.exists() else SigningKey.create(path, f"t/{shard}")
        node = Gateway(node="gate")
        return AuditLog.open(
            self.state.log(shard), f"t/{shard}", key, node=node, segment_bytes=65_536
        )

    async def write(self, shard: str, count: int = 1) -> None:
        for _ in range(count):
            self.written[shard] = number = self.written.get(shard, 0) + 1
            await self.logs[shard].append(ConfigChanged(digest_after=str(number)))

    def close(self) -> None:
        for log in self.logs.values():
            log.close()


class Place:
    """A destination in memory. ``fails`` is asked before each send; ``slow`` logs hang."""

    poll_s = 0.01
    sealing = False

    def __init__(self, fails=lambda: None) -> None:
        self.fails = fails
        self.got: list[Event] = []
        self.hanging: set[str] = set()
        self.cursor_then: list[int] = []

    def cut(self, reads, mark):
        return parcels(reads, mark.next, lambda item: Event(item, item.raw), most_events=3)

    async def send(self, shard, parcel):
        if shard in self.hanging:
            await asyncio.Event().wait()
        error = self.fails()
        if error is not None:
            raise error
        self.got += parcel.events
        await asyncio.sleep(0)
        error = self.fails()  # taken, and the acknowledgement lost
        if error is not None:
            raise error

    async def close(self):
        pass

    def numbers(self, shard: str) -> list[int]:
        """Of the records that arrived, in the order in which each first did."""
        origin = f"t/{shard}"
        found = [
            int(each.item.record["digest_after"])
            for each in self.got
            if each.item.record["log"] == origin and each.item.record["type"] == "config.changed"
        ]
        return list(dict.fromkeys(found))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(exporter_module, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(exporter_module, "LAST_PAUSE_S", 0.002)
    monkeypatch.setattr(exporter_module, "LOOK_S", 0.01)


def export(writer: Writer, place: Place) -> Export:
    account = Account("siem", "webhook")
    return Export(account, writer.state, place, Redactor(["a-secret-token"]))


async def until(holds, seconds=20.0):
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest.fixture
def writer(tmp_path):
    made = Writer(tmp_path, "control", "data-0")
    yield made
    made.close()


async def stopped(task: asyncio.Task) -> None:
    task.cancel()
    await asyncio.wait({task})


async def test_all_logs_arrive_in_order_and_new_ones_are_found(writer):
    place = Place()
    await writer.write("control", 5)
    running = asyncio.create_task(export(writer, place).run())
    await writer.write("data-0", 7)
    await until(lambda: len(place.numbers("data-0")) == 7 and len(place.numbers("control")) == 5)
    writer.logs["data-1"] = writer.open("data-1")
    await writer.write("data-1", 2)
    await until(lambda: place.numbers("data-1") == [1, 2])
    assert place.numbers("data-0") == list(range(1, 8))
    await stopped(running)


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_fails_and_whenever_it_is_killed_nothing_is_left_out(writer, seed):
    chance = random.Random(seed)
    faults = [EgressFailed("reset"), TimeoutError(), ConnectionResetError(), Refused("4"), None]
    place = Place(lambda: chance.choice(faults))
    for _ in range(8):
        for shard in ("control", "data-0"):
            await writer.write(shard, chance.randrange(6))
        running = asyncio.create_task(export(writer, place).run())
        await asyncio.sleep(chance.random() / 20)
        await stopped(running)  # nothing is written on the way out
        path = writer.state.exporter_cursor("siem")
        marks = decode_cursor(path.read_bytes()).logs if path.exists() else {}
        for shard, mark in marks.items():  # the cursor is never ahead of what arrived
            arrived = {e.item.seq for e in place.got if e.item.record["log"] == f"t/{shard}"}
            assert set(range(mark.next)) - arrived == set()
    place.fails = lambda: None
    running = asyncio.create_task(export(writer, place).run())
    for shard in ("control", "data-0"):
        count = writer.written.get(shard, 0)
        await until(lambda: place.numbers(shard) == list(range(1, count + 1)))  # noqa: B023
    await stopped(running)
    keys: dict[str, set[bytes]] = {}
    for each in place.got:
        keys.setdefault(each.item.key, set()).add(each.data)
    assert all(len(data) == 1 for data in keys.values())  # what comes twice is the same


async def test_one_log_that_hangs_holds_up_no_other(writer):
    place = Place()
    place.hanging = {"data-0"}
    running = asyncio.create_task(export(writer, place).run())
    await writer.write("data-0", 3)
    await writer.write("control", 3)
    await until(lambda: place.numbers("control") == [1, 2, 3])
    assert place.numbers("data-0") == []
    await stopped(running)


async def test_an_account_tells_of_failures_and_of_their_end_without_secrets(writer):
    place = Place(lambda: EgressFailed("answered 403: a-secret-token is unknown"))
    await writer.write("control")
    path = writer.state.exporter_account("siem")
    running = asyncio.create_task(export(writer, place).run())
    await until(lambda: path.exists() and decode_account(path.read_bytes()).failures > 1)
    told = decode_account(path.read_bytes())
    assert "answered 403" in told.last_error
    assert b"a-secret-token" not in path.read_bytes()
    through = told.through
    place.fails = lambda: None
    await until(lambda: decode_account(path.read_bytes()).failures == 0)
    await until(lambda: decode_account(path.read_bytes()).through > through)
    await stopped(running)


async def test_a_log_that_was_cut_back_is_said_and_not_taken_for_exported(writer):
    writer.state.exporter_cursor("siem").write_bytes(Cursor({"control": Mark(99)}).encode())
    place = Place()
    running = asyncio.create_task(export(writer, place).run())
    path = writer.state.exporter_account("siem")
    await until(lambda: path.exists() and "shorter" in decode_account(path.read_bytes()).last_error)
    await writer.write("data-0")
    await until(lambda: place.numbers("data-0") == [1])  # the others go on
    await stopped(running)


async def test_a_cursor_that_is_none_is_refused(writer):
    writer.state.exporter_cursor("siem").write_bytes(b"{}")
    with pytest.raises(ValueError, match="not a cursor"):
        export(writer, Place())


async def test_a_disk_that_keeps_no_cursor_lets_nothing_count_as_sent(writer, monkeypatch):
    def full(_path, _data):
        raise OSError(28, "No space left on device")

    real = exporter_module.replace_durably
    monkeypatch.setattr(exporter_module, "replace_durably", full)
    place = Place()
    await writer.write("control", 4)
    running = asyncio.create_task(export(writer, place).run())
    path = writer.state.exporter_account("siem")
    await until(lambda: path.exists() and decode_account(path.read_bytes()).failures > 1)
    assert "No space left" in decode_account(path.read_bytes()).last_error
    monkeypatch.setattr(exporter_module, "replace_durably", real)
    await until(lambda: place.numbers("control") == [1, 2, 3, 4])
    await stopped(running)


async def test_a_full_disk_is_waited_out_and_not_stormed(writer, monkeypatch):
    monkeypatch.setattr(exporter_module, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(exporter_module, "LAST_PAUSE_S", 10.0)

    def full(_path, _data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporter_module, "replace_durably", full)
    place = Place()
    running = asyncio.create_task(export(writer, place).run())
    await asyncio.sleep(1)
    await stopped(running)
    assert 2 <= len(place.got) <= 14  # one record in each of two logs, six pauses at most


async def test_heartbeats_move_the_cursor_and_are_not_sent(writer):
    place = Place()
    for _ in range(5):
        await writer.logs["control"].append(LogHeartbeat(open=0))
    running = asyncio.create_task(export(writer, place).run())
    path = writer.state.exporter_cursor("siem")
    size = writer.logs["control"].head.size
    await until(
        lambda: (
            path.exists()
            and decode_cursor(path.read_bytes()).logs.get("control", Mark(0)).next == size
        )
    )
    assert {each.item.record["type"] for each in place.got} == {"log.opened"}
    await stopped(running)


async def test_a_follower_begins_anywhere_and_crosses_segments(writer):
    await writer.write("data-0", 600)  # several segments
    directory = writer.state.log("data-0")
    size = writer.logs["data-0"].head.size
    assert len(list(directory.glob("*.seg"))) > 2
    for start in (0, 1, 150, size - 1, size):
        found = [item.seq for read in Follower(directory, start).read() for item in read.items]
        assert found == list(range(start, size))


def test_pauses_grow_to_a_bound_and_differ(monkeypatch):
    monkeypatch.undo()
    pauses = [backoff(n, 1.0) for n in range(1, 12)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1], backoff(10_000, 1.0)) == (0.5, 30.0, 30.0)
    assert backoff(1, 0.0) == 0.25
