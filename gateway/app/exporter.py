"""An exporter: the process that sends the record on to one destination.

It reads the logs from disk, as anyone may, and nothing waits for it: one that hangs or fails delays
no call and no other exporter. Each log has a lane of its own, which sends a parcel again and again
until it was acknowledged, then makes the cursor durable, then goes on. So a record arrives at least
once, in the order of its log, whatever ends this process and whenever it does.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from gateway.app.destinations import Destination, destination_of
from gateway.app.opening import Process, run_process, stop_event
from gateway.audit.segments import LogCorrupt, segment_files
from gateway.audit.storage import replace_durably
from gateway.audit.stream import (
    Account,
    Cursor,
    Follower,
    Mark,
    Parcel,
    Refused,
    decode_account,
    decode_cursor,
)
from gateway.core.protocols import FetchFailed
from gateway.settings import exporter_secret
from gateway.state import StateDirectory
from gateway.telemetry import logs
from gateway.telemetry.logs import Redactor

__all__ = ["Export", "backoff", "run_exporter"]

LOOK_S = 0.5
"""Between two looks for new logs; an account is told anew as often."""
FIRST_PAUSE_S = 0.5
LAST_PAUSE_S = 30.0
_SHARES = 1_000
_log = structlog.get_logger("sluicegate.exporter")

Sleep = Callable[[float], Awaitable[None]]


def backoff(failures: int, share: float) -> float:
    """How long to wait after so many failures in a row, in seconds.

    Args:
        failures: at least 1.
        share: from 0 to 1, by chance, so that those who failed together do not try together.
    """
    pause = min(FIRST_PAUSE_S * 2.0 ** min(failures - 1, 16), LAST_PAUSE_S)
    return pause * (0.5 + share / 2)


class Export:
    """Sends the logs of one gateway to one destination.

    Args:
        account: what was told before.
        state: where the logs lie, and the cursor.
        destination: sends.
        redact: takes secrets out of what is told.
        sleep: waits; injectable for tests.

    Raises:
        ValueError: the cursor is not one.
        OSError: it cannot be read.
    """

    def __init__(
        self,
        account: Account,
        state: StateDirectory,
        destination: Destination,
        redact: Redactor,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._account, self._state, self._destination = account, state, destination
        self._redact, self._sleep = redact, sleep
        self._cursor_file = state.exporter_cursor(account.name)
        self._cursor = Cursor({})
        with suppress(FileNotFoundError):
            self._cursor = decode_cursor(self._cursor_file.read_bytes())
        self._through: dict[str, float] = {}
        self._failing: dict[str, int] = {}

    async def run(self) -> None:
        """Send, until cancelled."""
        since = self._account.through
        async with asyncio.TaskGroup() as lanes:
            while True:
                looked = time.time()
                for shard in self._shards() - self._through.keys():
                    self._through[shard] = since
                    lanes.create_task(self._lane(shard))
                since = looked
                self.tell()
                await self._sleep(LOOK_S)

    def _shards(self) -> set[str]:
        with suppress(FileNotFoundError):
            return {each.name for each in self._state.audit.iterdir() if segment_files(each)}
        return set()

    async def _lane(self, shard: str) -> None:
        """One log, from where the cursor stands."""
        follower: Follower | None = None
        while True:
            try:
                if follower is None:
                    follower = Follower(self._state.log(shard), self._mark(shard).next)
                await self._round(shard, follower)
            except (LogCorrupt, OSError) as error:  # of our own disk
                follower = None  # what it had read and was not acknowledged is read again
                await self._sleep(self._failed(shard, error))
            else:
                self._works(shard)
                await self._sleep(self._destination.poll_s)

    async def _round(self, shard: str, follower: Follower) -> None:
        """Send what is there now.

        Raises:
            LogCorrupt, OSError: the log cannot be read, or the cursor not be kept.
        """
        began = time.time()
        for parcel in self._destination.cut(follower.read(), self._mark(shard)):
            if parcel.events and not self._through[shard]:
                self._through[shard] = parcel.events[0].item.time_ns / 1e9
            if self._destination.sealing:
                self._keep(shard, Mark(self._mark(shard).next, parcel.end))
            await self._insist(shard, parcel)
            self._keep(shard, Mark(parcel.end))
            self._account.sent += len(parcel.events)
            self._works(shard)
        self._through[shard] = began

    async def _insist(self, shard: str, parcel: Parcel) -> None:
        """Send a parcel until it is acknowledged."""
        while parcel.events:
            try:
                await self._destination.send(shard, parcel)
            except (FetchFailed, Refused, OSError) as error:
                await self._sleep(self._failed(shard, error))
            else:
                return

    def _mark(self, shard: str) -> Mark:
        return self._cursor.logs.get(shard, Mark(0))

    def _keep(self, shard: str, mark: Mark) -> None:
        """Durable first: what is in memory is never ahead of the disk."""
        if mark == self._mark(shard):
            return
        ahead = Cursor({**self._cursor.logs, shard: mark})
        replace_durably(self._cursor_file, ahead.encode())
        self._cursor = ahead

    def _works(self, shard: str) -> None:
        """A parcel arrived and the cursor is kept, or there was nothing to do."""
        if self._failing.pop(shard, None):
            _log.info("exporter goes on", exporter=self._account.name, shard=shard)

    def _failed(self, shard: str, error: Exception) -> float:
        """Say so, and how long to wait."""
        failures = self._failing[shard] = self._failing.get(shard, 0) + 1
        pause = backoff(failures, secrets.randbelow(_SHARES) / _SHARES)
        told = self._redact(_words(error))
        account = self._account
        account.last_error, account.last_error_at = f"{shard}: {told}", time.time()
        name, wait = account.name, round(pause, 1)
        _log.warning("exporter fails", exporter=name, shard=shard, why=told, again_in_s=wait)
        self.tell()
        return pause

    def on_replaced(self, key: str, why: str) -> None:
        """An event was replaced by a notice of it."""
        why = self._redact(why)
        self._account.replaced += 1
        self._account.last_replaced = f"{key}: {why}"
        _log.error("event replaced by a notice", exporter=self._account.name, key=key, why=why)

    def tell(self) -> None:
        """Write the account; what cannot be told is told later."""
        self._account.through = min(self._through.values(), default=0.0)
        self._account.failures = max(self._failing.values(), default=0)
        path = self._state.exporter_account(self._account.name)
        partial = path.with_suffix(".partial")
        with suppress(OSError):
            partial.write_bytes(self._account.encode())
            partial.replace(path)


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no acknowledgement in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


async def run_exporter(process: Process) -> None:
    """Send until the process is told to stop."""
    settings, name = process.settings, process.name
    exporter = settings.exporters[name]
    secret = exporter_secret(exporter)
    known = [secret] if secret is not None else []
    logs.configure(settings.log_level.upper(), sys.stderr, secrets=known)
    state = StateDirectory(settings.state_dir)
    state.exporters.mkdir(mode=0o700, exist_ok=True)
    account = Account(name, exporter.kind)
    with suppress(FileNotFoundError, ValueError):
        account = decode_account(state.exporter_account(name).read_bytes())
    account.name, account.kind, account.pid = name, exporter.kind, os.getpid()
    export: Export
    destination = destination_of(
        exporter,
        secret,
        lambda key, why: export.on_replaced(key, why),  # noqa: PLW0108 - made after it
    )
    try:
        export = Export(account, state, destination, Redactor(known))
    except ValueError as error:
        path = state.exporter_cursor(name)
        raise ValueError(f"{path}: {error}; move it away, and every record is sent again") from None
    sending = asyncio.create_task(export.run())
    stopping = asyncio.create_task(stop_event().wait())
    await asyncio.wait({sending, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if sending.done():
        await sending  # it ends by an error alone
    sending.cancel()
    await asyncio.wait({sending})
    export.tell()
    await destination.close()


if __name__ == "__main__":
    run_process("exporter", run_exporter)
