"""Cosignatures of witnesses (c2sp.org/tlog-cosignature, ``cosignature/v1``).

A witness says of a checkpoint: seen at this time, and it extends every other that I have seen of
this log. Its signature line carries ``u64 BE time || Ed25519 signature`` over ``cosignature/v1``,
``time N`` and the checkpoint's text; its keys have the algorithm byte 0x04.
"""

from __future__ import annotations

import base64
import os
import struct
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.audit.note import NoteError, check_name, decode_base64, signature_lines

__all__ = ["Cosignature", "WitnessKey", "WitnessSigner", "cosignatures", "line_of", "with_lines"]

ALGORITHM = b"\x04"
_KEY_BYTES = 32
_ID_BYTES = 4
_TIME = struct.Struct(">Q")
_SECRET = "PRIVATE+KEY+"  # noqa: S105  the prefix of the key file's format, not a secret


class Cosignature(NamedTuple):
    """Who has seen a checkpoint, and when (Unix seconds)."""

    witness: str
    time: int


class WitnessKey:
    """A witness's public key.

    Args:
        name: no space, no plus sign.
        public: 32 bytes.
    """

    def __init__(self, name: str, public: bytes) -> None:
        self.name = check_name(name)
        self._public = public
        self._key = Ed25519PublicKey.from_public_bytes(public)
        self.key_id = sha256(name.encode() + b"\n" + ALGORITHM + public).digest()[:_ID_BYTES]

    @classmethod
    def parse(cls, vkey: str) -> WitnessKey:
        """Read ``<name>+<key id, hex>+<base64(0x04 || public key)>``.

        Raises:
            NoteError: another form or algorithm, or a key id that does not belong to the key.
        """
        name, _, rest = vkey.strip().partition("+")
        key_id, _, encoded = rest.partition("+")
        blob = decode_base64(encoded)
        if blob[:1] != ALGORITHM or len(blob) != 1 + _KEY_BYTES:
            raise NoteError("not a witness's vkey (cosignature/v1)")
        key = cls(name, blob[1:])
        if key_id != key.key_id.hex():
            raise NoteError("the key id of a vkey does not fit its key")
        return key

    def __str__(self) -> str:
        encoded = base64.b64encode(ALGORITHM + self._public).decode()
        return f"{self.name}+{self.key_id.hex()}+{encoded}"

    def time_of(self, blob: bytes, text: str) -> int | None:
        """When this key says that it saw ``text``; ``None`` where the signature is wrong."""
        if len(blob) != _ID_BYTES + _TIME.size + 64:
            return None
        (seen,) = _TIME.unpack_from(blob, _ID_BYTES)
        try:
            self._key.verify(blob[_ID_BYTES + _TIME.size :], _signed(text, seen))
        except InvalidSignature:
            return None
        return int(seen)


class WitnessSigner:
    """A witness's private key. Its file is ``PRIVATE+KEY+<name>+<id>+<base64(0x04||seed)>``.

    Args:
        name: of the witness.
        seed: 32 secret bytes.
    """

    def __init__(self, name: str, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.verifier = WitnessKey(name, public)

    @classmethod
    def create(cls, path: Path, name: str) -> WitnessSigner:
        """Generate a key and write its file, mode 0600, durably.

        Raises:
            FileExistsError: a key is never overwritten.
            NoteError: the name is not one.
        """
        seed = os.urandom(_KEY_BYTES)
        signer = cls(name, seed)
        encoded = base64.b64encode(ALGORITHM + seed).decode()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{_SECRET}{name}+{signer.verifier.key_id.hex()}+{encoded}\n")
            file.flush()
            os.fsync(file.fileno())
        return signer

    @classmethod
    def load(cls, path: Path) -> WitnessSigner:
        """Read a key file.

        Raises:
            NoteError: another form, or readable by anyone but its owner.
            OSError: it cannot be read.
        """
        if path.stat().st_mode & 0o077:
            raise NoteError(f"{path.name}: a signing key is readable by its owner only (chmod 600)")
        name, _, rest = path.read_text().strip().removeprefix(_SECRET).partition("+")
        key_id, _, encoded = rest.partition("+")
        blob = decode_base64(encoded)
        if blob[:1] != ALGORITHM or len(blob) != 1 + _KEY_BYTES:
            raise NoteError(f"{path.name}: not a witness's signing key")
        signer = cls(name, blob[1:])
        if key_id != signer.verifier.key_id.hex():
            raise NoteError(f"{path.name}: the key id does not fit the key")
        return signer

    def cosign(self, text: str, now: int) -> bytes:
        """The signature line over a checkpoint's text, seen at ``now`` (Unix seconds)."""
        blob = self.verifier.key_id + _TIME.pack(now) + self._key.sign(_signed(text, now))
        return f"— {self.verifier.name} {base64.b64encode(blob).decode()}\n".encode()


def cosignatures(note: bytes, witnesses: Sequence[WitnessKey]) -> list[Cosignature]:
    """Which of ``witnesses`` have cosigned a checkpoint; each counts once.

    Raises:
        NoteError: malformed, or a signature by one of them is wrong.
    """
    text, lines = signature_lines(note)
    known = {(key.name, key.key_id): key for key in witnesses}
    seen: dict[tuple[str, bytes], Cosignature] = {}
    for name, blob in lines:
        key = known.get((name, blob[:_ID_BYTES]))
        if key is None:
            continue
        time = key.time_of(blob, text)
        if time is None:
            raise NoteError(f"the cosignature of {name} is wrong")
        seen[name, key.key_id] = Cosignature(name, time)
    return list(seen.values())


def line_of(lines: bytes, note: bytes, witness: WitnessKey) -> bytes:
    """The one line among those a witness answered that is its own and right.

    Raises:
        NoteError: there is none, or a wrong one stands first.
    """
    whole = with_lines(note, lines)
    text, _ = signature_lines(note)
    for name, blob in signature_lines(whole)[1]:
        if (name, blob[:_ID_BYTES]) == (witness.name, witness.key_id):
            if witness.time_of(blob, text) is None:
                raise NoteError("its cosignature is wrong")
            return f"— {name} {base64.b64encode(blob).decode()}\n".encode()
    raise NoteError("its answer has no signature by its key")


def with_lines(note: bytes, lines: bytes) -> bytes:
    """A note with further signature lines.

    Raises:
        NoteError: they are no signature lines.
    """
    added = note + lines
    if signature_lines(added)[0] != signature_lines(note)[0]:
        raise NoteError("malformed signature line")
    return added


def _signed(text: str, seen: int) -> bytes:
    return f"cosignature/v1\ntime {seen}\n{text}".encode()
