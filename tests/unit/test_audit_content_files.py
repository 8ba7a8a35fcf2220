"""Content on disk: durable before its record, found by it, and gone only when that is recorded."""

from __future__ import annotations

import errno
import os
from datetime import UTC, date, datetime
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.audit import records as r
from gateway.audit.content import Altered, Part, keyed_digest, new_role_key, open_share, opened
from gateway.audit.content_retention import expired, first_day_kept, remove
from gateway.audit.content_store import (
    ContentMissing,
    content_of,
    content_segments,
    context_of,
    day_of,
    hole,
    pieces,
    ref_of,
    segment_name,
)
from gateway.audit.content_writer import Content, ContentWriter
from gateway.audit.note import SigningKey
from gateway.audit.read import LogReader
from gateway.audit.seal import SealError
from gateway.audit.storage import Disk
from gateway.audit.writer import AuditLog
from gateway.core.protocols import LogUnavailable
from gateway.core.role_keys import Role

ORIGIN = "example.org/gate/data-0"
KEY = SigningKey(ORIGIN, bytes(range(32)))
REVIEWER, APPROVER = new_role_key(Role.REVIEWER), new_role_key(Role.APPROVER)
MEMBERS = {name: sha256(name.encode()).digest() for name in ("red", "blue")}
NOON = int(datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()) * 1_000_000_000
DAY = 86_400 * 1_000_000_000


def content(data: bytes, member: str = "red", **fields) -> Content:
    digest = keyed_digest(MEMBERS[member], sha256(data).digest())
    return Content(data, member, MEMBERS[member], digest, **fields)


def intent(request_id: str, member: str = "red") -> r.AccessIntent:
    return r.AccessIntent(
        request_id=request_id,
        decision_id="dec",
        subject=r.SubjectRef(id=member, org="acme", kind="member", credential="c", cred_kind="k"),
        src=r.SourceRef(hmac="h"),
        wire="messages",
        action="model.generate",
        model=r.ModelRef(requested="m"),
        decision=r.DecisionRef(effect="allow", revision="rev"),
        request=r.RequestRef(bytes=5),
    )


def outcome(request_id: str) -> r.AccessOutcome:
    return r.AccessOutcome(request_id=request_id, status="ok", response=r.ResponseRef(bytes=5))


class Log:
    """A log with content beside it; ``now`` is its clock."""

    def __init__(self, root, storage=None, **options):
        self.files = root / "content" / "data-0"
        self.records = root / "audit" / "data-0"
        self.now = NOON
        writer = ContentWriter(
            self.files, ORIGIN, REVIEWER.public, APPROVER.public, storage=storage, **options
        )
        self.log = AuditLog.open(
            self.records,
            ORIGIN,
            KEY,
            node=r.Gateway(node="n"),
            content=writer,
            storage=storage,
            wall=lambda: self.now,
        )

    async def call(self, number: int, sent: bytes, got: bytes | None = None, member: str = "red"):
        name = f"req_{number}"
        await self.log.append(intent(name, member), None, None, content(sent, member))
        await self.log.append(
            outcome(name), None, None, None if got is None else content(got, member)
        )

    def read(self, number: int, part: Part, member: str = "red") -> bytes:
        kind = "access.intent" if part is Part.REQUEST else "access.outcome"
        for entry in LogReader(self.records).by_request(f"req_{number}"):
            record = entry.json()
            if record["type"] == kind:
                blob = content_of(self.files, record, part)
                context = context_of(record, part)
                shares = [open_share(blob, key, context) for key in (REVIEWER, APPROVER)]
                return opened(blob, *shares, MEMBERS[member], context)
        raise AssertionError("no such record")


@pytest.fixture
def log(tmp_path):
    log = Log(tmp_path)
    yield log
    log.log.close()


async def test_both_parts_of_a_call_are_sealed_and_found_by_their_records(log):
    await log.call(1, b"what was asked", b"what was answered")
    await log.call(2, b"", b"x" * 100_000)
    assert log.read(1, Part.REQUEST) == b"what was asked"
    assert log.read(1, Part.ANSWER) == b"what was answered"
    assert log.read(2, Part.REQUEST) == b""
    assert log.read(2, Part.ANSWER) == b"x" * 100_000
    (file,) = content_segments(log.files)
    assert file.name == "20261125-000001.cnt"
    assert (file.stat().st_mode & 0o777, log.files.stat().st_mode & 0o777) == (0o600, 0o700)
    assert b"what was" not in file.read_bytes()
    assert [(piece.head.request_id, piece.head.part) for piece in pieces(file)] == [
        ("req_1", "request"),
        ("req_1", "answer"),
        ("req_2", "request"),
        ("req_2", "answer"),
    ]
    last = [entry.json() for entry in LogReader(log.records).entries()][1]
    ref = ref_of(last, Part.REQUEST)
    assert ref.digest == keyed_digest(MEMBERS["red"], sha256(b"what was asked").digest())
    assert ref.kept == len(b"what was asked")


async def test_a_call_that_seals_nothing_touches_no_content_file(log):
    await log.log.append(intent("req_1"))
    await log.log.append(outcome("req_1"))
    assert not log.files.exists()
    record = next(LogReader(log.records).entries(1)).json()
    with pytest.raises(SealError, match="nothing was sealed"):
        content_of(log.files, record, Part.REQUEST)


async def test_an_answer_that_was_kept_in_part_says_so(log):
    await log.log.append(intent("req_1"))
    await log.log.append(outcome("req_1"), None, None, content(b"the first", truncated=True))
    ref = ref_of(list(LogReader(log.records).entries())[2].json(), Part.ANSWER)
    assert (ref.truncated, ref.kept) == (True, 9)


async def test_content_without_keys_or_beside_another_record_is_refused(tmp_path, log):
    with pytest.raises(ValueError, match="only an intent"):
        await log.log.append(r.LogHeartbeat(open=0), None, None, content(b"x"))
    with pytest.raises(ValueError, match="needed"):
        await log.log.append(intent("req_1"), None, None, Content(b"x", "red", b"short", "d"))
    await log.call(2, b"the log goes on")
    other = AuditLog.open(tmp_path / "other", ORIGIN, KEY, node=r.Gateway(node="n"))
    with other, pytest.raises(ValueError, match="no role keys"):
        await other.append(intent("req_1"), None, None, content(b"x"))


async def test_files_end_with_their_day_and_their_size(tmp_path):
    log = Log(tmp_path, segment_bytes=1000)
    for number in range(4):
        await log.call(number, b"x" * 600)
    log.now = NOON + DAY
    await log.call(4, b"x")
    log.now = NOON - DAY  # a clock that goes back makes files of the past, and no two alike
    await log.call(5, b"x")
    log.log.close()
    assert [path.name for path in content_segments(log.files)] == [
        "20261124-000004.cnt",
        "20261125-000001.cnt",
        "20261125-000002.cnt",
        "20261126-000003.cnt",
    ]
    again = Log(tmp_path)
    await again.call(6, b"after a start")
    assert content_segments(again.files)[-2].name == "20261125-000005.cnt"
    assert again.read(6, Part.REQUEST) == b"after a start"
    assert again.read(0, Part.REQUEST) == b"x" * 600
    again.log.close()


async def test_what_a_crash_left_at_the_end_is_passed_over(tmp_path):
    log = Log(tmp_path)
    await log.call(1, b"before")
    log.log.close()
    (file,) = content_segments(log.files)
    whole = file.read_bytes()
    with file.open("ab") as end:
        end.write(whole[8:-7])  # a frame that did not get to its end
    again = Log(tmp_path)
    await again.call(2, b"after")
    assert len(list(pieces(file))) == 1
    assert again.read(1, Part.REQUEST) == b"before"
    assert again.read(2, Part.REQUEST) == b"after"
    again.log.close()


class FailingDisk(Disk):
    """Fails at an operation on content files, from when it is told to."""

    def __init__(self):
        self.fail = ""
        self.order = []
        self.content = set()

    def create(self, path):
        if path.suffix == ".cnt" and self.fail == "create":
            raise OSError(errno.ENOSPC, "no space")
        fd = super().create(path)
        if path.suffix == ".cnt":
            self.content.add(fd)
        else:
            self.content.discard(fd)
        return fd

    def write(self, fd, data):
        if fd in self.content and self.fail == "write":
            raise OSError(errno.ENOSPC, "no space")
        if fd in self.content and self.fail == "short":
            return super().write(fd, data[: max(1, len(data) // 2)])
        self.order.append(("write", fd in self.content))
        return super().write(fd, data)

    def sync(self, fd):
        if fd in self.content and self.fail == "sync":
            raise OSError(errno.EIO, "input/output error")
        self.order.append(("sync", fd in self.content))
        super().sync(fd)

    def holds(self, fd, path):
        return not (fd in self.content and self.fail == "holds") and super().holds(fd, path)


async def test_content_is_durable_before_its_record_is_written(tmp_path):
    disk = FailingDisk()
    log = Log(tmp_path, disk)
    await log.call(1, b"x", b"y")
    del disk.order[:]
    await log.call(2, b"x", b"y")
    wrote = [("write", True)] * 3
    batch = [*wrote, ("sync", True), ("write", False), ("sync", False)]
    assert disk.order == batch * 2
    log.log.close()


@pytest.mark.parametrize("fail", ["create", "write", "sync", "holds"])
async def test_an_error_of_the_disk_latches_the_log_and_nothing_is_recorded(tmp_path, fail):
    disk = FailingDisk()
    log = Log(tmp_path, disk)
    if fail != "create":
        await log.call(1, b"x")
    size = log.log.head.size
    disk.fail = fail
    with pytest.raises(LogUnavailable):
        await log.call(2, b"x")
    disk.fail = ""
    with pytest.raises(LogUnavailable):
        await log.log.append(r.LogHeartbeat(open=0))
    log.log.close()
    assert len(list(LogReader(log.records).entries())) == size
    again = Log(tmp_path)  # and a restart goes on
    await again.call(3, b"after")
    assert again.read(3, Part.REQUEST) == b"after"
    again.log.close()


async def test_a_disk_that_takes_little_at_a_time_gets_all_of_it(tmp_path):
    disk = FailingDisk()
    disk.fail = "short"
    log = Log(tmp_path, disk)
    await log.call(1, b"x" * 5000)
    assert log.read(1, Part.REQUEST) == b"x" * 5000
    log.log.close()


async def test_altered_or_missing_content_is_told_apart(log):
    await log.call(1, b"one")
    await log.call(2, b"two")
    (file,) = content_segments(log.files)
    record = next(LogReader(log.records).entries(1)).json()
    good = file.read_bytes()
    first, second = pieces(file)
    changed = bytearray(good)
    changed[first.end - 1] ^= 1
    file.write_bytes(changed)
    with pytest.raises(Altered):
        content_of(log.files, record, Part.REQUEST)
    file.write_bytes(good[:8] + good[second.offset :] + good[8 : second.offset])
    with pytest.raises((Altered, ContentMissing)):
        content_of(log.files, record, Part.REQUEST)
    file.write_bytes(good[:20])
    with pytest.raises(ContentMissing):
        content_of(log.files, record, Part.REQUEST)
    file.unlink()
    with pytest.raises(ContentMissing, match="pruned, or is gone"):
        content_of(log.files, record, Part.REQUEST)
    for segment in ("../../keys/x", "a.seg", "", "20269999-000001.cnt"):
        record["request"]["content"]["segment"] = segment
        with pytest.raises(Altered, match="names no content file"):
            content_of(log.files, record, Part.REQUEST)


@given(st.binary(max_size=300))
def test_any_file_reads_as_whole_frames_or_none(tmp_path_factory, noise):
    path = tmp_path_factory.getbasetemp() / segment_name(date(2026, 11, 25), 1)
    path.write_bytes(b"AUDCNT1\n" + noise)
    for piece in pieces(path):
        assert piece.end <= path.stat().st_size
    path.unlink()


async def test_every_byte_of_a_frames_head_counts(log):
    await log.call(1, b"one")
    (file,) = content_segments(log.files)
    good = file.read_bytes()
    (piece,) = pieces(file)
    told = good.index(b"}") + 1
    for at in range(8, told):
        changed = bytearray(good)
        changed[at] ^= 4
        file.write_bytes(changed)
        assert list(pieces(file)) == [], at
    file.write_bytes(good)
    assert list(pieces(file)) == [piece]


# Retention


async def two_members(log) -> None:
    for number, member in enumerate(["red", "blue", "red", "red", "blue", "red"]):
        await log.call(number, b"x" * (1000 + number), member=member)


async def test_what_is_younger_than_the_retention_stays_and_older_files_go_whole(log):
    await two_members(log)
    log.now = NOON + DAY
    await log.call(6, b"of today")
    today = date(2026, 11, 26)
    assert expired(log.files, first_day_kept(today, 1), set()) == []
    (gone,) = expired(log.files, first_day_kept(date(2026, 11, 27), 1), set())
    assert (gone.path.name, gone.pieces, gone.held) == ("20261125-000001.cnt", 6, 0)
    assert gone.ranges == [(0, gone.path.stat().st_size)]
    remove(gone)
    remove(gone)  # after a crash
    assert log.read(6, Part.REQUEST) == b"of today"
    with pytest.raises(ContentMissing):
        log.read(0, Part.REQUEST)


async def test_what_is_held_stays_readable_where_it_was_and_the_rest_is_gone_from_the_disk(log):
    await two_members(log)
    (file,) = content_segments(log.files)
    size, before = file.stat().st_size, file.read_bytes()
    frames = list(pieces(file))
    (gone,) = expired(log.files, date(2027, 1, 1), {"blue"})
    assert (gone.pieces, gone.held) == (4, 2)
    assert gone.ranges == [
        (frames[0].offset, frames[0].end),
        (frames[2].offset, frames[3].end),
        (frames[5].offset, frames[5].end),
    ]
    remove(gone)
    assert file.stat().st_size == size
    after = file.read_bytes()
    for start, end in gone.ranges:
        assert set(after[start + 14 : end]) <= {0}
        assert before[start + 14 : end] != after[start + 14 : end]
    for number in (1, 4):
        assert log.read(number, Part.REQUEST, "blue") == b"x" * (1000 + number)
    for number in (0, 2, 3, 5):
        with pytest.raises(ContentMissing):
            log.read(number, Part.REQUEST)
    assert expired(log.files, date(2027, 1, 1), {"blue"}) == []  # nothing more to remove
    (rest,) = expired(log.files, date(2027, 1, 1), set())  # the hold has ended
    assert (rest.pieces, rest.ranges) == (2, [(0, size)])
    remove(rest)
    assert content_segments(log.files) == []


async def test_a_hole_takes_no_room(log):
    await log.call(1, os.urandom(400_000))
    await log.call(2, b"x", member="blue")
    (file,) = content_segments(log.files)
    (gone,) = expired(log.files, date(2027, 1, 1), {"blue"})
    remove(gone)
    assert file.stat().st_blocks * 512 < 100_000 < file.stat().st_size


async def test_what_cannot_be_read_stays_while_anyone_is_held(log):
    await two_members(log)
    (file,) = content_segments(log.files)
    frames = list(pieces(file))
    damaged = bytearray(file.read_bytes())
    damaged[frames[1].offset] ^= 1
    file.write_bytes(damaged)
    (gone,) = expired(log.files, date(2027, 1, 1), {"blue"})
    assert gone.kept == [(frames[0].end, len(damaged))]
    remove(gone)
    assert file.read_bytes()[frames[0].end :] == damaged[frames[0].end :]
    (rest,) = expired(log.files, date(2027, 1, 1), set())
    assert rest.kept == []


@given(st.integers(14, 1 << 40))
def test_a_hole_is_one_frame_of_its_size(size):
    assert len(hole(size)) == 14


def test_a_name_says_the_day_or_is_none():
    assert day_of(Path("20261125-000001.cnt")) == date(2026, 11, 25)
    for name in ("20261325-000001.cnt", "x.cnt", "20261125-1.cnt", "20261125-000001.pruning"):
        assert day_of(Path(name)) is None
