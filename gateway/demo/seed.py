"""The demo's state: its policies, its configuration, its people.

Everything is made by the same code that an operator's commands run, each step with its record. The
directory is stamped by ``demo.json``, which holds the keys, so ``serve`` refuses it.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from gateway.app.control import open_control_plane
from gateway.app.opening import open_log
from gateway.control.plane import ControlPlane
from gateway.identity import api_keys
from gateway.policy.bundle import read_directory
from gateway.policy.revision import revision_of
from gateway.registry.changes import Add, Change
from gateway.samples import sample_policies
from gateway.settings import load
from gateway.state import StateDirectory

__all__ = ["MEMBERS", "DemoDirectory", "Ports", "seed"]

ACTOR = "demo"
ORGANISATION = "acme-defence"
PRACTICE_ENDPOINTS = {"openai": "openai", "anthropic": "anthropic", "vllm": "vllm"}

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
        """Whether there is something in the directory that no demo made."""
        root = self.state.root
        return root.exists() and any(root.iterdir()) and not self.state.demo.exists()

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
            "log_level": "warning",
        }
        self.configuration.write_text(
            "# Written by `sluicegate demo` at each start.\n"
            + yaml.safe_dump(document, sort_keys=False)
        )

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


async def seed(directory: DemoDirectory, ports: Ports, practice_url: str) -> None:
    """Make policies, people and keys in a new directory, and refresh addresses in an old one."""
    if not directory.seeded:
        directory.write()  # stamped before anything secret is made in it
        if not directory.policies.exists():
            shutil.copytree(sample_policies(), directory.policies)
        keys = await _people(directory)
        directory.write(keys=keys)
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


async def _people(directory: DemoDirectory) -> dict[str, str]:
    settings = load(directory.configuration, dev=True, demo=True)
    plane = open_control_plane(settings)
    try:
        keys = await _add_people(plane)
    finally:
        plane.registry.close()
        await plane.log.aclose()
    for index in range(settings.data.workers):  # the workers' logs and keys, for demo.json
        log = open_log(directory.state, f"data-{index}", settings)
        await log.aclose()
    return keys


async def _add_people(plane: ControlPlane) -> dict[str, str]:
    async def change(asked: Change, reason: str) -> None:
        await plane.change(asked, actor=ACTOR, reason=reason)

    now = datetime.now(UTC).replace(microsecond=0)
    verified, expires = _stamp(now - timedelta(days=30)), _stamp(now + timedelta(days=335))
    await change(
        Add(
            "organisation",
            {
                "id": ORGANISATION,
                "name": "Acme Defence",
                "tiers": {"cyber": 3},
                "retention": "standard",
                "licences": ["glasswing"],
                "agreements": ["acceptable-use-2026"],
            },
        ),
        "the demo's organisation",
    )
    keys = {}
    for member, about in MEMBERS.items():
        vetting = [
            {"kind": kind, "level": level, "verified_at": verified, "expires_at": expires}
            for kind, level in about["vetting"].items()
        ]
        await change(
            Add(
                "member",
                {
                    "id": member,
                    "organisation": ORGANISATION,
                    "name": about["name"],
                    "tiers": about["tiers"],
                    "purposes": ["defence"],
                    "vetting": vetting,
                    "residence": "DE",
                },
            ),
            "a member of the demo",
        )
        minted = api_keys.mint()
        await change(
            Add(
                "credential",
                {
                    "id": f"{member}-1",
                    "member": member,
                    "sha256": minted.sha256,
                    "prefix": minted.prefix,
                    "scopes": about.get("scopes", []),
                },
            ),
            "the member's key",
        )
        keys[member] = minted.text
    return keys


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
