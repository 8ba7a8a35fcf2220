"""Whoever can write the file, and nothing else, can only take access away, and is noticed."""

import asyncio
import os
import sqlite3
import stat

import msgspec
import pytest

from gateway.registry.changes import Add, ChangeRefused, Move, Set
from gateway.registry.mac import KeyFileRefused, MacKey, load_secret
from gateway.registry.registry import RegistryUnavailable
from gateway.registry.rows import Row
from gateway.registry.store import Store, StoreUnavailable

from .conftest import key_fields

RAISE = "update members set body = replace(body, '\"cyber\":2', '\"cyber\":9') where id = 'blue'"


def unchanged(house):
    pass


def raise_tier(house):
    house.by_hand(RAISE)


def swap_macs(house):
    rows = house.by_hand("select id, mac from members where id in ('blue', 'red') order by id")
    house.by_hand("update members set mac = ? where id = 'blue'", rows[1][1])


def take_anothers_row(house):
    """A whole valid row under another id: blue becomes red."""
    values = house.by_hand("select body, record, epoch, mac from members where id = 'red'")[0]
    house.by_hand("update members set body=?, record=?, epoch=?, mac=? where id = 'blue'", *values)


def edit_record(house):
    house.by_hand("update members set record = 'log.example/1#0' where id = 'blue'")


def edit_epoch(house):
    house.by_hand("update members set epoch = epoch + 1 where id = 'blue'")


def blank_mac(house):
    house.by_hand("update members set mac = '' where id = 'blue'")


def not_text(house):
    house.by_hand("update members set body = x'ff00fe' where id = 'blue'")


def not_utf8(house):
    house.by_hand("update members set body = cast(x'ff00fe' as text) where id = 'blue'")


def odd_types(house):
    house.by_hand("update members set mac = 7, epoch = 'x', record = x'00' where id = 'blue'")


def rename(house):
    house.by_hand("update members set id = 'bleu' where id = 'blue'")


def delete(house):
    house.by_hand("delete from members where id = 'blue'")


def delete_key(house):
    house.by_hand("delete from subject_keys where member = 'blue'")


def move_key(house):
    house.by_hand(
        "update subject_keys set wrapped = (select wrapped from subject_keys where member = 'red')"
        " where member = 'blue'"
    )


TAMPERING = [
    raise_tier, swap_macs, take_anothers_row, edit_record, edit_epoch, blank_mac, not_text,
    not_utf8, odd_types, rename, delete, delete_key, move_key,
]  # fmt: skip


def test_negative_control_writing_nothing_finds_nothing(house):
    house.by_hand("create table scratch (x)")
    assert house.registry.check() == []
    house.open()
    assert house.registry.findings == []


@pytest.mark.parametrize("tamper", TAMPERING)
async def test_tampering_while_running_only_narrows_and_alarms(house, tamper):
    others = {each: house.snapshot.member(each) for each in ("newcomer", "red")}
    told = []
    house.registry.subscribe(told.append)
    tamper(house)
    findings = house.registry.check()
    assert house.snapshot.member("blue") is None
    assert house.snapshot.subject_key("blue") is None
    assert ("member", "blue") in {(found.kind, found.id) for found in findings}
    assert house.alarms == findings
    assert told[0].gone == (("member", "blue"),)
    assert {each: house.snapshot.member(each) for each in others} == others
    assert house.registry.check() == []


@pytest.mark.parametrize("tamper", TAMPERING)
async def test_tampering_while_stopped_only_narrows_and_is_found(house, tamper):
    house.close()
    tamper(house)
    house.open()
    assert house.snapshot.member("blue") is None
    assert ("member", "blue") in {(found.kind, found.id) for found in house.registry.findings}
    assert house.snapshot.member("red").tiers == {"cyber": 3}
    assert house.snapshot.member("bleu") is None


@pytest.mark.parametrize("running", [True, False])
async def test_an_older_row_that_once_was_valid_is_not_believed_again(raised, running):
    house, old = raised
    if not running:
        house.close()
    house.by_hand("update members set body=?, record=?, epoch=?, mac=? where id = 'blue'", *old)
    if running:
        house.registry.check()
    else:
        house.open()
    assert house.snapshot.member("blue") is None
    assert house.codes() == [("registry.lost", "member", "blue")]


@pytest.mark.parametrize("running", [True, False])
async def test_a_revoked_key_cannot_be_put_back(house, running):
    old = house.by_hand("select body, record, epoch, mac from credentials")[0]
    await house.change(Move("credential", "key-red", "revoke"))
    if not running:
        house.close()
    house.by_hand("update credentials set body=?, record=?, epoch=?, mac=?", *old)
    if running:
        house.registry.check()
    else:
        house.open()
    assert house.snapshot.credential("ab" * 32) is None
    assert len(house.registry.findings) == 1


async def test_a_whole_older_file_is_not_believed_for_what_changed_since(house):
    house.close()
    copy = house.path.read_bytes()
    house.open()
    await house.change(Set("member", "red", {"tiers": {"cyber": 1}}))
    await house.change(Move("credential", "key-red", "revoke"))
    house.close()
    house.path.write_bytes(copy)
    house.open()
    assert house.snapshot.member("red") is None
    assert house.snapshot.credential("ab" * 32) is None
    assert house.snapshot.member("blue") is not None


async def test_a_row_made_with_another_mac_key_is_not_believed(house):
    house.close()
    forger = MacKey(bytes(range(32)))
    body = house.by_hand("select body from members where id = 'blue'")[0][0].replace("2", "9", 1)
    row = forger.tagged(Row("member", "blue", body, "log.example/1#2", 3, ""))
    house.by_hand("update members set body=?, mac=? where id = 'blue'", row.body, row.mac)
    house.open()
    assert house.codes() == [("registry.tampered", "member", "blue")]


async def test_a_new_row_by_hand_lets_nobody_in(house):
    house.by_hand(
        "insert into credentials"
        " select 'mine', replace(body, 'key-red', 'mine'), record, epoch, mac from credentials"
    )
    assert [found.code for found in house.registry.check()] == ["registry.unrecorded"]
    assert house.snapshot.credential_by_id("mine") is None
    house.open()
    assert house.snapshot.credential_by_id("mine") is None
    assert house.codes() == [("registry.tampered", "credential", "mine")]


async def test_what_was_left_out_is_stated_anew_with_its_reason_and_keeps_its_subject_key(house):
    key = house.snapshot.subject_key("blue")
    raise_tier(house)
    house.registry.check()
    with pytest.raises(ChangeRefused):
        await house.change(Set("member", "blue", {"tiers": {"cyber": 1}}))
    fields = {"id": "blue", "organisation": "acme", "name": "Blue", "tiers": {"cyber": 2}}
    await house.change(Add("member", fields), "restated after tampering")
    assert house.registry.findings == []
    assert house.snapshot.subject_key("blue") == key
    house.open()
    assert house.registry.findings == []
    assert house.snapshot.member("blue").tiers == {"cyber": 2}


async def test_tampering_is_seen_before_a_change_could_write_over_it(house):
    raise_tier(house)
    with pytest.raises(ChangeRefused):
        await house.change(Set("member", "blue", {"roles": ["reviewer"]}))
    assert [found.code for found in house.alarms] == ["registry.tampered"]


async def test_watch_looks_by_itself(house):
    found = asyncio.Event()
    house.registry.on_finding = lambda _: found.set()
    watching = asyncio.create_task(house.registry.watch(0.001))
    await asyncio.sleep(0.005)
    raise_tier(house)
    await asyncio.wait_for(found.wait(), 5)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert house.snapshot.member("blue") is None


@pytest.mark.parametrize("fate", ["replaced", "removed"])
async def test_a_file_replaced_under_us_alarms_and_stops_changes(house, fate):
    before = house.snapshot.full()
    if fate == "replaced":
        other = house.path.with_suffix(".other")
        sqlite3.connect(other).close()
        other.touch(0o600)
        other.rename(house.path)
    else:
        house.path.unlink()
    assert [found.code for found in house.registry.check()] == ["registry.replaced"]
    with pytest.raises(RegistryUnavailable):
        await house.change(Move("member", "red", "revoke"))
    assert house.snapshot.full() == before


async def test_a_file_that_is_locked_alarms_and_recovers(house, monkeypatch):
    def locked():
        raise StoreUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(house.registry._store, "data_version", locked)
        assert [found.code for found in house.registry.check()] == ["registry.unreadable"]
        with pytest.raises(RegistryUnavailable):
            await house.change(Move("member", "red", "suspend"))
    await house.change(Move("member", "red", "suspend"))
    assert house.registry.findings == []


async def test_a_crash_between_record_and_row_denies_until_restated(house, monkeypatch):
    """The log has the change, the file does not, and the process is gone."""

    def died(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(house.registry, "_store_row", died)
    commit = house.registry._commit(Set("member", "red", {"tiers": {"cyber": 1}}), "op", "lower")
    with pytest.raises(KeyboardInterrupt):
        await commit
    assert house.log.records[-1].id == "red"
    house.open()
    assert house.snapshot.member("red") is None
    assert house.codes() == [("registry.lost", "member", "red")]
    assert "sluicegate member add red" in house.registry.findings[0].remedy
    fields = {"id": "red", "organisation": "acme", "name": "Red", "tiers": {"cyber": 1}}
    await house.change(Add("member", fields))
    house.open()
    assert house.registry.findings == []


async def test_a_new_entity_recorded_and_never_stored_is_found(house, monkeypatch):
    monkeypatch.setattr(house.registry, "_store_row", lambda *_: (_ for _ in ()).throw(OSError))
    with pytest.raises(OSError):  # noqa: PT011 - ours, from the line above
        await house.change(Add("organisation", {"id": "late", "name": "Late"}))
    house.open()
    assert house.codes() == [("registry.lost", "organisation", "late")]


async def test_a_row_that_cannot_be_stored_is_left_out_at_once(house, monkeypatch):
    def full(*_):
        raise StoreUnavailable

    monkeypatch.setattr(house.registry._store, "put", full)
    with pytest.raises(RegistryUnavailable):
        await house.change(Set("member", "red", {"tiers": {"cyber": 1}}))
    assert house.snapshot.member("red") is None
    assert [found.code for found in house.alarms] == ["registry.lost"]


async def test_a_change_once_begun_is_finished_though_its_caller_leaves(house):
    house.log.gate = asyncio.Event()
    call = asyncio.create_task(house.change(Move("member", "red", "revoke")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    house.log.gate.set()
    await asyncio.gather(*house.registry._commits)
    assert house.snapshot.member("red").status == "revoked"
    house.open()
    assert house.registry.findings == []


async def test_changes_at_once_are_made_one_after_another(house):
    await asyncio.gather(
        *(house.change(Set("member", "red", {"tiers": {f"d{n}": 1}})) for n in range(20))
    )
    assert len(house.snapshot.member("red").tiers) == 21
    epochs = [record.epoch for record in house.log.records]
    assert epochs == sorted(set(epochs))


async def test_unrecorded_rows_of_a_registry_whose_log_was_lost_are_left_out(house):
    house.log.records.clear()
    house.open()
    assert house.snapshot.entities("member") == ()
    assert {found.code for found in house.registry.findings} == {"registry.unrecorded"}


def test_the_file_and_its_companions_are_ours_alone(house):
    files = [house.path, house.path.with_name("registry.db-wal"), *house.keys.iterdir()]
    assert len(files) == 5
    assert {stat.S_IMODE(each.stat().st_mode) for each in files} == {0o600}


def test_k21_a_registry_that_lost_its_keys_does_not_start_with_new_ones(house):
    house.close()
    for name in ("registry-mac.key", "subject-master.key", "registry-rows.key"):
        held = (house.keys / name).read_bytes()
        (house.keys / name).unlink()
        with pytest.raises(KeyFileRefused):
            house.open()
        assert not (house.keys / name).exists()
        (house.keys / name).touch(0o600)
        (house.keys / name).write_bytes(held)
    house.open()
    assert house.registry.findings == []


@pytest.mark.parametrize(
    "secret", [b"", b"short", b"x" * 31, b"x" * 33, bytes(32), b"x" * 32, b"abcd" * 8]
)
def test_k21_an_empty_short_or_typed_key_is_refused(tmp_path, secret):
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_bytes(secret)
    with pytest.raises(KeyFileRefused):
        load_secret(path, create=True)


def test_k21_a_key_that_others_can_read_or_that_is_a_link_is_refused(tmp_path):
    path = tmp_path / "key"
    assert len(load_secret(path, create=True)) == 32
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(KeyFileRefused):
        load_secret(link, create=False)
    path.chmod(0o640)
    with pytest.raises(KeyFileRefused):
        load_secret(path, create=False)
    with pytest.raises(KeyFileRefused):
        load_secret(tmp_path / "absent", create=False)
    with pytest.raises(ValueError, match="32 bytes"):
        MacKey(b"")


def test_a_file_that_is_no_private_registry_of_ours_is_refused(tmp_path):
    open_to_all = tmp_path / "open.db"
    open_to_all.touch()
    open_to_all.chmod(0o644)
    text = tmp_path / "text.db"
    text.touch(0o600)
    text.write_text("not a database, but long enough to have had a header" * 100)
    other = tmp_path / "other.db"
    connection = sqlite3.connect(other)
    connection.execute("create table x (y)")
    connection.close()
    other.chmod(0o600)
    link = tmp_path / "link.db"
    link.symlink_to(other)
    for path in (open_to_all, text, other, link, tmp_path / "no" / "where.db"):
        with pytest.raises(StoreUnavailable):
            Store(path)


def test_a_registry_of_a_later_schema_is_refused(house):
    house.close()
    house.by_hand("update meta set value = 2 where name = 'schema'")
    with pytest.raises(StoreUnavailable):
        house.open()


def test_the_epoch_does_not_go_back_when_someone_sets_it_back(house):
    epoch = house.snapshot.epoch
    house.close()
    house.by_hand("update meta set value = 0 where name = 'epoch'")
    house.open()
    assert house.snapshot.epoch >= epoch


@pytest.mark.parametrize(
    "change", [{"id": "b"}, {"kind": "member"}, {"body": "{}"}, {"record": "x#1"}, {"epoch": 2}]
)
def test_a_mac_covers_every_part_of_its_row(change):
    key = MacKey(os.urandom(32))
    row = key.tagged(Row("credential", "a", '{"id":"a"}', "x#0", 1, ""))
    assert key.good(row)
    assert not key.good(msgspec.structs.replace(row, **change))


# What was taken does not come back with a row that is stated anew

TAKEN = {
    "suspended": [Move("member", "red", "suspend")],
    "revoked": [Move("member", "red", "revoke")],
    "held": [Move("member", "red", "hold")],
    "revoked and held": [Move("member", "red", "hold"), Move("member", "red", "revoke")],
    "erased": [Move("member", "red", "revoke"), Move("member", "red", "erase")],
}


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("taken", TAKEN)
async def test_a_damaged_row_that_is_stated_anew_keeps_what_was_taken(house, taken, restart):
    for change in TAKEN[taken]:
        await house.change(change)
    before = house.snapshot.member("red")
    house.by_hand("update members set mac = '0' where id = 'red'")
    if restart:
        house.open()
    else:
        house.registry.check()
    assert house.snapshot.member("red") is None
    fields = {"id": "red", "organisation": "acme", "name": "Red", "tiers": {"cyber": 3}}
    await house.change(Add("member", fields), "stated anew, as we were told")
    for _ in range(2):
        after = house.snapshot.member("red")
        assert (after.status, after.held, after.erased) == (
            before.status,
            before.held,
            before.erased,
        )
        assert (house.snapshot.subject_key("red") is None) == before.erased
        house.open()
        assert house.registry.findings == []
    if before.held:
        with pytest.raises(ChangeRefused, match="legal hold"):
            await house.change(Move("member", "red", "erase"))


async def test_a_revoked_key_and_a_withdrawn_organisation_stay_so(house):
    await house.change(Move("credential", "key-red", "revoke"))
    await house.change(Move("organisation", "acme", "withdraw"))
    house.by_hand("update credentials set mac = '0'")
    house.by_hand("update organisations set mac = '0'")
    house.open()
    await house.change(Add("organisation", {"id": "acme", "name": "Acme"}))
    await house.change(Add("credential", key_fields()))
    assert house.snapshot.organisation("acme").status == "withdrawn"
    assert house.snapshot.credential_by_id("key-red").status == "revoked"


@pytest.mark.parametrize("mark", ["held", "erased"])
async def test_nobody_is_added_as_held_or_erased(house, mark):
    fields = {"id": "new", "organisation": "acme", "name": "New", mark: True}
    with pytest.raises(ChangeRefused, match="Nobody is added as"):
        await house.change(Add("member", fields))
