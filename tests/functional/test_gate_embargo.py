"""Invariant 8: an embargoed model and one that does not exist are the same answer (K12).

On the wire: the same bytes but for date and request id. In time: 10,000 interleaved calls. And in
nothing else that a caller or a scrape can see.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from bisect import bisect_left, bisect_right

import httpx
import pytest
import pytest_asyncio

from tests.support.gate import running_gate
from tests.support.raw import Answer, call, connect, request
from tests.support.upstream import Upstream, chat_answer

pytestmark = pytest.mark.asyncio(loop_scope="module")

EMBARGOED = "mythos-6"
NONSENSE = ("mythos-7", "m", "no-such-model-" + "x" * 40, "weird model/☃")
SAID = [{"role": "user", "content": "hi"}]
EACH = 5_000
TOLERANCE = 0.02


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream():
    async def script(_received, reply):
        await reply.whole(chat_answer())

    server = Upstream(script)
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gate(tmp_path_factory, upstream):
    async with running_gate(tmp_path_factory.mktemp("gate"), upstream.url) as running:
        await running.member("red")
        await running.member("stranger", 0)
        await running.member("evaluator", roles=["evaluator"])
        yield running


def naming(wire: str, model: str) -> bytes:
    """A request that names the model, all else being allowed."""
    messages = {"model": "opus-4.8", "max_tokens": 5, "messages": SAID}
    target, body = {
        "chat": ("/v1/chat/completions", {"model": model, "messages": SAID}),
        "chat streamed": (
            "/v1/chat/completions",
            {"model": model, "messages": SAID, "stream": True},
        ),
        "chat models": (
            "/v1/chat/completions",
            {"model": "gpt-5.5", "messages": SAID, "models": ["gpt-5.5", model]},
        ),
        "responses": ("/v1/responses", {"model": model, "input": "hi"}),
        "embeddings": ("/v1/embeddings", {"model": model, "input": "hi"}),
        "messages": ("/v1/messages", {**messages, "model": model}),
        "messages beta": ("/v1/messages?beta=true", {**messages, "model": model, "stream": True}),
        "fallbacks": ("/v1/messages", {**messages, "fallbacks": [{"model": model}]}),
        "advisor": (
            "/v1/messages",
            {**messages, "tools": [{"type": "advisor_20260301", "name": "a", "model": model}]},
        ),
        "count_tokens": ("/v1/messages/count_tokens", {"model": model, "messages": SAID}),
    }[wire]
    return target, json.dumps(body).encode()


WIRES = (
    "chat", "chat streamed", "chat models", "responses", "embeddings", "messages", "messages beta",
    "fallbacks", "advisor", "count_tokens",
)  # fmt: skip


def told(answer: Answer) -> bytes:
    """Every byte of an answer, but for date and request id."""
    request_id = answer.header("request-id") or answer.header("x-request-id")
    raw = answer.raw.replace(request_id.encode(), b"<id>")
    return re.sub(rb"(?m)^date: [^\r]+", b"date: <date>", raw)


@pytest.mark.parametrize("name", ["red", "stranger"])
@pytest.mark.parametrize("wire", WIRES)
async def test_k12_embargoed_and_unknown_are_the_same_bytes(gate, upstream, wire, name):
    key = gate.keys[f"{name}-1"]
    before = len(upstream.received)
    hidden = await call(gate.port, *naming(wire, EMBARGOED), key=key)
    assert hidden.status == 404
    for model in NONSENSE:
        assert told(await call(gate.port, *naming(wire, model), key=key)) == told(hidden)
    assert b"decision" not in hidden.raw
    assert b"rule=" not in hidden.raw
    assert b"model=" not in hidden.raw
    assert b"ratelimit" not in hidden.raw.lower()
    assert EMBARGOED.encode() not in hidden.raw
    assert len(upstream.received) == before


async def test_k12_who_may_know_is_told_so_that_the_sameness_is_no_accident(gate):
    evaluator = gate.keys["evaluator-1"]
    seen = await call(gate.port, *naming("messages", EMBARGOED), key=evaluator)
    assert seen.status == 403
    assert EMBARGOED.encode() not in seen.raw
    unknown = await call(gate.port, *naming("messages", NONSENSE[0]), key=evaluator)
    assert unknown.status == 404


@pytest.mark.parametrize("headers", [{}, {"anthropic-version": "2023-06-01"}])
async def test_k12_the_model_routes_show_neither(gate, headers):
    key = gate.keys["red-1"]
    hidden = await call(gate.port, f"/v1/models/{EMBARGOED}", key=key, headers=headers)
    assert hidden.status == 404
    for model in NONSENSE[:3]:
        unknown = await call(gate.port, f"/v1/models/{model}", key=key, headers=headers)
        assert told(unknown) == told(hidden)
    listed = await call(gate.port, "/v1/models", key=key, headers=headers)
    assert listed.status == 200
    assert EMBARGOED.encode() not in listed.raw


async def test_k12_neither_metrics_nor_logs_name_it(gate):
    await call(gate.port, *naming("messages", EMBARGOED), key=gate.keys["red-1"])
    await call(gate.port, *naming("messages", "opus-4.8"), key=gate.keys["red-1"])
    await asyncio.sleep(1.2)  # a worker reports once a second
    async with httpx.AsyncClient() as client:
        metrics = (await client.get(f"{gate.ops_url}/metrics")).text
    assert EMBARGOED not in metrics
    assert 'model="opus-4.8"' in metrics
    found = re.findall(
        r'sluicegate_requests_total\{effect="model_not_found",model="(.*?)"', metrics
    )
    assert set(found) == {"other"}
    assert EMBARGOED not in gate.log()


async def test_k12_the_memo_remembers_neither(gate):
    """All unknown ids share their facts. Were the answer remembered, the first question after an
    unknown one would take longer for an id that is in the catalogue."""
    key = gate.keys["red-1"]
    for model in (NONSENSE[0], EMBARGOED) * 2:
        await call(gate.port, *naming("messages", model), key=key)
    denials = await gate.recorded("access.denied", 4, reason="model_not_found")
    judged = [record["decision"] for record in denials if "decision" in record]
    assert len(judged) >= 4
    assert not any(decision.get("memo") for decision in judged)


def auc(some: list[float], others: list[float]) -> float:
    """P(some > other) + P(some = other) / 2: the Mann-Whitney statistic over its maximum."""
    others = sorted(others)
    wins = sum(bisect_left(others, x) + bisect_right(others, x) for x in some)
    return wins / (2 * len(some) * len(others))


async def test_k12_time_tells_them_apart_no_better_than_a_coin(gate):
    key = gate.keys["red-1"]
    wanted = {
        model: request(*naming("messages", model), key=key) for model in (EMBARGOED, NONSENSE[0])
    }
    order = [EMBARGOED, NONSENSE[0]] * EACH
    random.Random(8).shuffle(order)
    times: dict[str, list[float]] = {model: [] for model in wanted}
    async with connect(gate.port) as connection:
        for model in order[:50]:
            await connection.send(wanted[model])
            await connection.answer()
        for model in order:
            begun = time.perf_counter()
            connection.writer.write(wanted[model])
            answer = await connection.answer()
            times[model].append(time.perf_counter() - begun)
            assert answer.status == 404
    hidden, unknown = times[EMBARGOED], times[NONSENSE[0]]
    assert len(hidden) == len(unknown) == EACH
    # The control: the same sample, with a tenth of a millisecond planted in one class, is told.
    assert auc([each + 0.000_1 for each in hidden], unknown) > 0.5 + TOLERANCE
    assert auc(hidden, [each + 0.000_1 for each in unknown]) < 0.5 - TOLERANCE
    assert auc(hidden, unknown) == pytest.approx(0.5, abs=TOLERANCE)
