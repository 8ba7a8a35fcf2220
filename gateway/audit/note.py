"""Signed notes and checkpoints, as C2SP specifies them (c2sp.org/signed-note, tlog-checkpoint).

A note is text that ends in a newline, a blank line, and one signature line or more:
``— <name> <base64(key id || signature)>``. It is good when at least one line is by a known key and
every line by a known key is right; lines by other keys are passed over, so keys can be changed and
witnesses can add theirs. A checkpoint counts only if a key named like its origin signed it. Ed25519
only (algorithm byte 0x01).
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

__all__ = [
    "Checkpoint",
    "NoteError",
    "SigningKey",
    "VerifierKey",
    "check_name",
    "checkpoint_body",
    "decode_base64",
    "open_note",
    "parse_checkpoint",
    "sign_checkpoint",
    "signature_lines",
]

ED25519 = b"\x01"
HASH_BYTES = 32
KEY_ID_BYTES = 4
MAX_NOTE_BYTES = 64 * 1024
MAX_SIGNATURES = 100
MAX_SIZE_DIGITS = 18
"""Of a log's size: it fits 63 bits, and is far below what ``int`` refuses to read."""
_DASH = "— "  # em dash and space, in front of each signature line
_SECRET = "PRIVATE+KEY+"  # noqa: S105  the prefix of the key file's format, not a secret


class NoteError(ValueError):
    """A note, checkpoint or key is malformed, or no known key signed it."""


def decode_base64(text: str) -> bytes:
    """Strict base64 (RFC 4648, section 4).

    Raises:
        NoteError: it is not.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise NoteError("not base64") from None


def check_name(name: str) -> str:
    """A key's name, if it is one (c2sp.org/signed-note).

    Raises:
        NoteError: it is not.
    """
    if not name or "+" in name or any(char.isspace() or not char.isprintable() for char in name):
        raise NoteError("a key name is not empty and has no space, control character or plus sign")
    return name


def _key_id(name: str, public: bytes) -> bytes:
    return sha256(name.encode() + b"\n" + ED25519 + public).digest()[:KEY_ID_BYTES]


class VerifierKey:
    """A public key and the name it signs under.

    Args:
        name: no space, no plus sign; for a log, its origin.
        public: 32 bytes.
    """

    def __init__(self, name: str, public: bytes) -> None:
        self.name = check_name(name)
        self.key_id = _key_id(name, public)
        self._public = public
        self._key = Ed25519PublicKey.from_public_bytes(public)

    @classmethod
    def parse(cls, vkey: str) -> VerifierKey:
        """Read ``<name>+<key id, hex>+<base64(0x01 || public key)>``.

        Raises:
            NoteError: another form or algorithm, or a key id that does not belong to the key.
        """
        parts = vkey.strip().split("+", 2)
        if len(parts) != 3:  # noqa: PLR2004
            raise NoteError("a vkey is name+id+key")
        blob = decode_base64(parts[2])
        if blob[:1] != ED25519 or len(blob) != 1 + HASH_BYTES:
            raise NoteError("not an Ed25519 vkey")
        key = cls(parts[0], blob[1:])
        if parts[1] != key.key_id.hex():
            raise NoteError("the key id of a vkey does not fit its key")
        return key

    def __str__(self) -> str:
        encoded = base64.b64encode(ED25519 + self._public).decode()
        return f"{self.name}+{self.key_id.hex()}+{encoded}"

    def verify(self, signature: bytes, text: bytes) -> bool:
        """Whether ``signature`` (64 bytes) is this key's over ``text``."""
        try:
            self._key.verify(signature, text)
        except InvalidSignature:
            return False
        return True


class SigningKey:
    """A log's private key. Its file is one line, ``PRIVATE+KEY+<name>+<id>+<base64(0x01||seed)>``.

    Args:
        name: the origin it signs for.
        seed: 32 secret bytes.
    """

    def __init__(self, name: str, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self._seed = seed
        public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.verifier = VerifierKey(name, public)

    @classmethod
    def generate(cls, name: str) -> SigningKey:
        """A new key from the system's random source."""
        return cls(name, os.urandom(HASH_BYTES))

    @classmethod
    def create(cls, path: Path, name: str) -> SigningKey:
        """Generate a key and write its file, mode 0600, durably.

        Raises:
            FileExistsError: a key is never overwritten.
        """
        key = cls.generate(name)
        secret = base64.b64encode(ED25519 + key._seed).decode()  # noqa: SLF001  own class
        line = f"{_SECRET}{name}+{key.key_id.hex()}+{secret}\n"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        return key

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """Read a key file.

        Raises:
            NoteError: another form, or readable by anyone but its owner.
            OSError: it cannot be read.
        """
        if path.stat().st_mode & 0o077:
            raise NoteError(f"{path.name}: a signing key is readable by its owner only (chmod 600)")
        parts = path.read_text().strip().removeprefix(_SECRET).split("+", 2)
        if len(parts) != 3:  # noqa: PLR2004
            raise NoteError(f"{path.name}: not a signing key")
        blob = decode_base64(parts[2])
        if blob[:1] != ED25519 or len(blob) != 1 + HASH_BYTES:
            raise NoteError(f"{path.name}: not an Ed25519 signing key")
        key = cls(parts[0], blob[1:])
        if parts[1] != key.key_id.hex():
            raise NoteError(f"{path.name}: the key id does not fit the key")
        return key

    @property
    def name(self) -> str:
        """The origin it signs for."""
        return self.verifier.name

    @property
    def key_id(self) -> bytes:
        """Four bytes that name the key in signature lines."""
        return self.verifier.key_id

    @property
    def vkey(self) -> str:
        """The public key in the form that verifiers take."""
        return str(self.verifier)

    def sign(self, text: str) -> bytes:
        """The note: ``text`` (ends in a newline), a blank line, this key's signature line."""
        body = text.encode()
        blob = base64.b64encode(self.key_id + self._key.sign(body)).decode()
        return body + f"\n{_DASH}{self.name} {blob}\n".encode()


def _split_note(note: bytes) -> tuple[str, list[str]]:
    """Text and signature lines."""
    if len(note) > MAX_NOTE_BYTES:
        raise NoteError("the note is too long")
    try:
        whole = note.decode()
    except UnicodeDecodeError:
        raise NoteError("the note is not UTF-8") from None
    if any(char < " " and char != "\n" for char in whole):
        raise NoteError("the note has control characters")
    text, blank, signatures = whole.rpartition("\n\n")
    if not blank or not signatures.endswith("\n"):
        raise NoteError("the note has no signature lines")
    lines = signatures[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise NoteError("the note has too many signatures")
    return text + "\n", lines


def signature_lines(note: bytes) -> tuple[str, list[tuple[str, bytes]]]:
    """The text, and of each signature line the name and what it carries, key id first.

    Raises:
        NoteError: malformed.
    """
    text, lines = _split_note(note)
    found = []
    for line in lines:
        name, _, encoded = line.removeprefix(_DASH).partition(" ")
        blob = decode_base64(encoded)
        if not line.startswith(_DASH) or not name or len(blob) <= KEY_ID_BYTES:
            raise NoteError("malformed signature line")
        found.append((name, blob))
    return text, found


def open_note(note: bytes, keys: Sequence[VerifierKey]) -> str:
    """The text of a note that at least one of ``keys`` signed.

    Raises:
        NoteError: malformed, a wrong signature by a known key, or none by a known key.
    """
    text, lines = signature_lines(note)
    known = {(key.name, key.key_id): key for key in keys}
    signed = False
    for name, blob in lines:
        key = known.get((name, blob[:KEY_ID_BYTES]))
        if key is not None:
            if not key.verify(blob[KEY_ID_BYTES:], text.encode()):
                raise NoteError(f"the signature of {name} is wrong")
            signed = True
    if not signed:
        raise NoteError("no known key signed the note")
    return text


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log's signed state: how many leaves, and the root over them.

    ``note`` is the whole signed note, ready to be given away.
    """

    origin: str
    size: int
    root: bytes
    note: bytes


def checkpoint_body(origin: str, size: int, root: bytes) -> str:
    """The three lines that a checkpoint's signature covers."""
    return f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n"


def sign_checkpoint(key: SigningKey, size: int, root: bytes) -> Checkpoint:
    """Sign the state of the log whose origin is the key's name."""
    return Checkpoint(key.name, size, root, key.sign(checkpoint_body(key.name, size, root)))


def parse_checkpoint(note: bytes, keys: Sequence[VerifierKey]) -> Checkpoint:
    """Read a checkpoint that its own log signed. Extension lines are refused.

    Only keys whose name is the checkpoint's origin count: the key of another log, or of a witness,
    vouches for nothing here, and its signature is passed over.

    Raises:
        NoteError: malformed, or not signed by a known key of its origin.
    """
    origin_line = note.partition(b"\n")[0]
    own = [key for key in keys if key.name.encode() == origin_line]
    lines = open_note(note, own).split("\n")
    if len(lines) != 4:  # noqa: PLR2004  three lines and what follows the last newline
        raise NoteError("a checkpoint has three lines")
    origin, size, root = lines[0], lines[1], decode_base64(lines[2])
    digits = size.isascii() and size.isdigit() and len(size) <= MAX_SIZE_DIGITS
    if not origin or not digits or str(int(size)) != size:
        raise NoteError("malformed checkpoint")
    if len(root) != HASH_BYTES:
        raise NoteError("a root hash has 32 bytes")
    return Checkpoint(origin, int(size), root, note)
