"""What all kinds of process open first, and how a process begins and ends."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import uvloop

from gateway import __version__
from gateway.audit.content import parse_public_role_key
from gateway.audit.content_writer import ContentWriter
from gateway.audit.note import Checkpoint, NoteError, SigningKey, parse_checkpoint
from gateway.audit.records import Gateway
from gateway.audit.segments import LogCorrupt, segment_files
from gateway.audit.writer import AuditLog
from gateway.core.protocols import LimiterUnavailable, LogUnavailable
from gateway.settings import ConfigurationError, Settings, load
from gateway.state import CONTROL_SHARD, StateDirectory

__all__ = ["CANNOT_START", "Process", "open_log", "run_process", "stop_event"]

READ_WHOLE_BYTES = 256 * 1024 * 1024
"""A log up to this size is read whole at start, in about two seconds; of a longer one the last
segment, which vouches for the rest, and ``audit verify`` reads it all."""
CANNOT_START = (LogCorrupt, LogUnavailable, LimiterUnavailable, NoteError, ValueError, OSError)
"""What a process may find on its disk or in its stores that keeps it from starting."""
EXIT_USAGE, EXIT_UNAVAILABLE = 2, 3


@dataclass(frozen=True, slots=True)
class Process:
    """What the supervisor gives a process: settings, bound sockets, and its number or name."""

    settings: Settings
    sockets: list[socket.socket]
    index: int
    name: str = ""


def run_process(
    name: str,
    body: Callable[[Process], Coroutine[None, None, None]],
    cannot_start: tuple[type[Exception], ...] = CANNOT_START,
) -> None:
    """Be one process: read the supervisor's arguments and the settings, run, or say why not."""
    parser = argparse.ArgumentParser(prog=f"sluicegate {name}")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--fd", type=int, action="append", default=[])
    parser.add_argument("--index", type=int, default=0)
    parser.add_argument("--name", default="")
    parser.add_argument("--dev", action="store_true")
    parser.add_argument("--demo", action="store_true")
    asked = parser.parse_args()
    try:
        settings = load(asked.config, dev=asked.dev, demo=asked.demo)
    except ConfigurationError as error:
        _end(EXIT_USAGE, "; ".join(error.findings))
    sockets = [socket.socket(fileno=each) for each in asked.fd]
    for each in sockets:
        each.setblocking(False)
    try:
        uvloop.run(body(Process(settings, sockets, asked.index, asked.name)))
    except cannot_start as error:
        _end(EXIT_UNAVAILABLE, f"{name}: {error}")


def _end(code: int, message: str) -> None:
    sys.stderr.write(f"sluicegate: {message}\n")
    raise SystemExit(code)


def open_log(state: StateDirectory, shard: str, settings: Settings) -> AuditLog:
    """Open one shard, with its key (made with the log) and the checkpoint kept outside it.

    Raises:
        LogCorrupt, LogUnavailable, NoteError: the shard must not be written.
    """
    state.prepare()
    origin = f"{settings.audit.name}/{shard}"
    path = state.log_key(shard)
    key = SigningKey.load(path) if path.exists() else SigningKey.create(path, origin)
    state.vkey(shard).write_text(key.vkey + "\n")
    head = state.head(shard)
    known: Checkpoint | None = None
    if head.exists() and head.stat().st_size:
        with suppress(NoteError):  # torn by a power cut: it is a second witness, not the log
            known = parse_checkpoint(head.read_bytes(), [key.verifier])
    directory = state.log(shard)
    size = (
        sum(each.stat().st_size for each in segment_files(directory)) if directory.exists() else 0
    )
    return AuditLog.open(
        directory,
        origin,
        key,
        node=Gateway(node=socket.gethostname(), build=__version__),
        content=_content(state, shard, origin, settings),
        segment_bytes=settings.audit.segment_bytes,
        known=known,
        # The registry believes what the control shard says of its rows.
        full=shard == CONTROL_SHARD or size <= READ_WHOLE_BYTES,
        on_head=_head_keeper(head),
    )


def _content(
    state: StateDirectory, shard: str, origin: str, settings: Settings
) -> ContentWriter | None:
    """Where a shard's content is sealed, if there are the keys of both roles."""
    reviewer, approver = settings.content.reviewer, settings.content.approver
    if reviewer is None or approver is None:
        return None
    keys = (parse_public_role_key(reviewer), parse_public_role_key(approver))
    return ContentWriter(state.content(shard), origin, *keys)


def _head_keeper(path: Path) -> Callable[[Checkpoint], None]:
    """Keeps the newest checkpoint in a file of its own; one write, after the log is durable."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    length = os.fstat(descriptor).st_size

    def keep(head: Checkpoint) -> None:
        nonlocal length
        os.pwrite(descriptor, head.note, 0)
        if len(head.note) < length:
            os.ftruncate(descriptor, len(head.note))
        length = len(head.note)

    return keep


def stop_event() -> asyncio.Event:
    """Set by SIGTERM or SIGINT, and when the supervisor, whose pipe is our input, is gone."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)

    def supervisor_gone() -> None:
        if not os.read(sys.stdin.fileno(), 1024):
            loop.remove_reader(sys.stdin.fileno())
            stopped.set()

    if sys.stdin is not None and not sys.stdin.isatty():
        with suppress(PermissionError, OSError):  # a file or /dev/null cannot be watched
            loop.add_reader(sys.stdin.fileno(), supervisor_gone)
    return stopped
