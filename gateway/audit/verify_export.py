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
from typing import Any

from gateway.audit.verify import BadNote, Keys, read_checkpoint

__all__ = ["ExportReport", "verify_export"]

_FORMAT = "sluicegate-export/1"
_MOST_FINDINGS = 20
_FILES = {"records.ndjson", "proofs.ndjson"}


@dataclass
class ExportReport:
    """What was found. ``findings`` is empty only if all was checked and right."""

    records: int = 0
    logs: dict[str, int] = field(default_factory=dict)
    pinned: bool = True
    findings: list[str] = field(default_factory=list)

    def find(self, what: str) -> None:
        """Note what is wrong; no more than 20."""
        if len(self.findings) < _MOST_FINDINGS:
            self.findings.append(what)


def verify_export(directory: Path, keys: Keys) -> ExportReport:
    """Check a bundle that ``audit export --format bundle`` wrote.

    Args:
        directory: of the bundle.
        keys: the logs' public keys, as ``verify.parse_vkey`` gives them.

    Raises:
        ValueError: there is no bundle, or it is of another format.
        OSError: a file cannot be read.
    """
    report = ExportReport()
    try:
        manifest = json.loads((directory / "manifest.json").read_bytes())
        digests: dict[str, str] = dict(manifest["sha256"])
        told: dict[str, dict[str, Any]] = dict(manifest["logs"])
        version, count = manifest["format"], manifest["records"]
    except FileNotFoundError:
        raise ValueError("there is no manifest.json in it") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("manifest.json is malformed") from None
    if version != _FORMAT:
        raise ValueError(f"it is of format {str(version)[:40]!r}, not {_FORMAT}")
    _check_files(directory, digests, report)
    if report.findings:
        return report
    heads = {}
    for shard in told:
        head = _head(directory / "checkpoints" / shard, keys, shard, report)
        if head is not None:
            heads[shard] = head
    seqs = _check_records(directory, heads, report)
    if report.records != count:
        report.find(f"manifest.json says {count} records; there are {report.records}")
    for shard, (origin, size, _) in heads.items():
        mine = seqs.get(shard, [])
        said = {
            "origin": origin,
            "size": size,
            "records": len(mine),
            "first": mine[0] if mine else None,
            "last": mine[-1] if mine else None,
            "contiguous": bool(mine) and mine[-1] - mine[0] + 1 == len(mine),
        }
        if told[shard] != said:
            report.find(f"manifest.json says of {shard} what its records do not")
        report.logs[shard] = size
    return report


def _check_files(directory: Path, digests: dict[str, str], report: ExportReport) -> None:
    there = {
        path.relative_to(directory).as_posix()
        for path in directory.rglob("*")
        if path.is_symlink() or not path.is_dir()
    } - {"manifest.json"}
    for name in sorted(_FILES - digests.keys()):
        report.find(f"manifest.json does not name {name}")
    for name in sorted(there - digests.keys()):
        report.find(f"{name}: is not in the manifest")
    for name in sorted(digests.keys() - there):
        report.find(f"{name}: is missing")
    for name in sorted(digests.keys() & there):
        with (directory / name).open("rb") as file:
            found = file_digest(file, "sha256").hexdigest()
        if found != digests[name]:
            report.find(f"{name}: is not what the manifest says")


def _head(
    path: Path, keys: Keys, shard: str, report: ExportReport
) -> tuple[str, int, bytes] | None:
    """Origin, size and root of a log's signed checkpoint."""
    if "/" in shard or not path.is_file():
        report.find(f"checkpoints/{shard}: is missing")
        return None
    try:
        origin, size, root, signed = read_checkpoint(path.read_bytes(), keys)
    except BadNote as error:
        report.find(f"checkpoints/{shard}: {error}")
        return None
    if origin.rpartition("/")[2] != shard:
        report.find(f"checkpoints/{shard}: is of another log, {origin}")
        return None
    report.pinned = report.pinned and signed
    return origin, size, root


def _check_records(
    directory: Path, heads: dict[str, tuple[str, int, bytes]], report: ExportReport
) -> dict[str, list[int]]:
    """Every record against its proof; the indices of each log, in order."""
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
                proof = json.loads(proofs.readline())
                shard, index = str(proof["log"]), int(proof["index"])
                path = [bytes.fromhex(node) for node in proof["path"]]
                record = json.loads(raw)
                said = record["log"], record["seq"]
            except (ValueError, KeyError, TypeError, RecursionError):
                report.find(f"{where}: malformed, or without a proof")
                continue
            if shard not in heads:
                report.find(f"{where}: there is no checkpoint of {shard!r}")
                continue
            origin, size, root = heads[shard]
            if said != (origin, index) or not _leads(raw, index, size, path, root):
                report.find(f"{where}: is not what {origin} signed at {index}")
                continue
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
