"""A bound on all request bodies held at once, so that many large uploads cannot end a worker, and
on one member's part of it, so that he cannot keep the others out.
"""

from __future__ import annotations

__all__ = ["MemoryBudget"]

LARGEST_SHARE = 4
"""One member holds at most this part (1 in 4), or one body where that is more."""


class MemoryBudget:
    """Counts bytes that have arrived; does not wait. A body that does not fit now is refused now.

    Args:
        limit: bytes that may be held at once.
        largest: bytes of the largest body.
    """

    def __init__(self, limit: int, largest: int) -> None:
        self.limit = limit
        self.held = 0
        self._share = max(limit // LARGEST_SHARE, largest)
        self._of: dict[str, int] = {}

    def take(self, member: str, size: int) -> bool:
        """Hold ``size`` more bytes for a member, if they fit."""
        own = self._of.get(member, 0) + size
        if self.held + size > self.limit or own > self._share:
            return False
        self.held += size
        self._of[member] = own
        return True

    def give_back(self, member: str, size: int) -> None:
        """Let go of ``size`` bytes."""
        self.held -= size
        own = self._of.get(member, 0) - size
        if own > 0:
            self._of[member] = own
        else:
            self._of.pop(member, None)
