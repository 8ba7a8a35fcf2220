"""Checkpoints that are kept outside the logs: their heads, and those that witnesses cosigned.

A log that was cut back, or written anew, is noticed by them, so each is either good, torn by a
power cut (a head may be), or a finding: to damage one must not help to be rid of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gateway.audit.note import Checkpoint, NoteError, VerifierKey, parse_checkpoint
from gateway.state import StateDirectory

__all__ = ["kept_checkpoints"]


def kept_checkpoints(
    state: StateDirectory,
    shard: str,
    keys: Sequence[VerifierKey],
    warn: Callable[[str], None] = lambda _: None,
) -> tuple[list[Checkpoint], list[str]]:
    """What is kept of one log, and what is wrong with it.

    Args:
        state: the state directory.
        shard: of the log.
        keys: that may sign it.
        warn: is told of a head that is torn, which is no finding.
    """
    good: list[Checkpoint] = []
    wrong: list[str] = []
    for path in (state.head(shard), state.cosigned(shard)):
        try:
            note = path.read_bytes()
        except FileNotFoundError:
            continue
        where = f"{path.parent.name}/{path.name}"
        try:
            good.append(parse_checkpoint(note, keys))
        except NoteError as error:
            if path == state.head(shard) and _torn(note):
                warn(f"{where} is torn, as by a power cut: the log is not held against it")
            else:
                wrong.append(f"{where}: {error}")
    return good, wrong


def _torn(note: bytes) -> bool:
    """Whether a note only lacks its end."""
    return not note.endswith(b"\n") or b"\n\n" not in note
