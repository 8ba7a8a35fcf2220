"""The egress client and the identifier against a real HTTP server on a listed loopback address."""

import asyncio
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from joserfc import jwk, jwt
from joserfc.jws import JWSRegistry

from gateway.core.clock import Clock
from gateway.core.entities import Issuer, Member, Organisation
from gateway.core.refusal import Refused
from gateway.egress import Egress, EgressFailed
from gateway.identity.identify import Identifier
from gateway.registry.snapshot import Snapshot, delta_of

AUD = "https://gate.example"


@dataclass
class Server:
    """Publishes whatever ``keys`` holds, and misbehaves on demand."""

    url: str = ""
    keys: list = field(default_factory=list)
    seen: list = field(default_factory=list)

    async def jwks(self, request):
        self.seen.append(dict(request.headers))
        return web.json_response({"keys": [key.as_dict(private=False) for key in self.keys]})

    async def redirect(self, _):
        raise web.HTTPFound("/jwks")

    async def large(self, _):
        return web.Response(body=b"x" * 300_000)

    async def slow(self, _):
        await asyncio.sleep(30)

    async def error(self, _):
        return web.Response(status=503)

    async def short(self, request):
        request.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        request.transport.close()
        return web.Response()


@pytest.fixture
async def server():
    served = Server()
    app = web.Application()
    for name in ("jwks", "redirect", "large", "slow", "error", "short"):
        app.router.add_get(f"/{name}", getattr(served, name))
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    served.url = f"http://127.0.0.1:{port}"
    yield served
    await runner.cleanup()


@pytest.fixture
async def egress():
    client = Egress(["127.0.0.1/32"], timeout_s=1.0)
    yield client
    await client.close()


async def test_a_document_is_fetched_with_no_cookie_no_proxy_and_no_encoding(
    server, egress, monkeypatch
):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert await egress.get(server.url + "/jwks") == b'{"keys": []}'
    assert server.seen[0]["Accept-Encoding"] == "identity"
    assert "Cookie" not in server.seen[0]


@pytest.mark.parametrize("path", ["redirect", "large", "error", "short", "slow", "nothing-here"])
async def test_anything_but_a_bounded_200_in_time_fails(server, egress, path):
    with pytest.raises(EgressFailed):
        await egress.get(f"{server.url}/{path}")
    assert server.seen == []


async def test_a_closed_port_fails(egress, free_port):
    with pytest.raises(EgressFailed):
        await egress.get(f"http://127.0.0.1:{free_port}/jwks")


async def test_a_token_is_verified_by_keys_from_the_wire_and_rotation_is_followed(server, egress):
    first, second = (jwk.generate_key("EC", "P-256", {"kid": kid}) for kid in ("k1", "k2"))
    server.keys = [first]
    snapshot = Snapshot()
    snapshot.apply(
        delta_of(
            None,
            1,
            put=(
                Organisation(id="acme", name="Acme"),
                Member(id="ada", organisation="acme", name="Ada", external_id="ada@acme"),
                Issuer(
                    id="idp",
                    organisation="acme",
                    issuer="https://id.acme.example",
                    jwks_uri=server.url + "/jwks",
                    audience=AUD,
                    algorithms=("ES256",),
                ),
            ),
            subject_keys={"ada": bytes(range(32))},
        )
    )
    clock = Clock()
    offset = [0.0]
    identifier = Identifier(
        snapshot, clock, egress.get, lambda: asyncio.get_running_loop().time() + offset[0]
    )

    def token(key):
        now = int(clock.now())
        claims = {
            "iss": "https://id.acme.example", "aud": [AUD], "sub": "ada@acme", "client_id": "cli",
            "jti": "1", "iat": now, "exp": now + 300,
        }  # fmt: skip
        header = {"alg": "ES256", "kid": key.kid, "typ": "at+jwt"}
        return jwt.encode(header, claims, key, registry=JWSRegistry(algorithms=["ES256"]))

    async def identify(key):
        header = (b"authorization", b"Bearer " + token(key).encode())
        return await identifier.identify(dict([header]))

    assert (await identify(first)).member.id == "ada"
    server.keys = [first, second]
    with pytest.raises(Refused):
        await identify(second)
    assert len(server.seen) == 1
    offset[0] = 61.0
    assert (await identify(second)).member.id == "ada"
    assert (await identify(first)).member.id == "ada"
    assert len(server.seen) == 2
    await identifier.close()
