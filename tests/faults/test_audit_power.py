"""Power cuts, simulated: what was not flushed survives sector by sector, or not, at random.

``kill -9`` proves nothing about flushing, because the page cache outlives the process. Here a disk
remembers what had been flushed; when the power goes, each 512-byte sector written since survives or
not, files are cut short, and creations and renames are lost unless their directory was flushed. The
negative control lies about three flushes in four and must lose records, so the test can fail.
"""

import asyncio
import errno
import os
import random
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from gateway.audit import records as r
from gateway.audit import verify
from gateway.audit.note import Checkpoint, SigningKey
from gateway.audit.read import LogReader
from gateway.audit.segments import LogCorrupt
from gateway.audit.storage import Disk
from gateway.audit.writer import AuditLog
from gateway.core.protocols import LogUnavailable

ORIGIN = "example.org/gate/data-0"
KEY = SigningKey(ORIGIN, bytes(range(32)))
KEYS = dict([verify.parse_vkey(KEY.vkey)])
NODE = r.Gateway(node="data-0")
SECTOR = 512
RUNS = 200


class PowerCut(OSError):
    """The machine is off."""


class SimDisk(Disk):
    """Real files in one directory, and beside them what a power cut would leave.

    Args:
        directory: the log's.
        cut_at: the operation at which the power goes; ``None`` for never.
        done: whether that operation still takes effect before it goes.
        honest: asked at each flush whether it really flushes.
    """

    def __init__(self, directory, cut_at=None, *, done=False, honest=lambda: True):
        self.directory, self.cut_at, self.done, self.honest = directory, cut_at, done, honest
        self.steps = []
        self.off = False
        self.pending = []  # directory operations not yet flushed
        self.kept = {}  # name -> inode, as flushed
        self.flushed = {}  # inode -> content, as flushed
        self.inodes = {}  # descriptor -> inode
        if directory.exists():
            for path in directory.iterdir():
                if path.name != "lock":
                    inode = path.stat().st_ino
                    self.kept[path.name], self.flushed[inode] = inode, path.read_bytes()

    def _step(self, name, action):
        if self.off:
            raise PowerCut("off")
        self.steps.append(name)
        self.off = len(self.steps) - 1 == self.cut_at
        result = action() if not self.off or self.done else None
        if self.off:
            raise PowerCut(name)
        return result

    def create(self, path):
        def action():
            fd = super(SimDisk, self).create(path)
            self.inodes[fd] = os.fstat(fd).st_ino
            self.flushed[self.inodes[fd]] = b""
            self.pending.append((None, path.name, self.inodes[fd]))
            return fd

        return self._step("create", action)

    def open(self, path):
        fd = super().open(path)
        self.inodes[fd] = os.fstat(fd).st_ino
        return fd

    def write(self, fd, data):
        return self._step("write", lambda: super(SimDisk, self).write(fd, data))

    def _content(self, fd):
        with open(f"/proc/self/fd/{fd}", "rb") as file:  # noqa: PTH123  a descriptor
            return file.read()

    def sync(self, fd):
        def action():
            if self.honest():
                self.flushed[self.inodes[fd]] = self._content(fd)

        self._step("sync", action)

    def truncate(self, fd, size):
        def action():
            os.ftruncate(fd, size)
            self.flushed[self.inodes[fd]] = self._content(fd)

        self._step("truncate", action)

    def rename(self, source, target):
        def action():
            self.pending.append((source.name, target.name, source.stat().st_ino))
            source.rename(target)

        self._step("rename", action)

    def sync_dir(self, _path):
        def action():
            for change in self.pending:
                self._apply(change)
            self.pending.clear()

        self._step("sync_dir", action)

    def _apply(self, change):
        source, target, inode = change
        if source is None or self.kept.pop(source, None) is not None:
            self.kept[target] = inode

    def settle(self, survives):
        """Rewrite the directory as it is after the cut; ``survives`` is asked for each loss."""
        current = {}
        for path in self.directory.iterdir():
            if path.name != "lock":
                current[path.stat().st_ino] = path.read_bytes()
                path.unlink()
        for change in self.pending:
            if survives():
                self._apply(change)
        for name, inode in self.kept.items():
            content = self._after(self.flushed[inode], current[inode], survives)
            (self.directory / name).write_bytes(content)

    @staticmethod
    def _after(old, new, survives):
        if len(new) < len(old):
            return new if survives() else old
        result = bytearray(old) + bytes(len(new) - len(old))
        end = len(old)
        for start in range(len(old) // SECTOR * SECTOR, len(new), SECTOR):
            sector = slice(start, min(start + SECTOR, len(new)))
            if survives():
                result[sector] = new[sector]
                end = sector.stop
        return bytes(result if survives() else result[:end])


def intent(request_id):
    return r.AccessIntent(
        request_id=request_id,
        decision_id="dec",
        subject=r.SubjectRef(
            id="red", org="acme", kind="member", credential="c1", cred_kind="api_key"
        ),
        src=r.SourceRef(hmac="hmac:1:ab"),
        wire="messages",
        action="model.generate",
        model=r.ModelRef(requested="mythos-5"),
        decision=r.DecisionRef(effect="allow", revision="rev1"),
        request=r.RequestRef(bytes=120),
    )


async def load(log, rng, acked, rounds):
    """Calls in flight, several at once; what was acknowledged goes into ``acked``."""
    name = log.head.size

    async def call(i):
        request_id = f"{name}_{i}"
        position = await log.append(intent(request_id), b"f" * rng.randint(1, 900), b"k" * 32)
        acked[position.seq] = (request_id, "access.intent")
        if rng.random() < 0.8:
            position = await log.append(r.AccessOutcome(request_id=request_id, status="ok"))
            acked[position.seq] = (request_id, "access.outcome")

    for turn in range(rounds):
        calls = [call(f"{turn}.{i}") for i in range(rng.randint(1, 8))]
        results = await asyncio.gather(*calls, return_exceptions=True)
        if any(isinstance(result, LogUnavailable) for result in results):
            return
        assert all(result is None for result in results), results


@dataclass
class Promised:
    """What callers were told: records by leaf index, and checkpoints."""

    acked: dict[int, tuple[str, str]] = field(default_factory=dict)
    heads: list[Checkpoint] = field(default_factory=list)


def life(directory, disk, rng, promised, *, rounds=12):
    """One life of the process, until the power goes; false if it went during start-up."""
    try:
        log = AuditLog.open(
            directory,
            ORIGIN,
            KEY,
            node=NODE,
            storage=disk,
            segment_bytes=6000,
            known=promised.heads[-1] if promised.heads and rng.random() < 0.5 else None,
            on_head=promised.heads.append,
        )
    except LogUnavailable:
        return False
    asyncio.run(load(log, rng, promised.acked, rounds))
    log.close()
    return True


def lost(directory, acked):
    """How many acknowledged records are not where they were promised to be."""
    found = {entry.seq: entry.json() for entry in LogReader(directory).entries()}
    return sum(
        (found.get(seq, {}).get("request_id"), found.get(seq, {}).get("type")) != promised
        for seq, promised in acked.items()
    )


def test_power_cut_200_times_across_rotation_loses_no_acknowledged_record(tmp_path):
    acks = healed = unopened = segments = early = 0
    for run in range(RUNS):
        rng = random.Random(run)
        directory = tmp_path / str(run)
        directory.mkdir()
        promised = Promised()
        for limit in (60, 12):  # the second cut comes soon: during recovery
            disk = SimDisk(directory, rng.randrange(limit), done=rng.random() < 0.3)
            early += not life(directory, disk, rng, promised)
            bias = rng.choice([0.3, 0.6, 0.9])
            disk.settle(lambda rng=rng, bias=bias: rng.random() < bias)
        assert life(directory, Disk(), rng, promised, rounds=1)
        [report] = verify.verify_directory(directory, KEYS, [promised.heads[-1].note], patience_s=0)
        assert report.verdict == "ok", (run, report.verdict)
        assert lost(directory, promised.acked) == 0, run
        acks += len(promised.acked)
        records = [entry.json() for entry in LogReader(directory).entries()]
        recovered = [record for record in records if record["type"] == "log.recovered"]
        healed += sum(record["torn_bytes"] > 0 for record in recovered)
        unopened += sum(record["offset"] == 0 and record["torn_bytes"] > 0 for record in recovered)
        segments += len(list(directory.glob("*.seg")))
    print(
        f"\npower cut: {RUNS} runs, 2 cuts each, {acks} acknowledged, 0 lost, 0 refused, "
        f"{healed} torn tails healed ({unopened} of segments never opened), "
        f"{early} cuts during start-up, {segments} segments"
    )
    assert healed > RUNS // 5
    assert early > 0
    assert segments > 2 * RUNS


def test_negative_control_a_disk_that_lies_about_flushes_loses_records(tmp_path):
    missing = refused = 0
    for run in range(60):
        rng = random.Random(run)
        directory = tmp_path / str(run)
        directory.mkdir()
        promised = Promised()
        disk = SimDisk(
            directory,
            rng.randrange(20, 60),
            honest=lambda rng=rng: rng.random() < 0.25,
        )
        life(directory, disk, rng, promised)
        bias = rng.choice([0.0, 0.5])
        disk.settle(lambda rng=rng, bias=bias: rng.random() < bias)
        try:
            AuditLog.open(directory, ORIGIN, KEY, node=NODE, full=True).close()
        except LogCorrupt:
            refused += 1
            continue
        missing += lost(directory, promised.acked)
    print(f"\nnegative control: 60 runs, {missing} acknowledged records lost, {refused} refused")
    assert missing > 0
    assert refused > 0


def scenario(directory, disk, acked, heads):
    """Start, four records with a rotation between, a clean close."""
    log = AuditLog.open(
        directory, ORIGIN, KEY, node=NODE, storage=disk, segment_bytes=2500, on_head=heads.append
    )
    try:
        for i in range(4):
            position = log.append_sync(intent(f"req_{i}"), b"facts", b"k" * 32)
            acked[position.seq] = (f"req_{i}", "access.intent")
    finally:
        log.close()


def test_the_steps_on_disk_are_these_and_no_others(tmp_path):
    """Flushing is where the time goes: this fails when a step is added or lost."""
    directory = tmp_path / "log"
    directory.mkdir()
    disk = SimDisk(directory)
    scenario(directory, disk, {}, [])
    begin, batch = ["create", "write", "sync", "sync_dir"], ["write", "sync"]
    assert disk.steps == begin + batch * 3 + begin + batch * 3


@pytest.mark.parametrize("survives", [True, False], ids=["unsynced survives", "unsynced lost"])
@pytest.mark.parametrize("done", [True, False], ids=["step done", "step not done"])
def test_a_crash_at_every_step_of_disk_work(tmp_path, done, survives):
    """Every step of start, batch, rotation and close, and then every step of the recovery."""
    dry = SimDisk(tmp_path / "dry")
    (tmp_path / "dry").mkdir()
    scenario(tmp_path / "dry", dry, {}, [])
    steps = cuts = 0
    for at in range(len(dry.steps)):
        for again in range(20):
            directory = tmp_path / f"{at}-{again}"
            directory.mkdir()
            acked, heads = {}, []
            disk = SimDisk(directory, at, done=done)
            with suppress(LogUnavailable):
                scenario(directory, disk, acked, heads)
            disk.settle(lambda: survives)
            second = SimDisk(directory, again, done=done)
            cuts += 1
            try:
                AuditLog.open(directory, ORIGIN, KEY, node=NODE, storage=second).close()
            except LogUnavailable:
                second.settle(lambda: survives)
            else:
                if second.off:
                    second.settle(lambda: survives)
            with AuditLog.open(directory, ORIGIN, KEY, node=NODE) as log:
                assert log.open_intents == 0
            notes = [heads[-1].note] if heads else []
            [report] = verify.verify_directory(directory, KEYS, notes, patience_s=0)
            assert report.verdict == "ok", (at, again)
            assert lost(directory, acked) == 0, (at, again)
            if not second.off:
                break
        steps += 1
    print(f"\ncrash table: {steps} steps, {cuts} pairs of cuts, 0 lost, 0 refused")


# Errors of a disk that stays on


class FailingDisk(Disk):
    """Raises ``error`` at the given calls of one operation, or takes little of each write."""

    def __init__(self, *, sync=0, write=0, take=None, error=errno.EIO):
        self.sync_at, self.write_at, self.take, self.error = sync, write, take, error
        self.syncs = self.writes = 0

    def sync(self, fd):
        self.syncs += 1
        if self.syncs == self.sync_at:
            raise OSError(self.error, os.strerror(self.error))
        super().sync(fd)

    def write(self, fd, data):
        self.writes += 1
        if self.writes == self.write_at:
            super().write(fd, data[: len(data) // 2])
            raise OSError(self.error, os.strerror(self.error))
        return super().write(fd, data[: self.take] if self.take is not None else data)


def until_refused(log):
    """Append until the log is unavailable; how many were acknowledged."""
    for count in range(100_000):
        try:
            log.append_sync(r.LogHeartbeat(open=count))
        except LogUnavailable:
            return count
    pytest.fail("the log never refused")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"sync": 20}, "Input/output error"),
        ({"write": 20}, "Input/output error"),
        ({"write": 20, "error": errno.ENOSPC}, "No space left"),
    ],
    ids=["EIO at fsync", "EIO at write", "ENOSPC"],
)
def test_k59_an_error_of_the_disk_latches_and_a_restart_has_what_was_acknowledged(
    tmp_path, fault, said
):
    directory = tmp_path / "log"
    disk = FailingDisk(**fault)
    log = AuditLog.open(directory, ORIGIN, KEY, node=NODE, storage=disk)
    acked = until_refused(log)
    calls = (disk.syncs, disk.writes)
    assert acked == 17
    for _ in range(3):
        with pytest.raises(LogUnavailable, match=said):
            log.append_sync(r.LogHeartbeat(open=0))
    log.close()
    assert (disk.syncs, disk.writes) == calls, "nothing may be tried again after an error"
    with AuditLog.open(directory, ORIGIN, KEY, node=NODE) as log:
        beats = [e for e in LogReader(directory).entries() if e.json()["type"] == "log.heartbeat"]
        assert len(beats) >= acked
        log.append_sync(r.LogHeartbeat(open=0))
    [report] = verify.verify_directory(directory, KEYS, patience_s=0)
    assert report.verdict == "ok"


@pytest.mark.parametrize("replaced", [False, True], ids=["deleted", "replaced"])
def test_k59_a_segment_that_vanishes_under_the_writer_is_noticed(tmp_path, replaced):
    directory = tmp_path / "log"
    log = AuditLog.open(directory, ORIGIN, KEY, node=NODE)
    log.append_sync(r.LogHeartbeat(open=0))
    [path] = directory.glob("*.seg")
    content = path.read_bytes()
    path.unlink()
    if replaced:
        path.write_bytes(content)
    with pytest.raises(LogUnavailable, match="was deleted or replaced"):
        log.append_sync(r.LogHeartbeat(open=0))
    log.close()


async def test_k59_all_waiters_of_a_failed_batch_are_told(tmp_path):
    disk = FailingDisk(sync=3)
    log = AuditLog.open(tmp_path / "log", ORIGIN, KEY, node=NODE, storage=disk)
    waiting = [log.append(intent(f"req_{i}")) for i in range(300)]
    results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 20)
    failed = [result for result in results if isinstance(result, LogUnavailable)]
    assert len(failed) == 300
    assert log.failed is not None
    assert log.lag_records == 0
    await log.aclose()


@pytest.mark.parametrize("take", [1, 7, 600])
def test_short_writes_are_continued(tmp_path, take):
    directory = tmp_path / "log"
    disk = FailingDisk(take=take)
    with AuditLog.open(directory, ORIGIN, KEY, node=NODE, storage=disk, segment_bytes=2000) as log:
        for i in range(6):
            log.append_sync(intent(f"req_{i}"), b"facts", b"k" * 32)
    [report] = verify.verify_directory(directory, KEYS, [log.head.note], patience_s=0)
    assert (report.verdict, report.size) == ("ok", 8)


def test_a_disk_that_takes_nothing_fails_the_log(tmp_path):
    with pytest.raises(LogUnavailable, match="takes no more"):
        AuditLog.open(tmp_path / "log", ORIGIN, KEY, node=NODE, storage=FailingDisk(take=0))
