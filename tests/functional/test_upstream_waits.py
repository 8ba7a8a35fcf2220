"""How long the upstream leg waits: for each piece of an answer, not for the answer."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gateway.core.permit import Permit
from gateway.core.reasons import Reason
from gateway.proxy.upstream import UpstreamFailed, Upstreams
from gateway.settings import Upstream
from tests.support.upstream import Received, Reply
from tests.support.upstream import Upstream as Scripted

IDLE_S = 0.4


async def answer(
    permit: Permit,
    speak: Callable[[Reply], Awaitable[None]],
    pause_s: float = 0,
    **settings: float,
) -> bytes:
    """Read one answer, resting ``pause_s`` after each piece."""

    async def script(_request: Received, reply: Reply) -> None:
        await speak(reply)

    endpoint = Scripted(script)
    await endpoint.start()
    settings = {"idle_timeout_s": IDLE_S, **settings}
    upstreams = Upstreams({"it": Upstream(url=endpoint.url, kind="vllm", **settings)}, {})
    pieces = []
    try:
        with await upstreams.forward(permit, []) as response:
            while piece := await response.read():
                pieces.append(piece)
                await asyncio.sleep(pause_s)
    finally:
        upstreams.close()
        await endpoint.stop()
    return b"".join(pieces)


async def test_an_answer_that_falls_silent_is_given_up(permit):
    async def falls_silent(reply: Reply) -> None:
        await reply.start_stream()
        await reply.chunk(b"one")
        await reply.until_closed()

    with pytest.raises(UpstreamFailed) as failed:
        await answer(permit, falls_silent)
    assert failed.value.reason is Reason.UPSTREAM_TIMEOUT


async def test_an_answer_may_take_long_as_long_as_it_goes_on(permit):
    async def takes_its_time(reply: Reply) -> None:
        await reply.start_stream()
        for _ in range(6):
            await asyncio.sleep(IDLE_S / 2)
            await reply.chunk(b"x")
        await reply.end()

    assert await answer(permit, takes_its_time) == b"x" * 6


async def test_the_client_s_slowness_is_not_the_endpoint_s(permit):
    async def goes_on(reply: Reply) -> None:
        await reply.start_stream()
        for _ in range(2):
            await reply.chunk(b"x")
            await asyncio.sleep(0.05)
        await reply.end()

    assert await answer(permit, goes_on, pause_s=IDLE_S * 1.5) == b"xx"


async def test_an_answer_that_breaks_off_is_no_timeout(permit):
    async def breaks_off(reply: Reply) -> None:
        await reply.start_stream()
        await reply.chunk(b"one")
        reply.reset()

    with pytest.raises(UpstreamFailed) as failed:
        await answer(permit, breaks_off)
    assert failed.value.reason is Reason.UPSTREAM_TRUNCATED


async def test_an_answer_that_does_not_begin_is_given_up(permit):
    async def says_nothing(reply: Reply) -> None:
        await reply.until_closed()

    with pytest.raises(UpstreamFailed) as failed:
        await answer(permit, says_nothing, response_timeout_s=IDLE_S)
    assert failed.value.reason is Reason.UPSTREAM_TIMEOUT
