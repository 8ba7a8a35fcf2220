"""A model named inside the body travels as written (K1, K2): downgrades and other names."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from gateway.core.catalogue import CatalogueEntry
from gateway.core.decision import Effect
from gateway.core.facts import Wire
from gateway.core.reasons import Reason
from gateway.core.refusal import Refused
from gateway.proxy import refusals
from gateway.proxy.judging import Judged
from gateway.proxy.pipeline import Pipeline
from gateway.wire.request import read_request


def entry(model, **more):
    return CatalogueEntry(
        id=model,
        display_name=model,
        endpoint="main",
        wires=(Wire.MESSAGES,),
        stage="open",
        created_at="2026-01-01T00:00:00Z",
        restricted=False,
        **more,
    )


PLAIN, OTHER = entry("plain", aliases=("p",)), entry("other", aliases=("o",))
SAME = entry("same", upstream_model="same")
RENAMED = entry("renamed", aliases=("upstream-name",), upstream_model="upstream-name")
OF_NAME = {
    name: one for one in (PLAIN, OTHER, SAME, RENAMED) for name in (one.id, *one.aliases)
}  # fmt: skip


def served(model, *nested):
    judged = [
        Judged(name=name, entry=OF_NAME[name], facts=None, judgement=None)
        for name in dict.fromkeys((model, *nested))
    ]
    pipeline = object.__new__(Pipeline)
    pipeline.upstreams = {"main"}
    exchange = SimpleNamespace(
        wire=Wire.MESSAGES, parsed=SimpleNamespace(model=model, other_models=nested)
    )
    return pipeline._served_here(exchange, judged)


@pytest.mark.parametrize(
    ("names", "entry"),
    [
        (["plain"], PLAIN),
        (["p"], PLAIN),  # the top level is rewritten, so any name serves there
        (["renamed"], RENAMED),
        (["upstream-name"], RENAMED),
        (["plain", "plain"], PLAIN),
        (["same", "same"], SAME),
        (["p", "plain", "other"], PLAIN),
        (["renamed", "other"], RENAMED),
    ],
)
def test_k2_names_that_the_endpoint_knows_are_served(names, entry):
    assert served(*names) is entry


@pytest.mark.parametrize(
    "names",
    [
        ["plain", "p"],
        ["p", "p"],
        ["plain", "o"],
        ["plain", "other", "renamed"],
        ["renamed", "renamed"],
        ["upstream-name", "renamed"],
    ],
)
def test_k2_a_nested_name_that_is_not_the_endpoints_own_is_refused(names):
    with pytest.raises(Refused) as caught:
        served(*names)
    assert caught.value.refusal is refusals.NESTED_NAME
    assert caught.value.refusal.reason is Reason.REQUEST_INVALID
    assert len(refusals.NESTED_NAME.message) <= 100


@pytest.mark.parametrize(
    ("extra", "asked"),
    [
        ({}, [("denied",), ("plain",)]),  # the control: the substitute is asked about
        ({"fallbacks": [{"model": "denied"}]}, [("denied", "denied")]),
        ({"tools": [{"type": "advisor_20260301", "model": "denied"}]}, [("denied", "denied")]),
        ({"fallbacks": ["plain"]}, [("denied", "plain")]),
    ],
)
async def test_k2_a_body_that_names_any_model_twice_is_not_downgraded(extra, asked):
    body = json.dumps({"model": "denied", "max_tokens": 9, **extra}).encode()
    questions = []

    async def judge_all(_exchange, _action, names):
        questions.append(tuple(names))
        effect = Effect.DOWNGRADE if names[0] == "denied" else Effect.DENY
        decision = SimpleNamespace(effect=effect, model="plain")
        facts = SimpleNamespace(resource=SimpleNamespace(id=names[0]))
        judgement = SimpleNamespace(decision=decision, revision="r")
        return [Judged(name=names[0], entry=PLAIN, facts=facts, judgement=judgement)]

    pipeline = object.__new__(Pipeline)
    pipeline.judging = SimpleNamespace(judge_all=judge_all)
    exchange = SimpleNamespace(
        wire=Wire.MESSAGES, parsed=read_request(Wire.MESSAGES, body), waiting=nullcontext()
    )
    with pytest.raises(Refused) as caught:
        await pipeline.decide(exchange)
    assert caught.value.refusal.code == "downgrade_refused"
    assert questions == asked
