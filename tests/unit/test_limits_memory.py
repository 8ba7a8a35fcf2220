"""The limiter of one process against a slow, exact model in fractions."""

from __future__ import annotations

from collections.abc import Coroutine
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, multiple, rule

from gateway.core.decision import LimitKey, LimitSpec
from gateway.core.protocols import LimiterUnavailable, Reservation
from gateway.core.refusal import LimitState
from gateway.limits.memory import MemoryLimiter, MemoryReservation

SECOND_NS = 1_000_000_000
TTL_S = 900
OWNERS = {"subject": "mem_1", "credential": "cred_1", "organisation": "org_1"}


def limit(name: str, key: str = "subject", rate: int = 60, burst: int = 10) -> LimitSpec:
    return LimitSpec(name=name, key=LimitKey(key), rate=rate, period_s=60, burst=burst)


# Rates that divide a minute of nanoseconds, so that the model and the interval agree exactly.
LIMITS = (
    limit("requests", "subject", 30, 4),
    limit("requests", "organisation", 60, 6),
    limit("input_tokens", "subject", 6_000, 500),
    limit("output_tokens", "organisation", 1_200, 300),
    limit("streams", "credential", 1, 2),
)


def now_or_never(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run what must not wait: nothing else can run in the middle of it."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the limiter of one process waited")


class Model:
    """A bucket as its level, filled by fractions of units: no TAT anywhere."""

    def __init__(self, spec: LimitSpec) -> None:
        self.spec = spec
        self.level = Fraction(spec.burst)
        self.at = 0
        self.leases: dict[object, int] = {}

    @property
    def per_ns(self) -> Fraction:
        return Fraction(self.spec.rate, self.spec.period_s * SECOND_NS)

    def advance(self, now: int) -> None:
        self.level = min(Fraction(self.spec.burst), self.level + (now - self.at) * self.per_ns)
        self.at = now
        self.leases = {name: end for name, end in self.leases.items() if end > now}

    def cost(self, amounts: dict[str, int]) -> int:
        return min(amounts[self.spec.kind], self.spec.burst)

    def fits(self, amounts: dict[str, int]) -> bool:
        if self.spec.kind == "streams":
            return not amounts["streams"] or len(self.leases) < self.spec.burst
        return not self.cost(amounts) or self.level >= self.cost(amounts)

    def agrees(self, state: LimitState, refused: int) -> None:
        if self.spec.kind == "streams":
            assert state.remaining == max(0, self.spec.burst - len(self.leases))
            return
        assert state.remaining == max(0, self.level // 1)
        reset = (self.spec.burst - self.level) / self.per_ns / SECOND_NS
        assert state.reset_s == pytest.approx(float(reset), abs=1e-6)
        retry = max(Fraction(0), refused - self.level) / self.per_ns / SECOND_NS if refused else 0
        assert state.retry_s == pytest.approx(float(retry), abs=1e-6)


class AgainstTheModel(RuleBasedStateMachine):
    running = Bundle("running")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.limiter = MemoryLimiter(ttl_s=TTL_S, clock_ns=lambda: self.now)
        self.models = {(spec.name, spec.key): Model(spec) for spec in LIMITS}

    def model(self, spec: LimitSpec) -> Model:
        model = self.models[spec.name, spec.key]
        model.advance(self.now)
        return model

    @rule(gap=st.integers(0, 20 * SECOND_NS) | st.integers(0, 2_000 * SECOND_NS))
    def time_passes(self, gap: int) -> None:
        self.now += gap

    @rule(
        target=running,
        limits=st.lists(st.sampled_from(LIMITS), unique_by=lambda s: (s.name, s.key), min_size=1),
        amounts=st.fixed_dictionaries(
            {
                "requests": st.integers(0, 2),
                "input_tokens": st.integers(0, 800),
                "output_tokens": st.integers(0, 400),
                "streams": st.integers(0, 1),
            }
        ),
    )
    def reserve(self, limits: list[LimitSpec], amounts: dict[str, int]) -> Any:
        answer = now_or_never(self.limiter.reserve(limits, OWNERS, amounts))
        models = [self.model(spec) for spec in limits]
        expected = all(model.fits(amounts) for model in models)
        assert isinstance(answer, MemoryReservation) == expected
        if not expected:
            for model, state in zip(models, answer, strict=True):
                model.agrees(state, model.cost(amounts))
                assert (state.retry_s > 0) == (not model.fits(amounts))
            return multiple()
        for model in models:
            if model.spec.kind != "streams":
                model.level -= model.cost(amounts)
            elif amounts["streams"]:
                model.leases[answer] = self.now + TTL_S * SECOND_NS
        for model, state in zip(models, answer.states, strict=True):
            model.agrees(state, 0)
        return [answer, limits, amounts, self.now + TTL_S * SECOND_NS]

    @rule(held=running)
    def renew(self, held: list[Any]) -> None:
        now_or_never(held[0].renew())
        held[3] = self.now + TTL_S * SECOND_NS
        for spec in held[1]:
            if spec.kind == "streams" and held[2]["streams"]:
                self.model(spec).leases[held[0]] = held[3]

    @rule(
        held=consumes(running),
        used=st.dictionaries(
            st.sampled_from(["input_tokens", "output_tokens"]), st.integers(0, 2_000)
        ),
    )
    def settle(self, held: list[Any], used: dict[str, int]) -> None:
        reservation, limits, amounts, expires = held
        now_or_never(reservation.settle(used))
        now_or_never(reservation.settle({"input_tokens": 0, "output_tokens": 0}))  # counts once
        for spec in limits:
            model = self.model(spec)
            model.leases.pop(reservation, None)
            if spec.kind in used and self.now < expires:
                returned = model.level + model.cost(amounts) - used[spec.kind]
                model.level = min(Fraction(spec.burst), returned)


TestAgainstTheModel = AgainstTheModel.TestCase
TestAgainstTheModel.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


class Clock:
    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        return self.ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limiter(clock: Clock) -> MemoryLimiter:
    return MemoryLimiter(clock_ns=clock)


async def taken(answer: Any) -> Reservation:
    assert isinstance(answer, MemoryReservation), answer
    return answer


async def test_k49_all_or_nothing_over_two_buckets(limiter: MemoryLimiter) -> None:
    wide, narrow = limit("requests", burst=10), limit("requests", "organisation", burst=1)
    await taken(await limiter.reserve((wide, narrow), OWNERS, {"requests": 1}))
    for order in ((wide, narrow), (narrow, wide)):
        refused = await limiter.reserve(order, OWNERS, {"requests": 1})
        assert {state.key: state.retry_s > 0 for state in refused} == {
            "subject": False,
            "organisation": True,
        }
        assert {state.key: state.remaining for state in refused} == {
            "subject": 9,
            "organisation": 0,
        }


async def test_k54_what_is_reserved_and_not_used_comes_back(limiter: MemoryLimiter) -> None:
    tokens = limit("output_tokens", burst=1_000)
    for used, left in ((0, 1_000), (400, 600), (600, 0)):
        held = await taken(await limiter.reserve((tokens,), OWNERS, {"output_tokens": 600}))
        await held.settle({"output_tokens": used})
        looked = await taken(await limiter.reserve((tokens,), OWNERS, {"output_tokens": 0}))
        assert looked.states[0].remaining == left
        await looked.settle({})


async def test_k52_the_overshoot_of_a_call_is_paid_by_the_next(
    limiter: MemoryLimiter, clock: Clock
) -> None:
    tokens = limit("output_tokens", rate=60, burst=100)
    held = await taken(await limiter.reserve((tokens,), OWNERS, {"output_tokens": 128_000}))
    assert held.states[0].remaining == 0
    await held.settle({"output_tokens": 130})
    refused = await limiter.reserve((tokens,), OWNERS, {"output_tokens": 1})
    assert isinstance(refused, tuple)
    assert refused[0].retry_s == 31
    clock.ns = 31 * SECOND_NS
    await taken(await limiter.reserve((tokens,), OWNERS, {"output_tokens": 1}))


async def test_a_stream_that_is_not_renewed_lapses(limiter: MemoryLimiter, clock: Clock) -> None:
    streams = limit("streams", burst=1)
    held = await taken(await limiter.reserve((streams,), OWNERS, {"streams": 1}))
    for minute in range(1, 40):
        clock.ns = minute * 60 * SECOND_NS
        await held.renew()
        assert not isinstance(
            await limiter.reserve((streams,), OWNERS, {"streams": 1}), MemoryReservation
        )
    clock.ns += TTL_S * SECOND_NS
    await taken(await limiter.reserve((streams,), OWNERS, {"streams": 1}))


async def test_tokens_of_a_reservation_that_lapsed_stay_charged(
    limiter: MemoryLimiter, clock: Clock
) -> None:
    tokens = limit("output_tokens", rate=1, burst=100)
    held = await taken(await limiter.reserve((tokens,), OWNERS, {"output_tokens": 100}))
    clock.ns = TTL_S * SECOND_NS
    await held.settle({"output_tokens": 0})
    looked = await taken(await limiter.reserve((tokens,), OWNERS, {"output_tokens": 0}))
    assert looked.states[0].remaining == TTL_S // 60


async def test_k57_idle_buckets_are_forgotten_and_full_memory_refuses(clock: Clock) -> None:
    limiter = MemoryLimiter(clock_ns=clock, max_buckets=100)
    limits = (limit("requests", rate=60), limit("streams"))
    for caller in range(1_000):
        clock.ns += SECOND_NS // 10  # so each has drained after ten more callers
        owners = {**OWNERS, "subject": f"mem_{caller}"}
        held = await taken(await limiter.reserve(limits, owners, {"requests": 1, "streams": 1}))
        await held.settle({})
    assert len(limiter) <= 60
    clock.ns += 10 * SECOND_NS
    for caller in range(50):  # the clock stands still: all of these stay
        await limiter.reserve(limits, {**OWNERS, "subject": f"new_{caller}"}, {})
    with pytest.raises(LimiterUnavailable):
        await limiter.reserve(limits, {**OWNERS, "subject": "one too many"}, {})
    await taken(await limiter.reserve(limits[:1], {**OWNERS, "subject": "new_1"}, {}))
    assert len(limiter) <= 100


async def test_limits_of_one_name_but_another_rate_share_their_bucket(
    limiter: MemoryLimiter,
) -> None:
    """A tier change must not hand out a fresh burst."""
    await taken(await limiter.reserve((limit("requests", rate=60, burst=5),), OWNERS, {}))
    again = await taken(await limiter.reserve((limit("requests", rate=120, burst=5),), OWNERS, {}))
    assert again.states[0].remaining == 2  # one second of backlog is two of the faster units
