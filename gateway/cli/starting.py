"""How to start the gateway of a directory, and what to change where it did not start."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping

from gateway.state import StateDirectory

__all__ = ["how_to_start", "other_addresses"]


def how_to_start(state: StateDirectory) -> str:
    """The command that starts what is stopped in a state directory, or where else to look."""
    root = shlex.quote(str(state.root))
    if state.demo.exists():
        return f"start it with `sluicegate demo --dir {root}`"
    if not state.root.is_dir():
        return (
            f"there is no {root}: name the gateway's state directory with --dir, "
            "or start one with `sluicegate serve`"
        )
    inside = state.root / "sluicegate.yaml"
    if inside.is_file():
        return f"start it with `sluicegate serve --config {shlex.quote(str(inside))}`"
    return "start it with `sluicegate serve --config FILE`, where FILE has this state_dir"


def other_addresses(findings: Iterable[str], options: Mapping[str, str]) -> str:
    """What to change where listeners could not be bound.

    Args:
        findings: each ``<setting>: what is wrong``.
        options: how each setting is written by whoever reads this.
    """
    settings = (finding.partition(":")[0] for finding in findings)
    named = [options[setting] for setting in settings if setting in options]
    if not named:
        return ""
    return f"stop what listens there, or choose another with {' and '.join(named)}"
