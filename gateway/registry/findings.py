"""What can be wrong with a stored row, and how an operator mends it.

Pure. Rows are held against the log: for each row the log's latest record names position and
digest, and a row that is not exactly what was recorded is left out. That only ever takes access
away, whoever changed the row, and whether he restored an older one that once was valid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from msgspec import Struct

from gateway.registry.rows import Kind, Row, digest_of, entity_of

__all__ = [
    "Finding",
    "Latest",
    "Recorded",
    "RowKey",
    "changed_row",
    "check_rows",
    "finding",
    "recorded",
]

RowKey = tuple[Kind, str]


class Recorded(Struct, frozen=True):
    """What the log says of a row: its latest digest and position (``origin#seq``), and what its
    records took away, which no row that was lost or made anew gives back."""

    digest: str
    record: str
    status: str = "active"
    held: bool = False
    erased: bool = False


Latest = Mapping[RowKey, Recorded]
"""The log's word on each row."""

_STATUS_AFTER = {
    "suspend": "suspended",
    "resume": "active",
    "revoke": "revoked",
    "withdraw": "withdrawn",
}


def recorded(before: Recorded | None, operation: str, digest: str, record: str) -> Recorded:
    """The log's word on a row after one more record of it; an ``add`` over an earlier record
    restates the row and changes nothing of what was taken."""
    verb = operation.rpartition(".")[2]
    known = before or Recorded("", "")
    held = verb == "hold" or (known.held and verb != "release")
    return Recorded(
        digest,
        record,
        status=_STATUS_AFTER.get(verb, known.status),
        held=held,
        erased=known.erased or verb == "erase",
    )


Code = Literal[
    "registry.tampered",
    "registry.lost",
    "registry.unrecorded",
    "registry.replaced",
    "registry.unreadable",
]

_MESSAGES: dict[Code, str] = {
    "registry.tampered": "The row was changed outside the gateway; it is left out, so it denies.",
    "registry.lost": (
        "The log records a change that the row does not show: the gateway died between the two, "
        "or an older row was put back. It is left out, so it denies."
    ),
    "registry.unrecorded": "No record in the log made this row; it is left out, so it denies.",
    "registry.replaced": (
        "The registry's file was replaced or removed while it was open. What was recorded goes on "
        "in memory; changes are refused."
    ),
    "registry.unreadable": "The registry's file cannot be read. What was recorded goes on.",
}
_FILE_REMEDY = "Put the file back from a copy you trust and restart the control process."
_REMEDIES: dict[Kind, str] = {
    "organisation": "Find out who wrote to the file; then state it anew: sluicegate org add {id}",
    "member": "Find out who wrote to the file; then state him anew: sluicegate member add {id}",
    "credential": "Find out who wrote to the file; then issue a new key: sluicegate key add",
    "issuer": "Find out who wrote to the file; then state it anew: sluicegate issuer add {id}",
}


class Finding(Struct, frozen=True):
    """One thing that is wrong. ``kind`` and ``id`` are empty where it is the whole file."""

    code: Code
    message: str
    remedy: str
    kind: Kind | Literal[""] = ""
    id: str = ""


def finding(code: Code, key: RowKey | None = None) -> Finding:
    """The finding of this code about a row, or about the file."""
    if key is None:
        return Finding(code, _MESSAGES[code], _FILE_REMEDY)
    kind, entity_id = key
    # An id that was changed by hand may be any text; it is shown as ASCII, and not all of it.
    shown = ascii(entity_id)[1:65].rstrip("'")
    return Finding(code, _MESSAGES[code], _REMEDIES[kind].format(id=shown), kind, shown)


def check_rows(
    rows: Iterable[Row], latest: Latest, genuine: Callable[[Row], bool]
) -> tuple[dict[RowKey, Row], list[Finding]]:
    """Sort stored rows into those to believe and findings.

    Args:
        rows: all rows of the file.
        latest: what the log says of each.
        genuine: whether a row's MAC is good.
    """
    believed: dict[RowKey, Row] = {}
    findings: list[Finding] = []
    seen: set[RowKey] = set()
    for row in rows:
        key = (row.kind, row.id)
        seen.add(key)
        code = _fault(row, latest.get(key), genuine)
        if code is None:
            believed[key] = row
        else:
            findings.append(finding(code, key))
    findings += [finding("registry.lost", key) for key in latest if key not in seen]
    return believed, findings


def changed_row(row: Row | None, genuine: Callable[[Row], bool]) -> Code:
    """What to call a row that differs from what is in memory, or is gone."""
    return "registry.lost" if row is not None and genuine(row) else "registry.tampered"


def _fault(row: Row, known: Recorded | None, genuine: Callable[[Row], bool]) -> Code | None:
    if not genuine(row):
        return "registry.tampered"
    if known is None:
        return "registry.unrecorded"
    if (known.digest, known.record) != (digest_of(row.kind, row.body), row.record):
        return "registry.lost"
    try:
        entity_of(row)
    except ValueError:
        return "registry.tampered"
    return None
