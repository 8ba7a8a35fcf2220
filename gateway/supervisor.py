"""The supervisor: binds the listeners, starts the processes, watches them, stops them in order.

All listeners are bound before anything starts, so a port in use is one clear error and nothing
runs. A child that dies during start-up ends the start; one that dies later is started again. Each
child's standard input is a pipe from here: when this process is gone, they stop by themselves.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from gateway.control.client import ControlClient, ControlUnavailable
from gateway.serving import bind
from gateway.settings import ConfigurationError, Listener, Settings, child_environment
from gateway.state import StateDirectory

__all__ = ["StartFailed", "Supervisor"]

START_TIMEOUT_S = 60.0
RESTART_FIRST_S = 0.5
RESTART_LAST_S = 15.0
STEADY_S = 60.0
"""A child that ran for so long before it ended is started again as if for the first time."""
STOP_MARGIN_S = 8.0


class StartFailed(Exception):
    """The gateway did not start; everything that had been started was stopped."""


@dataclass(slots=True, eq=False)
class Child:
    """One process and how to start it."""

    name: str
    module: str
    arguments: Sequence[str]
    sockets: Sequence[socket.socket]
    keep_provider_keys: bool
    exporter: str = ""
    process: asyncio.subprocess.Process | None = None
    watcher: asyncio.Task[None] | None = None
    failures: int = 0


@dataclass(slots=True)
class Supervisor:
    """Runs one gateway.

    Args:
        settings: what to run.
        configuration: the file that the children read again.
        flags: passed on to them (``--dev``, ``--demo``).
        say: where lines for people go.
    """

    settings: Settings
    configuration: Path
    flags: Sequence[str]
    say: Callable[[str], None]
    _children: list[Child] = field(default_factory=list)
    _stopping: bool = False

    async def start(self) -> None:
        """Start everything and wait until a call could be served.

        Raises:
            StartFailed, StateInUse: nothing runs.
        """
        state = StateDirectory(self.settings.state_dir)
        if not state.socket_path_fits():
            raise StartFailed(
                f"state_dir: {state.root} is too long a path for a local socket; choose a shorter"
            )
        try:
            state.prepare()
        except OSError as error:
            raise StartFailed(f"state_dir: {error.filename}: {error.strerror}") from None
        os.set_inheritable(state.claim(), False)
        data, console, ops = self._bind_all()
        state.control_socket.unlink(missing_ok=True)
        common = ["--config", str(self.configuration), *self.flags]
        self._children = [
            Child(
                "control",
                "gateway.app.control",
                [
                    *common,
                    *("--fd", str(console.fileno()), "--fd", str(ops.fileno())),
                ],
                [console, ops],
                keep_provider_keys=False,
            ),
            *(
                Child(
                    f"data-{index}",
                    "gateway.app.data",
                    [
                        *common,
                        *("--index", str(index), "--fd", str(data.fileno())),
                    ],
                    [data],
                    keep_provider_keys=True,
                )
                for index in range(self.settings.data.workers)
            ),
        ]
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self.stop)
            for child in self._children:
                await self._spawn(child)
            await self._until_ready(ControlClient(state.control_socket))
            for exporter in self._exporters(common):  # they keep no call and no start waiting
                self._children.append(exporter)
                await self._spawn(exporter)
            undo.pop_all()
        for child in self._children:
            child.watcher = asyncio.create_task(self._watch(child))

    def _exporters(self, common: Sequence[str]) -> list[Child]:
        """One process each, so that none holds up another."""
        return [
            Child(
                f"exporter {name}",
                "gateway.app.exporter",
                [*common, "--name", name],
                [],
                keep_provider_keys=False,
                exporter=name,
            )
            for name in self.settings.exporters
        ]

    async def stop(self) -> None:
        """Data workers drain first; the control process goes last."""
        self._stopping = True
        for child in self._children:
            if child.watcher is not None:
                child.watcher.cancel()
        workers = [child for child in self._children if child.name != "control"]
        for child in workers:
            for each in child.sockets:
                each.close()  # or calls would wait in its backlog after the last worker closed it
        await asyncio.gather(*(self._end(child, self.settings.data.drain_s) for child in workers))
        for child in self._children:
            await self._end(child, 0)

    def _bind_all(self) -> list[socket.socket]:
        bound: list[socket.socket] = []
        problems = []
        named: list[tuple[str, Listener]] = [
            ("data", self.settings.data),
            ("console", self.settings.console),
            ("ops", self.settings.ops),
        ]
        for name, listener in named:
            try:
                bound.append(bind(listener))
            except OSError as error:
                problems.append(f"{name}.listen: {listener.listen}: {error.strerror}")
        if problems:
            for each in bound:
                each.close()
            raise ConfigurationError(problems)
        return bound

    async def _spawn(self, child: Child) -> None:
        child.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            child.module,
            *child.arguments,
            stdin=asyncio.subprocess.PIPE,
            env=child_environment(
                keep_provider_keys=child.keep_provider_keys, exporter=child.exporter
            ),
            pass_fds=[each.fileno() for each in child.sockets],
            start_new_session=True,  # Ctrl-C reaches the supervisor, which stops in order
        )

    async def _until_ready(self, client: ControlClient) -> None:
        """Wait for the first ready report, or for what went wrong."""
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
        while True:
            for child in self._children:
                assert child.process is not None
                if child.process.returncode is not None:
                    raise StartFailed(
                        f"{child.name} ended with code {child.process.returncode}; "
                        "what it said stands above"
                    )
            try:
                status = await client.get("/status")
            except ControlUnavailable:
                status = {"ready": False, "workers": [], "problems": []}
            if sum(worker["ready"] for worker in status["workers"]) == self.settings.data.workers:
                return
            policy = [each["what"] for each in status["problems"] if "policy" in each["what"]]
            if policy:
                raise StartFailed(policy[0])
            if asyncio.get_running_loop().time() > deadline:
                raise StartFailed("; ".join(each["what"] for each in status["problems"]))
            await asyncio.sleep(0.05)

    async def _watch(self, child: Child) -> None:
        loop = asyncio.get_running_loop()
        while not self._stopping:
            assert child.process is not None
            since = loop.time()
            code = await child.process.wait()
            if self._stopping:
                return
            if loop.time() - since > STEADY_S:
                child.failures = 0
            child.failures += 1
            pause = min(RESTART_FIRST_S * 2 ** (child.failures - 1), RESTART_LAST_S)
            self.say(f"{child.name} ended with code {code}; starting it again in {pause:g} s")
            await asyncio.sleep(pause)
            await self._spawn(child)

    async def _end(self, child: Child, drain_s: float) -> None:
        process = child.process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(drain_s + STOP_MARGIN_S):
                await process.wait()
        except TimeoutError:
            self.say(f"{child.name} did not stop in time and is killed")
            process.kill()
            await process.wait()
