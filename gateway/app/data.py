"""A data worker, from the socket inwards; reads top to bottom as the stack."""

from __future__ import annotations

import gc
import ipaddress
import os
import sys
from urllib.parse import urlsplit

from gateway import bus
from gateway.app.opening import CANNOT_START, Process, open_log, run_process, stop_event
from gateway.audit.summary import RefusalSummary
from gateway.core.clock import Clock
from gateway.core.protocols import Limiter
from gateway.egress import Egress
from gateway.identity.identify import Identifier
from gateway.limits.attempts import AttemptGuard
from gateway.limits.memory import MemoryLimiter
from gateway.limits.redis import RedisLimiter, ScriptingUnavailable
from gateway.limits.redis import connect as connect_redis
from gateway.policy.embedded import EmbeddedEngine
from gateway.policy.judge import Judge
from gateway.policy.lifecycle import Lifecycle
from gateway.policy.opa import OpaEngine
from gateway.proxy.answerer import Answerer
from gateway.proxy.connection import connection_class
from gateway.proxy.entry import Entry
from gateway.proxy.judging import Judging
from gateway.proxy.memory import MemoryBudget
from gateway.proxy.network import KeyedHashes
from gateway.proxy.pace import Pace
from gateway.proxy.pipeline import Pipeline, PipelineSettings
from gateway.proxy.relay import Relay
from gateway.proxy.upstream import Upstreams
from gateway.proxy.worker import DataWorker
from gateway.registry.snapshot import Snapshot
from gateway.serving import Server, configuration
from gateway.settings import Settings, provider_key
from gateway.state import StateDirectory, data_shard
from gateway.telemetry import logs
from gateway.telemetry.metrics import Metrics
from gateway.wire.dialects import Dialect

__all__ = ["run_data_worker"]

GC_ALLOCATIONS = 20_000
"""Net allocations between two collections of the youngest objects in a data worker."""


async def run_data_worker(process: Process) -> None:
    """Serve the data plane until the process is told to stop."""
    settings, index, (listener,) = process.settings, process.index, process.sockets
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
    answerer = Answerer(
        clock=clock,
        denial_status={Dialect(name): code for name, code in settings.denial_status.items()},
        appeal=settings.appeal,
        stall_timeout_s=settings.data.stall_timeout_s,
    )
    if isinstance(engine, OpaEngine):
        await engine.start()
    worker: DataWorker
    identifier = Identifier(snapshot, clock, egress.get)
    pipeline = Pipeline(
        settings=PipelineSettings(
            max_body_bytes=settings.data.max_body_bytes,
            body_timeout_s=settings.data.body_timeout_s,
            registry_max_age_s=settings.registry_max_age_s,
            unrestricted_on_limiter_failure=settings.limits.unrestricted_on_failure == "allow",
            sealable=settings.content.sealable,
            max_answer_bytes=settings.content.max_answer_bytes,
        ),
        clock=clock,
        identifier=identifier,
        guard=AttemptGuard(**settings.attempts.model_dump()),
        pace=Pace(AttemptGuard(**settings.attempts.model_dump())),
        judging=Judging(judge=judge, clock=clock, identifier=identifier, metrics=metrics),
        limiter=limiter,
        log=log,
        summary=RefusalSummary(),
        upstreams=upstreams,
        relay=Relay(
            stall_timeout_s=settings.data.stall_timeout_s, answer_headers=answerer.headers_of
        ),
        answerer=answerer,
        metrics=metrics,
        memory=MemoryBudget(
            settings.data.memory_budget_bytes,
            settings.data.max_body_bytes + settings.content.max_answer_bytes,
        ),
        addresses=addresses,
        registry_age=lambda: worker.registry_age(),  # noqa: PLW0108 - made after it
    )
    worker = DataWorker(
        hello=bus.Hello(shard, os.getpid(), state.vkey(shard).read_text().strip()),
        bus_socket=state.bus_socket,
        pipeline=pipeline,
        snapshot=snapshot,
        lifecycle=Lifecycle(engine, examined=True),
        log=log,
        heartbeat_s=settings.audit.heartbeat_s,
        summary_s=settings.audit.summary_s,
        drain_s=settings.data.drain_s,
    )
    trusted = [ipaddress.ip_network(network) for network in settings.data.trusted_proxies]
    entry = Entry(pipeline, trusted)
    server = Server(
        configuration(
            None,  # requests go from the connection to the entry, past ASGI
            settings.data,
            http=connection_class(
                serve=entry.serve,
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
        await worker.run(server, listener, stop_event())
    finally:
        upstreams.close()
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


if __name__ == "__main__":
    run_process("data worker", run_data_worker, (*CANNOT_START, ScriptingUnavailable))
