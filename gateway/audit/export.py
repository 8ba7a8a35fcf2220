"""Records taken out of the logs, for people, for other systems, and for proof elsewhere.

What is exported is read from the logs themselves and not from an index, which could hide records.
A bundle is a directory that stands alone::

    manifest.json      what was asked, what was found, the digest of every other file
    records.ndjson     the matching records, byte for byte, one a line
    proofs.ndjson      for each line, its log, index and audit path (hashes in hex)
    checkpoints/<shard>  the signed checkpoint that the paths of that log lead to
    and what a report puts beside them, such as an index page

``verify_export`` checks one with the logs' public keys and nothing else.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from gateway.audit.index import Log
from gateway.audit.note import NoteError, parse_checkpoint
from gateway.audit.read import LogReader, Position
from gateway.audit.search import Query
from gateway.audit.segments import LogCorrupt, segment_files
from gateway.audit.terms import Json, effect_of
from gateway.audit.tiles import extended, subtree_of
from gateway.audit.tlog import inclusion_path, leaf_hash

__all__ = ["CSV_COLUMNS", "MANIFEST", "Found", "csv_line", "found_in", "write_bundle"]

MANIFEST: Final = "manifest.json"
FORMAT: Final = "sluicegate-export/1"
_FORMULA: Final = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
"""What a spreadsheet takes for a formula, or for the end of a cell (OWASP, CSV injection); the last
four are the signs in full width."""
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""Control characters, but those that text is laid out with."""

Progress = Callable[[int, int], None]
"""Bytes read, and bytes to read."""


class Found(NamedTuple):
    """A record that matches: its log, exact bytes and values, and the intent that it ends."""

    shard: str
    seq: int
    raw: bytes
    record: Json
    intent: Json | None


class _Grown:
    """The tree of one log as it is read, in tiles, and the last checkpoint over it."""

    def __init__(self) -> None:
        self.size = 0
        self.note = b""
        self._tiles: dict[tuple[int, int], bytes] = {}

    def add(self, leaves: list[bytes], note: bytes) -> None:
        for level, number, tile in list(extended(self._tile, self.size, leaves)):
            self._tiles[level, number] = tile
        self.size += len(leaves)
        self.note = note

    def _tile(self, level: int, number: int) -> bytes:
        return self._tiles[level, number]

    @property
    def subtree(self) -> Callable[[int, int], bytes]:
        """The roots of subtrees; they are computed once each."""
        return cache(subtree_of(self._tile))


def found_in(
    logs: Mapping[str, Log],
    query: Query,
    progress: Progress = lambda _done, _all: None,
    heads: dict[str, _Grown] | None = None,
) -> Iterator[Found]:
    """Every matching record, log by log, in order.

    Args:
        logs: by shard.
        query: what is asked.
        progress: told after each batch.
        heads: gets the tree of each log, where wanted.

    Raises:
        LogCorrupt: a log is damaged.
        OSError: a log cannot be read.
    """
    files = {shard: segment_files(log.directory) for shard, log in logs.items()}
    total = sum(path.stat().st_size for paths in files.values() for path in paths)
    before = 0
    for shard, log in logs.items():
        running: dict[int, Json] = {}
        sizes = {path.name: path.stat().st_size for path in files[shard]}
        tree = _Grown()
        end: Position | None = None
        for batch in LogReader(log.directory).batches():
            for entry in batch.entries:
                record = entry.json()
                intent = None
                if record["type"] == "access.intent":
                    running[entry.seq] = record
                elif record["type"] == "access.outcome":
                    intent = running.pop(record["parent"], None)
                in_period = query.since <= int(record["hlc"]) < query.until
                if in_period and query.matches(record, intent):
                    yield Found(shard, entry.seq, entry.raw, record, intent)
            tree.add([leaf_hash(entry.raw) for entry in batch.entries], batch.checkpoint)
            end = batch.end
            done = sum(each for name, each in sizes.items() if name < batch.end.segment)
            progress(min(before + done + batch.end.offset, total), total)
        log.check_end(end, tree.subtree)
        before += sum(sizes.values())
        if heads is not None:
            heads[shard] = tree


def write_bundle(
    directory: Path,
    logs: Mapping[str, Log],
    query: Query,
    *,
    made: str,
    asked: str,
    progress: Progress = lambda _done, _all: None,
    wanted: Callable[[Found], bool] = lambda _: True,
    beside: Callable[[], Mapping[str, bytes]] = dict,
) -> dict[str, Any]:
    """Write a bundle.

    Args:
        directory: empty, and there.
        logs: by shard, with the keys that their checkpoints must be signed by.
        query: what is asked.
        made: when, RFC 3339.
        asked: the query as it was typed, for people.
        progress: told after each batch.
        wanted: which of the records that match are taken.
        beside: other files for the bundle, by name; asked for when the records are written.

    Returns:
        The manifest.

    Raises:
        LogCorrupt: a log is damaged, or is not what its key signed.
        OSError: something cannot be read or written.
    """
    heads: dict[str, _Grown] = {}
    places: list[tuple[str, int]] = []
    digests: dict[str, str] = {}
    with _written(directory, "records.ndjson", digests) as write:
        for found in filter(wanted, found_in(logs, query, progress, heads)):
            write(found.raw + b"\n")
            places.append((found.shard, found.seq))
    (directory / "checkpoints").mkdir(mode=0o700)
    told = {}
    for shard, head in heads.items():
        try:
            checkpoint = parse_checkpoint(head.note, logs[shard].keys)
        except NoteError as error:
            raise LogCorrupt("", 0, head.size, f"{shard}: {error}") from error
        if (checkpoint.size, checkpoint.root) != (head.size, head.subtree(0, head.size)):
            raise LogCorrupt("", 0, head.size, f"{shard}: the records do not give the signed root")
        with _written(directory, f"checkpoints/{shard}", digests) as write:
            write(head.note)
        mine = [seq for name, seq in places if name == shard]
        told[shard] = {
            "origin": checkpoint.origin,
            "size": head.size,
            "records": len(mine),
            "first": mine[0] if mine else None,
            "last": mine[-1] if mine else None,
            "contiguous": bool(mine) and mine[-1] - mine[0] + 1 == len(mine),
        }
    subtrees = {shard: head.subtree for shard, head in heads.items()}
    with _written(directory, "proofs.ndjson", digests) as write:
        for shard, seq in places:
            path = inclusion_path(subtrees[shard], seq, heads[shard].size)
            proof = {"log": shard, "index": seq, "path": [node.hex() for node in path]}
            write(msgspec.json.encode(proof) + b"\n")
    for name, content in beside().items():
        (directory / name).parent.mkdir(mode=0o700, exist_ok=True)
        with _written(directory, name, digests) as write:
            write(content)
    manifest = {
        "format": FORMAT,
        "made": made,
        "query": {
            "asked": asked,
            "filters": [list(term) for term in query.terms],
            "text": query.text,
            "id": query.name,
            "since_ns": str(query.since),
            "until_ns": str(query.until),
        },
        "records": len(places),
        "logs": told,
        "sha256": dict(sorted(digests.items())),
    }
    encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    with _written(directory, MANIFEST, {}) as write:
        write(encoded + b"\n")
    return manifest


@contextmanager
def _written(
    directory: Path, name: str, digests: dict[str, str]
) -> Iterator[Callable[[bytes], object]]:
    """Write a new file of a bundle, this user's alone; its digest is kept when it is whole."""
    digest = sha256()
    descriptor = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:

        def write(data: bytes) -> None:
            digest.update(data)
            file.write(data)

        yield write
    digests[name] = digest.hexdigest()


# Tables

Column = Callable[[Found], Any]


def _value(*names: str) -> Column:
    """A field by its path; of the intent, where a record ends one and does not have it."""

    def read(found: Found) -> Any:
        for source in (found.record, found.intent or {}):
            value: Any = source
            for name in names:
                value = value.get(name, "") if isinstance(value, dict) else ""
            if value != "":
                return value
        return ""

    return read


def _reasons(name: str) -> Column:
    return lambda found: " ".join(
        each[name] for each in found.record.get("decision", {}).get("reasons", ())
    )


CSV_COLUMNS: Final[Mapping[str, Column]] = {
    "log": lambda found: found.shard,
    "seq": lambda found: found.seq,
    "time": _value("time"),
    "type": _value("type"),
    "request_id": _value("request_id"),
    "decision_id": _value("decision_id"),
    "subject": _value("subject", "id"),
    "organisation": _value("subject", "org"),
    "tiers": lambda found: " ".join(
        f"{domain}={level}"
        for domain, level in dict(_value("subject", "tiers")(found) or {}).items()
    ),
    "credential": _value("subject", "credential"),
    "engagement": _value("subject", "engagement"),
    "source": _value("src", "hmac"),
    "country": _value("src", "country"),
    "wire": _value("wire"),
    "model": _value("model", "requested"),
    "authorised": _value("model", "authorised"),
    "served": _value("served_model"),
    "endpoint": _value("model", "endpoint"),
    "effect": lambda found: effect_of(found.record),
    "reasons": _reasons("code"),
    "rules": _reasons("rule"),
    "revision": lambda found: (
        _value("decision", "revision")(found) or found.record.get("revision", "")
    ),
    "status": _value("status"),
    "http": _value("http"),
    "tokens_in": _value("tokens", "in"),
    "tokens_out": _value("tokens", "out"),
    "upstream_request_id": _value("upstream", "request_id"),
    "actor": _value("actor"),
    "kind": _value("kind"),
    "id": _value("id"),
    "op": _value("op"),
    "reason": _value("reason"),
    "leaf_sha256": lambda found: leaf_hash(found.raw).hex(),
}
"""The columns of a table, and what each is."""


def csv_line(cells: Mapping[str, Any] | list[str]) -> str:
    """One line of CSV (RFC 4180), in which no cell is a formula to a spreadsheet.

    All cells are quoted: where a spreadsheet takes another sign than the comma for the end of a
    cell, a formula would begin in the middle of one that is not.
    """
    out = io.StringIO()
    values = cells.values() if isinstance(cells, Mapping) else cells
    csv.writer(out, quoting=csv.QUOTE_ALL).writerow([_harmless(str(value)) for value in values])
    return out.getvalue()


def _harmless(text: str) -> str:
    """Text that would begin a formula gets an apostrophe, which spreadsheets do not show."""
    text = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
    return f"'{text}" if text.startswith(_FORMULA) else text
