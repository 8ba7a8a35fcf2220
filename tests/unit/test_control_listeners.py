"""What ops and console give to whom: the bundle, and names that are not ours."""

import time
from types import SimpleNamespace
from unittest.mock import Mock

import httpx
import pytest

from gateway.control.console import console_app
from gateway.control.hosts import own_host_only
from gateway.control.ops import BUNDLE_ROUTE, ops_app
from gateway.control.sessions import Sessions
from gateway.settings import Listener, Policy

TOKEN = "a-token-for-the-sidecar"
PLANE = SimpleNamespace(archive=b"bundle", archive_revision="r1")


async def get(app, path, **headers):
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        return await client.get(path, headers=headers)


def quiet_console():
    """Nobody is signed in."""
    staff = Mock(sessions=Sessions(time.time))
    return console_app(Mock(ready=True), staff, Mock(), Mock(), Mock(tls=None, behind_proxy=False))


def policy(**options):
    return Policy.model_validate({"directory": "policies", **options})


async def test_k16_the_bundle_is_not_there_unless_an_opa_pulls_it():
    """It names embargoed models."""
    embedded = ops_app(PLANE, Mock(), policy(opa={"token": TOKEN}))
    answer = await get(embedded, BUNDLE_ROUTE, authorization=f"Bearer {TOKEN}")
    assert (answer.status_code, answer.text) == (404, (await get(embedded, "/none")).text)
    assert (await get(ops_app(PLANE, Mock(), policy(engine="opa")), BUNDLE_ROUTE)).text == "bundle"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"authorization": "Bearer " + TOKEN[:-1]}, 401),
        ({"authorization": "Basic " + TOKEN}, 401),
        ({"authorization": b"Bearer \xe9"}, 401),
        ({"authorization": "Bearer " + TOKEN}, 200),
        ({"authorization": "bearer " + TOKEN, "if-none-match": '"r1"'}, 304),
        ({"if-none-match": '"r1"'}, 401),
    ],
)
async def test_the_bundle_asks_for_opas_token(sent, status):
    app = ops_app(PLANE, Mock(), policy(engine="opa", opa={"token": TOKEN}))
    assert (await get(app, BUNDLE_ROUTE, **sent)).status_code == status


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1:8082", True),
        ("127.0.0.1", True),
        ("10.1.2.3:8082", True),
        ("[::1]:8082", True),
        ("localhost:8082", True),
        ("LOCALHOST", True),
        ("rebound.example:8082", False),
        ("127.0.0.1.rebound.example", False),
        ("localhost.rebound.example", False),
        ("::1", False),
        ("[127.0.0.1]", False),
        ("[::1].rebound.example", False),
        ("a@127.0.0.1:1:2", False),
        ("", False),
    ],
)
async def test_only_addresses_and_localhost_are_names_of_a_plain_listener(host, own):
    listener = Listener(listen="127.0.0.1:8082")
    for app in (ops_app(PLANE, Mock(), policy()), quiet_console()):
        path = "/livez" if app.title.endswith("ops") else "/"
        answer = await get(own_host_only(app, listener), path, host=host)
        assert answer.status_code == (200 if own else 421)


async def test_over_tls_the_client_has_checked_the_name(tmp_path):
    for name in ("certificate", "key"):
        (tmp_path / name).touch()
    tls = {name: tmp_path / name for name in ("certificate", "key")}
    listener = Listener.model_validate({"listen": "0.0.0.0:8081", "tls": tls})
    app = own_host_only(quiet_console(), listener)
    assert (await get(app, "/", host="gate.example")).status_code == 200
