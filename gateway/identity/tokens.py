"""JWT access tokens (RFC 9068), verified by the registry's word and never by the token's own.

The order is part of the promise (K6, K22): what can be told from the text alone is told first,
then the issuer is found, then its claims are held against the registry's row, and only a token
that would be accepted but for its signature makes us look for a key. Algorithms are pinned by
issuer, keys come from the issuer's key set alone (K8), and an issuer speaks for one organisation.
Claims narrow: nothing in a token gives its holder what the registry does not.
"""

from __future__ import annotations

import base64
import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import msgspec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwa import JWSAlgModel

from gateway.core.clock import Clock, timestamp
from gateway.core.entities import Issuer
from gateway.core.facts import Label, Level, Timestamp
from gateway.core.protocols import Directory
from gateway.core.reasons import Reason
from gateway.core.refusal import Refusal, Refused
from gateway.identity.credentials import invalid
from gateway.identity.jwks import RETRY_S, JwksCache, KeysUnavailable, VerifyKey
from gateway.identity.strict import json_object

__all__ = ["LEEWAY_S", "Claims", "TokenVerifier", "VerifiedToken"]

LEEWAY_S = 30
"""How far an issuer's clock may run ahead (``nbf``, ``iat``). Expiries get none."""
TIERS_CLAIM = "sluicegate_tiers"
NO_SCOPE = "none"
"""Stands for a ``scope`` claim of which nothing is a label: empty would mean "not narrowed"."""
MAX_LABELS = 64
MAX_TEXT = 255
CACHE_SIZE = 10_000
_LATEST = 253_402_300_799
"""9999-12-31T23:59:59Z: later dates have no ``facts.Timestamp``."""

_TYPES = frozenset({"at+jwt", "application/at+jwt"})
_NEVER_IN_HEADER = frozenset({"crit", "b64", "jwk", "jku", "x5u", "x5c", "zip", "enc"})
"""Members that would let a token name its verifier, or change what is signed (RFC 8725, 3.10;
RFC 7797). We understand no critical extension, so ``crit`` is always one we do not."""

_RENEW = "Get a new access token from your organisation's issuer."
NOT_ACCEPTED = invalid(
    "Token not accepted: no active issuer, key or member of this gateway vouches for it.", _RENEW
)
NOT_AN_ACCESS_TOKEN = invalid(
    "Not an access token of RFC 9068 (typ 'at+jwt'): send the access token, not an ID token.",
    "Ask your issuer for a JWT access token for this gateway.",
)
HEADER_REFUSED = invalid(
    "Token header names its own key or an unknown extension: such tokens are refused.",
    "Ask your issuer for a token without crit, b64, jwk, jku, x5u, x5c, zip or enc.",
)
INCOMPLETE = invalid(
    "Token incomplete: iss, sub, aud, exp, iat, jti and client_id must be present and well-formed.",
    "Ask your issuer for an access token in the form of RFC 9068.",
)
EXPIRED = invalid("Token expired: get a new access token from your organisation's issuer.", _RENEW)
NOT_YET_VALID = invalid(
    "Token not valid yet (nbf or iat lies ahead): check the issuer's clock, then try again.", _RENEW
)
BOUND = invalid(
    "Token is bound to a key (cnf) and this gateway cannot check the proof: use one without cnf.",
    "Ask your issuer for a token without sender constraint, or use an API key.",
)
BAD_TIERS = invalid(
    "Token claim sluicegate_tiers is malformed: it must map domains to levels from 0 to 9.",
    "Ask your issuer to mend or drop the claim.",
)
KEYS_UNAVAILABLE = Refusal(
    Reason.REGISTRY_STALE,
    "Your issuer's signing keys cannot be fetched right now: try again in a few seconds.",
    "If it lasts, tell the gateway's operator that the issuer's jwks_uri does not answer.",
    retry_after_s=RETRY_S,
)


@dataclass(frozen=True, slots=True)
class Claims:
    """A token's claims, well-formed and in our own types. ``expires_at`` is rounded down."""

    issuer: str
    audiences: tuple[Any, ...]
    subject: str
    expires_at: int
    scopes: tuple[str, ...]
    amr: tuple[str, ...]
    auth_time: Timestamp | None
    tiers_cap: dict[Label, Level] | None


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """A token that was verified with this issuer's row and this generation of its key set."""

    credential_id: str
    issuer: Issuer
    generation: int
    claims: Claims


class TokenVerifier:
    """Verifies tokens, and remembers those it has verified.

    An entry is found by the SHA-256 of the whole token (K7) and is void from ``exp`` on, or once
    the issuer's row or key set differs from the one it was verified with. Members and
    organisations are read from the registry at every call, so no entry outlives a change there.

    Args:
        directory: the registry's snapshot.
        clock: wall time for ``exp``, ``nbf`` and ``iat``.
        jwks: the issuers' keys.
        capacity: most entries kept; the least recently used goes first.
    """

    def __init__(
        self, directory: Directory, clock: Clock, jwks: JwksCache, capacity: int = CACHE_SIZE
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._jwks = jwks
        self._capacity = capacity
        self._verified: OrderedDict[bytes, VerifiedToken] = OrderedDict()

    async def verify(self, token: str) -> VerifiedToken:
        """Verify a compact JWS of three base64url parts.

        Raises:
            Refused: ``CREDENTIAL_INVALID``, or ``REGISTRY_STALE`` if the issuer's keys are out
                of reach.
        """
        digest = hashlib.sha256(token.encode("ascii")).digest()
        known = self._recall(digest)
        if known is not None:
            return known
        header, body = _parts(token)
        algorithm, kid = _check_header(header)
        self._check_times(body)
        claims = _claims(body)
        issuer = self._issuer(claims, algorithm)
        generation = await self._check_signature(token, issuer, kid, algorithm)
        if claims.expires_at <= self._clock.now():
            raise Refused(EXPIRED)  # while the keys were fetched
        name = f"{issuer.id}:{digest.hex()[:32]}"
        verified = VerifiedToken(name, issuer, generation, claims)
        self._remember(digest, verified)
        return verified

    def _recall(self, digest: bytes) -> VerifiedToken | None:
        entry = self._verified.get(digest)
        if entry is None:
            return None
        if entry.claims.expires_at <= self._clock.now():
            del self._verified[digest]
            raise Refused(EXPIRED)
        if (
            self._directory.issuer(entry.claims.issuer) != entry.issuer
            or self._jwks.generation(entry.issuer) != entry.generation
        ):
            del self._verified[digest]
            return None
        self._verified.move_to_end(digest)
        return entry

    def _remember(self, digest: bytes, verified: VerifiedToken) -> None:
        self._verified[digest] = verified
        while len(self._verified) > self._capacity:
            self._verified.popitem(last=False)

    def _check_times(self, body: dict[str, Any]) -> None:
        now = self._clock.now()
        if int(_instant(body, "exp")) <= now:
            raise Refused(EXPIRED)
        not_before = _instant(body, "nbf") if "nbf" in body else 0
        if max(_instant(body, "iat"), not_before) > now + LEEWAY_S:
            raise Refused(NOT_YET_VALID)

    def _issuer(self, claims: Claims, algorithm: str) -> Issuer:
        issuer = self._directory.issuer(claims.issuer)
        if (
            issuer is None
            or issuer.status != "active"
            or algorithm not in issuer.algorithms
            or issuer.audience not in claims.audiences
        ):
            raise Refused(NOT_ACCEPTED)
        return issuer

    async def _check_signature(
        self, token: str, issuer: Issuer, kid: str | None, algorithm: str
    ) -> int:
        """The generation of the key set that the signature is good by."""
        try:
            key = await self._jwks.key(issuer, kid, algorithm)
        except KeysUnavailable:
            raise Refused(KEYS_UNAVAILABLE) from None
        generation = self._jwks.generation(issuer)
        # The fetch took time, in which the issuer's row may have been changed or taken away.
        if (
            key is None
            or generation is None
            or self._directory.issuer(issuer.issuer) != issuer
            or not _signed(token, key, algorithm)
        ):
            raise Refused(NOT_ACCEPTED)
        return generation


def _parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    header, claims, _ = token.split(".")
    try:
        return json_object(_decode(header)), json_object(_decode(claims))
    except ValueError:
        raise Refused(NOT_AN_ACCESS_TOKEN) from None


def _decode(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _check_header(header: dict[str, Any]) -> tuple[str, str | None]:
    """The algorithm and key id that a header names."""
    if not _NEVER_IN_HEADER.isdisjoint(header):
        raise Refused(HEADER_REFUSED)
    kind, algorithm, kid = header.get("typ"), header.get("alg"), header.get("kid")
    if (
        not isinstance(kind, str)
        or kind.lower() not in _TYPES
        or not isinstance(algorithm, str)
        or not (kid is None or (isinstance(kid, str) and len(kid) <= MAX_TEXT))
    ):
        raise Refused(NOT_AN_ACCESS_TOKEN)
    return algorithm, kid


def _claims(body: dict[str, Any]) -> Claims:
    """What the token says, if it is well-formed; whether it may say so is checked after."""
    if "cnf" in body:
        raise Refused(BOUND)
    _text(body, "jti")
    _text(body, "client_id")
    audience = body.get("aud")
    scope = body.get("scope", "")
    if not isinstance(scope, str):
        raise Refused(INCOMPLETE)
    scopes = _labels(scope.split(" ") if scope else [])
    return Claims(
        issuer=_text(body, "iss"),
        audiences=tuple(audience) if isinstance(audience, list) else (audience,),
        subject=_text(body, "sub"),
        expires_at=int(_instant(body, "exp")),
        scopes=scopes or ((NO_SCOPE,) if "scope" in body else ()),
        amr=_labels(body.get("amr", [])),
        auth_time=timestamp(_instant(body, "auth_time")) if "auth_time" in body else None,
        tiers_cap=_tiers(body[TIERS_CLAIM]) if TIERS_CLAIM in body else None,
    )


class _Pinned(jws.JWSRegistry):
    """joserfc's registry, allowing one algorithm.

    Issuers still write ``EdDSA`` where RFC 9864 wants ``Ed25519``; our keys are of that curve
    alone, so the two are one here.
    """

    def get_alg(self, name: str) -> JWSAlgModel:
        """The algorithm of a header's ``alg``."""
        if name == "EdDSA" and name in (self.allowed or ()):
            return self.algorithms["Ed25519"]
        return super().get_alg(name)


def _signed(token: str, key: VerifyKey, algorithm: str) -> bool:
    """Whether the signature is good (RFC 7515, section 5.2)."""
    registry = _Pinned(algorithms=[algorithm], strict_check_header=False)
    try:
        jws.deserialize_compact(token, key.key, registry=registry)
    except (JoseError, ValueError):
        return False
    return True


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT:
        raise Refused(INCOMPLETE)
    return value


def _instant(body: dict[str, Any], name: str) -> float:
    """A NumericDate (RFC 7519, section 2), in Unix seconds."""
    value = body.get(name)
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 <= value <= _LATEST  # false for NaN and infinity too
    ):
        raise Refused(INCOMPLETE)
    return value


def _labels(values: Any) -> tuple[str, ...]:
    """Those that are labels, each once; other texts are of no meaning here and are left out."""
    if not isinstance(values, list) or len(values) > MAX_LABELS:
        raise Refused(INCOMPLETE)
    found: dict[str, None] = {}
    for value in values:
        try:
            found[msgspec.convert(value, Label)] = None
        except msgspec.ValidationError:
            continue
    return tuple(found)


def _tiers(value: Any) -> dict[Label, Level]:
    try:
        tiers = msgspec.convert(value, dict[Label, Level], strict=True)
    except msgspec.ValidationError:
        raise Refused(BAD_TIERS) from None
    if len(tiers) > MAX_LABELS:
        raise Refused(BAD_TIERS)
    return tiers
