"""Signing in: one-time links, and sessions that are kept here and nowhere else.

Pure but for randomness. A link is made on the machine, used once and within a quarter of an hour; a
session is a random name in a cookie, of which only the digest is kept. Both are gone with the
process. A session says who somebody is; what he may do is asked of the registry at every request,
so that taking a role away takes effect at once.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

__all__ = ["IDLE_S", "LIFE_S", "LINK_S", "Session", "Sessions"]

LINK_S = 15 * 60.0
IDLE_S = 30 * 60.0
LIFE_S = 8 * 3600.0
_Kept = TypeVar("_Kept")
_MOST = 1_000
"""Links, and sessions, that are kept at once: the oldest go first."""


@dataclass(slots=True)
class Session:
    """Somebody who is signed in. ``csrf`` is in every form of his; ``name`` is how records know the
    session. Times are Unix seconds."""

    member: str
    name: str
    csrf: str
    begun: float
    seen: float


@dataclass(slots=True)
class Sessions:
    """All links and sessions.

    Args:
        now: Unix seconds.
    """

    now: Callable[[], float]
    _links: dict[str, tuple[str, float]] = field(default_factory=dict)
    _open: dict[str, Session] = field(default_factory=dict)

    def link(self, member: str) -> tuple[str, float]:
        """A secret that signs a member in once, and when it ends."""
        token, expires_at = secrets.token_urlsafe(32), self.now() + LINK_S
        self._links[_digest(token)] = (member, expires_at)
        _keep_newest(self._links)
        return token, expires_at

    def owner_of(self, token: str) -> str | None:
        """Whom a link would sign in; looking does not use it up, as what fetches links in messages
        only looks."""
        member, expires_at = self._links.get(_digest(token), ("", 0.0))
        return member if self.now() < expires_at else None

    def sign_in(self, token: str) -> tuple[str, Session] | None:
        """A new session and its secret, for a link that is good; the link is used up.

        The secret is made here and now: no name that a browser brought along becomes a session's
        (session fixation).
        """
        member, expires_at = self._links.pop(_digest(token), ("", 0.0))
        if self.now() >= expires_at:
            return None
        secret = secrets.token_urlsafe(32)
        digest, now = _digest(secret), self.now()
        session = Session(member, digest[:16], secrets.token_urlsafe(32), now, now)
        self._open[digest] = session
        _keep_newest(self._open)
        return secret, session

    def find(self, secret: str) -> Session | None:
        """The session of a cookie, unless it has ended; it is seen now."""
        digest = _digest(secret)
        session, now = self._open.get(digest), self.now()
        if session is None:
            return None
        if now - session.seen >= IDLE_S or now - session.begun >= LIFE_S:
            del self._open[digest]
            return None
        session.seen = now
        return session

    def end(self, session: Session) -> None:
        """End it."""
        self._open = {name: each for name, each in self._open.items() if each is not session}


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def _keep_newest(kept: dict[str, _Kept]) -> None:
    while len(kept) > _MOST:
        del kept[next(iter(kept))]
