"""The registry and the policy as they were at one instant, from the control log alone. Pure.

The log's word is taken, not the registry's: of each row the latest record up to the instant counts,
and the row that is sealed beside it. An instant is compared with the records' hybrid clocks, which
grow whatever the wall clock did, and a record at that very instant is part of it.

What cannot be known is said, never guessed: a row that was recorded before rows were sealed, or
whose member was erased since, has no content here. What its records took away is known all the
same, because that is in their operations (``registry.findings.recorded``).

A row that was found changed from outside was left out, so it gave no access, from its finding until
it was stated anew, or until the next start, which looks at all rows again and records anew what it
finds within a moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from gateway.audit.read import Entry
from gateway.audit.records import (
    LogClosed,
    LogOpened,
    PolicyActivated,
    RegistryChanged,
    RegistryTampered,
    decode,
)
from gateway.audit.seal import SealError
from gateway.core.entities import Entity, Member
from gateway.registry.findings import Recorded, RowKey, recorded
from gateway.registry.rows import TYPES, Kind, digest_of
from gateway.registry.snapshot import Snapshot, delta_of

__all__ = ["Past", "PastReader", "PastRow", "SealKeys", "Unknown"]

Unknown = Literal["", "erased", "not sealed", "no key", "damaged"]
"""Why the content of a row cannot be told; empty where it can."""

_NEEDLES = (b'"registry.', b'"policy.activated"', b'"log.opened"', b'"log.closed"')
_NO_KEY = bytes(32)
"""Stands in the snapshot for each subject key: that there was one is all that is asked."""


@dataclass(frozen=True, slots=True)
class SealKeys:
    """What opens the sealed rows: members' keys by id, and the registry's own (``b""``: none)."""

    members: Mapping[str, bytes] = field(repr=False)
    rows: bytes = field(default=b"", repr=False)

    def of(self, member: str) -> bytes | None:
        """The key of what is sealed for a member, or for nobody."""
        return self.members.get(member) if member else self.rows or None


@dataclass(frozen=True, slots=True)
class PastRow:
    """One row at the instant.

    Args:
        kind: of the row.
        id: the row's.
        record: where the record lies that made it what it was (``origin#seq``).
        said: what its records say of it, whether or not it can be read.
        owner: the member whom it is about, as far as the record says.
        tiers: the levels in the record.
        entity: the row itself, or
        unknown: why it cannot be told.
        left_out: it was found changed from outside, and gave no access.
    """

    kind: Kind
    id: str
    record: str
    said: Recorded
    owner: str
    tiers: Mapping[str, int]
    entity: Entity | None
    unknown: Unknown
    left_out: bool

    @property
    def status(self) -> str:
        """Of the row, or else what the operations on it come to."""
        return self.said.status if self.entity is None else self.entity.status


@dataclass(frozen=True, slots=True)
class Past:
    """Registry and policy at one instant.

    Args:
        at: the instant, Unix nanoseconds.
        rows: every row that there was, by kind and id.
        snapshot: those that could be read and were believed, as a data worker would have had them.
        revision: the id of the active bundle; empty before the first.
        activated: where its record lies.
        running: whether the control process ran.
        records: how many records were read up to the instant.
    """

    at: int
    rows: Mapping[RowKey, PastRow]
    snapshot: Snapshot
    revision: str
    activated: str
    running: bool
    records: int


class PastReader:
    """Takes the records of the control log, in order, all of them: an erasure after the instant is
    why a row before it cannot be read.

    Args:
        at: the instant, Unix nanoseconds.
    """

    def __init__(self, at: int) -> None:
        self._at = at
        self._latest: dict[RowKey, tuple[Entry, RegistryChanged]] = {}
        self._said: dict[RowKey, Recorded] = {}
        self._left_out: set[RowKey] = set()
        self._erased: set[str] = set()
        self._activated: PolicyActivated | None = None
        self._running = False
        self._records = 0

    def take(self, entry: Entry) -> None:
        """Take the next record.

        Raises:
            ValueError: it is none that this version knows.
        """
        if not any(needle in entry.raw for needle in _NEEDLES):
            self._records += 1
            return
        record = decode(entry.raw)
        if isinstance(record, RegistryChanged) and record.op == "member.erase":
            self._erased.add(record.id)
        if int(record.hlc) > self._at:
            return
        self._records += 1
        match record:
            case RegistryChanged():
                key: RowKey = (record.kind, record.id)  # type: ignore[assignment]
                position = f"{record.log}#{record.seq}"
                before = self._said.get(key)
                self._said[key] = recorded(before, record.op, record.digest_after, position)
                self._latest[key] = (entry, record)
                self._left_out.discard(key)
            case RegistryTampered():
                self._left_out.add((record.kind, record.id))  # type: ignore[arg-type]
            case PolicyActivated():
                self._activated = record
            case LogOpened():
                self._running = True
                self._left_out.clear()
            case LogClosed():
                self._running = False
            case _:
                pass

    def past(self, keys: SealKeys) -> Past:
        """What there was, as far as these keys open it."""
        rows = {key: self._row(key, keys) for key in sorted(self._latest)}
        believed = [
            row.entity
            for row in rows.values()
            if row.entity is not None and not row.left_out and not _erased(row.entity)
        ]
        members = [each.id for each in believed if isinstance(each, Member)]
        snapshot = Snapshot()
        snapshot.apply(
            delta_of(None, 0, put=believed, subject_keys=dict.fromkeys(members, _NO_KEY))
        )
        active = self._activated
        return Past(
            at=self._at,
            rows=rows,
            snapshot=snapshot,
            revision=active.revision if active else "",
            activated=f"{active.log}#{active.seq}" if active else "",
            running=self._running,
            records=self._records,
        )

    def _row(self, key: RowKey, keys: SealKeys) -> PastRow:
        entry, record = self._latest[key]
        entity, unknown = self._opened(key[0], entry, record, keys)
        owner = record.sealed_for or (record.id if key[0] == "member" else "")
        return PastRow(
            kind=key[0],
            id=key[1],
            record=f"{record.log}#{record.seq}",
            said=self._said[key],
            owner=owner,
            tiers=record.tiers,
            entity=entity,
            unknown=unknown,
            left_out=key in self._left_out,
        )

    def _opened(
        self, kind: Kind, entry: Entry, record: RegistryChanged, keys: SealKeys
    ) -> tuple[Entity | None, Unknown]:
        if record.sealed_for in self._erased:
            return None, "erased"
        if record.facts is None or entry.sealed is None:
            return None, "erased" if record.id in self._erased else "not sealed"
        key = keys.of(record.sealed_for)
        if key is None:
            return None, "no key"
        try:
            body = entry.facts(key).decode()
            entity: Entity = msgspec.json.decode(body, type=TYPES[kind])
        except (SealError, ValueError):
            return None, "damaged"
        if digest_of(kind, body) != record.digest_after or entity.id != record.id:
            return None, "damaged"
        return entity, ""


def _erased(entity: Entity) -> bool:
    return isinstance(entity, Member) and entity.erased
