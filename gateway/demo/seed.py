"""The demo's state: its policies, its configuration, its people.

Everything is made by the same code that an operator's commands run, each step with its record. The
directory is stamped by ``demo.json``, which holds the keys, so ``serve`` refuses it. What was
suspended or taken back since is given back at the next start, on the record: resumed, or replaced
under the next id, since revoked is final.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from gateway.app.control import open_control_plane
from gateway.app.opening import open_log
from gateway.audit.content import RoleKey, new_role_key, parse_role_key
from gateway.control.plane import ControlPlane
from gateway.core.entities import Credential, Entity, Member
from gateway.core.role_keys import Role
from gateway.identity import api_keys
from gateway.policy.bundle import read_directory
from gateway.policy.revision import revision_of
from gateway.registry.changes import Add, Change, Move
from gateway.registry.rows import Kind
from gateway.samples import sample_policies
from gateway.settings import load
from gateway.state import StateDirectory, data_shard

__all__ = ["MEMBERS", "DemoDirectory", "Ports", "seed"]

ACTOR = "demo"
ORGANISATION = "acme-defence"
PRACTICE_ENDPOINTS = {"openai": "openai", "anthropic": "anthropic", "vllm": "vllm"}

_ORGANISATION: Mapping[str, Any] = {
    "name": "Acme Defence",
    "tiers": {"cyber": 3},
    "retention": "standard",
    "licences": ["glasswing"],
    "agreements": ["acceptable-use-2026"],
}
MEMBERS: Mapping[str, Mapping[str, Any]] = {
    "newcomer": {"name": "Nina Newcomer", "tiers": {"cyber": 0}, "vetting": {}},
    "blue": {
        "name": "Bo Blue",
        "tiers": {"cyber": 2},
        "vetting": {"identity": 2, "organisation": 1},
        "scopes": ["downgrade"],
    },
    "red": {
        "name": "Rhea Red",
        "tiers": {"cyber": 3},
        "vetting": {"identity": 3, "organisation": 2},
    },
}


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the demo listens; loopback."""

    data: int
    console: int
    ops: int


class DemoDirectory:
    """One demo's state directory.

    Args:
        root: an empty or new directory, or an earlier demo's.
    """

    def __init__(self, root: Path) -> None:
        self.state = StateDirectory(root)
        self.policies = self.state.root / "policies"
        self.configuration = self.state.root / "sluicegate.yaml"

    @property
    def foreign(self) -> bool:
        """Whether this is no directory, or one with something in it that no demo made."""
        root = self.state.root
        if not root.is_dir():
            return root.exists()
        return any(root.iterdir()) and not self.state.demo.exists()

    @property
    def seeded(self) -> bool:
        """Whether an earlier run has made everything."""
        return self.state.demo.exists() and self.state.registry.exists()

    def practice_key_file(self) -> Path:
        """The key that the practice endpoint wants, made on first use."""
        self.state.prepare()
        path = self.state.keys / "practice.key"
        if not path.exists():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write("sk-practice-" + secrets.token_urlsafe(24))
        return path

    def role_keys(self) -> dict[str, RoleKey]:
        """The keys of the two roles that open sealed content, made on first use. A gateway never
        holds the private ones; here ``demo.json`` keeps both, so that one person can try both."""
        kept = self.read().get("role_keys") if self.state.demo.exists() else None
        if kept is None:
            kept = {role.value: new_role_key(role).text for role in Role}
            self.write(role_keys=kept)
        return {role: parse_role_key(text) for role, text in kept.items()}

    def write_configuration(
        self, ports: Ports, practice_url: str, upstreams: Mapping[str, str]
    ) -> None:
        """Write ``sluicegate.yaml``: practice endpoints, or real ones where they are named.

        Args:
            ports: where the gateway listens.
            practice_url: the practice endpoint's address.
            upstreams: base URL by endpoint, for real endpoints; their keys are in the environment.
        """
        endpoints: dict[str, dict[str, str]] = {}
        for name, kind in PRACTICE_ENDPOINTS.items():
            if name in upstreams:
                endpoints[name] = {"url": upstreams[name], "kind": kind}
            else:
                endpoints[name] = {
                    "url": practice_url,
                    "kind": kind,
                    "key_file": str(self.practice_key_file()),
                }
        document = {
            "state_dir": str(self.state.root),
            "data": {"listen": f"127.0.0.1:{ports.data}", "drain_s": 2},
            "console": {"listen": f"127.0.0.1:{ports.console}"},
            "ops": {"listen": f"127.0.0.1:{ports.ops}"},
            "upstreams": endpoints,
            "policy": {"directory": str(self.policies)},
            "audit": {"name": "sluicegate-demo"},
            "content": {role: key.public.text for role, key in self.role_keys().items()},
            "log_level": "warning",
        }
        self.configuration.write_text(
            "# Written by `sluicegate demo` at each start.\n"
            + yaml.safe_dump(document, sort_keys=False)
        )

    def keep_out_of_git(self) -> None:
        """Let no checkout around the directory take up its keys by a ``git add``."""
        with suppress(FileExistsError), (self.state.root / ".gitignore").open("x") as file:
            file.write("*\n")

    def read(self) -> dict[str, Any]:
        """``demo.json``."""
        found: dict[str, Any] = json.loads(self.state.demo.read_text())
        return found

    def write(self, **fields: Any) -> None:
        """Write or update ``demo.json``, readable by this user only."""
        document = self.read() if self.state.demo.exists() else {}
        document.update(fields)
        descriptor = os.open(self.state.demo, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(document, file, indent=2)
            file.write("\n")


async def seed(directory: DemoDirectory, ports: Ports, practice_url: str) -> list[str]:
    """Make policies, people and keys, or what of them no longer works; refresh addresses.

    Returns:
        What had to be replaced or resumed in an earlier demo's directory, a line each.
    """
    if not directory.policies.exists():
        shutil.copytree(sample_policies(), directory.policies)
    notes = await _people(directory)
    catalogue = revision_of(read_directory(directory.policies)).catalogue
    directory.write(
        data_url=f"http://127.0.0.1:{ports.data}",
        console_url=f"http://127.0.0.1:{ports.console}",
        ops_url=f"http://127.0.0.1:{ports.ops}",
        practice_url=practice_url,
        models={
            entry.id: {"wire": entry.wires[0].value, "stage": entry.stage}
            for entry in catalogue.values()
        },
        log_vkeys=sorted(directory.state.vkeys().values()),
    )
    return notes


async def _people(directory: DemoDirectory) -> list[str]:
    settings = load(directory.configuration, dev=True, demo=True)
    plane = open_control_plane(settings)
    people = _People(plane, directory.read().get("keys", {}))
    try:
        await plane.record_waiting_findings()
        await people.ensure()
    finally:
        directory.write(keys=people.keys, members=people.members)
        plane.registry.close()
        await plane.log.aclose()
    for index in range(settings.data.workers):  # the workers' logs and keys, for demo.json
        if not directory.state.vkey(data_shard(index)).exists():
            log = open_log(directory.state, data_shard(index), settings)
            await log.aclose()
    return people.notes


class _People:
    """The organisation, its members and their keys: found as they were left, or made.

    Args:
        plane: open, of a gateway that does not run.
        keys: each member's key by name, as ``demo.json`` has them.
    """

    def __init__(self, plane: ControlPlane, keys: Mapping[str, str]) -> None:
        self._plane = plane
        self._now = datetime.now(UTC).replace(microsecond=0)
        self.keys = dict(keys)
        self.members: dict[str, str] = {}
        self.notes: list[str] = []

    async def ensure(self) -> None:
        """Everyone is there and may call."""
        organisation = await self._standing("organisation", ORGANISATION, _ORGANISATION)
        for name, about in MEMBERS.items():
            member = await self._standing("member", name, self._member(about, organisation))
            self.members[name] = member
            await self._key(name, member, about.get("scopes", []))

    def _member(self, about: Mapping[str, Any], organisation: str) -> dict[str, Any]:
        verified = _stamp(self._now - timedelta(days=30))
        expires = _stamp(self._now + timedelta(days=335))
        return {
            "organisation": organisation,
            "name": about["name"],
            "tiers": about["tiers"],
            "purposes": ["defence"],
            "vetting": [
                {"kind": kind, "level": level, "verified_at": verified, "expires_at": expires}
                for kind, level in about["vetting"].items()
            ],
            "residence": "DE",
        }

    async def _key(self, name: str, member: str, scopes: list[str]) -> None:
        known = api_keys.digest_of(self.keys.get(name, ""))
        minted = api_keys.mint()

        def fits(found: Entity) -> bool:
            return (
                isinstance(found, Credential)
                and (found.member, found.sha256) == (member, known)
                and (found.expires_at is None or found.expires_at > _stamp(self._now))
            )

        fields = {
            "member": member,
            "sha256": minted.sha256,
            "prefix": minted.prefix,
            "scopes": scopes,
        }
        identifier = await self._standing("credential", f"{name}-1", fields, fits)
        entity = self._plane.registry.snapshot.entity("credential", identifier)
        assert isinstance(entity, Credential)
        if entity.sha256 == minted.sha256:
            self.keys[name] = minted.text

    async def _standing(
        self,
        kind: Kind,
        first: str,
        fields: Mapping[str, Any],
        fits: Callable[[Entity], bool] | None = None,
    ) -> str:
        """The first of an entity and its successors that may still be used: its id.

        One that is suspended is resumed; where all are revoked, the next is added.
        """
        before = None
        for identifier in _successors(first):
            found = self._plane.registry.snapshot.entity(kind, identifier)
            if found is None:
                break
            before = found
            serves = fits(found) if fits is not None else _in(fields, found)
            if found.status in ("active", "suspended") and serves:
                if found.status == "suspended":
                    await self._change(Move(kind, identifier, "resume"), "resumed for the demo")
                    self.notes.append(f"{kind} {identifier} was suspended and is resumed")
                return identifier
        reason = "made for the demo"
        if before is not None:
            why = "no longer serves" if before.status == "active" else f"is {before.status}"
            reason = f"in place of {before.id}, which {why}"
            self.notes.append(f"{kind} {before.id} {why}: {identifier} takes its place")
        await self._change(Add(kind, {"id": identifier, **fields}), reason)
        return identifier

    async def _change(self, change: Change, reason: str) -> None:
        await self._plane.change(change, actor=ACTOR, reason=reason)


def _successors(first: str) -> Iterator[str]:
    """``red``, ``red-2`` and so on; of ``red-1``, ``red-2`` and so on."""
    yield first
    for number in count(2):
        yield f"{first.removesuffix('-1')}-{number}"


def _in(fields: Mapping[str, Any], found: Entity) -> bool:
    """Whether a member is of the organisation that is asked for; an organisation is of none."""
    return not isinstance(found, Member) or found.organisation == fields["organisation"]


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
