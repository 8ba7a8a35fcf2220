"""Receipts: one record proved to be in a log, offline (c2sp.org/tlog-proof).

``c2sp.org/tlog-proof@v1``, ``index N``, the hashes of the audit path in base64, a blank line, the
signed checkpoint. The record's own bytes travel beside it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

from gateway.audit.note import HASH_BYTES, Checkpoint, NoteError, VerifierKey, parse_checkpoint
from gateway.audit.tlog import leaf_hash, verify_inclusion

__all__ = ["check_proof", "format_proof"]

_TITLE = "c2sp.org/tlog-proof@v1"
_INDEX = "index "
MAX_HASHES = 64


def format_proof(index: int, path: Sequence[bytes], note: bytes) -> bytes:
    """The proof that leaf ``index`` is in the tree of the checkpoint ``note``."""
    lines = [_TITLE, f"{_INDEX}{index}", *(base64.b64encode(node).decode() for node in path)]
    return "\n".join(lines).encode() + b"\n\n" + note


def check_proof(proof: bytes, record: bytes, keys: Sequence[VerifierKey]) -> tuple[int, Checkpoint]:
    """Whether ``proof`` shows that the log of a signed checkpoint holds ``record``.

    Returns:
        The record's index, and the checkpoint.

    Raises:
        NoteError: the proof is malformed, its checkpoint is not signed by one of ``keys``, or it
            does not lead from the record to the checkpoint's root.
    """
    head, blank, note = proof.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
        path = [base64.b64decode(line, validate=True) for line in lines[2:]]
    except (UnicodeDecodeError, binascii.Error):
        raise NoteError("the proof is malformed") from None
    index = lines[1].removeprefix(_INDEX) if len(lines) > 1 else ""
    canonical = index.isascii() and index.isdigit() and str(int(index[:20])) == index
    if not blank or lines[0] != _TITLE or lines[1] != _INDEX + index or not canonical:
        raise NoteError("the proof is malformed")
    if len(path) > MAX_HASHES or any(len(node) != HASH_BYTES for node in path):
        raise NoteError("the proof is malformed")
    checkpoint = parse_checkpoint(note, keys)
    if not verify_inclusion(leaf_hash(record), int(index), checkpoint.size, path, checkpoint.root):
        raise NoteError("the proof does not lead from the record to the signed root")
    return int(index), checkpoint
