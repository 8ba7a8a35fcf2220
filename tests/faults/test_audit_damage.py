"""One flipped bit, a log cut on a commit boundary, a full disk, a killed process."""

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway.audit import records as r
from gateway.audit import verify
from gateway.audit.note import SigningKey
from gateway.audit.read import LogReader
from gateway.audit.segments import CHECKPOINT, LogCorrupt, frames, read_opening
from gateway.audit.writer import AuditLog
from gateway.core.protocols import LogUnavailable

ORIGIN = "example.org/gate/data-0"
KEY = SigningKey(ORIGIN, bytes(range(32)))
KEYS = dict([verify.parse_vkey(KEY.vkey)])
NODE = r.Gateway(node="data-0")
FLIPS = 300
KILLS = 25


def denied(i):
    return r.AccessDenied(request_id=f"req_{i}", decision_id=f"dec_{i}", http=403, reason="tier")


def verdict(directory, *notes):
    report, *_missing = verify.verify_directory(directory, KEYS, notes, patience_s=0)
    return report.verdict


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A closed log of several segments with sealed facts, and its last checkpoint."""
    directory = tmp_path_factory.mktemp("flip") / "log"
    with AuditLog.open(directory, ORIGIN, KEY, node=NODE, segment_bytes=5000) as log:
        for i in range(16):
            log.append_sync(denied(i), b"facts" * 40, b"k" * 32)
    assert len(list(directory.glob("*.seg"))) >= 3
    return directory, log.head


def frame_starts(data):
    """Offsets of all frames; the magic counts to the first."""
    return [0, *(found.offset for found in frames(data, 8))]


def test_k61_one_flipped_bit_in_300_runs_is_never_undetected(base, tmp_path):
    source, head = base
    rng = random.Random(61)
    names = [path.name for path in sorted(source.glob("*.seg"))]
    located = kept = sealed = 0
    for run in range(FLIPS):
        # Every third flip goes into the last segment, where a torn tail could be mistaken for it.
        name = names[-1] if run % 3 == 0 else rng.choice(names)
        directory = tmp_path / str(run)
        shutil.copytree(source, directory)
        data = bytearray((directory / name).read_bytes())
        bit = rng.randrange(8 * len(data))
        start = max(s for s in frame_starts(bytes(data)) if s <= bit // 8)
        sealed += data[start + 8] == ord("S")
        data[bit // 8] ^= 1 << bit % 8
        (directory / name).write_bytes(data)
        places = {0, start} if start <= 8 else {start}

        said = verdict(directory)
        assert any(said.startswith(f"refused: {name}@{at}, leaf ") for at in places), (bit, said)

        with pytest.raises(LogCorrupt) as refused:
            AuditLog.open(directory, ORIGIN, KEY, node=NODE, known=head, full=True)
        assert refused.value.segment == name
        assert refused.value.offset in places
        try:
            AuditLog.open(directory, ORIGIN, KEY, node=NODE, full=True).close()
        except LogCorrupt:
            located += 1
        else:
            assert name == names[-1], "only the last batch can be mistaken for a torn tail"
            kept += 1
            said = verdict(directory, head.note)
            assert "is not in this log" in said or "not the log of the kept" in said
        shutil.rmtree(directory)
    print(
        f"\nbit flips: {FLIPS} ({sealed} in sealed frames): {located} refused with location, "
        f"{kept} in the last batch caught by the kept checkpoint, 0 undetected"
    )
    assert located + kept == FLIPS
    assert sealed > 20
    assert 0 < kept < 60


def test_a_damaged_checkpoint_of_the_last_but_one_batch_is_no_torn_tail(base, tmp_path):
    """The batch before the last had been flushed; its damaged checkpoint itself tells so."""
    source, _ = base
    directory = tmp_path / "log"
    shutil.copytree(source, directory)
    path = max(directory.glob("*.seg"))
    data = bytearray(path.read_bytes())
    _, offset = read_opening(bytes(data))
    checkpoints = [f for f in frames(bytes(data), offset) if f.kind == CHECKPOINT]
    assert len(checkpoints) >= 2
    for at in (
        checkpoints[-2].offset + 8,
        checkpoints[-2].offset + 12,
        checkpoints[-2].offset + 150,
    ):
        broken = data.copy()
        broken[at] ^= 1
        path.write_bytes(broken)
        with pytest.raises(LogCorrupt, match="after it had been flushed") as refused:
            AuditLog.open(directory, ORIGIN, KEY, node=NODE)
        assert refused.value.offset == checkpoints[-2].offset


def test_truncation_on_every_commit_boundary_is_caught_by_a_kept_checkpoint(base, tmp_path):
    source, head = base
    boundaries = 0
    for path in sorted(source.glob("*.seg")):
        data = path.read_bytes()
        _, offset = read_opening(data)
        for found in frames(data, offset):
            if found.kind != CHECKPOINT:
                continue
            directory = tmp_path / f"{path.stem}-{found.end}"
            shutil.copytree(source, directory)
            for later in directory.glob("*.seg"):
                if later.name > path.name:
                    later.unlink()
            (directory / path.name).write_bytes(data[: found.end])
            whole = path.name == max(p.name for p in source.glob("*.seg")) and found.end == len(
                data
            )
            assert verdict(directory) == "ok", "locally invisible"
            said = verdict(directory, head.note)
            assert (said == "ok") == whole
            if not whole:
                boundaries += 1
                with pytest.raises(LogCorrupt, match="the kept checkpoint"):
                    AuditLog.open(directory, ORIGIN, KEY, node=NODE, known=head)
    print(f"\ntruncation: {boundaries} commit boundaries, all caught by the kept checkpoint")
    assert boundaries >= 12


def until_refused(log):
    """Fill the disk; how many records were acknowledged."""
    for count in range(100_000):
        try:
            log.append_sync(denied(count), b"f" * 2000, b"k" * 32)
        except LogUnavailable:
            return count
    pytest.fail("the disk never filled")


@pytest.mark.needs("root")
def test_k59_a_full_disk_refuses_and_goes_on_when_there_is_space(tmp_path):
    """A real file system of 2 MiB."""
    mount = tmp_path / "small"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", mount], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("this container may not mount a tmpfs")
    try:
        log = AuditLog.open(mount / "log", ORIGIN, KEY, node=NODE, segment_bytes=600_000)
        acked = until_refused(log)
        assert "No space left" in log.failed
        with pytest.raises(LogUnavailable):
            log.append_sync(denied(acked))
        log.close()
        with pytest.raises(LogUnavailable):  # still full: the torn tail cannot be kept
            AuditLog.open(mount / "log", ORIGIN, KEY, node=NODE)
        subprocess.run(["mount", "-o", "remount,size=8m", mount], check=True)
        with AuditLog.open(mount / "log", ORIGIN, KEY, node=NODE) as log:
            log.append_sync(denied(acked + 1))
        found = [e.json().get("request_id") for e in LogReader(mount / "log").entries()]
        assert verdict(mount) == "ok"
        assert set(found) >= {f"req_{i}" for i in range(acked)}
        print(f"\nENOSPC: {acked} acknowledged, refused, {acked} recovered with space, appends")
    finally:
        subprocess.run(["umount", mount], check=True)


CHILD = """
import asyncio, os, sys
from pathlib import Path
from gateway.audit import records as r
from gateway.audit.note import SigningKey
from gateway.audit.writer import AuditLog

directory, life = Path(sys.argv[1]), sys.argv[2]
key = SigningKey("example.org/gate/data-0", bytes(range(32)))

def intent(request_id):
    return r.AccessIntent(
        request_id=request_id, decision_id="dec",
        subject=r.SubjectRef(
            id="red", org="acme", kind="member", credential="c1", cred_kind="api_key"
        ),
        src=r.SourceRef(hmac="hmac:1:ab"), wire="messages", action="model.generate",
        model=r.ModelRef(requested="mythos-5"),
        decision=r.DecisionRef(effect="allow", revision="rev1"), request=r.RequestRef(bytes=120),
    )

async def caller(log, name):
    for i in range(1_000_000):
        request_id = f"{life}.{name}.{i}"
        position = await log.append(intent(request_id), b"f" * 500, b"k" * 32)
        os.write(1, f"{position.seq} {request_id}\\n".encode())
        position = await log.append(r.AccessOutcome(request_id=request_id, status="ok"))
        os.write(1, f"{position.seq} {request_id}\\n".encode())

async def main():
    log = AuditLog.open(directory, key.name, key, node=r.Gateway(node="n"), segment_bytes=300_000)
    os.write(1, b"ready\\n")
    await asyncio.gather(*(caller(log, n) for n in range(30)))

asyncio.run(main())
"""


def test_kill_9_under_load_25_times_loses_no_acknowledged_record(tmp_path):
    directory = tmp_path / "log"
    rng = random.Random(9)
    acked = {}
    for life in range(KILLS):
        with subprocess.Popen(
            [sys.executable, "-c", CHILD, directory, str(life)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        ) as child:
            assert child.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0.0, 0.12))
            child.send_signal(signal.SIGKILL)
            lines = child.stdout.read().decode().splitlines()
        for line in lines:
            seq, request_id = line.split()
            assert int(seq) not in acked
            acked[int(seq)] = request_id
        assert verdict_after_restart(directory) == "ok"
    found = {entry.seq: entry.json() for entry in LogReader(directory).entries()}
    missing = [seq for seq, request_id in acked.items() if found[seq]["request_id"] != request_id]
    ended = [record for record in found.values() if record.get("status") == "interrupted"]
    print(
        f"\nkill -9: {KILLS} times under 30 callers, {len(acked)} acknowledged, {len(missing)} "
        f"missing, 0 duplicate, {len(ended)} orphans interrupted, "
        f"{len(list(directory.glob('*.seg')))} segments"
    )
    assert missing == []
    assert len(acked) > 1000
    assert ended


def verdict_after_restart(directory):
    with AuditLog.open(directory, ORIGIN, KEY, node=NODE) as log:
        assert log.open_intents == 0
    return verdict(directory)
