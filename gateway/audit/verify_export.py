"""Whether an export holds what the logs' keys signed, told by code that is not the writer's.

Standard library and ``verify``'s reading of checkpoints only. It checks the digest of every file,
every record's leaf and audit path up to the signed root, that no file and no line is left over, and
that the manifest says of the records what they say themselves. It cannot see what was left out by
the query: ``contiguous`` in the manifest, which is checked, says where nothing was.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, NamedTuple

from gateway.audit.verify import BadNote, Keys, read_checkpoint

__all__ = ["ExportReport", "verify_export"]

_FORMAT = "sluicegate-export/1"
_MOST_FINDINGS = 20
_FILES = {"records.ndjson", "proofs.ndjson"}
_MANIFEST = "manifest.json"
_FIELDS = {"format", "made", "query", "records", "logs", "sha256"}
_ASKED = {"asked", "filters", "text", "id", "since_ns", "until_ns"}
_TOLD = {"origin", "size", "records", "first", "last", "contiguous"}
_MAX_NS = (1 << 63) - 1


@dataclass
class ExportReport:
    """What was found. ``findings`` is empty only if all was checked and right.

    ``logs`` says of each log how many records it had, which are here, and whether any between the
    first and the last of them was left out. ``asked`` is the exporter's word, and no more.
    ``unpinned`` are the logs whose checkpoint no key that was given has signed.
    """

    records: int = 0
    asked: str = ""
    logs: dict[str, dict[str, Any]] = field(default_factory=dict)
    pinned: bool = False
    unpinned: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)

    def find(self, what: str) -> None:
        """Note what is wrong; no more than 20."""
        if len(self.findings) < _MOST_FINDINGS:
            self.findings.append(what)


def verify_export(directory: Path, keys: Keys) -> ExportReport:
    """Check a bundle that ``audit export --format bundle`` wrote.

    Args:
        directory: of the bundle.
        keys: the logs' public keys, as ``verify.parse_vkey`` gives them; the log of each must be
            there.

    Raises:
        ValueError: there is no bundle, or it is of another format.
        OSError: a file cannot be read.
    """
    report = ExportReport()
    manifest = _manifest(directory)
    told, query = manifest["logs"], manifest["query"]
    report.asked = query["asked"]
    _check_files(directory, manifest["sha256"], report)
    if report.findings:
        return report
    heads = {}
    for shard in told:
        head = _head(directory / "checkpoints" / shard, keys, shard, report)
        if head is not None:
            heads[shard] = head
    signed = [head.signed for head in heads.values()]
    report.pinned = bool(signed) and all(signed)
    report.unpinned = sorted(head.origin for head in heads.values() if not head.signed)
    origins = {head.origin for head in heads.values()}
    for name in sorted({name for name, _ in keys} - origins):
        report.find(f"there is no log for the key of {name}")
    seqs = _check_records(directory, heads, query, report)
    if report.records != manifest["records"]:
        report.find(f"{_MANIFEST} says {manifest['records']} records; there are {report.records}")
    everything = not query["filters"] and not query["text"] and not query["id"]
    everything = everything and query["since_ns"] == "0" and query["until_ns"] == str(_MAX_NS)
    for shard, head in heads.items():
        mine = seqs.get(shard, [])
        said = {
            "origin": head.origin,
            "size": head.size,
            "records": len(mine),
            "first": mine[0] if mine else None,
            "last": mine[-1] if mine else None,
            "contiguous": bool(mine) and mine[-1] - mine[0] + 1 == len(mine),
        }
        if told[shard] != said:
            report.find(f"{_MANIFEST} says of {shard} what its records do not")
        if everything and len(mine) != head.size:
            report.find(f"{shard}: all records were asked for, and {head.size - len(mine)} are not")
        report.logs[shard] = said
    return report


def _manifest(directory: Path) -> dict[str, Any]:
    """The manifest, of its one shape.

    Raises:
        ValueError: it is not there, or of another.
    """
    path = directory / _MANIFEST
    if not _is_file(path):
        raise ValueError(f"there is no {_MANIFEST} in it")
    try:
        manifest = json.loads(path.read_bytes(), object_pairs_hook=_once)
        fits = (
            type(manifest) is dict
            and manifest.keys() == _FIELDS
            and type(manifest["records"]) is int
            and type(manifest["query"]) is dict
            and manifest["query"].keys() == _ASKED
            and all(type(manifest["query"][name]) is str for name in _ASKED - {"filters"})
            and type(manifest["query"]["filters"]) is list
            and type(manifest["logs"]) is dict
            and all(
                type(each) is dict and each.keys() == _TOLD for each in manifest["logs"].values()
            )
            and type(manifest["sha256"]) is dict
            and all(type(each) is str for each in manifest["sha256"].values())
            and all(int(manifest["query"][name]) >= 0 for name in ("since_ns", "until_ns"))
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        fits = False
    if not fits:
        raise ValueError(f"{_MANIFEST} is malformed")
    if manifest["format"] != _FORMAT:
        raise ValueError(f"it is of format {str(manifest['format'])[:40]!r}, not {_FORMAT}")
    found: dict[str, Any] = manifest
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object in which each name stands once (RFC 8259, section 4)."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _is_file(path: Path) -> bool:
    """Whether it is a file here, and no link to one elsewhere."""
    return path.is_file() and not path.is_symlink()


def _check_files(directory: Path, digests: dict[str, str], report: ExportReport) -> None:
    there = set()
    for path in directory.rglob("*"):
        name = path.relative_to(directory).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            report.find(f"{name}: is no file")
        elif path.is_file() and name != _MANIFEST:
            there.add(name)
    for name in sorted(_FILES - digests.keys()):
        report.find(f"{_MANIFEST} does not name {name}")
    for name in sorted(there - digests.keys()):
        report.find(f"{name}: is not in the manifest")
    for name in sorted(digests.keys() - there):
        report.find(f"{name}: is missing")
    for name in sorted(digests.keys() & there):
        with (directory / name).open("rb") as file:
            found = file_digest(file, "sha256").hexdigest()
        if found != digests[name]:
            report.find(f"{name}: is not what the manifest says")


class _Head(NamedTuple):
    """What a log's checkpoint says, and whether a key that was given signed it."""

    origin: str
    size: int
    root: bytes
    signed: bool


def _head(path: Path, keys: Keys, shard: str, report: ExportReport) -> _Head | None:
    """A log's signed checkpoint."""
    if "/" in shard or not _is_file(path):
        report.find(f"checkpoints/{shard}: is missing")
        return None
    try:
        head = _Head(*read_checkpoint(path.read_bytes(), keys))
    except BadNote as error:
        report.find(f"checkpoints/{shard}: {error}")
        return None
    if head.origin.rpartition("/")[2] != shard:
        report.find(f"checkpoints/{shard}: is of another log, {head.origin}")
        return None
    return head


def _check_records(
    directory: Path, heads: dict[str, _Head], query: dict[str, Any], report: ExportReport
) -> dict[str, list[int]]:
    """Every record against its proof and the period; the indices of each log, in order."""
    since, until = int(query["since_ns"]), int(query["until_ns"])
    seqs: dict[str, list[int]] = {}
    with (
        (directory / "records.ndjson").open("rb") as records,
        (directory / "proofs.ndjson").open("rb") as proofs,
    ):
        for number, line in enumerate(records, 1):
            report.records += 1
            where = f"records.ndjson, line {number}"
            raw = line.removesuffix(b"\n")
            try:
                proof = json.loads(proofs.readline(), object_pairs_hook=_once)
                shard, index = proof["log"], proof["index"]
                path = [bytes.fromhex(node) for node in proof["path"]]
                record = json.loads(raw)
                said, clock = (record["log"], record["seq"]), int(record["hlc"])
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                report.find(f"{where}: malformed, or without a proof")
                continue
            if type(index) is not int or type(shard) is not str or shard not in heads:
                report.find(f"{where}: there is no checkpoint of its log")
                continue
            origin, size, root, _ = heads[shard]
            if said != (origin, index) or not _leads(raw, index, size, path, root):
                report.find(f"{where}: is not what {origin} signed at {index}")
                continue
            if not since <= clock < until:
                report.find(f"{where}: is not of the period that was asked for")
            if seqs.get(shard) and index <= seqs[shard][-1]:
                report.find(f"{where}: {shard}#{index} is out of order, or there twice")
            seqs.setdefault(shard, []).append(index)
        if proofs.readline():
            report.find("proofs.ndjson: has more lines than records.ndjson")
    return seqs


def _leads(record: bytes, index: int, size: int, path: list[bytes], root: bytes) -> bool:
    """Whether the audit path leads from the record to the root (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    node, last = index, size - 1
    found = sha256(b"\0" + record).digest()
    for sibling in path:
        if last == 0:
            return False
        if node % 2 or node == last:
            found = sha256(b"\1" + sibling + found).digest()
            while node % 2 == 0 and node:
                node, last = node // 2, last // 2
        else:
            found = sha256(b"\1" + found + sibling).digest()
        node, last = node // 2, last // 2
    return last == 0 and found == root
