"""The memo and the validity that bounds it."""

from __future__ import annotations

import operator
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.clock import parse_timestamp, timestamp
from gateway.core.decision import Decision, Effect
from gateway.core.facts import Facts
from gateway.policy.judge import encode_facts
from gateway.policy.memo import Memo, facts_without_time
from gateway.policy.validity import valid_until
from tests.policy.facts_factory import generate
from tests.policy.small_bundle import NOW, small_facts

NOON = parse_timestamp(NOW)
ALLOW = Decision(effect=Effect.ALLOW)


def end(now: int = NOON, expires_at: str | None = None, instants: tuple[int, ...] = (), **decision):
    facts = encode_facts(small_facts(time=timestamp(now), expires_at=expires_at))
    return valid_until(facts, now, instants, Decision(effect=Effect.ALLOW, **decision)) - now


def test_a_decision_holds_for_a_minute_at_most() -> None:
    assert end() == 60


@pytest.mark.parametrize(
    ("bounds", "seconds"),
    [
        ({"now": NOON + 3590}, 10),  # the calendar's next hour
        ({"expires_at": timestamp(NOON + 7)}, 7),
        ({"expires_at": timestamp(NOON)}, 1),  # a rule may write >, and change its mind after it
        ({"expires_at": timestamp(NOON - 1)}, 60),
        ({"instants": (NOON - 5, NOON + 9, NOON + 20)}, 9),
        ({"instants": (NOON,)}, 1),
        ({"instants": (NOON - 5,)}, 60),
        ({"valid_until": timestamp(NOON + 3)}, 3),
        ({"valid_until": timestamp(NOON + 300)}, 60),
        ({"valid_until": timestamp(NOON - 3)}, -3),
        ({"expires_at": timestamp(NOON + 7), "instants": (NOON + 5,)}, 5),
    ],
)
def test_the_earliest_boundary_ends_it(bounds: dict, seconds: int) -> None:
    assert end(**bounds) == seconds


def test_a_time_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="day is out of range|does not match"):
        end(expires_at="2026-11-31T00:00:00Z")


stamps = st.integers(NOON - 90, NOON + 90)
operators = st.sampled_from([operator.lt, operator.le, operator.gt, operator.ge])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(operators, stamps, st.booleans()), max_size=4), stamps)
def test_whatever_compares_times_decides_alike_until_then(
    rules: list[tuple[object, int, bool]], now: int
) -> None:
    def decides(at: int) -> tuple[bool, ...]:
        hour = timestamp(at)[11:13]
        return (*(rule(timestamp(at), timestamp(stamp)) for rule, stamp, _ in rules), hour)

    in_facts = [timestamp(stamp) for _, stamp, in_data in rules if not in_data]
    instants = sorted(stamp for _, stamp, in_data in rules if in_data)
    facts = encode_facts(small_facts(time=timestamp(now)))
    facts += b"".join(f'"{stamp}"'.encode() for stamp in in_facts)
    until = valid_until(facts, now, instants, ALLOW)
    assert now < until <= now + 60
    assert {decides(at) for at in range(now, int(until))} == {decides(now)}


def test_the_key_holds_everything_but_time_and_calendar() -> None:
    key = facts_without_time(encode_facts(small_facts()))
    later = small_facts(time=timestamp(NOON + 7200), hour=14)
    assert facts_without_time(encode_facts(later)) == key
    for other in (
        small_facts(cyber=2),
        small_facts(model="opus"),
        small_facts(expires_at=NOW),
        small_facts(clock="unsure"),
        small_facts(network={"labels": ["lab"], "country": "GB"}),
        small_facts(signals={"context": 1}),
        small_facts(budgets={"context": "low", "time": "ok", "clock": "spent"}),
    ):
        assert facts_without_time(encode_facts(other)) != key


def test_the_key_is_cut_where_the_time_is_whatever_the_facts() -> None:
    for document in generate(7, 300):
        raw = encode_facts(msgspec.convert(document, Facts))
        calendar = document["context"]["calendar"]
        cut = (
            f'"time":"{document["context"]["time"]}",'
            f'"calendar":{{"weekday":{calendar["weekday"]},"hour":{calendar["hour"]}}}'
        ).encode()
        assert facts_without_time(raw) == raw.replace(b'"context":{' + cut, b"")


def test_what_is_not_canonical_facts_has_no_key() -> None:
    with pytest.raises(ValueError, match="not found"):
        facts_without_time(b"{}")


def test_an_entry_answers_within_its_validity_only() -> None:
    memo: Memo[str] = Memo(4)
    scope = object()
    memo.put(b"k", scope, 100, 110.0, "v")
    assert memo.get(b"k", scope, 100) == "v"
    assert memo.get(b"k", scope, 109) == "v"
    assert memo.get(b"k", scope, 110) is None
    assert memo.get(b"k", scope, 99) is None  # the clock went back
    assert memo.get(b"k", object(), 105) is None  # another revision, or other directives
    assert memo.get(b"other", scope, 105) is None
    assert (memo.hits, memo.misses) == (2, 4)


def test_an_entry_that_is_over_is_not_kept() -> None:
    memo: Memo[str] = Memo(4)
    memo.put(b"k", memo, 100, 100.0, "v")
    assert len(memo) == 0


def test_the_memo_is_bounded_and_forgets_what_was_used_longest_ago() -> None:
    memo: Memo[int] = Memo(3)
    scope = object()
    for key in (b"a", b"b", b"c"):
        memo.put(key, scope, 0, 9.0, 1)
    memo.get(b"a", scope, 0)
    memo.put(b"d", scope, 0, 9.0, 1)
    assert [memo.get(key, scope, 0) for key in (b"a", b"b", b"c", b"d")] == [1, None, 1, 1]
    rng = random.Random(1)
    for _ in range(1000):
        memo.put(rng.randbytes(1), scope, 0, 9.0, 1)
        assert len(memo) <= 3
    memo.clear()
    assert len(memo) == 0
    nothing: Memo[int] = Memo(0)
    nothing.put(b"a", scope, 0, 9.0, 1)
    assert nothing.get(b"a", scope, 0) is None
