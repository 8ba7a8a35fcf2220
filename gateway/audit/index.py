"""An index of all logs of a directory, in SQLite: derived, disposable, and not to be trusted.

It holds where records lie, what each is found by (``terms``), counts by hour, and the tree in
tiles. It is brought up to date by reading on where it stopped; deleted or damaged, it is made anew
from the logs alone and gives the same answers. What it says is only ever a hint: ``search`` reads
each hit in the log again and proves it.

A record's id is its hybrid clock (nanoseconds), so every list of ids is in order of time. Where two
logs have the very same nanosecond, the one that came later takes the next free id.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gateway.audit.note import Checkpoint, NoteError, VerifierKey, parse_checkpoint
from gateway.audit.read import Entry, LogReader, Position
from gateway.audit.segments import LogCorrupt, segment_files, segment_name
from gateway.audit.terms import HEARTBEAT, effect_of, names_of, terms_of, words_of
from gateway.audit.tiles import TileOf, extended, subtree_of
from gateway.audit.tlog import Subtree, leaf_hash

__all__ = [
    "COUNTED",
    "HOUR_NS",
    "Index",
    "IndexDamaged",
    "Log",
    "Progress",
    "Unanswerable",
    "damaged_if_unreadable",
]

HOUR_NS: Final = 3_600_000_000_000
COUNTED: Final = (
    "model",
    "reason",
    "rule",
    "subject",
    "organisation",
    "revision",
    "wire",
    "status",
)
"""The dimensions whose values are counted by hour and effect."""
_SCHEMA_VERSION: Final = 2
_CHUNK: Final = 10_000
"""Records a transaction."""
_CACHE_KIB: Final = 64 * 1024
_WAIT_S: Final = 60
"""For another process that brings the same index up to date."""
_MOST: Final = 1 << 62

_SCHEMA: Final = f"""
CREATE TABLE logs (
  id INTEGER PRIMARY KEY, shard TEXT NOT NULL UNIQUE, segment TEXT NOT NULL,
  offset INTEGER NOT NULL, size INTEGER NOT NULL, checkpoint BLOB NOT NULL);
CREATE TABLE tiles (
  log INTEGER NOT NULL, level INTEGER NOT NULL, number INTEGER NOT NULL, hashes BLOB NOT NULL,
  PRIMARY KEY (log, level, number));
CREATE TABLE records (
  id INTEGER PRIMARY KEY, log INTEGER NOT NULL, seq INTEGER NOT NULL, segment INTEGER NOT NULL,
  offset INTEGER NOT NULL, effect INTEGER NOT NULL);
CREATE INDEX places ON records (log, seq);
CREATE TABLE terms (
  id INTEGER PRIMARY KEY, dimension TEXT NOT NULL, value TEXT NOT NULL, records INTEGER NOT NULL,
  UNIQUE (dimension, value));
CREATE TABLE postings (
  term INTEGER NOT NULL, record INTEGER NOT NULL, PRIMARY KEY (term, record)) WITHOUT ROWID;
CREATE TABLE names (
  name TEXT NOT NULL, record INTEGER NOT NULL, PRIMARY KEY (name, record)) WITHOUT ROWID;
CREATE TABLE counts (
  dimension TEXT NOT NULL, hour INTEGER NOT NULL, term INTEGER NOT NULL, effect INTEGER NOT NULL,
  records INTEGER NOT NULL, PRIMARY KEY (dimension, hour, term, effect)) WITHOUT ROWID;
CREATE TABLE intents (
  log INTEGER NOT NULL, seq INTEGER NOT NULL, segment INTEGER NOT NULL, offset INTEGER NOT NULL,
  PRIMARY KEY (log, seq)) WITHOUT ROWID;
CREATE VIRTUAL TABLE words USING fts5 (
  text, content='', detail=none, columnsize=0, tokenize="ascii tokenchars '-_.:/#=@+'");
PRAGMA user_version = {_SCHEMA_VERSION};
"""

Progress = Callable[[int, int], None]
"""Bytes read, and bytes to read."""


class IndexDamaged(Exception):
    """The index is not one of these logs, or cannot be read: make it anew."""


class Unanswerable(ValueError):
    """A question that cannot be answered; it says why."""


@dataclass(frozen=True, slots=True)
class Log:
    """One log: where it lies, the keys that may sign it, and its checkpoints that were kept outside
    it, which it must extend."""

    directory: Path
    keys: Sequence[VerifierKey]
    kept: Sequence[Checkpoint] = ()

    def check_end(self, end: Position | None, subtree: Subtree) -> None:
        """Whether what was read is the whole log: in its last segment damage and the end look
        alike, and a log that was cut back or written anew looks whole.

        Args:
            end: where reading stopped.
            subtree: the roots of what was read.

        Raises:
            LogCorrupt: it is not.
        """
        self.check_length(end)
        for kept in self.kept:
            if subtree(0, kept.size) != kept.root:
                raise LogCorrupt(
                    "", 0, kept.size, f"not the log of the kept checkpoint {kept.size}"
                )

    def check_length(self, end: Position | None) -> None:
        """The same, for who has not the tree: a log written anew at full length passes.

        Raises:
            LogCorrupt: less was read than there was.
        """
        size = end.seq if end is not None else 0
        for kept in self.kept:
            if kept.size > size:
                raise LogCorrupt(
                    "", 0, size, f"the log ends here, but was already {kept.size} records long"
                )
        LogReader(self.directory).check_settled(end)


@dataclass(slots=True)
class _Rows:
    """What a chunk of records adds."""

    records: list[tuple[int, int, int, int, int, int]] = field(default_factory=list)
    postings: list[tuple[int, int]] = field(default_factory=list)
    names: list[tuple[str, int]] = field(default_factory=list)
    words: list[tuple[int, str]] = field(default_factory=list)
    counts: Counter[tuple[str, int, int, int]] = field(default_factory=Counter)
    leaves: list[bytes] = field(default_factory=list)


class Index:
    """The index in one file.

    Args:
        path: where it is, or is to be; mode 0600.
        logs: all logs of the directory, by shard.

    Raises:
        IndexDamaged: the file is no index, or one of another version.
    """

    def __init__(self, path: Path, logs: Mapping[str, Log]) -> None:
        self._logs = logs
        self._terms: dict[tuple[str, str], int] = {}
        _claim(path)
        self.database = sqlite3.connect(path, isolation_level=None, timeout=_WAIT_S)
        try:
            self.database.execute("PRAGMA journal_mode = WAL")
            # What a power cut takes from an index is read from the log again.
            self.database.execute("PRAGMA synchronous = NORMAL")
            self.database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            self.database.execute("PRAGMA trusted_schema = OFF")
            (version,) = self.database.execute("PRAGMA user_version").fetchone()
            if version == 0:
                self.database.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
                version = _SCHEMA_VERSION
            shape = _shape(self.database)
        except sqlite3.DatabaseError as error:
            self.database.close()
            raise IndexDamaged(f"the index cannot be read: {error}") from error
        if version != _SCHEMA_VERSION or shape != _expected_shape():
            self.database.close()
            raise IndexDamaged(f"the index is of version {version}, or not of this make")

    def signed_heads(self) -> dict[str, Checkpoint]:
        """The logs' checkpoints in it that their keys signed, by shard: what the logs were."""
        found: dict[str, Checkpoint] = {}
        with suppress(sqlite3.DatabaseError, TypeError, ValueError):
            for shard, note in self.database.execute("SELECT shard, checkpoint FROM logs"):
                if shard in self._logs:
                    found[shard] = parse_checkpoint(bytes(note), self._logs[shard].keys)
        return found

    def close(self) -> None:
        """Release the file."""
        self.database.close()

    # What is in it

    def sizes(self) -> dict[str, int]:
        """How many records of each log it holds."""
        with damaged_if_unreadable():
            return dict(self.database.execute("SELECT shard, size FROM logs"))

    def head(self, shard: str) -> tuple[bytes, TileOf]:
        """The signed checkpoint up to which a log was read, and the tiles of its tree.

        Raises:
            IndexDamaged: it holds nothing of this log.
        """
        row = self.database.execute(
            "SELECT id, checkpoint FROM logs WHERE shard = ?", (shard,)
        ).fetchone()
        if row is None:
            raise IndexDamaged(f"the index holds nothing of {shard}")
        number, note = row
        return bytes(note), lambda level, tile: self.tile(number, level, tile)

    def tile(self, log: int, level: int, number: int) -> bytes:
        """A tile of a log's tree.

        Raises:
            KeyError: there is none.
        """
        row = self.database.execute(
            "SELECT hashes FROM tiles WHERE log = ? AND level = ? AND number = ?",
            (log, level, number),
        ).fetchone()
        if row is None:
            raise KeyError(f"tile {level}/{number}")
        return bytes(row[0])

    # Bringing it up to date

    def catch_up(self, progress: Progress = lambda _done, _all: None) -> int:
        """Read what the logs have gained, and check each new tree against its signed checkpoint.

        Returns:
            How many records were added.

        Raises:
            IndexDamaged: the index and a log do not belong together.
            LogCorrupt: a log is damaged, or its newest checkpoint is not signed by its key.
            OSError: a log cannot be read.
        """
        with damaged_if_unreadable():
            gone = self.sizes().keys() - self._logs.keys()
            if gone:
                raise IndexDamaged(f"the logs it was made from are gone: {', '.join(sorted(gone))}")
            before, total = 0, sum(_bytes_after(log, None) for log in self._logs.values())
            added = 0
            for shard, log in self._logs.items():
                for records, left in self._extend(shard, log):
                    added += records
                    progress(before + _bytes_after(log, None) - left, total)
                number, end = self._position(shard)
                log.check_end(end, subtree_of(lambda *which, of=number: self.tile(of, *which)))
                before += _bytes_after(log, None)
            return added

    def _extend(self, shard: str, log: Log) -> Iterator[tuple[int, int]]:
        """Chunk by chunk, each in a transaction; gives records added and bytes left."""
        reader = LogReader(log.directory)
        while True:
            self.database.execute("BEGIN IMMEDIATE")
            try:
                number, position = self._position(shard)
                try:
                    added, end, note = self._chunk(number, reader, position)
                except LogCorrupt as error:
                    if position is not None and error.segment == position.segment:
                        raise IndexDamaged(str(error)) from error
                    raise
                if end is None:
                    return
                self._check(number, end, note, log.keys)
                self.database.execute(
                    "UPDATE logs SET segment = ?, offset = ?, size = ?, checkpoint = ?"
                    " WHERE id = ?",
                    (*end, note, number),
                )
                self.database.execute("COMMIT")
                yield added, _bytes_after(log, end)
            finally:
                if self.database.in_transaction:
                    self.database.execute("ROLLBACK")
                    self._terms.clear()

    def _position(self, shard: str) -> tuple[int, Position | None]:
        """The log's number, and where the index stopped."""
        row = self.database.execute(
            "SELECT id, segment, offset, size FROM logs WHERE shard = ?", (shard,)
        ).fetchone()
        if row is None:
            (number,) = self.database.execute(
                "INSERT INTO logs (shard, segment, offset, size, checkpoint)"
                " VALUES (?, '', 0, 0, x'') RETURNING id",
                (shard,),
            ).fetchone()
            return number, None
        number, segment, offset, size = row
        return number, Position(segment, offset, size) if segment else None

    def _chunk(
        self, number: int, reader: LogReader, after: Position | None
    ) -> tuple[int, Position | None, bytes]:
        """Add some batches; ``None`` for the end where there were none."""
        rows, entries, end, note = _Rows(), list[Entry](), None, b""
        for batch in reader.batches(after):
            entries += batch.entries
            end, note = batch.end, batch.checkpoint
            if len(entries) >= _CHUNK:
                break
        if end is None:
            return 0, None, b""
        size = after.seq if after is not None else 0
        if entries and entries[0].seq != size:
            raise LogCorrupt(entries[0].segment, entries[0].offset, size, "records are missing")
        records = [entry.json() for entry in entries]
        ids = self._ids(entries, records)
        intents: dict[int, Entry] = {}
        for record_id, entry, record in zip(ids, entries, records, strict=True):
            intent = None
            if record["type"] == "access.intent":
                intents[entry.seq] = entry
            elif record["type"] == "access.outcome":
                opened = intents.pop(record["parent"], None)
                intent = opened.json() if opened else self._intent(number, reader, record["parent"])
            effect = effect_of(record)
            code = self._term(("effect", effect)) if effect else 0
            segment = int(entry.segment[:20])
            rows.records.append((record_id, number, entry.seq, segment, entry.offset, code))
            rows.leaves.append(leaf_hash(entry.raw))
            self._describe(rows, record_id, record, intent, code)
        self._write(number, size, rows, intents.values())
        return len(entries), end, note

    def _ids(self, entries: Sequence[Entry], records: Sequence[Mapping[str, Any]]) -> list[int]:
        """The records' hybrid clocks; where another log has the same, the next that is free."""
        clocks = [int(record["hlc"]) for record in records]
        for entry, clock in zip(entries, clocks, strict=True):
            if not 0 < clock < _MOST:
                raise LogCorrupt(entry.segment, entry.offset, entry.seq, "its clock is no time")
        taken: set[int] = set()
        if clocks:
            found = self.database.execute(
                "SELECT id FROM records WHERE id BETWEEN ? AND ?",
                (min(clocks), max(clocks) + len(clocks)),
            )
            taken = {row[0] for row in found}
        for at, clock in enumerate(clocks):
            free = clock
            while free in taken:
                free += 1
            clocks[at] = free
            taken.add(free)
        return clocks

    def _intent(self, number: int, reader: LogReader, seq: int) -> Mapping[str, Any] | None:
        """An intent that was running when the index was last brought up to date."""
        row = self.database.execute(
            "DELETE FROM intents WHERE log = ? AND seq = ? RETURNING segment, offset",
            (number, seq),
        ).fetchall()
        if not row:
            return None
        segment, offset = row[0]
        raw = reader.raw(segment_name(segment), offset)
        return Entry("", offset, seq, raw, None).json()

    def _describe(
        self,
        rows: _Rows,
        record_id: int,
        record: Mapping[str, Any],
        intent: Mapping[str, Any] | None,
        effect: int,
    ) -> None:
        if record["type"] == HEARTBEAT:
            rows.postings.append((self._term(("type", HEARTBEAT)), record_id))
            return  # found by its type, and by nothing else: there are many
        hour = record_id // HOUR_NS
        for term in terms_of(record, intent):
            number_of_term = self._term(term)
            rows.postings.append((number_of_term, record_id))
            if term[0] in COUNTED and (effect or term[0] == "status"):
                rows.counts[term[0], hour, number_of_term, effect] += 1
        rows.names.extend((name, record_id) for name in names_of(record))
        rows.words.append((record_id, " ".join(words_of(record))))

    def _term(self, term: tuple[str, str]) -> int:
        known = self._terms.get(term)
        if known is not None:
            return known
        self.database.execute("INSERT OR IGNORE INTO terms VALUES (NULL, ?, ?, 0)", term)
        (number,) = self.database.execute(
            "SELECT id FROM terms WHERE dimension = ? AND value = ?", term
        ).fetchone()
        self._terms[term] = number
        return int(number)

    def _write(self, number: int, size: int, rows: _Rows, running: Iterable[Entry]) -> None:
        add = self.database.executemany
        add("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?)", rows.records)
        add("INSERT INTO postings VALUES (?, ?)", sorted(rows.postings))
        add("INSERT OR IGNORE INTO names VALUES (?, ?)", rows.names)
        add("INSERT INTO words (rowid, text) VALUES (?, ?)", rows.words)
        add(
            "INSERT INTO intents VALUES (?, ?, ?, ?)",
            [(number, entry.seq, int(entry.segment[:20]), entry.offset) for entry in running],
        )
        add(
            "INSERT INTO counts VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET records = records + excluded.records",
            [(*key, count) for key, count in rows.counts.items()],
        )
        each_term = Counter(term for term, _ in rows.postings)
        add(
            "UPDATE terms SET records = records + ? WHERE id = ?",
            [(count, term) for term, count in each_term.items()],
        )
        tiles = list(extended(lambda *which: self.tile(number, *which), size, rows.leaves))
        add("INSERT OR REPLACE INTO tiles VALUES (?, ?, ?, ?)", [(number, *tile) for tile in tiles])

    def _check(self, number: int, end: Position, note: bytes, keys: Sequence[VerifierKey]) -> None:
        """The tree that was built is the one that was signed."""
        try:
            checkpoint = parse_checkpoint(note, keys)
        except NoteError as error:
            raise LogCorrupt(end.segment, end.offset, end.seq, str(error)) from error
        root = subtree_of(lambda *which: self.tile(number, *which))(0, end.seq)
        if checkpoint.size != end.seq or checkpoint.root != root:
            raise LogCorrupt(
                end.segment, end.offset, end.seq, "the records do not give the root that was signed"
            )


def _claim(path: Path) -> None:
    """Make the file, or see that it is one, and this user's alone.

    Raises:
        IndexDamaged: it is something else.
        OSError: it cannot be made.
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
    except FileExistsError:
        state = path.lstat()
        if not stat.S_ISREG(state.st_mode) or state.st_uid != os.geteuid():
            raise IndexDamaged(f"{path} is not a file of this user") from None
        if stat.S_IMODE(state.st_mode) & 0o077:
            raise IndexDamaged(f"{path} is open to others") from None


def _shape(database: sqlite3.Connection) -> list[tuple[str, str, str]]:
    return database.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()


def _expected_shape() -> list[tuple[str, str, str]]:
    database = sqlite3.connect(":memory:")
    try:
        database.executescript(_SCHEMA)
        return _shape(database)
    finally:
        database.close()


@contextmanager
def damaged_if_unreadable() -> Iterator[None]:
    """What SQLite cannot read, or a tile that is not there, is a damaged index."""
    try:
        yield
    except Unanswerable:
        raise
    except (sqlite3.DatabaseError, KeyError, TypeError, ValueError, OverflowError) as error:
        # What SQLite raises, and what text or a gap in the place of a number comes to.
        raise IndexDamaged(f"the index cannot be read: {error}") from error


def _bytes_after(log: Log, position: Position | None) -> int:
    """How much of a log lies after a place in it."""
    files = segment_files(log.directory)
    if position is None:
        return sum(path.stat().st_size for path in files)
    later = sum(path.stat().st_size for path in files if path.name >= position.segment)
    return max(later - position.offset, 0)
