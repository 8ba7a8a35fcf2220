"""The control plane: what may change, changed in the right order.

Every change is checked, recorded, made, and told to the data workers, in that order; the answer to
whoever asked says how many running exchanges it ended. Nothing here holds a provider key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
from joserfc.jwk import ECKey

from gateway import bus
from gateway.audit.content_retention import first_day_kept
from gateway.audit.read import LogReader
from gateway.audit.records import (
    PolicyActivated,
    PolicyRejected,
    RegistryChanged,
    RegistryTampered,
)
from gateway.audit.writer import AuditLog
from gateway.control.retention import Pruned, prune
from gateway.control.vocabulary import has_words, unknown_words, vocabulary_of
from gateway.control.workers import Workers
from gateway.core.entities import Member
from gateway.core.protocols import LogUnavailable, Position
from gateway.policy.archive import read_archive, write_archive
from gateway.policy.bundle import Bundle, read_directory
from gateway.policy.findings import BundleError
from gateway.policy.kept_revisions import forget_revision, keep_revision
from gateway.policy.lifecycle import Activation, Lifecycle
from gateway.registry.changes import Change, ChangeRefused
from gateway.registry.findings import Finding, Latest, Recorded, RowKey, recorded
from gateway.registry.registry import Changed, ChangeRecord, Registry
from gateway.registry.snapshot import Delta, encode_delta
from gateway.state import StateDirectory
from gateway.telemetry.metrics import Metrics

__all__ = ["ControlPlane", "PolicySource", "archive_source", "directory_source", "latest_rows"]

POLICY_POLL_S = 0.5
GATEWAY_ACTOR = "gateway"

_log = structlog.get_logger("sluicegate.control")


@dataclass(frozen=True, slots=True)
class PolicySource:
    """Where bundles come from.

    ``read`` gives the current one and raises ``BundleError``; ``archive`` the signed bytes that it
    was read from, if it was; ``path`` is where people mend it; ``watched`` is a directory whose
    files are looked at for changes (``--dev`` and the demo).
    """

    read: Callable[[], Bundle]
    name: str
    path: Path
    archive: Callable[[], bytes] = bytes
    watched: Path | None = None


@dataclass(slots=True)
class Outcome:
    """What a change did: ``ended`` counts the running exchanges that it cut; ``warnings`` are words
    of it that the policy does not know."""

    position: str
    ended: int
    workers: int
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    entity: Any = None
    findings: tuple[str, ...] = ()
    revision: str = ""


@dataclass(slots=True)
class Alarms:
    """The latest alarms, for status; bounded."""

    metrics: Metrics
    latest: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def __call__(self, name: str, detail: str) -> None:
        """Raise one."""
        self.metrics.alarm(name)
        self.latest[name] = detail
        self.counts[name] = self.counts.get(name, 0) + 1
        _log.error("alarm", alarm=name, detail=detail)


def latest_rows(directory: Path) -> Latest:
    """The log's word on each registry row, by ``(kind, id)``."""
    latest: dict[RowKey, Recorded] = {}
    if not directory.is_dir():
        return latest
    for entry in LogReader(directory).entries():
        if b'"registry.changed"' not in entry.raw:
            continue
        record = entry.json()
        if record["type"] == "registry.changed":
            position = str(Position(record["log"], record["seq"]))
            key = (record["kind"], record["id"])
            latest[key] = recorded(latest.get(key), record["op"], record["digest_after"], position)
    return latest


class ControlPlane:
    """One for each state directory.

    Args:
        log: the control process's own shard, open.
        registry: open, with ``recorder(log)`` as its ``append``.
        lifecycle: examines and activates bundles here before any worker sees them.
        source: where bundles come from.
        retention_days: how long sealed content is kept.
    """

    def __init__(
        self,
        *,
        state: StateDirectory,
        log: AuditLog,
        registry: Registry,
        lifecycle: Lifecycle,
        source: PolicySource,
        retention_days: int = 30,
    ) -> None:
        self.state = state
        self.log = log
        self.registry = registry
        self.lifecycle = lifecycle
        self.source = source
        self._retention_days = retention_days
        self.metrics = Metrics()
        self.alarms = Alarms(self.metrics)
        self.workers = Workers(self._greeting, self.alarms)
        self.archive = b""
        """Of the active bundle, for whoever pulls it: as it was signed, where its source is."""
        self.archive_revision = ""
        self.rejected: tuple[str, ...] = ()
        """What kept the newest bundle from becoming active; empty if it did."""
        self._deltas: list[Delta] = []
        self._findings: asyncio.Queue[Finding] = asyncio.Queue(maxsize=1000)
        self._changing = asyncio.Lock()
        registry.subscribe(self._deltas.append)
        registry.on_finding = self._found
        for finding in registry.findings:
            self._found(finding)

    # Changes

    async def change(self, change: Change, *, actor: str, reason: str) -> Outcome:
        """Change the registry and wait until every worker lives by it.

        Raises:
            ChangeRefused, LogUnavailable, RegistryUnavailable: it was not made.
        """
        async with self._changing:
            changed: Changed = await self.registry.change(change, actor=actor, reason=reason)
            applied = await self._tell_deltas()
            warnings = await self._warnings(change)
        return Outcome(
            position=str(changed.position),
            ended=sum(answer.ended for answer in applied),
            workers=len(applied),
            notes=changed.notes,
            warnings=warnings,
            entity=changed.entity,
        )

    async def prune_content(self, *, actor: str, reason: str) -> Pruned:
        """Remove sealed content whose time is over and that no legal hold keeps.

        Raises:
            ChangeRefused: the registry is not what was recorded, so a hold may be hidden.
            LogUnavailable, OSError: not all of it was removed.
        """
        async with self._changing:
            if self.registry.findings:
                raise ChangeRefused(
                    "The registry is not what was recorded: whom a hold protects is not known.",
                    "Mend what `sluicegate status` names first.",
                )
            members = self.registry.snapshot.entities("member")
            held = {each.id for each in members if isinstance(each, Member) and each.held}
            before = first_day_kept(datetime.now(UTC).date(), self._retention_days)
            return await prune(self.log, self.state, before, held, actor=actor, reason=reason)

    async def _warnings(self, change: Change) -> tuple[str, ...]:
        """Words of a change that was made which the active policy does not know; where none is
        active, because a command opened the directory, the one that would be."""
        if not has_words(change):
            return ()
        try:
            bundle = self.lifecycle.active
            if bundle is None:
                bundle = await asyncio.to_thread(self.source.read)
            return unknown_words(vocabulary_of(bundle), change)
        except BundleError as error:
            return (f"its words were not compared with a policy: {error.findings[0]}",)

    async def activate_current(self, *, actor: str, reason: str) -> Outcome:
        """Read the source and try to make its bundle the active one.

        Raises:
            LogUnavailable: it could not be recorded, and was not made.
        """
        async with self._changing:
            try:
                bundle = await asyncio.to_thread(self.source.read)
            except BundleError as error:
                return await self._rejected("", error.findings)
            active = self.lifecycle.active
            if active is not None and active.id == bundle.id:
                self.rejected = ()
                return Outcome("", 0, 0, revision=bundle.id, notes=("already active",))
            return await self._activate(bundle, actor, reason)

    async def _activate(self, bundle: Bundle, actor: str, reason: str) -> Outcome:
        previous = self.lifecycle.active
        # Kept first: by what cannot be read later nothing is decided now.
        archive = self.source.archive() or write_archive(bundle, None)
        kept = self.state.revisions
        try:
            new = await asyncio.to_thread(keep_revision, kept, bundle.id, archive)
        except OSError as error:
            return await self._rejected(
                bundle.id, [f"the revision cannot be kept in {kept}: {error.strerror}"]
            )
        activation: Activation = await self.lifecycle.activate(bundle)
        if not activation.active:
            if new:
                forget_revision(kept, bundle.id)
            return await self._rejected(bundle.id, activation.findings)
        # The control process decides no call: what is active here takes effect in the workers,
        # and they hear of it only after the record.
        position = await self.log.append(
            PolicyActivated(
                revision=bundle.id,
                previous=previous.id if previous is not None else "",
                source=self.source.name,
                actor=actor,
                reason=reason,
            )
        )
        self.rejected = ()
        self.metrics.revision(bundle.id)
        self.archive, self.archive_revision = archive, bundle.id
        applied = await self.workers.tell(
            bus.BundleNews(self.workers.next_ticket(), bundle.id, self.archive)
        )
        _log.info("policy_activated", revision=bundle.id, workers=len(applied))
        return Outcome(
            position=str(position),
            ended=sum(answer.ended for answer in applied),
            workers=len(applied),
            revision=bundle.id,
            findings=tuple(finding for answer in applied for finding in answer.findings),
        )

    async def _rejected(self, revision: str, findings: Sequence[str]) -> Outcome:
        position = await self.log.append(
            PolicyRejected(revision=revision, findings=tuple(findings[:32]))
        )
        self.rejected = tuple(findings)
        for finding in findings:
            _log.error("policy_rejected", revision=revision, finding=finding)
        return Outcome(str(position), 0, 0, findings=tuple(findings), revision=revision)

    # What runs for the life of the process

    async def watch_policy(self) -> None:
        """Activate what changes in a watched directory; a fault leaves the last good revision."""
        directory = self.source.watched
        if directory is None:
            return
        seen = await asyncio.to_thread(_fingerprint, directory)
        while True:
            await asyncio.sleep(POLICY_POLL_S)
            now = await asyncio.to_thread(_fingerprint, directory)
            if now != seen:
                seen = now
                await self.activate_current(actor=GATEWAY_ACTOR, reason="files changed")

    async def watch_registry(self) -> None:
        """Notice rows that were changed behind the gateway, and narrow at once."""
        while True:
            await asyncio.sleep(1.0)
            async with self._changing:
                self.registry.check()
                await self._tell_deltas()

    async def beat(self, interval_s: float) -> None:
        """Show in the log that the control process lives."""
        while True:
            await asyncio.sleep(interval_s)
            with suppress(LogUnavailable):
                await self.log.heartbeat()

    async def record_findings(self) -> None:
        """Each finding about the registry becomes a record."""
        while True:
            await self._record_finding(await self._findings.get())

    async def record_waiting_findings(self) -> None:
        """Record what was found so far: for a command that opens the directory by itself."""
        while not self._findings.empty():
            await self._record_finding(self._findings.get_nowait())

    async def _record_finding(self, found: Finding) -> None:
        await self.log.append(RegistryTampered(kind=found.kind, id=found.id, finding=found.message))

    def _found(self, found: Finding) -> None:
        self.alarms(found.code.replace(".", "_"), f"{found.message} {found.remedy}")
        if not self._findings.full():
            self._findings.put_nowait(found)

    # The workers

    def _greeting(self) -> list[bus.Message]:
        messages: list[bus.Message] = [
            bus.RegistrySnapshot(encode_delta(self.registry.snapshot.full()))
        ]
        active = self.lifecycle.active
        if active is not None:
            messages.append(bus.BundleNews(0, active.id, self.archive))
        return messages

    async def _tell_deltas(self) -> list[bus.Applied]:
        deltas, self._deltas[:] = list(self._deltas), []
        applied: list[bus.Applied] = []
        for delta in deltas:
            applied += await self.workers.tell(
                bus.RegistryDelta(self.workers.next_ticket(), encode_delta(delta))
            )
        return applied

    @staticmethod
    def recorder(log: AuditLog) -> Callable[[ChangeRecord], Any]:
        """How the registry's changes become records."""

        async def append(change: ChangeRecord) -> Position:
            return await log.append(
                RegistryChanged(
                    kind=change.kind,
                    id=change.id,
                    op=change.op,
                    actor=change.actor,
                    reason=change.reason,
                    epoch=change.epoch,
                    digest_before=change.digest_before,
                    digest_after=change.digest_after,
                    fields=change.fields,
                    tiers=dict(change.tiers),
                    sealed_for=change.sealed_for,
                ),
                change.body.encode() if change.key else None,
                change.key or None,
            )

        return append


def _fingerprint(directory: Path) -> tuple[tuple[str, int, int], ...]:
    found = []
    for path in sorted(directory.rglob("*")):
        try:
            status = path.stat()
        except OSError:
            continue
        if path.is_file():
            found.append((str(path), status.st_mtime_ns, status.st_size))
    return tuple(found)


def directory_source(directory: Path) -> PolicySource:
    """A watched directory of rules and data."""
    return PolicySource(
        read=lambda: read_directory(directory), name="directory", path=directory, watched=directory
    )


def archive_source(path: Path, key: ECKey) -> PolicySource:
    """A signed bundle archive, read again when asked to."""
    last: list[bytes] = [b""]

    def read() -> Bundle:
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise BundleError([f"{path}: {error.strerror}"]) from None
        bundle = read_archive(raw, key)
        last[0] = raw
        return bundle

    return PolicySource(read=read, name=path.name, path=path, archive=lambda: last[0])
