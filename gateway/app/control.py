"""The control process: control socket, console and ops."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from contextlib import ExitStack

from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from gateway.app.opening import CANNOT_START, Process, open_log, run_process, stop_event
from gateway.control.api import control_api
from gateway.control.console import Edge, console_app
from gateway.control.hosts import own_host_only
from gateway.control.ops import ops_app
from gateway.control.plane import (
    GATEWAY_ACTOR,
    ControlPlane,
    PolicySource,
    archive_source,
    directory_source,
    latest_rows,
)
from gateway.control.reveal import Reveals
from gateway.control.staff import Staff, history_of
from gateway.control.status import Status
from gateway.policy.embedded import EmbeddedEngine
from gateway.policy.lifecycle import Lifecycle
from gateway.registry.mac import KeyFileRefused
from gateway.registry.registry import Registry
from gateway.registry.store import StoreUnavailable
from gateway.serving import Server, configuration
from gateway.settings import Settings
from gateway.state import CONTROL_SHARD, StateDirectory
from gateway.telemetry import logs

__all__ = ["CANNOT_OPEN", "open_control_plane", "policy_source", "run_control"]

SMALL = {"http": "h11", "h11_max_incomplete_event_size": 16 * 1024, "limit_concurrency": 256}
"""Console and ops serve people and probes: a head is bounded, and so are connections that ask."""
CANNOT_OPEN = (*CANNOT_START, StoreUnavailable, KeyFileRefused)
"""What may keep log and registry from being opened."""


def policy_source(settings: Settings) -> PolicySource:
    """Where bundles come from, by the settings.

    Raises:
        ValueError: the verification key is no P-256 public key.
    """
    policy = settings.policy
    if policy.directory is not None:
        return directory_source(policy.directory)
    assert policy.bundle is not None  # settings hold one of them
    assert policy.verification_key is not None
    try:
        key = ECKey.import_key(policy.verification_key.read_bytes())
    except (ValueError, JoseError):  # their text is about ASN.1
        key = None
    if key is None or key.curve_name != "P-256":
        raise ValueError(
            f"policy.verification_key: {policy.verification_key} holds no P-256 public key in PEM"
        )
    return archive_source(policy.bundle, key)


def open_control_plane(settings: Settings) -> ControlPlane:
    """Open log and registry; also used by commands when no gateway runs.

    Raises:
        LogCorrupt, LogUnavailable, StoreUnavailable, KeyFileRefused: it must not be opened.
    """
    state = StateDirectory(settings.state_dir)
    with ExitStack() as undo:
        log = open_log(state, CONTROL_SHARD, settings)
        undo.callback(log.close)
        registry = Registry.open(
            state.registry,
            state.keys,
            append=ControlPlane.recorder(log),
            latest=latest_rows(state.log(CONTROL_SHARD)),
        )
        undo.pop_all()
    # The control process examines bundles with the embedded engine whatever the workers use, and
    # decides no call.
    return ControlPlane(
        state=state,
        log=log,
        registry=registry,
        lifecycle=Lifecycle(EmbeddedEngine()),
        source=policy_source(settings),
        retention_days=settings.content.retention_days,
    )


async def run_control(process: Process) -> None:
    """Serve control socket, console and ops until the process is told to stop."""
    settings, (console, ops) = process.settings, process.sockets
    logs.configure(settings.log_level.upper(), sys.stderr)
    plane = open_control_plane(settings)
    status = Status(
        plane,
        workers=settings.data.workers,
        addresses={
            "data": settings.data.url,
            "console": settings.console.url,
            "ops": settings.ops.url,
        },
        endpoints={name: upstream.origin for name, upstream in settings.upstreams.items()},
        exporters=settings.exporters,
        sealable=settings.content.sealable,
    )
    await plane.activate_current(actor=GATEWAY_ACTOR, reason="start")
    await plane.workers.listen(plane.state.bus_socket)
    plane.state.control_socket.unlink(missing_ok=True)
    history = await asyncio.to_thread(history_of, plane.state.log(CONTROL_SHARD))
    staff = Staff(plane, history)
    reveals = Reveals(plane, staff)
    console_pages = console_app(status, staff, reveals, plane.state, settings.console)
    console_page = Edge(own_host_only(console_pages, settings.console))
    operations = own_host_only(ops_app(plane, status, settings.policy), settings.ops)
    commands = control_api(plane, status, staff, settings.console.url)
    servers = [
        (Server(configuration(commands, None)), _private_socket(plane.state)),
        (Server(configuration(console_page, settings.console, **SMALL)), console),
        (Server(configuration(operations, settings.ops, **SMALL)), ops),
    ]
    background = [
        asyncio.create_task(plane.watch_policy()),
        asyncio.create_task(plane.watch_registry()),
        asyncio.create_task(plane.record_findings()),
        asyncio.create_task(plane.beat(settings.audit.heartbeat_s)),
    ]
    serving = [
        asyncio.create_task(server.serve(sockets=[listener])) for server, listener in servers
    ]
    await asyncio.wait(
        [*serving, asyncio.create_task(stop_event().wait())],
        return_when=asyncio.FIRST_COMPLETED,
    )
    for server, _ in servers:
        server.stop()
    await asyncio.gather(*serving)
    for task in background:
        task.cancel()
    await plane.workers.close()
    plane.registry.close()
    await plane.log.aclose()


def _private_socket(state: StateDirectory) -> socket.socket:
    """The control socket, opened for nobody else from its first moment."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(str(state.control_socket))
    finally:
        os.umask(mask)
    return listener


if __name__ == "__main__":
    run_process("control process", run_control, CANNOT_OPEN)
