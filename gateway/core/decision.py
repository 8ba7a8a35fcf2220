"""Decisions: what a rule may answer, parsed strictly, and how answers combine.

An answer that this schema does not accept is no answer, and no answer denies (invariant 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from gateway.core.facts import Label, ModelId, Timestamp
from gateway.core.reasons import POLICY_MODEL_NOT_FOUND

__all__ = [
    "Capture",
    "Decision",
    "DecisionReason",
    "Effect",
    "LimitKey",
    "LimitSpec",
    "parse_decision",
    "strictest",
]


class Effect(StrEnum):
    """What a decision says, from the mildest to the strictest (see ``severity``)."""

    ALLOW = "allow"
    DOWNGRADE = "downgrade"
    STEP_UP = "step_up"
    REQUIRE_APPROVAL = "require_approval"
    DENY = "deny"

    @property
    def severity(self) -> int:
        """0 for allow, up to 4 for deny."""
        return _SEVERITY[self]


_SEVERITY = {effect: rank for rank, effect in enumerate(Effect)}


class Capture(StrEnum):
    """How much of the content the record keeps."""

    METADATA = "metadata"
    DIGEST = "digest"
    SEALED_REQUEST = "sealed_request"
    SEALED = "sealed"


class LimitKey(StrEnum):
    """Whose bucket a limit draws from."""

    SUBJECT = "subject"
    CREDENTIAL = "credential"
    ORGANISATION = "organisation"


LimitName = Annotated[
    str,
    Meta(pattern=r"^(requests|input_tokens|output_tokens|streams)(\.[a-z0-9_-]{1,32})?\Z"),
]
"""What is counted, and after a dot the name of a bucket of its own."""


class DecisionReason(Struct, frozen=True, forbid_unknown_fields=True):
    """One reason: a stable code, the rule that gave it, and what would change it."""

    code: Label
    rule: Label
    message: Annotated[str, Meta(max_length=300)]
    remedy: Annotated[str, Meta(max_length=300)]


class LimitSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """``rate`` units each ``period_s`` seconds, at most ``burst`` at once.

    For ``streams`` only ``burst`` counts: that many at the same time.
    """

    name: LimitName
    key: LimitKey
    rate: Annotated[int, Meta(ge=1, le=1_000_000_000)]
    period_s: Annotated[int, Meta(ge=1, le=2_678_400)]
    burst: Annotated[int, Meta(ge=1, le=1_000_000_000)]

    @property
    def kind(self) -> str:
        """``requests``, ``input_tokens``, ``output_tokens`` or ``streams``."""
        return self.name.partition(".")[0]


class Decision(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A rule's whole answer. ``model`` is the substitute of a downgrade."""

    effect: Effect
    reasons: tuple[DecisionReason, ...] = ()
    model: ModelId | None = None
    limits: tuple[LimitSpec, ...] = ()
    capture: Capture = Capture.DIGEST
    review: bool = False
    valid_until: Timestamp | None = None

    @property
    def allows(self) -> bool:
        """True for ``allow`` and ``downgrade``: something may be forwarded."""
        return self.effect in (Effect.ALLOW, Effect.DOWNGRADE)

    @property
    def hides(self) -> bool:
        """Whether the subject may not know that the model exists (invariant 8)."""
        return bool(self.reasons) and self.reasons[0].code == POLICY_MODEL_NOT_FOUND


_decoder = msgspec.json.Decoder(Decision)


def parse_decision(raw: bytes) -> Decision:
    """Parse an engine's answer.

    Raises:
        ValueError: the answer is undefined, of another shape, contradicts itself (a denial
            without a reason, a downgrade without a model, a model without a downgrade), or names
            one limit twice.
    """
    try:
        decision = _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"not a decision: {error}") from None
    if decision.effect is not Effect.ALLOW and not decision.reasons:
        raise ValueError(f"effect {decision.effect} without a reason")
    if (decision.effect is Effect.DOWNGRADE) != (decision.model is not None):
        raise ValueError("a downgrade names its model, and nothing else does")
    if len({(limit.name, limit.key) for limit in decision.limits}) != len(decision.limits):
        raise ValueError("a limit is named twice")
    return decision


def strictest(decisions: Sequence[Decision]) -> Decision:
    """The decision that binds when several were made: the first of the highest severity.

    Raises:
        ValueError: there are none.
    """
    return max(decisions, key=lambda decision: decision.effect.severity)
