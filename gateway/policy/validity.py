"""How long a decision holds: until the first instant at which the same facts may decide anew.

A rule compares the time with timestamps of the facts, timestamps of the revision and the
calendar, and with nothing else (``lint``). Whether it writes ``>=`` or ``>``, it changes its mind
at such a timestamp or a second later, so between those the decision is constant. A rule may
shorten that, and nothing lengthens it.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence

from gateway.core.clock import parse_timestamp, timestamp
from gateway.core.decision import Decision

__all__ = ["MAX_VALIDITY_S", "next_boundary", "valid_until"]

MAX_VALIDITY_S = 60
_HOUR_S = 3600

_TIMESTAMPS = re.compile(rb'"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)"')


def valid_until(facts: bytes, now: int, instants: Sequence[int], decision: Decision) -> float:
    """The end of a decision's validity, exclusive.

    Args:
        facts: the evaluated JSON; every timestamp in it is a boundary.
        now: Unix seconds of the ``context.time`` in it.
        instants: Unix seconds of the revision's timestamps, ascending.
        decision: what the rules answered; its own ``valid_until`` only shortens.

    Returns:
        Unix seconds, later than ``now`` unless the decision says that it is over.

    Raises:
        ValueError: a timestamp in the facts is no time.
    """
    end = min(now + MAX_VALIDITY_S, now - now % _HOUR_S + _HOUR_S)
    boundary = next_boundary(facts, now, instants)
    if boundary is not None:
        end = min(end, boundary)
    if decision.valid_until is not None:
        end = min(end, parse_timestamp(decision.valid_until))
    return float(end)


def next_boundary(facts: bytes, now: int, instants: Sequence[int]) -> int | None:
    """The first second after ``now`` at which a comparison with a timestamp of the facts or of the
    revision may come out otherwise; ``None`` where none is left. Arguments and errors are those of
    ``valid_until``."""
    ends = []
    position = bisect_left(instants, now)
    if position < len(instants):
        ends.append(_next(instants[position], now))
    present = timestamp(now).encode()
    # In this one spelling the order of the texts is the order of the instants.
    stamps = [stamp for stamp in _TIMESTAMPS.findall(facts) if stamp >= present]
    stamps.remove(present)  # context.time itself
    if stamps:
        ends.append(_next(parse_timestamp(min(stamps).decode()), now))
    return min(ends, default=None)


def _next(instant: int, now: int) -> int:
    return instant if instant > now else instant + 1
