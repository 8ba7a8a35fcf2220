"""The staff: who is signed in, what they may do, and what they have done, each step recorded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from gateway.audit.read import LogReader
from gateway.audit.records import (
    Record,
    StaffLinkMade,
    StaffSignedIn,
    StaffSignedOut,
)
from gateway.control.approvals import Approvals
from gateway.control.plane import ControlPlane
from gateway.control.reviewing import Reviews
from gateway.control.sessions import Session, Sessions
from gateway.core.clock import rfc3339_ns, timestamp
from gateway.core.staff import Role, staff_roles
from gateway.registry.changes import ChangeRefused, check_author

__all__ = ["History", "Staff", "history_of"]

_KINDS = ("review.", "case.", "approval.")


class History:
    """What staff have done that still counts: reviews, cases, approvals."""

    def __init__(self) -> None:
        self.reviews = Reviews()
        self.approvals = Approvals()

    def apply(self, record: Mapping[str, Any]) -> None:
        """One record more."""
        self.reviews.apply(record)
        self.approvals.apply(record)


def history_of(directory: Path) -> History:
    """What the control log says of it."""
    history = History()
    marks = [f'"type":"{kind}'.encode() for kind in _KINDS]
    if directory.is_dir():
        for entry in LogReader(directory).entries():
            if any(mark in entry.raw for mark in marks):
                history.apply(entry.json())
    return history


class Staff:
    """Signs in and out, tells roles, and records.

    Args:
        plane: its log and registry.
        history: as the log has it now.
    """

    def __init__(self, plane: ControlPlane, history: History) -> None:
        self.reviews = history.reviews
        self.approvals = history.approvals
        self._history = history
        self._one_at_a_time = asyncio.Lock()
        self.sessions = Sessions(time.time)
        self._plane = plane

    def roles(self, member: str) -> frozenset[Role] | None:
        """The staff roles that a member has now; ``None`` for who may not sign in at all."""
        found = self._plane.registry.snapshot.member(member)
        if found is None or found.status != "active":
            return None
        organisation = self._plane.registry.snapshot.organisation(found.organisation)
        if organisation is None or organisation.status != "active":
            return None
        return staff_roles(found.roles)

    def name(self, member: str) -> str:
        """His name, as the registry has it."""
        found = self._plane.registry.snapshot.member(member)
        return found.name if found is not None else member

    def subject_key(self, member: str) -> bytes | None:
        """The key of a member's sealed facts; ``None`` if there is none any more."""
        return self._plane.registry.snapshot.subject_key(member)

    async def make_link(self, member: str, *, actor: str, reason: str) -> tuple[str, str]:
        """The secret of a link that signs a member in once, and when it ends.

        Raises:
            ChangeRefused: there is no such member, he has no role, or no reason is given.
            LogUnavailable: it cannot be recorded.
        """
        check_author(actor, reason)
        roles = self.roles(member)
        if not roles:
            raise ChangeRefused(
                f"'{ascii(member)[1:-1][:64]}' is no active member with a staff role.",
                f"Give him one: sluicegate member set {ascii(member)[1:-1][:64]} "
                f"--role {'|'.join(Role)}",
            )
        token, expires_at = self.sessions.link(member)
        ends = timestamp(expires_at)
        await self._plane.log.append(
            StaffLinkMade(actor=actor, member=member, expires_at=ends, reason=reason.strip())
        )
        return token, ends

    async def sign_in(self, token: str) -> tuple[str, Session] | None:
        """A new session and its secret; ``None`` for a link that is not good, or not any more."""
        opened = self.sessions.sign_in(token)
        if opened is None:
            return None
        secret, session = opened
        roles = self.roles(session.member)
        if not roles:
            self.sessions.end(session)
            return None
        await self.record(
            StaffSignedIn(actor=session.member, session=session.name, roles=tuple(sorted(roles)))
        )
        return secret, session

    async def sign_out(self, session: Session) -> None:
        """End a session."""
        self.sessions.end(session)
        await self.record(StaffSignedOut(actor=session.member, session=session.name))

    async def record(self, record: Record, *, if_so: Callable[[], None] = lambda: None) -> None:
        """Make it durable, then let it count; one at a time, so that what counts is in the order of
        the log.

        Args:
            record: what is done.
            if_so: raises if it must not be done any more; nothing comes between it and the record.

        Raises:
            LogUnavailable: it cannot be recorded; nothing has changed.
        """
        async with self._one_at_a_time:
            if_so()
            await self._plane.log.append(record)
            # Its time is the log's to a few milliseconds; after a restart it is the log's exactly.
            stored = msgspec.to_builtins(record)
            self._history.apply({**stored, "time": rfc3339_ns(time.time_ns())})
