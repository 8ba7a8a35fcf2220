"""The logs of a state directory, one for each process that writes, as they lie on disk."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from gateway.audit.read import Entry, LogReader
from gateway.audit.segments import LogCorrupt, segment_files
from gateway.cli.terminal import EXIT_UNAVAILABLE, fail
from gateway.control.record import RecordUnreadable
from gateway.state import StateDirectory

__all__ = ["Found", "Shards", "at", "explained", "in_time", "shards_of"]

Shards = Mapping[str, LogReader]
Found = tuple[str, Entry]
"""A record and the shard that holds it."""

_POSITION = re.compile(r"(.+)#(\d{1,15})")


@contextmanager
def explained() -> Iterator[None]:
    """What may be wrong with a log on disk, in words and as an exit code."""
    try:
        yield
    except RecordUnreadable as error:
        fail(error.message, error.remedy, code=EXIT_UNAVAILABLE)
    except LogCorrupt as error:
        fail(f"the log is damaged: {error}", "see `sluicegate audit verify`", code=EXIT_UNAVAILABLE)
    except BrokenPipeError:
        raise
    except PermissionError as error:
        fail(
            f"{error.filename}: {error.strerror}",
            "run it as the user that the gateway runs as",
            code=EXIT_UNAVAILABLE,
        )
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", code=EXIT_UNAVAILABLE)


def shards_of(state: StateDirectory, chosen: Sequence[str] = ()) -> Shards:
    """The logs of a directory by name, or those chosen."""
    names = [path.name for path in sorted(state.audit.glob("*")) if segment_files(path)]
    for name in chosen:
        if name not in names:
            fail(f"there is no log {name} in {state.audit}", f"There are: {', '.join(names)}.")
    if not names:
        fail(
            f"there is no log in {state.audit}",
            "name the gateway's directory with --dir",
            code=EXIT_UNAVAILABLE,
        )
    return {name: LogReader(state.log(name)) for name in chosen or names}


def in_time(found: Sequence[Found]) -> list[Found]:
    """By the records' hybrid clocks, which grow within each log whatever the wall clock did."""
    return sorted(found, key=lambda each: int(each[1].json()["hlc"]))


def at(shards: Shards, position: str) -> Found | None:
    """The record at ``shard#seq`` or ``origin#seq``."""
    parsed = _POSITION.fullmatch(position)
    if parsed is None:
        return None
    log, seq = parsed[1], int(parsed[2])
    shard = log.rpartition("/")[2]
    entry = shards[shard].find(seq) if shard in shards else None
    if entry is None or log not in (shard, entry.json()["log"]):
        return None
    return shard, entry
