"""What one call asks of its limits, the same for every store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from msgspec import Struct

from gateway.core.decision import LimitKey, LimitSpec
from gateway.limits.gcra import Bucket

__all__ = ["RESERVATION_TTL_S", "Claim", "claims_of", "organisation_tag"]

RESERVATION_TTL_S = 900
"""How long a reservation lives without ``renew``: then its stream lapses and its tokens stay
charged (they drain by their rate)."""

_UNSAID = {"requests": 1, "streams": 1}
"""What a call takes of a kind that ``amounts`` does not name: forgetting must not open a limit."""


class Claim(Struct):
    """``cost`` units of one limit in one owner's bucket: 0 or 1 for streams, else 0 to burst.

    ``is_stream`` is true where a lease is taken, not a rate.
    """

    spec: LimitSpec
    key: str
    kind: str
    is_stream: bool
    cost: int
    bucket: Bucket

    def correction(self, used: Mapping[str, int]) -> int:
        """Units to charge (> 0) or give back (< 0) at settlement. Zero used is not missing."""
        units = used.get(self.kind)
        return 0 if units is None else max(0, units) - self.cost


def organisation_tag(owners: Mapping[str, str]) -> str:
    """The common start of all keys of one call: on a cluster they share one slot.

    Raises:
        ValueError: ``owners`` names no organisation.
    """
    organisation = owners.get(LimitKey.ORGANISATION, "")
    if not organisation or "}" in organisation:
        raise ValueError("a limit's owners must name their organisation")
    return f"sg:{{{organisation}}}"


def claims_of(
    limits: Sequence[LimitSpec], owners: Mapping[str, str], amounts: Mapping[str, int]
) -> tuple[Claim, ...]:
    """The claims of one call, in the order of ``limits``.

    ``amounts`` are by kind; one that is not named is 1 for requests and streams, 0 for tokens.
    A cost beyond the burst is cut to it (``gcra``: the rest becomes debt at settlement).

    Raises:
        ValueError: ``owners`` names no organisation.
        KeyError: ``owners`` lacks the key of a limit.
    """
    tag = organisation_tag(owners)
    claims = []
    for spec in limits:
        kind, bucket, end = _shape(spec)
        amount = amounts[kind] if kind in amounts else _UNSAID.get(kind, 0)
        is_stream = kind == "streams"
        cost = max(0, min(amount, 1 if is_stream else bucket.burst))
        claims.append(Claim(spec, f"{tag}{end}{owners[spec.key]}", kind, is_stream, cost, bucket))
    return tuple(claims)


@lru_cache(maxsize=4096)
def _shape(spec: LimitSpec) -> tuple[str, Bucket, str]:
    """Kind, bucket and the middle of the key: the same for every call that a limit is asked of."""
    return spec.kind, Bucket.of(spec.rate, spec.period_s, spec.burst), f":{spec.name}:{spec.key}:"
