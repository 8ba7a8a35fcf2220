"""JSON objects read without doubt: no duplicate names, no NaN, no stray bytes.

What two parsers could read differently is not read at all (invariant 1).
"""

from __future__ import annotations

import json
from typing import Any

__all__ = ["json_object"]


def json_object(raw: bytes) -> dict[str, Any]:
    """Parse one JSON object (RFC 8259).

    Raises:
        ValueError: not UTF-8, not an object, a name twice in any object, NaN or Infinity, or
            nested deeper than the interpreter's stack.
    """
    try:
        value = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004 - bad text, not a caller's mistake
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
