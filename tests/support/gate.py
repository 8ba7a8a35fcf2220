"""A real gateway for tests: the real processes, started as an operator starts them.

``sluicegate serve --dev`` runs as a subprocess with its control process and data workers; members
and keys are made through the control socket, as the commands do.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import shutil
import signal
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import yaml

from gateway.audit.content import (
    Part,
    keyed_digest,
    new_role_key,
    open_share,
    opened,
)
from gateway.audit.content_store import content_of, context_of
from gateway.audit.read import LogReader
from gateway.audit.verify import Report, parse_vkey, verify_directory
from gateway.control.client import ControlClient, ControlUnavailable
from gateway.core.role_keys import Role
from gateway.identity import api_keys
from gateway.registry.mac import load_secret
from gateway.registry.registry import MASTER_KEY_FILE
from gateway.registry.subject_keys import unwrap
from gateway.state import StateDirectory

ROOT = Path(__file__).resolve().parent.parent.parent
REVIEWER, APPROVER = new_role_key(Role.REVIEWER), new_role_key(Role.APPROVER)
"""Whoever opens sealed content in tests."""
PROVIDER_KEY = "sk-provider-canary-0123456789"
ORGANISATION = {
    "id": "acme",
    "name": "Acme",
    "tiers": {"cyber": 3},
    "retention": "standard",
    "licences": ["glasswing"],
    "agreements": ["acceptable-use-2026"],
}
VETTED = [
    {"kind": "identity", "level": 3, "verified_at": "2026-01-01T00:00:00Z"},
    {"kind": "organisation", "level": 2, "verified_at": "2026-01-01T00:00:00Z"},
]


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


class Gate:
    """One gateway.

    Args:
        directory: a new one for state, policies and configuration.
        upstream_url: where all three endpoints of the sample catalogue are.
        settings: merged over the configuration, section by section.
    """

    def __init__(self, directory: Path, upstream_url: str, settings: dict[str, Any]) -> None:
        self.directory = directory
        self.policies = directory / "policies"
        self.configuration = directory / "sluicegate.yaml"
        self.state = StateDirectory(directory / "state")
        self.control = ControlClient(self.state.control_socket)
        data, console, ops = free_ports(3)
        self.url = f"http://127.0.0.1:{data}"
        self.port = data
        self.console_url = f"http://127.0.0.1:{console}"
        self.ops_url = f"http://127.0.0.1:{ops}"
        self.keys: dict[str, str] = {}
        self.log_path = directory / "gateway.log"
        self._process: asyncio.subprocess.Process | None = None
        key_file = directory / "provider.key"
        key_file.write_text(PROVIDER_KEY)
        endpoint = {"url": upstream_url, "key_file": str(key_file)}
        document: dict[str, Any] = {
            "state_dir": str(self.state.root),
            "data": {"listen": f"127.0.0.1:{data}", "drain_s": 1},
            "console": {"listen": f"127.0.0.1:{console}"},
            "ops": {"listen": f"127.0.0.1:{ops}"},
            "upstreams": {
                "openai": {**endpoint, "kind": "openai"},
                "anthropic": {**endpoint, "kind": "anthropic"},
                "vllm": {**endpoint, "kind": "vllm"},
            },
            "policy": {"directory": str(self.policies)},
            "audit": {"heartbeat_s": 60},
            "content": {"reviewer": REVIEWER.public.text, "approver": APPROVER.public.text},
            "attempts": {"credential_burst": 1_000_000, "source_burst": 1_000_000},
        }
        for section, values in settings.items():
            if isinstance(values, dict):
                document.setdefault(section, {}).update(values)
            else:
                document[section] = values
        self.workers: int = document["data"].get("workers", 1)
        self.configuration.write_text(yaml.safe_dump(document))
        shutil.copytree(ROOT / "policies", self.policies)

    # Life

    async def start(self, *, until_ready: bool = True) -> None:
        with self.log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "gateway.cli",
                "serve",
                "--dev",
                "--config",
                str(self.configuration),
                stdout=log,
                stderr=log,
                cwd=ROOT,
                start_new_session=True,
            )
        while until_ready:
            if self._process.returncode is not None:
                raise AssertionError(f"the gateway ended: {self.log()}")
            with contextlib.suppress(ControlUnavailable):
                workers = (await self.status())["workers"]
                if sum(each["ready"] for each in workers) == self.workers:
                    return
            await asyncio.sleep(0.05)

    async def refused(self) -> tuple[int, str]:
        """Start one that must not start: its exit code, and what it said."""
        self.log_path.unlink(missing_ok=True)
        await self.start(until_ready=False)
        assert self._process is not None
        try:
            async with asyncio.timeout(60):
                return await self._process.wait(), self.log()
        finally:
            await self.stop()

    async def stop(self, number: int = signal.SIGTERM) -> int:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)
        return await self._process.wait()

    @property
    def pid(self) -> int:
        """Of the supervisor."""
        assert self._process is not None
        return self._process.pid

    def processes(self) -> dict[str, int]:
        """The supervisor's children that run now: ``control``, ``data-0``, and their ids."""
        found = {}
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        for pid in map(int, children.read_text().split() if children.exists() else ()):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
                if "--index" in words:
                    found[f"data-{words[words.index('--index') + 1]}"] = pid
                elif any(word.endswith(".control") for word in words):
                    found["control"] = pid
        return found

    async def replaced(self, name: str, before: int) -> int:
        """Wait until another process has taken this one's place and the gateway is ready."""
        while True:
            pid = self.processes().get(name, before)
            if pid != before:
                with contextlib.suppress(ControlUnavailable):
                    status = await self.status()
                    pids = [worker["pid"] for worker in status["workers"]]
                    if status["ready"] and (name == "control" or pid in pids):
                        return pid
            await asyncio.sleep(0.05)

    async def status(self) -> dict[str, Any]:
        return await self.control.get("/status")

    def log(self) -> str:
        """What the processes wrote to standard output and error."""
        return self.log_path.read_text() if self.log_path.exists() else ""

    # People

    async def change(self, change: dict[str, Any]) -> dict[str, Any]:
        return await self.control.post(
            "/changes", {"change": change, "actor": "test", "reason": "a test needs it"}
        )

    async def organisation(self, **fields: Any) -> None:
        fields = {**ORGANISATION, **fields}
        await self.change({"change": "add", "kind": "organisation", "fields": fields})

    async def member(
        self, name: str, cyber: int = 3, *, organisation: str = "acme", **fields: Any
    ) -> str:
        """Add a member with a key; returns the key."""
        about = {
            "id": name,
            "organisation": organisation,
            "name": name,
            "tiers": {"cyber": cyber},
            "purposes": ["defence"],
            "vetting": VETTED,
            "residence": "DE",
            **fields,
        }
        await self.change({"change": "add", "kind": "member", "fields": about})
        return await self.key(name)

    async def key(self, member: str, key_id: str = "", **fields: Any) -> str:
        minted = api_keys.mint()
        about = {
            "id": key_id or f"{member}-1",
            "member": member,
            "sha256": minted.sha256,
            "prefix": minted.prefix,
            **fields,
        }
        await self.change({"change": "add", "kind": "credential", "fields": about})
        self.keys[about["id"]] = minted.text
        return minted.text

    async def revoke(self, key_id: str) -> dict[str, Any]:
        return await self.move("credential", key_id, "revoke")

    async def move(self, kind: str, entity: str, verb: str) -> dict[str, Any]:
        return await self.change({"change": "move", "kind": kind, "id": entity, "verb": verb})

    async def set(self, kind: str, entity: str, **fields: Any) -> dict[str, Any]:
        return await self.change({"change": "set", "kind": kind, "id": entity, "fields": fields})

    # Policy

    def data(self, name: str) -> Path:
        """A data file of the policy, to be edited."""
        return self.policies / "data" / f"{name}.yaml"

    async def activated(self, before: str) -> str:
        """Wait until another revision than ``before`` is active in every worker."""
        while True:
            status = await self.status()
            now = status["revision"]
            if now != before and all(each["revision"] == now for each in status["workers"]):
                return now
            await asyncio.sleep(0.05)

    # The record

    def records(self, kind: str = "") -> list[dict[str, Any]]:
        """All records of all shards, oldest first within a shard."""
        found = []
        for shard in sorted(self.state.audit.iterdir()):
            for entry in LogReader(shard).entries():
                record = entry.json()
                if not kind or record["type"] == kind:
                    found.append(record)
        return found

    def facts(self) -> dict[str, bytes]:
        """All sealed facts, opened with the keys of their members; by request id."""
        found = {}
        for shard in sorted(self.state.audit.iterdir()):
            for entry in LogReader(shard).entries():
                record = entry.json()
                if entry.sealed is not None and "subject" in record:
                    key = self.subject_key(record["subject"]["id"])
                    found[record["request_id"]] = entry.facts(key)
        return found

    def subject_key(self, member: str) -> bytes:
        """The key that seals what is a member's."""
        master = load_secret(self.state.keys / MASTER_KEY_FILE, create=False)
        with contextlib.closing(sqlite3.connect(self.state.registry)) as registry:
            wrapped = dict(registry.execute("SELECT member, wrapped FROM subject_keys"))
        key = unwrap(master, member, wrapped[member])
        assert key is not None
        return key

    def digest(self, member: str, body: bytes) -> str:
        """What a record says of a body of a member's."""
        return keyed_digest(self.subject_key(member), hashlib.sha256(body).digest())

    def content(self, record: dict[str, Any], part: Part, member: str) -> bytes:
        """What is sealed of a call, opened by both roles."""
        shard = record["log"].rpartition("/")[2]
        blob = content_of(self.state.content(shard), record, part)
        context = context_of(record, part)
        reviewer, approver = (open_share(blob, key, context) for key in (REVIEWER, APPROVER))
        return opened(blob, reviewer, approver, self.subject_key(member), context)

    async def recorded(self, kind: str, count: int = 1, **fields: Any) -> list[dict[str, Any]]:
        """Wait for records of a type whose fields have these values."""
        for _ in range(200):
            found = [
                record
                for record in self.records(kind)
                if all(record.get(name) == value for name, value in fields.items())
            ]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.05)
        raise AssertionError(f"no {count} {kind} with {fields}: {json.dumps(self.records(kind))}")

    def verify(self) -> list[Report]:
        keys = dict(parse_vkey(vkey) for vkey in self.state.vkeys().values())
        return verify_directory(self.state.root, keys)


@contextlib.asynccontextmanager
async def running_gate(
    directory: Path,
    upstream_url: str,
    *,
    prepare: Callable[[Gate], None] | None = None,
    **settings: Any,
) -> AsyncIterator[Gate]:
    """A gateway with one organisation; members are the test's to add.

    ``prepare`` may edit its policies before it starts.
    """
    gate = Gate(directory, upstream_url, settings)
    if prepare is not None:
        prepare(gate)
    await gate.start()
    try:
        await gate.organisation()
        yield gate
    finally:
        await gate.stop()
