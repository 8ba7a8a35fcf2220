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
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.gate import Gate, free_ports

TESTED_CORE, LOAD_CORE = 0, 1
MEMBERS = 1_000
ORGANISATIONS = 20
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
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), {core})


@contextlib.asynccontextmanager
async def contenders(
    directory: Path, upstream_port: int, only: set[str] | None
) -> AsyncIterator[list[Contender]]:
    """Start all that are wanted and present; those that are absent are named."""
    async with contextlib.AsyncExitStack() as stack:
        upstream = f"127.0.0.1:{upstream_port}"
        found = [Contender("direct", upstream_port, 0, ["sk-none"] * MEMBERS)]

        def wanted(name: str) -> bool:
            return only is None or name in only

        if wanted("nginx"):
            if shutil.which("nginx"):
                found.append(await stack.enter_async_context(_nginx(directory / "nginx", upstream)))
            else:
                print("nginx is not installed: skipped")
        if wanted("naive"):
            found.append(await stack.enter_async_context(_naive(upstream)))
        gates = {
            name: settings
            for name, settings in (
                ("sluicegate", {}),
                ("sluicegate, memo off", {"policy": {"memo_entries": 0}}),
            )
            if wanted(name)
        }
        seeded: Gate | None = None
        for name, settings in gates.items():
            home = directory / f"gate-{len(found)}"
            home.mkdir()
            gate = Gate(home, f"http://{upstream}", settings)
            if seeded is None:
                print(f"making {MEMBERS} members, each with a key …", flush=True)
                await _seed(gate)
                seeded = gate
            else:
                shutil.copytree(
                    seeded.state.root, gate.state.root, ignore=shutil.ignore_patterns("*.sock")
                )
                gate.keys = seeded.keys
            found.append(Contender(name, gate.port, 0, list(gate.keys.values()), gate))
        for contender in found:
            if contender.gate is not None:
                await contender.gate.start()
                stack.push_async_callback(contender.gate.stop)
                (worker,) = (await contender.gate.status())["workers"]
                contender.pid = worker["pid"]
        for contender in found:
            if contender.pid:
                pin(contender.pid, TESTED_CORE)
        yield found


async def _seed(gate: Gate) -> None:
    await gate.start()
    for index in range(ORGANISATIONS):
        await gate.organisation(id=f"org-{index}", name=f"Organisation {index}")
    for index in range(MEMBERS):
        await gate.member(f"member-{index}", organisation=f"org-{index % ORGANISATIONS}")
    await gate.stop()


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
    directory.mkdir()
    (port,) = free_ports(1)
    configuration = directory / "nginx.conf"
    configuration.write_text(_NGINX.format(directory=directory, upstream=upstream, port=port))
    async with _process("nginx", "-c", str(configuration), port=port) as pid:
        yield Contender("nginx", port, pid, ["sk-none"] * MEMBERS)


@contextlib.asynccontextmanager
async def _naive(upstream: str) -> AsyncIterator[Contender]:
    (port,) = free_ports(1)
    arguments = ("-m", "uvicorn", "bench.naive:app", "--port", str(port), "--no-access-log")
    arguments += ("--log-level", "warning")
    os.environ["UPSTREAM"] = f"http://{upstream}"
    async with _process(sys.executable, *arguments, port=port) as pid:
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
