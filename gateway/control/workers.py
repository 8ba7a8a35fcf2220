"""The data workers as the control process sees them: who is there, what they applied and report."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from gateway import bus

__all__ = ["Worker", "Workers"]

HEARTBEAT_S = 1.0
APPLY_TIMEOUT_S = 5.0

_log = structlog.get_logger("sluicegate.control")


@dataclass(slots=True, eq=False)
class Worker:
    """One connected data worker."""

    link: bus.Link
    hello: bus.Hello
    report: bus.Report | None = None
    heard_at: float = 0.0
    waiting: dict[int, asyncio.Future[bus.Applied]] = field(default_factory=dict)


class Workers:
    """The bus's listening end.

    Args:
        greet: the messages that a worker gets first: the registry and the active bundle.
        on_alarm: told of a worker's alarms.
    """

    def __init__(
        self,
        greet: Callable[[], list[bus.Message]],
        on_alarm: Callable[[str, str], None],
    ) -> None:
        self._greet = greet
        self._on_alarm = on_alarm
        self._workers: dict[str, Worker] = {}
        self._tickets = itertools.count(1)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[Worker]:
        return iter(list(self._workers.values()))

    def __len__(self) -> int:
        return len(self._workers)

    async def listen(self, path: Path) -> None:
        """Accept workers on a local socket that only this user may open."""
        path.unlink(missing_ok=True)  # noqa: ASYNC240 - once, before anything is served
        self._server = await asyncio.start_unix_server(self._serve, path)
        path.chmod(0o600)  # noqa: ASYNC240
        self._spawn(self._heartbeat())

    async def close(self) -> None:
        """Hang up on all."""
        for task in list(self._tasks):
            task.cancel()
        for worker in list(self._workers.values()):
            await worker.link.close()
        if self._server is not None:
            self._server.close()

    def next_ticket(self) -> int:
        """A number that ties an answer to its news."""
        return next(self._tickets)

    async def tell(self, message: bus.RegistryDelta | bus.BundleNews) -> list[bus.Applied]:
        """Send news to all workers and wait until each has applied it, gone, or been too slow.

        Returns:
            What those that answered have to say.
        """
        told = []
        for worker in list(self._workers.values()):
            future: asyncio.Future[bus.Applied] = asyncio.get_running_loop().create_future()
            worker.waiting[message.ticket] = future
            self._spawn(self._send(worker, message))
            told.append((worker, future))
        answers = []
        for worker, future in told:
            try:
                async with asyncio.timeout(APPLY_TIMEOUT_S):
                    answers.append(await future)
            except (TimeoutError, ConnectionError):
                self._on_alarm("worker_did_not_apply", worker.hello.shard)
            finally:
                worker.waiting.pop(message.ticket, None)
        return answers

    async def _send(self, worker: Worker, message: bus.Message) -> None:
        try:
            await worker.link.send(message)
        except ConnectionError:
            self._drop(worker)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = bus.Link(reader, writer)
        worker = None
        try:
            hello = await link.receive()
            if not isinstance(hello, bus.Hello):
                return
            worker = Worker(link, hello)
            # In the table before the greeting is sent: no change between them is missed, and the
            # lock in ``Link`` keeps the greeting first.
            greeting = self._greet()
            self._workers[hello.shard] = worker
            for message in greeting:
                await link.send(message)
            while True:
                self._take(worker, await link.receive())
        except ConnectionError:
            pass
        finally:
            if worker is not None:
                self._drop(worker)
            await link.close()

    def _take(self, worker: Worker, message: bus.Message) -> None:
        worker.heard_at = time.monotonic()
        if isinstance(message, bus.Report):
            worker.report = message
        elif isinstance(message, bus.Applied):
            future = worker.waiting.pop(message.ticket, None)
            if future is not None and not future.done():
                future.set_result(message)
            for finding in message.findings:
                self._on_alarm("worker_refused_news", f"{worker.hello.shard}: {finding}")
        elif isinstance(message, bus.Alarm):
            self._on_alarm(message.name, f"{worker.hello.shard}: {message.detail}")

    def _drop(self, worker: Worker) -> None:
        if self._workers.get(worker.hello.shard) is worker:
            del self._workers[worker.hello.shard]
            drained = worker.report is not None and not worker.report.ready
            say = _log.info if drained else _log.warning
            say("worker_gone", shard=worker.hello.shard)
        for future in worker.waiting.values():
            if not future.done():
                future.set_exception(ConnectionError("the worker is gone"))
        worker.waiting.clear()

    async def _heartbeat(self) -> None:
        while True:
            for worker in list(self._workers.values()):
                await self._send(worker, bus.Heartbeat())
            await asyncio.sleep(HEARTBEAT_S)

    def _spawn(self, coroutine: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
