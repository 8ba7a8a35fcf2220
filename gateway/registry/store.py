"""The registry's SQLite file: what is written, and noticing that someone else wrote.

The file is 0600, in WAL mode, synced on every commit, and overwrites what it deletes. Nothing
read here is believed yet; ``registry.py`` checks MACs and records. Calls are synchronous and take
milliseconds; only the control process makes them (invariant 9).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

from gateway.registry.rows import KINDS, Kind, Row

__all__ = ["Store", "StoreUnavailable"]

SCHEMA_VERSION = 1
_BUSY_TIMEOUT_S = 1.0
_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA secure_delete = ON",
    "PRAGMA trusted_schema = OFF",
)

_metadata = sa.MetaData()
_TABLES: dict[Kind, sa.Table] = {
    kind: sa.Table(
        f"{kind}s",
        _metadata,
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("mac", sa.Text, nullable=False),
    )
    for kind in KINDS
}
_subject_keys = sa.Table(
    "subject_keys",
    _metadata,
    sa.Column("member", sa.String, primary_key=True),
    sa.Column("wrapped", sa.LargeBinary, nullable=False),
)
_meta = sa.Table(
    "meta",
    _metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("value", sa.Integer, nullable=False),
)


class StoreUnavailable(Exception):
    """The file cannot be opened, read or written, or is of another schema."""


class Store:
    """One open registry file, on one connection.

    Args:
        path: made, mode 0600, if absent; ``new`` tells whether it was.

    Raises:
        StoreUnavailable: also if the file may be read by others.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self.new = _claim(path)
            self._identity = _identity(path)
        except OSError as error:
            raise StoreUnavailable(f"{path}: {error.strerror}") from None
        self._engine = sa.create_engine(
            sa.URL.create("sqlite", database=str(path)),
            poolclass=StaticPool,
            connect_args={"timeout": _BUSY_TIMEOUT_S, "check_same_thread": False},
        )
        sa.event.listen(self._engine, "connect", _on_connect)
        try:
            self._prepare()
        except StoreUnavailable:
            self.close()
            raise

    def rows(self) -> list[Row]:
        """All rows, as they stand in the file."""
        with self._begin() as connection:
            return [
                Row(kind, *row)
                for kind, table in _TABLES.items()
                for row in connection.execute(
                    sa.select(table.c.id, table.c.body, table.c.record, table.c.epoch, table.c.mac)
                )
            ]

    def wrapped_keys(self) -> dict[str, bytes]:
        """Wrapped subject keys by member id."""
        with self._begin() as connection:
            found = connection.execute(sa.select(_subject_keys.c.member, _subject_keys.c.wrapped))
            return {
                member: wrapped if isinstance(wrapped, bytes) else b"" for member, wrapped in found
            }

    def put(self, row: Row, wrapped_key: bytes | None = None) -> None:
        """Write a row, its subject key if given, and the epoch, in one transaction."""
        values = {"body": row.body, "record": row.record, "epoch": row.epoch, "mac": row.mac}
        with self._begin() as connection:
            _upsert(connection, _TABLES[row.kind], {"id": row.id}, values)
            if wrapped_key is not None:
                _upsert(connection, _subject_keys, {"member": row.id}, {"wrapped": wrapped_key})
            _upsert(connection, _meta, {"name": "epoch"}, {"value": row.epoch})

    def put_key(self, member: str, wrapped_key: bytes) -> None:
        """Write a subject key before the row of its member is there."""
        with self._begin() as connection:
            _upsert(connection, _subject_keys, {"member": member}, {"wrapped": wrapped_key})

    def scrub(self) -> None:
        """Leave nothing of what was overwritten: with ``secure_delete`` the file has zeros there,
        and the write-ahead log, which still holds the old pages, is emptied."""
        try:
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as outside:
                row = outside.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
        except SQLAlchemyError as error:
            raise StoreUnavailable(f"{self._path}: {type(error).__name__}") from error
        if row[0] != 0:
            raise StoreUnavailable(f"{self._path}: someone reads it")

    def epoch(self) -> int:
        """The latest epoch that was written; 0 in a new file."""
        return self._meta("epoch") or 0

    def note_epoch(self, epoch: int) -> None:
        """Write the epoch of a change that has no row."""
        with self._begin() as connection:
            _upsert(connection, _meta, {"name": "epoch"}, {"value": epoch})

    def has_row_key(self) -> bool:
        """Whether this registry was given its key for rows that are nobody's own."""
        return self._meta("row_key") is not None

    def note_row_key(self) -> None:
        """Remember that it has one: if the file is lost, it must not quietly get another."""
        if not self.has_row_key():
            with self._begin() as connection:
                _upsert(connection, _meta, {"name": "row_key"}, {"value": 1})

    def data_version(self) -> int:
        """Changes when another connection has committed to the file."""
        with self._begin() as connection:
            return int(connection.exec_driver_sql("PRAGMA data_version").scalar_one())

    def replaced(self) -> bool:
        """Whether the path now leads to another file than the open one, or to none."""
        try:
            return _identity(self._path) != self._identity
        except OSError:
            return True

    def close(self) -> None:
        """Close the connection."""
        self._engine.dispose()

    def _prepare(self) -> None:
        if self.new:
            with self._begin() as connection:
                _metadata.create_all(connection)
                _upsert(connection, _meta, {"name": "schema"}, {"value": SCHEMA_VERSION})
        elif self._meta("schema") != SCHEMA_VERSION:
            raise StoreUnavailable(f"{self._path}: not a registry of schema {SCHEMA_VERSION}")

    def _meta(self, name: str) -> int | None:
        with self._begin() as connection:
            value = connection.execute(
                sa.select(_meta.c.value).where(_meta.c.name == name)
            ).scalar_one_or_none()
            return value if isinstance(value, int) else None

    @contextmanager
    def _begin(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise StoreUnavailable(f"{self._path}: {type(error).__name__}") from error


def _claim(path: Path) -> bool:
    """Make the file if it is absent; True if we did, or if it is still empty."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        state = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if stat.S_IMODE(state.st_mode) & 0o077:
        raise StoreUnavailable(f"{path}: must be yours alone: chmod 600")
    return state.st_size == 0


def _identity(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_dev, state.st_ino


def _on_connect(connection: Any, _record: Any) -> None:
    # A text that is not UTF-8 becomes one whose MAC does not fit, instead of an error for all.
    connection.text_factory = lambda raw: raw.decode("utf-8", errors="replace")
    for pragma in _PRAGMAS:
        connection.execute(pragma)


def _upsert(
    connection: sa.Connection, table: sa.Table, key: dict[str, Any], values: dict[str, Any]
) -> None:
    statement = insert(table).values(key | values)
    connection.execute(statement.on_conflict_do_update(index_elements=list(key), set_=values))
