"""Step 1 of the request path: whose call is this?

The answer is rebuilt from the registry's snapshot each time, both for a new call and for the
re-check of a running one (``refresh``), which needs no secret. A member or organisation that is
*suspended* is still identified, so that the rules deny him with a reason and on the record; what
is *revoked*, *withdrawn*, gone or erased is nobody's, and every such case reads alike.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping

import msgspec

from gateway.core.clock import Clock, timestamp
from gateway.core.entities import Credential, Principal
from gateway.core.protocols import Directory
from gateway.core.refusal import Refusal, Refused
from gateway.identity import api_keys
from gateway.identity.credentials import MALFORMED, Presented, invalid, presented
from gateway.identity.jwks import Fetch, JwksCache
from gateway.identity.standing import Lacking, Standing, principal_of_key, standing_of
from gateway.identity.tokens import NOT_ACCEPTED, TokenVerifier, VerifiedToken

__all__ = ["Identifier"]

KEY_REFUSED = invalid(
    "Key not accepted: it is unknown, expired, suspended or revoked. Ask your operator for a key.",
    "Your organisation's operator can issue a new key, or say why this one ended.",
)


class Identifier:
    """Turns a request's headers into a ``Principal``.

    Args:
        directory: the registry's snapshot; read anew at each call.
        clock: wall time, for expiries.
        fetch: gets issuers' key sets through the egress client.
        monotonic: seconds, for the key sets' ages.
    """

    def __init__(
        self,
        directory: Directory,
        clock: Clock,
        fetch: Fetch,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._clock = clock
        self.jwks = JwksCache(fetch, monotonic)
        self._tokens = TokenVerifier(directory, clock, self.jwks)
        self._generation = directory.generation
        self._known: dict[str, Principal] = {}
        """Holders of API keys by the key's SHA-256, as of ``_generation``; no more than the
        registry has credentials."""

    async def identify(self, fields: Mapping[bytes, bytes]) -> Principal:
        """Identify the caller; for an API key without waiting: a hash and a few lookups.

        Args:
            fields: header values by lower-case name, combined.

        Raises:
            Refused: ``CREDENTIAL_MISSING``, ``CREDENTIAL_AMBIGUOUS``, ``CREDENTIAL_INVALID`` or
                ``REGISTRY_STALE``.
        """
        found = presented(fields)
        if isinstance(found, Refusal):
            raise Refused(found)
        return await self.principal_of(found, hashlib.sha256(found.text.encode()).hexdigest())

    async def principal_of(self, found: Presented, sha256: str) -> Principal:
        """Whose credential this is.

        Args:
            found: what was presented.
            sha256: its digest, in hex.

        Raises:
            Refused: ``CREDENTIAL_INVALID`` or ``REGISTRY_STALE``.
        """
        if found.kind == "api_key":
            return self._by_key(found.text, sha256)
        return self._by_token(await self._tokens.verify(found.text))

    def refresh(self, principal: Principal) -> Principal | None:
        """The same caller as the registry has him now; ``None`` once he no longer is.

        A token's key set is not asked again: a key that its issuer withdrew ends new calls.
        """
        self.forget()
        if principal.kind == "api_key":
            credential = self._directory.credential_by_id(principal.credential_id)
            if credential is None or credential.member != principal.member.id:
                return None
            return self._of_credential(credential)
        issuer = self._directory.issuer_by_id(principal.credential_id.rpartition(":")[0])
        standing = self._standing(principal.member.id)
        if (
            issuer is None
            or issuer.status != "active"
            or standing is None
            or self._over(principal.expires_at)
        ):
            return None
        member, organisation, subject_key = standing
        if (
            member.organisation != issuer.organisation
            or member.external_id != principal.member.external_id
        ):
            return None  # the token's ``sub`` no longer means this member
        return msgspec.structs.replace(
            principal,
            member=member,
            organisation=organisation,
            subject_key=subject_key,
            epoch=self._directory.epoch,
        )

    def forget(self) -> None:
        """Let go of whom the registry knew before it changed, and of an erased member's key with
        him; to be called when it changed, else the next call does it."""
        if self._directory.generation != self._generation:
            self._known.clear()
            self._generation = self._directory.generation

    async def close(self) -> None:
        """End what runs in the background."""
        await self.jwks.close()

    def _by_key(self, text: str, sha256: str) -> Principal:
        self.forget()
        known = self._known.get(sha256)
        if known is not None and not self._over(known.expires_at):
            return known
        if not api_keys.is_whole(text):
            raise Refused(MALFORMED)
        credential = api_keys.credential_of(sha256, self._directory)
        principal = None if credential is None else self._of_credential(credential)
        if principal is None:
            raise Refused(KEY_REFUSED)
        self._known[sha256] = principal
        return principal

    def _of_credential(self, credential: Credential) -> Principal | None:
        found = principal_of_key(self._directory, credential, self._clock.reading()[0])
        return None if isinstance(found, Lacking) else found

    def _by_token(self, token: VerifiedToken) -> Principal:
        claims = token.claims
        named = self._directory.member_by_external_id(token.issuer.organisation, claims.subject)
        standing = None if named is None else self._standing(named.id)
        if standing is None:
            raise Refused(NOT_ACCEPTED)
        member, organisation, subject_key = standing
        return Principal(
            member=member,
            organisation=organisation,
            credential_id=token.credential_id,
            kind="jwt",
            expires_at=timestamp(claims.expires_at),
            scopes=claims.scopes,
            amr=claims.amr,
            auth_time=claims.auth_time,
            tiers_cap=claims.tiers_cap,
            epoch=self._directory.epoch,
            subject_key=subject_key,
        )

    def _standing(self, member_id: str) -> Standing | None:
        found = standing_of(self._directory, member_id)
        return None if isinstance(found, Lacking) else found

    def _over(self, expires_at: str | None) -> bool:
        """Whether an expiry has come; ``facts.Timestamp`` sorts as text."""
        return expires_at is not None and expires_at <= self._clock.reading()[0]
