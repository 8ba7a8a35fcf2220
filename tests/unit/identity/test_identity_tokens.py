import base64
import hashlib
import hmac
import json

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc import jwk

from gateway.core.entities import Issuer
from gateway.core.reasons import Reason
from gateway.core.refusal import Refused
from gateway.identity import tokens
from gateway.identity.strict import json_object

from .conftest import AUD, ISS


def b64(raw):
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def by_hand(header, claims, signature=b"x"):
    return ".".join(
        [b64(json.dumps(header).encode()), b64(json.dumps(claims).encode()), b64(signature)]
    )


def hmac_token(world, secret):
    """HS256 over the issuer's public key, as algorithm confusion does it (CVE-2024-37568)."""
    signed = by_hand(
        {"alg": "HS256", "kid": "k1", "typ": "at+jwt"}, world.issuing.claims(world.time)
    ).rpartition(".")[0]
    return signed + "." + b64(hmac.new(secret, signed.encode(), hashlib.sha256).digest())


async def refused(world, token):
    with pytest.raises(Refused) as caught:
        await world.bearer(token)
    return caught.value.refusal


async def test_k8_negative_control_the_good_token_identifies_its_member(world):
    principal = await world.bearer(world.issuing.sign(world.issuing.claims(world.time)))
    assert (principal.member.id, principal.kind, principal.bound) == ("ada", "jwt", "none")
    assert principal.credential_id.startswith("idp:")
    assert len(principal.credential_id) == len("idp:") + 32
    assert principal.expires_at == "2027-01-15T08:10:00Z"
    assert principal.tiers_cap is None


@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt"])
async def test_both_spellings_of_the_type_are_taken(world, typ):
    assert await world.bearer(world.issuing.sign(world.issuing.claims(world.time), typ=typ))


def signed(header=None, **claims):
    return lambda world: world.issuing.sign(
        world.issuing.claims(world.time, **claims), **(header or {})
    )


def at(name, seconds):
    return lambda world: world.issuing.sign(
        world.issuing.claims(world.time, **{name: int(world.time()) + seconds})
    )


def foreign_key(world):
    return world.issuing.sign(
        world.issuing.claims(world.time), key=jwk.generate_key("EC", "P-256", {"kid": "k1"})
    )


def own_jwk(world):
    thief = jwk.generate_key("EC", "P-256", {"kid": "k1"})
    return world.issuing.sign(
        world.issuing.claims(world.time), key=thief, jwk=thief.as_dict(private=False)
    )


def altered(world):
    header, _, signature = world.issuing.sign(world.issuing.claims(world.time)).split(".")
    claims = world.issuing.claims(world.time, scope="more")
    return ".".join([header, b64(json.dumps(claims).encode()), signature])


def twice(world):
    claims = json.dumps(world.issuing.claims(world.time))[:-1] + ', "sub": "ada@acme"}'
    return ".".join([b64(b'{"alg":"ES256","typ":"at+jwt","kid":"k1"}'), b64(claims.encode()), "eA"])


def unsigned(alg):
    return lambda world: by_hand({"alg": alg, "typ": "at+jwt"}, world.issuing.claims(world.time))


def raw_header(**header):
    """For headers that a JOSE library does not write."""
    base = {"alg": "ES256", "typ": "at+jwt", "kid": "k1"}
    return lambda world: by_hand(base | header, world.issuing.claims(world.time))


BAD = {
    "alg none": (unsigned("none"), tokens.NOT_ACCEPTED),
    "alg None": (unsigned("None"), tokens.NOT_ACCEPTED),
    "alg not pinned": (unsigned("PS256"), tokens.NOT_ACCEPTED),
    "alg a list": (unsigned(["ES256"]), tokens.NOT_AN_ACCESS_TOKEN),
    "HS256 over the public PEM": (
        lambda world: hmac_token(world, world.issuing.keys["k1"].as_pem(private=False)),
        tokens.NOT_ACCEPTED,
    ),
    "HS256 over nothing": (lambda world: hmac_token(world, b""), tokens.NOT_ACCEPTED),
    "own jwk": (own_jwk, tokens.HEADER_REFUSED),
    "jku": (signed({"jku": "https://evil.example/jwks"}), tokens.HEADER_REFUSED),
    "x5u": (signed({"x5u": "https://evil.example/x5"}), tokens.HEADER_REFUSED),
    "x5c": (signed({"x5c": ["MIIB"]}), tokens.HEADER_REFUSED),
    "unknown crit": (raw_header(crit=["exp2"], exp2=1), tokens.HEADER_REFUSED),
    "b64 false": (
        raw_header(b64=False, crit=["b64"]),
        tokens.HEADER_REFUSED,
    ),
    "an ID token": (signed({"typ": "JWT"}), tokens.NOT_AN_ACCESS_TOKEN),
    "no typ": (signed({"typ": ...}), tokens.NOT_AN_ACCESS_TOKEN),
    "typ a number": (raw_header(typ=1), tokens.NOT_AN_ACCESS_TOKEN),
    "kid a number": (raw_header(kid=1), tokens.NOT_AN_ACCESS_TOKEN),
    "claims with a lone surrogate": (
        lambda world: by_hand(
            {"alg": "ES256", "typ": "at+jwt"},
            {
                **world.issuing.claims(world.time),
                "sub": "\ud800",
                "scope": "\udfff a",
                "amr": ["\ud800"],
            },
        ),
        tokens.NOT_ACCEPTED,
    ),
    "another's key": (foreign_key, tokens.NOT_ACCEPTED),
    "claims altered": (altered, tokens.NOT_ACCEPTED),
    "a name twice": (twice, tokens.NOT_AN_ACCESS_TOKEN),
    "wrong iss": (signed(iss="https://evil.example"), tokens.NOT_ACCEPTED),
    "iss with a slash": (signed(iss=ISS + "/"), tokens.NOT_ACCEPTED),
    "iss missing": (signed(iss=...), tokens.INCOMPLETE),
    "iss a list": (signed(iss=[ISS]), tokens.INCOMPLETE),
    "wrong aud": (signed(aud="https://other.example"), tokens.NOT_ACCEPTED),
    "aud a prefix": (signed(aud=AUD + ".evil"), tokens.NOT_ACCEPTED),
    "aud missing": (signed(aud=...), tokens.NOT_ACCEPTED),
    "aud an object": (signed(aud={AUD: 1}), tokens.NOT_ACCEPTED),
    "unknown sub": (signed(sub="mallory"), tokens.NOT_ACCEPTED),
    "sub missing": (signed(sub=...), tokens.INCOMPLETE),
    "sub empty": (signed(sub=""), tokens.INCOMPLETE),
    "client_id missing": (signed(client_id=...), tokens.INCOMPLETE),
    "jti missing": (signed(jti=...), tokens.INCOMPLETE),
    "iat missing": (signed(iat=...), tokens.INCOMPLETE),
    "exp missing": (signed(exp=...), tokens.INCOMPLETE),
    "exp a text": (signed(exp="2099"), tokens.INCOMPLETE),
    "exp true": (signed(exp=True), tokens.INCOMPLETE),
    "exp beyond dates": (signed(exp=10**15), tokens.INCOMPLETE),
    "exp infinite": (signed(exp=10**400), tokens.INCOMPLETE),
    "expired now": (at("exp", 0), tokens.EXPIRED),
    "expired, no leeway": (at("exp", -1), tokens.EXPIRED),
    "nbf ahead": (at("nbf", 31), tokens.NOT_YET_VALID),
    "iat ahead": (at("iat", 31), tokens.NOT_YET_VALID),
    "bound to a key": (signed(cnf={"jkt": "abc"}), tokens.BOUND),
    "bound to null": (signed(cnf=None), tokens.BOUND),
    "tiers a text": (signed(sluicegate_tiers="cyber"), tokens.BAD_TIERS),
    "tiers null": (signed(sluicegate_tiers=None), tokens.BAD_TIERS),
    "tier too high": (signed(sluicegate_tiers={"cyber": 99}), tokens.BAD_TIERS),
    "tier a text": (signed(sluicegate_tiers={"cyber": "3"}), tokens.BAD_TIERS),
    "scope a list": (signed(scope=["read"]), tokens.INCOMPLETE),
    "amr a text": (signed(amr="mfa"), tokens.INCOMPLETE),
    "too many scopes": (signed(scope=" ".join(f"s{i}" for i in range(65))), tokens.INCOMPLETE),
    "unknown kid": (
        lambda world: world.issuing.sign(
            world.issuing.claims(world.time), kid="k9", key=world.issuing.keys["k1"]
        ),
        tokens.NOT_ACCEPTED,
    ),
}


@pytest.mark.parametrize("case", BAD)
async def test_k8_bad_token_is_refused(world, case):
    make, refusal = BAD[case]
    assert await refused(world, make(world)) is refusal


WITHOUT_FETCH = [case for case in BAD if case not in
                 {"another's key", "claims altered", "unknown kid", "unknown sub",
                  "claims with a lone surrogate"}]  # fmt: skip


@pytest.mark.parametrize("case", WITHOUT_FETCH)
async def test_k22_cheap_checks_come_before_any_fetch(world, case):
    await refused(world, BAD[case][0](world))
    assert world.issuing.visits == []


async def test_leeway_is_for_clocks_that_run_ahead_only(world):
    for name in ("nbf", "iat"):
        assert await world.bearer(at(name, 30)(world))


async def test_optional_claims_may_be_null_free_and_times_fractional(world):
    claims = world.issuing.claims(world.time, auth_time=world.time() - 5.5, exp=world.time() + 1.9)
    principal = await world.bearer(world.issuing.sign(claims))
    assert principal.auth_time == "2027-01-15T07:59:54Z"
    world.time.now += 1
    assert world.identifier.refresh(principal) is None


@pytest.mark.parametrize(
    ("scope", "scopes"),
    [
        (..., ()),
        ("read write", ("read", "write")),
        ("openid Read read read https://x.example/y", ("openid", "read")),
        ("READ", ("none",)),
        ("", ("none",)),
    ],
)
async def test_scopes_are_labels_and_a_claim_never_widens_by_being_unreadable(world, scope, scopes):
    principal = await world.bearer(
        world.issuing.sign(world.issuing.claims(world.time, scope=scope))
    )
    assert principal.scopes == scopes


async def test_claims_narrow_and_never_grant(world):
    claims = world.issuing.claims(
        world.time,
        sluicegate_tiers={"cyber": 9},
        amr=["mfa", "PWD"],
        roles=["admin"],
        tiers={"cyber": 9},
    )
    principal = await world.bearer(world.issuing.sign(claims))
    assert principal.tiers_cap == {"cyber": 9}
    assert principal.member == world.directory.members["ada"]
    assert principal.amr == ("mfa",)


async def test_k23_two_issuers_with_the_same_sub_stay_distinct(world):
    world.directory.put(
        Issuer(
            id="idp2",
            organisation="other",
            issuer="https://id.other.example",
            jwks_uri="https://id.other.example/jwks",
            audience=AUD,
            algorithms=("ES256",),
        )
    )
    ours = await world.bearer(world.issuing.sign(world.issuing.claims(world.time)))
    theirs = await world.bearer(
        world.issuing.sign(world.issuing.claims(world.time, iss="https://id.other.example"))
    )
    assert (ours.member.id, theirs.member.id) == ("ada", "eve")
    assert (ours.organisation.id, theirs.organisation.id) == ("acme", "other")


async def test_k7_tokens_that_share_all_but_their_end_are_different_credentials(world):
    claims = world.issuing.claims(world.time)
    first, second = (world.issuing.sign(claims) for _ in range(2))
    assert first.rpartition(".")[0] == second.rpartition(".")[0]
    ids = {(await world.bearer(token)).credential_id for token in (first, second, first)}
    assert len(ids) == 2
    forged = first[:-8] + ("A" * 8 if first[-8:] != "A" * 8 else "B" * 8)
    assert await refused(world, forged) is tokens.NOT_ACCEPTED


async def test_k7_one_members_token_never_answers_for_another(world):
    world.directory.put(
        msgspec.structs.replace(world.directory.members["ada"], id="bob", external_id="bob@acme")
    )
    ada = world.issuing.sign(world.issuing.claims(world.time))
    bob = world.issuing.sign(world.issuing.claims(world.time, sub="bob@acme"))
    for _ in range(2):
        assert (await world.bearer(ada)).member.id == "ada"
        assert (await world.bearer(bob)).member.id == "bob"


async def counted(world, monkeypatch):
    """A token that is remembered, and the number of signatures checked since."""
    checks = []
    real = tokens._signed
    monkeypatch.setattr(tokens, "_signed", lambda *args: checks.append(1) or real(*args))
    token = world.issuing.sign(world.issuing.claims(world.time))
    await world.bearer(token)
    await world.bearer(token)
    assert len(checks) == 1
    return token, checks


async def test_a_verified_token_is_not_verified_again(world, monkeypatch):
    await counted(world, monkeypatch)


async def test_a_remembered_token_ends_with_exp(world, monkeypatch):
    token, checks = await counted(world, monkeypatch)
    world.time.now += 600
    assert await refused(world, token) is tokens.EXPIRED
    assert len(checks) == 1


@pytest.mark.parametrize(
    "fields",
    [{"status": "revoked"}, {"status": "suspended"}, {"audience": "https://new.example"},
     {"algorithms": ("RS256",)}],
)  # fmt: skip
async def test_a_remembered_token_ends_when_its_issuers_row_changes(world, monkeypatch, fields):
    token, _ = await counted(world, monkeypatch)
    world.directory.put(msgspec.structs.replace(world.directory.issuers["idp"], **fields))
    assert await refused(world, token) is tokens.NOT_ACCEPTED


async def test_a_remembered_token_shows_its_member_as_he_is_now(world, monkeypatch):
    token, checks = await counted(world, monkeypatch)
    world.directory.put(msgspec.structs.replace(world.directory.members["ada"], tiers={"cyber": 1}))
    assert (await world.bearer(token)).member.tiers == {"cyber": 1}
    assert len(checks) == 1
    del world.directory.members["ada"]
    assert await refused(world, token) is tokens.NOT_ACCEPTED


async def test_a_remembered_token_ends_when_its_key_is_withdrawn(world, monkeypatch):
    token, _ = await counted(world, monkeypatch)
    del world.issuing.keys["k1"]
    world.issuing.add("k2")
    world.time.now += 301
    await world.bearer(token)  # still known, and starts the refresh
    await world.identifier.jwks._held["idp"].task
    assert await refused(world, token) is tokens.NOT_ACCEPTED


async def test_an_issuer_revoked_while_its_keys_are_fetched_vouches_for_nobody(world):
    fetch = world.issuing.fetch

    async def slow(url):
        world.directory.put(
            msgspec.structs.replace(world.directory.issuers["idp"], status="revoked")
        )
        return await fetch(url)

    world.identifier.jwks._fetch = slow
    token = world.issuing.sign(world.issuing.claims(world.time))
    assert await refused(world, token) is tokens.NOT_ACCEPTED


async def test_the_memory_of_tokens_is_bounded(world):
    verifier = world.identifier._tokens
    verifier._capacity = 3
    for number in range(8):
        await world.bearer(world.issuing.sign(world.issuing.claims(world.time, jti=f"j{number}")))
    assert len(verifier._verified) == 3


async def test_an_issuer_whose_keys_were_never_had_is_the_gateways_fault(world):
    world.issuing.down = True
    refusal = await refused(world, world.issuing.sign(world.issuing.claims(world.time)))
    assert refusal.reason is Reason.REGISTRY_STALE
    assert refusal.retry_after_s


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
HEADER_NAMES = st.sampled_from(["alg", "typ", "kid", "crit", "jwk", "x"])
CLAIM_NAMES = st.sampled_from(
    ["iss", "aud", "sub", "exp", "iat", "nbf", "jti", "client_id", "scope", "amr", "auth_time",
     "cnf", "sluicegate_tiers"]
)  # fmt: skip


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    header=st.dictionaries(HEADER_NAMES, JSON, max_size=2),
    claims=st.dictionaries(CLAIM_NAMES, JSON, max_size=3),
    signature=st.binary(min_size=1, max_size=80),
)
async def test_k6_a_token_of_any_content_without_a_good_signature_is_refused(
    world, header, claims, signature
):
    base_header = {"alg": "ES256", "typ": "at+jwt", "kid": "k1"}
    token = by_hand(base_header | header, world.issuing.claims(world.time) | claims, signature)
    with pytest.raises(Refused):
        await world.bearer(token)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(claims=st.dictionaries(CLAIM_NAMES, JSON, max_size=3))
async def test_k6_a_well_signed_token_of_any_content_identifies_its_member_or_is_refused(
    world, claims
):
    token = world.issuing.sign(world.issuing.claims(world.time, **claims))
    try:
        principal = await world.bearer(token)
    except Refused:
        return
    assert principal.member.id == "ada"
    assert principal.expires_at > world.identifier._clock.reading()[0]


@pytest.mark.parametrize(
    "raw",
    [b"[]", b"1", b"", b"{", b'{"a":1,"a":1}', b'{"b":{"a":1,"\\u0061":2}}', b'{"a":NaN}',
     b'{"a":-Infinity}', b"\xff{}", b'{"a":' + b"[" * 100_000, b"\xef\xbb\xbf{}"],
)  # fmt: skip
def test_json_that_could_be_read_two_ways_is_not_read(raw):
    with pytest.raises(ValueError):  # noqa: PT011 - which one matters to no caller
        json_object(raw)
