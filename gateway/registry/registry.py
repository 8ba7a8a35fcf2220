"""The registry as the control process keeps it: every change recorded, every row suspected.

The order of a change is: check it, make its record durable in the log, write the row with the
record's position and a MAC, then change the snapshot and tell the listeners. So nothing takes
effect without its record. The row is sealed beside its record, under a key that is kept first: a
key without a member gives nobody anything. If the process dies between record and row, the row no
longer matches the log at the next start and is left out until an operator states it anew.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from gateway.core.clock import timestamp
from gateway.core.entities import Credential, Entity, Member
from gateway.core.protocols import Position
from gateway.registry.changes import (
    Applied,
    Change,
    apply,
    check_ahead,
    check_author,
    notes,
    restated,
)
from gateway.registry.findings import (
    Finding,
    Latest,
    RowKey,
    changed_row,
    check_rows,
    finding,
    recorded,
)
from gateway.registry.mac import MacKey, load_secret
from gateway.registry.rows import Row, body_of, digest_of, entity_of
from gateway.registry.snapshot import Delta, Snapshot, delta_of
from gateway.registry.store import Store, StoreUnavailable
from gateway.registry.subject_keys import new_subject_key, unwrap, wrap

__all__ = ["Append", "ChangeRecord", "Changed", "Registry", "RegistryUnavailable"]

MAC_KEY_FILE = "registry-mac.key"
MASTER_KEY_FILE = "subject-master.key"
ROW_KEY_FILE = "registry-rows.key"
"""Seals the rows that are nobody's own, beside their records."""
DESTROYED = b""
"""What stands in the place of the wrapped key of a member who was erased."""
POLL_S = 1.0
"""How often the file is looked at for changes that are not ours."""


class RegistryUnavailable(Exception):
    """The change could not be stored; if it was recorded, its row is left out until restated."""


@dataclass(frozen=True, slots=True)
class ChangeRecord:
    """What the log keeps of a change.

    Digests are ``rows.digest_of``; ``digest_before`` is empty where there was nothing. ``epoch``
    is the one that the change was to make. ``fields`` names what differs and ``tiers`` holds the
    levels after the change; values of other fields, which may be personal, are in the row alone.
    ``body`` is the row, to be sealed under ``key`` (32 bytes), which is that of the member
    ``sealed_for``, or the registry's where that is empty. Without a key nothing is sealed.
    """

    kind: str
    id: str
    op: str
    digest_before: str
    digest_after: str
    actor: str
    reason: str
    epoch: int
    fields: tuple[str, ...] = ()
    tiers: tuple[tuple[str, int], ...] = ()
    body: str = field(default="", repr=False)
    sealed_for: str = ""
    key: bytes = field(default=b"", repr=False)


Append = Callable[[ChangeRecord], Awaitable[Position]]
"""Makes a record durable; raises ``core.protocols.LogUnavailable``."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A change that has taken effect. ``notes`` are for the operator."""

    record: ChangeRecord
    position: Position
    entity: Entity
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Keys:
    """What ``keys_dir`` holds: the MAC key, the subject keys' master key, and the one that seals
    rows which are nobody's own."""

    mac: MacKey
    master: bytes = field(repr=False)
    rows: bytes = field(repr=False)


class Registry:
    """One open registry; made by ``open``.

    ``snapshot`` is live, ``findings`` is what is wrong now. ``on_finding`` is called once for
    each new finding; the control process records it and raises the alarm.
    """

    def __init__(self, store: Store, keys: Keys, append: Append, latest: Latest) -> None:
        self.snapshot = Snapshot()
        self.findings: list[Finding] = []
        self.on_finding: Callable[[Finding], None] = _ignore
        self._store = store
        self._mac_key = keys.mac
        self._master = keys.master
        self._row_key = keys.rows
        self._append = append
        self._listeners: list[Callable[[Delta], None]] = []
        self._lock = asyncio.Lock()
        self._commits: set[asyncio.Task[Changed]] = set()
        self._latest = dict(latest)
        self._rows: dict[RowKey, Row] = {}
        self._wrapped: dict[str, bytes] = {}
        self._data_version = store.data_version()
        with suppress(StoreUnavailable):
            store.scrub()  # of an erasure that someone's reading kept from being whole
        self._reconcile(latest)

    @classmethod
    def open(cls, path: Path, keys_dir: Path, *, append: Append, latest: Latest) -> Registry:
        """Open the registry file, making it and its keys if the file is new.

        Args:
            path: the SQLite file.
            keys_dir: holds the MAC key, the subject keys' master key, and the key of rows that are
                nobody's own, which a registry that is older than it gets once.
            append: writes a record to the log.
            latest: the log's latest record of each row; empty only if there is none. Findings of
                this comparison are in ``findings``.

        Raises:
            StoreUnavailable: the file cannot be used.
            KeyFileRefused: a key is missing, not private, or no key.
        """
        store = Store(path)
        try:
            keys = Keys(
                mac=MacKey(load_secret(keys_dir / MAC_KEY_FILE, create=store.new)),
                master=load_secret(keys_dir / MASTER_KEY_FILE, create=store.new),
                rows=load_secret(keys_dir / ROW_KEY_FILE, create=not store.has_row_key()),
            )
            store.note_row_key()
            return cls(store, keys, append, latest)
        except BaseException:
            store.close()
            raise

    async def change(self, change: Change, *, actor: str, reason: str) -> Changed:
        """Make a change take effect. Once begun it is finished, even if the caller goes away.

        Args:
            change: what to change.
            actor: who, a label.
            reason: why, for reviewers.

        Raises:
            ChangeRefused: it may not be made.
            LogUnavailable: it could not be recorded, and was not made.
            RegistryUnavailable: it was recorded but not stored, or the file is not ours any more.
        """
        check_author(actor, reason)
        commit = asyncio.create_task(self._commit(change, actor, reason.strip()))
        self._commits.add(commit)
        commit.add_done_callback(self._commits.discard)
        return await asyncio.shield(commit)

    def subscribe(self, listener: Callable[[Delta], None]) -> None:
        """Call ``listener`` with each delta from now on, right after the snapshot took it."""
        self._listeners.append(listener)

    async def watch(self, interval_s: float = POLL_S) -> None:
        """Look for changes that are not ours, until cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            async with self._lock:
                self.check()

    def check(self) -> list[Finding]:
        """Look once; the new findings. Rows that differ from memory leave the snapshot."""
        if self._store.replaced():
            return self._report([finding("registry.replaced")])
        try:
            version = self._store.data_version()
            changed = version != self._data_version
            stored = self._store.rows() if changed else []
            wrapped = self._store.wrapped_keys() if changed else {}
        except StoreUnavailable:
            return self._report([finding("registry.unreadable")])
        self._settle(lambda each: each.code == "registry.unreadable")
        self._data_version = version
        return self._compare(stored, wrapped) if changed else []

    def close(self) -> None:
        """Close the file."""
        self._store.close()

    async def _commit(self, change: Change, actor: str, reason: str) -> Changed:
        async with self._lock:
            self.check()
            if any(not found.kind for found in self.findings):
                raise RegistryUnavailable("the registry's file is not as we left it: see findings")
            applied = apply(self.snapshot, change)
            applied = restated(applied, self._latest.get((applied.kind, applied.after.id)))
            check_ahead(applied, timestamp(time.time()))
            epoch = self.snapshot.epoch + 1
            held = self._rows.get((applied.kind, applied.after.id))
            sealing = self._sealing(applied.after)
            record = _record_of(applied, held, actor, reason, epoch, sealing=sealing)
            position = await self._append(record)
            key = (applied.kind, applied.after.id)
            self._latest[key] = recorded(
                self._latest.get(key), record.op, record.digest_after, str(position)
            )
            self._store_row(applied, str(position))
            return Changed(record, position, applied.after, notes(self.snapshot, applied.after))

    def _store_row(self, applied: Applied, record: str) -> None:
        """Everything after the record; nothing here waits, so no one sees half of it."""
        entity, epoch = applied.after, self.snapshot.epoch + 1
        key = (applied.kind, entity.id)
        row = self._mac_key.tagged(
            Row(applied.kind, entity.id, body_of(entity), record, epoch, mac="")
        )
        subject_key, wrapped = self._key_for(entity)
        try:
            self._store.put(row, wrapped)
        except StoreUnavailable as error:
            self._rows.pop(key, None)
            self._publish(delta_of(epoch - 1, epoch, gone=(key,)))
            self._report([finding("registry.lost", key)])
            raise RegistryUnavailable("recorded, but not stored: the row is left out") from error
        self._rows[key] = row
        if wrapped is not None:
            self._wrapped[entity.id] = wrapped
        self._settle(lambda each: (each.kind, each.id) == key)
        keys = {} if subject_key is None else {entity.id: subject_key}
        erased = isinstance(entity, Member) and entity.erased
        gone = (key,) if erased else ()  # a member who goes takes his key along
        self._publish(delta_of(epoch - 1, epoch, put=(entity,), gone=gone, subject_keys=keys))
        if erased:
            self._scrub()

    def _scrub(self) -> None:
        try:
            self._store.scrub()
        except StoreUnavailable as error:
            raise RegistryUnavailable(
                "erased, but its old key may still stand in registry.db-wal: stop the gateway once"
            ) from error

    def _key_for(self, entity: Entity) -> tuple[bytes | None, bytes | None]:
        """A member's subject key and its wrapped form; made when he first has a row.

        The wrapped form in memory is written again with each row, so that a member who is stated
        anew after tampering keeps the key by which his records can be read.
        """
        if not isinstance(entity, Member):
            return None, None
        if entity.erased:
            return None, DESTROYED
        wrapped = self._wrapped.get(entity.id, b"")
        known = unwrap(self._master, entity.id, wrapped)
        if known is not None:
            return known, wrapped
        fresh = new_subject_key()
        return fresh, wrap(self._master, entity.id, fresh)

    def _sealing(self, entity: Entity) -> tuple[str, bytes]:
        """Whose key seals this row beside its record, and the key; it is kept before it is used.

        What is left of a member who was erased is nobody's own; a key of his has none to seal it.

        Raises:
            RegistryUnavailable: a new member's key cannot be kept.
        """
        if isinstance(entity, Credential):
            wrapped = self._wrapped.get(entity.member, b"")
            return entity.member, unwrap(self._master, entity.member, wrapped) or b""
        subject_key, wrapped_key = self._key_for(entity)
        if subject_key is None or wrapped_key is None:
            return "", self._row_key
        if self._wrapped.get(entity.id) != wrapped_key:
            try:
                self._store.put_key(entity.id, wrapped_key)
            except StoreUnavailable as error:
                raise RegistryUnavailable("the member's key cannot be kept") from error
            self._wrapped[entity.id] = wrapped_key
        return entity.id, subject_key

    def _publish(self, delta: Delta) -> None:
        self.snapshot.apply(delta)
        for listener in self._listeners:
            listener(delta)

    def _settle(self, mended: Callable[[Finding], bool]) -> None:
        self.findings = [each for each in self.findings if not mended(each)]

    def _report(self, findings: list[Finding]) -> list[Finding]:
        fresh = [each for each in findings if each not in self.findings]
        self.findings += fresh
        for each in fresh:
            self.on_finding(each)
        return fresh

    def _reconcile(self, latest: Latest) -> None:
        self._rows, self.findings = check_rows(self._store.rows(), latest, self._mac_key.good)
        self._wrapped = self._store.wrapped_keys()
        subject_keys: dict[str, bytes] = {}
        for key in [key for key in self._rows if key[0] == "member"]:
            if _erased(self._rows[key]) and self._wrapped.get(key[1]) == DESTROYED:
                continue
            subject_key = unwrap(self._master, key[1], self._wrapped.get(key[1], b""))
            if subject_key is None or _erased(self._rows[key]):
                del self._rows[key]
                self.findings.append(finding("registry.tampered", key))
            else:
                subject_keys[key[1]] = subject_key
        epoch = max([self._store.epoch(), *(row.epoch for row in self._rows.values())]) + 1
        self._store.note_epoch(epoch)
        self.snapshot.apply(
            delta_of(
                None,
                epoch,
                put=[entity_of(row) for row in self._rows.values()],
                subject_keys=subject_keys,
            )
        )

    def _compare(self, stored: list[Row], wrapped: dict[str, bytes]) -> list[Finding]:
        """Drop from memory whatever the file no longer shows as we wrote it."""
        rows = {(row.kind, row.id): row for row in stored}
        found: list[Finding] = []
        gone: list[RowKey] = []
        for key, row in self._rows.items():
            if rows.get(key) != row:
                found.append(finding(changed_row(rows.get(key), self._mac_key.good), key))
                gone.append(key)
            elif key[0] == "member" and wrapped.get(key[1]) != self._wrapped.get(key[1]):
                found.append(finding("registry.tampered", key))
                gone.append(key)
        known = {(each.kind, each.id) for each in self.findings}
        strange = rows.keys() - self._rows.keys() - known
        found += [finding("registry.unrecorded", key) for key in sorted(strange)]
        for key in gone:
            del self._rows[key]
        if gone:
            since = self.snapshot.epoch
            self._publish(delta_of(since, since + 1, gone=tuple(gone)))
        return self._report(found)


def _erased(row: Row) -> bool:
    member = entity_of(row)
    return isinstance(member, Member) and member.erased


def _record_of(
    applied: Applied,
    held: Row | None,
    actor: str,
    reason: str,
    epoch: int,
    *,
    sealing: tuple[str, bytes],
) -> ChangeRecord:
    after = applied.after
    body = body_of(after)
    tiers = getattr(after, "tiers", {})
    return ChangeRecord(
        kind=applied.kind,
        id=after.id,
        op=applied.operation,
        digest_before="" if held is None else digest_of(held.kind, held.body),
        digest_after=digest_of(applied.kind, body),
        actor=actor,
        reason=reason,
        epoch=epoch,
        fields=applied.fields,
        tiers=tuple(sorted(tiers.items())),
        body=body,
        sealed_for=sealing[0],
        key=sealing[1],
    )


def _ignore(_: Finding) -> None:
    """The listener before there is one."""
