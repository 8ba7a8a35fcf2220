"""The embedded engine's traps, each forced open once (K25-K28, K36)."""

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from gateway.core.decision import Effect
from gateway.core.facts import Facts, Timestamp
from gateway.core.protocols import EngineUnavailable
from gateway.policy import embedded
from gateway.policy.bundle import Bundle, BundleError, bundle_from_files
from gateway.policy.embedded import EmbeddedEngine, Interpreter, Undefined, run_tests
from gateway.policy.judge import encode_facts
from gateway.policy.revision import revision_of
from tests.policy.small_bundle import TESTS, rules, small_bundle, small_facts


async def engine_with(bundle: Bundle) -> EmbeddedEngine:
    engine = EmbeddedEngine()
    await engine.adopt(bundle, revision_of(bundle))
    return engine


def deciding(decision: str) -> Bundle:
    """A policy whose whole decision is this Rego term."""
    return small_bundle(rules=f"package sluicegate\n\ndecision := {decision}\n")


FACTS = encode_facts(small_facts())


async def test_decides() -> None:
    engine = await engine_with(small_bundle())
    assert (await engine.decide(FACTS)).effect is Effect.ALLOW
    denied = await engine.decide(encode_facts(small_facts(cyber=2)))
    assert denied.effect is Effect.DENY
    assert denied.reasons[0].rule == "tiers.insufficient"
    assert engine.revision is not None
    assert engine.revision.id == small_bundle().id
    assert await engine.health()


async def test_nothing_is_decided_before_the_first_policy() -> None:
    engine = EmbeddedEngine()
    assert engine.revision is None
    assert not await engine.health()
    with pytest.raises(EngineUnavailable, match="no policy"):
        await engine.decide(FACTS)


REASON = '[{"code": "c", "rule": "r", "message": "", "remedy": ""}]'


@pytest.mark.parametrize(
    "decision",
    [
        "input.nothing",
        '"<undefined>"',
        "null",
        "true",
        "[]",
        '"allow"',
        "{}",
        '{"effect": "permit"}',
        '{"effect": "Allow"}',
        '{"effect": true}',
        '{"effect": ["allow"]}',
        '{"effect": "allow", "admin": true}',
        '{"effect": "allow", "limits": {}}',
        '{"effect": "allow", "limits": [{"name": "requests"}]}',
        '{"effect": "allow", "valid_until": "2026-01-01"}',
        '{"effect": "allow", "model": "opus"}',
        '{"effect": "deny"}',
        f'{{"effect": "downgrade", "reasons": {REASON}}}',
    ],
)
async def test_k26_what_is_not_a_decision_is_no_decision(decision: str) -> None:
    engine = await engine_with(deciding(decision))
    with pytest.raises(EngineUnavailable):
        await engine.decide(FACTS)


async def test_k26_a_rule_conflict_is_no_decision() -> None:
    bundle = small_bundle(
        rules='package sluicegate\n\ndecision := {"effect": "allow"} if true\n\n'
        f'decision := {{"effect": "deny", "reasons": {REASON}}} if true\n'
    )
    engine = await engine_with(bundle)
    with pytest.raises(EngineUnavailable, match=r"failed at sluicegate/decision\.rego:\d"):
        await engine.decide(FACTS)


@pytest.mark.parametrize("bad", [b'{"subject"', b"", b"\xff", b"NaN", b"{} {}"])
async def test_k27_refused_input_is_never_answered_for_the_caller_before(bad: bytes) -> None:
    engine = await engine_with(small_bundle())
    assert (await engine.decide(FACTS)).effect is Effect.ALLOW
    for _ in range(2):
        with pytest.raises(EngineUnavailable):
            await engine.decide(bad)
    assert (await engine.decide(encode_facts(small_facts(cyber=0)))).effect is Effect.DENY


async def test_k27_the_trap_is_real_and_the_interpreter_is_spoilt() -> None:
    interpreter = Interpreter(small_bundle().modules, small_bundle().data)
    interpreter.set_input(FACTS)
    with pytest.raises(EngineUnavailable):
        interpreter.set_input(b"{")
    # What regorus itself would answer now is the decision about the caller before:
    assert "allow" in interpreter._engine.eval_rule_as_json(embedded.ENTRY_POINT)
    assert not interpreter.usable
    with pytest.raises(EngineUnavailable, match="spoilt"):
        interpreter.evaluate(embedded.ENTRY_POINT)


async def test_k28_another_thread_is_refused_without_a_panic() -> None:
    interpreter = Interpreter(small_bundle().modules, small_bundle().data)
    interpreter.set_input(FACTS)
    with ThreadPoolExecutor(1) as other, pytest.raises(EngineUnavailable, match="thread"):
        other.submit(interpreter.evaluate, embedded.ENTRY_POINT).result()
    assert "allow" in interpreter.evaluate(embedded.ENTRY_POINT)


async def test_k28_a_panic_is_no_decision_and_the_engine_is_made_anew() -> None:
    engine = await engine_with(small_bundle())
    with ThreadPoolExecutor(1) as other:
        bundle = small_bundle()
        foreign = other.submit(Interpreter, bundle.modules, bundle.data).result()
        home, foreign._thread = foreign._thread, threading.get_ident()
        # Past our check, so that regorus itself panics.
        engine._interpreter = foreign
        with pytest.raises(EngineUnavailable):
            await engine.decide(FACTS)
        assert not foreign.usable
        assert (await engine.decide(FACTS)).effect is Effect.ALLOW
        assert engine._interpreter is not foreign
        foreign._thread = home
        del foreign
        other.submit(embedded._HOME.engine).result()  # its own thread drops it


async def test_k28_the_collector_in_another_thread_drops_no_engine() -> None:
    interpreter = Interpreter(small_bundle().modules, small_bundle().data)
    native = id(interpreter._engine)
    held = len(embedded._HOME.engines)
    cycle: list[Any] = [interpreter]
    cycle.append(cycle)
    del interpreter, cycle
    with ThreadPoolExecutor(1) as other:
        other.submit(gc.collect).result()  # an unraisable error here would fail this test
    assert native in embedded._HOME.engines
    assert native in embedded._HOME.forsaken
    following = Interpreter({}, {})
    assert len(embedded._HOME.engines) <= held
    assert following.usable


async def test_k28_other_base_exceptions_are_not_taken_for_a_panic() -> None:
    class Stop:
        def set_input_json(self, _: str) -> None:
            raise KeyboardInterrupt

        def eval_rule_as_json(self, _: str) -> str:
            raise asyncio.CancelledError

    interpreter = Interpreter({}, {})
    interpreter._engine = Stop()
    with pytest.raises(KeyboardInterrupt):
        interpreter.set_input(b"{}")
    with pytest.raises(asyncio.CancelledError):
        interpreter.evaluate("data.a.b")


async def test_k36_errors_hold_neither_a_backtrace_nor_a_value_of_the_input() -> None:
    engine = await engine_with(
        rules('decision := {"effect": "allow"} if net.cidr_contains(input.context.clock, "::1")')
    )
    with pytest.raises(EngineUnavailable) as error:
        await engine.decide(encode_facts(small_facts()).replace(b'"ok"', b'"canary"'))
    assert str(error.value) == "evaluation failed at sluicegate/decision.rego:19"
    assert error.value.__cause__ is None
    assert error.value.__context__ is None


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ('net.cidr_contains("10.0.0.0/8", input.context.network.country)', '"10.0.0.1.2"'),
        ("regex.match(`^a`, input.context.network.country)", "7"),
        ("time.parse_rfc3339_ns(input.context.network.country) > 0", '"2026-02-30T00:00:00Z"'),
        ('split(input.context.network.country, ",")[0] == "x"', "[]"),
    ],
)
async def test_k25_a_builtin_error_does_not_open_a_deny_rule(expression: str, value: str) -> None:
    bundle = small_bundle(
        rules='package sluicegate\n\ndefault decision := {"effect": "allow"}\n\n'
        f'decision := {{"effect": "deny", "reasons": {REASON}}} if {expression}\n'
    )
    engine = await engine_with(bundle)
    malformed = FACTS.replace(b'"country":"GB"', f'"country":{value}'.encode())
    assert malformed != FACTS
    with pytest.raises(EngineUnavailable, match="evaluation failed"):
        await engine.decide(malformed)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"country":"GB"', b'"country":"10.0.0.1"'),
        (b'"country":"GB"', b'"country":7'),
        (b'"cyber":3', b'"cyber":"3"'),
        (b'"cyber":3', b'"cyber":3.5'),
        (b'"cyber":3', b'"cyber":99'),
        (b'"time":"2026-11-23T12:00:00Z"', b'"time":"2026-11-23t12:00:00z"'),
        (b'"time":"2026-11-23T12:00:00Z"', b'"time":"2026-11-23 12:00:00Z"'),
        (b'"time":"2026-11-23T12:00:00Z"', b'"time":"2026-11-23T12:00:00+00:00"'),
        (b'"id":"mythos-5"', b'"id":"mythos 5"'),
        (b'"clock":"ok"', b'"clock":"fine"'),
        (b'"sponsored":false', b'"sponsored":false,"admin":true'),
        (b'"residence":"GB",', b""),
    ],
)
def test_k25_malformed_facts_do_not_decode(old: bytes, new: bytes) -> None:
    assert FACTS.count(old) >= 1
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(FACTS.replace(old, new, 1), type=Facts)


@pytest.mark.parametrize(
    "stamp", ["2026-11-23T12:00:00z", "2026-11-23T12:00:00", "2026-11-23T12:00:00.0Z", ""]
)
def test_k31_only_one_spelling_is_a_timestamp(stamp: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(stamp, Timestamp)


async def test_a_bundle_that_does_not_load_leaves_the_one_before() -> None:
    engine = await engine_with(small_bundle())
    broken = small_bundle(rules="package sluicegate\n\nx if {\n")
    with pytest.raises(EngineUnavailable, match=r"decision\.rego:"):
        await engine.adopt(broken, revision_of(small_bundle()))
    assert (await engine.decide(FACTS)).effect is Effect.ALLOW


def test_undefined_is_told_from_a_value() -> None:
    interpreter = Interpreter({"a.rego": "package a\nx := input.y\n"}, {})
    interpreter.set_input(b"{}")
    with pytest.raises(Undefined):
        interpreter.evaluate("data.a.x")
    interpreter.set_input(b'{"y":null}')
    assert interpreter.evaluate("data.a.x") == "null"


def test_runs_the_bundles_own_tests() -> None:
    assert run_tests(small_bundle()) == []
    failing = TESTS + "\ntest_wrong if 1 == 2\n\ntest_false := false\n\ntest_error if abs(input)\n"
    failures = run_tests(small_bundle(tests=failing))
    assert [failure.partition(" failed")[0] for failure in failures] == [
        "sluicegate/decision_test.rego:11: test_error",
        "sluicegate/decision_test.rego:9: test_false",
        "sluicegate/decision_test.rego:7: test_wrong",
    ]
    assert "no test" in run_tests(small_bundle(tests=None))[0]
    assert "expecting" in run_tests(small_bundle(tests="package sluicegate_test\nx if {\n"))[0]


def test_two_modules_of_one_path_and_data_in_conflict_are_refused() -> None:
    with pytest.raises(BundleError):
        Interpreter({"a.rego": "package a\nx := \n"}, {})
    assert bundle_from_files({"a.rego": b"package a\n"}).modules == {"a.rego": "package a\n"}
