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
from collections.abc import Callable, Iterable, Sequence
from typing import Final

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


def rate_headers(dialect: Dialect, limits: Sequence[LimitState], now: float) -> list[Header]:
    """All headers for these limits in the dialect's form, and the IETF ones.

    Args:
        dialect: whose names to use: Anthropic's, else OpenAI's.
        limits: the states after an admission attempt; empty gives no headers.
        now: Unix seconds, the base of Anthropic's resets.
    """
    if dialect is Dialect.ANTHROPIC:
        return _ietf(limits) + _anthropic(limits, now)
    return _ietf(limits) + _openai(limits)


def _ietf(limits: Sequence[LimitState]) -> list[Header]:
    """``RateLimit-Policy`` and ``RateLimit`` as structured-field lists (RFC 9651)."""
    if not limits:
        return []
    policies, states = [], []
    for limit in limits:
        name = _UNSAFE.sub("-", f"{limit.name}.{limit.key}")
        unit = _UNITS.get(limit.kind, "")
        if limit.kind == "streams":
            policies.append(f'"{name}";q={limit.limit}{unit}')
            states.append(f'"{name}";r={_remaining(limit)}')
            continue
        window = max(1, math.ceil(limit.limit * limit.period_s / max(1, limit.rate)))
        policies.append(f'"{name}";q={limit.limit}{unit};w={window}')
        states.append(f'"{name}";r={_remaining(limit)};t={math.ceil(limit.reset_s)}')
    return [
        (b"ratelimit-policy", ", ".join(policies).encode()),
        (b"ratelimit", ", ".join(states).encode()),
    ]


def _openai(limits: Sequence[LimitState]) -> list[Header]:
    requests = _binding(limits, "requests")
    tokens = _binding(limits, "input_tokens", "output_tokens")
    return [
        *_triple(requests, b"x-ratelimit-%s-requests", _duration),
        *_triple(tokens, b"x-ratelimit-%s-tokens", _duration),
    ]


def _anthropic(limits: Sequence[LimitState], now: float) -> list[Header]:
    def moment(seconds: float) -> bytes:
        return timestamp(math.ceil(now + seconds)).encode()

    headers: list[Header] = []
    for kinds, name in (
        (("requests",), b"requests"),
        (("input_tokens", "output_tokens"), b"tokens"),
        (("input_tokens",), b"input-tokens"),
        (("output_tokens",), b"output-tokens"),
    ):
        form = b"anthropic-ratelimit-" + name + b"-%s"
        headers += _triple(_binding(limits, *kinds), form, moment)
    return headers


def _triple(
    limit: LimitState | None, form: bytes, reset: Callable[[float], bytes]
) -> Iterable[Header]:
    if limit is None:
        return ()
    return (
        (form % b"limit", b"%d" % limit.limit),
        (form % b"remaining", b"%d" % _remaining(limit)),
        (form % b"reset", reset(limit.reset_s)),
    )


def _binding(limits: Sequence[LimitState], *kinds: str) -> LimitState | None:
    """The limit of these kinds that refused, or is nearest to refusing."""
    candidates = [limit for limit in limits if limit.kind in kinds]
    return max(
        candidates,
        key=lambda limit: (limit.retry_s, -_remaining(limit) / max(1, limit.limit)),
        default=None,
    )


def _remaining(limit: LimitState) -> int:
    return max(0, limit.remaining)


def _duration(seconds: float) -> bytes:
    """``6m0s`` style, rounded up to whole seconds."""
    whole = math.ceil(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return b"%dh%dm%ds" % (hours, minutes, rest)
    return b"%dm%ds" % (minutes, rest) if minutes else b"%ds" % rest
