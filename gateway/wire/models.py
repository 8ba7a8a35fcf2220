"""Model lists and entries in each vendor's form, from the catalogue entries a caller may use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.core.catalogue import CatalogueEntry
from gateway.core.clock import parse_timestamp
from gateway.wire.dialects import Dialect

__all__ = ["model_entry", "model_list"]


def model_list(dialect: Dialect, entries: Sequence[CatalogueEntry]) -> bytes:
    """The whole list in one page, newest first, then by id; paging parameters are not needed."""
    ordered = sorted(entries, key=lambda entry: (-parse_timestamp(entry.created_at), entry.id))
    data = [_entry(dialect, entry) for entry in ordered]
    if dialect is Dialect.ANTHROPIC:
        return msgspec.json.encode(
            {
                "data": data,
                "has_more": False,
                "first_id": ordered[0].id if ordered else None,
                "last_id": ordered[-1].id if ordered else None,
            }
        )
    return msgspec.json.encode({"object": "list", "data": data})


def model_entry(dialect: Dialect, entry: CatalogueEntry) -> bytes:
    """One model, as ``GET /v1/models/{id}`` answers."""
    return msgspec.json.encode(_entry(dialect, entry))


def _entry(dialect: Dialect, entry: CatalogueEntry) -> dict[str, Any]:
    if dialect is Dialect.ANTHROPIC:
        return {
            "type": "model",
            "id": entry.id,
            "display_name": entry.display_name,
            "created_at": entry.created_at,
            "lifecycle": "active",
            "max_tokens": entry.max_output_tokens,
        }
    return {
        "id": entry.id,
        "object": "model",
        "created": parse_timestamp(entry.created_at),
        "owned_by": "sluicegate",
    }
