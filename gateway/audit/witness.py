"""A witness: it cosigns a log's checkpoint only if that extends the last one it saw
(c2sp.org/tlog-witness).

So a log cannot be cut back, or show two faces, to anyone who asks for the witness's signature. It
is worth as much as it is independent: run it elsewhere, under someone else.

The protocol is here, without a socket. What was seen is kept in files, one a log, and is on disk
before the answer is given.
"""

from __future__ import annotations

import base64
import fcntl
import os
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from gateway.audit.cosign import WitnessSigner
from gateway.audit.note import (
    HASH_BYTES,
    MAX_SIZE_DIGITS,
    Checkpoint,
    NoteError,
    VerifierKey,
    decode_base64,
    parse_checkpoint,
    signature_lines,
)
from gateway.audit.storage import replace_durably
from gateway.audit.tlog import EMPTY_ROOT, verify_consistency

__all__ = ["MAX_REQUEST_BYTES", "Reply", "Witness", "WitnessBusy", "format_request"]

MAX_REQUEST_BYTES = 64 * 1024
_MAX_PROOF = 63
"""Hashes in a consistency proof, by the specification."""
SIZE_TYPE = "text/x.tlog.size"
_TEXT = "text/plain; charset=utf-8"


class WitnessBusy(Exception):
    """Another process is this witness."""


class Reply(NamedTuple):
    """Status, content type, body."""

    status: int
    kind: str
    body: bytes


def format_request(old: int, proof: Sequence[bytes], note: bytes) -> bytes:
    """The body of ``add-checkpoint``: the size the witness has, the proof, the checkpoint."""
    lines = [f"old {old}", *(encoded(node) for node in proof)]
    return "\n".join(lines).encode() + b"\n\n" + note


def encoded(node: bytes) -> str:
    """A hash in base64."""
    return base64.b64encode(node).decode()


class Witness:
    """One witness and what it has seen.

    Args:
        directory: its own; made if it does not exist.
        signer: its key.
        logs: the keys of each log it knows, by origin.

    Raises:
        WitnessBusy: another process has the directory.
        OSError: it cannot be used.
    """

    def __init__(
        self, directory: Path, signer: WitnessSigner, logs: Mapping[str, Sequence[VerifierKey]]
    ) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory, self._signer, self._logs = directory, signer, logs
        self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise WitnessBusy(f"a witness already runs in {directory}") from None

    def close(self) -> None:
        """Give the directory back."""
        os.close(self._lock)

    def seen(self, origin: str) -> Checkpoint | None:
        """The last checkpoint of a log that was cosigned.

        Raises:
            NoteError: what is kept is not one that the log signed.
            OSError: it cannot be read.
        """
        try:
            note = self._file(origin).read_bytes()
        except FileNotFoundError:
            return None
        checkpoint = parse_checkpoint(note, self._logs[origin])
        if checkpoint.origin != origin:
            raise NoteError("the file of one log holds another's checkpoint")
        return checkpoint

    def add_checkpoint(self, body: bytes, now: int) -> Reply:  # noqa: PLR0911 - one for each status
        """Answer one request.

        Args:
            body: as it came.
            now: Unix seconds.

        Raises:
            NoteError, OSError: what was seen cannot be read or kept; nothing was cosigned.
        """
        try:
            old, proof, note = _parse(body)
            origin = signature_lines(note)[0].partition("\n")[0]
        except NoteError as error:
            return _said(400, str(error))
        keys = self._logs.get(origin)
        if keys is None:
            return _said(404, "this witness does not know the log")
        try:
            checkpoint = parse_checkpoint(note, keys)
        except NoteError as error:
            return _said(403, str(error))
        if old > checkpoint.size:
            return _said(400, "the old size is larger than the checkpoint's")
        seen = self.seen(origin)
        size, root = (seen.size, seen.root) if seen is not None else (0, EMPTY_ROOT)
        if old != size or (checkpoint.size == size and checkpoint.root != root):
            return Reply(409, SIZE_TYPE, f"{size}\n".encode())
        if not verify_consistency(size, root, checkpoint.size, checkpoint.root, proof):
            return _said(422, "the proof does not show that the log was only appended to")
        line = self._signer.cosign(signature_lines(note)[0], now)
        self._keep(origin, note)
        return Reply(200, _TEXT, line)

    def _file(self, origin: str) -> Path:
        return self._directory / f"{sha256(origin.encode()).hexdigest()[:32]}.checkpoint"

    def _keep(self, origin: str, note: bytes) -> None:
        """On disk before anyone is told, whole or not at all."""
        replace_durably(self._file(origin), note)


def _parse(body: bytes) -> tuple[int, list[bytes], bytes]:
    """Old size, proof, note.

    Raises:
        NoteError: malformed.
    """
    head, blank, note = body.partition(b"\n\n")
    try:
        first, *lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise NoteError("malformed request") from None
    word, _, digits = first.partition(" ")
    number = digits.isdigit() and len(digits) <= MAX_SIZE_DIGITS
    if word != "old" or not number or str(int(digits)) != digits or not blank:
        raise NoteError("malformed request: it begins with 'old N', the proof, a blank line")
    proof = [decode_base64(line) for line in lines]
    if len(proof) > _MAX_PROOF or any(len(node) != HASH_BYTES for node in proof):
        raise NoteError("malformed proof")
    return int(digits), proof, note


def _said(status: int, text: str) -> Reply:
    return Reply(status, _TEXT, f"{text}\n".encode())
