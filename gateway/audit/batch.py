"""Records made into a batch: numbered, timed, sealed, encoded, hashed and signed. No I/O.

The composer keeps what must hold between records: consecutive leaf indices, an ``hlc`` that always
grows, one outcome for each intent. A record that it refuses leaves no trace.
"""

from __future__ import annotations

import secrets
from typing import Any

import msgspec

from gateway.audit.note import Checkpoint, SigningKey, sign_checkpoint
from gateway.audit.records import (
    VERSION,
    AccessDenied,
    AccessIntent,
    AccessOutcome,
    Gateway,
    Record,
    RegistryChanged,
    encode,
)
from gateway.audit.replay import LogState
from gateway.audit.seal import row_binding, seal
from gateway.audit.segments import CHECKPOINT, RECORD, SEALED, frame
from gateway.audit.tlog import leaf_hash
from gateway.core.clock import rfc3339_ns

__all__ = ["Composer"]

NS = 1_000_000_000


class Composer:
    """Turns records into the bytes of a batch, and moves ``state`` along.

    Args:
        key: signs; its name is the origin.
        gateway: who writes.
        state: where the log stands.
    """

    def __init__(self, key: SigningKey, gateway: Gateway, state: LogState) -> None:
        self.state = state
        self._key, self._gateway = key, gateway
        self._boot = secrets.token_hex(8)
        self._wall = state.hlc
        self._parts: list[bytes] = []
        self._second, self._prefix = -1, ""

    def add(
        self,
        record: Record,
        wall: int,
        mono: int,
        facts: bytes | None = None,
        subject_key: bytes | None = None,
    ) -> int:
        """Put one record into the batch.

        Args:
            record: with the writer's fields empty.
            wall: when it was handed in, Unix nanoseconds.
            mono: the same on the monotonic clock.
            facts: to be sealed under ``subject_key`` beside the record: of an intent or a denial
                what was evaluated, of a change of the registry the row.
            subject_key: 32 bytes.

        Returns:
            Its leaf index.

        Raises:
            ValueError: too long, not encodable, an outcome without an open intent, a second open
                intent of one request, or facts that this record cannot carry.
        """
        state = self.state
        seq = state.tree.size
        hlc = max(state.hlc + 1, wall)
        extra: dict[str, Any] = self._link(record)
        sealed = None
        if facts is not None or subject_key is not None:
            if facts is None or subject_key is None:
                raise ValueError("facts and the subject's key go together")
            extra["facts"], sealed = seal(facts, subject_key, self._bound_to(record, seq), seq)
        filled = msgspec.structs.replace(
            record,
            v=VERSION,
            log=self._key.name,
            seq=seq,
            time=self._time(wall),
            hlc=str(hlc),
            boot=self._boot,
            mono=str(mono),
            clock="ok" if wall >= self._wall else "regressed",
            gateway=self._gateway,
            **extra,
        )
        try:
            raw = encode(filled)
        except (TypeError, OverflowError) as error:
            raise ValueError(f"the record cannot be encoded: {error}") from None
        self._parts.append(frame(RECORD, raw))
        if sealed is not None:
            self._parts.append(frame(SEALED, sealed))
        if isinstance(record, AccessIntent):
            state.open[record.request_id] = seq
        elif isinstance(record, AccessOutcome):
            del state.open[record.request_id]
        self._wall = max(self._wall, wall)
        state.hlc = hlc
        state.tree.append(leaf_hash(raw))
        return seq

    def finish(self) -> tuple[bytes, Checkpoint]:
        """The batch's bytes, its signed checkpoint last; the next batch is empty."""
        checkpoint = sign_checkpoint(self._key, self.state.tree.size, self.state.tree.root())
        self._parts.append(frame(CHECKPOINT, checkpoint.note))
        batch = b"".join(self._parts)
        self._parts.clear()
        return batch, checkpoint

    def _bound_to(self, record: Record, seq: int) -> str:
        """The additional data of what is sealed beside a record."""
        if isinstance(record, AccessIntent | AccessDenied):
            return record.request_id
        if isinstance(record, RegistryChanged):
            name = self._key.name
            return row_binding(name, seq, record.kind, record.id, record.digest_after)
        raise ValueError("only intents, denials and changes of the registry carry facts")

    def _link(self, record: Record) -> dict[str, Any]:
        """The ``parent`` of an outcome; every intent has at most one."""
        if isinstance(record, AccessIntent):
            if record.request_id in self.state.open:
                raise ValueError(f"request {record.request_id} already has an open intent")
        elif isinstance(record, AccessOutcome):
            parent = self.state.open.get(record.request_id)
            if parent is None or record.parent not in (-1, parent):
                raise ValueError(f"request {record.request_id} has no such open intent")
            return {"parent": parent}
        return {}

    def _time(self, wall: int) -> str:
        """``rfc3339_ns``, with the date and time part made once a second."""
        second, fraction = divmod(wall, NS)
        if second != self._second:
            self._second, self._prefix = second, rfc3339_ns(wall)[:20]
        return f"{self._prefix}{fraction:09d}Z"
