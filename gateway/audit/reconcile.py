"""A provider's report of its calls held against the log: what either side lacks. Pure.

The two are joined on the endpoint's own request id, wherever in the log it stands. The period only
decides what is said: a call of which one side has nothing is a finding if it lies inside.

* A row of the report lies inside by its time; one without a time does, or does as its call.
* A call of the log lies inside if it began and ended there: which of the two times a provider
  tells differs, and a call across the border would be missed by a report that is right.

A gateway that was got round cannot record that it was, but the provider counts on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import msgspec

from gateway.audit.provider_usage import Row
from gateway.audit.records import AccessIntent, AccessOutcome
from gateway.core.clock import rfc3339_ns

__all__ = ["MAX_UNREPORTED", "Finding", "Kind", "Reconciliation", "call_of", "reconciled"]

MAX_UNREPORTED: Final = 100_000
"""Calls named that the report lacks; more of them are counted. Memory is bounded by these and by
the report's rows, however long the log is."""
_MARKS: Final = (b'"type":"access.intent"', b'"type":"access.outcome"')
"""How a record of a call reads: keys are sorted, without white space, and a quotation mark inside
a text is escaped."""
_UNITS: Final = (1_000_000_000, 1_000_000, 1_000)
_KNOWN: Final = ("upstream", "none")
"""Where a record's tokens are the endpoint's own count, or nothing was used; of an answer that
broke off the rest is unknown here."""


class Kind(StrEnum):
    """What is wrong with a call, the gravest first."""

    NOT_IN_LOG = "not in the log"
    DIFFERS = "differs"
    TWICE = "twice"
    NOT_IN_REPORT = "not in the report"


@dataclass(frozen=True, slots=True)
class Finding:
    """One call on which the two sides do not agree.

    ``id`` is the endpoint's request id, ``request_id`` the gateway's; ``lines`` are those of the
    report, ``records`` those of the log as ``shard#seq``. ``differences`` holds what the report
    and the log say.
    """

    kind: Kind
    id: str
    lines: tuple[int, ...] = ()
    records: tuple[str, ...] = ()
    request_id: str = ""
    time: str = ""
    model: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None
    status: str = ""
    differences: dict[str, tuple[str | int, str | int]] = field(default_factory=dict)


@dataclass(slots=True)
class Reconciliation:
    """What was found, and how much was looked at.

    Args:
        since: the period's begin in nanoseconds since the epoch, included; ``None`` without one.
        until: its end, not included.
        rows: of the report.
        outcomes: of the log, by the endpoint asked for or in the report.
        joined: calls inside the period that both sides have.
        uncompared: those of them whose tokens are not known on both sides.
        rows_outside: rows outside the period.
        outcomes_outside: calls of the log outside the period, and left out.
        unjoinable: calls that ended without the endpoint's request id.
        unjoinable_answered: those of them that the endpoint answered with tokens.
        without_tokens: calls that the report lacks, and that brought no tokens.
        running: calls without an outcome by now; they cannot be joined yet.
        unnamed: calls that the report lacks beyond ``MAX_UNREPORTED``.
        endpoints: how many calls ended at each, whichever was asked for.
    """

    since: int | None = None
    until: int | None = None
    rows: int = 0
    outcomes: int = 0
    joined: int = 0
    uncompared: int = 0
    rows_outside: int = 0
    outcomes_outside: int = 0
    unjoinable: int = 0
    unjoinable_answered: int = 0
    without_tokens: int = 0
    running: int = 0
    unnamed: int = 0
    endpoints: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    @property
    def agree(self) -> bool:
        """Whether both sides tell the same."""
        return not self.findings


def call_of(raw: bytes) -> AccessIntent | AccessOutcome | None:
    """A record of a call, or ``None`` for any other.

    Raises:
        ValueError: it is not of its shape.
    """
    if not any(mark in raw for mark in _MARKS):
        return None
    try:
        return _decoder.decode(raw)
    except msgspec.DecodeError as error:
        raise ValueError(f"not the record of a call: {error}") from None


def reconciled(
    rows: Iterable[Row],
    records: Iterable[tuple[str, AccessIntent | AccessOutcome]],
    *,
    since: int | None = None,
    until: int | None = None,
    endpoint: str = "",
) -> Reconciliation:
    """Hold a report against the logs.

    Args:
        rows: the report.
        records: each with its shard, in a shard's order; all of the log, whatever the period.
        since: nanoseconds since the epoch; by default the first time in the report.
        until: not included; by default just after the last time in the report.
        endpoint: the one that the report is of: a call to another need not be in it, though it
            may. By default the report is of all.
    """
    run = _Run(list(rows), since, until, endpoint)
    for shard, record in records:
        if isinstance(record, AccessIntent):
            run.open[shard, record.request_id] = record
        else:
            run.outcome(shard, record)
    return run.finish()


@dataclass(frozen=True, slots=True)
class _Call:
    """A call as the log tells its end."""

    position: str
    record: AccessOutcome
    inside: bool

    @property
    def id(self) -> str:
        return self.record.upstream.request_id if self.record.upstream is not None else ""

    @property
    def answered(self) -> bool:
        """Whether the endpoint answered 2xx, with tokens: the provider has to know of it."""
        upstream, tokens = self.record.upstream, self.record.tokens
        if upstream is None or tokens is None:
            return False
        return 200 <= upstream.status < 300 and tokens.input + tokens.output > 0  # noqa: PLR2004

    def finding(self, kind: Kind, *more: str) -> Finding:
        tokens, upstream = self.record.tokens, self.record.upstream
        return Finding(
            kind,
            self.id,
            records=(*more, self.position),
            request_id=self.record.request_id,
            time=self.record.time,
            model=self.record.served_model,
            input_tokens=tokens.input if tokens is not None else None,
            output_tokens=tokens.output if tokens is not None else None,
            status=str(upstream.status) if upstream is not None else "",
        )


class _Run:
    """What is known while the log is read."""

    def __init__(
        self, rows: list[Row], since: int | None, until: int | None, endpoint: str
    ) -> None:
        first, last = _span(rows)
        self.found = Reconciliation(
            since=first if since is None else since,
            until=last if until is None else until,
            rows=len(rows),
        )
        self.endpoint = endpoint
        self.open: dict[tuple[str, str], AccessIntent] = {}
        self.rows: dict[str, Row] = {}
        self.joined: dict[str, str] = {}
        self.unreported: dict[str, str] = {}
        for row in rows:
            self._row(row)

    def _row(self, row: Row) -> None:
        inside = row.time is None or self._inside(row.time, row.time)
        self.found.rows_outside += not inside
        before = self.rows.get(row.id)
        if before is None:
            self.rows[row.id] = row
        elif inside:
            self.found.findings.append(_of_row(Kind.TWICE, row, before.line))

    def outcome(self, shard: str, record: AccessOutcome) -> None:
        """One call has ended."""
        found = self.found
        intent = self.open.pop((shard, record.request_id), None)
        meant = intent.model.endpoint if intent is not None else ""
        endpoint = record.upstream.endpoint if record.upstream is not None else meant
        found.endpoints[endpoint] += 1
        begun = int((intent or record).hlc)
        inside = self._inside(begun, int(record.hlc))
        call = _Call(f"{shard}#{record.seq}", record, inside)
        row = self.rows.get(call.id) if call.id else None
        if row is None and self.endpoint not in ("", endpoint):
            return
        found.outcomes += 1
        if row is not None:
            self._pair(row, call)
        elif not inside:
            found.outcomes_outside += 1
        elif not call.id:
            found.unjoinable += 1
            found.unjoinable_answered += call.answered
        elif call.answered:
            self._unreported(call)
        else:
            found.without_tokens += 1

    def _pair(self, row: Row, call: _Call) -> None:
        found = self.found
        inside = call.inside if row.time is None else self._inside(row.time, row.time)
        before = self.joined.setdefault(row.id, call.position)
        if not inside:
            found.outcomes_outside += 1
        elif before != call.position:
            found.findings.append(call.finding(Kind.TWICE, before))
        else:
            found.joined += 1
            self._compare(row, call)

    def _compare(self, row: Row, call: _Call) -> None:
        tokens, served = call.record.tokens, call.record.served_model
        told: list[tuple[str, str | int | None, str | int | None]] = [
            ("model", row.model or None, served or None)
        ]
        if tokens is not None and tokens.usage_source in _KNOWN:
            told.append(("input_tokens", row.input_tokens, tokens.input))
            told.append(("output_tokens", row.output_tokens, tokens.output))
        known = {
            name: (theirs, ours)
            for name, theirs, ours in told
            if theirs is not None and ours is not None
        }
        self.found.uncompared += not {"input_tokens", "output_tokens"} <= known.keys()
        differences = {name: both for name, both in known.items() if both[0] != both[1]}
        if differences:
            self.found.findings.append(_of_row(Kind.DIFFERS, row, call=call, says=differences))

    def _unreported(self, call: _Call) -> None:
        if len(self.unreported) >= MAX_UNREPORTED:
            self.found.unnamed += 1
            return
        before = self.unreported.setdefault(call.id, call.position)
        if before == call.position:
            self.found.findings.append(call.finding(Kind.NOT_IN_REPORT))
        else:
            self.found.findings.append(call.finding(Kind.TWICE, before))

    def finish(self) -> Reconciliation:
        """The log has been read to its end."""
        found = self.found
        for row in self.rows.values():
            inside = row.time is None or self._inside(row.time, row.time)
            if inside and row.id not in self.joined:
                found.findings.append(_of_row(Kind.NOT_IN_LOG, row))
        found.running = sum(
            self.endpoint in ("", intent.model.endpoint) for intent in self.open.values()
        )
        order = list(Kind)
        found.findings.sort(key=lambda finding: order.index(finding.kind))
        return found

    def _inside(self, begun: int, ended: int) -> bool:
        since, until = self.found.since, self.found.until
        return (since is None or begun >= since) and (until is None or ended < until)


def _of_row(
    kind: Kind,
    row: Row,
    *more: int,
    call: _Call | None = None,
    says: dict[str, tuple[str | int, str | int]] | None = None,
) -> Finding:
    return Finding(
        kind,
        row.id,
        lines=(*more, row.line),
        records=(call.position,) if call is not None else (),
        request_id=call.record.request_id if call is not None else "",
        time=rfc3339_ns(row.time) if row.time is not None else "",
        model=row.model,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        status=row.status,
        differences=says or {},
    )


def _span(rows: list[Row]) -> tuple[int | None, int | None]:
    """The first time, and just after the last: a report in whole seconds ends with its second."""
    times = [row.time for row in rows if row.time is not None]
    if not times:
        return None, None
    unit = next((unit for unit in _UNITS if not any(time % unit for time in times)), 1)
    return min(times), max(times) + unit


_decoder: msgspec.json.Decoder[AccessIntent | AccessOutcome] = msgspec.json.Decoder(
    AccessIntent | AccessOutcome
)
