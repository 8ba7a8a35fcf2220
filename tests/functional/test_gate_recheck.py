"""Access is taken back while calls run (K9, K38; invariant 5).

Revocation, suspension, expiry and a lowered tier are one mechanism: what let a call in is asked
again, and the call ends within two seconds so that its SDK raises. Nobody else loses a byte.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import anthropic
import openai
import pytest
import pytest_asyncio

from tests.support.calls import (
    CHAT,
    MESSAGES,
    RESPONSES,
    WIRES,
    Call,
    Ticking,
    answered,
    records_of,
    said_so,
    silent,
    streaming,
    tag_of,
    unfinished,
)
from tests.support.gate import VETTED, Gate, running_gate
from tests.support.upstream import Received, Reply, Upstream

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(90)]

BOUND_S = 2.0
RESTRICTED = "mythos-5"


class Provider:
    """Ticks, but for calls whose tag asks for silence or for half an answer."""

    def __init__(self) -> None:
        self.ticking = Ticking()

    async def __call__(self, request: Received, reply: Reply) -> None:
        tag = tag_of(request)
        if tag.startswith(("silent", "part")):
            self.ticking.replies[tag] = reply
            await (silent if tag.startswith("silent") else unfinished)(request, reply)
        else:
            await self.ticking(request, reply)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream():
    served = Upstream(Provider())
    await served.start()
    yield served
    await served.stop()


@pytest_asyncio.fixture
async def ticking(upstream):
    """A script of this test's own; whatever still runs at its end is finished."""
    upstream.script.ticking = script = Ticking()
    yield script
    script.finish.set()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gate(tmp_path_factory, upstream):
    def prepare(gate: Gate) -> None:
        """A wave that a plain key may ride, and no limit in the way of a load."""
        edits = {
            "models": (
                "    tiers: {cyber: 2}\n    bound_credential: true",
                "    tiers: {cyber: 2}",
            ),
            "limits": ("rate: 60, period_s: 60, burst: 60", "rate: 60, period_s: 60, burst: 6000"),
        }
        for name, (old, new) in edits.items():
            text = gate.data(name).read_text()
            assert old in text
            gate.data(name).write_text(text.replace(old, new))

    directory = tmp_path_factory.mktemp("recheck")
    async with running_gate(directory, upstream.url, prepare=prepare) as running:
        yield running
    assert all(report.verdict == "ok" for report in running.verify())


def stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# Revocation under load


async def consume(stream: AsyncIterator) -> None:
    async for _ in stream:
        pass


@contextlib.asynccontextmanager
async def sdk_streams(gate: Gate, ticking: Ticking, key: str):
    """One running stream of a real SDK for each wire, as tasks that end as the SDK ends."""
    oai = openai.AsyncOpenAI(base_url=f"{gate.url}/v1", api_key=key, max_retries=0)
    ant = anthropic.AsyncAnthropic(base_url=gate.url, api_key=key, max_retries=0)

    def said(tag: str) -> list:
        return [{"role": "user", "content": tag}]

    async def chat() -> None:
        await consume(
            await oai.chat.completions.create(
                model="gpt-5.5", messages=said("sdk-chat"), max_tokens=50, stream=True
            )
        )

    async def responses() -> None:
        await consume(
            await oai.responses.create(
                model="gpt-5.5", input="sdk-responses", max_output_tokens=50, stream=True
            )
        )

    async def messages() -> None:
        await consume(
            await ant.messages.create(
                model="opus-4.8", messages=said("sdk-messages"), max_tokens=50, stream=True
            )
        )

    tasks = {
        "chat": asyncio.create_task(chat()),
        "responses": asyncio.create_task(responses()),
        "messages": asyncio.create_task(messages()),
    }
    for name in tasks:
        await asyncio.wait_for(ticking.reached(f"sdk-{name}"), 10)
    yield tasks
    await oai.close()
    await ant.close()


async def test_k9_a_key_revoked_under_50_streams_ends_them_and_nobody_elses(gate, ticking):
    red, blue = await gate.member("red"), await gate.member("blue")
    wires = list(WIRES.values())
    cut = [
        (wires[n % 3], await streaming(gate, ticking, wires[n % 3], red, f"red-{n}"))
        for n in range(47)
    ]
    kept = {
        f"blue-{n}": await streaming(gate, ticking, wires[n % 3], blue, f"blue-{n}")
        for n in range(50)
    }
    loop = asyncio.get_running_loop()
    async with sdk_streams(gate, ticking, red) as tasks:
        await asyncio.sleep(0.3)
        since = loop.time()
        change = await gate.revoke("red-1")
        told = loop.time() - since
        assert change["ended"] == 50
        refused = await answered(gate, CHAT, red)
        assert refused.status == 401
        for _, call in cut:
            await asyncio.wait_for(call.end(), 5)
        ends = await asyncio.wait_for(asyncio.gather(*tasks.values(), return_exceptions=True), 5)
    last = max(call.ended_at for _, call in cut) - since
    print(f"50 streams: told after {told * 1000:.0f} ms, the last ended after {last * 1000:.0f} ms")
    assert last < BOUND_S
    for wire, call in cut:
        assert said_so(wire, call)["message"].startswith("Access withdrawn: your credential")
    assert isinstance(ends[0], openai.APIError), ends
    assert isinstance(ends[1], openai.APIError), ends
    assert isinstance(ends[2], anthropic.APIStatusError), ends
    assert all("Access withdrawn" in str(end) for end in ends)
    await asyncio.sleep(0.3)
    ticking.finish.set()
    for tag, call in kept.items():
        answer = await asyncio.wait_for(call.end(), 5)
        assert answer.complete
        assert answer.body == ticking.replies[tag].sent, tag
    assert all(ticking.replies[f"red-{n}"].closed_by_peer.is_set() for n in range(47))
    assert (await records_of(gate, "access.outcome", "red"))[0]["status"] == "policy_cut"


CHANGES = {
    "member suspended": lambda gate, name: gate.move("member", name, "suspend"),
    "member revoked": lambda gate, name: gate.move("member", name, "revoke"),
    "key suspended": lambda gate, name: gate.move("credential", f"{name}-1", "suspend"),
    "organisation suspended": lambda gate, name: gate.move(
        "organisation", f"{name}-org", "suspend"
    ),
    "organisation withdrawn": lambda gate, name: gate.move(
        "organisation", f"{name}-org", "withdraw"
    ),
    "tier lowered": lambda gate, name: gate.set("member", name, tiers={"cyber": 2}),
    "cap lowered": lambda gate, name: gate.set("organisation", f"{name}-org", tiers={"cyber": 2}),
    "licence taken": lambda gate, name: gate.set("organisation", f"{name}-org", licences=[]),
    "scope narrowed": lambda gate, name: gate.set("credential", f"{name}-1", scopes=["wire:chat"]),
}


@pytest.mark.parametrize("what", CHANGES)
async def test_k9_a_change_in_the_registry_cuts_what_runs(gate, ticking, what):
    name = what.replace(" ", "-")
    await gate.organisation(id=f"{name}-org", name=name)
    key = await gate.member(name, organisation=f"{name}-org")
    call = await streaming(gate, ticking, MESSAGES, key, name, model=RESTRICTED)
    loop = asyncio.get_running_loop()
    since = loop.time()
    change = await CHANGES[what](gate, name)
    assert change["ended"] == 1
    await asyncio.wait_for(call.end(), 5)
    print(f"{what}: ended after {(call.ended_at - since) * 1000:.0f} ms")
    assert call.ended_at - since < BOUND_S
    assert said_so(MESSAGES, call)["message"].startswith("Access withdrawn")
    assert (await answered(gate, MESSAGES, key, MESSAGES.body(model=RESTRICTED))).status in (
        401,
        403,
    )
    assert (await records_of(gate, "access.outcome", name))[0]["status"] == "policy_cut"


@pytest.mark.parametrize("wire", WIRES.values(), ids=WIRES)
async def test_k38_a_whole_answer_under_way_ends_as_no_finished_answer(gate, ticking, wire):
    """Before it has begun by a refusal, after it has begun by a reset."""
    name = f"whole-{wire.name}"
    key = await gate.member(name)
    calls = {}
    for kind in ("silent", "part"):
        body = wire.body(f"{kind}-{wire.name}", stream=False)
        calls[kind] = (await Call.start(gate, wire, key, body)).read()
        await asyncio.wait_for(ticking.reached(f"{kind}-{wire.name}"), 10)
    await asyncio.sleep(0.2)
    await gate.revoke(f"{name}-1")
    refused = await asyncio.wait_for(calls["silent"].end(), BOUND_S)
    begun = await asyncio.wait_for(calls["part"].end(), BOUND_S)
    assert refused.status == (400 if wire is RESPONSES else 403)
    assert "Access withdrawn" in refused.body.decode()
    assert begun.status == 200
    assert not begun.complete


# Expiry, by the clock alone


async def test_k9_what_expires_while_a_stream_runs_cuts_it_at_its_second(gate, ticking):
    """No deploy, no change: the clock. And an expiry that was set for a running stream counts."""
    end = int(time.time()) + 4
    lapsing = [{**record, "expires_at": stamp(end)} for record in VETTED]
    keys = {"vetting": await gate.member("vetting", vetting=lapsing)}
    for name in ("credential", "vetting-later", "credential-later", "forever"):
        keys[name] = await gate.member(name)
    keys["credential"] = await gate.key("credential", "credential-2", expires_at=stamp(end))
    calls = {
        name: await streaming(gate, ticking, MESSAGES, key, name, model=RESTRICTED)
        for name, key in keys.items()
    }
    await gate.set("member", "vetting-later", vetting=lapsing)
    await gate.set("credential", "credential-later-1", expires_at=stamp(end))
    assert time.time() < end, "this machine is too slow for this test"
    offset = time.time() - asyncio.get_running_loop().time()
    revision = (await gate.status())["revision"]
    kept = calls.pop("forever")
    for name, call in calls.items():
        await asyncio.wait_for(call.end(), 15)
        late = call.ended_at + offset - end
        print(f"{name}: ended {late * 1000:.0f} ms after its second began")
        assert -0.05 < late < 1.0, name
        assert said_so(MESSAGES, call)["message"].startswith("Access withdrawn")
        again = await answered(gate, MESSAGES, keys[name], MESSAGES.body(model=RESTRICTED))
        assert again.status == (401 if name.startswith("credential") else 403)
    ticking.finish.set()
    assert (await asyncio.wait_for(kept.end(), 5)).complete
    assert (await gate.status())["revision"] == revision
