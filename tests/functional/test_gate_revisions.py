"""A new revision while calls run (K9, K35; invariant 5).

Rules and data that change are obeyed with no restart: by calls that run, by the next call, and
never by half of one. What cannot be activated changes nothing.
"""

import asyncio
import contextlib
import time
from datetime import UTC, datetime

import pytest
import pytest_asyncio

from tests.support.calls import (
    CHAT,
    MESSAGES,
    Ticking,
    answered,
    records_of,
    said_so,
    streaming,
    tag_of,
)
from tests.support.gate import Gate, running_gate
from tests.support.upstream import Received, Reply, Upstream

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(90)]

BOUND_S = 2.0
RESTRICTED = "mythos-5"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream():
    served = Upstream(Ticking())
    await served.start()
    yield served
    await served.stop()


@pytest_asyncio.fixture
async def ticking(upstream):
    """A script of this test's own; whatever still runs at its end is finished."""
    upstream.script = script = Ticking()
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
            "limits": ("period_s: 60, burst: 120}", "period_s: 60, burst: 12000}"),
        }
        for name, (old, new) in edits.items():
            text = gate.data(name).read_text()
            assert old in text
            gate.data(name).write_text(text.replace(old, new))

    directory = tmp_path_factory.mktemp("revisions")
    async with running_gate(directory, upstream.url, prepare=prepare) as running:
        yield running
    assert all(report.verdict == "ok" for report in running.verify())


def stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextlib.asynccontextmanager
async def edited(gate: Gate, name: str, *changes: tuple[str, str]):
    """A data file with these texts replaced, active in all workers; afterwards as before."""
    path = gate.data(name)
    original = text = path.read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    before = (await gate.status())["revision"]
    path.write_text(text)
    try:
        yield await asyncio.wait_for(gate.activated(before), 30)
    finally:
        now = (await gate.status())["revision"]
        path.write_text(original)
        if now != before:
            await asyncio.wait_for(gate.activated(now), 30)


async def test_a_wave_opens_at_its_second_with_no_deploy(gate):
    key = await gate.member("waiting")
    opens = int(time.time()) + 6
    async with edited(gate, "waves", ("2027-03-01T09:00:00Z", stamp(opens))) as revision:
        assert time.time() < opens, "this machine is too slow for this test"
        body = MESSAGES.body(model="fable-5.1", stream=False)
        asked = []
        while not asked or asked[-1][1] != 200:
            assert time.time() < opens + 5
            answer = await answered(gate, MESSAGES, key, body)
            asked.append((time.time(), answer.status))
            if answer.status != 200:
                assert b"not open to you yet" in answer.body
            await asyncio.sleep(0.02)
        print(f"open {asked[-1][0] - opens:.3f} s after its second, {len(asked)} calls")
        assert len(asked) > 1
        assert opens <= asked[-1][0] < opens + 1
        assert (await gate.status())["revision"] == revision


async def test_a_new_revision_cuts_what_it_denies_restricted_models_first(gate, upstream, ticking):
    """Unrestricted streams that began earlier are asked later; what stays allowed loses nothing."""
    general, trusted, limited = [
        [await gate.member(f"{stage}-{n}") for n in range(3)]
        for stage in ("general", "trusted", "limited")
    ]
    # Nothing is under way in what is cut, so that their ends come in the order of their cuts.
    quiet = Ticking(every_s=1000)

    async def script(request: Received, reply: Reply) -> None:
        await (ticking if tag_of(request).startswith("limited") else quiet)(request, reply)

    upstream.script = script
    calls, kept = {}, {}
    for n in range(3):
        calls[f"general-{n}"] = await streaming(gate, quiet, MESSAGES, general[n], f"general-{n}")
        kept[f"limited-{n}"] = await streaming(
            gate, ticking, CHAT, limited[n], f"limited-{n}", model="glm-5.2"
        )
    for n in range(3):
        calls[f"trusted-{n}"] = await streaming(
            gate, quiet, MESSAGES, trusted[n], f"trusted-{n}", model=RESTRICTED
        )
    closed = "  admits: [{roles: [evaluator]}]"
    everybody = "{min_tier: {cyber: 2}}, {min_tier: {bio: 2}}, {roles: [evaluator]}"
    stages = [
        ("general:\n  admits: [{}]", "general:\n" + closed),
        (f"trusted:\n  admits: [{everybody}]", "trusted:\n" + closed),
    ]
    async with edited(gate, "stages", *stages):
        for call in calls.values():
            await asyncio.wait_for(call.end(), BOUND_S)
            assert said_so(MESSAGES, call)["message"].startswith("Access withdrawn")
    order = {name: (await records_of(gate, "access.outcome", name))[0]["seq"] for name in calls}
    assert max(seq for name, seq in order.items() if "trusted" in name) < min(
        seq for name, seq in order.items() if "general" in name
    )
    ticking.finish.set()
    for tag, call in kept.items():
        answer = await asyncio.wait_for(call.end(), 5)
        assert answer.complete
        # Its endpoint was asked for the usage chunk; this one sends none, so nothing is taken out.
        assert answer.body == ticking.replies[tag].sent


async def test_k35_no_decision_mixes_revisions_and_rollback_cuts(gate, ticking):
    """Under load across a swap and back: what was let through was let through by the one revision
    that does so, and what was denied by the other."""
    key = await gate.member("newcomer", 0)
    closed = (await gate.status())["revision"]
    body = MESSAGES.body(model=RESTRICTED, stream=False)
    stop = asyncio.Event()

    async def load() -> None:
        while not stop.is_set():
            assert (await answered(gate, MESSAGES, key, body)).status in (200, 403)
            await asyncio.sleep(0.02)

    callers = [asyncio.create_task(load()) for _ in range(3)]
    floor = "title: Cyber capability\n  open_evaluation: "
    async with edited(gate, "tiers", (f"{floor}0", f"{floor}3")) as open_:
        call = await streaming(gate, ticking, MESSAGES, key, "newcomer", model=RESTRICTED)
    await asyncio.wait_for(call.end(), BOUND_S)
    assert said_so(MESSAGES, call)["message"].startswith("Access withdrawn")
    await asyncio.sleep(0.2)
    stop.set()
    await asyncio.gather(*callers)
    mine = [
        record
        for kind in ("access.intent", "access.denied")
        for record in gate.records(kind)
        if record["subject"]["id"] == "newcomer"
    ]
    decided = {
        (one["type"], one["decision"]["effect"], one["decision"]["revision"]) for one in mine
    }
    assert decided == {
        ("access.intent", "allow", open_),
        ("access.denied", "deny", closed),
    }


@pytest.mark.parametrize(
    "fault",
    [b"cyber: [\n", b"cyber: {}\n", b"\xff\xfe"],
    ids=["not YAML", "a key twice", "not UTF-8"],
)
async def test_k35_a_broken_edit_keeps_the_last_good_revision(gate, ticking, fault):
    key = gate.keys.get("broken-1") or await gate.member("broken")
    tag = f"broken-{len(gate.records('policy.rejected'))}"
    call = await streaming(gate, ticking, MESSAGES, key, tag, model=RESTRICTED)
    before = (await gate.status())["revision"]
    rejected = len(gate.records("policy.rejected"))
    path = gate.data("tiers")
    original = path.read_bytes()
    path.write_bytes(original + fault)
    try:
        found = await gate.recorded("policy.rejected", rejected + 1)
        assert any("tiers.yaml" in finding for finding in found[-1]["findings"]), found[-1]
        assert (await gate.status())["revision"] == before
        fresh = await answered(gate, MESSAGES, key, MESSAGES.body(model=RESTRICTED, stream=False))
        assert fresh.status == 200
    finally:
        path.write_bytes(original)
    ticking.finish.set()
    answer = await asyncio.wait_for(call.end(), 5)
    assert answer.complete
    assert answer.body == ticking.replies[tag].sent
