"""Claude Code and Codex, as their users run them, through the gate (D1, K39).

They are npm packages of several hundred megabytes, so this belongs to ``make long``; they are
installed once, below ``.cache``.
"""

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.gate import ROOT, running_gate
from tests.support.upstream import (
    Received,
    Reply,
    Upstream,
    message_events,
    response_events,
)

pytestmark = [pytest.mark.long, pytest.mark.needs("node"), pytest.mark.timeout(600)]
AGENTS = ROOT / ".cache" / "agents"


@pytest.fixture(scope="module")
def agents() -> Path:
    binaries = AGENTS / "node_modules" / ".bin"
    if not (binaries / "codex").exists():
        AGENTS.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [
                *("npm", "install", "--no-audit", "--no-fund", "--prefix", str(AGENTS)),
                *("@anthropic-ai/claude-code@2.1.197", "@openai/codex@0.169.0"),
            ],
            check=True,
        )
    return binaries


async def script(request: Received, reply: Reply) -> None:
    model = request.json()["model"]
    events = response_events if "responses" in request.target else message_events
    await reply.start_stream()
    for piece in events("the practice model says hello", model):
        await reply.chunk(piece)
    await reply.end()


async def run(home: Path, *command: str, **environment: str) -> tuple[int, str]:
    home.mkdir(exist_ok=True)  # noqa: ASYNC240
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=home,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"PATH": os.environ["PATH"], "HOME": str(home), **environment},
    )
    async with asyncio.timeout(120):
        output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def test_both_agents_work_and_a_denial_reaches_their_users_after_one_post(tmp_path, agents):
    upstream = Upstream(script)
    await upstream.start()
    async with running_gate(tmp_path, upstream.url) as gate:
        red = await gate.member("red")
        newcomer = await gate.member("newcomer", 0)

        async def claude(key: str) -> tuple[int, str]:
            return await run(
                tmp_path / "home",
                *(str(agents / "claude"), "--model", "mythos-5", "-p", "say hello"),
                ANTHROPIC_BASE_URL=gate.url,
                ANTHROPIC_AUTH_TOKEN=key,
                ANTHROPIC_DEFAULT_HAIKU_MODEL="opus-4.8",
            )

        async def codex(key: str) -> tuple[int, str]:
            provider = (
                'model_providers.sluicegate={name="Sluicegate",'
                f'base_url="{gate.url}/v1",wire_api="responses",env_key="SLUICEGATE_KEY",'
                "stream_max_retries=0}"
            )
            return await run(
                tmp_path / "home",
                *(str(agents / "codex"), "exec", "--skip-git-repo-check", "-m", "gpt-5.5-cyber"),
                *("-c", "model_provider=sluicegate", "-c", provider, "say hello"),
                SLUICEGATE_KEY=key,
            )

        for agent in (claude, codex):
            code, output = await agent(red)
            assert code == 0, output
            assert "the practice model says hello" in output
            before = len(gate.records("access.denied"))
            code, output = await agent(newcomer)
            assert "has 0" in output
            assert "Ask your organisation's administrator for cyber tier" in output
            denied = gate.records("access.denied")[before:]
            assert len(denied) == 1, "one denial, one POST, one record"
    await upstream.stop()
