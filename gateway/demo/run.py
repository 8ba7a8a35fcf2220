"""``sluicegate demo``: practice endpoint, seeded state, gateway, tour; then it stays up."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from gateway.demo.seed import DemoDirectory, Ports, seed
from gateway.demo.tour import Tour, your_turn
from gateway.settings import load
from gateway.supervisor import StartFailed, Supervisor

__all__ = ["DemoRefused", "run_demo"]

PRACTICE_TIMEOUT_S = 20.0


class DemoRefused(Exception):
    """The demo cannot run here."""


async def run_demo(
    root: Path,
    ports: Ports,
    *,
    tour: bool,
    upstreams: Mapping[str, str],
    say: Callable[[str], None],
) -> None:
    """Run the demo until it is interrupted.

    Args:
        root: its state directory.
        ports: where it listens.
        tour: take the newcomer through the eight steps first.
        upstreams: real endpoints by name.
        say: where lines go.

    Raises:
        DemoRefused, StartFailed, StateInUse, ConfigurationError: it did not start.
    """
    directory = DemoDirectory(root)
    if directory.foreign:
        raise DemoRefused(f"{root} is or holds something that no demo made; choose another --dir")
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    practice = supervisor = None
    try:
        with _claimed(directory):
            practice = await _start_practice(directory)
            practice_url = await _practice_url(practice)
            directory.write_configuration(ports, practice_url, upstreams)
            if not directory.seeded:
                say("seeding: one organisation, three members, sample policies")
            for note in await seed(directory, ports, practice_url):
                say(note)
        settings = load(directory.configuration, dev=True, demo=True)
        supervisor = Supervisor(
            settings=settings,
            configuration=directory.configuration,
            flags=["--dev", "--demo"],
            say=say,
        )
        await supervisor.start()
        say(f"the gateway runs at {settings.data.url}, its state is in {root}")
        if tour:
            await _until(stopped, Tour(directory, say).walk())
        if not stopped.is_set():
            for line in your_turn(directory.read(), directory.state.root):
                say(line)
            await stopped.wait()
        say("stopping")
    finally:
        if supervisor is not None:
            await supervisor.stop()
        if practice is not None and practice.returncode is None:
            practice.terminate()
            await practice.wait()


@contextmanager
def _claimed(directory: DemoDirectory) -> Iterator[None]:
    """Hold the directory while it is written to: a demo that runs in it keeps what it has."""
    directory.state.prepare()
    descriptor = directory.state.claim()
    try:
        if not directory.state.demo.exists():
            directory.write()  # stamped before anything secret is made in it
        directory.keep_out_of_git()
        yield
    finally:
        os.close(descriptor)


async def _until(stopped: asyncio.Event, walk: object) -> None:
    """Walk the tour, or stop in the middle of it."""
    walking = asyncio.ensure_future(walk)  # type: ignore[call-overload]
    waiting = asyncio.ensure_future(stopped.wait())
    await asyncio.wait({walking, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if stopped.is_set():
        walking.cancel()
        with suppress(asyncio.CancelledError):
            await walking
    else:
        walking.result()


async def _start_practice(directory: DemoDirectory) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway.demo.practice",
        "--port",
        "0",
        "--key-file",
        str(directory.practice_key_file()),
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )


async def _practice_url(practice: asyncio.subprocess.Process) -> str:
    """The address that the practice endpoint prints once it listens."""
    assert practice.stdout is not None
    try:
        async with asyncio.timeout(PRACTICE_TIMEOUT_S):
            line = (await practice.stdout.readline()).decode()
    except TimeoutError:
        line = ""
    if "http://" not in line:
        raise StartFailed("the practice endpoint did not start")
    return line[line.index("http://") :].strip()
