"""The record as commands and the console consult it: the logs with their keys, and an index that is
up to date. One that is damaged is made anew from the logs, once; what it knew is kept in mind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TypeVar

from gateway.audit.index import Index, IndexDamaged, Log, Progress
from gateway.audit.note import NoteError, VerifierKey
from gateway.audit.segments import segment_files
from gateway.control.kept import kept_checkpoints
from gateway.state import StateDirectory

__all__ = ["RecordUnreadable", "Warn", "consult", "forget_index", "index_of", "logs_of"]

Answer = TypeVar("Answer")
Warn = Callable[[str], None]


class RecordUnreadable(Exception):
    """The logs cannot be consulted. ``remedy`` says what to do."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


def logs_of(state: StateDirectory, warn: Warn = lambda _: None) -> dict[str, Log]:
    """All logs of a directory with their public keys, and the checkpoints kept beside them.

    Raises:
        RecordUnreadable: there is none, or a key or a kept checkpoint is missing or wrong.
    """
    logs, keys = {}, state.vkeys()
    shards = [path.name for path in sorted(state.audit.glob("*")) if segment_files(path)]
    if not shards:
        raise RecordUnreadable(
            f"there is no log in {state.audit}", "name the gateway's directory with --dir"
        )
    for shard in shards:
        try:
            key = VerifierKey.parse(keys[shard])
            kept, wrong = kept_checkpoints(state, shard, [key], warn)
        except KeyError:
            raise RecordUnreadable(
                f"there is no public key of {shard} in {state.root / 'vkeys'}",
                "put back the copy that you keep elsewhere",
            ) from None
        except NoteError as error:
            raise RecordUnreadable(
                f"{state.vkey(shard)}: {error}", "put back the copy that you keep elsewhere"
            ) from None
        if wrong:
            raise RecordUnreadable(wrong[0], "see `sluicegate audit verify`")
        logs[shard] = Log(state.log(shard), [key], kept)
    return logs


def consult(
    state: StateDirectory,
    question: Callable[[Index, dict[str, Log]], Answer],
    *,
    tell: Progress = lambda _done, _all: None,
    warn: Warn = lambda _: None,
) -> Answer:
    """The answer of an index that is up to date.

    Args:
        state: the state directory.
        question: asked with the index and the logs; may be asked twice.
        tell: of the reading that brings the index up to date.
        warn: is told of an index that is made anew.

    Raises:
        RecordUnreadable: the logs cannot be consulted, or no index that is made of them fits them.
        LogCorrupt, OSError: a log is damaged or cannot be read.
    """
    logs = logs_of(state, warn)
    try:
        with index_of(state, logs, tell) as index:
            return question(index, logs)
    except IndexDamaged as error:
        warn(f"{error}; the index is made anew from the logs")
        logs = _remembered(state, logs)
        forget_index(state)
    try:
        with index_of(state, logs, tell) as index:
            return question(index, logs)
    except IndexDamaged as error:
        raise RecordUnreadable(
            f"{error}, though the index was just made", "see `sluicegate audit verify`"
        ) from None


@contextmanager
def index_of(
    state: StateDirectory, logs: dict[str, Log], tell: Progress = lambda _done, _all: None
) -> Iterator[Index]:
    """The index, up to date.

    Raises:
        IndexDamaged: it is none of these logs.
        LogCorrupt, OSError: a log is damaged or cannot be read.
    """
    with closing(Index(state.index, logs)) as index:
        index.catch_up(tell)
        yield index


def forget_index(state: StateDirectory) -> None:
    """Delete the index with the files that SQLite keeps beside it."""
    for suffix in ("", "-wal", "-shm"):
        state.index.with_name(state.index.name + suffix).unlink(missing_ok=True)


def _remembered(state: StateDirectory, logs: dict[str, Log]) -> dict[str, Log]:
    """The logs, and what a damaged index says that their keys signed: an index that does not fit
    because a log was cut back is a witness, and is not thrown away unheard."""
    try:
        index = Index(state.index, logs)
    except IndexDamaged:
        return logs
    with closing(index):
        heads = index.signed_heads()
    return {
        shard: replace(log, kept=[*log.kept, *([heads[shard]] if shard in heads else [])])
        for shard, log in logs.items()
    }
