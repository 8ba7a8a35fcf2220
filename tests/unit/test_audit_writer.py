"""The writer's promises on a healthy disk: order, linking, back-pressure, restart, rotation."""

import asyncio
import stat
import threading
from pathlib import Path

import pytest

from gateway.audit import records as r
from gateway.audit.note import SigningKey, sign_checkpoint
from gateway.audit.read import LogReader
from gateway.audit.segments import LogCorrupt
from gateway.audit.storage import Disk
from gateway.audit.writer import AuditLog
from gateway.core.protocols import LogUnavailable, Position

ORIGIN = "example.org/gate/data-0"
KEY = SigningKey(ORIGIN, bytes(range(32)))
NODE = r.Gateway(node="data-0", build="0.1.0")
SUBJECT_KEY = b"k" * 32


def intent(request_id):
    return r.AccessIntent(
        request_id=request_id,
        decision_id="dec_" + request_id,
        subject=r.SubjectRef(
            id="red", org="acme", kind="member", credential="c1", cred_kind="api_key"
        ),
        src=r.SourceRef(hmac="hmac:1:ab"),
        wire="messages",
        action="model.generate",
        model=r.ModelRef(requested="mythos-5", authorised="mythos-5", endpoint="anthropic"),
        decision=r.DecisionRef(effect="allow", revision="rev1"),
        request=r.RequestRef(bytes=120, sha256="ab", stream=True),
    )


def outcome(request_id, **fields):
    return r.AccessOutcome(request_id=request_id, status="ok", http=200, **fields)


def start(directory, **options):
    return AuditLog.open(directory, ORIGIN, KEY, node=NODE, **options)


def contents(directory):
    return [entry.json() for entry in LogReader(directory).entries()]


class HeldDisk(Disk):
    """A disk whose flush waits for a word, once ``hold`` is cleared."""

    def __init__(self):
        self.hold = threading.Event()
        self.hold.set()
        self.entered = threading.Event()
        self.syncs = 0

    def sync(self, fd):
        self.entered.set()
        assert self.hold.wait(20)
        self.syncs += 1
        super().sync(fd)


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "audit" / "data-0"


async def test_a_record_carries_the_common_fields_and_its_position(directory):
    log = start(directory)
    position = await log.append(intent("req_1"), b'{"facts":1}', SUBJECT_KEY)
    assert position == Position(ORIGIN, 1)
    end = await log.append(outcome("req_1"))
    await log.heartbeat()
    await log.aclose()
    await log.aclose()
    opened, asked, ended, beat, closed = contents(directory)
    assert [opened["type"], beat["type"], closed["type"]] == [
        "log.opened",
        "log.heartbeat",
        "log.closed",
    ]
    assert opened["clean"] is True
    assert (asked["seq"], asked["log"], asked["v"]) == (1, ORIGIN, "audit/1")
    assert asked["gateway"] == {"node": "data-0", "build": "0.1.0"}
    assert set(asked) >= {"time", "hlc", "boot", "mono", "clock", "facts"}
    assert (ended["parent"], end.seq) == (1, 2)
    entry = LogReader(directory).find(1)
    assert entry.facts(SUBJECT_KEY) == b'{"facts":1}'
    assert log.head.size == 5
    assert log.counters.records == 5


def test_files_are_the_owners_alone(directory):
    start(directory).close()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}


async def test_what_arrives_during_a_flush_is_one_batch(directory):
    disk = HeldDisk()
    log = start(directory, storage=disk)
    before = log.counters.batches
    disk.hold.clear()
    disk.entered.clear()
    first = asyncio.create_task(log.append(intent("req_0")))
    assert await asyncio.to_thread(disk.entered.wait, 20)
    rest = [asyncio.create_task(log.append(intent(f"req_{i}"))) for i in range(1, 101)]
    await asyncio.sleep(0)
    assert not first.done()
    assert log.lag_records == 101
    assert log.lag_s > 0
    disk.hold.set()
    assert (await first).seq == 1
    assert [position.seq for position in await asyncio.gather(*rest)] == list(range(2, 102))
    assert log.counters.batches - before == 2
    assert log.lag_records == 0
    assert log.lag_s == 0
    await log.aclose()


async def test_a_cancelled_append_harms_no_other_and_its_intent_can_still_be_ended(directory):
    disk = HeldDisk()
    log = start(directory, storage=disk)
    disk.hold.clear()
    disk.entered.clear()
    tasks = [asyncio.create_task(log.append(intent(f"req_{i}"))) for i in range(6)]
    assert await asyncio.to_thread(disk.entered.wait, 20)
    await asyncio.sleep(0)
    tasks[0].cancel()
    tasks[3].cancel()
    disk.hold.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(result, asyncio.CancelledError) for result in results] == [
        i in (0, 3) for i in range(6)
    ]
    for i in range(6):
        await log.append(outcome(f"req_{i}"))
    await log.aclose()
    assert len(contents(directory)) == 14


async def test_a_full_queue_refuses_at_once(directory):
    disk = HeldDisk()
    log = start(directory, storage=disk, queue_records=3)
    disk.hold.clear()
    disk.entered.clear()
    tasks = [asyncio.create_task(log.append(intent("req_a")))]
    assert await asyncio.to_thread(disk.entered.wait, 20)
    tasks += [asyncio.create_task(log.append(intent(f"req_{i}"))) for i in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(LogUnavailable, match="wait for the disk"):
        await log.append(intent("req_z"))
    disk.hold.set()
    await asyncio.gather(*tasks)
    await log.append(intent("req_z"))
    await log.aclose()


async def test_a_refused_record_takes_no_index_and_harms_no_other(directory):
    log = start(directory)
    long = r.RegistryTampered(kind="member", id="m", finding="x" * 40_000)
    odd = r.RegistryTampered(kind="member", id="m", finding=object())
    results = await asyncio.gather(
        log.append(intent("req_1")),
        log.append(long),
        log.append(odd),
        log.append(outcome("req_none")),
        log.append(intent("req_1")),
        log.append(intent("req_2"), b"facts"),
        log.append(outcome("req_1"), b"facts", SUBJECT_KEY),
        log.append(outcome("req_1", parent=77)),
        log.append(outcome("req_1")),
        log.append(outcome("req_1")),
        return_exceptions=True,
    )
    assert [isinstance(result, ValueError) for result in results] == [
        False, True, True, True, True, True, True, True, False, True,
    ]  # fmt: skip
    assert [results[0].seq, results[8].seq] == [1, 2]
    assert log.counters.refused == 8
    assert log.failed is None
    await log.aclose()


def test_nothing_is_accepted_after_close(directory):
    log = start(directory)
    log.close()
    with pytest.raises(LogUnavailable, match="closing"):
        log.append_sync(r.LogHeartbeat(open=0))


def test_the_first_start_needs_a_key_of_this_log(directory):
    with pytest.raises(ValueError, match="signs for"):
        AuditLog.open(directory, "example.org/other", KEY, node=NODE)
    assert not directory.exists()


def test_one_writer_at_a_time(directory):
    with start(directory), pytest.raises(LogUnavailable, match="another process"):
        start(directory)
    start(directory).close()


def test_orphans_are_closed_as_interrupted_before_open_returns(directory):
    with start(directory) as log:
        log.append_sync(intent("req_1"))
        log.append_sync(intent("req_2"))
        log.append_sync(outcome("req_1"))
    with start(directory) as log:
        assert log.open_intents == 0
        records = contents(directory)
    assert [record["type"] for record in records[-3:]] == [
        "log.opened",
        "log.recovered",
        "access.outcome",
    ]
    assert (records[-1]["status"], records[-1]["parent"]) == ("interrupted", 2)
    assert records[-2]["orphans"] == 1
    assert records[-3]["clean"] is False


def test_a_start_reads_only_the_last_segment_and_still_knows_the_open_intents(directory):
    with start(directory, segment_bytes=3000) as log:
        for i in range(40):
            log.append_sync(intent(f"req_{i}"))
            if i != 5:
                log.append_sync(outcome(f"req_{i}"))
    segments = sorted(directory.glob("*.seg"))
    assert len(segments) > 5
    hidden = segments[1].rename(directory / "elsewhere")
    with start(directory, segment_bytes=3000):
        last = newest_record(directory)
    assert (last["type"], last["status"], last["request_id"]) == (
        "access.outcome",
        "interrupted",
        "req_5",
    )
    with pytest.raises(LogCorrupt, match="does not continue"):
        start(directory, full=True)
    hidden.rename(segments[1])
    start(directory, full=True).close()


def newest_record(directory):
    newest = max(directory.glob("*.seg"))
    return list(LogReader(directory).entries(int(newest.stem)))[-1].json()


def test_a_clock_that_goes_back_is_kept_flagged_and_does_not_disorder(directory):
    times = iter([101, 101, 101, 90, 95, 101, 102, 103])
    now = [100 * 10**9]

    def wall():
        now[0] = next(times) * 10**9
        return now[0]

    with start(directory, wall=wall) as log:
        for i in range(5):
            log.append_sync(intent(f"req_{i}"))
    records = contents(directory)
    hlcs = [int(record["hlc"]) for record in records]
    assert hlcs == sorted(set(hlcs))
    assert [record["clock"] for record in records] == [
        "ok", "ok", "regressed", "regressed", "ok", "ok", "ok",
    ]  # fmt: skip
    assert records[2]["time"] == "1970-01-01T00:01:30.000000000Z"


def test_a_checkpoint_kept_outside_settles_rollback_and_fork(directory, tmp_path):
    heads = []
    with start(directory, on_head=heads.append) as log:
        for i in range(5):
            log.append_sync(intent(f"req_{i}"))
        copy = (directory / f"{0:020d}.seg").read_bytes()
        for i in range(5):
            log.append_sync(outcome(f"req_{i}"))
    kept = heads[-1]
    assert kept == log.head
    with start(directory, known=kept):
        pass
    with start(directory, known=heads[2]):
        pass
    (directory / f"{0:020d}.seg").write_bytes(copy)
    with pytest.raises(LogCorrupt, match=f"kept checkpoint {kept.size}") as refused:
        start(directory, known=kept)
    assert (refused.value.segment, refused.value.leaf) == (f"{0:020d}.seg", 6)
    with start(directory) as log:  # locally invisible, as the format's limits say
        for _ in range(12):
            log.append_sync(r.LogHeartbeat(open=0))
    with pytest.raises(LogCorrupt, match="not the log"):
        start(directory, known=kept)
    with pytest.raises(LogCorrupt, match="has 0 records"):
        start(tmp_path / "empty", known=kept)
    other = SigningKey("example.org/other", bytes(32))
    with pytest.raises(LogCorrupt, match=r"is of example"):
        start(directory, known=sign_checkpoint(other, kept.size, kept.root))


def test_a_known_checkpoint_older_than_the_last_segment_is_compared_too(directory):
    heads = []
    with start(directory, segment_bytes=2000, on_head=heads.append) as log:
        for i in range(20):
            log.append_sync(intent(f"req_{i}"))
    assert len(list(directory.glob("*.seg"))) > 4
    for head in heads[:20:5]:
        start(directory, known=head, segment_bytes=10**6).close()
    fork = sign_checkpoint(KEY, heads[3].size, bytes(32))
    with pytest.raises(LogCorrupt, match="not the log"):
        start(directory, known=fork)


def test_a_new_key_goes_on_where_the_former_ended(directory):
    start(directory, segment_bytes=100).close()
    new = SigningKey(ORIGIN, bytes([9] * 32))
    with pytest.raises(LogCorrupt, match="no known key"):
        AuditLog.open(directory, ORIGIN, new, node=NODE)
    AuditLog.open(directory, ORIGIN, new, node=NODE, former=[KEY.verifier]).close()
    assert [record["type"] for record in contents(directory)] == ["log.opened", "log.closed"] * 2


def test_the_callers_hook_latches_the_log_when_it_fails(directory):
    def keep(head):
        if head.size > 1:
            raise OSError("the place for checkpoints is gone")

    log = start(directory, on_head=keep)
    with pytest.raises(LogUnavailable, match="is gone"):
        log.append_sync(r.LogHeartbeat(open=0))
    with pytest.raises(LogUnavailable):
        log.append_sync(r.LogHeartbeat(open=0))
    log.close()


def test_threads_may_append_together(directory):
    with start(directory) as log:

        def work(name):
            for i in range(20):
                log.append_sync(intent(f"req_{name}_{i}"))
                log.append_sync(outcome(f"req_{name}_{i}"))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(contents(directory)) == 162


def test_a_directory_that_cannot_be_made_is_unavailable(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LogUnavailable, match="cannot be opened"):
        start(tmp_path / "file" / "log")


def open_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_open_leaves_no_descriptor_behind_when_it_refuses(directory):
    start(directory).close()
    path = directory / f"{0:020d}.seg"
    path.write_bytes(path.read_bytes().replace(b"log.opened", b"log.opinen"))
    before = open_descriptors()
    with pytest.raises(LogCorrupt):
        start(directory)
    assert open_descriptors() == before
