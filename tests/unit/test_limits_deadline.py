"""The limit store's deadline counts the store's time, not our own loop's."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager

import pytest

from gateway.limits.redis import _answer_within


async def test_k51_a_silent_store_is_given_up_at_the_deadline():
    loop = asyncio.get_running_loop()
    since = loop.time()
    with pytest.raises(TimeoutError):
        async with _answer_within(0.05):
            await asyncio.sleep(60)
    assert 0.05 <= loop.time() - since < 5


async def answered(deadline: AbstractAsyncContextManager[object]) -> bool:
    """Whether an answer is taken that came in time, but while the loop was busy for longer."""
    loop = asyncio.get_running_loop()
    answer = loop.create_future()
    loop.call_soon(time.sleep, 0.2)
    loop.call_later(0.01, answer.set_result, None)
    try:
        async with deadline:
            await answer
    except TimeoutError:
        return False
    return True


async def test_a_busy_loop_is_not_held_against_the_store():
    assert await answered(_answer_within(0.05))
    assert not await answered(asyncio.timeout(0.05)), "control: the plain deadline gives it up"
