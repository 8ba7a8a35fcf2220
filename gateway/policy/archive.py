"""Bundles as OPA carries them: a signed ``tar.gz``.

The archive holds the files as they were written, and beside each ``data/<name>.yaml`` the
``<name>/data.json`` that OPA reads in its place (OPA ignores other names). Reading one makes the
derived files again and compares them, so the two can never differ. The signature is OPA's: one
ES256 JWT over the SHA-256 of each file (https://www.openpolicyagent.org/docs/management-bundles,
"Signing"), checked before any content is used.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Mapping
from typing import Any

import msgspec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from gateway.policy.bundle import Bundle, bundle_from_files, packages
from gateway.policy.findings import BundleError

__all__ = ["ALGORITHM", "KEY_ID", "read_archive", "write_archive"]

ALGORITHM = "ES256"
KEY_ID = "sluicegate"
"""The name of the verification key in OPA's configuration."""

MAX_ARCHIVE_BYTES = 8 * 1024 * 1024
MAX_CONTENT_BYTES = 32 * 1024 * 1024

_MANIFEST = ".manifest"
_SIGNATURES = ".signatures.json"


class _Signatures(msgspec.Struct, forbid_unknown_fields=True):
    signatures: list[str]


class _SignedFile(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    hash: str
    algorithm: str


class _Payload(msgspec.Struct):
    files: list[_SignedFile]


def write_archive(bundle: Bundle, key: ECKey | None) -> bytes:
    """Pack a bundle; the same bundle without a key gives the same bytes.

    Args:
        bundle: what to pack.
        key: a P-256 private key, or ``None`` for an unsigned archive.
    """
    files = {**bundle.files, **_derived(bundle)}
    if key is not None:
        files[_SIGNATURES] = _canonical({"signatures": [_sign(files, key)]})
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size = len(files[name])
            entry.mode = 0o644
            tar.addfile(entry, io.BytesIO(files[name]))
    return gzip.compress(packed.getvalue(), mtime=0)


def read_archive(raw: bytes, key: ECKey | None) -> Bundle:
    """Unpack a bundle.

    Args:
        raw: the ``tar.gz``.
        key: the public P-256 key that must have signed it; ``None`` checks no signature.

    Raises:
        BundleError: it is not an archive of ours, too large, unsigned, or differs from what was
            signed by a byte, a missing file or an extra one.
    """
    files = _unpack(raw)
    signatures = files.pop(_SIGNATURES, None)
    if key is not None:
        if signatures is None:
            raise BundleError(["the archive is not signed"])
        _verify(files, signatures, key)
    originals = {
        name: content
        for name, content in files.items()
        if name != _MANIFEST and not name.endswith("/data.json")
    }
    bundle = bundle_from_files(originals)
    expected = {**bundle.files, **_derived(bundle)}
    wrong = sorted(
        name for name in expected.keys() | files if expected.get(name) != files.get(name)
    )
    if wrong:
        raise BundleError([f"{name}: not what the archive's other files make it" for name in wrong])
    return bundle


def _derived(bundle: Bundle) -> dict[str, bytes]:
    roots = {
        package.partition(".")[0]
        for package in packages({**bundle.modules, **bundle.tests}).values()
    }
    manifest = {
        "revision": bundle.id,
        "roots": sorted(roots | bundle.data.keys()),
        "rego_version": 1,
    }
    return {
        _MANIFEST: _canonical(manifest),
        **{f"{name}/data.json": _canonical(value) for name, value in bundle.data.items()},
    }


def _canonical(value: Any) -> bytes:
    """JSON as OPA's signer hashes it: sorted keys, no space, Go's two extra escapes."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029").encode()


def _sign(files: Mapping[str, bytes], key: ECKey) -> str:
    payload = {
        "files": [
            {"name": name, "hash": hashlib.sha256(content).hexdigest(), "algorithm": "SHA-256"}
            for name, content in sorted(files.items())
        ]
    }
    header = {"alg": ALGORITHM, "kid": KEY_ID}
    return jws.serialize_compact(header, _canonical(payload), key, algorithms=[ALGORITHM])


def _verify(files: Mapping[str, bytes], signatures: bytes, key: ECKey) -> None:
    try:
        tokens = msgspec.json.decode(signatures, type=_Signatures).signatures
        if len(tokens) != 1:
            raise BundleError([f"{_SIGNATURES}: {len(tokens)} signatures; there is exactly one"])
        signed = jws.deserialize_compact(tokens[0], key, algorithms=[ALGORITHM])
        payload = msgspec.json.decode(signed.payload, type=_Payload)
    except (msgspec.DecodeError, JoseError, ValueError, TypeError):
        # JoseError's text may quote the token; ours says all that an operator can use.
        raise BundleError([f"{_SIGNATURES}: the signature does not verify"]) from None
    listed = {file.name: file for file in payload.files}
    findings = [f"{name}: signed, but not in the archive" for name in sorted(listed.keys() - files)]
    findings += [
        f"{name}: in the archive, but not signed" for name in sorted(files.keys() - listed)
    ]
    for name in sorted(files.keys() & listed):
        digest = hashlib.sha256(files[name]).hexdigest()
        if (listed[name].algorithm, listed[name].hash) != ("SHA-256", digest):
            findings.append(f"{name}: not the bytes that were signed")
    if findings:
        raise BundleError(findings)


def _unpack(raw: bytes) -> dict[str, bytes]:
    if len(raw) > MAX_ARCHIVE_BYTES:
        raise BundleError([f"the archive is larger than {MAX_ARCHIVE_BYTES} bytes"])
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(_inflate(raw)), mode="r:") as tar:
            for entry in tar:
                content = tar.extractfile(entry) if entry.isreg() else None
                if content is None:
                    raise BundleError([f"{entry.name!r}: not a regular file"])
                if entry.name in files:
                    raise BundleError([f"{entry.name!r}: stands in the archive twice"])
                files[entry.name] = content.read()
    except (tarfile.TarError, EOFError, ValueError, OverflowError):
        raise BundleError(["not a readable tar archive"]) from None
    return files


def _inflate(raw: bytes) -> bytes:
    stream = zlib.decompressobj(wbits=31)  # 31: a gzip header and trailer are required
    try:
        content = stream.decompress(raw, MAX_CONTENT_BYTES + 1)
    except zlib.error:
        raise BundleError(["not a gzip archive"]) from None
    if len(content) > MAX_CONTENT_BYTES:
        raise BundleError([f"the archive holds more than {MAX_CONTENT_BYTES} bytes"])
    if not stream.eof or stream.unused_data:
        raise BundleError(["the gzip archive is cut short, or something follows it"])
    return content
