"""Refusals: the gateway's own answers, as typed values.

``wire`` turns a ``Refusal`` into the caller's dialect; ``audit`` records it; neither adds a fact.
"""

from __future__ import annotations

from msgspec import Struct

from gateway.core.reasons import Reason

__all__ = ["LimitState", "Refusal", "Refused"]


class LimitState(Struct, frozen=True):
    """One limit after an admission attempt.

    ``limit`` is the burst, ``remaining`` what may still be taken now, ``reset_s`` the seconds
    until the bucket is full again, ``retry_s`` the seconds until the refused amount would fit
    (0 where it fits).
    """

    name: str
    key: str
    limit: int
    remaining: int
    reset_s: float
    period_s: int
    rate: int
    retry_s: float = 0.0

    @property
    def kind(self) -> str:
        """``requests``, ``input_tokens``, ``output_tokens`` or ``streams``."""
        return self.name.partition(".")[0]


class Refusal(Struct, frozen=True):
    """Why a call did not go through, or did not go on.

    ``message`` says rule and remedy within its first 100 characters. ``code`` is the policy's own
    reason code where policy refused, else the reason's value. ``decision_id`` is set only where
    the caller may know that a decision was made about a model, ``model`` only where he may know
    that there is that model.
    """

    reason: Reason
    message: str
    remedy: str = ""
    code: str = ""
    rule: str = ""
    decision_id: str = ""
    model: str = ""
    retry_after_s: float | None = None
    limits: tuple[LimitState, ...] = ()


class Refused(Exception):
    """Carries a ``Refusal`` from the step that made it to the one place that answers."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason.value)
        self.refusal = refusal
