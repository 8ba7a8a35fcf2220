"""What is remembered between calls of one caller: his subject facts, and his coarse budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.core.clock import Clock
from gateway.core.entities import Principal
from gateway.core.evaluation import subject_of
from gateway.core.facts import Subject
from gateway.core.refusal import LimitState

__all__ = ["Budgets", "Subjects"]

MAX_ENTRIES = 65_536
LOW_SHARE = 10
"""A budget with less than one tenth left is ``low``."""


class Subjects:
    """Subject facts by credential, as long as its principal stays the same."""

    def __init__(self) -> None:
        self._subjects: dict[str, tuple[Principal, Subject]] = {}

    def of(self, principal: Principal) -> Subject:
        """The subject of a principal."""
        known = self._subjects.get(principal.credential_id)
        if known is not None and known[0] == principal:
            return known[1]
        if len(self._subjects) >= MAX_ENTRIES:
            self._subjects.clear()
        subject = subject_of(principal)
        self._subjects[principal.credential_id] = (principal, subject)
        return subject


class Budgets:
    """Token budgets in three words, from the last settlement, until they have refilled.

    Exactness is the limiter's; this is what rules may read in advance.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._states: dict[str, dict[str, tuple[str, float]]] = {}

    def note(self, member: str, states: Sequence[LimitState]) -> None:
        """Remember the limits after a settlement; a word lapses when its bucket is full again."""
        until = self._clock.now()
        noted = {
            state.kind: ("spent" if state.remaining <= 0 else "low", until + state.reset_s)
            for state in states
            if state.remaining * LOW_SHARE < state.limit and state.kind.endswith("_tokens")
        }
        if noted:
            if len(self._states) >= MAX_ENTRIES:
                self._states.clear()
            self._states[member] = noted
        else:
            self._states.pop(member, None)

    def of(self, member: str) -> Mapping[str, str]:
        """``low`` or ``spent`` by kind; a kind that is not named is ``ok``."""
        noted = self._states.get(member)
        if noted is None:
            return {}
        now = self._clock.now()
        return {kind: word for kind, (word, until) in noted.items() if now < until}
