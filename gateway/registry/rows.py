"""Rows: entities as canonical JSON, the form that digests and MACs cover.

Pure. A row is judged by its stored text, never by a text made anew from its parsed form, so a
field added to a type later changes no old row's digest.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from gateway.core.entities import Credential, Entity, Issuer, Member, Organisation

__all__ = ["KINDS", "TYPES", "Kind", "Row", "body_of", "digest_of", "entity_of", "kind_of"]

Kind = Literal["organisation", "member", "credential", "issuer"]

TYPES: dict[Kind, type[Entity]] = {
    "organisation": Organisation,
    "member": Member,
    "credential": Credential,
    "issuer": Issuer,
}
KINDS: tuple[Kind, ...] = tuple(TYPES)
_KIND_OF: dict[type[Entity], Kind] = {of: kind for kind, of in TYPES.items()}


class Row(msgspec.Struct, frozen=True):
    """One row as it is stored.

    ``record`` is the position (``origin#seq``) of the log record that made it, ``epoch`` the
    registry's when it was written, ``mac`` lower-case hex.
    """

    kind: Kind
    id: str
    body: str
    record: str
    epoch: int
    mac: str


def kind_of(entity: Entity) -> Kind:
    """The kind of an entity."""
    return _KIND_OF[type(entity)]


def body_of(entity: Entity) -> str:
    """Canonical JSON: all fields, names sorted, no blanks."""
    return msgspec.json.encode(entity, order="sorted").decode()


def entity_of(row: Row) -> Entity:
    """Parse a row's body.

    Raises:
        ValueError: the body is not an entity of the row's kind and id.
    """
    entity: Entity = msgspec.json.decode(row.body, type=TYPES[row.kind])
    if entity.id != row.id:
        raise ValueError("a row's body names another id")
    return entity


def digest_of(kind: Kind, body: str) -> str:
    """SHA-256 (hex) by which a log record names a row's content."""
    return hashlib.sha256(f"{kind}\0{body}".encode()).hexdigest()
