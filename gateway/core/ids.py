"""Identifiers that the gateway mints."""

from __future__ import annotations

import os

__all__ = ["new_decision_id", "new_request_id"]

_RANDOM_BYTES = 12


def new_request_id() -> str:
    """``req_`` and 96 random bits in hex."""
    return "req_" + os.urandom(_RANDOM_BYTES).hex()


def new_decision_id() -> str:
    """``dec_`` and 96 random bits in hex."""
    return "dec_" + os.urandom(_RANDOM_BYTES).hex()
