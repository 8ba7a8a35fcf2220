"""What the registry holds: organisations, members, credentials, issuers.

These are the privileged rows of invariant 10. They travel as canonical JSON (sorted keys), which
is what the MAC covers. Timestamps are in the form of ``facts.Timestamp``; tiers map a domain
(``cyber``) to a level.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from gateway.core.facts import (
    Country,
    EngagementFacts,
    Label,
    Level,
    Timestamp,
    VettingFacts,
)

__all__ = ["Credential", "Entity", "Issuer", "Member", "Organisation", "Principal"]

KeyHash = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
DisplayName = Annotated[str, Meta(min_length=1, max_length=120)]


class Organisation(Struct, frozen=True, forbid_unknown_fields=True):
    """A legal entity that vouches for its members. ``tiers`` cap theirs."""

    id: Label
    name: DisplayName
    status: Literal["active", "suspended", "withdrawn"] = "active"
    tiers: dict[Label, Level] = {}
    retention: Label = "standard"
    licences: tuple[Label, ...] = ()
    agreements: tuple[Label, ...] = ()


class Member(Struct, frozen=True, forbid_unknown_fields=True):
    """A person or workload of one organisation.

    ``held``: nothing of his may be erased (legal hold). ``erased``: the key of his facts is
    destroyed, and what the registry knew of him with it.
    """

    id: Label
    organisation: Label
    name: DisplayName
    kind: Literal["member", "workload"] = "member"
    status: Literal["active", "suspended", "revoked"] = "active"
    tiers: dict[Label, Level] = {}
    roles: tuple[Label, ...] = ()
    purposes: tuple[Label, ...] = ()
    vetting: tuple[VettingFacts, ...] = ()
    nationalities: tuple[Country, ...] = ()
    residence: Country = "ZZ"
    sponsored: bool = False
    external_id: Annotated[str, Meta(max_length=255)] | None = None
    """The ``sub`` by which this member's organisation's issuer knows him."""
    held: bool = False
    erased: bool = False


class Credential(Struct, frozen=True, forbid_unknown_fields=True):
    """An API key: its SHA-256 and the prefix that may be shown, never the key.

    ``scopes`` narrow what the member may do; ``downgrade`` alone is an opt-in.
    """

    id: Label
    member: Label
    sha256: KeyHash
    prefix: Annotated[str, Meta(max_length=16)]
    status: Literal["active", "suspended", "revoked"] = "active"
    scopes: tuple[Label, ...] = ()
    expires_at: Timestamp | None = None
    engagement: EngagementFacts | None = None


class Issuer(Struct, frozen=True, forbid_unknown_fields=True):
    """An OAuth issuer that speaks for exactly one organisation.

    ``audience`` is the ``aud`` its tokens must carry; ``algorithms`` are pinned (RFC 8725, 3.1).
    """

    id: Label
    organisation: Label
    issuer: Annotated[str, Meta(min_length=8, max_length=255)]
    jwks_uri: Annotated[str, Meta(min_length=8, max_length=255)]
    audience: Annotated[str, Meta(min_length=1, max_length=255)]
    algorithms: Annotated[
        tuple[Literal["ES256", "ES384", "EdDSA", "Ed25519", "RS256", "PS256"], ...],
        Meta(min_length=1),
    ]
    status: Literal["active", "suspended", "revoked"] = "active"


Entity = Organisation | Member | Credential | Issuer


class Principal(Struct, frozen=True):
    """Who a credential turned out to be. The only way from a request to facts about a person.

    ``credential_id`` is a registry id for an API key, and ``<issuer id>:<hash>`` for a token.
    ``subject_key`` seals this member's facts (32 bytes); it never leaves the process.
    """

    member: Member
    organisation: Organisation
    credential_id: Label
    kind: Literal["api_key", "jwt"]
    bound: Literal["mtls", "dpop", "none"] = "none"
    expires_at: Timestamp | None = None
    scopes: tuple[Label, ...] = ()
    amr: tuple[Label, ...] = ()
    auth_time: Timestamp | None = None
    engagement: EngagementFacts | None = None
    tiers_cap: dict[Label, Level] | None = None
    """Levels that the token's claims narrow the member to; ``None`` narrows nothing."""
    epoch: int = 0
    subject_key: bytes = b""

    @property
    def tiers(self) -> dict[Label, Level]:
        """The member's levels by domain, as far as the token's claims let them through."""
        cap = self.tiers_cap
        if cap is None:
            return self.member.tiers
        return {
            domain: min(level, cap.get(domain, 0)) for domain, level in self.member.tiers.items()
        }

    def __repr__(self) -> str:
        # Shown in logs and tracebacks: ids alone, never the subject key.
        return f"Principal(member={self.member.id!r}, credential_id={self.credential_id!r})"
