"""The judge: one revision and one set of directives in each judgement, or none at all."""

from __future__ import annotations

import asyncio
import hashlib

import msgspec
import pytest

from gateway.core.clock import parse_timestamp, timestamp
from gateway.core.decision import Decision, Effect
from gateway.core.protocols import EngineUnavailable, Revision
from gateway.policy.bundle import Bundle
from gateway.policy.directives import Directive
from gateway.policy.embedded import EmbeddedEngine
from gateway.policy.findings import BundleError
from gateway.policy.judge import Judge, encode_facts
from gateway.policy.revision import revision_of
from tests.policy.small_bundle import MODELS, NOW, small_bundle, small_facts

NOON = parse_timestamp(NOW)
OPENED = small_bundle(models=MODELS.replace("cyber: 3", "cyber: 1"))


async def judge_with(bundle: Bundle | None = None) -> tuple[Judge, EmbeddedEngine]:
    engine = EmbeddedEngine()
    bundle = bundle or small_bundle()
    await engine.adopt(bundle, revision_of(bundle))
    return Judge(engine), engine


async def test_a_judgement_tells_how_it_came_about() -> None:
    judge, _ = await judge_with()
    facts = small_facts()
    judgement = await judge.judge(facts)
    assert judgement.decision.effect is Effect.ALLOW
    assert judgement.facts_json == encode_facts(facts)
    digest = hashlib.sha256(judgement.facts_json).hexdigest()
    assert judgement.input_digest == f"sha256:{digest}"
    assert judgement.revision == small_bundle().id
    assert judgement.valid_until == NOON + 60
    assert not judgement.memo
    assert judgement.eval_us > 0
    assert judgement.directives == ()


async def test_the_memo_answers_with_the_facts_that_were_evaluated() -> None:
    judge, _ = await judge_with()
    first = await judge.judge(small_facts())
    later = await judge.judge(small_facts(time=timestamp(NOON + 59)))
    assert later.memo
    assert later.eval_us == 0
    assert (later.decision, later.facts_json) == (first.decision, first.facts_json)
    assert (judge.memo.hits, judge.memo.misses) == (1, 1)
    assert not (await judge.judge(small_facts(time=timestamp(NOON + 60)))).memo
    assert not (await judge.judge(small_facts(cyber=1))).memo


async def test_k12_an_answer_that_hides_a_model_is_not_remembered() -> None:
    told = small_bundle().modules["sluicegate/decision.rego"]
    hidden = told.replace('"tier"', '"model_not_found"')
    judge, _ = await judge_with(small_bundle(rules=hidden))
    for _ in range(2):
        judgement = await judge.judge(small_facts(cyber=1))
        assert judgement.decision.hides
        assert not judgement.memo
    assert len(judge.memo) == 0
    assert not (await judge.judge(small_facts())).memo
    assert (await judge.judge(small_facts())).memo


async def test_a_clock_that_went_back_is_asked_anew() -> None:
    judge, _ = await judge_with()
    await judge.judge(small_facts())
    assert not (await judge.judge(small_facts(time=timestamp(NOON - 1)))).memo


async def test_an_expiry_is_obeyed_at_its_second() -> None:
    judge, _ = await judge_with()
    expiry = timestamp(NOON + 30)

    async def effect(at: int) -> Effect:
        facts = small_facts(time=timestamp(at), expires_at=expiry)
        return (await judge.judge(facts)).decision.effect

    effects = [await effect(NOON + second) for second in range(40)]
    assert effects == [Effect.ALLOW] * 30 + [Effect.DENY] * 10
    assert judge.memo.hits > 30


async def test_a_new_revision_is_asked_at_once() -> None:
    judge, engine = await judge_with()
    assert (await judge.judge(small_facts(cyber=2))).decision.effect is Effect.DENY
    await engine.adopt(OPENED, revision_of(OPENED))
    opened = await judge.judge(small_facts(cyber=2))
    assert opened.decision.effect is Effect.ALLOW
    assert opened.revision == OPENED.id
    assert judge.revision is not None
    assert judge.revision.id == OPENED.id


async def test_directives_are_in_force_at_once_and_gone_at_once() -> None:
    judge, _ = await judge_with()
    assert (await judge.judge(small_facts())).decision.effect is Effect.ALLOW
    judge.set_directives([Directive(id="stop", expression='input.resource.id == "mythos-5"')])
    cut = await judge.judge(small_facts())
    assert cut.decision.effect is Effect.DENY
    assert cut.decision.reasons[0].rule == "directive.stop"
    assert cut.directives == ("stop",)
    assert (await judge.judge(small_facts())).memo
    assert (await judge.judge(small_facts(model="opus"))).decision.effect is Effect.ALLOW
    with pytest.raises(BundleError):
        judge.set_directives([Directive(id="broken", expression="(")])
    assert (await judge.judge(small_facts())).decision.effect is Effect.DENY
    judge.set_directives([])
    assert (await judge.judge(small_facts())).decision.effect is Effect.ALLOW


async def test_nothing_is_judged_before_the_first_revision() -> None:
    with pytest.raises(EngineUnavailable):
        await Judge(EmbeddedEngine()).judge(small_facts())


async def test_k25_facts_that_a_struct_let_through_are_not_judged() -> None:
    judge, _ = await judge_with()
    facts = small_facts()
    network = msgspec.structs.replace(facts.context.network, country="10.0.0.1")
    context = msgspec.structs.replace(facts.context, network=network)
    with pytest.raises(EngineUnavailable, match="malformed"):
        await judge.judge(msgspec.structs.replace(facts, context=context))
    for stamp in ("2026-11-23T12:00:00z", "2026-13-23T12:00:00Z", "now"):
        context = msgspec.structs.replace(facts.context, time=stamp)
        with pytest.raises(EngineUnavailable, match="malformed"):
            await judge.judge(msgspec.structs.replace(facts, context=context))


class SlowEngine:
    """Decides only when told to, so that things can change meanwhile."""

    def __init__(self, *revisions: Revision) -> None:
        self.revisions = list(revisions)
        self.asked = 0

    @property
    def revision(self) -> Revision | None:
        return self.revisions[0]

    async def adopt(self, bundle: Bundle, revision: Revision) -> None: ...

    async def decide(self, _: bytes) -> Decision:
        self.asked += 1
        await asyncio.sleep(0)
        if len(self.revisions) > 1:
            self.revisions.pop(0)
        return Decision(effect=Effect.ALLOW)

    async def health(self) -> bool:
        return True


def revisions(count: int) -> list[Revision]:
    return [Revision(f"r{i}", {}, {}, {}, (), {}) for i in range(count)]


async def test_k35_a_swap_during_a_decision_is_decided_again() -> None:
    engine = SlowEngine(*revisions(2))
    judgement = await Judge(engine).judge(small_facts())
    assert judgement.revision == "r1"
    assert engine.asked == 2


async def test_k35_a_policy_that_never_stands_still_decides_nothing() -> None:
    with pytest.raises(EngineUnavailable, match="kept changing"):
        await Judge(SlowEngine(*revisions(9))).judge(small_facts())


async def test_directives_that_come_during_a_decision_apply_to_it() -> None:
    engine = SlowEngine(*revisions(1))
    judge = Judge(engine)
    call = asyncio.create_task(judge.judge(small_facts()))
    await asyncio.sleep(0)
    judge.set_directives([Directive(id="stop", expression="true")])
    assert (await call).decision.effect is Effect.DENY


async def test_engine_failures_pass_and_are_not_remembered() -> None:
    judge, engine = await judge_with(small_bundle(rules="package sluicegate\n\ndecision := 1\n"))
    for _ in range(2):
        with pytest.raises(EngineUnavailable):
            await judge.judge(small_facts())
    await engine.adopt(small_bundle(), revision_of(small_bundle()))
    assert (await judge.judge(small_facts())).decision.effect is Effect.ALLOW
