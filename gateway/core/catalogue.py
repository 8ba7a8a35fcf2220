"""The model catalogue: the part of a revision's data that the gateway itself reads.

Rules read the same entries as ``data.models[id]``; both see one file,
``policies/data/models.yaml``.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from gateway.core.facts import Label, Level, ModelId, Timestamp, Wire

__all__ = ["CatalogueEntry", "Requirements"]


class Requirements(Struct, frozen=True, forbid_unknown_fields=True):
    """What a model asks of those who call it; every field that is set must be met."""

    tiers: dict[Label, Level] = {}
    vetting: dict[Label, Level] = {}
    licences: tuple[Label, ...] = ()
    retention: tuple[Label, ...] = ()
    agreements: tuple[Label, ...] = ()
    networks: tuple[Label, ...] = ()
    purposes: tuple[Label, ...] = ()
    countries_denied: tuple[Annotated[str, Meta(pattern=r"^[A-Z]{2}\Z")], ...] = ()
    tool_kinds_denied: tuple[Label, ...] = ()
    bound_credential: bool = False


class CatalogueEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """One model: where it is served, on which wires, at which stage, with what demands.

    ``endpoint`` names an upstream of the settings (bundles never hold addresses).
    ``upstream_model`` replaces ``model`` in the body where it differs from ``id``.
    ``classes`` are ordinal capability classes by domain. ``fallback`` is the substitute that a
    downgrade may name. ``safety_identifier`` and ``include_usage`` are the body edits that this
    endpoint wants (invariant 1).
    """

    id: ModelId
    display_name: Annotated[str, Meta(min_length=1, max_length=80)]
    endpoint: Label
    wires: tuple[Wire, ...]
    stage: Label
    created_at: Timestamp
    classes: dict[Label, Level] = {}
    requires: Requirements = Requirements()
    wave: Label | None = None
    upstream_model: ModelId | None = None
    aliases: tuple[ModelId, ...] = ()
    fallback: ModelId | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=100_000_000)] = 128_000
    safety_identifier: bool = False
    include_usage: bool = False
    restricted: bool = True
    """Fails closed on every doubt; ``False`` only for models that anyone may call."""
