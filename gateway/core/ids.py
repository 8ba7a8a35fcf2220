"""Identifiers that the gateway mints."""

from __future__ import annotations

import secrets

__all__ = ["new_decision_id", "new_request_id"]

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford base 32, lower case: no look-alikes


def _random(length: int) -> str:
    bits = secrets.randbits(5 * length)
    return "".join(_ALPHABET[(bits >> (5 * i)) & 31] for i in range(length))


def new_request_id() -> str:
    """``req_`` and 120 random bits."""
    return "req_" + _random(24)


def new_decision_id() -> str:
    """``dec_`` and 120 random bits."""
    return "dec_" + _random(24)
