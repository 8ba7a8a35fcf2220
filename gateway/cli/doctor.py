"""``audit doctor``: whether the record is as it should be kept, and what to do where it is not.

It looks at the directory as it lies: permissions, keys, heads, cosignatures, the index, room on the
disk. Whether every byte is what was signed is ``audit verify``'s answer; this one is quick.
"""

from __future__ import annotations

import random
import shutil
import stat
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from gateway.audit.content import Part
from gateway.audit.content_store import content_of, content_segments, day_of, ref_of
from gateway.audit.index import Index, IndexDamaged, Log
from gateway.audit.note import NoteError, VerifierKey, signature_lines
from gateway.audit.read import LogReader
from gateway.audit.seal import SealError
from gateway.audit.search import Query, Search
from gateway.audit.segments import LogCorrupt, segment_files
from gateway.cli.shards import explained, shards_of
from gateway.cli.terminal import DIR, EXIT_NO, AsJson, Directory, say, show_json, warn
from gateway.control.kept import kept_checkpoints
from gateway.state import StateDirectory

__all__ = ["doctor"]

Json = Mapping[str, Any]

_SAMPLE = 20
"""Records that are proved by the index, at random; and pieces of content that are looked for."""
_BLOCK = 512
"""Of what a file takes on the disk; holes take nothing."""
_LITTLE_ROOM = 2 << 30
_NO_ROOM = 256 << 20
"""Bytes left on the disk at which to worry, and at which a log is about to latch."""
_COSIGNED_S = 3600.0
"""How old the newest cosignature may be before someone should look."""


class Verdict(StrEnum):
    """Good, worth a look, wrong."""

    OK = "ok"
    NOTE = "note"
    BAD = "BAD"


class Check(NamedTuple):
    """One thing that was looked at, and what to do where it is not good."""

    what: str
    verdict: Verdict
    said: str
    remedy: str = ""


def doctor(directory: Directory = DIR, json: AsJson = False) -> None:
    """Look whether the record is kept as it should be.

    Quick: it does not read every byte, as `audit verify` does. Ends with 1 where something is BAD.
    """
    state = StateDirectory(Path(directory))
    with explained():
        shards_of(state)
        checks = [
            *_private(state),
            *_logs(state),
            _index(state),
            *_content(state),
            *_cosigned(state),
            _room(state),
        ]
    good = all(check.verdict is not Verdict.BAD for check in checks)
    if json:
        show_json({"ok": good, "checks": [check._asdict() for check in checks]})
    else:
        for check in checks:
            say(f"{check.verdict:5} {check.what:22} {check.said}")
            if check.remedy:
                say(f"      {'':22} do: {check.remedy}")
    if not good:
        raise SystemExit(EXIT_NO)


def _private(state: StateDirectory) -> Iterator[Check]:
    """Nobody else may read secrets, or write anything."""
    secret = [state.root, state.keys, *state.keys.glob("*"), state.registry, state.index]
    loose = [path for path in secret if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077]
    if loose:
        names = " ".join(str(path) for path in loose)
        yield Check("permissions", Verdict.BAD, f"open to others: {names}", f"chmod go= {names}")
    else:
        yield Check("permissions", Verdict.OK, "secrets are this user's alone")


def _logs(state: StateDirectory) -> Iterator[Check]:
    """Each log's newest checkpoint, against its key and the head that is kept outside it."""
    vkeys = state.vkeys()
    for shard in shards_of(state):
        what = f"log {shard}"
        try:
            key = VerifierKey.parse(vkeys[shard])
            head = LogReader(state.log(shard)).latest([key])
        except KeyError:
            yield Check(
                what,
                Verdict.BAD,
                "its public key is missing",
                f"put your copy of it into {state.vkey(shard)}",
            )
            continue
        except (NoteError, LogCorrupt) as error:
            yield Check(what, Verdict.BAD, str(error), "sluicegate audit verify")
            continue
        checkpoints, wrong = kept_checkpoints(state, shard, [key], warn)
        kept = max((checkpoint.size for checkpoint in checkpoints), default=0)
        files = segment_files(state.log(shard))
        stored = sum(path.stat().st_size for path in files)
        said = f"{head.size:,} records, {stored / 1e6:,.1f} MB in {len(files)} segments"
        if wrong:
            yield Check(what, Verdict.BAD, wrong[0], "sluicegate audit verify")
        elif kept > head.size:
            yield Check(
                what,
                Verdict.BAD,
                f"{said}; it was {kept:,} long: cut back, or damaged at its end",
                "sluicegate audit verify, and the runbook 'the log was refused'",
            )
        else:
            yield Check(what, Verdict.OK, said)
    strange = sorted(vkeys.keys() - shards_of(state).keys())
    if strange:
        yield Check(
            "logs",
            Verdict.BAD,
            f"there are keys of logs that are not there: {', '.join(strange)}",
            "find out who took them away; put them back from a copy",
        )


def _index(state: StateDirectory) -> Check:
    """How far behind the index is, and whether it agrees with the logs in a sample."""
    if not state.index.exists():
        return Check("index", Verdict.OK, "none yet; the first search makes it")
    keys = state.vkeys()
    try:
        logs = {
            shard: Log(state.log(shard), [VerifierKey.parse(keys[shard])])
            for shard in shards_of(state)
        }
        index = Index(state.index, logs)
        try:
            sizes = index.sizes()
            newest = Search(index, logs).hits(Query(), limit=1)
            if newest:
                sample = random.SystemRandom()
                for _ in range(_SAMPLE):
                    before = sample.randrange(newest[0].id - 3600 * 10**9, newest[0].id + 1)
                    Search(index, logs).hits(Query(), before=max(before, 1), limit=1)
        finally:
            index.close()
        behind = sum(
            max(LogReader(log.directory).latest(log.keys).size - sizes.get(shard, 0), 0)
            for shard, log in logs.items()
        )
    except (IndexDamaged, LogCorrupt) as error:
        return Check("index", Verdict.BAD, str(error), "sluicegate audit rebuild-index")
    except (KeyError, NoteError):
        return Check("index", Verdict.NOTE, "not looked at: a log has no good key")
    said = f"{sum(sizes.values()):,} records, {behind:,} behind; a sample was proved"
    return Check("index", Verdict.OK, said)


def _content(state: StateDirectory) -> Iterator[Check]:
    """How much sealed content there is, and whether the newest that was recorded is there."""
    for shard, log in shards_of(state).items():
        directory = state.content(shard)
        newest = _newest_content(log, segment_files(state.log(shard))[-1])
        files = content_segments(directory)
        if not newest and not files:
            continue
        lost = []
        for record, part in newest:
            try:
                content_of(directory, record, part)
            except SealError:
                lost.append((record, part))
        stray = [each for each in lost if not _was_pruned(state, *each)] if lost else []
        what = f"content of {shard}"
        if stray:
            record, part = stray[0]
            told = f"the {part} of {record['request_id']} is missing or altered"
            more = f", and {len(stray) - 1} more" if len(stray) > 1 else ""
            yield Check(what, Verdict.BAD, told + more, "sluicegate audit verify")
            continue
        size = sum(path.stat().st_blocks * _BLOCK for path in files)
        since = f" since {day_of(files[0])}" if files else ""
        yield Check(what, Verdict.OK, f"{size / 1e6:,.1f} MB in {len(files)} files{since}")


def _newest_content(log: LogReader, last: Path) -> Sequence[tuple[Json, Part]]:
    """The newest records with sealed content in a log's last segment, and which part of it."""
    found: deque[tuple[Json, Part]] = deque(maxlen=_SAMPLE)
    for entry in log.entries(int(last.stem)):
        if b'"sealed_sha256"' not in entry.raw:
            continue
        record = entry.json()
        for part in Part:
            ref = ref_of(record, part)
            if ref is not None and ref.sealed_sha256:
                found.append((record, part))
    return found


def _was_pruned(state: StateDirectory, record: Json, part: Part) -> bool:
    """Whether the record of a pruning holds the place of a piece."""
    ref = ref_of(record, part)
    return ref is not None and any(
        each["segment"] == ref.segment and each.get("start", 0) <= ref.offset < each["end"]
        for log in shards_of(state).values()
        for entry in log.entries()
        if b'"content.pruned"' in entry.raw
        for pruned in [entry.json()]
        if pruned["type"] == "content.pruned" and pruned["origin"] == record["log"]
        for each in pruned["ranges"]
    )


def _cosigned(state: StateDirectory) -> Iterator[Check]:
    """Whether witnesses have seen the logs lately; whose signatures they are is verify's matter."""
    for shard in shards_of(state):
        path = state.cosigned(shard)
        try:
            age = time.time() - path.stat().st_mtime
            signers = len(signature_lines(path.read_bytes())[1]) - 1
        except FileNotFoundError:
            yield Check(
                f"witnesses of {shard}",
                Verdict.NOTE,
                "none: a log that is cut back by whoever owns this disk would not be noticed",
                "docs/reviewing.md, 'Could it have been cut'",
            )
            continue
        except NoteError as error:
            yield Check(f"witnesses of {shard}", Verdict.BAD, str(error), "sluicegate audit cosign")
            continue
        late = age > _COSIGNED_S
        yield Check(
            f"witnesses of {shard}",
            Verdict.NOTE if late else Verdict.OK,
            f"{signers} cosigned {age / 60:,.0f} min ago",
            "sluicegate audit cosign, with --every" if late else "",
        )


def _room(state: StateDirectory) -> Check:
    free = shutil.disk_usage(state.root).free
    said = f"{free / 1e9:,.1f} GB free"
    if free < _NO_ROOM:
        remedy = "make room now: a log that cannot be written stops every call"
        return Check("disk", Verdict.BAD, said, remedy)
    if free < _LITTLE_ROOM:
        return Check("disk", Verdict.NOTE, said, "make room before the log needs it")
    return Check("disk", Verdict.OK, said)
