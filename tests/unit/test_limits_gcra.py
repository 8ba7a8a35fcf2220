"""The arithmetic of limits, the claims of a call, and the breaker."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.core.decision import LimitKey, LimitSpec
from gateway.limits.breaker import Breaker
from gateway.limits.claims import claims_of
from gateway.limits.gcra import (
    HORIZON_NS,
    SECOND_NS,
    Bucket,
    bucket_state,
    correct,
    stream_state,
)

T0 = 1_700_000_000 * SECOND_NS
OWNERS = {"subject": "mem_1", "credential": "cred_1", "organisation": "org_1"}
shapes = st.builds(
    Bucket.of,
    st.integers(1, 1_000_000_000),
    st.integers(1, 2_678_400),
    st.integers(1, 1_000_000_000),
)


def spec(name: str = "requests", rate: int = 60, period_s: int = 60, burst: int = 10) -> LimitSpec:
    return LimitSpec(name=name, key=LimitKey.SUBJECT, rate=rate, period_s=period_s, burst=burst)


@given(rate=st.integers(1, 10_000), period_s=st.integers(1, 86_400), burst=st.integers(1, 300))
@example(rate=3, period_s=1, burst=3)  # an interval that is no whole number of nanoseconds
def test_exactly_the_burst_fits_at_once(rate: int, period_s: int, burst: int) -> None:
    bucket, tat = Bucket.of(rate, period_s, burst), 0
    for left in range(burst, 0, -1):
        assert bucket.remaining(tat, T0) == left
        after = bucket.take(tat, T0, 1)
        assert after is not None
        tat = after
    assert bucket.remaining(tat, T0) == 0
    assert bucket.take(tat, T0, 1) is None
    wait = bucket.retry_ns(tat, T0, 1)
    assert bucket.take(tat, T0 + wait - 1, 1) is None
    assert bucket.take(tat, T0 + wait, 1) is not None


@given(
    rate=st.integers(1, 1_000_000),
    period_s=st.integers(1, 100_000),
    burst=st.integers(1, 1_000_000),
    steps=st.lists(st.tuples(st.integers(0, 10**12), st.integers(1, 1_000_000)), max_size=40),
)
def test_never_more_than_burst_and_rate_in_any_window(
    rate: int, period_s: int, burst: int, steps: list[tuple[int, int]]
) -> None:
    bucket, now, tat = Bucket.of(rate, period_s, burst), T0, 0
    admitted: list[tuple[int, int]] = []
    for gap, cost in steps:
        now += gap
        after = bucket.take(tat, now, min(cost, bucket.burst))
        if after is not None:
            tat = after
            admitted.append((now, min(cost, bucket.burst)))
    for first in range(len(admitted)):
        taken = 0
        for when, units in admitted[first:]:
            taken += units
            elapsed = Fraction(when - admitted[first][0], SECOND_NS)
            assert taken <= burst + elapsed * rate / period_s


@given(bucket=shapes)
def test_every_number_of_the_shared_store_is_exact_in_a_double(bucket: Bucket) -> None:
    assert bucket.burst >= 1
    assert bucket.burst_ns <= HORIZON_NS
    far = 4_102_444_800 * SECOND_NS  # the year 2100
    assert (correct(bucket, far, far, 2**63) // 1000) < 2**53


def test_debt_holds_up_later_calls_but_not_those_that_take_nothing() -> None:
    bucket = Bucket.of(60, 60, 10)
    tat = bucket.take(0, T0, 10)
    assert tat is not None
    tat = correct(bucket, tat, T0, 25)
    assert bucket.remaining(tat, T0) == 0
    assert bucket.retry_ns(tat, T0, 1) == 26 * SECOND_NS
    assert bucket.take(tat, T0, 0) == tat
    assert bucket.retry_ns(tat, T0, 0) == 0


def test_what_is_given_back_never_makes_more_than_a_full_bucket() -> None:
    bucket = Bucket.of(60, 60, 10)
    tat = bucket.take(0, T0, 4)
    assert tat is not None
    assert bucket.remaining(correct(bucket, tat, T0, -4), T0) == 10
    assert bucket.remaining(correct(bucket, tat, T0, -400), T0) == 10
    late = T0 + 100 * SECOND_NS
    assert correct(bucket, tat, late, -4) == late


def test_states_tell_what_the_bucket_does() -> None:
    state = bucket_state(spec(), Bucket.of(60, 60, 10), T0 + 9_500_000_000, T0, refused=3)
    assert (state.limit, state.remaining, state.reset_s, state.retry_s) == (10, 0, 9.5, 2.5)
    assert (state.rate, state.period_s, state.key, state.kind) == (60, 60, "subject", "requests")
    full = bucket_state(spec(), Bucket.of(60, 60, 10), 0, T0)
    assert (full.remaining, full.reset_s, full.retry_s) == (10, 0.0, 0.0)
    streams = stream_state(spec("streams", burst=2), 2, wanted=True)
    assert (streams.remaining, streams.retry_s) == (0, 1.0)
    assert stream_state(spec("streams", burst=2), 3).remaining == 0


def test_claims_name_one_slot_and_forget_no_limit() -> None:
    limits = (spec("requests.cyber"), spec("output_tokens"), spec("streams"))
    claims = claims_of(limits, OWNERS, {"output_tokens": 4_000})
    assert [claim.key for claim in claims] == [
        "sg:{org_1}:requests.cyber:subject:mem_1",
        "sg:{org_1}:output_tokens:subject:mem_1",
        "sg:{org_1}:streams:subject:mem_1",
    ]
    assert [claim.cost for claim in claims] == [1, 10, 1]  # unsaid, cut to the burst, unsaid
    assert claims_of(limits[2:], OWNERS, {"streams": 0})[0].cost == 0
    assert claims_of(limits[1:2], OWNERS, {})[0].cost == 0


@pytest.mark.parametrize("organisation", [{}, {"organisation": ""}, {"organisation": "a}b"}])
def test_owners_must_name_an_organisation(organisation: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="organisation"):
        claims_of((spec(),), {"subject": "mem_1", **organisation}, {})


def test_k53_zero_used_is_not_missing() -> None:
    claim = claims_of((spec("input_tokens"),), OWNERS, {"input_tokens": 7})[0]
    assert claim.correction({"input_tokens": 0}) == -7
    assert claim.correction({}) == 0
    assert claim.correction({"input_tokens": -5}) == -7
    assert claim.correction({"input_tokens": 19}) == 12


def test_k51_the_breaker_asks_one_call_at_a_time_while_open() -> None:
    now = 0.0
    breaker = Breaker(threshold=2, cooldown_s=1.0, clock=lambda: now)
    breaker.failure()
    assert breaker.allow()
    breaker.success()
    breaker.failure()
    assert breaker.closed
    breaker.failure()
    assert not breaker.closed
    assert not breaker.allow()
    now = 1.0
    assert [breaker.allow(), breaker.allow()] == [True, False]
    breaker.failure()
    now = 1.9
    assert not breaker.allow()
    now = 2.0
    assert breaker.allow()
    breaker.success()
    assert breaker.closed
    assert breaker.allow()
