"""The shape of the data files that decide who gets in: a value of another kind fails open.

Rego orders values of different types (a string is greater than every number), so a level that was
written as a word would let everyone through. A file that stands here must decode, with no key that
it does not know; other files are the rules' own affair.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta, Struct

from gateway.core.decision import Capture, LimitSpec
from gateway.core.facts import ActionName, Label, Level, ToolKind

__all__ = ["SHAPES"]

Seconds = Annotated[int, Meta(ge=1, le=31_536_000)]
Tokens = Annotated[int, Meta(ge=0, le=100_000_000)]


class _Shape(Struct, frozen=True, forbid_unknown_fields=True):
    """A mapping whose keys are all known."""


class _Authentication(_Shape, frozen=True):
    amr: tuple[Label, ...] = ()
    max_age_s: Seconds | None = None


class _TierLevel(_Shape, frozen=True):
    level: Level
    name: str
    vetting: dict[Label, Level] = {}
    authentication: _Authentication = _Authentication()
    engagement_required: bool = False


class _Classes(_Shape, frozen=True):
    targets_from: Level
    review_from: Level
    sealed_from: Level


class _Tier(_Shape, frozen=True):
    title: str
    open_evaluation: Level
    levels: Annotated[tuple[_TierLevel, ...], Meta(min_length=1)]
    classes: _Classes


class _Admission(_Shape, frozen=True):
    roles: tuple[Label, ...] | None = None
    organisations: tuple[Label, ...] | None = None
    countries: tuple[str, ...] | None = None
    min_tier: dict[Label, Level] | None = None


class _Denies(_Shape, frozen=True):
    remote_fetch: bool = False
    store: bool = False
    tool_kinds: tuple[ToolKind, ...] = ()


class _Approval(_Shape, frozen=True):
    output_tokens_over: Tokens | None = None
    tool_kinds: tuple[ToolKind, ...] = ()


class _Stage(_Shape, frozen=True):
    admits: tuple[_Admission, ...]
    visible_to: tuple[Label, ...] | None = None
    retired: bool = False
    capture: Capture = Capture.DIGEST
    denies: _Denies = _Denies()
    approval: _Approval = _Approval()


class _LimitsFrom(_Shape, frozen=True):
    from_level: Level
    limits: tuple[LimitSpec, ...]


class _Limits(_Shape, frozen=True):
    actions: dict[ActionName, tuple[LimitSpec, ...]]
    stages: dict[str, tuple[_LimitsFrom, ...]]
    otherwise: tuple[LimitSpec, ...]


SHAPES: Mapping[str, Any] = {
    "tiers": dict[Label, _Tier],
    "stages": dict[str, _Stage],
    "limits": _Limits,
}
"""By the data file's name, the type that ``msgspec.convert`` must be able to make of it."""
