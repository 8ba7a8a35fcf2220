"""What reviewers have done about calls: taken, noted, settled, put into cases.

Pure. The state is folded from the control log's own records and is nothing beside them, so it is
the same after a restart and nobody can change it unrecorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from gateway.audit.records import Span
from gateway.core.clock import parse_rfc3339_ns

__all__ = ["CODES", "Case", "Reviews", "Step"]

Json = Mapping[str, Any]

CODES = {
    "as-intended": "the rules did what they should",
    "false-positive": "a refusal that should not have been",
    "misuse": "used against its purpose",
    "mistake": "an honest mistake of the caller",
    "fault": "a fault of ours",
}
"""How something is settled."""
_SETTLING = frozenset({"resolved", "opened", "extended"})
"""Steps after which a call does not wait at the desk any more."""


class Step(Struct, frozen=True):
    """One thing that somebody did. ``kind`` is the record's type after its dot; ``value`` the code,
    or to whom, or the case."""

    kind: str
    actor: str
    time: str
    value: str
    text: str
    since: int
    until: int
    at: int
    """When it was done, Unix nanoseconds."""


class Case(Struct, frozen=True):
    """Something that is looked into more closely. ``closed`` is its code, empty while open."""

    id: str
    opened_by: str
    opened_at: str
    title: str
    spans: tuple[Span, ...]
    closed: str = ""
    closed_by: str = ""
    outcome: str = ""

    def holds(self, subject: str, at: int) -> bool:
        """Whether a call of a caller, at a clock, belongs to it."""
        return any(
            span.subject == subject and int(span.since) <= at <= int(span.until)
            for span in self.spans
        )


class Reviews:
    """All steps, by caller; and all cases."""

    def __init__(self) -> None:
        self.cases: dict[str, Case] = {}
        self._steps: dict[tuple[str, str], list[Step]] = {}

    def apply(self, record: Json) -> None:
        """One record more; records of other kinds change nothing."""
        kind = str(record["type"])
        if kind.startswith("case."):
            self._case(kind, record)
        if "span" in record and kind.startswith(("review.", "case.")):
            span = record["span"]
            value = record.get("code", "") or record.get("to", "") or record.get("case", "")
            self._steps.setdefault((span["subject"], span["credential"]), []).append(
                Step(
                    kind.partition(".")[2],
                    record["actor"],
                    record["time"],
                    value,
                    record.get("reason", ""),
                    int(span["since"]),
                    int(span["until"]),
                    parse_rfc3339_ns(record["time"]),
                )
            )

    def _case(self, kind: str, record: Json) -> None:
        name = record["case"]
        if kind == "case.closed":
            case = self.cases[name]
            if case.closed:
                return
            self.cases[name] = msgspec.structs.replace(
                case,
                closed=record["code"],
                closed_by=record["actor"],
                outcome=record.get("reason", ""),
            )
            return
        span = msgspec.convert(record["span"], Span)
        if kind == "case.opened":
            title = record.get("reason", "")
            self.cases[name] = Case(name, record["actor"], record["time"], title, (span,))
        else:
            case = self.cases[name]
            self.cases[name] = msgspec.structs.replace(case, spans=(*case.spans, span))

    def steps(self, subject: str, credential: str, since: int, until: int) -> Sequence[Step]:
        """What was done about calls of a time, in order."""
        return [
            step
            for step in self._steps.get((subject, credential), ())
            if step.since <= until and step.until >= since
        ]

    def settled(self, subject: str, credential: str, at: int, end: int) -> bool:
        """Whether the call that began at a clock was settled or put into a case; not by a step from
        before its end, which whoever took it did not know."""
        return any(
            step.kind in _SETTLING and step.since <= at <= step.until and end <= step.at
            for step in self._steps.get((subject, credential), ())
        )

    def assignee(self, subject: str, credential: str, at: int) -> str:
        """Who has taken the call at a clock; empty if nobody has."""
        taken = [
            step.value
            for step in self._steps.get((subject, credential), ())
            if step.kind == "assigned" and step.since <= at <= step.until
        ]
        return taken[-1] if taken else ""
