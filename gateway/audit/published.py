"""A log as others read it: checkpoint, tiles and entries by path (c2sp.org/tlog-tiles). Pure.

``checkpoint``, ``tile/<L>/<N>[.p/<W>]`` and ``tile/entries/<N>[.p/<W>]``; ``N`` in groups of three
digits, all but the last with an ``x`` in front. Everything below ``tile/`` never changes.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import NamedTuple

from gateway.audit.tiles import TILE_WIDTH, TileOf

__all__ = ["EntriesOf", "Resource", "resource"]

_HASH = 32
_MAX_LEVEL = 63
_PATH = re.compile(
    r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/){0,5}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?"
)
_LENGTH = struct.Struct(">H")

EntriesOf = Callable[[int, int], list[bytes]]
"""First leaf index and how many, to the records' bytes."""


class Resource(NamedTuple):
    """What a path leads to; ``final`` where it will never change."""

    kind: str
    body: bytes
    final: bool


def resource(
    path: str, note: bytes, size: int, tile_of: TileOf, entries_of: EntriesOf
) -> Resource | None:
    """The resource at a path, or ``None``.

    Args:
        path: below the log's own prefix.
        note: the log's newest checkpoint for which there are tiles.
        size: of the tree of that checkpoint.
        tile_of: gives a tile, at least as wide as it is at that size.
        entries_of: gives records.
    """
    if path == "checkpoint":
        return Resource("text/plain; charset=utf-8", note, final=False)
    found = _PATH.fullmatch(path)
    if found is None:
        return None
    kind, digits, part = found.groups()
    level = 0 if kind == "entries" else int(kind)
    number = int(digits.replace("x", "").replace("/", ""))
    width = TILE_WIDTH if part is None else int(part)
    if level > _MAX_LEVEL or digits != _digits(number) or (part and width >= TILE_WIDTH):
        return None
    leaves = size >> (8 * level)
    if number * TILE_WIDTH + width > leaves:
        return None
    if kind == "entries":
        records = entries_of(number * TILE_WIDTH, width)
        body = b"".join(_LENGTH.pack(len(each)) + each for each in records)
    else:
        body = tile_of(level, number)[: width * _HASH]
    return Resource("application/octet-stream", body, final=True)


def _digits(number: int) -> str:
    """``1234067`` as ``x001/x234/067``."""
    groups = [f"{number % 1000:03}"]
    while number >= 1000:  # noqa: PLR2004 - groups of three digits
        number //= 1000
        groups.append(f"x{number % 1000:03}")
    return "/".join(reversed(groups))
