"""Questions to the index, and hits that prove themselves.

A hit is read again in its log, its audit path is made from the index's tiles and followed to the
root of a checkpoint that the log's key signed, and what it was found by is looked for in its own
bytes. So an index can hide a record, but not invent or bend one; against hiding there is
``rebuild-index``, and the contiguous sequence that ``report completeness`` counts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from gateway.audit.index import (
    COUNTED,
    HOUR_NS,
    Index,
    IndexDamaged,
    Log,
    Unanswerable,
    damaged_if_unreadable,
)
from gateway.audit.note import Checkpoint, NoteError, parse_checkpoint
from gateway.audit.proof import format_proof
from gateway.audit.read import LogReader
from gateway.audit.segments import LogCorrupt, segment_name
from gateway.audit.terms import (
    DIMENSIONS,
    HEARTBEAT,
    Json,
    Term,
    effect_of,
    terms_of,
    text_terms,
    words_of,
)
from gateway.audit.tiles import subtree_of
from gateway.audit.tlog import Subtree, inclusion_path, leaf_hash, verify_inclusion

__all__ = ["Count", "Hit", "Query", "Search"]

MAX_NS = (1 << 63) - 1
_MATCHED = 10_000
"""Records of a filter beyond which its counts are not made: narrow it."""

_SHIFTED = 1_000_000
"""Nanoseconds by which an id may lie after its record's clock: ids that were taken are passed."""
_FILTER = re.compile(r"([a-z]+)=(.+)", re.DOTALL)
_SHORT = {"org": "organisation"}
_FEW = 2_000
"""A word may stand in any number of records; it is the source unless a term has fewer than this."""


class Query(Struct, frozen=True, kw_only=True):
    """What is asked: all of it must hold.

    Attributes:
        terms: values of one dimension are alternatives; dimensions narrow one another.
        text: words, all of which stand in the record; ``mythos*`` is the beginning of one.
        name: a request id or a decision id.
        since: nanoseconds since the epoch, included.
        until: nanoseconds since the epoch, not included.
    """

    terms: tuple[Term, ...] = ()
    text: str = ""
    name: str = ""
    since: int = 0
    until: int = MAX_NS

    @classmethod
    def parse(cls, typed: Iterable[str], *, since: int | None, until: int | None) -> Query:
        """What was typed: ``dimension=value``, ``id=ID``, and words.

        Args:
            typed: each filter or word; ``org`` stands for ``organisation``.
            since: nanoseconds since the epoch, included.
            until: nanoseconds since the epoch, not included.

        Raises:
            ValueError: there is no such dimension, two ids, or what is not UTF-8.
        """
        terms: list[Term] = []
        words: list[str] = []
        names: list[str] = []
        for each in typed:
            if any("\ud800" <= char <= "\udfff" for char in each):
                raise ValueError("not UTF-8")
            found = _FILTER.fullmatch(each)
            if found is None:
                words.append(each)
                continue
            dimension, value = found.groups()
            if dimension == "id":
                names.append(value)
            elif dimension == "text":
                words.append(value)
            else:
                terms.append((_SHORT.get(dimension, dimension), value))
        if len(set(names)) > 1:
            raise ValueError("one id at a time")
        query = cls(
            terms=tuple(terms),
            text=" ".join(words),
            name="".join(names[:1]),
            since=0 if since is None else since,
            until=MAX_NS if until is None else until,
        )
        query.by_dimension()
        if words and not text_terms(query.text):
            raise ValueError("the text holds no word")
        return query

    def check(self) -> None:
        """Whether it can be asked.

        Raises:
            ValueError: a dimension does not exist, or the text holds no word.
        """
        self.by_dimension()
        if self.text:
            _match(self.text)

    def by_dimension(self) -> dict[str, list[str]]:
        """The wanted values of each dimension.

        Raises:
            ValueError: there is no such dimension.
        """
        wanted: dict[str, list[str]] = {}
        for dimension, value in self.terms:
            if dimension not in DIMENSIONS:
                known = ", ".join(["id", "text", *DIMENSIONS])
                raise ValueError(f"there is no filter {dimension!r}; there are: {known}")
            wanted.setdefault(dimension, []).append(value)
        return wanted

    def matches(self, record: Json, intent: Json | None) -> bool:
        """Whether a record is an answer, by its own words.

        Args:
            record: as stored.
            intent: the one that an ``access.outcome`` ends.
        """
        if self.name not in ("", record.get("request_id"), record.get("decision_id")):
            return False
        if not self.terms and not self.text:
            return True
        terms = set(terms_of(record, intent))
        words = words_of(record) if self.text else set()
        return all(
            any((dimension, value) in terms for value in wanted)
            for dimension, wanted in self.by_dimension().items()
        ) and all(
            word in words or (begins and any(each.startswith(word) for each in words))
            for word, begins in text_terms(self.text)
        )


class Hit(NamedTuple):
    """A record that was read in its log just now, and the proof that the log holds it."""

    id: int
    shard: str
    seq: int
    raw: bytes
    path: list[bytes]
    checkpoint: Checkpoint
    intent: dict[str, Any] | None
    """The intent that an ``access.outcome`` ends, read beside it and not proved."""

    def json(self) -> dict[str, Any]:
        """The record as plain values."""
        value: dict[str, Any] = msgspec.json.decode(self.raw)
        return value

    def proof(self) -> bytes:
        """The receipt (c2sp.org/tlog-proof)."""
        return format_proof(self.seq, self.path, self.checkpoint.note)


class Count(NamedTuple):
    """How many calls had a value, by effect, most first."""

    value: str
    calls: int
    effects: dict[str, int]


class _Place(NamedTuple):
    """Where the index says that a record lies."""

    id: int
    log: int
    seq: int
    segment: int
    offset: int


class Search:
    """Asks an index.

    Args:
        index: brought up to date by the caller, who also closes it.
        logs: all logs of the directory, by shard.
    """

    def __init__(self, index: Index, logs: dict[str, Log]) -> None:
        self._index = index
        self._logs = logs
        self._checkpoints: dict[int, tuple[str, Checkpoint]] = {}
        self._subtrees: dict[int, Subtree] = {}

    def hits(self, query: Query, *, before: int = MAX_NS, limit: int = 50) -> list[Hit]:
        """The latest records that match, latest first.

        Args:
            query: what is asked.
            before: only records with a smaller id: the last of the page before.
            limit: at most so many.

        Raises:
            ValueError: a dimension or the text is malformed.
            IndexDamaged: the index says what the logs do not.
            LogCorrupt: a record or a checkpoint is damaged.
            OSError: a log cannot be read.
        """
        query.check()
        with damaged_if_unreadable():
            hits = [self._proven(place, query) for place in self._places(query, before, limit)]
        if any(earlier.id <= later.id for earlier, later in pairwise(hits)) or len(
            {(hit.shard, hit.seq) for hit in hits}
        ) < len(hits):
            raise IndexDamaged("it has the same record twice")
        return hits

    def at(self, shard: str, seq: int) -> Hit | None:
        """The record at a leaf, proved; ``None`` if the log has none there.

        Raises:
            IndexDamaged: the index says what the logs do not.
            LogCorrupt: the record or a checkpoint is damaged.
            OSError: the log cannot be read.
        """
        with damaged_if_unreadable():
            found = self._index.database.execute(
                "SELECT r.id, r.log, r.seq, r.segment, r.offset FROM records AS r"
                " JOIN logs AS l ON l.id = r.log WHERE l.shard = ? AND r.seq = ?",
                (shard, seq),
            ).fetchone()
            return None if found is None else self._proven(_Place(*found), Query())

    def counts(self, dimension: str, query: Query, *, top: int = 20) -> list[Count]:
        """How many calls had each value of a dimension, and what became of them.

        Only a query by time and effect is counted exactly for any number of calls; one with other
        terms up to 10,000 records.

        Raises:
            ValueError: the dimension is not counted, or too many records match.
            IndexDamaged: the index cannot be read.
        """
        if dimension not in COUNTED:
            raise ValueError(f"{dimension!r} is not counted; these are: {', '.join(COUNTED)}")
        query.check()
        plain = not query.text and not query.name
        with damaged_if_unreadable():
            if plain and query.by_dimension().keys() <= {"effect"}:
                return self._rolled_up(dimension, query, top)
            return self._counted(dimension, query, top)

    def hours(self, since: int, until: int) -> dict[int, dict[str, int]]:
        """Calls by effect of each whole hour that begins in a time, by the hour's number.

        Args:
            since: clock, included.
            until: clock, not included.

        Raises:
            IndexDamaged: the index cannot be read.
        """
        found: dict[int, dict[str, int]] = {}
        with damaged_if_unreadable():
            # Every call of a known caller has exactly one subject, so counting by it counts calls.
            for hour, effect, calls in self._index.database.execute(
                "SELECT c.hour, e.value, sum(c.records) FROM counts AS c"
                " JOIN terms AS e ON e.id = c.effect"
                " WHERE c.dimension = 'subject' AND c.hour >= ? AND c.hour < ?"
                " GROUP BY c.hour, c.effect",
                (-(-since // HOUR_NS), -(-until // HOUR_NS)),
            ):
                found.setdefault(hour, {})[effect] = calls
        return found

    def known(self, dimension: str, *, top: int = 12) -> list[str]:
        """The values of a dimension, those of most records first.

        Raises:
            IndexDamaged: the index cannot be read.
        """
        with damaged_if_unreadable():
            return [
                str(row[0])
                for row in self._index.database.execute(
                    "SELECT value FROM terms WHERE dimension = ? AND records > 0"
                    " ORDER BY records DESC, value LIMIT ?",
                    (dimension, top),
                )
            ]

    def unknown(self, query: Query) -> list[Term]:
        """The terms of a query that no record has.

        Raises:
            IndexDamaged: the index cannot be read.
        """
        with damaged_if_unreadable():
            return [term for term in query.terms if not self._numbers(term[0], [term[1]])]

    # Where

    def _places(self, query: Query, before: int, limit: int) -> list[_Place]:
        clauses, values = self._conditions(query)
        if clauses is None:
            return []
        first, last = query.since, min(query.until, before) - 1
        driver, *rest = clauses
        where = " AND ".join(rest) if rest else "1"
        statement = (
            f"SELECT r.id, r.log, r.seq, r.segment, r.offset FROM ({driver}) AS d"
            # CROSS JOIN is SQLite's word for: in this order.
            f" CROSS JOIN records AS r ON r.id = d.record WHERE {where}"
            " ORDER BY d.record DESC LIMIT :limit"
        )
        bound = {**values, "first": first, "last": last, "limit": limit}
        return [_Place(*row) for row in self._index.database.execute(statement, bound)]

    def _conditions(self, query: Query) -> tuple[list[str] | None, dict[str, Any]]:
        """The rarest condition as a source of ids in descending order, the others as tests of
        ``r.id``; ``None`` where nothing can match."""
        values: dict[str, Any] = {}
        found: list[tuple[int, str, str]] = []  # records, as source, as test
        between = "BETWEEN :first AND :last"
        for at, (dimension, wanted) in enumerate(query.by_dimension().items()):
            terms = self._numbers(dimension, wanted)
            if not terms:
                return None, {}
            names = []
            for index, (number, _) in enumerate(terms):
                name = f"t{at}_{index}"
                values[name] = number
                names.append(f":{name}")
            sources = " UNION ".join(
                f"SELECT record FROM postings WHERE term = {name} AND record {between}"
                for name in names
            )
            test = (
                "EXISTS (SELECT 1 FROM postings AS p"
                f" WHERE p.term IN ({', '.join(names)}) AND p.record = r.id)"
            )
            found.append((sum(count for _, count in terms), sources, test))
        if query.name:
            values["name"] = query.name
            source = f"SELECT record FROM names WHERE name = :name AND record {between}"
            test = "EXISTS (SELECT 1 FROM names AS n WHERE n.name = :name AND n.record = r.id)"
            found.append((0, source, test))
        if query.text:
            values["words"] = _match(query.text)
            source = (
                f"SELECT rowid AS record FROM words WHERE words MATCH :words AND rowid {between}"
            )
            test = "EXISTS (SELECT 1 FROM words WHERE words MATCH :words AND rowid = r.id)"
            found.append((_FEW, source, test))
        if not found:
            beats = self._numbers("type", [HEARTBEAT])
            values["beat"] = beats[0][0] if beats else 0
            source = f"SELECT id AS record FROM records WHERE id {between} ORDER BY id DESC"
            # Heartbeats would drown the rest; they are found by their type.
            return [
                source,
                "NOT EXISTS (SELECT 1 FROM postings WHERE term = :beat AND record = r.id)",
            ], values
        found.sort(key=lambda each: each[0])
        return [
            f"{found[0][1]} ORDER BY record DESC",
            *(test for _, _, test in found[1:]),
        ], values

    def _numbers(self, dimension: str, wanted: Sequence[str]) -> list[tuple[int, int]]:
        """The terms that are known, and how many records have each."""
        return [
            row
            for value in dict.fromkeys(wanted)
            for row in self._index.database.execute(
                "SELECT id, records FROM terms WHERE dimension = ? AND value = ?",
                (dimension, value),
            )
        ]

    # Proof

    def _proven(self, place: _Place, query: Query) -> Hit:
        shard, checkpoint = self._checkpoint(place.log)
        reader = LogReader(self._logs[shard].directory)
        segment = segment_name(place.segment)
        raw = _pointed_at(reader, shard, place.seq, segment, place.offset)
        try:
            path = inclusion_path(self._subtree(place.log), place.seq, checkpoint.size)
        except ValueError as error:
            raise IndexDamaged(str(error)) from error
        leaf = leaf_hash(raw)
        if not verify_inclusion(leaf, place.seq, checkpoint.size, path, checkpoint.root):
            raise IndexDamaged(f"{shard}#{place.seq} is not what was signed")
        record = msgspec.json.decode(raw)
        if not 0 <= place.id - int(record["hlc"]) < _SHIFTED:
            raise IndexDamaged(f"it gives {shard}#{place.seq} another time than the record's")
        intent = self._intent(shard, place.log, record)
        hit = Hit(place.id, shard, place.seq, raw, path, checkpoint, intent)
        if not query.matches(record, intent):
            raise IndexDamaged(f"it says of {shard}#{place.seq} what the record does not")
        return hit

    def _checkpoint(self, number: int) -> tuple[str, Checkpoint]:
        """A log's shard, and the signed checkpoint that its tiles lead to."""
        if number not in self._checkpoints:
            shard, note = self._index.database.execute(
                "SELECT shard, checkpoint FROM logs WHERE id = ?", (number,)
            ).fetchone()
            try:
                checkpoint = parse_checkpoint(bytes(note), self._logs[shard].keys)
            except NoteError as error:
                raise IndexDamaged(f"its checkpoint of {shard}: {error}") from error
            self._checkpoints[number] = shard, checkpoint
        return self._checkpoints[number]

    def _subtree(self, log: int) -> Subtree:
        """The roots of a log's subtrees; the hits of a page share most of them."""
        if log not in self._subtrees:
            self._subtrees[log] = cache(
                subtree_of(lambda level, number: self._index.tile(log, level, number))
            )
        return self._subtrees[log]

    def _intent(self, shard: str, log: int, record: dict[str, Any]) -> dict[str, Any] | None:
        if record["type"] != "access.outcome":
            return None
        place = self._index.database.execute(
            "SELECT r.segment, r.offset FROM names AS n CROSS JOIN records AS r ON r.id = n.record"
            " WHERE n.name = ? AND r.log = ? AND r.seq = ?",
            (record["request_id"], log, record["parent"]),
        ).fetchone()
        if place is None:
            return None
        reader = LogReader(self._logs[shard].directory)
        where = _pointed_at(reader, shard, record["parent"], segment_name(place[0]), place[1])
        intent = msgspec.json.decode(where)
        if intent.get("request_id") != record["request_id"]:
            raise IndexDamaged(f"it gives {shard}#{record['seq']} an intent that is another call's")
        found: dict[str, Any] = intent
        return found

    # Counts

    def _rolled_up(self, dimension: str, query: Query, top: int) -> list[Count]:
        """Whole hours from the counts, the hours at both ends from their records."""
        first = -(-query.since // HOUR_NS)
        last = query.until // HOUR_NS
        effects = [number for number, _ in self._effects(query)]
        if query.by_dimension() and not effects:
            return []
        chosen = f" AND c.effect IN ({', '.join('?' * len(effects))})" if effects else ""
        if first > last:
            spans = [(query.since, query.until)]
        else:
            spans = [(query.since, first * HOUR_NS), (last * HOUR_NS, query.until)]
        # A call is counted where it was decided; how it ended stands in its outcome.
        calls = "" if dimension == "status" else " AND r.effect > 0"
        whole_hours = (
            "SELECT c.term, c.effect, c.records FROM counts AS c"
            f" WHERE c.dimension = ? AND c.hour >= ? AND c.hour < ?{chosen}"
        )
        parts = [whole_hours]
        values: list[Any] = [dimension, first, last, *effects]
        for start, end in spans:
            if start >= end:
                continue
            parts.append(
                "SELECT p.term, r.effect, 1 FROM records AS r"
                " JOIN terms AS t ON t.dimension = ?"
                " JOIN postings AS p ON p.term = t.id AND p.record = r.id"
                f" WHERE r.id >= ? AND r.id < ?{calls}" + chosen.replace("c.effect", "r.effect")
            )
            values += [dimension, start, end, *effects]
        return self._tallied(" UNION ALL ".join(parts), values, top)

    def _counted(self, dimension: str, query: Query, top: int) -> list[Count]:
        places = self._places(query, MAX_NS, _MATCHED + 1)
        if len(places) > _MATCHED:
            raise Unanswerable(
                f"more than {_MATCHED:,} records match: narrow it by time or a filter"
            )
        found: dict[str, Counter[str]] = {}
        for place in places:
            shard, _ = self._checkpoint(place.log)
            reader = LogReader(self._logs[shard].directory)
            segment = segment_name(place.segment)
            raw = _pointed_at(reader, shard, place.seq, segment, place.offset)
            record = msgspec.json.decode(raw)
            effect = effect_of(record)
            if effect or dimension == "status":
                for named, value in terms_of(record):
                    if named == dimension:
                        found.setdefault(value, Counter())[effect or "-"] += 1
        counts = [
            Count(value, effects.total(), dict(sorted(effects.items())))
            for value, effects in found.items()
        ]
        return sorted(counts, key=lambda count: (-count.calls, count.value))[:top]

    def _effects(self, query: Query) -> list[tuple[int, int]]:
        return self._numbers("effect", query.by_dimension().get("effect", []))

    def _tallied(self, statement: str, values: Sequence[Any], top: int) -> list[Count]:
        rows = self._index.database.execute(
            "WITH found (term, effect, records) AS (" + statement + "),"
            " most AS (SELECT term, sum(records) AS calls FROM found GROUP BY term"
            " ORDER BY calls DESC, term LIMIT ?)"
            " SELECT t.value, coalesce(e.value, ''), sum(f.records), m.calls FROM most AS m"
            " JOIN found AS f ON f.term = m.term JOIN terms AS t ON t.id = m.term"
            " LEFT JOIN terms AS e ON e.id = f.effect"
            " GROUP BY m.term, f.effect ORDER BY m.calls DESC, t.value, e.value",
            [*values, top],
        )
        found: dict[str, Count] = {}
        for value, effect, records, calls in rows:
            found.setdefault(value, Count(value, calls, {})).effects[effect or "-"] = records
        return list(found.values())


def _pointed_at(reader: LogReader, shard: str, seq: int, segment: str, offset: int) -> bytes:
    """The record that lies where the index says."""
    try:
        return reader.raw(segment, offset)
    except (LogCorrupt, OSError) as error:
        raise IndexDamaged(f"it says that {shard}#{seq} lies where it does not") from error


def _match(text: str) -> str:
    """The FTS5 query: every word in quotes, so that none is an operator.

    Raises:
        ValueError: there is no word in it.
    """
    words = [
        '"' + word.replace('"', '""') + '"' + ("*" if begins else "")
        for word, begins in text_terms(text)
    ]
    if not words:
        raise ValueError("the text holds no word")
    return " AND ".join(words)
