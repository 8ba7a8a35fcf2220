"""The ``Server-Timing`` header (W3C Server Timing, section 3)."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["server_timing"]


def server_timing(steps: Iterable[tuple[str, float]]) -> str:
    """``identify;dur=0.12, decide;dur=0.31``: durations go out in milliseconds.

    Args:
        steps: step names (tokens of RFC 9110) and durations in seconds, in order.
    """
    return ", ".join([f"{name};dur={max(0.0, seconds) * 1000:.2f}" for name, seconds in steps])
