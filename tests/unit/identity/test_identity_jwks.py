import asyncio
import base64
import json

import msgspec
import pytest
from joserfc import jwk

from gateway.core.refusal import Refused
from gateway.identity import jwks
from gateway.identity.jwks import parse_jwks

from .conftest import Issuing


def token(world, kid="k1"):
    claims = world.issuing.claims(world.time, exp=int(world.time()) + 600)
    return world.issuing.sign(claims, kid=kid, key=world.issuing.keys.get(kid))


def stranger(world, number):
    key = world.issuing.keys["k1"]
    return world.issuing.sign(world.issuing.claims(world.time), kid=f"random-{number}", key=key)


async def refused(world, text):
    with pytest.raises(Refused):
        await world.bearer(text)


async def test_k22_10000_random_kids_cost_one_fetch_a_cooldown_and_known_tokens_verify(world):
    await world.bearer(token(world))
    claims, key = world.issuing.claims(world.time), world.issuing.keys["k1"]
    strangers = [world.issuing.sign(claims, kid=f"r{n}", key=key) for n in range(10_000)]
    assert len(world.issuing.visits) == 1
    for number, text in enumerate(strangers):
        world.time.now += 60 / 5_000  # two cooldowns in all
        await refused(world, text)
        if number % 1_000 == 0:
            await world.bearer(token(world))
    assert len(world.issuing.visits) <= 3


async def test_k22_a_crowd_of_unknown_kids_shares_one_fetch(world):
    started = asyncio.Event()
    fetch = world.issuing.fetch

    async def slow(url):
        await started.wait()
        return await fetch(url)

    world.identifier.jwks._fetch = slow
    crowd = [asyncio.create_task(world.bearer(stranger(world, n))) for n in range(50)]
    good = [asyncio.create_task(world.bearer(token(world))) for _ in range(5)]
    await asyncio.sleep(0)
    crowd[0].cancel()
    started.set()
    found = await asyncio.gather(*crowd, *good, return_exceptions=True)
    assert world.issuing.visits == ["https://id.acme.example/jwks"]
    assert isinstance(found[0], asyncio.CancelledError)
    assert all(isinstance(each, Refused) for each in found[1:50])
    assert all(each.member.id == "ada" for each in found[50:])


async def test_a_new_key_is_found_once_the_cooldown_is_over(world):
    await world.bearer(token(world))
    world.issuing.add("k2")
    await refused(world, token(world, "k2"))
    world.time.now += 60
    await world.bearer(token(world, "k2"))
    await world.bearer(token(world, "k1"))


async def test_old_keys_verify_while_the_issuer_is_down_but_not_for_ever(world):
    await world.bearer(token(world))
    world.issuing.down = True
    for hours in (1, 12, 10.9):
        world.time.now += hours * 3600
        await world.bearer(token(world))
        await asyncio.sleep(0)
    world.time.now += 0.2 * 3600
    with pytest.raises(Refused) as caught:
        await world.bearer(token(world))
    assert caught.value.refusal.reason == "registry_stale"
    world.issuing.down = False
    world.time.now += 10
    await world.bearer(token(world))


async def test_a_failing_issuer_is_asked_again_after_10_s_at_most(world):
    world.issuing.down = True
    for _ in range(100):
        await refused(world, token(world))
        world.time.now += 0.5
    assert len(world.issuing.visits) == 5
    assert world.identifier.jwks.failures == 5


async def test_a_key_set_that_is_no_key_set_leaves_the_old_one_in_place(world):
    await world.bearer(token(world))
    world.issuing.document = lambda: "<html>maintenance</html>"
    world.time.now += 301
    await world.bearer(token(world))
    await asyncio.sleep(0.001)
    assert world.identifier.jwks.failures == 1
    await world.bearer(token(world))


async def test_a_moved_jwks_uri_forgets_the_keys_of_the_old_one(world):
    await world.bearer(token(world))
    moved = msgspec.structs.replace(
        world.directory.issuers["idp"], jwks_uri="https://id.acme.example/new"
    )
    world.directory.put(moved)
    world.issuing.keys = {}
    world.issuing.add("k1")
    await world.bearer(token(world))
    assert world.issuing.visits[-1].endswith("/new")


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")  # of signing here, not of verifying
@pytest.mark.parametrize(
    ("kind", "size", "alg"),
    [
        ("EC", "P-256", "ES256"),
        ("EC", "P-384", "ES384"),
        ("RSA", 2048, "RS256"),
        ("RSA", 2048, "PS256"),
        ("OKP", "Ed25519", "Ed25519"),
        ("OKP", "Ed25519", "EdDSA"),
    ],
)
async def test_pinned_algorithms_verify(world, kind, size, alg):
    issuer = world.directory.issuers["idp"]
    world.directory.put(msgspec.structs.replace(issuer, algorithms=(alg,)))
    world.issuing.add("k2", kind, size, use="sig", alg=alg)
    assert await world.bearer(
        world.issuing.sign(world.issuing.claims(world.time), kid="k2", alg=alg)
    )


async def test_a_token_without_kid_needs_a_key_set_with_one_key_that_fits(world):
    claims = world.issuing.claims(world.time)
    await world.bearer(world.issuing.sign(claims, kid=..., key=world.issuing.keys["k1"]))
    world.issuing.add("k2")
    world.time.now += 301
    await world.bearer(token(world))
    await asyncio.sleep(0.001)
    await refused(world, world.issuing.sign(claims, kid=..., key=world.issuing.keys["k1"]))


def usable(**changes):
    key = jwk.generate_key("EC", "P-256", {"kid": "k"}).as_dict(private=False)
    document = {"keys": [{**key, **changes}]}
    return [(each.kid, set(each.algorithms)) for each in parse_jwks(json.dumps(document).encode())]


def test_keys_that_are_not_for_verifying_here_are_left_out():
    assert usable() == [("k", {"ES256"})]
    assert usable(use="sig", alg="ES256", key_ops=["verify"]) == [("k", {"ES256"})]
    for changes in (
        {"use": "enc"},
        {"key_ops": ["encrypt"]},
        {"key_ops": "verify"},
        {"alg": "ES384"},
        {"alg": ["ES256"]},
        {"kid": 7},
        {"d": "AAAA"},
        {"kty": "oct", "k": "AAAA"},
        {"kty": "RSA"},
        {"crv": "secp256k1"},
        {"crv": ["P-256"]},
        {"x": "AAAA"},
        {"x": 7},
        {"x": "é"},
    ):
        assert usable(**changes) == [], changes


@pytest.mark.parametrize(
    ("kind", "size", "algorithms"),
    [
        ("EC", "P-384", {"ES384"}),
        ("OKP", "Ed25519", {"EdDSA", "Ed25519"}),
        ("OKP", "X25519", None),
        ("EC", "P-521", None),
        ("RSA", 2048, {"RS256", "PS256"}),
    ],
)
def test_a_keys_algorithms_follow_from_its_type(kind, size, algorithms):
    issuing = Issuing()
    issuing.add("k", kind, size)
    found = parse_jwks(issuing.document().encode())
    assert [set(each.algorithms) for each in found] == ([algorithms] if algorithms else [])


def test_an_rsa_key_of_unusable_size_is_left_out():
    whole = jwk.generate_key("RSA", 2048, {"kid": "k"}).as_dict(private=False)
    for size in (64, 128, 255, 1025):
        modulus = base64.urlsafe_b64encode(b"\xff" * size).rstrip(b"=").decode()
        assert parse_jwks(json.dumps({"keys": [{**whole, "n": modulus}]}).encode()) == ()
    assert len(parse_jwks(json.dumps({"keys": [whole]}).encode())) == 1


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"keys":{}}', b'{"keys":[' + b"{}," * 64 + b"{}]}",
     b'{"keys":[]}' + b" " * jwks.MAX_DOCUMENT_BYTES],
)  # fmt: skip
def test_a_document_that_is_no_bounded_key_set_is_refused(body):
    with pytest.raises(ValueError):  # noqa: PT011 - which one matters to no caller
        parse_jwks(body)


def test_entries_that_are_no_objects_are_left_out():
    assert parse_jwks(b'{"keys":[1,null,"x",{}]}') == ()
