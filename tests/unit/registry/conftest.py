"""A log that is a list, and a registry with three members on it."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from gateway.core.protocols import LogUnavailable, Position
from gateway.registry.changes import Add, Set
from gateway.registry.findings import recorded
from gateway.registry.registry import Registry


class Log:
    """Keeps records; ``latest`` is what an index of the real log would answer."""

    def __init__(self):
        self.records = []
        self.broken = False
        self.gate = None

    async def append(self, record):
        if self.gate is not None:
            await self.gate.wait()
        await asyncio.sleep(0)
        if self.broken:
            raise LogUnavailable
        self.records.append(record)
        return Position("log.example/1", len(self.records) - 1)

    def latest(self):
        latest = {}
        for seq, record in enumerate(self.records):
            key = (record.kind, record.id)
            position = f"log.example/1#{seq}"
            latest[key] = recorded(latest.get(key), record.op, record.digest_after, position)
        return latest


class House:
    """One state directory, opened and closed at will."""

    def __init__(self, directory: Path):
        self.path = directory / "registry.db"
        self.keys = directory / "keys"
        self.keys.mkdir(exist_ok=True)
        self.log = Log()
        self.registry = None
        self.alarms = []

    def open(self):
        self.close()
        self.registry = Registry.open(
            self.path, self.keys, append=self.log.append, latest=self.log.latest()
        )
        self.registry.on_finding = self.alarms.append
        return self.registry

    def close(self):
        if self.registry is not None:
            self.registry.close()
            self.registry = None

    async def change(self, change, reason="for the test"):
        return await self.registry.change(change, actor="operator", reason=reason)

    def by_hand(self, sql, *values):
        """What someone does who can write the file and nothing else."""
        connection = sqlite3.connect(self.path)
        with connection:
            found = connection.execute(sql, values).fetchall()
        connection.close()
        return found

    @property
    def snapshot(self):
        return self.registry.snapshot

    def codes(self):
        return [(found.code, found.kind, found.id) for found in self.registry.findings]


def key_fields(key_id="key-red", member="red", **fields):
    return {"id": key_id, "member": member, "sha256": "ab" * 32, "prefix": "sk-sg-abcdef"} | fields


@pytest.fixture
async def house(tmp_path):
    house = House(tmp_path)
    house.open()
    await house.change(Add("organisation", {"id": "acme", "name": "Acme", "tiers": {"cyber": 3}}))
    for member, level in (("newcomer", 0), ("blue", 2), ("red", 3)):
        fields = {"id": member, "organisation": "acme", "name": member.title()}
        await house.change(Add("member", fields | {"tiers": {"cyber": level}}))
    await house.change(Add("credential", key_fields()))
    issuer = {
        "id": "idp",
        "organisation": "acme",
        "issuer": "https://id.acme.example",
        "jwks_uri": "https://id.acme.example/jwks",
        "audience": "https://gate.example",
        "algorithms": ["ES256"],
    }
    await house.change(Add("issuer", issuer))
    yield house
    house.close()


@pytest.fixture
async def raised(house):
    """``red`` once had level 2, so an older valid row of his exists."""
    old = house.by_hand("select body, record, epoch, mac from members where id = 'blue'")[0]
    await house.change(Set("member", "blue", {"tiers": {"cyber": 1}}), "lowered")
    return house, old
