"""Pictures, as figures for inline SVG. Pure: the templates draw what is computed here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["EFFECTS", "Bar", "effects_over_time"]

EFFECTS = ("allow", "downgrade", "step_up", "require_approval", "deny", "refused")
"""From the bottom of each bar to its top."""


class Bar(NamedTuple):
    """A rectangle in units of the picture, and what it stands for."""

    x: float
    y: float
    width: float
    height: float
    effect: str
    label: str


def effects_over_time(
    first: int, hours: int, found: Mapping[int, Mapping[str, int]], width: float, height: float
) -> tuple[list[Bar], int]:
    """Stacked bars, one for each hour, and the calls of the busiest.

    Args:
        first: the first hour's number since the epoch.
        hours: how many.
        found: calls by effect of hours that have any.
        width: of the picture.
        height: of the picture.
    """
    most = max((sum(each.values()) for each in found.values()), default=0)
    step = width / hours
    bars = []
    for hour, counts in sorted(found.items()):
        top = height
        for effect in EFFECTS:
            calls = counts.get(effect, 0)
            if calls:
                tall = height * calls / most
                top -= tall
                x = (hour - first) * step
                wide = max(step - 1, 1)
                bars.append(
                    Bar(round(x, 2), round(top, 2), wide, round(tall, 2), effect, f"{calls}")
                )
    return bars, most
