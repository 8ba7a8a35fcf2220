"""The registry in memory, as the request path reads it, and the deltas that keep it current.

A full snapshot is the delta from nothing (``since`` is ``None``), so one type and one codec serve
both. Deltas are contiguous: one that does not start where the snapshot stands is refused, and its
reader asks for a full one. Encoded deltas hold subject keys; they travel on the local socket only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import Struct

from gateway.core.entities import Credential, Entity, Issuer, Member, Organisation
from gateway.registry.rows import KINDS, Kind, kind_of

__all__ = ["Delta", "EpochGap", "Snapshot", "decode_delta", "delta_of", "encode_delta"]


class EpochGap(Exception):
    """A delta is missing between the snapshot and this one: ask for a full one."""


class Delta(Struct, frozen=True):
    """What changed from epoch ``since`` to ``epoch``; everything, if ``since`` is ``None``.

    ``subject_keys`` maps member ids to 32 bytes. A member who is gone takes his along.
    """

    since: int | None
    epoch: int
    organisations: tuple[Organisation, ...] = ()
    members: tuple[Member, ...] = ()
    credentials: tuple[Credential, ...] = ()
    issuers: tuple[Issuer, ...] = ()
    gone: tuple[tuple[Kind, str], ...] = ()
    subject_keys: dict[str, bytes] = {}

    def __repr__(self) -> str:
        # Shown in logs and tracebacks: never the subject keys.
        return f"Delta(since={self.since}, epoch={self.epoch})"

    @property
    def entities(self) -> Iterator[Entity]:
        """All that is added or replaced."""
        yield from self.organisations
        yield from self.members
        yield from self.credentials
        yield from self.issuers


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Delta)


def encode_delta(delta: Delta) -> bytes:
    """MessagePack, for a data worker's socket."""
    return _encoder.encode(delta)


def decode_delta(raw: bytes) -> Delta:
    """Parse ``encode_delta``'s bytes.

    Raises:
        ValueError: they are not a delta.
    """
    return _decoder.decode(raw)


def delta_of(
    since: int | None,
    epoch: int,
    *,
    put: Iterable[Entity] = (),
    gone: tuple[tuple[Kind, str], ...] = (),
    subject_keys: dict[str, bytes] | None = None,
) -> Delta:
    """A delta from entities of any kind."""
    entities = tuple(put)
    return Delta(
        since=since,
        epoch=epoch,
        organisations=tuple(each for each in entities if isinstance(each, Organisation)),
        members=tuple(each for each in entities if isinstance(each, Member)),
        credentials=tuple(each for each in entities if isinstance(each, Credential)),
        issuers=tuple(each for each in entities if isinstance(each, Issuer)),
        gone=gone,
        subject_keys=subject_keys or {},
    )


class Snapshot:
    """Implements ``core.protocols.Directory``; changed only by ``apply``, between awaits."""

    _epoch: int

    def __init__(self) -> None:
        self.generation = 0
        self._clear()

    @property
    def epoch(self) -> int:
        """Grows with every delta; -1 before the first."""
        return self._epoch

    def credential(self, sha256: str) -> Credential | None:
        """The credential whose key has this SHA-256 (hex)."""
        return self._by_hash.get(sha256)

    def credential_by_id(self, credential_id: str) -> Credential | None:
        """The credential of this id."""
        found = self._entities["credential"].get(credential_id)
        return found if isinstance(found, Credential) else None

    def member(self, member_id: str) -> Member | None:
        """The member of this id."""
        found = self._entities["member"].get(member_id)
        return found if isinstance(found, Member) else None

    def member_by_external_id(self, organisation: str, external_id: str) -> Member | None:
        """The member whom the issuer calls ``external_id``, unless he is revoked."""
        return self._by_external_id.get((organisation, external_id))

    def organisation(self, organisation_id: str) -> Organisation | None:
        """The organisation of this id."""
        found = self._entities["organisation"].get(organisation_id)
        return found if isinstance(found, Organisation) else None

    def issuer(self, issuer: str) -> Issuer | None:
        """The issuer whose ``iss`` this is, unless it is revoked."""
        return self._by_iss.get(issuer)

    def issuer_by_id(self, issuer_id: str) -> Issuer | None:
        """The issuer of this registry id."""
        found = self._entities["issuer"].get(issuer_id)
        return found if isinstance(found, Issuer) else None

    def subject_key(self, member_id: str) -> bytes | None:
        """The 32 bytes that seal this member's facts; ``None`` after erasure."""
        return self._subject_keys.get(member_id)

    def entity(self, kind: Kind, entity_id: str) -> Entity | None:
        """The entity of this kind and id."""
        return self._entities[kind].get(entity_id)

    def entities(self, kind: Kind) -> tuple[Entity, ...]:
        """All entities of a kind, by id."""
        return tuple(entity for _, entity in sorted(self._entities[kind].items()))

    def apply(self, delta: Delta) -> None:
        """Move to ``delta.epoch``.

        Raises:
            EpochGap: the delta does not start at this snapshot's epoch; nothing was changed.
        """
        if delta.since is None:
            self._clear()
        elif delta.since != self._epoch:
            raise EpochGap(f"at epoch {self._epoch}, delta starts at {delta.since}")
        for kind, entity_id in delta.gone:
            self._remove(kind, entity_id)
            if kind == "member":
                self._subject_keys.pop(entity_id, None)
        for entity in delta.entities:
            self._put(entity)
        self._subject_keys.update(delta.subject_keys)
        self._epoch = delta.epoch
        self.generation += 1

    def full(self) -> Delta:
        """The delta that makes an empty snapshot equal to this one."""
        everything = (entity for kind in KINDS for entity in self.entities(kind))
        return delta_of(
            None, self._epoch, put=everything, subject_keys=dict(sorted(self._subject_keys.items()))
        )

    def _clear(self) -> None:
        self._epoch = -1
        self._entities: dict[Kind, dict[str, Entity]] = {kind: {} for kind in KINDS}
        self._by_hash: dict[str, Credential] = {}
        self._by_external_id: dict[tuple[str, str], Member] = {}
        self._by_iss: dict[str, Issuer] = {}
        self._subject_keys: dict[str, bytes] = {}

    def _put(self, entity: Entity) -> None:
        kind = kind_of(entity)
        self._remove(kind, entity.id)
        self._entities[kind][entity.id] = entity
        if isinstance(entity, Credential):
            self._by_hash[entity.sha256] = entity
        elif entity.status == "revoked":
            pass  # an issuer's name and a subject's are free again once their holder is revoked
        elif isinstance(entity, Member) and entity.external_id is not None:
            self._by_external_id[entity.organisation, entity.external_id] = entity
        elif isinstance(entity, Issuer):
            self._by_iss[entity.issuer] = entity

    def _remove(self, kind: Kind, entity_id: str) -> None:
        entity = self._entities[kind].pop(entity_id, None)
        if isinstance(entity, Credential):
            _forget(self._by_hash, entity.sha256, entity)
        elif isinstance(entity, Member) and entity.external_id is not None:
            _forget(self._by_external_id, (entity.organisation, entity.external_id), entity)
        elif isinstance(entity, Issuer):
            _forget(self._by_iss, entity.issuer, entity)


def _forget(index: dict[Any, Any], key: object, entity: Entity) -> None:
    if index.get(key) is entity:
        del index[key]
