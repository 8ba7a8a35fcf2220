"""What the rooms promise one another; ``app`` puts the implementations in their places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from msgspec import Struct

from gateway.core.catalogue import CatalogueEntry
from gateway.core.decision import Decision, LimitSpec
from gateway.core.entities import Credential, Issuer, Member, Organisation
from gateway.core.refusal import LimitState

__all__ = [
    "Directory",
    "EngineUnavailable",
    "FetchFailed",
    "Limiter",
    "LimiterUnavailable",
    "LogUnavailable",
    "PolicyEngine",
    "Position",
    "Reservation",
    "Revision",
    "RuleSource",
    "Unreserved",
]


class EngineUnavailable(Exception):
    """The policy engine gave no answer: error, timeout, undefined, or not of the schema."""


class FetchFailed(Exception):
    """The egress client did not fetch a document: refused, unreachable, too slow or too large."""


class LimiterUnavailable(Exception):
    """The limiter's store could not be asked within its deadline."""


class LogUnavailable(Exception):
    """The audit log cannot be written; nothing may be forwarded until a restart verifies it."""


class Position(Struct, frozen=True):
    """Where a durable record lies: log origin and leaf index."""

    origin: str
    seq: int

    def __str__(self) -> str:
        return f"{self.origin}#{self.seq}"


@dataclass(frozen=True, slots=True)
class RuleSource:
    """Where a rule id is defined in the bundle: for people, not for machines."""

    file: str
    line: int


@dataclass(frozen=True)
class Revision:
    """A verified, tested set of rules and data. ``id`` is the digest of its content.

    ``instants`` are all timestamps in the data, as ascending Unix seconds: with those in the
    facts they bound how long a decision stays valid. ``networks`` maps a label to its CIDRs.
    ``hidden`` are the models whose existence not everybody may know.
    """

    id: str
    catalogue: Mapping[str, CatalogueEntry]
    aliases: Mapping[str, str]
    rules: Mapping[str, RuleSource]
    instants: Sequence[int]
    networks: Mapping[str, Sequence[str]]
    hidden: frozenset[str] = frozenset()


class PolicyEngine(Protocol):
    """``decide`` is a pure function of facts and revision; engines only run it."""

    @property
    def revision(self) -> Revision | None:
        """The active revision; ``None`` before the first activation."""

    async def decide(self, facts: bytes) -> Decision:
        """Evaluate canonical facts (JSON bytes of ``core.facts.Facts``).

        Raises:
            EngineUnavailable: for everything that is not a valid decision.
        """

    async def health(self) -> bool:
        """Whether a decision could be made now."""


class Reservation(Protocol):
    """What was taken from the limits for one call; settled exactly once, or it expires."""

    @property
    def states(self) -> Sequence[LimitState]:
        """The limits right after the reservation, for response headers."""

    async def settle(self, used: Mapping[str, int]) -> None:
        """Correct token limits to what was used (``input_tokens``, ``output_tokens``), give
        back the stream; a kind that is missing keeps its reservation. Never raises."""

    async def renew(self) -> None:
        """Keep what is held for another lifetime (15 minutes); called each minute while the call
        runs. Never raises."""


class Unreserved:
    """The reservation of a call whose limits could not be checked, and which the operator's
    setting lets through all the same: nothing was taken, nothing is settled."""

    states: Sequence[LimitState] = ()

    async def settle(self, used: Mapping[str, int]) -> None:
        """Nothing to settle."""

    async def renew(self) -> None:
        """Nothing to renew."""


class Limiter(Protocol):
    """Admission against the limits a decision named."""

    async def reserve(
        self,
        limits: Sequence[LimitSpec],
        owners: Mapping[str, str],
        amounts: Mapping[str, int],
    ) -> Reservation | tuple[LimitState, ...]:
        """Take ``amounts`` (by kind) from every limit of ``owners`` (by ``LimitKey``) or none.

        Returns:
            A reservation, or the states of all limits, with ``retry_s`` > 0 on those that refused.

        Raises:
            LimiterUnavailable: the store did not answer in time.
        """


class Directory(Protocol):
    """The registry as the request path reads it: a snapshot in memory (invariant 9)."""

    @property
    def epoch(self) -> int:
        """Grows with every change of the registry."""

    @property
    def generation(self) -> int:
        """Grows whenever this snapshot is changed, also by one that starts over at its epoch."""

    def credential(self, sha256: str) -> Credential | None:
        """The credential whose key has this SHA-256 (hex)."""

    def credential_by_id(self, credential_id: str) -> Credential | None:
        """The credential of this id."""

    def member(self, member_id: str) -> Member | None:
        """The member of this id."""

    def member_by_external_id(self, organisation: str, external_id: str) -> Member | None:
        """The member whom the organisation's issuer calls ``external_id``."""

    def organisation(self, organisation_id: str) -> Organisation | None:
        """The organisation of this id."""

    def issuer(self, issuer: str) -> Issuer | None:
        """The issuer whose ``iss`` this is."""

    def issuer_by_id(self, issuer_id: str) -> Issuer | None:
        """The issuer of this registry id."""

    def subject_key(self, member_id: str) -> bytes | None:
        """The 32 bytes that seal this member's facts; ``None`` after erasure."""
