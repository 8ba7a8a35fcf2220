"""What is measured: how each contender is started, and what its process has cost so far.

Everything runs on loopback. The process under test has ``TESTED_CORE`` to itself; all others (load,
endpoint, Sluicegate's supervisor and control process) share ``LOAD_CORE``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.gate import Gate, free_ports

TESTED_CORE, LOAD_CORE = 0, 1
MEMBERS = 1_000
ORGANISATIONS = 20
GATES: dict[str, dict[str, Any]] = {
    "sluicegate": {},
    "sluicegate, memo off": {"policy": {"memo_entries": 0}},
}
"""Sluicegate with its sample policy and a durable record, by name: its settings."""
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Contender:
    """One process under test; ``pid`` is 0 where there is none between load and endpoint."""

    name: str
    port: int
    pid: int
    keys: list[str]
    gate: Gate | None = None

    def cpu_s(self) -> float:
        """User and system time that the process has used so far, all its threads."""
        if not self.pid:
            return 0.0
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def rss_kb(self) -> int:
        """Resident memory."""
        if not self.pid:
            return 0
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        return 0

    async def memo(self) -> tuple[int, int]:
        """Hits and misses of the decision memo, as the worker last reported them."""
        if self.gate is None:
            return 0, 0
        await asyncio.sleep(1.2)  # a report comes once a second
        (worker,) = (await self.gate.status())["workers"]
        return worker["memo_hits"], worker["memo_misses"]


def pin(pid: int, core: int) -> None:
    """Keep a process, with all its threads, on one core."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


@contextlib.asynccontextmanager
async def contenders(
    directory: Path, upstream_port: int, only: set[str]
) -> AsyncIterator[list[Contender]]:
    """Start those that are named (all, where none is) and present; what is absent is named."""
    upstream = f"127.0.0.1:{upstream_port}"
    wanted = only or {"nginx", "naive", *GATES}
    if "nginx" in wanted and not shutil.which("nginx"):
        print("nginx is not installed: skipped")
        wanted = wanted - {"nginx"}
    async with contextlib.AsyncExitStack() as stack:
        found = [Contender("direct", upstream_port, 0, ["sk-none"] * MEMBERS)]
        for name, starting in (("nginx", _nginx), ("naive", _naive)):
            if name in wanted:
                found.append(await stack.enter_async_context(starting(directory, upstream)))
        seed: Gate | None = None
        for name, settings in GATES.items():
            if name not in wanted:
                continue
            gate = await _gate(directory, upstream, settings, seed)
            stack.push_async_callback(gate.stop)
            (worker,) = (await gate.status())["workers"]
            found.append(Contender(name, gate.port, worker["pid"], list(gate.keys.values()), gate))
            seed = seed or gate
        for contender in found:
            if contender.pid:
                pin(contender.pid, TESTED_CORE)
        yield found


async def _gate(
    directory: Path, upstream: str, settings: dict[str, Any], seed: Gate | None
) -> Gate:
    """A running gateway with its members; those of ``seed``, where there is one."""
    home = Path(tempfile.mkdtemp(dir=directory))
    gate = Gate(home, f"http://{upstream}", settings)
    if seed is None:
        print(f"making {MEMBERS} members, each with a key", flush=True)
        await gate.start()
        for index in range(ORGANISATIONS):
            await gate.organisation(id=f"org-{index}", name=f"Organisation {index}")
        for index in range(MEMBERS):
            await gate.member(f"member-{index}", organisation=f"org-{index % ORGANISATIONS}")
        await gate.stop()
        shutil.copytree(gate.state.root, home / "seed", ignore=shutil.ignore_patterns("*.sock"))
    else:
        shutil.copytree(seed.directory / "seed", gate.state.root)
        gate.keys = seed.keys
    await gate.start()
    return gate


_NGINX = """
daemon off; master_process off; pid {directory}/pid; error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  upstream endpoint {{ server {upstream}; keepalive 512; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://endpoint; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


@contextlib.asynccontextmanager
async def _nginx(directory: Path, upstream: str) -> AsyncIterator[Contender]:
    (port,) = free_ports(1)
    configuration = directory / "nginx.conf"
    configuration.write_text(_NGINX.format(directory=directory, upstream=upstream, port=port))
    async with _process("nginx", "-c", str(configuration), port=port) as pid:
        yield Contender("nginx", port, pid, ["sk-none"] * MEMBERS)


@contextlib.asynccontextmanager
async def _naive(_directory: Path, upstream: str) -> AsyncIterator[Contender]:
    (port,) = free_ports(1)
    command = f"-m uvicorn bench.naive:app --port {port} --no-access-log --log-level warning"
    os.environ["UPSTREAM"] = f"http://{upstream}"
    async with _process(sys.executable, *command.split(), port=port) as pid:
        yield Contender("naive", port, pid, ["sk-none"] * MEMBERS)


@contextlib.asynccontextmanager
async def _process(*command: str, port: int) -> AsyncIterator[int]:
    process = await asyncio.create_subprocess_exec(*command)
    try:
        while True:
            if process.returncode is not None:
                raise RuntimeError(f"{command[0]} ended with code {process.returncode}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            await asyncio.sleep(0.05)
        yield process.pid
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()
