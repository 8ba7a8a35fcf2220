"""The permit: what the upstream leg takes, and the only thing it takes (invariant 2).

A permit is made in one place, ``proxy/pipeline.py`` step 5, after the intent is durable;
``tests/unit/test_house_rules.py`` fails on any other call of its constructor.
"""

from __future__ import annotations

from msgspec import Struct

from gateway.core.decision import Decision
from gateway.core.protocols import Position, Reservation

__all__ = ["Permit", "Target"]


class Target(Struct, frozen=True):
    """One dispatch target: an upstream of the settings, a template-built path, and the model.

    ``model`` is what the upstream is asked for; the gateway's own id is ``catalogue_id``.
    """

    endpoint: str
    path: str
    model: str
    catalogue_id: str


class Permit(Struct, frozen=True):
    """Leave to send one body to one target: the upstream leg has no other source for either."""

    request_id: str
    decision: Decision
    reservation: Reservation
    intent: Position
    target: Target
    body: bytes

    def __post_init__(self) -> None:
        if not self.decision.allows:
            raise ValueError("a permit needs a decision that allows")
