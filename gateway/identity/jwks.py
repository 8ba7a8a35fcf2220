"""The signing keys of issuers: fetched seldom, kept bounded, never on a caller's demand alone.

Guarantees (K22): whatever key ids callers invent, an issuer's key set is fetched at most once a
cooldown, by one task that all callers share; keys already held go on verifying meanwhile and
while the issuer is down, for at most ``MAX_STALE_S``.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

from gateway.core.entities import Issuer
from gateway.core.protocols import FetchFailed
from gateway.identity.strict import json_object

__all__ = ["Fetch", "JwksCache", "KeysUnavailable", "VerifyKey", "parse_jwks"]

Fetch = Callable[[str], Awaitable[bytes]]
"""Body of a document by URL, through the egress client; raises ``FetchFailed``."""

FRESH_S = 300.0
"""Age after which a key set is fetched again in the background."""
COOLDOWN_S = 60.0
"""Shortest time between two fetches of one issuer's keys."""
RETRY_S = 10.0
"""The same after a fetch that failed."""
MAX_STALE_S = 24 * 3600.0
"""Age after which held keys no longer verify anything."""
MAX_DOCUMENT_BYTES = 256 * 1024
MAX_KEYS = 64
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192

_NEVER = float("-inf")
_PUBLIC = ("kty", "crv", "x", "y", "n", "e")
_CURVES: dict[tuple[object, object], frozenset[str]] = {
    ("EC", "P-256"): frozenset({"ES256"}),
    ("EC", "P-384"): frozenset({"ES384"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA", "Ed25519"}),
}


class KeysUnavailable(Exception):
    """The issuer's keys were never fetched, or too long ago."""


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """A public key and the algorithms it may verify."""

    kid: str | None
    algorithms: frozenset[str]
    key: Key = field(repr=False)


@dataclass(slots=True)
class _Held:
    """One issuer's keys, with monotonic times in seconds."""

    url: str
    keys: tuple[VerifyKey, ...] = ()
    digest: bytes = b""
    generation: int = 0
    fetched_at: float = _NEVER
    attempted_at: float = _NEVER
    wait_s: float = COOLDOWN_S
    task: asyncio.Task[None] | None = None

    def find(self, kid: str | None, algorithm: str) -> VerifyKey | None:
        """The one key that fits; two that fit are none, for which was meant is unknown."""
        fits = [
            key
            for key in self.keys
            if algorithm in key.algorithms and (kid is None or key.kid == kid)
        ]
        return fits[0] if len(fits) == 1 else None


class JwksCache:
    """Keys by issuer.

    Args:
        fetch: the egress client's get; its limits on time and size apply.
        monotonic: seconds; injectable for tests.
    """

    def __init__(self, fetch: Fetch, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._fetch = fetch
        self._monotonic = monotonic
        self._held: dict[str, _Held] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.fetches = 0
        self.failures = 0

    async def key(self, issuer: Issuer, kid: str | None, algorithm: str) -> VerifyKey | None:
        """The key for a token's header; ``None`` if the issuer publishes no such key.

        Raises:
            KeysUnavailable: no key set that is recent enough could be had.
        """
        held = self._of(issuer)
        if self._age(held) <= MAX_STALE_S:
            found = held.find(kid, algorithm)
            if found is not None:
                self._refresh_if_old(held)
                return found
        task = self._fetching(held)
        if task is not None:
            # Shielded: a caller who hangs up must not take the fetch from the others.
            await asyncio.shield(task)
        if self._age(held) > MAX_STALE_S:
            raise KeysUnavailable
        return held.find(kid, algorithm)

    def generation(self, issuer: Issuer) -> int | None:
        """Changes when the issuer's key set does; ``None`` while it holds no usable one.

        Starts a refresh in the background when the set is old, so that a withdrawn key ends
        tokens which are never verified afresh.
        """
        held = self._of(issuer)
        if self._age(held) > MAX_STALE_S:
            return None
        self._refresh_if_old(held)
        return held.generation

    async def close(self) -> None:
        """Cancel fetches under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _of(self, issuer: Issuer) -> _Held:
        held = self._held.get(issuer.id)
        if held is None or held.url != issuer.jwks_uri:
            held = self._held[issuer.id] = _Held(issuer.jwks_uri)
        return held

    def _age(self, held: _Held) -> float:
        return self._monotonic() - held.fetched_at

    def _refresh_if_old(self, held: _Held) -> None:
        if self._age(held) > FRESH_S:
            self._fetching(held)

    def _fetching(self, held: _Held) -> asyncio.Task[None] | None:
        """The fetch under way, or a new one if the cooldown allows it."""
        now = self._monotonic()
        if held.task is None and now - held.attempted_at >= held.wait_s:
            held.attempted_at = now
            held.task = asyncio.create_task(self._run(held))
            self._tasks.add(held.task)
            held.task.add_done_callback(self._tasks.discard)
        return held.task

    async def _run(self, held: _Held) -> None:
        self.fetches += 1
        try:
            body = await self._fetch(held.url)
            keys = parse_jwks(body)
        except (FetchFailed, ValueError):
            self.failures += 1
            held.wait_s = RETRY_S
        else:
            digest = hashlib.sha256(body).digest()
            if digest != held.digest:
                held.keys, held.digest = keys, digest
                held.generation += 1
            held.fetched_at = self._monotonic()
            held.wait_s = COOLDOWN_S
        finally:
            held.task = None


def parse_jwks(body: bytes) -> tuple[VerifyKey, ...]:
    """The usable signature keys of a JWK set (RFC 7517); others are left out.

    Left out are symmetric and private keys, those for encryption, curves that no pinned
    algorithm uses, and RSA outside 2048 to 8192 bits.

    Raises:
        ValueError: too large, not a JWK set, or more than ``MAX_KEYS`` keys.
    """
    if len(body) > MAX_DOCUMENT_BYTES:
        raise ValueError("key set too large")
    entries = json_object(body).get("keys")
    if not isinstance(entries, list) or len(entries) > MAX_KEYS:
        raise ValueError("not a key set of acceptable length")
    keys = (_verify_key(entry) for entry in entries if isinstance(entry, dict))
    return tuple(key for key in keys if key is not None)


def _verify_key(jwk: dict[str, Any]) -> VerifyKey | None:
    operations = jwk.get("key_ops", ["verify"])
    kid = jwk.get("kid")
    if (
        "d" in jwk  # a private key that is published is nobody's in particular
        or jwk.get("use", "sig") != "sig"
        or not isinstance(operations, list)
        or "verify" not in operations
        or not (kid is None or isinstance(kid, str))
    ):
        return None
    try:
        key, algorithms = _import(jwk)
    except (JoseError, ValueError, TypeError, KeyError):
        return None  # joserfc and cryptography name a malformed key in all these ways
    declared = jwk.get("alg")
    if declared is not None:
        algorithms &= {declared} if isinstance(declared, str) else set()
    return VerifyKey(kid, algorithms, key) if algorithms else None


def _import(jwk: dict[str, Any]) -> tuple[Key, frozenset[str]]:
    public: dict[str, Any] = {name: jwk[name] for name in _PUBLIC if name in jwk}
    if not all(isinstance(value, str) for value in public.values()):
        raise ValueError("a key's members are texts")
    if public.get("kty") == "RSA":
        modulus = int.from_bytes(base64.urlsafe_b64decode(public["n"] + "=="))
        if not MIN_RSA_BITS <= modulus.bit_length() <= MAX_RSA_BITS:
            raise ValueError("RSA key of unusable size")
        return RSAKey.import_key(public), frozenset({"RS256", "PS256"})
    algorithms = _CURVES.get((public.get("kty"), public.get("crv")))
    if algorithms is None:
        raise ValueError("key of no pinned algorithm")
    kind = ECKey if public["kty"] == "EC" else OKPKey
    return kind.import_key(public), algorithms
