import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core.reasons import Reason
from gateway.core.refusal import Refusal, Refused
from gateway.identity import credentials, identify, tokens
from gateway.identity.api_keys import digest_of, mint
from gateway.identity.credentials import Presented, presented
from gateway.wire.headers import Fields, Header, combined

KEY = mint().text.encode()
OTHER = mint().text.encode()
AUTH, XKEY = b"authorization", b"x-api-key"


def fields(headers: list[Header]) -> Fields:
    return combined([(name.lower(), value) for name, value in headers])


@pytest.mark.parametrize(
    "headers",
    [
        [(AUTH, b"Bearer " + KEY)],
        [(b"Authorization", b"bearer " + KEY)],
        [(b"AUTHORIZATION", b"BEARER  " + KEY)],
        [(XKEY, KEY)],
        [(b"X-Api-Key", KEY)],
        [(AUTH, b"Bearer " + KEY), (XKEY, KEY)],
    ],
)
def test_one_credential_is_found_in_either_header_or_the_same_in_both(headers):
    assert presented(fields(headers)) == Presented("api_key", KEY.decode())


@pytest.mark.parametrize(
    "headers",
    [
        [(AUTH, b"Bearer " + KEY), (XKEY, OTHER)],
        [(AUTH, b"Bearer " + KEY), (AUTH, b"Bearer " + KEY)],
        [(XKEY, KEY), (b"X-API-KEY", KEY)],
        [(AUTH, b"Bearer " + KEY), (XKEY, b"")],
    ],
)
def test_k23_two_credentials_are_refused_and_not_ranked(headers):
    found = presented(fields(headers))
    assert isinstance(found, Refusal)
    assert found.reason is Reason.CREDENTIAL_AMBIGUOUS


@pytest.mark.parametrize(
    "headers",
    [
        [(AUTH, b"Basic dXNlcjpwYXNz")],
        [(AUTH, b"DPoP " + KEY)],
        [(AUTH, KEY)],
        [(AUTH, b"Bearer")],
        [(AUTH, b"Bearer ")],
        [(AUTH, b"Bearer\t" + KEY)],
        [(AUTH, b"Bearer " + KEY + b"\n")],
        [(AUTH, b"Bearer sk-other-123")],
        [(AUTH, b"Bearer a.b")],
        [(AUTH, b"Bearer a.b.c.d.e")],
        [(AUTH, b"Bearer a..c")],
        [(AUTH, "Bearer schlüssel".encode())],
        [(XKEY, b"")],
        [(XKEY, b"Bearer " + KEY)],
        [(XKEY, b"'" + KEY + b"'")],
        [(XKEY, b"a." + b"b" * 17_000 + b".c")],
        [(AUTH, b"Bearer " + b"a" * 17_000)],
    ],
)
def test_k6_what_is_not_shaped_like_a_credential_is_invalid(headers):
    found = presented(fields(headers))
    assert isinstance(found, Refusal)
    assert found.reason is Reason.CREDENTIAL_INVALID


def test_no_credential_says_how_to_send_one():
    found = presented({b"host": b"gate.example"})
    assert isinstance(found, Refusal)
    assert found.reason is Reason.CREDENTIAL_MISSING
    assert "Authorization: Bearer" in found.message


REFUSALS = {
    name: value
    for module in (credentials, tokens, identify)
    for name, value in vars(module).items()
    if isinstance(value, Refusal)
}
"""Every refusal there is: none is made from what a caller sent, so none can echo it."""


def test_every_refusal_stands_alone_in_its_first_100_characters():
    assert len(REFUSALS) >= 12
    long = {name: len(each.message) for name, each in REFUSALS.items() if len(each.message) > 100}
    assert long == {}


def test_k20_a_credential_is_in_no_repr():
    found = presented({XKEY: KEY})
    assert KEY.decode() not in repr(found)
    minted = mint()
    assert minted.text not in repr(minted)


def test_minted_keys_are_whole_distinct_and_show_little():
    minted = [mint() for _ in range(100)]
    assert len({each.text for each in minted}) == 100
    for each in minted:
        assert digest_of(each.text) == each.sha256
        assert each.text.startswith(each.prefix)
        assert len(each.prefix) == 12
        assert len(each.text) == 64


@given(st.integers(6, 63), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
def test_a_typing_error_in_a_key_is_told_without_a_lookup(position, letter):
    text = KEY.decode()
    wrong = text[:position] + letter + text[position + 1 :]
    assert (digest_of(wrong) is None) == (wrong != text)


@pytest.mark.parametrize("wrong", [KEY[:-1], KEY + b"a", KEY.upper(), b"sk-sg-", KEY[:40]])
def test_a_key_cut_or_changed_is_no_key(wrong):
    assert digest_of(wrong.decode()) is None


PIECES = st.one_of(
    st.binary(max_size=80),
    st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from(
        [b"Bearer ", b"bearer", KEY, KEY[:30], b".", b"..", b"e30", b"eyJhbGciOiJub25lIn0", b"=",
         b"' OR 1=1 --", b"%00", b"\r\n", b"${jndi:x}"]
    ),
)  # fmt: skip
VALUES = st.lists(PIECES, max_size=6).map(b"".join)
NAMES = st.sampled_from([AUTH, XKEY, b"Authorization", b"X-API-Key", b"cookie"])


@settings(max_examples=1500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(headers=st.lists(st.tuples(NAMES, VALUES), max_size=3))
async def test_k6_fuzzed_headers_only_ever_raise_refused_and_fetch_nothing(world, headers):
    world.directory.lookups = 0
    with pytest.raises(Refused) as caught:
        await world.identifier.identify(fields(headers))
    assert caught.value.refusal in REFUSALS.values()
    assert world.issuing.visits == []
    if not any(KEY in value for _, value in headers):
        assert world.directory.lookups == 0
