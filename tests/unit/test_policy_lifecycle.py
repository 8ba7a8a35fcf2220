"""The life of a revision: whatever goes wrong, the last good one stays (K35)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.core.decision import Decision, Effect
from gateway.core.protocols import EngineUnavailable, Revision
from gateway.policy.bundle import Bundle, BundleError
from gateway.policy.embedded import EmbeddedEngine
from gateway.policy.judge import encode_facts
from gateway.policy.lifecycle import Golden, Lifecycle, Stage, examine, read_golden
from tests.policy.small_bundle import MODELS, TESTS, rules, small_bundle, small_facts

FACTS = encode_facts(small_facts(cyber=2))
GOOD = {
    Effect.DENY: small_bundle(),
    Effect.ALLOW: small_bundle(models=MODELS.replace("cyber: 3", "cyber: 1")),
}
BAD = {
    "syntax": (small_bundle(rules="package sluicegate\n\nx if {\n"), Stage.CANDIDATE),
    "unknown function": (rules("r if crypto.md5(input.subject.id)"), Stage.CANDIDATE),
    "catalogue": (small_bundle(models=MODELS.replace("opus", "opsu", 1)), Stage.CANDIDATE),
    "failing test": (small_bundle(tests=TESTS + "\ntest_no if 1 == 2\n"), Stage.VERIFIED),
    "no test": (small_bundle(tests=None), Stage.VERIFIED),
    "golden": (
        small_bundle(
            rules=small_bundle().modules["sluicegate/decision.rego"].replace('"tier"', '"other"')
        ),
        Stage.VERIFIED,
    ),
    "slow": (
        rules("decision := {} if count([1 | some i in numbers.range(1, 200000)]) == 1"),
        Stage.VERIFIED,
    ),
}
GOLDEN = [
    Golden(
        "stranger",
        encode_facts(small_facts(cyber=0)),
        msgspec.convert(
            {
                "effect": "deny",
                "reasons": [
                    {"code": "tier", "rule": "tiers.insufficient", "message": "m", "remedy": "r"}
                ],
            },
            Decision,
        ),
    )
]


@pytest.mark.parametrize("name", BAD)
async def test_k35_a_bad_bundle_leaves_the_last_good_one(name: str) -> None:
    engine = EmbeddedEngine()
    life = Lifecycle(engine, golden=GOLDEN)
    good = small_bundle()
    first = await life.activate(good)
    assert (first.stage, first.findings, first.previous) == (Stage.ACTIVE, (), None)
    bad, stage = BAD[name]
    refused = await life.activate(bad)
    assert not refused.active
    assert (refused.stage, refused.revision, refused.previous) == (stage, bad.id, good.id)
    assert refused.findings
    assert "backtrace" not in str(refused.findings).lower()
    assert life.active == good
    assert life.last == refused
    assert life.underway is None
    assert engine.revision is not None
    assert engine.revision.id == good.id
    assert (await engine.decide(FACTS)).effect is Effect.DENY
    assert len(examine(bad, GOLDEN)) == len(refused.findings)


async def test_k35_nothing_is_ready_before_the_first_good_bundle() -> None:
    engine = EmbeddedEngine()
    life = Lifecycle(engine)
    assert not (await life.activate(BAD["syntax"][0])).active
    assert life.active is None
    assert not await engine.health()
    with pytest.raises(EngineUnavailable):
        await engine.decide(FACTS)


async def test_a_change_takes_effect_and_can_be_taken_back() -> None:
    engine = EmbeddedEngine()
    life = Lifecycle(engine)
    for effect in (Effect.DENY, Effect.ALLOW, Effect.DENY):
        assert (await life.activate(GOOD[effect])).active
        assert (await engine.decide(FACTS)).effect is effect


class Unwilling(EmbeddedEngine):
    """Adopts what it is allowed to."""

    def __init__(self, refuses: str) -> None:
        super().__init__()
        self.refuses = refuses

    async def adopt(self, bundle: Bundle, revision: Revision) -> None:
        if bundle.id == self.refuses:
            raise EngineUnavailable("it did not come in time")
        await super().adopt(bundle, revision)


async def test_an_archive_that_the_engine_did_not_take_is_published_no_longer() -> None:
    published: list[str] = []
    engine = Unwilling(GOOD[Effect.ALLOW].id)
    life = Lifecycle(engine, publish=lambda bundle: published.append(bundle.id))
    await life.activate(GOOD[Effect.DENY])
    refused = await life.activate(GOOD[Effect.ALLOW])
    assert (refused.stage, refused.findings) == (Stage.TESTED, ("it did not come in time",))
    assert published == [GOOD[Effect.DENY].id, GOOD[Effect.ALLOW].id, GOOD[Effect.DENY].id]
    assert life.active == GOOD[Effect.DENY]


async def test_activations_queue_and_decisions_go_on_meanwhile() -> None:
    engine = EmbeddedEngine()
    life = Lifecycle(engine)
    await life.activate(GOOD[Effect.DENY])
    attempts = [
        asyncio.create_task(life.activate(bundle))
        for bundle in (GOOD[Effect.ALLOW], BAD["syntax"][0], GOOD[Effect.DENY])
    ]
    seen = set()
    while not all(attempt.done() for attempt in attempts):
        decision = await engine.decide(FACTS)
        seen.add(decision.effect)
        if life.underway is not None:
            seen.add(life.underway[1])
        await asyncio.sleep(0)
    assert [attempt.result().active for attempt in attempts] == [True, False, True]
    assert attempts[2].result().previous == GOOD[Effect.ALLOW].id
    assert {Effect.ALLOW, Effect.DENY, Stage.CANDIDATE, Stage.VERIFIED} <= seen


def test_golden_cases_are_read_strictly(tmp_path: Path) -> None:
    case = {
        "name": "stranger",
        "facts": msgspec.json.decode(GOLDEN[0].facts),
        "decision": msgspec.to_builtins(GOLDEN[0].decision),
    }
    (tmp_path / "a.json").write_bytes(msgspec.json.encode(case))
    (tmp_path / "b.json").write_bytes(msgspec.json.encode([case, case]))
    assert [golden.decision for golden in read_golden(tmp_path)] == [GOLDEN[0].decision] * 3
    assert examine(small_bundle(), read_golden(tmp_path)) == []
    for bad in (b"{", b"{}", b"3", b'{"name":"x","facts":{},"decision":{"effect":"permit"}}'):
        (tmp_path / "c.json").write_bytes(bad)
        with pytest.raises(BundleError, match=r"c\.json"):
            read_golden(tmp_path)


class Life(RuleBasedStateMachine):
    """Any order of good and bad bundles: the engine always decides as the last good one."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = EmbeddedEngine()
        self.loop = asyncio.new_event_loop()
        self.life = Lifecycle(self.engine, golden=GOLDEN)
        self.good: Effect | None = None

    @rule(effect=st.sampled_from([Effect.DENY, Effect.ALLOW]))
    def activate_good(self, effect: Effect) -> None:
        activation = self.loop.run_until_complete(self.life.activate(GOOD[effect]))
        assert activation.active
        assert activation.previous == (GOOD[self.good].id if self.good else None)
        self.good = effect

    @rule(name=st.sampled_from(sorted(BAD)))
    def activate_bad(self, name: str) -> None:
        activation = self.loop.run_until_complete(self.life.activate(BAD[name][0]))
        assert activation.findings
        assert activation.stage is BAD[name][1]

    @invariant()
    def decides_as_the_last_good_one(self) -> None:
        if self.good is None:
            assert self.engine.revision is None
            return
        assert self.life.active == GOOD[self.good]
        assert self.engine.revision is not None
        assert self.engine.revision.id == GOOD[self.good].id
        decision = self.loop.run_until_complete(self.engine.decide(FACTS))
        assert decision.effect is self.good

    def teardown(self) -> None:
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=10, stateful_step_count=6, deadline=None)
