"""``sluicegate-verify``: whether a log is exactly what was signed, told by other code.

Standard library and ``cryptography`` only: this file imports nothing of the gateway and has its own
frame reader, signature check and tree, so that a mistake of the writer is not repeated here. It
checks, for every shard under a directory: every CRC; every head against the segments before it;
every record's index, log name and time; every sealed frame against the digest in its record; every
intent's outcome; every checkpoint's root and signature; that the log of every key given is there;
that every piece of sealed content that a record names is there, or was pruned on the record; and,
if given, checkpoints kept elsewhere.

A key vouches for the log that bears its name and for no other. A log that is gone with its whole
directory is missed only by its key: give the keys of all logs, or check one shard with its own.

A log may be written while it is checked: bytes after the last checkpoint are accepted only when a
later checkpoint comes to cover them.

Exit codes: 0 verified, 1 not verified, 2 usage, 3 nothing to read.
"""

from __future__ import annotations

import argparse
import base64
import json
import struct
import sys
import time
import zlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

__all__ = [
    "BadNote",
    "Keys",
    "Report",
    "main",
    "only_one",
    "parse_vkey",
    "read_checkpoint",
    "verify_directory",
]

OK, UNPINNED = "ok", "consistent, key unpinned"
PATIENCE_S = 2.0
PROGRESS_BYTES = 64 * 1024 * 1024
_MAGIC = b"AUDSEG1\n"
_HEAD, _RECORD, _SEALED, _CHECKPOINT = b"HRSC"
_HEADER = struct.Struct("<IIB")
_MAX_PAYLOAD = 1 << 20
_ED25519_VKEY_BYTES = 33
_MAX_SIZE_DIGITS = 18
_PIECE = struct.Struct("<QHI")
_PIECE_BYTES = 1 << 20
_CONTENT_IN = {"access.intent": "request", "access.outcome": "response"}
_SIGNATURE_LINE = "— "

Keys = Mapping[tuple[str, bytes], Ed25519PublicKey]


class _Refused(Exception):
    """What is wrong, and where."""

    def __init__(self, segment: str, offset: int, leaf: int, what: str) -> None:
        super().__init__(f"refused: {segment}@{offset}, leaf {leaf}: {what}")


class BadNote(Exception):
    """A note that is malformed or wrongly signed."""


@dataclass
class Report:
    """What was found in one shard. ``verdict`` is ``ok`` only if all was checked and right.

    ``content`` are the pieces of sealed content that are there as recorded, ``pruned`` those that
    went on the record; both are 0 where content was not looked at.
    """

    shard: str
    origin: str = ""
    size: int = 0
    root: str = ""
    types: Counter[str] = field(default_factory=Counter)
    open_intents: int = 0
    content: int = 0
    pruned: int = 0
    verdict: str = ""


def parse_vkey(text: str) -> tuple[tuple[str, bytes], Ed25519PublicKey]:
    """A C2SP verifier key ``name+id+key``, as (name, id) and the key.

    Raises:
        ValueError: not an Ed25519 vkey, or its id is not that of its key.
    """
    name, _, rest = text.strip().partition("+")
    key_id, _, encoded = rest.partition("+")
    blob = base64.b64decode(encoded, validate=True)
    if not name or len(blob) != _ED25519_VKEY_BYTES or blob[0] != 1:
        raise ValueError("not an Ed25519 vkey")
    if sha256(name.encode() + b"\n" + blob).hexdigest()[:8] != key_id:
        raise ValueError("the id of the vkey is not that of its key")
    return (name, bytes.fromhex(key_id)), Ed25519PublicKey.from_public_bytes(blob[1:])


def read_checkpoint(note: bytes, keys: Keys) -> tuple[str, int, bytes, bool]:
    """Origin, size, root, and whether a known key of that origin signed.

    Signatures under other names (witnesses, other logs) are passed over: they say nothing here.

    Raises:
        BadNote: malformed, or a signature by a known key of the origin is wrong.
    """
    try:
        text, _, signatures = note.decode().rpartition("\n\n")
        origin, size, root = text.split("\n")
        signed = False
        for line in signatures.removesuffix("\n").split("\n"):
            mark, name, encoded = line.split(" ")
            blob = base64.b64decode(encoded, validate=True)
            if mark + " " != _SIGNATURE_LINE:
                raise BadNote("malformed signature line")
            key = keys.get((name, blob[:4])) if name == origin else None
            if key is not None:
                key.verify(blob[4:], (text + "\n").encode())
                signed = True
        if len(size) > _MAX_SIZE_DIGITS or str(int(size)) != size or not signatures.endswith("\n"):
            raise BadNote("malformed checkpoint")
        return origin, int(size), base64.b64decode(root, validate=True), signed
    except InvalidSignature:
        raise BadNote("the checkpoint's signature is wrong") from None
    except ValueError:
        raise BadNote("malformed checkpoint") from None


class _Tree:
    """RFC 6962 over SHA-256, as the roots of its perfect subtrees."""

    def __init__(self) -> None:
        self.size = 0
        self.peaks: list[bytes] = []

    def add(self, record: bytes) -> None:
        node = sha256(b"\0" + record).digest()
        rest = self.size
        while rest % 2:
            node = sha256(b"\1" + self.peaks.pop() + node).digest()
            rest //= 2
        self.peaks.append(node)
        self.size += 1

    def root(self) -> bytes:
        if not self.peaks:
            return sha256().digest()
        peaks = self.peaks[:-1]
        node = self.peaks[-1]
        while peaks:
            node = sha256(b"\1" + peaks.pop() + node).digest()
        return node


def _frames(data: bytes, at: int) -> Iterator[tuple[int, int, bytes]]:
    """(offset, kind, payload) of the intact frames from ``at`` on."""
    while at + 9 <= len(data):
        length, crc, kind = _HEADER.unpack_from(data, at)
        payload = data[at + 9 : at + 9 + length]
        if length > _MAX_PAYLOAD or len(payload) < length or zlib.crc32(payload, kind) != crc:
            return
        yield at, kind, payload
        at += 9 + length


class _Content:
    """The sealed content of one log: which pieces are there, which are not, which were pruned."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.there = 0
        self.lost: dict[str, array[int]] = defaultdict(lambda: array("Q"))
        """By file, the offset of each piece that is not there and the leaf that names it."""
        self._name = ""
        self._file: BinaryIO | None = None

    def look(self, ref: Mapping[str, Any], leaf: int) -> None:
        """Look for the piece that a record names. A ref that is none is refused by ``KeyError``,
        ``ValueError`` or ``TypeError``."""
        if not ref.get("sealed_sha256"):
            return
        segment, offset = str(ref["segment"]), int(ref["offset"])
        if offset < 0 or Path(segment).name != segment:
            raise ValueError("no place of a piece")
        if self._digest(segment, offset) == ref["sealed_sha256"]:
            self.there += 1
        else:
            self.lost[segment].extend((offset, leaf))

    def missing(self, pruned: Mapping[str, Sequence[tuple[int, int]]]) -> tuple[int, str]:
        """How many of the lost pieces were pruned, and the first that was not, in words."""
        count = 0
        for segment, places in sorted(self.lost.items()):
            ranges = pruned.get(segment, ())
            for offset, leaf in zip(places[::2], places[1::2], strict=True):
                if not any(start <= offset < end for start, end in ranges):
                    return count, (
                        f"refused: {segment}@{offset}, leaf {leaf}: its sealed content is missing "
                        "or altered, and no record says that it was pruned"
                    )
                count += 1
        return count, ""

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._name = ""
        self._file = None

    def _digest(self, segment: str, offset: int) -> str:
        """The SHA-256 of the piece whose frame lies there; empty without one."""
        file = self._open(segment)
        if file is None:
            return ""
        file.seek(offset)
        header = file.read(_PIECE.size)
        if len(header) < _PIECE.size:
            return ""
        length, told, crc = _PIECE.unpack(header)
        head = file.read(told)
        left = length - told
        if len(head) < told or left < 0 or zlib.crc32(header[:10] + head) != crc:
            return ""
        digest = sha256()
        while left > 0 and (data := file.read(min(left, _PIECE_BYTES))):
            digest.update(data)
            left -= len(data)
        return "" if left else digest.hexdigest()

    def _open(self, segment: str) -> BinaryIO | None:
        if segment != self._name:
            self.close()
            try:
                self._file = (self.directory / segment).open("rb")
            except FileNotFoundError:
                return None
            self._name = segment
        return self._file


class _Shard:
    """One pass over one shard."""

    def __init__(
        self,
        keys: Keys,
        kept: Sequence[tuple[str, int, bytes]],
        patience: float,
        content: _Content | None,
    ) -> None:
        self.keys, self.patience = keys, patience
        self.content = content
        self.pruned: list[tuple[str, str, int, int]] = []
        self.kept = kept
        self.roots: dict[int, set[bytes]] = {}
        self.origin = ""
        self.tree = _Tree()
        self.types: Counter[str] = Counter()
        self.open: dict[str, int] = {}
        self.pinned = True
        self.hlc = -1
        self.time = ""
        self.segment = ""

    def refuse(self, offset: int, what: str, ahead: int = 0) -> _Refused:
        return _Refused(self.segment, offset, self.tree.size + ahead, what)

    def read(self, path: Path, *, last: bool) -> None:
        """Check one segment; as the last one it may still be growing."""
        self.segment = path.name
        data = path.read_bytes()
        at = self.consume(data, 0)
        seen, until = len(data), time.monotonic() + self.patience
        while at == 0 or at < seen:
            if not last or time.monotonic() >= until:
                intact = list(_frames(data, at)) if at else []
                end = intact[-1][0] + 9 + len(intact[-1][2]) if intact else at
                records = sum(kind == _RECORD for _, kind, _ in intact)
                raise self.refuse(end, "damaged, or after the last checkpoint", records)
            time.sleep(min(0.1, self.patience))
            data = path.read_bytes()
            at = self.consume(data, at)

    def consume(self, data: bytes, at: int) -> int:
        """Check the whole batches from ``at`` on; where they end. 0 without a head."""
        if at == 0:
            first = next(_frames(data, len(_MAGIC)), None)
            if not data.startswith(_MAGIC) or first is None or first[1] != _HEAD:
                return 0
            self.head(first[2])
            at = len(_MAGIC) + 9 + len(first[2])
        batch: list[tuple[int, int, bytes]] = []
        for frame in _frames(data, at):
            batch.append(frame)
            if frame[1] == _CHECKPOINT:
                self.batch(batch)
                at, batch = frame[0] + 9 + len(frame[2]), []
        return at

    def head(self, payload: bytes) -> None:
        try:
            head = json.loads(payload)
            first, peaks = int(head["first"]), [bytes.fromhex(node) for node in head["frontier"]]
            intents = {name: seq for seq, name in head["open"]}
            origin, version, root = head["origin"], head["v"], head["prev_root"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self.refuse(0, "malformed head") from None
        named = self.segment == f"{first:020d}.seg"
        if version != "audseg/1" or not named or len(peaks) != first.bit_count():
            raise self.refuse(0, "malformed head")
        if not self.origin:
            self.origin = origin
            for log, size, kept in self.kept:
                if log == origin:
                    self.roots.setdefault(size, set()).add(kept)
            self.compare(0)
        fits = self.tree.peaks == peaks and self.tree.root().hex() == root
        if (self.origin, self.tree.size, self.open) != (origin, first, intents) or not fits:
            raise self.refuse(0, "the head does not continue the segment before it")

    def batch(self, batch: list[tuple[int, int, bytes]]) -> None:
        sealed: str | None = None
        for offset, kind, payload in batch:
            if (kind == _SEALED) != (sealed is not None):
                raise self.refuse(offset, "sealed facts and record do not go together")
            if kind == _SEALED:
                if sha256(payload).hexdigest() != sealed:
                    raise self.refuse(offset, "the sealed facts are not those of the record")
                sealed = None
            elif kind == _RECORD:
                sealed = self.record(offset, payload)
            elif kind == _CHECKPOINT:
                self.checkpoint(offset, payload)
            else:
                raise self.refuse(offset, f"unknown frame kind {kind}")

    def record(self, offset: int, payload: bytes) -> str | None:
        """Check one record; the digest of the sealed frame that has to follow."""
        try:
            record: dict[str, Any] = json.loads(payload)
            kind, hlc, stamp = str(record["type"]), int(record["hlc"]), str(record["time"])
            request = str(record.get("request_id", ""))
            numbered = (record["v"], record["log"], record["seq"])
            self.sealed_content(kind, record)
            facts = record.get("facts")
            sealed: str | None = facts["sealed_sha256"] if facts else None
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self.refuse(offset, "malformed record") from None
        if numbered != ("audit/1", self.origin, self.tree.size):
            raise self.refuse(offset, f"out of place: it says {numbered[1]}#{numbered[2]}")
        if hlc <= self.hlc or (stamp < self.time and record.get("clock") != "regressed"):
            raise self.refuse(offset, "time runs backwards")
        self.hlc, self.time = hlc, max(self.time, stamp)
        if kind == "access.intent":
            if self.open.setdefault(request, self.tree.size) != self.tree.size:
                raise self.refuse(offset, "a second open intent of one request")
        elif kind == "access.outcome":
            parent = self.open.pop(request, None)
            if parent is None or parent != record.get("parent"):
                raise self.refuse(offset, "an outcome without its intent, or a second one")
        self.types[kind] += 1
        self.tree.add(payload)
        if self.tree.size in self.roots:
            self.compare(offset)
        return sealed

    def sealed_content(self, kind: str, record: Mapping[str, Any]) -> None:
        """Look for the content that a record names, and note what was pruned."""
        if kind == "content.pruned":
            origin = str(record["origin"])
            self.pruned += [
                (origin, str(each["segment"]), int(each.get("start", 0)), int(each["end"]))
                for each in record["ranges"]
            ]
        part = record.get(_CONTENT_IN.get(kind, ""))
        if self.content is not None and part and part.get("content"):
            self.content.look(part["content"], self.tree.size)

    def compare(self, offset: int) -> None:
        if self.roots.pop(self.tree.size, set()) - {self.tree.root()}:
            raise self.refuse(offset, f"not the log of the kept checkpoint {self.tree.size}")

    def checkpoint(self, offset: int, payload: bytes) -> None:
        try:
            origin, size, root, signed = read_checkpoint(payload, self.keys)
        except BadNote as error:
            raise self.refuse(offset, str(error)) from None
        if (origin, size, root) != (self.origin, self.tree.size, self.tree.root()):
            raise self.refuse(offset, "the checkpoint is not of these records")
        if not signed and any(name == origin for name, _ in self.keys):
            raise self.refuse(offset, "the checkpoint is signed by none of the keys given")
        self.pinned = self.pinned and signed

    def finish(self) -> None:
        if not self.tree.size:
            raise self.refuse(0, "no checkpoint")
        for size in self.roots:
            raise self.refuse(0, f"a kept checkpoint of {size} records is not in this log")


@dataclass
class _Checked:
    """One shard's report, its content, and what its records say was pruned: origin, file, range."""

    report: Report
    content: _Content | None
    pruned: list[tuple[str, str, int, int]]


def _verify_shard(
    directory: Path,
    name: str,
    keys: Keys,
    *,
    kept: Sequence[tuple[str, int, bytes]],
    patience: float,
    content: Path | None,
) -> _Checked:
    sealed = _Content(content / directory.name) if content is not None else None
    run = _Shard(keys, kept, patience, sealed)
    report = Report(name)
    paths = sorted(directory.glob("*.seg"))
    progress = sys.stderr.isatty() and sum(p.stat().st_size for p in paths) > PROGRESS_BYTES
    try:
        for number, path in enumerate(paths, 1):
            if progress:
                print(f"\r{name}: segment {number} of {len(paths)}", end="", file=sys.stderr)
            run.read(path, last=path is paths[-1])
        run.finish()
        report.verdict = OK if run.pinned else UNPINNED
    except _Refused as error:
        report.verdict = str(error)
    finally:
        if sealed is not None:
            sealed.close()
    if progress:
        print(file=sys.stderr)
    report.origin, report.size, report.types = run.origin, run.tree.size, run.types
    report.root, report.open_intents = base64.b64encode(run.tree.root()).decode(), len(run.open)
    return _Checked(report, sealed, run.pruned)


def _settle_content(logs: Sequence[_Checked]) -> bool:
    """Hold what is not there of all logs' content against what was pruned by all their records.

    Returns:
        Whether all of it is accounted for.
    """
    good = True
    for log in logs:
        if log.content is None:
            continue
        pruned: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for other in logs:
            for origin, segment, start, end in other.pruned:
                if origin == log.report.origin:
                    pruned[segment].append((start, end))
        log.report.content = log.content.there
        log.report.pruned, missing = log.content.missing(pruned)
        if missing and log.report.verdict in (OK, UNPINNED):
            log.report.verdict, good = missing, False
    return good


def verify_directory(
    directory: Path,
    keys: Keys,
    checkpoints: Sequence[bytes] = (),
    patience_s: float = PATIENCE_S,
    content: Path | None = None,
) -> list[Report]:
    """Check every shard under ``directory``.

    Args:
        directory: a state directory, its ``audit`` directory, or one shard.
        keys: from ``parse_vkey``; several may share a name. Every name is that of a log which has
            to be here.
        checkpoints: signed notes kept outside; the log of their origin must extend them.
        patience_s: how long to wait for a checkpoint over bytes at the end of a growing log.
        content: the directory of all sealed content, if not that of the state directory; without
            either, content is not looked at.

    Raises:
        FileNotFoundError: there is no log under it.
        OSError: something cannot be read.
    """
    shards = _shards(directory)
    if not shards:
        raise FileNotFoundError(f"no log under {directory}")
    if content is None and (directory / "audit").is_dir():
        content = directory / "content"
    reports: list[Report] = []
    kept: list[tuple[str, int, bytes]] = []
    for note in checkpoints:
        try:
            origin, size, root, signed = read_checkpoint(note, keys)
        except BadNote as error:
            reports.append(Report("kept checkpoint", verdict=f"refused: {error}"))
            continue
        if any(name == origin for name, _ in keys) and not signed:
            verdict = "refused: signed by none of the keys given"
            reports.append(Report("kept checkpoint", origin, size, verdict=verdict))
        kept.append((origin, size, root))

    def check() -> list[_Checked]:
        return [
            _verify_shard(
                each,
                str(each.relative_to(directory)),
                keys,
                kept=kept,
                patience=patience_s,
                content=content,
            )
            for each in shards
        ]

    checked = check()
    if not _settle_content(checked):
        # Content may have been pruned, and that recorded, after the record of it was read.
        checked = check()
        _settle_content(checked)
    logs = [each.report for each in checked]
    reports += logs
    here = {report.origin for report in logs}
    for origin in sorted({name for name, _ in keys} - here):
        verdict = f"refused: no log for {origin}: its key was given, and its log is not here"
        reports.append(Report("missing", origin, verdict=verdict))
    for origin in sorted({origin for origin, _, _ in kept} - here):
        verdict = "refused: a checkpoint of this log was kept, and the log is not here"
        reports.append(Report("kept checkpoint", origin, verdict=verdict))
    return reports


def only_one(directory: Path) -> str:
    """A line that says so where there is one shard under ``directory``; else nothing."""
    shards = _shards(directory)
    if len(shards) != 1:
        return ""
    return (
        f"one shard only: {shards[0].resolve().name}; this says nothing of a gateway's other logs"
    )


def _shards(directory: Path) -> list[Path]:
    return sorted({path.parent for path in directory.rglob("*.seg")})


def _print(reports: Sequence[Report]) -> None:
    for report in reports:
        print(f"{report.shard}: {report.origin or 'unknown origin'}")
        if not report.root:
            print(f"  {report.verdict}")
            continue
        print(f"  records {report.size}, root {report.root}")
        for kind, count in sorted(report.types.items()):
            print(f"    {kind} {count}")
        print(f"  open intents {report.open_intents}")
        if report.content or report.pruned:
            print(f"  sealed content: {report.content} pieces as recorded, {report.pruned} pruned")
        print(f"  {report.verdict}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="sluicegate-verify", description="Verify an audit log.")
    parser.add_argument("directory", type=Path, help="state directory, its audit/, or one shard")
    parser.add_argument("--key", action="append", default=[], metavar="VKEY", help="a log's key")
    parser.add_argument(
        "--checkpoint",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="a signed checkpoint kept outside the log, which the log must extend",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args(arguments)
    try:
        keys = dict(parse_vkey(text) for text in options.key)
    except ValueError as error:
        parser.error(f"--key: {error}")
    try:
        notes = [path.read_bytes() for path in options.checkpoint]
        reports = verify_directory(options.directory, keys, notes)
    except OSError as error:
        print(f"cannot read: {error}", file=sys.stderr)
        return 3
    good = all(report.verdict == OK for report in reports)
    alone = only_one(options.directory)
    if options.json:
        shards = [vars(report) for report in reports]
        print(json.dumps({"ok": good, "one_shard": bool(alone), "shards": shards}))
    else:
        if alone:
            print(alone)
        _print(reports)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
