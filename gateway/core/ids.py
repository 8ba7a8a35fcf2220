"""Identifiers that the gateway mints."""

from __future__ import annotations

import secrets

__all__ = ["new_decision_id", "new_request_id"]

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford base 32, lower case: no look-alikes


_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_BITS = 120


def _random() -> str:
    bits = secrets.randbits(_BITS)
    return "".join([_PAIRS[(bits >> shift) & 1023] for shift in range(0, _BITS, 10)])


def new_request_id() -> str:
    """``req_`` and 120 random bits."""
    return "req_" + _random()


def new_decision_id() -> str:
    """``dec_`` and 120 random bits."""
    return "dec_" + _random()
