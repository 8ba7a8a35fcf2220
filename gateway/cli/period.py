"""``--since`` and ``--until``: a date, a time, or a span back from now."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Annotated

import typer

from gateway.core.clock import MOMENTS

__all__ = ["Since", "Until", "instant"]

_SPAN = re.compile(r"(\d{1,6})([smhdw])")
_FRACTION = re.compile(r"(?<=\d\d:\d\d)\.(\d{1,9})(?!\d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AS = "write it as 2026-11-25, 2026-11-25T08:30:00Z, or a span back from now: 30m, 24h, 7d"


def instant(text: str) -> int:
    """Nanoseconds since the epoch. A date is its first second in UTC; a time without a zone is UTC.

    Raises:
        typer.BadParameter: the text is none of these, or not within ``MOMENTS``.
    """
    try:
        found = _nanoseconds(text.strip())
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text[:60]!a} is no time; {_AS}") from None
    if found not in MOMENTS:
        raise typer.BadParameter(f"{text[:60]!a} is no time from 1970 until 2262; {_AS}")
    return found


def _nanoseconds(text: str) -> int:
    span = _SPAN.fullmatch(text)
    if span is not None:
        return time.time_ns() - int(span[1]) * _SECONDS[span[2]] * 1_000_000_000
    fraction = _FRACTION.search(text)  # a record's time has nine digits, a ``datetime`` keeps six
    nanoseconds = int(fraction[1].ljust(9, "0")) if fraction is not None else 0
    found = datetime.fromisoformat(_FRACTION.sub("", text))
    found = found.replace(tzinfo=UTC) if found.tzinfo is None else found
    return int(found.timestamp()) * 1_000_000_000 + nanoseconds


Since = Annotated[
    int | None,
    typer.Option(
        "--since",
        parser=instant,
        metavar="TIME",
        help="From then on: 2026-11-25, 2026-11-25T08:30:00Z, or 30m, 24h, 7d ago.",
        show_default=False,
    ),
]
Until = Annotated[
    int | None,
    typer.Option(
        "--until",
        parser=instant,
        metavar="TIME",
        help="Up to then, as --since.",
        show_default=False,
    ),
]
