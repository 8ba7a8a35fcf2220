import msgspec
import pytest

from gateway.core.clock import Clock, timestamp
from gateway.core.entities import Credential
from gateway.core.reasons import Reason
from gateway.core.refusal import Refused
from gateway.identity.api_keys import mint
from gateway.identity.identify import KEY_REFUSED, Identifier
from gateway.registry.snapshot import Snapshot, delta_of


def changed(world, table, entity_id, **fields):
    rows = getattr(world.directory, table)
    world.directory.put(msgspec.structs.replace(rows[entity_id], **fields))


async def by_key(world):
    return await world.bearer(world.key)


async def test_a_key_identifies_its_member(world):
    principal = await by_key(world)
    assert principal.member.id == "ada"
    assert principal.organisation.id == "acme"
    assert (principal.kind, principal.credential_id, principal.scopes) == (
        "api_key",
        "key-1",
        ("read",),
    )
    assert principal.epoch == world.directory.epoch
    assert len(principal.subject_key) == 32


async def test_k20_neither_key_nor_subject_key_is_in_any_repr(world):
    principal = await by_key(world)
    shown = repr(principal) + repr(world.identifier)
    assert world.key not in shown
    assert repr(principal.subject_key)[2:-1] not in shown
    with pytest.raises(Refused) as caught:
        await world.bearer(mint().text)
    assert "sk-sg" not in repr(caught.value) + str(caught.value)


KEY_ENDS = {
    "revoked": ("credentials", "key-1", {"status": "revoked"}),
    "suspended": ("credentials", "key-1", {"status": "suspended"}),
    "member revoked": ("members", "ada", {"status": "revoked"}),
    "organisation withdrawn": ("organisations", "acme", {"status": "withdrawn"}),
}


@pytest.mark.parametrize("case", KEY_ENDS)
async def test_a_key_that_ended_reads_like_one_that_never_was(world, case):
    before = await by_key(world)
    table, entity_id, fields = KEY_ENDS[case]
    changed(world, table, entity_id, **fields)
    with pytest.raises(Refused) as ended:
        await by_key(world)
    with pytest.raises(Refused) as unknown:
        await world.bearer(mint().text)
    assert ended.value.refusal is unknown.value.refusal is KEY_REFUSED
    assert world.identifier.refresh(before) is None


@pytest.mark.parametrize(("table", "entity_id"), [("members", "ada"), ("organisations", "acme")])
async def test_who_is_suspended_is_identified_so_that_the_rules_deny_him(world, table, entity_id):
    before = await by_key(world)
    changed(world, table, entity_id, status="suspended")
    for principal in (await by_key(world), world.identifier.refresh(before)):
        assert "suspended" in {principal.member.status, principal.organisation.status}


async def test_rows_that_are_gone_or_erased_identify_nobody(world):
    before = await by_key(world)
    for table, entity_id in (
        ("credentials", "key-1"),
        ("members", "ada"),
        ("organisations", "acme"),
    ):
        held = getattr(world.directory, table).pop(entity_id)
        world.directory.generation += 1
        with pytest.raises(Refused):
            await by_key(world)
        assert world.identifier.refresh(before) is None
        getattr(world.directory, table)[entity_id] = held
        world.directory.generation += 1
    assert world.identifier.refresh(before) == before
    del world.directory.keys["ada"]
    world.directory.generation += 1
    with pytest.raises(Refused):
        await by_key(world)
    assert world.identifier.refresh(before) is None


@pytest.mark.parametrize("how", ["forget", "refresh"])
async def test_an_erased_members_key_is_not_kept_until_the_next_call(world, how):
    before = await by_key(world)
    world.identifier.forget()
    assert before in world.identifier._known.values()  # nothing changed, nothing is forgotten
    del world.directory.keys["ada"]
    world.directory.generation += 1
    if how == "forget":
        world.identifier.forget()
    else:
        assert world.identifier.refresh(before) is None
    assert not world.identifier._known


async def test_a_key_ends_at_its_second_and_a_clock_set_back_does_not_revive_it(world):
    changed(world, "credentials", "key-1", expires_at=timestamp(world.time.now + 10))
    world.time.now += 9.9
    before = await by_key(world)
    world.time.now += 0.1
    with pytest.raises(Refused):
        await by_key(world)
    assert world.identifier.refresh(before) is None
    world.time.now -= 3600
    with pytest.raises(Refused):
        await by_key(world)


async def test_refresh_shows_the_registry_as_it_is_now(world):
    before = await by_key(world)
    changed(world, "members", "ada", tiers={"cyber": 2})
    changed(world, "credentials", "key-1", scopes=())
    after = world.identifier.refresh(before)
    assert (after.member.tiers, after.scopes) == ({"cyber": 2}, ())
    assert after.epoch > before.epoch


async def test_a_key_that_was_moved_to_another_member_ends_the_first_ones_calls(world):
    before = await by_key(world)
    changed(world, "credentials", "key-1", member="eve")
    assert world.identifier.refresh(before) is None


async def test_a_key_costs_no_fetch_and_few_lookups(world):
    world.directory.lookups = 0
    await by_key(world)
    assert world.directory.lookups == 3
    assert world.issuing.visits == []


async def test_a_directory_that_answers_with_another_hash_is_not_believed(world):
    other = Credential(id="key-2", member="ada", sha256="0" * 64, prefix="sk-sg-x")
    world.directory.credential = lambda _: other
    with pytest.raises(Refused) as caught:
        await by_key(world)
    assert caught.value.refusal.reason is Reason.CREDENTIAL_INVALID


async def test_a_token_is_refreshed_without_its_text_until_it_or_its_issuer_ends(world):
    token = world.issuing.sign(world.issuing.claims(world.time, scope="read", sluicegate_tiers={}))
    before = await world.bearer(token)
    changed(world, "members", "ada", tiers={"cyber": 1})
    after = world.identifier.refresh(before)
    assert after.member.tiers == {"cyber": 1}
    assert (after.scopes, after.tiers_cap) == (("read",), {})
    for table, entity_id, fields in (
        ("issuers", "idp", {"status": "revoked"}),
        ("issuers", "idp", {"status": "suspended"}),
        ("issuers", "idp", {"organisation": "other"}),
        ("members", "ada", {"status": "revoked"}),
        ("members", "ada", {"external_id": "someone-else"}),
        ("organisations", "acme", {"status": "withdrawn"}),
    ):
        held = getattr(world.directory, table)[entity_id]
        changed(world, table, entity_id, **fields)
        assert world.identifier.refresh(before) is None, fields
        world.directory.put(held)
    assert world.identifier.refresh(before) is not None
    world.time.now += 600
    assert world.identifier.refresh(before) is None


async def test_k9_who_is_remembered_is_forgotten_with_any_change_of_the_snapshot(world):
    """Also with one that starts over at the same epoch, as after a row was found tampered with."""
    rows = world.directory
    snapshot = Snapshot()
    everything = [*rows.organisations.values(), *rows.members.values(), *rows.credentials.values()]
    snapshot.apply(delta_of(None, 3, put=everything, subject_keys=rows.keys))
    identifier = Identifier(snapshot, Clock(world.time, world.time), world.issuing.fetch)
    fields = {b"x-api-key": world.key.encode()}
    first = await identifier.identify(fields)
    assert await identifier.identify(fields) is first
    without = [each for each in everything if not isinstance(each, Credential)]
    snapshot.apply(delta_of(None, 3, put=without, subject_keys=rows.keys))
    with pytest.raises(Refused):
        await identifier.identify(fields)
