"""Limits as headers, on refusals and on answers alike: the same numbers everywhere (K54, K55).

* IETF: ``RateLimit-Policy`` and ``RateLimit`` (draft-ietf-httpapi-ratelimit-headers-11), one item
  for each limit. ``q`` is the most that may be taken at once (the burst) and ``w`` the seconds in
  which that much comes back, so the pair is true of a GCRA bucket. The draft knows units for
  requests (the default) and concurrency; ``tokens`` is ours.
* OpenAI: ``x-ratelimit-{limit,remaining,reset}-{requests,tokens}``, resets as ``1m6s``.
* Anthropic: ``anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-…``, resets as
  RFC 3339.

The vendors' headers have room for one limit of a kind: the one that binds first is shown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from gateway.core.clock import timestamp
from gateway.core.refusal import LimitState
from gateway.wire.dialects import Dialect
from gateway.wire.headers import Header

__all__ = ["rate_headers"]

_UNITS: Final = {
    "streams": ';qu="concurrent-requests"',
    "input_tokens": ';qu="tokens"',
    "output_tokens": ';qu="tokens"',
}
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.:-]")


_OPENAI: Final = (
    ("x-ratelimit-%s-requests", "requests"),
    ("x-ratelimit-%s-tokens", "input_tokens", "output_tokens"),
)
_ANTHROPIC: Final = (
    ("anthropic-ratelimit-requests-%s", "requests"),
    ("anthropic-ratelimit-tokens-%s", "input_tokens", "output_tokens"),
    ("anthropic-ratelimit-input-tokens-%s", "input_tokens"),
    ("anthropic-ratelimit-output-tokens-%s", "output_tokens"),
)
"""The vendors' headers, each with the kinds of limits that it speaks of."""


class _Family(NamedTuple):
    """A vendor's three headers, and which of a call's limits they speak of."""

    members: tuple[int, ...]
    limit: bytes
    remaining: bytes
    reset: bytes


class _Plan(NamedTuple):
    """What stays the same of a set of limits: one header whole, the form of the other, and where
    in the vendor's headers each limit goes."""

    policy: Header
    states: str
    with_reset: tuple[bool, ...]
    families: tuple[_Family, ...]


def rate_headers(dialect: Dialect, limits: Sequence[LimitState], now: float) -> list[Header]:
    """All headers for these limits in the dialect's form, and the IETF ones.

    Args:
        dialect: whose names to use: Anthropic's, else OpenAI's.
        limits: the states after an admission attempt; empty gives no headers.
        now: Unix seconds, the base of Anthropic's resets.
    """
    if not limits:
        return []
    anthropic = dialect is Dialect.ANTHROPIC
    plan = _plan(
        anthropic,
        tuple([(each.name, each.key, each.limit, each.period_s, each.rate) for each in limits]),
    )
    numbers: list[int] = []
    for limit, with_reset in zip(limits, plan.with_reset, strict=True):
        numbers.append(max(0, limit.remaining))
        if with_reset:
            numbers.append(math.ceil(limit.reset_s))
    headers = [plan.policy, (b"ratelimit", (plan.states % tuple(numbers)).encode())]
    for members, name, remaining, reset in plan.families:
        limit = limits[members[0]]
        if len(members) > 1:
            limit = max([limits[index] for index in members], key=_pressure)
        headers += (
            (name, b"%d" % limit.limit),
            (remaining, b"%d" % max(0, limit.remaining)),
            (
                reset,
                _instant(math.ceil(now + limit.reset_s))
                if anthropic
                else _duration(math.ceil(limit.reset_s)),
            ),
        )
    return headers


@lru_cache(maxsize=1024)
def _plan(anthropic: bool, limits: tuple[tuple[str, str, int, int, int], ...]) -> _Plan:
    """The plan for limits given as name, key, burst, period and rate.

    ``RateLimit-Policy`` and ``RateLimit`` are structured-field lists (RFC 9651).
    """
    policies, states, kinds = [], [], []
    for name, key, burst, period_s, rate in limits:
        kind = name.partition(".")[0]
        quoted = '"' + _UNSAFE.sub("-", f"{name}.{key}") + '"'
        policy = f"{quoted};q={burst}{_UNITS.get(kind, '')}"
        if kind != "streams":
            policy += f";w={max(1, math.ceil(burst * period_s / max(1, rate)))}"
        policies.append(policy)
        states.append(f"{quoted};r=%d" + ("" if kind == "streams" else ";t=%d"))
        kinds.append(kind)
    families = []
    for form, *spoken_of in _ANTHROPIC if anthropic else _OPENAI:
        members = tuple([index for index, kind in enumerate(kinds) if kind in spoken_of])
        if members:
            words = [(form % word).encode() for word in ("limit", "remaining", "reset")]
            families.append(_Family(members, *words))
    return _Plan(
        (b"ratelimit-policy", ", ".join(policies).encode()),
        ", ".join(states),
        tuple([kind != "streams" for kind in kinds]),
        tuple(families),
    )


def _pressure(limit: LimitState) -> tuple[float, float]:
    """Largest for the limit that refused, or is nearest to refusing."""
    return limit.retry_s, -max(0, limit.remaining) / max(1, limit.limit)


@lru_cache(maxsize=1024)
def _instant(second: int) -> bytes:
    return timestamp(second).encode()


@lru_cache(maxsize=1024)
def _duration(seconds: int) -> bytes:
    """``6m0s`` style."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return b"%dh%dm%ds" % (hours, minutes, rest)
    return b"%dm%ds" % (minutes, rest) if minutes else b"%ds" % rest
