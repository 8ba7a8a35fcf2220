"""The OPA engine without an OPA: what its client may answer or raise (K26, K32)."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
import yaml
from opa_client.errors import PolicyNotFoundError

from gateway.core.decision import Effect
from gateway.core.protocols import EngineUnavailable
from gateway.policy.judge import encode_facts
from gateway.policy.opa import OpaEngine, opa_configuration
from gateway.policy.revision import revision_of
from tests.policy.small_bundle import MODELS, small_bundle, small_facts

FACTS = encode_facts(small_facts())
BUNDLE = small_bundle()
NEXT = small_bundle(models=MODELS + "# next\n")
ALLOW = {"effect": "allow"}


def answer(result: Any = ALLOW, revision: str = BUNDLE.id, **more: Any) -> dict[str, Any]:
    return {
        "result": result,
        "provenance": {"bundles": {"sluicegate": {"revision": revision}}},
        **more,
    }


class Client:
    """Stands in for AsyncOpaClient: answers, or raises, or hangs, as told."""

    def __init__(self) -> None:
        self.says: Any = answer()
        self.asked: list[tuple[Any, ...]] = []

    async def query_rule(self, facts: Any, package: str, rule: str, query_params: Any) -> Any:
        self.asked.append((facts, package, rule, query_params))
        says = self.says
        if callable(says):
            says = says()
        if isinstance(says, BaseException):
            raise says
        if says == "hang":
            await asyncio.sleep(3600)
        return says


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def started(**options: Any) -> tuple[OpaEngine, Client]:
    engine, client = OpaEngine(deadline_s=0.05, adopt_within_s=0.3, **options), Client()
    engine._client, engine._started = client, True
    await engine.adopt(BUNDLE, revision_of(BUNDLE))
    client.asked.clear()
    return engine, client


async def test_every_question_is_strict_and_of_a_constant_path() -> None:
    engine, client = await started()
    assert (await engine.decide(FACTS)).effect is Effect.ALLOW
    [(facts, package, rule, parameters)] = client.asked
    assert facts["resource"]["id"] == "mythos-5"
    assert (package, rule) == ("sluicegate", "decision")
    assert parameters == {"strict-builtin-errors": "true", "provenance": "true"}


def test_k32_the_client_neither_retries_nor_outlives_the_deadline() -> None:
    engine = OpaEngine()
    assert (engine._client.retries, engine._client.timeout) == (0, 0.25)


UNDEFINED = {key: value for key, value in answer().items() if key != "result"}


@pytest.mark.parametrize(
    "says",
    [
        {},
        UNDEFINED,
        answer(None),
        answer({}),
        answer([]),
        answer("<undefined>"),
        answer(True),
        answer({"effect": "permit"}),
        answer({"effect": "allow", "more": 1}),
        answer({"effect": "deny"}),
        answer(float("nan")),
        {"result": ALLOW},
        {"result": ALLOW, "provenance": {}},
        {"result": ALLOW, "provenance": {"bundles": {"other": {"revision": BUNDLE.id}}}},
        answer(revision=NEXT.id),
        answer(revision=""),
        [],
        "allow",
        None,
        7,
    ],
)
async def test_k26_an_answer_that_is_no_decision_is_none(says: Any) -> None:
    engine, client = await started()
    client.says = says
    with pytest.raises(EngineUnavailable):
        await engine.decide(FACTS)


@pytest.mark.parametrize(
    "error",
    [
        aiohttp.ClientConnectionError("canary"),
        aiohttp.ServerDisconnectedError("canary"),
        aiohttp.ClientPayloadError("canary"),
        aiohttp.ContentTypeError(None, (), message="canary"),  # type: ignore[arg-type]
        aiohttp.ClientResponseError(None, (), status=500, message="canary"),  # type: ignore[arg-type]
        PolicyNotFoundError("canary", "canary"),
        ConnectionResetError("canary"),
        TimeoutError("canary"),
        ValueError("canary"),
        KeyError("canary"),
        AttributeError("canary"),
        RuntimeError("canary"),
        "hang",
    ],
)
async def test_k32_every_foreign_error_becomes_ours_and_says_nothing_foreign(error: Any) -> None:
    engine, client = await started()
    client.says = error
    with pytest.raises(EngineUnavailable) as refusal:
        await engine.decide(FACTS)
    assert "canary" not in str(refusal.value)
    assert not await engine.health()


async def test_cancellation_is_not_swallowed() -> None:
    engine, client = await started()
    client.says = "hang"
    call = asyncio.create_task(engine.decide(FACTS))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_the_breaker_stops_asking_and_lets_one_call_find_out() -> None:
    clock = Time()
    engine, client = await started(monotonic=clock)
    client.says = aiohttp.ClientConnectionError()
    for _ in range(20):
        with pytest.raises(EngineUnavailable):
            await engine.decide(FACTS)
    assert len(client.asked) == 5
    clock.now = 1.1
    for _ in range(3):
        with pytest.raises(EngineUnavailable):
            await engine.decide(FACTS)
    assert len(client.asked) == 6
    clock.now, client.says = 2.3, answer()
    for _ in range(3):
        assert (await engine.decide(FACTS)).effect is Effect.ALLOW


async def test_one_callers_facts_do_not_open_the_breaker_for_others() -> None:
    engine, client = await started()
    client.says = aiohttp.ClientResponseError(None, (), status=500)  # type: ignore[arg-type]
    for _ in range(20):
        with pytest.raises(EngineUnavailable):
            await engine.decide(FACTS)
    client.says = answer()
    assert (await engine.decide(FACTS)).effect is Effect.ALLOW


async def test_the_first_answer_of_the_awaited_revision_makes_the_swap() -> None:
    engine, client = await started()
    adoption = asyncio.create_task(engine.adopt(NEXT, revision_of(NEXT)))
    await asyncio.sleep(0)
    assert (await engine.decide(FACTS)).effect is Effect.ALLOW  # OPA still has the one before
    client.says = answer(revision=NEXT.id)
    assert (await engine.decide(FACTS)).effect is Effect.ALLOW
    assert engine.revision is not None
    assert engine.revision.id == NEXT.id
    await adoption
    client.says = answer()
    with pytest.raises(EngineUnavailable, match="another revision"):
        await engine.decide(FACTS)


async def test_an_answer_overtaken_by_the_swap_is_asked_again() -> None:
    engine, client = await started()
    adoption = asyncio.create_task(engine.adopt(NEXT, revision_of(NEXT)))
    await asyncio.sleep(0)

    def late() -> dict[str, Any]:
        engine._revision, engine._awaited = engine._awaited, None
        client.says = answer(revision=NEXT.id)
        return answer()

    client.says = late
    client.asked.clear()
    assert (await engine.decide(FACTS)).effect is Effect.ALLOW
    assert len(client.asked) == 2
    await adoption


async def test_a_bundle_that_opa_does_not_take_leaves_the_one_before() -> None:
    engine, client = await started()
    with pytest.raises(EngineUnavailable, match=r"did not take .* within 0\.3 s"):
        await engine.adopt(NEXT, revision_of(NEXT))
    assert (await engine.decide(FACTS)).effect is Effect.ALLOW
    client.says = answer(revision=NEXT.id)  # it comes after all: nobody waits for it any more
    with pytest.raises(EngineUnavailable):
        await engine.decide(FACTS)
    with pytest.raises(EngineUnavailable, match="not of this bundle"):
        await engine.adopt(NEXT, revision_of(BUNDLE))


async def test_nothing_is_asked_before_start_and_after_close() -> None:
    engine = OpaEngine()
    with pytest.raises(EngineUnavailable):
        await engine.decide(FACTS)
    await engine.start()
    await engine.close()
    await engine.close()
    assert not await engine.health()
    assert engine.revision is None


def test_opas_configuration_names_bundle_key_and_polling() -> None:
    plain = yaml.safe_load(opa_configuration("http://127.0.0.1:8082"))
    assert plain["services"]["gateway"]["url"] == "http://127.0.0.1:8082"
    assert plain["bundles"]["sluicegate"]["resource"] == "bundles/sluicegate.tar.gz"
    assert "credentials" not in plain["services"]["gateway"]
    bearing = yaml.safe_load(opa_configuration("http://127.0.0.1:8082", token="t"))
    assert bearing["services"]["gateway"]["credentials"] == {"bearer": {"token": "t"}}
    assert "signing" not in plain["bundles"]["sluicegate"]
    signed = yaml.safe_load(opa_configuration("http://127.0.0.1:8082", verification_key="PEM\n"))
    assert signed["bundles"]["sluicegate"]["signing"] == {"keyid": "sluicegate"}
    assert signed["keys"] == {"sluicegate": {"algorithm": "ES256", "key": "PEM\n"}}
