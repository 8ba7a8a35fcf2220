"""A control log with a registry and revisions, written at instants of the test's choosing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.audit.note import SigningKey
from gateway.audit.read import LogReader
from gateway.audit.records import Gateway, PolicyActivated, Record
from gateway.audit.writer import AuditLog
from gateway.control.access_report import AccessReport, Assumed
from gateway.control.past import Past, PastReader, SealKeys
from gateway.control.plane import ControlPlane, latest_rows
from gateway.core.clock import parse_timestamp
from gateway.policy.archive import write_archive
from gateway.policy.bundle import Bundle
from gateway.policy.kept_revisions import keep_revision, kept_revision
from gateway.registry.changes import Add, Move, Set
from gateway.registry.registry import MASTER_KEY_FILE, ROW_KEY_FILE, Registry
from gateway.registry.subject_keys import unwrap

NS = 1_000_000_000
ORIGIN = "example.org/gate/control"


class History:
    """One state directory; ``now`` is the wall clock of its log, in nanoseconds."""

    def __init__(self, home: Path, start: str) -> None:
        self.home = home
        self.now = parse_timestamp(start) * NS
        self.keys = home / "keys"
        self.keys.mkdir()
        self.revisions = home / "revisions"
        self.log_dir = home / "audit" / "control"
        self._key = SigningKey(ORIGIN, bytes(range(32)))
        self.open()

    def open(self) -> None:
        """A process begins."""
        self.log = AuditLog.open(
            self.log_dir, ORIGIN, self._key, node=Gateway(node="n"), wall=lambda: self.now
        )
        self.registry = Registry.open(
            self.home / "registry.db",
            self.keys,
            append=ControlPlane.recorder(self.log),
            latest=latest_rows(self.log_dir),
        )

    def close(self) -> None:
        """It ends."""
        self.registry.close()
        self.log.close()

    def at(self, moment: str) -> int:
        """Go on to a later time."""
        self.now = parse_timestamp(moment) * NS
        return self.now

    def record(self, record: Record) -> int:
        """Append a record; the instant of it."""
        self.now += NS
        return self._clock(self.log.append_sync(record).seq)

    def activate(self, bundle: Bundle) -> int:
        """A bundle becomes the active one, as the control process makes it; the instant of it."""
        keep_revision(self.revisions, bundle.id, write_archive(bundle, None))
        return self.record(PolicyActivated(revision=bundle.id, actor="gateway"))

    async def change(self, change: Add | Set | Move) -> int:
        """Change the registry; the instant of its record."""
        self.now += NS
        changed = await self.registry.change(change, actor="ops", reason="for the test")
        return self._clock(changed.position.seq)

    async def add(self, kind: str, entity: str, **fields: Any) -> int:
        return await self.change(Add(kind, {"id": entity, **fields}))  # type: ignore[arg-type]

    async def set(self, kind: str, entity: str, **fields: Any) -> int:
        return await self.change(Set(kind, entity, fields))  # type: ignore[arg-type]

    async def move(self, kind: str, entity: str, verb: str) -> int:
        return await self.change(Move(kind, entity, verb))  # type: ignore[arg-type]

    # Asking

    def seal_keys(self) -> SealKeys:
        """What is left on the disk to open sealed rows."""
        master = (self.keys / MASTER_KEY_FILE).read_bytes()
        wrapped = self.registry._store.wrapped_keys()
        found = {member: unwrap(master, member, each) for member, each in wrapped.items()}
        members = {member: key for member, key in found.items() if key is not None}
        return SealKeys(members, (self.keys / ROW_KEY_FILE).read_bytes())

    def past(self, at: int) -> Past:
        reader = PastReader(at)
        for entry in LogReader(self.log_dir).entries():
            reader.take(entry)
        return reader.past(self.seal_keys())

    def report(self, at: int, assumed: Assumed | None = None) -> AccessReport:
        past = self.past(at)
        return AccessReport(past, kept_revision(self.revisions, past.revision), assumed)

    def _clock(self, seq: int) -> int:
        entry = LogReader(self.log_dir).find(seq)
        assert entry is not None
        return int(entry.json()["hlc"])
