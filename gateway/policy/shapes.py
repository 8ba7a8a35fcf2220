"""The shape of the data files that decide who gets in: a value of another kind fails open.

Rego orders values of different types (a string is greater than every number), so a level that was
written as a word would let everyone through, and a threshold written as a word would stop nobody.
A file that stands here must decode, with no key that it does not know; other files are the rules'
own affair. ``null`` is a value of its own to Rego, so what may be left out may not be null.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, get_args

from msgspec import UNSET, Meta, Struct, UnsetType

from gateway.core.decision import Capture, LimitSpec
from gateway.core.facts import ActionName, Country, Label, Level, Timestamp, ToolKind

__all__ = ["SHAPES", "in_words"]

Score = Annotated[int, Meta(ge=0, le=1000)]
Seconds = Annotated[int, Meta(ge=1, le=31_536_000)]
Tokens = Annotated[int, Meta(ge=0, le=100_000_000)]


class _Shape(Struct, frozen=True, forbid_unknown_fields=True):
    """A mapping whose keys are all known."""


class _Authentication(_Shape, frozen=True):
    amr: tuple[Label, ...] = ()
    max_age_s: Seconds | UnsetType = UNSET


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
    roles: tuple[Label, ...] | UnsetType = UNSET
    organisations: tuple[Label, ...] | UnsetType = UNSET
    countries: tuple[Country, ...] | UnsetType = UNSET
    min_tier: dict[Label, Level] | UnsetType = UNSET


class _Denies(_Shape, frozen=True):
    remote_fetch: bool = False
    store: bool = False
    tool_kinds: tuple[ToolKind, ...] = ()


class _Approval(_Shape, frozen=True):
    output_tokens_over: Tokens | UnsetType = UNSET
    tool_kinds: tuple[ToolKind, ...] = ()


class _Stage(_Shape, frozen=True):
    admits: tuple[_Admission, ...]
    visible_to: tuple[Label, ...] | UnsetType = UNSET
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


class _Wave(_Shape, frozen=True):
    opens_at: Timestamp
    admits: tuple[_Admission, ...]
    closes_at: Timestamp | UnsetType = UNSET
    opened: bool = False


class _Programme(_Shape, frozen=True):
    admits: tuple[_Admission, ...]


class _Purpose(_Shape, frozen=True):
    title: str
    approval: bool = False


class _Signal(_Shape, frozen=True):
    review: Score | UnsetType = UNSET
    deny: Score | UnsetType = UNSET


SHAPES: Mapping[str, Any] = {
    "tiers": dict[Label, _Tier],
    "stages": dict[str, _Stage],
    "limits": _Limits,
    "waves": dict[Label, _Wave],
    "networks": dict[Label, tuple[str, ...]],
    "programmes": dict[Label, _Programme],
    "purposes": dict[Label, _Purpose],
    "signals": dict[Label, _Signal],
}
"""By the data file's name, the type that ``msgspec.convert`` must be able to make of it."""

_WORDS = {
    Label: "a lower-case name of letters, digits, `_`, `.`, `:` and `-`",
    Timestamp: 'a time in UTC as "2026-01-31T00:00:00Z"',
    Country: "a country code as DE",
}
_PATTERNS = {
    f"`str` matching regex {get_args(kind)[1].pattern!r}": words for kind, words in _WORDS.items()
}


def in_words(problem: str) -> str:
    """A message of msgspec's with words for the patterns that people are to write by."""
    for pattern, words in _PATTERNS.items():
        problem = problem.replace(pattern, words)
    return problem
