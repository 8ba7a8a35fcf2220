"""Decisions remembered, so that the same question within its validity is not evaluated again.

The key is the facts without time and calendar. An entry answers only for the revision and the
directives it was made under, and only from the moment it was made until its validity ends: a
clock that went back asks anew.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

__all__ = ["Memo", "facts_without_time"]

T = TypeVar("T")

_BEGIN = b'"context":{"time":"'
_END = b',"clock":'


def facts_without_time(facts: bytes) -> bytes:
    """Canonical facts with ``context.time`` and ``context.calendar`` cut out.

    Both marks hold an unescaped quote, so they cannot stand inside a string, and ``context`` is
    the last object of ``core.facts.Facts``.

    Raises:
        ValueError: these are not canonical facts.
    """
    begin = facts.rindex(_BEGIN)
    return facts[:begin] + facts[facts.index(_END, begin) :]


class Memo(Generic[T]):
    """A bounded map that forgets what was used longest ago.

    Args:
        size: the most entries it holds; 0 remembers nothing.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[bytes, tuple[object, int, float, T]] = OrderedDict()
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes, scope: object, now: int) -> T | None:
        """What was put under this key and this very scope, if it is valid at ``now``."""
        entry = self._entries.get(key)
        if entry is not None and entry[0] is scope and entry[1] <= now < entry[2]:
            self._entries.move_to_end(key)
            self.hits += 1
            return entry[3]
        self.misses += 1
        return None

    def put(self, key: bytes, scope: object, created: int, valid_until: float, value: T) -> None:
        """Remember ``value`` from ``created`` until ``valid_until`` (Unix seconds)."""
        if self._size == 0 or valid_until <= created:
            return
        self._entries[key] = (scope, created, valid_until, value)
        self._entries.move_to_end(key)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def clear(self) -> None:
        """Forget everything; the counters go on."""
        self._entries.clear()
