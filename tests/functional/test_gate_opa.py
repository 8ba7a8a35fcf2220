"""The gateway with a real OPA beside it, which pulls the signed bundle from the ops listener.

Between the two stands a proxy that can answer wrongly; the real OPA can be stopped and killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from gateway.policy.opa import opa_configuration
from tests.conftest import binary
from tests.support.gate import ROOT, Gate, free_ports, running_gate
from tests.support.upstream import Received, Reply, Upstream, chat_answer, message

pytestmark = [
    pytest.mark.needs("opa"),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(120),
]

MEMBERS: dict[str, dict[str, Any]] = {
    "newcomer": {"cyber": 0},
    "blue": {"cyber": 2},
    "red": {"cyber": 3},
    "lapsed": {
        "cyber": 3,
        "vetting": [
            {
                "kind": "identity",
                "level": 3,
                "verified_at": "2025-01-01T00:00:00Z",
                "expires_at": "2026-01-01T00:00:00Z",
            }
        ],
    },
    "evaluator": {"cyber": 3, "roles": ["evaluator"]},
}
TOKEN = "opa-and-gateway-share-this"
MODELS = ["gpt-5.5", "gpt-5.5-cyber", "gpt-rosalind", "glm-5.2", "mythos-5", "fable-5", "opus-4.1"]
MODELS += ["fable-5.1", "mythos-6", "opus-4.8", "no-such-model"]
CHAT = {"gpt-5.5", "gpt-5.5-cyber", "gpt-rosalind", "glm-5.2", "no-such-model"}


class Opa:
    """A real OPA that pulls from a gateway."""

    def __init__(
        self,
        directory: Path,
        ops_url: str,
        verification_key: str | None = None,
        token: str | None = None,
    ) -> None:
        self.port = free_ports(1)[0]
        self._config = directory / "opa.yaml"
        self._config.write_text(
            opa_configuration(
                ops_url, verification_key=verification_key, token=token, poll_s=(1, 1)
            )
        )
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(binary("opa"), "run", "--server", "--disable-telemetry", "--log-level=error"),
            *(f"--addr=127.0.0.1:{self.port}", f"--config-file={self._config}"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def kill(self) -> None:
        if self._process is not None:
            self.signal(signal.SIGKILL)
            await self._process.wait()
            self._process = None


Fault = Callable[[dict[str, Any]], web.Response]


class Between:
    """Stands in front of OPA. ``fault`` makes an answer of the one that OPA gave."""

    def __init__(self) -> None:
        self.port = free_ports(1)[0]
        self.opa_port = 0
        self.fault: Fault | None = None
        self._session: aiohttp.ClientSession
        self._runner: web.AppRunner

    async def start(self) -> None:
        self._session = aiohttp.ClientSession()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._pass)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _pass(self, request: web.Request) -> web.Response:
        url = f"http://127.0.0.1:{self.opa_port}{request.path_qs}"
        data = await request.read()
        try:
            async with self._session.request(request.method, url, data=data) as answer:
                body = await answer.read()
        except aiohttp.ClientError:
            assert request.transport is not None
            request.transport.abort()  # as OPA's own port would
            return web.Response()
        if self.fault is not None:
            return self.fault(json.loads(body))
        return web.Response(body=body, status=answer.status, content_type="application/json")


async def script(request: Received, reply: Reply) -> None:
    model = request.json()["model"]
    chat = request.target.startswith("/v1/chat")
    await reply.whole(chat_answer(model=model) if chat else json.dumps(message()).encode())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[Upstream]:
    server = Upstream(script)
    await server.start()
    yield server
    await server.stop()


async def command(*words: str | Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.cli", *map(str, words)), cwd=ROOT
    )
    assert await process.wait() == 0


class Guarded:
    """A gateway, its OPA, and what stands between them."""

    def __init__(self, gate: Gate, opa: Opa, between: Between, signing_key: Path) -> None:
        self.gate, self.opa, self.between = gate, opa, between
        self._signing_key = signing_key
        self.keys: dict[str, str] = {}

    async def reload(self) -> None:
        """Build a signed bundle of the directory's rules and have it taken up."""
        bundle = self.gate.directory / "policies.tar.gz"
        await command(
            *("policy", "build", self.gate.policies, "-o", bundle),
            *("--signing-key", self._signing_key),
        )
        await command("policy", "reload", "--dir", self.gate.state.root, "--reason", "a test")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(
    upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Guarded]:
    """OPA is started first: it waits for the gateway's bundle, and the gateway's worker for OPA."""
    directory = tmp_path_factory.mktemp("opa")
    await command("policy", "keygen", directory / "signer")
    bundle, public = directory / "policies.tar.gz", directory / "signer.pub.pem"
    signing_key = directory / "signer.pem"
    await command("policy", "build", "policies", "-o", bundle, "--signing-key", signing_key)
    between = Between()
    policy = {
        "engine": "opa",
        "directory": None,
        "bundle": str(bundle),
        "verification_key": str(public),
        "opa": {"url": f"http://127.0.0.1:{between.port}", "token": TOKEN},
        "memo_entries": 0,
    }
    gate = Gate(directory, upstream.url, {"policy": policy})
    opa = Opa(directory, gate.ops_url, public.read_text(), TOKEN)
    between.opa_port = opa.port
    await between.start()
    await opa.start()
    await gate.start()
    try:
        await gate.organisation()
        guarded = Guarded(gate, opa, between, signing_key)
        guarded.keys = await members(gate)
        yield guarded
    finally:
        await gate.stop()
        await opa.kill()
        await between.stop()


async def members(gate: Gate) -> dict[str, str]:
    return {
        name: await gate.member(name, **{"cyber": 0, **about}) for name, about in MEMBERS.items()
    }


async def call(gate: Gate, key: str, model: str) -> tuple[int, str]:
    """Status, and what was said without what differs from call to call."""
    body: dict[str, Any] = {"model": model, "max_tokens": 10}
    body["messages"] = [{"role": "user", "content": "hi"}]
    url = f"{gate.url}/v1/chat/completions" if model in CHAT else f"{gate.url}/v1/messages"
    headers = {"authorization": f"Bearer {key}", "anthropic-version": "2023-06-01"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(url, json=body) as response,
    ):
        said = await response.text()
        return response.status, re.sub(r"\b(req|dec)_\w+|decision[ =]\w+", "", said)


async def test_the_bundle_is_for_who_has_opas_token(guarded: Guarded) -> None:
    """It names embargoed models: K16."""
    url = f"{guarded.gate.ops_url}/bundles/sluicegate.tar.gz"
    async with aiohttp.ClientSession() as session:
        for sent, status in (("", 401), (f"Bearer {TOKEN}x", 401), (f"Bearer {TOKEN}", 200)):
            async with session.get(url, headers={"authorization": sent}) as answer:
                assert answer.status == status


async def test_both_engines_give_the_same_answers(
    guarded: Guarded, upstream: Upstream, tmp_path: Path
) -> None:
    matrix = list(itertools.product(MEMBERS, MODELS))
    by_opa = {
        (name, model): await call(guarded.gate, guarded.keys[name], model) for name, model in matrix
    }
    async with running_gate(tmp_path, upstream.url) as embedded:
        keys = await members(embedded)
        for name, model in matrix:
            assert await call(embedded, keys[name], model) == by_opa[name, model], (name, model)
    statuses = [status for status, _ in by_opa.values()]
    assert {200, 403, 404} <= set(statuses), "one answer to everything proves nothing"
    assert by_opa["red", "mythos-5"][0] == 200
    assert by_opa["lapsed", "mythos-5"][0] == 403


def changed(**fields: Any) -> Fault:
    """OPA's answer with fields taken out (``None``) or put in."""

    def fault(answer: dict[str, Any]) -> web.Response:
        merged = {**answer, **fields}
        return web.json_response({k: v for k, v in merged.items() if v is not None})

    return fault


def other_effect(effect: str) -> Fault:
    def fault(answer: dict[str, Any]) -> web.Response:
        return web.json_response(
            {**answer, "result": {**answer.get("result", {}), "effect": effect}}
        )

    return fault


FAULTS: dict[str, Fault | signal.Signals] = {
    "hung": signal.SIGSTOP,
    "killed": signal.SIGKILL,
    "500": lambda _: web.json_response({"code": "internal_error"}, status=500),
    "not JSON": lambda _: web.Response(text="allow", content_type="application/json"),
    "undefined": changed(result=None),
    "empty": lambda _: web.json_response({}),
    "no revision": changed(provenance=None),
    "wrong revision": changed(provenance={"bundles": {"sluicegate": {"revision": "sha256:00"}}}),
    "unknown effect": other_effect("permit"),
    "a bare true": changed(result=True),
}


@pytest.mark.parametrize("kind", FAULTS)
async def test_k26_k32_a_faulty_opa_lets_nothing_through_and_recovers(
    guarded: Guarded, upstream: Upstream, kind: str
) -> None:
    gate, opa, between = guarded.gate, guarded.opa, guarded.between
    fault, key = FAULTS[kind], guarded.keys["red"]
    assert (await call(gate, key, "mythos-5"))[0] == 200, "it would be let through"
    before, took = len(upstream.received), []
    try:
        if fault is signal.SIGKILL:
            await opa.kill()
        elif isinstance(fault, signal.Signals):
            opa.signal(fault)
        else:
            between.fault = fault
        for model in ("mythos-5", "opus-4.8", "gpt-5.5") * 6:
            since = time.monotonic()
            status, said = await call(gate, key, model)
            took.append(time.monotonic() - since)
            assert status == 503
            assert "cannot decide right now" in said
    finally:
        between.fault = None
        if fault is signal.SIGKILL:
            await opa.start()
        else:
            opa.signal(signal.SIGCONT)
    print(f"\nOPA {kind}: p50 {statistics.median(took) * 1e3:.0f}, max {max(took) * 1e3:.0f} ms")
    assert len(upstream.received) == before
    assert max(took) < 1.5
    assert statistics.median(took) < 0.5
    until = time.monotonic() + 20
    while (await call(gate, key, "mythos-5"))[0] != 200:
        assert time.monotonic() < until, "did not recover"
        await asyncio.sleep(0.1)


async def test_k35_a_new_revision_is_taken_without_a_refused_call(guarded: Guarded) -> None:
    gate = guarded.gate
    assert (await call(gate, guarded.keys["newcomer"], "mythos-5"))[0] == 403
    before = (await gate.status())["revision"]
    tiers = gate.data("tiers")
    tiers.write_text(tiers.read_text().replace("open_evaluation: 0", "open_evaluation: 3", 1))
    change = asyncio.create_task(guarded.reload())
    answers = []
    while not change.done() or (await gate.status())["workers"][0]["revision"] == before:
        answers.append((await call(gate, guarded.keys["red"], "opus-4.8"))[0])
        await asyncio.sleep(0.01)
    await change
    assert set(answers) == {200}, f"{answers.count(503)} of {len(answers)} refused"
    assert (await call(gate, guarded.keys["newcomer"], "mythos-5"))[0] == 200


async def test_k35_an_opa_that_starts_late_is_waited_for(
    upstream: Upstream, tmp_path: Path
) -> None:
    port = free_ports(1)[0]
    policy = {"engine": "opa", "opa": {"url": f"http://127.0.0.1:{port}"}}
    gate = Gate(tmp_path, upstream.url, {"policy": policy})
    opa = Opa(tmp_path, gate.ops_url)
    opa.port = port
    starting = asyncio.create_task(gate.start())
    try:
        async with aiohttp.ClientSession() as session:
            problem = ""
            while "decides nothing yet" not in problem:
                await asyncio.sleep(0.1)
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"{gate.ops_url}/readyz") as response:
                        assert response.status == 503
                        problem = await response.text()
        assert not starting.done()
        await opa.start()
        await starting
        assert (await gate.status())["ready"]
        await gate.organisation()
        assert (await call(gate, await gate.member("late"), "mythos-5"))[0] == 200
    finally:
        starting.cancel()
        await gate.stop()
        await opa.kill()
