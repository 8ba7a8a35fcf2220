"""The composition root: each kind of process, built from ``Settings``.

A *data worker* holds provider keys, the request path and the table of running exchanges. The
*control process* holds the registry, the policy's life, console, API and bundles, and no provider
key. Each writes its own shard of the log. ``supervisor`` starts and watches them.
"""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from joserfc.jwk import ECKey

from gateway import __version__, bus
from gateway.audit.note import Checkpoint, NoteError, SigningKey, parse_checkpoint
from gateway.audit.records import Gateway
from gateway.audit.summary import RefusalSummary
from gateway.audit.writer import AuditLog
from gateway.control.api import control_api
from gateway.control.console import console_app
from gateway.control.ops import ops_app
from gateway.control.plane import (
    GATEWAY_ACTOR,
    ControlPlane,
    PolicySource,
    archive_source,
    directory_source,
    latest_rows,
)
from gateway.control.status import Status
from gateway.core.clock import Clock
from gateway.core.protocols import Limiter
from gateway.egress import Egress
from gateway.identity.identify import Identifier
from gateway.limits.attempts import AttemptGuard
from gateway.limits.memory import MemoryLimiter
from gateway.limits.redis import RedisLimiter
from gateway.limits.redis import connect as connect_redis
from gateway.policy.embedded import EmbeddedEngine
from gateway.policy.judge import Judge
from gateway.policy.lifecycle import Lifecycle
from gateway.policy.opa import OpaEngine
from gateway.proxy.answerer import Answerer
from gateway.proxy.entry import Entry
from gateway.proxy.memory import MemoryBudget
from gateway.proxy.network import KeyedHashes
from gateway.proxy.pace import Pace
from gateway.proxy.pipeline import Pipeline, PipelineSettings
from gateway.proxy.protocol import protocol_class
from gateway.proxy.relay import Relay
from gateway.proxy.upstream import Upstreams
from gateway.proxy.worker import DataWorker
from gateway.registry.registry import Registry
from gateway.registry.snapshot import Snapshot
from gateway.serving import Server, configuration
from gateway.settings import Settings, provider_key
from gateway.state import CONTROL_SHARD, StateDirectory, data_shard
from gateway.telemetry import logs
from gateway.telemetry.metrics import Metrics
from gateway.wire.dialects import Dialect

__all__ = ["open_control_plane", "open_log", "policy_source", "run_control", "run_data_worker"]

GC_ALLOCATIONS = 20_000
"""Net allocations between two collections of the youngest objects in a data worker."""


def open_log(state: StateDirectory, shard: str, settings: Settings) -> AuditLog:
    """Open one shard, with its key (made with the log) and the checkpoint kept outside it.

    Raises:
        LogCorrupt, LogUnavailable, NoteError: the shard must not be written.
    """
    state.prepare()
    origin = f"{settings.audit.name}/{shard}"
    path = state.log_key(shard)
    key = SigningKey.load(path) if path.exists() else SigningKey.create(path, origin)
    state.vkey(shard).write_text(key.vkey + "\n")
    head = state.head(shard)
    known: Checkpoint | None = None
    if head.exists() and head.stat().st_size:
        with suppress(NoteError):  # torn by a power cut: it is a second witness, not the log
            known = parse_checkpoint(head.read_bytes(), [key.verifier])
    return AuditLog.open(
        state.log(shard),
        origin,
        key,
        node=Gateway(node=socket.gethostname(), build=__version__),
        segment_bytes=settings.audit.segment_bytes,
        known=known,
        on_head=_head_keeper(head),
    )


def _head_keeper(path: Path) -> Callable[[Checkpoint], None]:
    """Keeps the newest checkpoint in a file of its own; one write, after the log is durable."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    length = os.fstat(descriptor).st_size

    def keep(head: Checkpoint) -> None:
        nonlocal length
        os.pwrite(descriptor, head.note, 0)
        if len(head.note) < length:
            os.ftruncate(descriptor, len(head.note))
        length = len(head.note)

    return keep


# The data worker, from the socket inwards


async def run_data_worker(settings: Settings, index: int, listener: socket.socket) -> None:
    """Serve the data plane until the process is told to stop."""
    state = StateDirectory(settings.state_dir)
    shard = data_shard(index)
    keys = {
        name: key
        for name, upstream in settings.upstreams.items()
        if (key := provider_key(upstream)) is not None
    }
    logs.configure(settings.log_level.upper(), sys.stderr, secrets=keys.values())
    clock = Clock()
    metrics = Metrics()
    log = open_log(state, shard, settings)
    addresses = KeyedHashes(state.pseudonym_key())
    snapshot = Snapshot()
    egress = Egress(settings.egress.allowed_networks)
    engine = _engine(settings)
    judge = Judge(engine, memo_entries=settings.policy.memo_entries)
    limiter = await _limiter(settings)
    upstreams = Upstreams(settings.upstreams, keys)
    await upstreams.start()
    answerer = Answerer(
        clock=clock,
        denial_status={Dialect(name): code for name, code in settings.denial_status.items()},
        appeal=settings.appeal,
        stall_timeout_s=settings.data.stall_timeout_s,
    )
    if isinstance(engine, OpaEngine):
        await engine.start()
    worker: DataWorker
    pipeline = Pipeline(
        settings=PipelineSettings(
            max_body_bytes=settings.data.max_body_bytes,
            body_timeout_s=settings.data.body_timeout_s,
            registry_max_age_s=settings.registry_max_age_s,
            unrestricted_on_limiter_failure=settings.limits.unrestricted_on_failure == "allow",
        ),
        clock=clock,
        identifier=Identifier(snapshot, clock, egress.get),
        guard=AttemptGuard(**settings.attempts.model_dump()),
        pace=Pace(AttemptGuard(**settings.attempts.model_dump())),
        judge=judge,
        limiter=limiter,
        log=log,
        summary=RefusalSummary(),
        upstreams=upstreams,
        relay=Relay(
            stall_timeout_s=settings.data.stall_timeout_s, answer_headers=answerer.headers_of
        ),
        answerer=answerer,
        metrics=metrics,
        memory=MemoryBudget(settings.data.memory_budget_bytes),
        addresses=addresses,
        registry_age=lambda: worker.registry_age(),  # noqa: PLW0108 - made after it
    )
    worker = DataWorker(
        hello=bus.Hello(shard, os.getpid(), state.vkey(shard).read_text().strip()),
        bus_socket=state.bus_socket,
        pipeline=pipeline,
        snapshot=snapshot,
        lifecycle=Lifecycle(engine, examined=False),
        log=log,
        heartbeat_s=settings.audit.heartbeat_s,
        summary_s=settings.audit.summary_s,
        drain_s=settings.data.drain_s,
    )
    server = Server(
        configuration(
            Entry(
                pipeline,
                [ipaddress.ip_network(network) for network in settings.data.trusted_proxies],
            ),
            settings.data,
            http=protocol_class(
                head_timeout_s=settings.data.head_timeout_s,
                stall_timeout_s=settings.data.stall_timeout_s,
                max_connections=settings.data.max_connections,
                on_malformed=pipeline.malformed,
            ),
            timeout_graceful_shutdown=int(settings.data.drain_s) + 3,
        )
    )
    # What has been made so far lives as long as the process: the collector need not look at it, and
    # a request leaves few cycles behind.
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 20)
    try:
        await worker.run(server, listener, _stop_event())
    finally:
        await upstreams.close()
        await egress.close()
        if isinstance(limiter, RedisLimiter):
            await limiter.aclose()
        if isinstance(engine, OpaEngine):
            await engine.close()


def _engine(settings: Settings) -> EmbeddedEngine | OpaEngine:
    if settings.policy.engine == "embedded":
        return EmbeddedEngine()
    address = urlsplit(settings.policy.opa.url)
    token = settings.policy.opa.token
    return OpaEngine(
        host=address.hostname or "127.0.0.1",
        port=address.port or 8181,
        token=token.get_secret_value() if token is not None else None,
        deadline_s=settings.policy.opa.deadline_s,
    )


async def _limiter(settings: Settings) -> Limiter:
    if settings.limits.store == "memory" or settings.limits.redis_url is None:
        return MemoryLimiter()
    limiter = connect_redis(
        settings.limits.redis_url.get_secret_value(), deadline_s=settings.limits.deadline_s
    )
    await limiter.start()
    return limiter


# The control process


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
    key = ECKey.import_key(policy.verification_key.read_text())
    return archive_source(policy.bundle, key)


def open_control_plane(settings: Settings) -> ControlPlane:
    """Open log and registry; also used by commands when no gateway runs.

    Raises:
        LogCorrupt, LogUnavailable, StoreUnavailable, KeyFileRefused: it must not be opened.
    """
    state = StateDirectory(settings.state_dir)
    log = open_log(state, CONTROL_SHARD, settings)
    try:
        registry = Registry.open(
            state.registry,
            state.keys,
            append=ControlPlane.recorder(log),
            latest=latest_rows(state.log(CONTROL_SHARD)),
        )
    except BaseException:
        log.close()
        raise
    # The control process examines bundles with the embedded engine whatever the workers use, and
    # decides no call.
    return ControlPlane(
        state=state,
        log=log,
        registry=registry,
        lifecycle=Lifecycle(EmbeddedEngine()),
        source=policy_source(settings),
    )


async def run_control(settings: Settings, console: socket.socket, ops: socket.socket) -> None:
    """Serve control socket, console and ops until the process is told to stop."""
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
    )
    await plane.activate_current(actor=GATEWAY_ACTOR, reason="start")
    await plane.workers.listen(plane.state.bus_socket)
    plane.state.control_socket.unlink(missing_ok=True)
    servers = [
        (Server(configuration(control_api(plane, status), None)), _private_socket(plane.state)),
        (Server(configuration(console_app(status), settings.console)), console),
        (Server(configuration(ops_app(plane, status), settings.ops)), ops),
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
        [*serving, asyncio.create_task(_stop_event().wait())],
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


def _stop_event() -> asyncio.Event:
    """Set by SIGTERM or SIGINT, and when the supervisor, whose pipe is our input, is gone."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)

    def supervisor_gone() -> None:
        if not os.read(sys.stdin.fileno(), 1024):
            loop.remove_reader(sys.stdin.fileno())
            stopped.set()

    if sys.stdin is not None and not sys.stdin.isatty():
        with suppress(PermissionError, OSError):  # a file or /dev/null cannot be watched
            loop.add_reader(sys.stdin.fileno(), supervisor_gone)
    return stopped
