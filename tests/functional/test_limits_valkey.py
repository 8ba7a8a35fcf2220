"""The limiter of many processes on a real Valkey: accuracy, outages, cancellation, scripts."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.core.decision import LimitKey, LimitSpec
from gateway.core.protocols import LimiterUnavailable
from gateway.core.refusal import LimitState
from gateway.limits import redis as limits_redis
from gateway.limits import scripts
from gateway.limits.memory import MemoryLimiter
from gateway.limits.redis import RedisLimiter, RedisReservation, ScriptingUnavailable, connect

pytestmark = pytest.mark.needs("valkey")

ROOT = Path(__file__).resolve().parents[2]
OWNERS = {"subject": "mem_1", "credential": "cred_1", "organisation": "org_1"}
PATIENT_S = 5.0
"""A deadline for tests that are not about the deadline: the machine may be busy."""


def limit(
    name: str, key: str = "subject", rate: int = 60, period_s: int = 3_600, burst: int = 50
) -> LimitSpec:
    return LimitSpec(name=name, key=LimitKey(key), rate=rate, period_s=period_s, burst=burst)


@asynccontextmanager
async def limiter_on(url: str, **options: Any) -> AsyncIterator[RedisLimiter]:
    limiter = connect(url, **{"deadline_s": PATIENT_S, **options})
    try:
        await limiter.start()
        yield limiter
    finally:
        await limiter.aclose()


async def take(
    limiter: RedisLimiter, specs: Sequence[LimitSpec], **amounts: int
) -> RedisReservation:
    answer = await limiter.reserve(specs, OWNERS, amounts)
    assert isinstance(answer, RedisReservation), answer
    return answer


async def look(limiter: RedisLimiter, *specs: LimitSpec) -> Sequence[LimitState]:
    nothing = {"requests": 0, "streams": 0, "input_tokens": 0, "output_tokens": 0}
    held = await take(limiter, specs, **nothing)
    await held.settle({})
    return held.states


# The same answers as the limiter of one process, to the last nanosecond -----------------------

LIMITS = (
    limit("requests", "subject", 7, 60, 4),
    limit("requests", "organisation", 61, 60, 6),
    limit("input_tokens", "subject", 999_983, 60, 5_000),
    limit("input_tokens.fast", "credential", 2_000_000, 1, 9),  # half a microsecond for each
    limit("output_tokens", "organisation", 1_201, 60, 300),
    limit("streams", "credential", 1, 60, 2),
)


def random_plan(random_: random.Random, length: int) -> list[Any]:
    def one() -> Any:
        match random_.randrange(8):
            case 0 | 1:
                return ("wait", random_.choice((0, 1, 2, 1_000, 10_000_000, 100_000_000)))
            case 2 | 3:
                used = {"output_tokens": random_.choice((0, 7, 300, 5_000, 2**60))}
                used["input_tokens"] = random_.choice((0, 1, 2, 3, 900, 20_000))
                return ("settle", random_.randrange(6), used)
            case 4:
                return ("renew", random_.randrange(6))
        amounts = {
            "requests": random_.randrange(3),
            "input_tokens": random_.choice((0, 1, 2, 3, 700, 9_000)),
            "output_tokens": random_.choice((0, 1, 150, 400)),
            "streams": random_.randrange(2),
        }
        return ("reserve", random_.sample(LIMITS, random_.randint(1, 3)), amounts)

    return [one() for _ in range(length)]


async def test_both_limiters_give_the_same_numbers(
    valkey_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the clock of the store in the test's hands, through the same scripts otherwise."""
    clock = "local time = {redis.call('HGET', 'clock', 's'), redis.call('HGET', 'clock', 'us')}"
    for name in ("RESERVE", "SETTLE", "RENEW"):
        source = getattr(scripts, name).replace("local time = redis.call('TIME')", clock)
        assert "'TIME'" not in source
        monkeypatch.setattr(scripts, name, source)
    random_ = random.Random(54)
    for _ in range(40):
        await _compare(valkey_server.url, random_plan(random_, 60))


async def _compare(url: str, plan: list[Any]) -> None:
    now_us = 1_800_000_000_000_000
    admin = Redis.from_url(url)
    ttl_s = 10_000_000  # expiry by the real clock is another test's subject
    local = MemoryLimiter(ttl_s=ttl_s, clock_ns=lambda: now_us * 1_000)
    remote = connect(url, deadline_s=PATIENT_S, ttl_s=ttl_s)
    held: list[tuple[Any, Any]] = []
    try:
        await admin.flushdb()
        for step in plan:
            now_us += step[1] if step[0] == "wait" else 0
            seconds, fraction = divmod(now_us, 1_000_000)
            await admin.hset("clock", mapping={"s": seconds, "us": fraction})
            if step[0] == "reserve":
                one = await local.reserve(step[1], OWNERS, step[2])
                other = await remote.reserve(step[1], OWNERS, step[2])
                if isinstance(other, RedisReservation):
                    assert one.states == other.states
                    held.append((one, other))
                else:
                    assert one == other
            elif step[0] == "settle" and step[1] < len(held):
                one, other = held[-step[1]]
                await one.settle(step[2])
                call = other._settlement(step[2])
                await remote.settle(call)
                await other.settle(step[2])  # a retry: the store counts it once
            elif step[0] == "renew" and step[1] < len(held):
                for reservation in held[-step[1]]:
                    await reservation.renew()
        assert remote.owed == 0
    finally:
        await remote.aclose()
        await admin.aclose()


# Accuracy across processes ------------------------------------------------------------------

WORKER = """
import asyncio, sys
from gateway.core.decision import LimitKey, LimitSpec
from gateway.limits.redis import RedisReservation, connect

async def main():
    limiter = connect(sys.argv[1], deadline_s=60)
    await limiter.start()
    print("ready", flush=True)
    sys.stdin.readline()
    spec = LimitSpec(name="requests", key=LimitKey.SUBJECT, rate=1, period_s=3600, burst=50)
    other = LimitSpec(name="streams", key=LimitKey.ORGANISATION, rate=1, period_s=1, burst=1000)
    owners = {"subject": "mem_1", "credential": "c", "organisation": "org_1"}
    answers = await asyncio.gather(
        *(limiter.reserve((other, spec), owners, {"requests": 1}) for _ in range(500)))
    print(sum(isinstance(answer, RedisReservation) for answer in answers), flush=True)
    await limiter.aclose()

asyncio.run(main())
"""


async def test_k50_three_processes_admit_exactly_the_burst(valkey_server: Any) -> None:
    workers = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", WORKER, valkey_server.url),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        for _ in range(3)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert await worker.stdout.readline() == b"ready\n"
    answers = await asyncio.gather(*(worker.communicate(b"go\n") for worker in workers))
    admitted = [int(answer) for answer, _ in answers]
    assert all(worker.returncode == 0 for worker in workers)
    assert sum(admitted) == 50
    async with limiter_on(valkey_server.url) as limiter:
        # The refused calls took nothing from the other limit.
        assert (await look(limiter, limit("streams", "organisation", burst=1_000)))[
            0
        ].remaining == 950


async def test_k54_reservations_conserve(valkey_server: Any) -> None:
    specs = (limit("output_tokens", rate=1, burst=100_000), limit("streams", burst=100))
    random_ = random.Random(7)

    async def call(limiter: RedisLimiter) -> int:
        held = await take(limiter, specs, output_tokens=random_.randint(0, 900))
        used = random_.randint(0, 900)
        await held.settle({"output_tokens": used})
        await held.settle({"output_tokens": 0})  # a second settlement counts for nothing
        return used

    async with limiter_on(valkey_server.url) as limiter:
        used = sum(await asyncio.gather(*(call(limiter) for _ in range(100))))
        tokens, streams = await look(limiter, *specs)
    assert (tokens.remaining, streams.remaining) == (100_000 - used, 100)


async def test_settlement_is_idempotent_where_it_counts(valkey_server: Any) -> None:
    """Sent twice by a retry: once; sent before its reservation arrives: that takes nothing."""
    spec = limit("output_tokens", burst=1_000)
    async with limiter_on(valkey_server.url) as limiter:
        held = await take(limiter, (spec,), output_tokens=600)
        call = held._settlement({"output_tokens": 100})
        await limiter.settle(call)
        await limiter.settle(call)
        assert (await look(limiter, spec))[0].remaining == 900
        run = limiter._run

        async def overtaken(reserve: Any) -> Any:
            await run(limits_redis._Call(scripts.SETTLE, reserve.keys[:1], reserve.args[:1]))
            return await run(reserve)

        limiter._run = overtaken  # type: ignore[method-assign]
        refused = await limiter.reserve((spec,), OWNERS, {"output_tokens": 600})
        limiter._run = run  # type: ignore[method-assign]
        assert not isinstance(refused, RedisReservation)
        assert (await look(limiter, spec))[0].remaining == 900


async def test_a_lease_that_is_not_renewed_lapses(valkey_server: Any) -> None:
    spec = limit("streams", burst=1)
    async with limiter_on(valkey_server.url, ttl_s=1) as limiter:
        held = await take(limiter, (spec,))
        for _ in range(4):
            await asyncio.sleep(0.4)
            await held.renew()
            assert (await look(limiter, spec))[0].remaining == 0
        await asyncio.sleep(1.1)
        await take(limiter, (spec,))


async def test_idle_keys_expire(valkey_server: Any) -> None:
    async with limiter_on(valkey_server.url, ttl_s=1) as limiter:
        held = await take(limiter, (limit("requests", rate=1_000, period_s=1), limit("streams")))
        assert held.states[0].remaining == 49
        keys = valkey_server.command("DBSIZE")
        assert keys != b":0\r\n"
        admin = Redis.from_url(valkey_server.url)
        assert [key async for key in admin.scan_iter() if await admin.ttl(key) < 0] == []
        await admin.aclose()


# Outages -----------------------------------------------------------------------------------


async def test_k51_a_killed_store_is_unavailable_and_a_restarted_one_recovers(
    valkey_server: Any,
) -> None:
    spec = limit("requests")
    async with limiter_on(valkey_server.url, deadline_s=0.3) as limiter:
        held = await take(limiter, (spec, limit("streams")))
        valkey_server.kill()
        for _ in range(20):
            before = time.monotonic()
            with pytest.raises(LimiterUnavailable) as caught:
                await limiter.reserve((spec,), OWNERS, {})
            assert time.monotonic() - before < 1
            assert "127.0.0.1" not in str(caught.value)
            assert caught.value.__cause__ is None
        assert not limiter.available
        await held.settle({})  # never raises
        valkey_server.start()
        await recovered(limiter, spec)
        await nothing_owed(limiter)


async def recovered(limiter: RedisLimiter, spec: LimitSpec) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                await take(limiter, (spec,))
            except LimiterUnavailable:
                await asyncio.sleep(0.05)
            else:
                return


async def nothing_owed(limiter: RedisLimiter) -> None:
    async with asyncio.timeout(10):
        while limiter.owed:  # noqa: ASYNC110 - a test looks from outside
            await asyncio.sleep(0.02)


async def test_k51_a_paused_store_costs_the_deadline_then_nothing(valkey_server: Any) -> None:
    assert limits_redis.DEADLINE_S == 0.1
    spec, streams = limit("requests"), limit("streams")
    async with limiter_on(valkey_server.url, deadline_s=0.3) as limiter:
        held = await take(limiter, (spec, streams))
        valkey_server.pause()
        messages = []
        for _ in range(6):
            with pytest.raises(LimiterUnavailable) as caught:
                await limiter.reserve((spec, streams), OWNERS, {})
            messages.append(str(caught.value))
        assert messages[:3] == ["no answer within 0.3 s"] * 3
        assert "the store did not answer before" in messages[3:]
        await held.settle({})
        valkey_server.resume()
        await recovered(limiter, spec)
        await nothing_owed(limiter)
        # What the paused store took after all was given back, and the stream with it.
        requests, running = await look(limiter, spec, streams)
        assert running.remaining == 50
        assert requests.remaining == 48


# Cancellation ------------------------------------------------------------------------------


async def test_k46_random_cancellation_mixes_up_no_replies(valkey_server: Any) -> None:
    """Every caller's limit has a burst of its own, so another's reply would show."""
    random_ = random.Random(46)
    wrong: list[LimitState] = []
    cancelled = answered = 0

    async def call(limiter: RedisLimiter, number: int) -> None:
        spec = limit("requests", burst=100 + number)
        owners = {**OWNERS, "subject": f"mem_{number}", "organisation": f"org_{number}"}
        for used in range(1, 4):
            held = await limiter.reserve((spec,), owners, {"requests": 1})
            assert isinstance(held, RedisReservation)
            if (held.states[0].limit, held.states[0].remaining) != (
                100 + number,
                spec.burst - used,
            ):
                wrong.append(held.states[0])
            await held.renew()

    async with limiter_on(valkey_server.url, max_connections=8) as limiter:
        for batch in range(12):
            tasks = [
                asyncio.create_task(call(limiter, 100 * batch + number)) for number in range(60)
            ]
            for task in random_.sample(tasks, 40):
                await asyncio.sleep(random_.random() * 0.001)
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            cancelled += sum(isinstance(result, asyncio.CancelledError) for result in results)
            answered += results.count(None)
            faults = [r for r in results if isinstance(r, Exception)]
            assert faults == []
        assert wrong == []
        assert cancelled > 100, "the test must cancel calls under way"
        assert answered >= 12 * 20
        await nothing_owed(limiter)
        pool = limiter._client.connection_pool
        assert not pool._in_use_connections
        assert len(pool._available_connections) <= 9


async def test_k46_a_cancelled_call_gives_back_what_it_took(valkey_server: Any) -> None:
    specs = (limit("requests", burst=1_000), limit("streams", burst=1_000))
    random_ = random.Random(4)
    async with limiter_on(valkey_server.url, max_connections=8) as limiter:
        tasks = [asyncio.create_task(take(limiter, specs)) for _ in range(200)]
        for task in random_.sample(tasks, 100):
            await asyncio.sleep(random_.random() * 0.0005)
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        kept = sum(isinstance(result, RedisReservation) for result in results)
        assert kept < 200
        await nothing_owed(limiter)
        assert [state.remaining for state in await look(limiter, *specs)] == [1_000 - kept] * 2


# Start, cluster, secrets -------------------------------------------------------------------


async def test_k50_a_store_that_blocks_scripts_is_refused_at_start(valkey_server: Any) -> None:
    rules = "on >secret-word ~sg:* +@all"
    for user, blocked in (("noscript", "-@scripting"), ("notime", "-time"), ("nozadd", "-zadd")):
        assert valkey_server.command(f"ACL SETUSER {user} {rules} {blocked}") == b"+OK\r\n"
        limiter = connect(
            f"redis://{user}:secret-word@127.0.0.1:{valkey_server.port}", deadline_s=PATIENT_S
        )
        with pytest.raises(ScriptingUnavailable) as caught:
            await limiter.start()
        assert "secret-word" not in str(caught.value)
        assert "EVALSHA" in str(caught.value)
        await limiter.aclose()


async def test_the_commands_that_the_refusal_names_are_enough(valkey_server: Any) -> None:
    named = "evalsha script|load time get set del exists pexpire zadd zrem zcard zremrangebyscore"
    allowed = " ".join(f"+{command}" for command in named.split())
    answer = valkey_server.command(f"ACL SETUSER least on >secret-word ~sg:* -@all {allowed}")
    assert answer == b"+OK\r\n"
    async with limiter_on(f"redis://least:secret-word@127.0.0.1:{valkey_server.port}") as limiter:
        held = await take(limiter, LIMITS, output_tokens=5)
        await held.renew()
        await held.settle({"output_tokens": 3})
        assert limiter.owed == 0


async def test_scripts_that_the_store_forgot_are_loaded_again(valkey_server: Any) -> None:
    async with limiter_on(valkey_server.url) as limiter:
        assert valkey_server.command("SCRIPT FLUSH") == b"+OK\r\n"
        await take(limiter, LIMITS)


async def test_an_absent_store_at_start_is_unavailable_not_misconfigured(free_port: int) -> None:
    limiter = connect(f"redis://:secret-word@127.0.0.1:{free_port}")
    with pytest.raises(LimiterUnavailable) as caught:
        await limiter.start()
    assert "secret-word" not in str(caught.value)
    await limiter.aclose()


def test_a_bad_url_is_refused_without_showing_it() -> None:
    for url in ("http://user:secret-word@host", "redis://user:secret-word@host:port/0"):
        with pytest.raises(ValueError, match="redis://") as caught:
            connect(url)
        assert "secret-word" not in str(caught.value)


async def test_all_keys_of_a_call_lie_in_one_slot_of_a_cluster(
    valkey_factory: Callable[..., Any],
) -> None:
    server = valkey_factory("--cluster-enabled", "yes")
    assert server.command("CLUSTER ADDSLOTSRANGE 0 16383") == b"+OK\r\n"
    async with asyncio.timeout(10):
        while b"cluster_state:ok" not in server.command("CLUSTER INFO"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    url = server.url.replace("redis://", "redis+cluster://").removesuffix("/0")
    async with limiter_on(url) as limiter:
        held = await take(limiter, LIMITS, output_tokens=5)
        await held.renew()
        await held.settle({"output_tokens": 2})
        assert limiter.owed == 0
        states = await look(limiter, *LIMITS)
        assert [state.remaining for state in states][4:] == [298, 2]
        server.kill()
        with pytest.raises(LimiterUnavailable):
            await limiter.reserve(LIMITS, OWNERS, {})
