"""Every change carries its row, and the key that seals it is the right person's."""

import pytest

from gateway.core.protocols import LogUnavailable
from gateway.registry.changes import Add, ChangeRefused, Move, Set
from gateway.registry.mac import KeyFileRefused
from gateway.registry.registry import ROW_KEY_FILE
from gateway.registry.rows import digest_of
from gateway.registry.subject_keys import unwrap


def last(house, kind, entity):
    return [each for each in house.log.records if (each.kind, each.id) == (kind, entity)][-1]


def stored_key(house, member):
    """What a later start would find; not what is in memory."""
    master = (house.keys / "subject-master.key").read_bytes()
    found = house.by_hand("select wrapped from subject_keys where member = ?", member)
    return unwrap(master, member, found[0][0]) if found else None


async def test_every_record_carries_exactly_the_row_that_is_stored(house):
    await house.change(Set("member", "red", {"tiers": {"cyber": 1}}))
    rows = {
        (kind, entity): body
        for kind in ("organisation", "member", "credential", "issuer")
        for entity, body in house.by_hand(f"select id, body from {kind}s")
    }
    for key, body in rows.items():
        record = last(house, *key)
        assert record.body == body
        assert record.digest_after == digest_of(record.kind, record.body)
    assert len(rows) == 6


async def test_a_member_and_his_keys_are_sealed_for_him_and_the_rest_for_nobody(house):
    row_key = (house.keys / ROW_KEY_FILE).read_bytes()
    for kind, entity, owner in (
        ("organisation", "acme", ""),
        ("issuer", "idp", ""),
        ("member", "red", "red"),
        ("credential", "key-red", "red"),
        ("member", "blue", "blue"),
    ):
        record = last(house, kind, entity)
        assert record.sealed_for == owner
        assert record.key == (house.snapshot.subject_key(owner) if owner else row_key)
    assert len({each.key for each in house.log.records}) == 4
    shown = repr(house.log.records)
    assert "Newcomer" not in shown
    assert repr(row_key) not in shown


async def test_a_new_members_key_is_kept_before_his_first_record(house):
    before = len(house.log.records)
    house.log.broken = True
    new = Add("member", {"id": "late", "organisation": "acme", "name": "Late"})
    with pytest.raises(LogUnavailable):
        await house.change(new)
    key = stored_key(house, "late")
    assert key is not None
    assert house.snapshot.member("late") is None
    house.log.broken = False
    house.open()
    assert house.codes() == []
    assert house.snapshot.subject_key("late") is None
    await house.change(new)
    assert house.log.records[before].key == key == house.snapshot.subject_key("late")


async def test_a_change_keeps_the_members_key_and_erasure_ends_it(house):
    red = house.snapshot.subject_key("red")
    await house.change(Set("member", "red", {"residence": "DE"}))
    assert last(house, "member", "red").key == red
    await house.change(Move("member", "red", "revoke"))
    await house.change(Move("member", "red", "erase"))
    gone = last(house, "member", "red")
    assert (gone.sealed_for, gone.key) == ("", (house.keys / ROW_KEY_FILE).read_bytes())
    assert '"erased":true' in gone.body
    assert "Red" not in gone.body
    assert stored_key(house, "red") is None
    await house.change(Move("credential", "key-red", "revoke"))
    after = last(house, "credential", "key-red")
    assert (after.sealed_for, after.key) == ("red", b"")


async def test_a_row_that_no_frame_could_hold_is_refused_before_anything_is_recorded(house):
    before = len(house.log.records)
    roles = [f"role-{number:055}" for number in range(1200)]
    with pytest.raises(ChangeRefused, match="at most 65536"):
        await house.change(Set("member", "red", {"roles": roles}))
    assert len(house.log.records) == before


async def test_an_older_registry_gets_the_key_once_and_a_lost_one_is_missed(house):
    path = house.keys / ROW_KEY_FILE
    house.close()
    path.unlink()
    with pytest.raises(KeyFileRefused, match="registry-rows"):
        house.open()
    house.by_hand("delete from meta where name = 'row_key'")  # as one that is older than the key
    house.open()
    assert len(path.read_bytes()) == 32
    house.close()
    path.unlink()
    with pytest.raises(KeyFileRefused):
        house.open()
