"""Sealed content through a real gateway: kept as the rules ask, and nowhere in the clear."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.audit.content import NotOpened, Part, RoleKey, WrongRecord, open_share, opened
from gateway.audit.content_store import content_of, content_segments, context_of, ref_of
from gateway.audit.seal import SealError
from gateway.audit.verify import OK
from gateway.core.role_keys import Role
from tests.support import raw
from tests.support.calls import MESSAGES, Call, Ticking, answered, streaming
from tests.support.gate import APPROVER, REVIEWER, Gate, running_gate
from tests.support.upstream import Received, Reply, Upstream, message_events

CANARY = "canary-7f3a91c2-asked"
ANSWER = "canary-50bb6dd4-answered"


async def says_it(request: Received, reply: Reply) -> None:
    """An upstream script: the answer canary, streamed or whole."""
    if request.json().get("stream"):
        await reply.start_stream()
        for event in message_events(ANSWER * 100, "opus-4.8"):
            await reply.chunk(event)
        await reply.end()
        return
    await reply.whole(MESSAGES.whole() + ANSWER.encode())


@contextlib.asynccontextmanager
async def gate_that_keeps(
    directory: Path, level: str, script=says_it, **settings
) -> AsyncIterator[Gate]:
    """A gateway whose unrestricted models ask for one level of capture, with the member red."""

    def prepare(gate: Gate) -> None:
        stages = gate.data("stages")
        before = "general:\n  admits: [{}]\n  capture: digest"
        assert before in stages.read_text()
        after = before.replace("digest", level)
        stages.write_text(stages.read_text().replace(before, after))

    upstream = Upstream(script)
    await upstream.start()
    try:
        async with running_gate(directory, upstream.url, prepare=prepare, **settings) as gate:
            await gate.member("red")
            gate.upstream = upstream
            yield gate
    finally:
        await upstream.stop()


async def call(gate: Gate, tag: str = CANARY, **fields) -> tuple[bytes, raw.Answer]:
    body = MESSAGES.body(tag, **fields)
    return body, await answered(gate, MESSAGES, gate.keys["red-1"], body)


async def both_records(gate: Gate) -> tuple[dict, dict]:
    (intent,) = await gate.recorded("access.intent")
    (outcome,) = await gate.recorded("access.outcome")
    return intent, outcome


def everything_on_disk(gate: Gate) -> bytes:
    files = [path for path in gate.state.root.rglob("*") if path.is_file()]
    return b"\0".join(path.read_bytes() for path in files) + gate.log().encode()


@pytest.mark.parametrize("stream", [True, False])
async def test_sealed_keeps_both_sides_for_two_roles_and_nothing_in_the_clear(tmp_path, stream):
    async with gate_that_keeps(tmp_path, "sealed") as gate:
        body, answer = await call(gate, stream=stream)
        assert answer.status == 200
        assert ANSWER.encode() in answer.body
        intent, outcome = await both_records(gate)
        assert intent["decision"]["capture"] == "sealed"
        assert gate.content(intent, Part.REQUEST, "red") == body
        assert gate.content(outcome, Part.ANSWER, "red") == answer.body
        for record, part, kept in (
            (intent, Part.REQUEST, body),
            (outcome, Part.ANSWER, answer.body),
        ):
            ref = ref_of(record, part)
            assert ref.digest == gate.digest("red", kept)
            assert (ref.kept, ref.truncated) == (len(kept), False)
        blob = content_of(gate.state.content("data-0"), intent, Part.REQUEST)
        with pytest.raises(WrongRecord):
            open_share(blob, REVIEWER, context_of(outcome, Part.ANSWER))
        await gate.stop()
        disk = everything_on_disk(gate)
        assert CANARY.encode() not in disk
        assert ANSWER.encode() not in disk
        assert REVIEWER.text.encode() not in disk
        assert [report.verdict for report in gate.verify()] == [OK] * 2


async def test_one_role_with_everything_that_the_gateway_has_opens_nothing(tmp_path):
    async with gate_that_keeps(tmp_path, "sealed_request") as gate:
        await call(gate)
        intent, outcome = await both_records(gate)
        blob = content_of(gate.state.content("data-0"), intent, Part.REQUEST)
        with pytest.raises(SealError, match="nothing was sealed"):
            content_of(gate.state.content("data-0"), outcome, Part.ANSWER)
        context = context_of(intent, Part.REQUEST)
        reviewer = open_share(blob, REVIEWER, context)
        forged = RoleKey(Role.APPROVER, APPROVER.id, REVIEWER.key)
        with pytest.raises(WrongRecord):
            open_share(blob, forged, context)
        other = open_share(blob, APPROVER, context)
        key = gate.subject_key("red")
        assert CANARY.encode() in opened(blob, reviewer, other, key, context)
        with pytest.raises(NotOpened):
            opened(blob, reviewer, other, bytes(32), context)


@pytest.mark.parametrize("level", ["digest", "metadata"])
async def test_what_is_not_to_be_sealed_leaves_a_keyed_digest_or_only_sizes(tmp_path, level):
    async with gate_that_keeps(tmp_path, level) as gate:
        body, answer = await call(gate)
        intent, outcome = await both_records(gate)
        assert not (gate.state.root / "content").exists()
        assert (intent["request"]["bytes"], outcome["response"]["bytes"]) == (
            len(body),
            len(answer.body),
        )
        digests = {
            "digest": (
                {"digest": gate.digest("red", body)},
                {"digest": gate.digest("red", answer.body)},
            ),
            "metadata": (None, None),
        }[level]
        assert intent["request"].get("content") == digests[0]
        assert outcome["response"].get("content") == digests[1]
        for record in (intent, outcome):
            assert "sha256" not in str(record).replace("sealed_sha256", "").replace("sha256:", "")


async def test_without_keys_a_call_to_be_sealed_is_not_forwarded_and_status_says_why(tmp_path):
    async with gate_that_keeps(
        tmp_path, "sealed_request", content={"reviewer": None, "approver": None}
    ) as gate:
        for wire, error in (("messages", "api_error"), ("chat", "content_keys_missing")):
            target = {"messages": "/v1/messages", "chat": "/v1/chat/completions"}[wire]
            model = {"messages": "opus-4.8", "chat": "gpt-5.5"}[wire]
            body = MESSAGES.body(CANARY, model=model)
            answer = await raw.call(gate.port, target, body, key=gate.keys["red-1"])
            assert answer.status == 503
            assert answer.header("x-sluicegate-reason") == "content_keys_missing"
            assert answer.header("x-should-retry") == "false"
            assert error.encode() in answer.body
        assert gate.upstream.received == []
        denied = await gate.recorded("access.denied", 2)
        assert {each["reason"] for each in denied} == {"content_keys_missing"}
        (problem,) = (await gate.status())["problems"]
        assert "no keys to seal it to" in problem["what"]
        assert "content keygen reviewer" in problem["do"]
        assert "no keys to seal it to" in gate.log()  # said at the start, too


async def test_of_a_long_answer_the_beginning_is_sealed_and_the_digest_is_of_all(tmp_path):
    async with gate_that_keeps(tmp_path, "sealed", content={"max_answer_bytes": 1024}) as gate:
        _, answer = await call(gate, "long", stream=True)
        assert len(answer.body) > 1024
        _, outcome = await both_records(gate)
        ref = ref_of(outcome, Part.ANSWER)
        assert (ref.kept, ref.truncated) == (1024, True)
        assert ref.digest == gate.digest("red", answer.body)
        assert gate.content(outcome, Part.ANSWER, "red") == answer.body[:1024]


async def test_of_an_answer_that_is_cut_what_left_is_sealed(tmp_path):
    ticking = Ticking(every_s=0.02)
    async with gate_that_keeps(tmp_path, "sealed", ticking) as gate:
        running = await streaming(gate, ticking, MESSAGES, gate.keys["red-1"], "cut")
        await asyncio.sleep(0.3)
        await gate.revoke("red-1")
        await running.end()
        _, outcome = await both_records(gate)
        assert outcome["status"] == "policy_cut"
        kept = gate.content(outcome, Part.ANSWER, "red")
        assert len(kept) == outcome["response"]["bytes"] > 0
        assert running.answer.body == kept


async def test_a_large_body_is_sealed_as_it_came(tmp_path):
    async with gate_that_keeps(tmp_path, "sealed_request") as gate:
        body, answer = await call(gate, "x" * 12_000_000, stream=False)
        assert answer.status == 200
        intent, _ = await both_records(gate)
        assert gate.content(intent, Part.REQUEST, "red") == body


async def test_when_content_cannot_be_written_nothing_is_forwarded_any_more(tmp_path):
    async with gate_that_keeps(tmp_path, "sealed_request") as gate:
        await call(gate)
        (file,) = content_segments(gate.state.content("data-0"))
        file.rename(file.with_suffix(".gone"))  # the writer holds a file that is not there
        for _ in range(2):
            _, answer = await call(gate, "refused")
            assert answer.status == 503
            assert answer.header("x-sluicegate-reason") == "log_unavailable"
        assert len(gate.upstream.received) == 1
        while not (problems := (await gate.status())["problems"]):  # noqa: ASYNC110 told each second
            await asyncio.sleep(0.05)
        assert "data-0 cannot write its log" in problems[0]["what"]
        file.with_suffix(".gone").rename(file)
        await gate.stop()
        await gate.start()
        assert (await call(gate, "again"))[1].status == 200
        assert [report.verdict for report in gate.verify()] == [OK] * 2


async def test_k59_workers_killed_while_they_seal_leave_records_whose_content_is_there(tmp_path):
    async with gate_that_keeps(tmp_path, "sealed") as gate:
        done, chance = asyncio.Event(), random.Random(3)
        limits = gate.data("limits")
        limits.write_text(limits.read_text().replace("burst: 600}", "burst: 600000}"))

        async def client(number: int) -> None:
            while not done.is_set():
                with contextlib.suppress(OSError):
                    body = MESSAGES.body(f"{number}-{CANARY}" * 200)
                    await (await Call.start(gate, MESSAGES, gate.keys["red-1"], body)).end()
                await asyncio.sleep(0.005)

        load = [asyncio.create_task(client(number)) for number in range(8)]
        for _ in range(4):
            await asyncio.sleep(0.3 + chance.random() / 2)
            before = gate.processes()["data-0"]
            os.kill(before, signal.SIGKILL)
            await gate.replaced("data-0", before)
        await asyncio.sleep(0.3)
        done.set()
        await asyncio.gather(*load)
        await gate.stop()
    assert [report.verdict for report in gate.verify()] == [OK] * 2
    intents = gate.records("access.intent")
    assert len(intents) > 40
    for intent in intents:
        assert CANARY.encode() in gate.content(intent, Part.REQUEST, "red")
    answers = [each for each in gate.records("access.outcome") if each.get("response")]
    for outcome in answers:
        if outcome["response"]["bytes"]:
            gate.content(outcome, Part.ANSWER, "red")
    print(f"{len(intents)} calls, {len(answers)} answers")


async def test_erasing_a_member_ends_what_two_roles_could_open(tmp_path):
    async with gate_that_keeps(tmp_path, "sealed") as gate:
        await call(gate)
        intent, outcome = await both_records(gate)
        key = gate.subject_key("red")
        assert CANARY.encode() in gate.content(intent, Part.REQUEST, "red")
        await gate.move("member", "red", "revoke")
        await gate.move("member", "red", "erase")
        await gate.stop()
        assert key not in everything_on_disk(gate)
        for record, part in ((intent, Part.REQUEST), (outcome, Part.ANSWER)):
            with pytest.raises((AssertionError, NotOpened, TypeError, ValueError)):
                gate.content(record, part, "red")
        assert [report.verdict for report in gate.verify()] == [OK] * 2
