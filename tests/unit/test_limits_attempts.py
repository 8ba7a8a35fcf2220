"""The attempt guard: what it counts, whom it confuses, and what a flood costs its sender."""

from __future__ import annotations

import random

import pytest

from gateway.limits.attempts import AttemptGuard, source_prefix

SECOND_NS = 1_000_000_000


class Clock:
    ns = 0

    def __call__(self) -> int:
        return self.ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_source_is_held_up_after_its_burst_and_heard_again_in_time(clock: Clock) -> None:
    guard = AttemptGuard(clock_ns=clock)
    for _ in range(120):
        assert guard.check("192.0.2.1") == 0
        guard.count("192.0.2.1")
    assert guard.check("192.0.2.1") == 1
    assert guard.check("192.0.2.2") == 0
    clock.ns = SECOND_NS
    assert guard.check("192.0.2.1") == 0


def test_a_credential_is_held_up_wherever_it_comes_from(clock: Clock) -> None:
    guard = AttemptGuard(clock_ns=clock)
    for host in range(60):
        guard.count(f"192.0.2.{host}", "c0ffee")
    assert guard.check("198.51.100.1", "c0ffee") == 2
    assert guard.check("198.51.100.1", "decaf") == 0
    assert guard.check("198.51.100.1") == 0


def test_refusals_already_under_way_are_counted_beyond_the_burst(clock: Clock) -> None:
    guard = AttemptGuard(clock_ns=clock)
    for _ in range(500):
        guard.count("192.0.2.1")
    assert guard.check("192.0.2.1") == 500 - 120 + 1


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::1%eth1", True),
        ("", "not an address\0", True),
    ],
)
def test_prefixes(one: str, other: str, same: bool) -> None:
    assert (source_prefix(one) == source_prefix(other)) is same


def test_memory_is_bounded_and_drained_entries_go_first(clock: Clock) -> None:
    guard = AttemptGuard(clock_ns=clock, max_entries=100)
    for host in range(5_000):
        guard.count(f"10.0.{host // 256}.{host % 256}", f"{host:x}")
    assert len(guard) == 200
    clock.ns = 3_600 * SECOND_NS
    for host in range(100):
        guard.count(f"10.1.0.{host}")
    assert len(guard) <= 200


@pytest.mark.parametrize("each", [1, 7])
def test_a_flood_of_distinct_sources_does_not_hide_a_hot_offender(clock: Clock, each: int) -> None:
    guard = AttemptGuard(clock_ns=clock, max_entries=200)
    for _ in range(130):
        guard.count("192.0.2.1")
    order = [host for host in range(4_000) for _ in range(each)]
    random.Random(1).shuffle(order)
    for host in order:
        guard.count(f"10.0.{host // 256}.{host % 256}")
    assert guard.check("192.0.2.1") > 0


def test_the_flood_that_does_costs_what_the_bound_says(clock: Clock) -> None:
    """Negative control: as many sources as the table holds, each with a larger backlog."""
    guard = AttemptGuard(clock_ns=clock, max_entries=200)
    for _ in range(130):
        guard.count("192.0.2.1")
    for host in range(200):
        for _ in range(131):
            guard.count(f"10.0.0.{host}")
    assert guard.check("192.0.2.1") == 0


def test_no_address_is_kept(clock: Clock) -> None:
    guard = AttemptGuard(clock_ns=clock)
    guard.count("192.0.2.1")
    assert all(source_prefix("192.0.2.1") not in bytes(key) for key in guard._sources._tats)
