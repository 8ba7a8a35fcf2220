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
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
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


class _Family(NamedTuple):
    """A vendor's three headers, and the kinds of limits that they speak of."""

    kinds: tuple[str, ...]
    limit: bytes
    remaining: bytes
    reset: bytes

    @classmethod
    def of(cls, form: bytes, *kinds: str) -> _Family:
        """``form`` has a place for the word that tells the three apart."""
        return cls(kinds, form % b"limit", form % b"remaining", form % b"reset")


_OPENAI: Final = (
    _Family.of(b"x-ratelimit-%s-requests", "requests"),
    _Family.of(b"x-ratelimit-%s-tokens", "input_tokens", "output_tokens"),
)
_ANTHROPIC: Final = (
    _Family.of(b"anthropic-ratelimit-requests-%s", "requests"),
    _Family.of(b"anthropic-ratelimit-tokens-%s", "input_tokens", "output_tokens"),
    _Family.of(b"anthropic-ratelimit-input-tokens-%s", "input_tokens"),
    _Family.of(b"anthropic-ratelimit-output-tokens-%s", "output_tokens"),
)


def rate_headers(dialect: Dialect, limits: Sequence[LimitState], now: float) -> list[Header]:
    """All headers for these limits in the dialect's form, and the IETF ones.

    Args:
        dialect: whose names to use: Anthropic's, else OpenAI's.
        limits: the states after an admission attempt; empty gives no headers.
        now: Unix seconds, the base of Anthropic's resets.
    """
    if not limits:
        return []
    by_kind: dict[str, list[LimitState]] = {}
    for limit in limits:
        by_kind.setdefault(limit.kind, []).append(limit)
    if dialect is Dialect.ANTHROPIC:
        return _ietf(limits) + _vendors(_ANTHROPIC, by_kind, partial(_moment, now))
    return _ietf(limits) + _vendors(_OPENAI, by_kind, _duration)


def _ietf(limits: Sequence[LimitState]) -> list[Header]:
    """``RateLimit-Policy`` and ``RateLimit`` as structured-field lists (RFC 9651)."""
    policies, states = [], []
    for limit in limits:
        name, policy = _policy(limit.name, limit.key, limit.limit, limit.period_s, limit.rate)
        policies.append(policy)
        reset = "" if limit.kind == "streams" else f";t={math.ceil(limit.reset_s)}"
        states.append(f"{name};r={max(0, limit.remaining)}{reset}")
    return [
        (b"ratelimit-policy", ", ".join(policies).encode()),
        (b"ratelimit", ", ".join(states).encode()),
    ]


@lru_cache(maxsize=4096)
def _policy(name: str, key: str, burst: int, period_s: int, rate: int) -> tuple[str, str]:
    """What stays the same of a limit: its quoted name, and its item of ``RateLimit-Policy``."""
    quoted = '"' + _UNSAFE.sub("-", f"{name}.{key}") + '"'
    kind = name.partition(".")[0]
    unit = _UNITS.get(kind, "")
    if kind == "streams":
        return quoted, f"{quoted};q={burst}{unit}"
    window = max(1, math.ceil(burst * period_s / max(1, rate)))
    return quoted, f"{quoted};q={burst}{unit};w={window}"


def _vendors(
    families: Iterable[_Family],
    by_kind: Mapping[str, Sequence[LimitState]],
    reset: Callable[[float], bytes],
) -> list[Header]:
    headers = []
    for family in families:
        limits = [limit for kind in family.kinds for limit in by_kind.get(kind, ())]
        if limits:
            limit = limits[0] if len(limits) == 1 else max(limits, key=_pressure)
            headers += [
                (family.limit, b"%d" % limit.limit),
                (family.remaining, b"%d" % max(0, limit.remaining)),
                (family.reset, reset(limit.reset_s)),
            ]
    return headers


def _pressure(limit: LimitState) -> tuple[float, float]:
    """Largest for the limit that refused, or is nearest to refusing."""
    return limit.retry_s, -max(0, limit.remaining) / max(1, limit.limit)


def _moment(now: float, seconds: float) -> bytes:
    return _instant(math.ceil(now + seconds))


@lru_cache(maxsize=1024)
def _instant(second: int) -> bytes:
    return timestamp(second).encode()


def _duration(seconds: float) -> bytes:
    """``6m0s`` style, rounded up to whole seconds."""
    whole = math.ceil(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return b"%dh%dm%ds" % (hours, minutes, rest)
    return b"%dm%ds" % (minutes, rest) if minutes else b"%ds" % rest
