"""Decisions of a real gateway made again from its record, and who could use what while it ran."""

import asyncio
import contextlib

import anthropic

from gateway.policy.kept_revisions import kept_revision
from tests.functional.command_line import Operator
from tests.support.gate import running_gate
from tests.support.upstream import Received, Reply, Upstream, message_events


async def call(gate, key, model, **more):
    asked = {"model": model, "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}
    client = anthropic.AsyncAnthropic(base_url=gate.url, api_key=key, max_retries=0)
    with contextlib.suppress(anthropic.APIStatusError):
        async with client.messages.stream(**asked, **more) as stream:
            await stream.get_final_text()
    await client.close()


def command(gate, *arguments, code=0):
    operator = Operator.__new__(Operator)
    return operator.bare(*arguments, "--dir", str(gate.state.root), code=code)


async def test_every_kind_of_decision_comes_out_again_and_an_erased_one_says_so(tmp_path):
    async def script(_request: Received, reply: Reply) -> None:
        await reply.start_stream()
        for piece in message_events():
            await reply.chunk(piece)
        await reply.end()

    upstream = Upstream(script)
    await upstream.start()
    async with running_gate(tmp_path, upstream.url) as gate:
        red = await gate.member("red")
        newcomer = await gate.member("newcomer", 0)
        low = await gate.key("newcomer", "newcomer-2", scopes=["downgrade"])
        for key, model in (
            (red, "mythos-5"),
            (red, "mythos-5"),
            (newcomer, "mythos-5"),
            (low, "fable-5"),
            (newcomer, "mythos-6"),
            (newcomer, "no-such-model"),
        ):
            await call(gate, key, model)
        await gate.recorded("access.outcome", 3)
        calls = gate.records("access.intent") + gate.records("access.denied")
        effects = []
        for record in calls:
            name = record["request_id"]
            said = await asyncio.to_thread(
                command, gate, "audit", "show", name, "--explain", "--json"
            )
            (explained,) = said.json["explained"].values()
            assert explained["same"], explained
            assert explained["differences"] == []
            effects.append(explained["decision"]["effect"])
            for reason in explained["reasons"]:
                assert f'"rule": "{reason["rule"]}"' in reason["source"]["text"]
        assert sorted(effects) == ["allow", "allow", "deny", "deny", "deny", "downgrade"]
        assert {record["decision"].get("memo", False) for record in calls} == {True, False}
        denied = next(each for each in calls if each["subject"]["id"] == "newcomer")
        shown = await asyncio.to_thread(
            command, gate, "audit", "show", denied["request_id"], "--explain"
        )
        assert "the same" in shown.out

        at = calls[-1]["time"]
        said = await asyncio.to_thread(
            command, gate, "audit", "report", "access", "--as-of", at, "--json"
        )
        lines = {
            (each["credential"], each["model"]): (each["effect"], each["substitute"])
            for each in said.json["lines"]
        }
        assert said.json["running"]
        assert lines["red-1", "mythos-5"] == ("allow", "")
        assert lines["newcomer-1", "mythos-5"] == ("deny", "")
        assert lines["newcomer-2", "fable-5"] == ("downgrade", "opus-4.8")
        assert lines["newcomer-1", "opus-4.8"] == ("allow", "")
        revision = (await gate.status())["revision"]
        assert said.json["revision"] == revision
        assert kept_revision(gate.state.revisions, revision).id == revision

        await gate.move("member", "newcomer", "revoke")
        await gate.move("member", "newcomer", "erase")
        said = await asyncio.to_thread(
            command, gate, "audit", "show", denied["request_id"], "--explain", code=3
        )
        assert (
            "unavailable: there is no key for the facts of newcomer: it was destroyed" in said.out
        )
    assert [report.verdict for report in gate.verify()] == ["ok", "ok"]
    await upstream.stop()
