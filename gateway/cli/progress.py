"""How far long work has come, on a terminal's standard error and nowhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress"]

_WIDTH = 30
_EVERY_S = 0.1
_QUIET_S = 0.5
"""What is done sooner needs no bar."""


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar, told how much is done of how much; it is gone when the work is."""
    shown = False
    begun = last = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal shown, last
        now = time.monotonic()
        if not sys.stderr.isatty() or now - begun < _QUIET_S or now - last < _EVERY_S:
            return
        share = min(done / total, 1.0) if total else 1.0
        left = (now - begun) * (1 - share) / share if share else 0
        bar = ("█" * round(share * _WIDTH)).ljust(_WIDTH, "░")
        sys.stderr.write(f"\r{what}  {bar} {share:4.0%}  {left:3.0f} s left ")
        sys.stderr.flush()
        shown, last = True, now

    try:
        yield tell
    finally:
        if shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
