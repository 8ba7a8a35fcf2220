"""A bound on all request bodies held at once, so that many large uploads cannot end a worker."""

from __future__ import annotations

__all__ = ["MemoryBudget"]


class MemoryBudget:
    """Counts bytes; does not wait. A body that does not fit now is refused now.

    Args:
        limit: bytes that may be held at once.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def take(self, size: int) -> bool:
        """Hold ``size`` more bytes, if they fit."""
        if self.held + size > self.limit:
            return False
        self.held += size
        return True

    def give_back(self, size: int) -> None:
        """Let go of ``size`` bytes."""
        self.held -= size
