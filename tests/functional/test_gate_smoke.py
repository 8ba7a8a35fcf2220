"""The shortest way through: one call is let through, recorded and verified; one is denied."""

import anthropic
import pytest

from tests.support.gate import running_gate
from tests.support.upstream import Received, Reply, Upstream, message_events


async def test_a_call_goes_through_the_gate_by_rule_and_on_the_record(tmp_path):
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
        client = anthropic.AsyncAnthropic(base_url=gate.url, api_key=red, max_retries=0)
        async with client.messages.stream(
            model="mythos-5", max_tokens=50, messages=[{"role": "user", "content": "hi"}]
        ) as stream:
            assert await stream.get_final_text() == "hello there "
        await client.close()
        client = anthropic.AsyncAnthropic(base_url=gate.url, api_key=newcomer, max_retries=0)
        with pytest.raises(anthropic.PermissionDeniedError, match="needs cyber 3, has 0"):
            await client.messages.create(
                model="mythos-5", max_tokens=50, messages=[{"role": "user", "content": "hi"}]
            )
        await client.close()
        (intent,) = await gate.recorded("access.intent")
        (outcome,) = await gate.recorded("access.outcome")
        assert outcome["parent"] == intent["seq"]
        assert outcome["status"] == "ok"
        assert outcome["tokens"] == {"in": 7, "out": 5, "usage_source": "upstream"}
        (denied,) = await gate.recorded("access.denied")
        assert denied["reason"] == "tier_insufficient"
        assert len(upstream.received) == 1
    assert [report.verdict for report in gate.verify()] == ["ok", "ok"]
    await upstream.stop()
