"""Answers to those who cause too many refusals are held; nobody else waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from gateway.limits.attempts import AttemptGuard
from gateway.proxy import pace as pacing
from gateway.proxy.pace import Pace

HOLD_S = 0.05


class Channel:
    """A client that may go away."""

    write_paused = False

    def __init__(self) -> None:
        self.lost: Callable[[], None] | None = None

    def on_lost(self, callback: Callable[[], None] | None) -> None:
        self.lost = callback


@pytest.fixture
def pace() -> Pace:
    guard = AttemptGuard(
        source_per_minute=1, source_burst=2, credential_per_minute=1, credential_burst=2
    )
    return Pace(guard, hold_s=HOLD_S)


async def held(pace: Pace, source: str | None = None, credential: str | None = None) -> bool:
    """Whether the answer had to wait."""
    loop = asyncio.get_running_loop()
    since = loop.time()
    assert await pace.hold(Channel(), source, credential)  # type: ignore[arg-type]
    return loop.time() - since >= HOLD_S / 2


async def test_only_the_sender_of_too_many_refusals_waits(pace):
    assert [await held(pace, None, "a") for _ in range(4)] == [False, False, True, True]
    assert not await held(pace, None, "b")
    assert [await held(pace, "192.0.2.1", "c") for _ in range(3)] == [False, False, True]
    assert await held(pace, "192.0.2.1", "d"), "another guess from the same source"
    assert not await held(pace, None, "e"), "a known caller behind the same address"


async def test_answers_held_together_do_not_come_back_together(pace):
    for _ in range(2):
        await held(pace, None, "a")
    loop = asyncio.get_running_loop()
    ended = []

    async def one() -> None:
        await held(pace, None, "a")
        ended.append(loop.time())

    await asyncio.gather(*(one() for _ in range(16)))
    assert max(ended) - min(ended) > HOLD_S / 2


async def test_a_client_that_goes_away_is_let_go_at_once():
    guard = AttemptGuard(credential_per_minute=1, credential_burst=1)
    slow = Pace(guard, hold_s=600)
    channel = Channel()
    assert await slow.hold(channel, None, "a")  # type: ignore[arg-type]
    waiting = asyncio.create_task(slow.hold(channel, None, "a"))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    assert channel.lost is not None
    channel.lost()
    assert await waiting is False


async def test_what_is_held_is_bounded(pace, monkeypatch):
    monkeypatch.setattr(pacing, "MAX_HELD", 3)
    for _ in range(2):
        await held(pace, None, "a")
    answers = await asyncio.gather(
        *(pace.hold(Channel(), None, "a") for _ in range(5))  # type: ignore[arg-type]
    )
    assert sorted(answers) == [False, False, True, True, True]
