"""Approvals: an act that one person asks for and others allow.

Pure. An approval binds what was shown (by its digest), who may give it (those who held one of its
roles when it was asked for, never its author), how many are needed, and until when (invariant 10).
Every step is a record; the state is what the records say, and nothing else.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from enum import StrEnum

import msgspec
from msgspec import Struct

from gateway.core.staff import Role

__all__ = ["Act", "Approval", "Refused", "State", "digest_of"]


class Act(StrEnum):
    """What may wait for approval."""

    REVEAL = "content.reveal"
    """Sealed content of one record is shown to the one who asks."""


class State(StrEnum):
    """Where an approval stands at a time."""

    WAITING = "waiting"
    APPROVED = "approved"
    REFUSED = "refused"
    EXPIRED = "expired"


class Refused(Exception):
    """The step is not taken. ``message`` says why, ``remedy`` what to do instead."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


def digest_of(shown: str) -> str:
    """SHA-256 (hex) of what approvers are shown."""
    return hashlib.sha256(shown.encode("utf-8", "replace")).hexdigest()


class Approval(Struct, frozen=True, kw_only=True):
    """One approval, as far as it has come. Times are Unix seconds.

    ``expires_at`` ends the waiting; ``lasts_until`` the use, once enough have approved.
    """

    id: str
    act: Act
    author: str
    reason: str
    shown: str
    roles: tuple[Role, ...]
    needed: int
    eligible: tuple[str, ...]
    asked_at: float
    expires_at: float
    given: Mapping[str, float] = msgspec.field(default_factory=dict)
    refused_by: str = ""
    refusal: str = ""
    lasts_until: float = 0.0

    @property
    def digest(self) -> str:
        """Of what is shown."""
        return digest_of(self.shown)

    def state(self, now: float) -> State:
        """Where it stands."""
        if self.refused_by:
            return State.REFUSED
        if len(self.given) >= self.needed:
            return State.APPROVED if now < self.lasts_until else State.EXPIRED
        return State.WAITING if now < self.expires_at else State.EXPIRED

    def check_vote(self, who: str, roles: frozenset[Role], digest: str, now: float) -> None:
        """Whether a person may approve it now, or refuse it.

        Args:
            who: a member id.
            roles: that he has now.
            digest: of what he was shown.
            now: Unix seconds.

        Raises:
            Refused: he may not.
        """
        if who == self.author:
            raise Refused("Nobody approves what he asked for himself.", "Ask someone else.")
        if who not in self.eligible or not roles.intersection(self.roles):
            raise Refused(
                f"Only who was {' or '.join(self.roles)} when it was asked for, and still is, "
                "may decide this.",
                "Ask one of those who are named on the page.",
            )
        if not hmac.compare_digest(digest.encode("utf-8", "replace"), self.digest.encode()):
            raise Refused(
                "What you were shown is not what waits here.", "Read the page again, then decide."
            )
        if who in self.given:
            raise Refused("You have approved it already.", "Another person has to.")
        if self.state(now) is not State.WAITING:
            raise Refused(f"It is {self.state(now)}.", "Whoever needs it asks anew.")

    def check_use(self, who: str, shown: str, now: float) -> None:
        """Whether the act may be done now.

        Args:
            who: a member id.
            shown: what is about to be done, in the words that approvers were shown.
            now: Unix seconds.

        Raises:
            Refused: it may not.
        """
        if who != self.author:
            raise Refused("Only who asked for it may do it.", "Ask for one of your own.")
        if shown != self.shown:
            raise Refused("It was approved for something else.", "Ask for this.")
        if self.state(now) is not State.APPROVED:
            raise Refused(f"It is {self.state(now)}.", "Ask anew, or wait for an approver.")

    def with_vote(self, who: str, now: float, lasts_until: float) -> Approval:
        """After one more has approved."""
        return msgspec.structs.replace(
            self, given={**self.given, who: now}, lasts_until=lasts_until
        )

    def with_refusal(self, who: str, reason: str) -> Approval:
        """After one has refused."""
        return msgspec.structs.replace(self, refused_by=who, refusal=reason)
