"""Whether a log leaves out anything: what its records themselves say of that. Pure.

One pass over one log, whose memory is the calls that run at once. Looked for:

* indices follow each other from 0 on;
* every process opens the log before it writes, and writes nothing after it has closed it;
* every intent has exactly one outcome; those open at the end of a log that is not closed run;
* a heartbeat every few seconds from open to close: where there is none, calls could have passed
  unseen. Times between records are those of the process's monotonic clock, which nobody sets;
* the log's public key is there.

Not findings, but told: unclean starts, logs that stopped, recoveries, clocks that ran backwards.
Whether the bytes are those that were signed is ``verify``'s matter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

import msgspec

from gateway.audit.terms import effect_of

__all__ = [
    "BEATS_MISSED",
    "MAX_NAMED",
    "Kind",
    "Notice",
    "ShardReport",
    "logs_missing",
    "shard_report",
]

BEATS_MISSED: Final = 3
"""Heartbeat intervals without a heartbeat that are no silence yet."""
MAX_NAMED: Final = 1000
"""Findings of one log that are named, and events; the rest are counted."""
_NS: Final = 1_000_000_000
_BEATS: Final = frozenset({"log.opened", "log.heartbeat", "log.closed"})


class Kind(StrEnum):
    """What a notice is about. The first are findings, the others events."""

    UNREADABLE = "unreadable"
    GAP = "gap"
    ORDER = "order"
    INTENT = "intent without outcome"
    OUTCOME = "outcome without intent"
    SILENCE = "silence"
    KEY = "public key"
    MISSING = "log missing"
    UNCLEAN = "unclean start"
    RECOVERED = "recovered"
    CLOCK = "clock ran backwards"
    STOPPED = "stopped without a close"


class Notice(NamedTuple):
    """What was noticed, and where: ``seq`` and ``time`` (RFC 3339) are those of the record at
    which it begins; -1 and empty where there is none."""

    kind: Kind
    shard: str
    seq: int
    time: str
    what: str


@dataclass(slots=True)
class ShardReport:
    """What one log says of itself in the period asked for.

    Args:
        shard: its name.
        records: how many lie in the period; ``first``, ``last`` and their times are theirs.
        closed: whether the log ends with a close.
        running: intents without an outcome at the end of a log that is not closed.
        opens: processes that began to write, ``clean_opens`` of them after a close.
        closes: processes that ended in order.
        types: records by type.
        effects: calls by effect; ``refused`` is by something else than the policy.
        findings: what makes the log incomplete; ``unnamed`` are further ones.
        events: what happened, and is no finding; ``unnamed_events`` are further ones.
    """

    shard: str
    records: int = 0
    first: int | None = None
    last: int | None = None
    first_time: str = ""
    last_time: str = ""
    closed: bool = False
    running: int = 0
    opens: int = 0
    clean_opens: int = 0
    closes: int = 0
    types: Counter[str] = field(default_factory=Counter)
    effects: Counter[str] = field(default_factory=Counter)
    findings: list[Notice] = field(default_factory=list)
    events: list[Notice] = field(default_factory=list)
    unnamed: int = 0
    unnamed_events: int = 0

    @property
    def complete(self) -> bool:
        """Whether there is no finding."""
        return not self.findings


class _Record(msgspec.Struct, frozen=True):
    """What of a record is looked at here, whatever its type."""

    type: str
    seq: int
    time: str
    hlc: str
    boot: str = ""
    mono: str = "0"
    clock: str = ""
    request_id: str = ""
    parent: int = -1
    clean: bool = True
    key_id: str = ""
    torn_bytes: int = 0
    orphans: int = 0
    decision: dict[str, Any] = {}

    @property
    def at(self) -> int:
        """Nanoseconds since the epoch."""
        return int(self.hlc)


def shard_report(
    shard: str,
    records: Iterable[bytes],
    *,
    heartbeat_s: float,
    vkey: str = "",
    since: int | None = None,
    until: int | None = None,
    now: int | None = None,
) -> ShardReport:
    """What a log says of itself. All of it is read, whatever the period.

    Args:
        shard: its name.
        records: their exact bytes, from the first on.
        heartbeat_s: the gateway's interval.
        vkey: the log's public key, if there is one.
        since: nanoseconds since the epoch, included. What began earlier and lasted is told.
        until: nanoseconds since the epoch, not included.
        now: nanoseconds since the epoch, where it is known that the log is read to its end now.
    """
    run = _Run(shard, heartbeat_s, since, until)
    for raw in records:
        run.add(raw)
    return run.finish(vkey, now)


def logs_missing(shards: Iterable[str], vkeys: Iterable[str]) -> list[Notice]:
    """A finding for each log whose public key is there, and which is not."""
    what = "its public key is here, and the log is not"
    return [Notice(Kind.MISSING, shard, -1, "", what) for shard in sorted({*vkeys} - {*shards})]


class _Run:
    """One pass over one log."""

    def __init__(
        self, shard: str, heartbeat_s: float, since: int | None, until: int | None
    ) -> None:
        self.report = ShardReport(shard)
        self.limit = int(BEATS_MISSED * heartbeat_s * _NS)
        self.since, self.until = since, until
        self.before: _Record | None = None
        self.place = 0
        self.opened: _Record | None = None
        self.beat: _Record | None = None
        self.open: dict[str, _Record] = {}
        self.regressed: tuple[_Record, int] | None = None

    def add(self, raw: bytes) -> None:
        """The next record."""
        try:
            record = _decoder.decode(raw)
            int(record.hlc), int(record.mono)
        except (msgspec.DecodeError, ValueError):
            self._unreadable()
            return
        self._place(record)
        self._process(record)
        self._life(record)
        self._call(record)
        self._clock(record)
        self._count(record)
        self.before = record

    def finish(self, vkey: str, now: int | None) -> ShardReport:
        """The log has been read to its end."""
        report, last = self.report, self.before
        if last is None:
            self._found(Kind.GAP, None, "there is no record in it")
        self._silence(last)
        self._clock(None)
        report.closed = last is not None and last.type == "log.closed"
        if report.closed:
            for intent in self.open.values():
                self._found(Kind.INTENT, intent, "the log was closed, and its call has no outcome")
        else:
            report.running = len(self.open)
            if last is not None and now is not None and now - last.at > self.limit:
                what = "this is the last record: the process broke off, or it hangs"
                self._event(Kind.STOPPED, last, what, msgspec.structs.replace(last, hlc=str(now)))
        self._key(vkey)
        return report

    def _unreadable(self) -> None:
        time = self.before.time if self.before is not None else ""
        what = "not a record of audit/1; its time is that of the record before"
        self._name(Notice(Kind.UNREADABLE, self.report.shard, self.place, time, what))
        self.place += 1

    def _place(self, record: _Record) -> None:
        if self.before is None and record.seq != self.place:
            what = f"the log begins with #{record.seq}: what was before is not here"
            self._found(Kind.GAP, record, what)
        elif self.before is not None and record.seq != self.place:
            missing = record.seq - self.place
            lacking = f"{missing} missing" if missing > 0 else "out of order"
            what = f"the next record is #{record.seq}: {lacking}"
            self._found(Kind.GAP, self.before, what, record)
        self.place = record.seq + 1

    def _process(self, record: _Record) -> None:
        """Open, then records of one process, then close."""
        before = self.before
        if record.type == "log.opened":
            ended = before is None or before.type == "log.closed"
            if record.clean and not ended:
                what = "it says that the process before ended in order; there is no log.closed"
                self._found(Kind.ORDER, record, what)
            return
        if before is None:
            self._found(Kind.ORDER, record, "the log does not begin with log.opened")
        elif before.type == "log.closed":
            self._found(Kind.ORDER, record, "written after log.closed")
        elif before.boot != record.boot:
            self._found(Kind.ORDER, record, "another process writes, without log.opened")

    def _life(self, record: _Record) -> None:
        """Heartbeats, from open to close."""
        if record.type == "log.opened":
            self._silence(self.before)
            self.beat = self.opened = record
        elif record.type in _BEATS:
            self._silence(record)
            self.beat = record

    def _silence(self, until: _Record | None) -> None:
        """Whether too long passed since the last beat; ``until`` is of the same process or none."""
        beat = self.beat
        if beat is None or until is None or beat.boot != until.boot:
            return
        passed = int(until.mono) - int(beat.mono)
        if passed > self.limit:
            others = until.seq - beat.seq - (until.type in _BEATS)
            what = f"no heartbeat for {passed / _NS:.1f} s, and {others} other records, to "
            self._found(Kind.SILENCE, beat, f"{what}#{until.seq} at {until.time}", until)

    def _call(self, record: _Record) -> None:
        if record.type == "access.intent":
            before = self.open.pop(record.request_id, None)
            if before is not None:
                what = f"#{record.seq} is a second intent of {record.request_id}"
                self._found(Kind.INTENT, before, what)
            self.open[record.request_id] = record
        elif record.type == "access.outcome":
            intent = self.open.pop(record.request_id, None)
            if intent is None:
                what = f"of {record.request_id}: it has no intent, or a second outcome"
                self._found(Kind.OUTCOME, record, what)
            elif intent.seq != record.parent:
                what = f"its intent is #{intent.seq}, and it says #{record.parent}"
                self._found(Kind.OUTCOME, record, what)

    def _clock(self, record: _Record | None) -> None:
        """One event for each time that the wall clock stood before an earlier record's."""
        if record is not None and record.clock == "regressed":
            begun, count = self.regressed or (record, 0)
            self.regressed = begun, count + 1
        elif self.regressed is not None:
            begun, count = self.regressed
            what = f"{count} records until it had caught up"
            self._event(Kind.CLOCK, begun, what, self.before)
            self.regressed = None

    def _count(self, record: _Record) -> None:
        report = self.report
        if not self._inside(record, record):
            return
        report.records += 1
        if report.first is None:
            report.first, report.first_time = record.seq, record.time
        report.last, report.last_time = record.seq, record.time
        report.types[record.type] += 1
        effect = effect_of({"type": record.type, "decision": record.decision})
        if effect:
            report.effects[effect] += 1
        report.closes += record.type == "log.closed"
        if record.type == "log.opened":
            report.opens += 1
            report.clean_opens += record.clean
            if not record.clean:
                self._event(Kind.UNCLEAN, record, "the process before did not close the log")
        elif record.type == "log.recovered":
            what = f"{record.torn_bytes} torn bytes cut off, {record.orphans} open calls ended"
            self._event(Kind.RECOVERED, record, what)

    def _key(self, vkey: str) -> None:
        parts = vkey.split("+")
        if not vkey:
            self._found(Kind.KEY, self.opened, "there is none: nobody can check its signatures")
        elif self.opened is not None and self.opened.key_id not in parts[1:2]:
            what = f"the log is signed by {self.opened.key_id}, which is not the key that is here"
            self._found(Kind.KEY, self.opened, what)

    def _found(
        self, kind: Kind, record: _Record | None, what: str, end: _Record | None = None
    ) -> None:
        if kind is Kind.KEY or record is None or self._inside(record, end or record):
            self._name(self._notice(kind, record, what))

    def _name(self, finding: Notice) -> None:
        report = self.report
        if len(report.findings) < MAX_NAMED:
            report.findings.append(finding)
        else:
            report.unnamed += 1

    def _event(self, kind: Kind, record: _Record, what: str, end: _Record | None = None) -> None:
        report = self.report
        if not self._inside(record, end or record):
            return
        if len(report.events) < MAX_NAMED:
            report.events.append(self._notice(kind, record, what))
        else:
            report.unnamed_events += 1

    def _notice(self, kind: Kind, record: _Record | None, what: str) -> Notice:
        seq, time = (record.seq, record.time) if record is not None else (-1, "")
        return Notice(kind, self.report.shard, seq, time, what)

    def _inside(self, begin: _Record, end: _Record) -> bool:
        """Whether some of it lies in the period."""
        return (self.since is None or end.at >= self.since) and (
            self.until is None or begin.at < self.until
        )


_decoder = msgspec.json.Decoder(_Record)
