"""Sealed content: what opens it, and everything that must not."""

from __future__ import annotations

import hmac
import itertools
import os
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given
from hypothesis import strategies as st

from gateway.audit import content
from gateway.audit.content import (
    Altered,
    ContentContext,
    NotOpened,
    Part,
    Share,
    WrongRecord,
    WrongRole,
    keyed_digest,
    new_role_key,
    open_share,
    opened,
    parse_public_role_key,
    parse_role_key,
    sealed_content,
    wanted_keys,
)
from gateway.audit.seal import SealError
from gateway.core.role_keys import PRIVATE, PUBLIC, Role, RoleKeyInvalid, key_bytes, key_text
from gateway.core.role_keys import role_of as role_named

REVIEWER, APPROVER = new_role_key(Role.REVIEWER), new_role_key(Role.APPROVER)
CONTEXT = ContentContext("sluicegate/data-0", "req_0123456789ab", Part.REQUEST)
MEMBER = bytes(range(32))
PLAIN = b'{"model":"mythos-5","messages":[]}'


def sealed(plain: bytes = PLAIN, member: bytes = MEMBER, context: ContentContext = CONTEXT):
    return b"".join(sealed_content(plain, member, REVIEWER.public, APPROVER.public, context))


def halves(blob: bytes, context: ContentContext = CONTEXT) -> tuple[Share, Share]:
    return open_share(blob, REVIEWER, context), open_share(blob, APPROVER, context)


def open_all(blob: bytes, context: ContentContext = CONTEXT, member: bytes = MEMBER) -> bytes:
    return opened(blob, *halves(blob, context), member, context)


BLOB = sealed()


@given(st.binary(max_size=4096))
def test_both_roles_and_the_members_key_open_what_was_sealed(plain):
    assert open_all(sealed(plain)) == plain


def test_nothing_of_the_content_stands_in_the_sealed_bytes_and_no_two_are_alike():
    plain = b"canary " * 100
    one, other = sealed(plain), sealed(plain)
    assert b"canary" not in one
    pieces = [{blob[at : at + 16] for at in range(17, len(blob) - 16)} for blob in (one, other)]
    assert not pieces[0] & pieces[1]


def test_every_bit_counts():
    for at, bit in itertools.product(range(len(BLOB)), range(8)):
        changed = bytearray(BLOB)
        changed[at] ^= 1 << bit
        with pytest.raises(SealError):
            open_all(bytes(changed))
    assert open_all(BLOB) == PLAIN


@given(st.integers(0, len(BLOB) - 1))
def test_no_piece_that_was_cut_opens(size):
    with pytest.raises(SealError):
        open_all(BLOB[:size])
    with pytest.raises(SealError):
        open_all(BLOB + BLOB[:size] + b"\0")


@given(st.binary(max_size=400))
def test_what_is_no_sealed_piece_is_said_to_be_none(noise):
    with pytest.raises(SealError):
        open_all(noise)


def test_halves_taken_from_a_piece_do_not_open_it_after_it_was_changed():
    """The console may hold halves for a while; the disk may change meanwhile."""
    reviewer, approver = halves(BLOB)
    for at in range(len(BLOB)):
        changed = bytearray(BLOB)
        changed[at] ^= 1
        with pytest.raises(SealError):
            opened(bytes(changed), reviewer, approver, MEMBER, CONTEXT)


@pytest.mark.parametrize("mine", [REVIEWER, APPROVER])
def test_one_role_with_the_whole_disk_opens_nothing(mine):
    """Everything that one private key, the sealed bytes and the member's key can be made to give
    is tried as the other half, and as the wrapped key."""
    blob = sealed()
    half = open_share(blob, mine, CONTEXT).half
    other = Role.APPROVER if mine is REVIEWER else Role.REVIEWER
    piece = sha256(blob).digest()
    lying = {role: new_role_key(role) for role in Role}
    lying[other] = content.RoleKey(other, wanted_keys(blob)[other], mine.key)
    with pytest.raises(WrongRecord):
        open_share(blob, lying[other], CONTEXT)
    seen = [blob[at : at + 40] for at in range(len(blob) - 40)]
    for guess in [half, bytes(40), *seen]:
        shares = {mine.role: Share(mine.role, piece, half), other: Share(other, piece, guess)}
        with pytest.raises(NotOpened):
            opened(blob, shares[Role.REVIEWER], shares[Role.APPROVER], MEMBER, CONTEXT)


def test_both_roles_without_the_members_key_open_nothing():
    for wrong in (bytes(32), os.urandom(32), MEMBER[:-1] + b"\0", b""):
        with pytest.raises(NotOpened):
            open_all(BLOB, member=wrong)


@pytest.mark.parametrize(
    "other",
    [
        ContentContext("sluicegate/data-1", CONTEXT.request_id, Part.REQUEST),
        ContentContext(CONTEXT.origin, "req_0123456789ac", Part.REQUEST),
        ContentContext(CONTEXT.origin, CONTEXT.request_id, Part.ANSWER),
        ContentContext(CONTEXT.origin + "r", CONTEXT.request_id[1:], Part.REQUEST),
    ],
)
def test_a_piece_opens_for_its_own_record_and_part_alone(other):
    for key in (REVIEWER, APPROVER):
        with pytest.raises(WrongRecord):
            open_share(BLOB, key, other)
    with pytest.raises(Altered):  # with halves that were opened for the right record
        opened(BLOB, *halves(BLOB), MEMBER, other)


def test_halves_of_another_piece_are_refused():
    other = sealed()
    mine, theirs = halves(BLOB), halves(other)
    for reviewer, approver in ((mine[0], theirs[1]), (theirs[0], mine[1])):
        with pytest.raises(WrongRecord):
            opened(BLOB, reviewer, approver, MEMBER, CONTEXT)
    piece = sha256(BLOB).digest()
    forged = Share(Role.APPROVER, piece, theirs[1].half)
    with pytest.raises(NotOpened):  # also where it is said to be of this one
        opened(BLOB, mine[0], forged, MEMBER, CONTEXT)


def test_a_half_of_the_other_role_and_the_key_of_another_gateway_are_refused_by_name():
    reviewer, approver = halves(BLOB)
    for pair in ((approver, reviewer), (reviewer, reviewer), (approver, approver)):
        with pytest.raises(WrongRole):
            opened(BLOB, *pair, MEMBER, CONTEXT)
    with pytest.raises(WrongRole, match="another reviewer's key"):
        open_share(BLOB, new_role_key(Role.REVIEWER), CONTEXT)
    assert wanted_keys(BLOB) == {Role.REVIEWER: REVIEWER.id, Role.APPROVER: APPROVER.id}


def test_the_content_of_one_member_does_not_open_as_anothers():
    hers = sealed(member=os.urandom(32))
    with pytest.raises(NotOpened):
        open_all(hers)


def test_keys_derived_from_the_members_are_those_of_hkdf_and_differ_by_purpose():
    def expected(purpose: bytes) -> bytes:
        info = b"sluicegate content v1\0" + purpose
        return HKDFExpand(hashes.SHA256(), 32, info).derive(MEMBER)

    assert content._derived(MEMBER, b"wrap") == expected(b"wrap")
    digest = hmac.digest(expected(b"digest"), sha256(PLAIN).digest(), "sha256").hex()
    assert keyed_digest(MEMBER, sha256(PLAIN).digest()) == digest
    assert content._derived(MEMBER, b"wrap") != content._derived(MEMBER, b"digest")


def test_a_digest_cannot_be_tried_without_the_members_key():
    plain = sha256(b"yes").digest()
    told = {keyed_digest(MEMBER, plain), keyed_digest(os.urandom(32), plain), plain.hex()}
    assert len(told) == 3


def test_sealing_with_keys_in_each_others_place_is_refused():
    with pytest.raises(ValueError, match="needed"):
        sealed_content(PLAIN, MEMBER, APPROVER.public, REVIEWER.public, CONTEXT)
    with pytest.raises(ValueError, match="needed"):
        sealed_content(PLAIN, MEMBER[:-1], REVIEWER.public, APPROVER.public, CONTEXT)


# Keys as text


@pytest.mark.parametrize("role", list(Role))
def test_a_key_is_one_line_and_comes_back(role):
    key = new_role_key(role)
    assert key.text.startswith(f"sgrole-{role}-")
    assert key.public.text.startswith(f"sgrolepub-{role}-")
    assert key.text.isascii()
    assert len(key.text.split()) == 1
    assert len(key.text) < 80
    again = parse_role_key(f"  {key.text}\n")
    assert (again.role, again.id, again.text) == (role, key.id, key.text)
    public = parse_public_role_key(key.public.text)
    assert (public.role, public.id, public.text) == (role, key.id, key.public.text)
    assert role_named(key.text) is role_named(key.public.text) is role
    assert key.text not in repr(key)


SEALED_ONCE = bytes.fromhex(
    "01f239184c2720a1ff2b3c7d526457b9cf719572362ee4c287bf00afe7aae0cebd3abb889decefe5f468"
    "d278c2730969504e4caa6fad9e07ea959cbe899b1a3039f87947a0b6c9acc23ea5db8c167bafa761c1cd"
    "5a3a8ebb01bcb1ccbffb54a8dadc32036480ad4954263dd3beb578f8fc020b87fd2b00566752391e07c9"
    "3173700329726739315b269c9abeb16d311650c07cda9d767c06c6d5d111016bf3c808cc4a880c86c738"
    "982cfbbbbf368c46eb874b134eb335e6d4cd7eab1f7a8aeeae644853667df8f2a0446878771a06d65aef"
    "bcb1b0a88685fa60c9d3d1eef589434009ba51f8667842e1a94d4e3c8b77"
)


def test_what_was_sealed_once_opens_with_the_keys_as_they_were_written():
    """A change of either form would lock people out of what they hold."""
    reviewer = "sgrole-reviewer-aaaqeayeaudaocajbifqydiob4ibceqtcqkrmfyydenbwha5dypypfgq3m"
    assert key_bytes(PRIVATE, Role.REVIEWER, reviewer) == bytes(range(32))
    approver = key_text(PRIVATE, Role.APPROVER, bytes(range(32, 64)))
    shares = [open_share(SEALED_ONCE, parse_role_key(key), CONTEXT) for key in (reviewer, approver)]
    member = bytes(range(64, 96))
    assert opened(SEALED_ONCE, *shares, member, CONTEXT) == b"kept for a reviewer"


LINE = REVIEWER.text


@given(st.integers(0, len(LINE) - 1), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567-=A 1\n"))
def test_a_mistyped_key_is_refused_and_not_repeated(at, letter):
    wrong = LINE[:at] + letter + LINE[at + 1 :]
    if wrong == LINE:
        return
    with pytest.raises(RoleKeyInvalid) as refused:
        parse_role_key(wrong)
    assert LINE[20:40] not in str(refused.value)


@given(st.integers(0, len(LINE) - 1))
def test_a_key_that_was_cut_or_doubled_is_refused(size):
    for wrong in (LINE[:size], LINE + LINE[: size + 1]):
        with pytest.raises(RoleKeyInvalid):
            parse_role_key(wrong)


@given(st.text(max_size=100))
def test_any_other_text_is_refused(text):
    for parse in (parse_role_key, parse_public_role_key):
        with pytest.raises(RoleKeyInvalid):
            parse(text)
        with pytest.raises(RoleKeyInvalid):
            parse("sgrole-reviewer-" + text)


def test_keys_in_each_others_place_are_told_apart():
    with pytest.raises(RoleKeyInvalid, match="the approver's key"):
        key_bytes(PUBLIC, Role.REVIEWER, APPROVER.public.text)
    with pytest.raises(RoleKeyInvalid, match="this is the private key"):
        parse_public_role_key(REVIEWER.text)
    with pytest.raises(RoleKeyInvalid, match="this is the public key"):
        parse_role_key(REVIEWER.public.text)
    swapped = REVIEWER.text.replace("reviewer", "approver")
    with pytest.raises(RoleKeyInvalid, match="checksum"):
        parse_role_key(swapped)
