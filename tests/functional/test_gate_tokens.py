"""JWT access tokens (RFC 9068) of a configured issuer, through the whole gate."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

from tests.support.gate import Gate, running_gate
from tests.support.upstream import Received, Reply, Upstream, message

pytestmark = pytest.mark.asyncio(loop_scope="module")
ISSUER = "https://login.acme.example"
AUDIENCE = "https://gate.acme.example"


class Idp:
    """The organisation's issuer: a key set on loopback, and tokens."""

    def __init__(self) -> None:
        self.key = ECKey.generate_key("P-256", {"kid": "k1", "alg": "ES256", "use": "sig"})
        self.fetches = 0

    async def start(self) -> str:
        async def serve(_request: web.Request) -> web.Response:
            self.fetches += 1
            return web.json_response(KeySet([self.key]).as_dict(private=False))

        app = web.Application()
        app.router.add_get("/jwks", serve)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        port = self.runner.addresses[0][1]
        return f"http://127.0.0.1:{port}/jwks"

    def token(self, key: ECKey | None = None, **claims: Any) -> str:
        now = int(time.time())
        header = {"alg": "ES256", "kid": "k1", "typ": "at+jwt"}
        about = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "rhea@acme",
            "client_id": "cli",
            "jti": f"j{now}",
            "iat": now,
            "exp": now + 300,
            "auth_time": now,
            "amr": ["pwd", "mfa"],
            **claims,
        }
        return jwt.encode(header, about, key or self.key)


async def script(_request: Received, reply: Reply) -> None:
    await reply.whole(json.dumps(message()).encode())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory) -> AsyncIterator[tuple[Gate, Idp]]:
    upstream, idp = Upstream(script), Idp()
    await upstream.start()
    jwks = await idp.start()
    directory = tmp_path_factory.mktemp("tokens")
    settings = {"egress": {"allowed_networks": ["127.0.0.0/8"]}}
    async with running_gate(directory, upstream.url, **settings) as gate:
        await gate.organisation(id="other", name="Other")
        await gate.member("rhea", external_id="rhea@acme")
        await gate.member("bo", organisation="other", external_id="rhea@acme")
        await gate.change(
            {
                "change": "add",
                "kind": "issuer",
                "fields": {
                    "id": "acme-login",
                    "organisation": "acme",
                    "issuer": ISSUER,
                    "jwks_uri": jwks,
                    "audience": AUDIENCE,
                    "algorithms": ["ES256"],
                },
            }
        )
        yield gate, idp
    await idp.runner.cleanup()
    await upstream.stop()


async def call(gate: Gate, token: str, model: str = "mythos-5") -> tuple[int, dict]:
    body = {"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    headers = {"authorization": f"Bearer {token}", "anthropic-version": "2023-06-01"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(gate.url + "/v1/messages", json=body, headers=headers) as answer,
    ):
        return answer.status, await answer.json()


async def test_a_token_of_the_organisations_issuer_speaks_for_its_member_and_for_no_other(place):
    gate, idp = place
    status, _ = await call(gate, idp.token())
    assert status == 200
    (intent,) = await gate.recorded("access.intent")
    assert intent["subject"]["id"] == "rhea"
    assert intent["subject"]["cred_kind"] == "jwt"
    assert intent["subject"]["credential"].startswith("acme-login:")


async def test_claims_narrow_and_never_grant(place):
    gate, idp = place
    status, told = await call(gate, idp.token(sluicegate_tiers={"cyber": 1}))
    assert status == 403
    assert "needs cyber 3, has 1" in told["error"]["message"]
    await gate.set("member", "rhea", tiers={"cyber": 2})
    status, told = await call(gate, idp.token(sluicegate_tiers={"cyber": 3}))
    assert status == 403
    assert "needs cyber 3, has 2" in told["error"]["message"]
    await gate.set("member", "rhea", tiers={"cyber": 3})
    assert (await call(gate, idp.token()))[0] == 200


async def test_k8_what_a_token_says_of_its_own_verification_counts_for_nothing(place):
    gate, idp = place
    foreign = ECKey.generate_key("P-256", {"kid": "k1", "alg": "ES256"})
    bad = [
        idp.token(foreign),
        idp.token(iss="https://login.evil.example"),
        idp.token(aud="https://elsewhere.example"),
        idp.token(exp=int(time.time()) - 1),
        idp.token(sub="nobody@acme"),
        idp.token(cnf={"jkt": "x"}),
        idp.token()[:-3] + "AAA",
    ]
    for token in bad:
        status, told = await call(gate, token)
        assert status == 401, told
        assert token not in json.dumps(told)


async def test_k22_unknown_keys_cause_one_fetch_at_most_and_known_tokens_still_verify(place):
    gate, idp = place
    assert (await call(gate, idp.token()))[0] == 200
    before = idp.fetches
    for number in range(50):
        stranger = ECKey.generate_key("P-256", {"kid": f"u{number}", "alg": "ES256"})
        now = int(time.time())
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "x", "client_id": "c", "jti": "j"}
        header = {"alg": "ES256", "kid": f"u{number}", "typ": "at+jwt"}
        token = jwt.encode(header, {**claims, "iat": now, "exp": now + 60}, stranger)
        assert (await call(gate, token))[0] == 401
    assert idp.fetches - before <= 1
    assert (await call(gate, idp.token()))[0] == 200


async def test_a_suspended_issuer_speaks_for_nobody(place):
    gate, idp = place
    await gate.move("issuer", "acme-login", "suspend")
    assert (await call(gate, idp.token()))[0] == 401
    await gate.move("issuer", "acme-login", "resume")
    assert (await call(gate, idp.token()))[0] == 200
