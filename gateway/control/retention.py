"""Sealed content goes when its time is over: recorded first, then removed.

So content that is missing without such a record is damage. A pruning that is cut short between the
two is done again by the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import date

from gateway.audit.content_retention import Expired, expired, remove
from gateway.audit.records import ContentPruned, ContentRange
from gateway.audit.writer import AuditLog
from gateway.state import StateDirectory

__all__ = ["Pruned", "prune"]

RANGES_IN_A_RECORD = 300
"""A range takes about 80 of a record's 32,768 bytes."""


@dataclass(slots=True)
class Pruned:
    """What a pruning removed, and ``held`` pieces that it left for a legal hold; ``before`` is the
    first day (UTC) that stays."""

    before: str
    pieces: int = 0
    bytes: int = 0
    held: int = 0
    records: int = 0


async def prune(
    log: AuditLog,
    state: StateDirectory,
    before: date,
    held: AbstractSet[str],
    *,
    actor: str,
    reason: str,
) -> Pruned:
    """Remove sealed content of days before ``before``, except that of members in ``held``.

    Args:
        log: where it is recorded.
        state: the content of all its logs is looked at.
        before: the first day that stays.
        held: ids of members under legal hold.
        actor: who asks for it.
        reason: why.

    Raises:
        LogUnavailable: it could not be recorded; what had been recorded before is removed.
        OSError: content could not be read or removed.
    """
    told = Pruned(before.isoformat())
    for shard, vkey in state.vkeys().items():
        files = await asyncio.to_thread(expired, state.content(shard), before, held)
        for file in files:
            pieces, size, kept = file.pieces, file.bytes, file.held
            for ranges in _in_records(file):
                await log.append(
                    ContentPruned(
                        actor=actor,
                        reason=reason,
                        origin=vkey.partition("+")[0],
                        before=told.before,
                        pieces=pieces,
                        bytes=size,
                        held=kept,
                        ranges=ranges,
                    )
                )
                told.records += 1
                pieces = size = kept = 0  # said once for the file
            await asyncio.to_thread(remove, file)
            told.pieces += file.pieces
            told.bytes += file.bytes
            told.held += file.held
    return told


def _in_records(file: Expired) -> Iterator[tuple[ContentRange, ...]]:
    for first in range(0, len(file.ranges), RANGES_IN_A_RECORD):
        some = file.ranges[first : first + RANGES_IN_A_RECORD]
        yield tuple(
            ContentRange(segment=file.path.name, start=start, end=end) for start, end in some
        )
