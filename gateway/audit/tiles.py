"""The tree in tiles (c2sp.org/tlog-tiles): 256 hashes each, so that a proof reads a few of them.

Tile ``(level, n)`` holds the roots of the perfect subtrees of ``256**level`` leaves from number
``256 * n`` on; the last of a level may be partial. Pure: whoever keeps tiles hands over a function
that gives one, at least as wide as it was last made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from gateway.audit.tlog import EMPTY_ROOT, Subtree, node_hash

__all__ = ["TILE_WIDTH", "Tile", "TileOf", "extended", "subtree_of"]

TILE_WIDTH = 256
_HEIGHT = 8
_HASH = 32

TileOf = Callable[[int, int], bytes]
"""Level and number to the tile's hashes, one after another; ``KeyError`` where there is none."""
Tile = tuple[int, int, bytes]
"""Level, number, hashes."""


def extended(tile_of: TileOf, size: int, leaves: Sequence[bytes]) -> Iterator[Tile]:
    """The tiles that are new or wider when ``leaves`` (hashes) follow a tree of ``size`` leaves.

    Raises:
        KeyError: a tile of the tree before is missing.
    """
    level, new = 0, list(leaves)
    while new:
        number, filled = divmod(size, TILE_WIDTH)
        hashes = (tile_of(level, number) if filled else b"")[: filled * _HASH] + b"".join(new)
        new = []
        for at in range(0, len(hashes), TILE_WIDTH * _HASH):
            tile = hashes[at : at + TILE_WIDTH * _HASH]
            yield level, number, tile
            number += 1
            if len(tile) == TILE_WIDTH * _HASH:
                new.append(_root(tile))
        level, size = level + 1, size // TILE_WIDTH


def subtree_of(tile_of: TileOf) -> Subtree:
    """The roots of subtrees, read from tiles.

    What is given raises ``KeyError`` where a tile is missing or too short.
    """

    def subtree(start: int, size: int) -> bytes:
        if size == 0:
            return EMPTY_ROOT
        largest = 1 << (size.bit_length() - 1)
        if largest != size:
            return node_hash(subtree(start, largest), subtree(start + largest, size - largest))
        level, height = divmod(size.bit_length() - 1, _HEIGHT)
        first = start >> (_HEIGHT * level)
        number, at = divmod(first, TILE_WIDTH)
        wanted = tile_of(level, number)[at * _HASH : (at + (1 << height)) * _HASH]
        if len(wanted) != _HASH << height:
            raise KeyError(f"tile {level}/{number} is too short")
        return _root(wanted)

    return subtree


def _root(hashes: bytes) -> bytes:
    """The root over a power of two of hashes."""
    row = [hashes[at : at + _HASH] for at in range(0, len(hashes), _HASH)]
    while len(row) > 1:
        row = [node_hash(row[at], row[at + 1]) for at in range(0, len(row), 2)]
    return row[0]
