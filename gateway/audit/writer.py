"""The writer: group commit, one thread, one flush at a time.

What it guarantees:

* ``append`` returns only when the record, and a signed checkpoint that covers it, are durable.
* Whatever arrives during a flush makes the next batch: no timer, no added delay when idle. Where
  many intents are open, flushes begin ``FLUSH_GAP_NS`` apart at least, so that a fast disk does not
  make a signature of every record.
* Content to be sealed is sealed in the thread, and durable before the record that names it.
* Any error of the disk latches: every waiter and every later ``append`` gets ``LogUnavailable``,
  and nothing is tried again. What is on disk then is only known after a restart has read it.
* A record that is refused (``ValueError``) takes no index and harms no other record.
* Cancelling an ``append`` does not withdraw its record. Whoever cancels an intent still owes its
  outcome; ``parent`` is filled in by request id.
* Memory is bounded: when ``queue_records`` wait, ``append`` raises ``LogUnavailable`` at once.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from msgspec import Struct
from msgspec.structs import replace

from gateway.audit import recovery
from gateway.audit.appender import Appender
from gateway.audit.batch import Composer
from gateway.audit.content import Part
from gateway.audit.content_writer import Content, ContentWriter
from gateway.audit.note import Checkpoint, SigningKey, VerifierKey
from gateway.audit.records import (
    AccessIntent,
    AccessOutcome,
    Gateway,
    LogClosed,
    LogHeartbeat,
    LogOpened,
    LogRecovered,
    Record,
)
from gateway.audit.replay import LogState
from gateway.audit.storage import Disk, Storage
from gateway.core.protocols import LogUnavailable, Position

__all__ = ["AuditLog", "Counters"]

SEGMENT_BYTES = 64 * 1024 * 1024
QUEUE_RECORDS = 10_000
MAX_BATCH = 2_000
NS = 1_000_000_000
BUSY_INTENTS = 8
FLUSH_GAP_NS = 1_000_000

_Result = Position | Exception


@dataclass(slots=True)
class Counters:
    """What has been made durable since the start, for telemetry. Only ever grows."""

    batches: int = 0
    records: int = 0
    bytes: int = 0
    refused: int = 0


class _Pending(Struct):
    """A record in the queue, and who waits for it: a loop's future, or a thread's."""

    record: Record
    facts: bytes | None
    subject_key: bytes | None
    content: Content | None
    wall: int
    mono: int
    waiter: asyncio.Future[Position] | Future[Position]
    loop: asyncio.AbstractEventLoop | None


class AuditLog:
    """One log: one directory, one origin, one key, one writing process. Made by ``open``."""

    def __init__(
        self,
        composer: Composer,
        appender: Appender,
        lock: int,
        *,
        origin: str,
        content: ContentWriter | None,
        wall: Callable[[], int],
        monotonic: Callable[[], int],
        queue_records: int,
        on_head: Callable[[Checkpoint], None] | None,
    ) -> None:
        self.origin = origin
        self.counters = Counters()
        self.failed: str | None = None
        self._composer, self._appender, self._lock_fd = composer, appender, lock
        self._content = content
        self._wall, self._monotonic = wall, monotonic
        self._queue_records = queue_records
        self._on_head = on_head
        self._head: Checkpoint | None = None
        self._queue: deque[_Pending] = deque()
        self._flushing: Sequence[_Pending] = ()
        self._closing = False
        self._waking: asyncio.AbstractEventLoop | None = None
        self._wakeup = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"audit {origin}", daemon=True)

    @classmethod
    def open(
        cls,
        directory: Path,
        origin: str,
        key: SigningKey,
        *,
        node: Gateway,
        former: Sequence[VerifierKey] = (),
        content: ContentWriter | None = None,
        segment_bytes: int = SEGMENT_BYTES,
        known: Checkpoint | None = None,
        full: bool = False,
        storage: Storage | None = None,
        wall: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], int] = time.monotonic_ns,
        queue_records: int = QUEUE_RECORDS,
        on_head: Callable[[Checkpoint], None] | None = None,
    ) -> AuditLog:
        """Lock, read and heal the log, and say so in it. Blocks; its records are durable on return.

        Intents that a crash left without an outcome are closed as ``interrupted``.

        Args:
            directory: the log's own; made if it does not exist, mode 0700.
            origin: the log's name; equals ``key.name``.
            key: signs from now on.
            node: who writes, in every record.
            former: earlier keys whose checkpoints are good.
            content: where content is sealed; without it a record with content is refused.
            segment_bytes: when to begin the next file.
            known: a checkpoint kept outside the log, which it must extend.
            full: read all segments, not only the last.
            storage: the disk.
            wall: Unix nanoseconds.
            monotonic: nanoseconds.
            queue_records: how many may wait for a flush.
            on_head: gets each new checkpoint, in the writer's thread, after it is durable and
                before anyone is told; if it raises, the log latches.

        Raises:
            LogCorrupt: the log is not what was signed; nothing was changed.
            LogUnavailable: another process writes it, or the disk failed.
            ValueError: the key is of another origin.
        """
        if origin != key.name:
            raise ValueError(f"the key signs for {key.name}, not for {origin}")
        disk = storage or Disk()
        with ExitStack() as undo:
            undo.enter_context(_disk_errors())
            lock = recovery.lock(directory)
            undo.callback(os.close, lock)
            state, segment, healed = recovery.recover(
                directory,
                origin,
                [key.verifier, *former],
                disk,
                known=known,
                full=full,
                now_ms=wall() // 1_000_000,
            )
            appender = Appender(
                directory, origin, key.key_id, disk, segment=segment, segment_bytes=segment_bytes
            )
            undo.callback(appender.close)
            log = cls(
                Composer(key, node, state),
                appender,
                lock,
                origin=origin,
                content=content,
                wall=wall,
                monotonic=monotonic,
                queue_records=queue_records,
                on_head=on_head,
            )
            log._begin(state, healed, key.key_id.hex())
            undo.pop_all()
        return log

    def _begin(self, state: LogState, healed: LogRecovered | None, key_id: str) -> None:
        """The first batch of this process; then the thread."""
        size = state.tree.size
        clean = healed is None and (state.closed or size == 0)
        records: list[Record] = [LogOpened(size=size, clean=clean, key_id=key_id)]
        if healed is not None:
            records.append(healed)
        records += [
            AccessOutcome(request_id=request_id, status="interrupted") for request_id in state.open
        ]
        self._flush([self._pending(record, Future()) for record in records])
        if self.failed is not None:
            raise LogUnavailable(self.failed)
        self._thread.start()

    async def append(
        self,
        record: Record,
        facts: bytes | None = None,
        subject_key: bytes | None = None,
        content: Content | None = None,
    ) -> Position:
        """Record, durably.

        Args:
            record: with the writer's fields empty.
            facts: the exact evaluated bytes, sealed beside the record under ``subject_key``.
            subject_key: 32 bytes; given with ``facts`` and only then.
            content: the body that an intent or outcome speaks of, to be sealed to two roles.

        Raises:
            LogUnavailable: the log has failed, is closing, or its queue is full.
            ValueError: the record is refused (see ``Composer.add``); nothing was written for it.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Position] = loop.create_future()
        self._enqueue(self._pending(record, future, facts, subject_key, content=content, loop=loop))
        if self._waking is not loop:
            # What one turn of the loop hands in makes one batch, and one change of threads.
            self._waking = loop
            loop.call_soon(self._wake)
        return await future

    def append_sync(
        self,
        record: Record,
        facts: bytes | None = None,
        subject_key: bytes | None = None,
        content: Content | None = None,
    ) -> Position:
        """``append`` for threads; blocks."""
        future: Future[Position] = Future()
        self._enqueue(self._pending(record, future, facts, subject_key, content=content))
        self._wake()
        return future.result()

    async def heartbeat(self) -> Position:
        """Record that the log is alive; the caller decides how often."""
        return await self.append(LogHeartbeat(open=self.open_intents))

    @property
    def head(self) -> Checkpoint:
        """The newest durable checkpoint."""
        if self._head is None:  # pragma: no cover  open() has written a batch
            raise LogUnavailable("the log has not been opened")
        return self._head

    @property
    def open_intents(self) -> int:
        """How many intents wait for their outcome."""
        return len(self._composer.state.open)

    @property
    def lag_records(self) -> int:
        """Records handed in and not yet durable."""
        return len(self._queue) + len(self._flushing)

    @property
    def lag_s(self) -> float:
        """The age of the oldest record that is not yet durable, in seconds; 0 without one."""
        with self._wakeup:
            waiting = self._flushing or self._queue
            return (self._monotonic() - waiting[0].mono) / NS if waiting else 0.0

    def close(self) -> None:
        """Write what waits, then ``log.closed``, and let go of the files. Blocks; idempotent."""
        with self._wakeup:
            if self._closing:
                return
            self._closing = True
            if self.failed is None:
                self._queue.append(self._pending(LogClosed(open=self.open_intents), Future()))
            self._wakeup.notify()
        self._thread.join()
        self._appender.close()
        if self._content is not None:
            self._content.close()
        os.close(self._lock_fd)

    async def aclose(self) -> None:
        """``close``, without blocking the loop."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _pending(
        self,
        record: Record,
        waiter: asyncio.Future[Position] | Future[Position],
        facts: bytes | None = None,
        subject_key: bytes | None = None,
        *,
        content: Content | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> _Pending:
        wall, mono = self._wall(), self._monotonic()
        return _Pending(record, facts, subject_key, content, wall, mono, waiter, loop)

    def _enqueue(self, pending: _Pending) -> None:
        with self._wakeup:
            if self.failed is not None:
                raise LogUnavailable(self.failed)
            if self._closing:
                raise LogUnavailable("the log is closing")
            if len(self._queue) >= self._queue_records:
                raise LogUnavailable(f"{len(self._queue)} records wait for the disk")
            self._queue.append(pending)

    def _wake(self) -> None:
        with self._wakeup:
            self._waking = None
            self._wakeup.notify()

    def _run(self) -> None:
        """The thread: take all that waits, flush it, tell its waiters; until closed or failed."""
        begun = 0
        while True:
            with self._wakeup:
                while not self._queue and not self._closing and self.failed is None:
                    self._wakeup.wait()
            if self.open_intents >= BUSY_INTENTS and not self._closing:
                time.sleep(max(0, begun + FLUSH_GAP_NS - time.monotonic_ns()) / NS)
            begun = time.monotonic_ns()
            with self._wakeup:
                if not self._queue:
                    return
                count = min(len(self._queue), MAX_BATCH)
                self._flushing = [self._queue.popleft() for _ in range(count)]
            self._flush(self._flushing)

    def _flush(self, batch: Sequence[_Pending]) -> None:
        results: list[_Result]
        try:
            results = self._commit(batch)
        except Exception as error:  # noqa: BLE001  edge: a dead thread would leave waiters hanging
            with self._wakeup:  # latch: from here on nothing is written and nothing accepted
                self.failed = f"{type(error).__name__}: {error}"
                batch = [*batch, *self._queue]
                self._queue.clear()
            results = [LogUnavailable(self.failed) for _ in batch]
        self._flushing = ()
        _tell(batch, results)

    def _commit(self, batch: Sequence[_Pending]) -> list[_Result]:
        """Make one batch durable; for each record its position, or why it was refused."""
        composer = self._composer
        first = composer.state.tree.size
        self._appender.prepare(composer.state.tree, composer.state.open)
        results: list[_Result] = []
        for item in batch:
            try:
                record = self._sealed(item) if item.content is not None else item.record
                seq = composer.add(record, item.wall, item.mono, item.facts, item.subject_key)
                results.append(Position(self.origin, seq))
            except ValueError as error:
                results.append(error)
        added = composer.state.tree.size - first
        self.counters.refused += len(batch) - added
        if added:
            data, head = composer.finish()
            if self._content is not None:
                self._content.sync()
            self._appender.append(data)
            if self._on_head is not None:
                self._on_head(head)
            self._head = head
            self.counters.batches += 1
            self.counters.records += added
            self.counters.bytes += len(data)
        return results

    def _sealed(self, item: _Pending) -> Record:
        """The record with the place of its content, which is written; if the record is refused
        later on, no record names it."""
        record, content, files = item.record, item.content, self._content
        if files is None or content is None:
            raise ValueError("no role keys are set, to which content could be sealed")
        if isinstance(record, AccessIntent):
            ref = files.add(content, record.request_id, Part.REQUEST, item.wall)
            return replace(record, request=replace(record.request, content=ref))
        if isinstance(record, AccessOutcome) and record.response is not None:
            ref = files.add(content, record.request_id, Part.ANSWER, item.wall)
            return replace(record, response=replace(record.response, content=ref))
        raise ValueError("only an intent and an outcome with an answer have content")


def _tell(batch: Sequence[_Pending], results: Sequence[_Result]) -> None:
    """Give every waiter its result, with one call into each event loop."""
    by_loop: dict[asyncio.AbstractEventLoop | None, list[tuple[_Pending, _Result]]] = {}
    for item, result in zip(batch, results, strict=True):
        by_loop.setdefault(item.loop, []).append((item, result))
    for loop, told in by_loop.items():
        if loop is None:
            _settle(told)
            continue
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_settle, told)


def _settle(told: Sequence[tuple[_Pending, _Result]]) -> None:
    for item, result in told:
        if item.waiter.done():  # cancelled; the record stands
            continue
        if isinstance(result, Exception):
            item.waiter.set_exception(result)
        else:
            item.waiter.set_result(result)


@contextmanager
def _disk_errors() -> Iterator[None]:
    """The boundary where the disk's errors become the log's."""
    try:
        yield
    except OSError as error:
        raise LogUnavailable(f"the log cannot be opened: {error}") from error
