"""One data worker: the pipeline, what keeps it current, and how it stops.

It hears of registry changes and revisions on the bus, applies them, asks running exchanges again,
and says how many ended. With the bus silent it goes on with what it has; once that is too old,
restricted models wait, and their running exchanges end. When it stops it accepts nothing new, lets
running exchanges finish for a bounded time, ends the rest with their protocol's error, and closes
its log.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path

import structlog

from gateway import bus
from gateway.audit.writer import AuditLog
from gateway.core.protocols import LogUnavailable
from gateway.policy.archive import read_archive
from gateway.policy.findings import BundleError
from gateway.policy.lifecycle import Lifecycle, Stage
from gateway.proxy import refusals
from gateway.proxy.pipeline import Pipeline
from gateway.registry.snapshot import Delta, EpochGap, Snapshot, decode_delta
from gateway.serving import Server

__all__ = ["DataWorker"]

RECONNECT_S = 0.2
REPORT_S = 1.0
RENEW_S = 60.0
END_S = 2.0
"""How long interrupted exchanges may take to say goodbye."""

_log = structlog.get_logger("sluicegate.data")


class DataWorker:
    """Keeps a pipeline current.

    Args:
        hello: what to say to the control process.
        bus_socket: where it listens.
        snapshot: the registry that the pipeline reads.
        lifecycle: activates bundles for the pipeline's judge.
        hidden_models: catalogue ids that no metric may name, by the active bundle's data.
    """

    def __init__(
        self,
        *,
        hello: bus.Hello,
        bus_socket: Path,
        pipeline: Pipeline,
        snapshot: Snapshot,
        lifecycle: Lifecycle,
        log: AuditLog,
        heartbeat_s: float,
        summary_s: float,
        drain_s: float,
    ) -> None:
        self._hello = hello
        self._bus_socket = bus_socket
        self.pipeline = pipeline
        self._snapshot = snapshot
        self._lifecycle = lifecycle
        self._log = log
        self._heartbeat_s = heartbeat_s
        self._summary_s = summary_s
        self._drain_s = drain_s
        self._heard_at = float("-inf")
        self._link: bus.Link | None = None
        self._applying = asyncio.Lock()
        self._activating: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def registry_age(self) -> float:
        """Seconds since the control process was last heard."""
        return time.monotonic() - self._heard_at

    @property
    def ready(self) -> bool:
        """Whether calls can be decided and recorded here."""
        return (
            self.pipeline.judging.judge.revision is not None
            and self._snapshot.epoch >= 0
            and self._log.failed is None
            and self.pipeline.draining is None
        )

    async def run(self, server: Server, listener: object, stopped: asyncio.Event) -> None:
        """Serve until ``stopped`` is set, then drain."""
        for keep in (
            self._follow_bus(),
            self._every(REPORT_S, self._report),
            self._every(REPORT_S, self._end_stale),
            self._every(self._heartbeat_s, self._heartbeat),
            self._every(self._summary_s, self._summarise),
            self._every(RENEW_S, self._renew),
            self.pipeline.inflight.watch(),
        ):
            self._spawn(keep)
        serving = asyncio.create_task(server.serve(sockets=[listener]))  # type: ignore[list-item]
        stopping = asyncio.create_task(stopped.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        await self._drain(server)
        await serving
        for task in list(self._tasks):
            task.cancel()
        await self._summarise()
        await self._log.aclose()

    async def _drain(self, server: Server) -> None:
        self.pipeline.draining = refusals.SHUTTING_DOWN
        await self._report()
        server.stop()
        await self._idle_within(self._drain_s)
        ended = self.pipeline.inflight.interrupt_all(refusals.SHUTTING_DOWN)
        if ended:
            _log.warning("drain_cut", streams=ended)
        await self._idle_within(END_S)

    async def _idle_within(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.pipeline.inflight.idle.wait()

    # The bus

    async def _follow_bus(self) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(self._bus_socket)
            except OSError:
                await asyncio.sleep(RECONNECT_S)
                continue
            self._link = link = bus.Link(reader, writer)
            try:
                await link.send(self._hello)
                while True:
                    await self._hear(link, await link.receive())
            except (ConnectionError, EpochGap) as error:
                _log.warning("bus_lost", why=type(error).__name__)
            finally:
                self._link = None
                await link.close()
            await asyncio.sleep(RECONNECT_S)

    async def _hear(self, link: bus.Link, message: bus.Message) -> None:
        self._heard_at = time.monotonic()
        if isinstance(message, bus.RegistrySnapshot):
            self._snapshot.apply(decode_delta(message.payload))
            self.pipeline.identifier.forget()
            self.pipeline.metrics.registry_epoch(self._snapshot.epoch)
            self._spawn(self._touch_all())
        elif isinstance(message, bus.RegistryDelta):
            delta = decode_delta(message.payload)
            members = _members_of(delta, self._snapshot)
            self._snapshot.apply(delta)
            self.pipeline.identifier.forget()
            self.pipeline.metrics.registry_epoch(self._snapshot.epoch)
            organisations = {entity.id for entity in delta.organisations}
            organisations |= {each[1] for each in delta.gone if each[0] == "organisation"}
            organisations |= {entity.organisation for entity in delta.issuers}
            ended = await self.pipeline.inflight.touch(members, organisations)
            await link.send(bus.Applied(message.ticket, ended))
        elif isinstance(message, bus.BundleNews):
            # Checks and tests take their time; registry news must not wait for them. Newer news
            # end the wait for an engine that would never take what is no longer offered.
            if self._activating is not None:
                self._activating.cancel()
            self._activating = self._spawn(self._activate(link, message))

    async def _activate(self, link: bus.Link, news: bus.BundleNews) -> None:
        """Make a bundle the active one; an engine that does not take it is asked again, until it
        does or there is another bundle."""
        async with self._applying:
            told = False
            while True:
                ended, stage, findings = await self._attempt(news)
                for finding in findings:
                    _log.error("policy_not_activated", finding=finding)
                if not told:
                    with suppress(ConnectionError):
                        await link.send(bus.Applied(news.ticket, ended, findings))
                told = True
                if stage is not Stage.TESTED:
                    return
                await asyncio.sleep(RECONNECT_S)

    async def _attempt(self, news: bus.BundleNews) -> tuple[int, Stage, tuple[str, ...]]:
        """How many exchanges were ended, how far the bundle came, and what is wrong with it."""
        try:
            bundle = read_archive(news.archive, None)
        except BundleError as error:
            return 0, Stage.CANDIDATE, tuple(error.findings)
        if bundle.id != news.revision:
            finding = "the archive is not of the revision that it was sent as"
            return 0, Stage.CANDIDATE, (finding,)
        activation = await self._lifecycle.activate(bundle)
        if not activation.active:
            return 0, activation.stage, activation.findings
        self.pipeline.judging.revision_changed()
        return await self.pipeline.inflight.touch_all(), activation.stage, ()

    async def _touch_all(self) -> None:
        await self.pipeline.inflight.touch_all()

    # What is done now and then

    async def _report(self) -> None:
        pipeline, link = self.pipeline, self._link
        pipeline.metrics.log_lag(self._log.lag_records, self._log.lag_s)
        if link is None:
            return
        revision = pipeline.judging.judge.revision
        memo = pipeline.judging.judge.memo
        with suppress(ConnectionError):
            await link.send(
                bus.Report(
                    ready=self.ready,
                    revision=revision.id if revision is not None else "",
                    epoch=self._snapshot.epoch,
                    running=len(pipeline.inflight),
                    log_size=self._log.head.size,
                    log_failed=self._log.failed or "",
                    metrics=pipeline.metrics.snapshot(),
                    memo_hits=memo.hits,
                    memo_misses=memo.misses,
                    failures={
                        endpoint: bus.EndpointFailures(*failure)
                        for endpoint, failure in pipeline.metrics.endpoint_failures.items()
                    },
                )
            )

    async def _end_stale(self) -> None:
        """Where nobody could take access back any more, restricted models stop (invariant 5)."""
        pipeline = self.pipeline
        if math.inf > self.registry_age() > pipeline.settings.registry_max_age_s:
            for exchange in pipeline.inflight:
                if exchange.restricted:
                    exchange.interrupt(refusals.REGISTRY_STALE)

    async def _heartbeat(self) -> None:
        with suppress(LogUnavailable):  # shown by the report; nothing is forwarded meanwhile
            await self._log.heartbeat()

    async def _summarise(self) -> None:
        record = self.pipeline.summary.take()
        if record is not None:
            with suppress(LogUnavailable):
                await self._log.append(record)

    async def _renew(self) -> None:
        for exchange in self.pipeline.inflight:
            if exchange.reservation is not None:
                await exchange.reservation.renew()

    async def _every(self, seconds: float, act: Callable[[], Coroutine[None, None, None]]) -> None:
        while True:
            await act()
            await asyncio.sleep(seconds)

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        """A background task that dies takes the worker along: a blind worker must not serve."""
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.critical("background_task_died", error=type(task.exception()).__name__)
            os._exit(70)


def _members_of(delta: Delta, before: Snapshot) -> set[str]:
    """The members whom a delta touches: themselves, and through their credentials."""
    members = {entity.id for entity in delta.members}
    members |= {entity.member for entity in delta.credentials}
    for kind, entity_id in delta.gone:
        if kind == "member":
            members.add(entity_id)
        elif kind == "credential":
            credential = before.credential_by_id(entity_id)
            if credential is not None:
                members.add(credential.member)
    return members
