"""Where a command goes: to the gateway that runs in a directory, or to the directory itself.

The directory's lock decides, so two never write: whoever holds it writes, and a gateway holds it
for as long as it runs. Reading needs no configuration; changing does, because it is recorded in the
same log, under the same name, as the gateway's own. This is also the one place where what can go
wrong on the way becomes a line and an exit code.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from gateway.app.control import CANNOT_OPEN, open_control_plane
from gateway.audit.segments import LogCorrupt
from gateway.cli.serve import read_settings
from gateway.cli.starting import how_to_start
from gateway.cli.terminal import (
    CONFIGURATION,
    EXIT_NO,
    EXIT_UNAVAILABLE,
    EXIT_USAGE,
    fail,
    warn,
)
from gateway.control.client import ControlClient, ControlRefused, ControlUnavailable
from gateway.control.plane import ControlPlane, latest_rows
from gateway.core.protocols import LogUnavailable, Position
from gateway.registry.changes import Change, ChangeRefused
from gateway.registry.registry import ChangeRecord, Registry, RegistryUnavailable
from gateway.registry.rows import Kind
from gateway.settings import Settings
from gateway.state import CONTROL_SHARD, StateDirectory, StateInUse
from gateway.telemetry import logs

__all__ = ["Gateway", "ask", "reach"]

PATIENCE_S = 5.0
"""How long to wait for another command, or for a gateway that starts or stops."""
POLL_S = 0.05

Json = dict[str, Any]


class Gateway(Protocol):
    """What commands ask, running or not."""

    @property
    def running(self) -> bool:
        """Whether changes take effect at once."""

    def entities(self, kind: Kind) -> list[Json]:
        """All entities of a kind, by id, as JSON values."""

    def change(self, change: Change, *, actor: str, reason: str) -> Json:
        """Make a change: ``control.plane.Outcome`` as JSON values."""

    def prune_content(self, *, actor: str, reason: str) -> Json:
        """Remove sealed content whose time is over: ``control.retention.Pruned`` as JSON values."""


@dataclass(frozen=True, slots=True)
class _Running:
    """A gateway, asked on its socket."""

    runner: asyncio.Runner
    client: ControlClient
    running = True

    def entities(self, kind: Kind) -> list[Json]:
        found: list[Json] = self.runner.run(self.client.get(f"/registry/{kind}"))
        return found

    def change(self, change: Change, *, actor: str, reason: str) -> Json:
        body = {"change": change, "actor": actor, "reason": reason}
        outcome: Json = self.runner.run(self.client.post("/changes", body))
        return outcome

    def prune_content(self, *, actor: str, reason: str) -> Json:
        body = {"actor": actor, "reason": reason}
        told: Json = self.runner.run(self.client.post("/content/prune", body))
        return told


@dataclass(frozen=True, slots=True)
class _Directory:
    """The directory, ours for this command."""

    runner: asyncio.Runner
    registry: Registry
    plane: ControlPlane | None
    running = False

    def entities(self, kind: Kind) -> list[Json]:
        found: list[Json] = _as_json(self.registry.snapshot.entities(kind))
        return found

    def change(self, change: Change, *, actor: str, reason: str) -> Json:
        if self.plane is None:
            raise RegistryUnavailable("the directory was opened for reading")
        # What was found wrong goes on the record first: the change may mend it.
        self.runner.run(self.plane.record_waiting_findings())
        outcome = self.runner.run(self.plane.change(change, actor=actor, reason=reason))
        answer: Json = _as_json(asdict(outcome))
        return answer

    def prune_content(self, *, actor: str, reason: str) -> Json:
        if self.plane is None:
            raise RegistryUnavailable("the directory was opened for reading")
        told = self.runner.run(self.plane.prune_content(actor=actor, reason=reason))
        answer: Json = _as_json(asdict(told))
        return answer


@contextmanager
def reach(directory: str, config: Path | None = None, *, write: bool) -> Iterator[Gateway]:
    """The gateway of a state directory, for the calls of one command.

    Args:
        directory: the state directory.
        config: the configuration, if it is named; read only to write where nothing runs.
        write: whether there will be a change.
    """
    state = StateDirectory(Path(directory))
    with _explained(state), ExitStack() as opened:
        runner = opened.enter_context(asyncio.Runner())
        settings = None
        if not write and not state.registry.is_file():
            fail(
                f"there is no registry in {state.root}",
                "name the gateway's state directory with --dir",
                code=EXIT_UNAVAILABLE,
            )
        if not state.root.is_dir():
            settings = _settings(state, config)
            state.prepare()
        lock = _claim(state)
        if lock is None:
            yield _Running(runner, ControlClient(state.control_socket))
            return
        opened.callback(os.close, lock)
        logs.configure("CRITICAL", sys.stderr)  # findings are said in words below
        if write:
            settings = settings or _settings(state, config)
            plane = open_control_plane(settings)
            opened.callback(plane.log.close)
            registry = plane.registry
        else:
            plane, registry = None, _open_to_read(state)
        opened.callback(registry.close)
        for finding in registry.findings:
            warn(f"{finding.kind} {finding.id}: {finding.message}".lstrip(), finding.remedy)
        yield _Directory(runner, registry, plane)


def ask(directory: str, route: str, body: Json | None = None) -> Any:
    """One question, or one order with a body, to a gateway that must be running."""
    state = StateDirectory(Path(directory))
    client = ControlClient(state.control_socket)
    with _explained(state):
        return asyncio.run(client.get(route) if body is None else client.post(route, body))


def _as_json(value: Any) -> Any:
    """The values that a running gateway would have sent."""
    return msgspec.json.decode(msgspec.json.encode(value))


def _claim(state: StateDirectory) -> int | None:
    """The directory's lock; ``None`` where a gateway has it and answers."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return state.claim()
        except StateInUse:
            if _answers(state.control_socket):
                return None
            if time.monotonic() > deadline:
                raise
        time.sleep(POLL_S)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _settings(state: StateDirectory, config: Path | None) -> Settings:
    """The settings of this directory's gateway.

    A directory of policies is no obstacle here, nor a demo's stamp, nor a missing provider key: no
    call is decided or forwarded.
    """
    inside = state.root / CONFIGURATION
    path = config or (inside if inside.is_file() else Path(CONFIGURATION))
    if config is None and not path.is_file():
        fail(
            f"no gateway runs in {state.root}, and there is no {path} to open it with",
            f"{how_to_start(state)}; or name its configuration with --config",
            code=EXIT_UNAVAILABLE,
        )
    settings = read_settings(path, dev=True, demo=True, provider_keys=False)
    configured = StateDirectory(settings.state_dir).root
    if configured.resolve() != state.root.resolve():
        fail(
            f"{path} is the configuration of {configured}, not of {state.root}",
            "name the directory with --dir, or another configuration with --config",
            code=EXIT_USAGE,
        )
    return settings


def _open_to_read(state: StateDirectory) -> Registry:
    """The registry alone; nothing is recorded, so nothing can be changed."""

    async def refuse(_: ChangeRecord) -> Position:
        raise LogUnavailable("the directory was opened for reading")

    latest = latest_rows(state.log(CONTROL_SHARD))
    return Registry.open(state.registry, state.keys, append=refuse, latest=latest)


@contextmanager
def _explained(state: StateDirectory) -> Iterator[None]:
    """What goes wrong between a command and the gateway, in words and as an exit code."""
    try:
        yield
    except ControlRefused as error:
        code = EXIT_UNAVAILABLE if error.unavailable else EXIT_NO
        fail(str(error), error.remedy, code=code)
    except ChangeRefused as error:
        fail(error.message, error.remedy)
    except ControlUnavailable as error:
        fail(str(error), how_to_start(state), code=EXIT_UNAVAILABLE)
    except StateInUse:
        fail(
            f"{state.root} is in use, and nothing answers on its socket",
            "a gateway starts or stops there, or another command runs: try again",
            code=EXIT_UNAVAILABLE,
        )
    except PermissionError as error:
        fail(
            f"{error.filename}: {error.strerror}",
            "run it as the user that the gateway runs as",
            code=EXIT_UNAVAILABLE,
        )
    except LogCorrupt as error:
        fail(f"the log is damaged: {error}", "see `sluicegate audit verify`", code=EXIT_UNAVAILABLE)
    except (RegistryUnavailable, *CANNOT_OPEN) as error:
        fail(str(error), code=EXIT_UNAVAILABLE)
