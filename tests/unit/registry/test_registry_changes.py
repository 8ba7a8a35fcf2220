import msgspec
import pytest

from gateway.core.protocols import LogUnavailable
from gateway.registry.changes import Add, Change, ChangeRefused, Move, Set, apply
from gateway.registry.snapshot import Snapshot, decode_delta, encode_delta

from .conftest import key_fields


async def refused(house, change, reason="for the test"):
    before = house.snapshot.full()
    records = len(house.log.records)
    with pytest.raises(ChangeRefused) as caught:
        await house.change(change, reason)
    assert house.snapshot.full() == before
    assert len(house.log.records) == records
    assert caught.value.remedy
    return caught.value.message


async def test_a_change_is_recorded_then_stored_then_seen_and_told(house):
    told = []
    house.registry.subscribe(told.append)
    made = await house.change(Set("member", "newcomer", {"tiers": {"cyber": 1}}), " vetted ")
    assert house.log.records[-1] == made.record
    assert made.record.op == "member.set"
    assert (made.record.actor, made.record.reason) == ("operator", "vetted")
    assert (made.record.fields, made.record.tiers) == (("tiers",), (("cyber", 1),))
    assert made.record.epoch == house.snapshot.epoch
    earlier = [record for record in house.log.records if record.id == "newcomer"][-2]
    assert made.record.digest_before == earlier.digest_after
    row = house.by_hand("select record, epoch from members where id = 'newcomer'")
    assert row == [(str(made.position), house.snapshot.epoch)]
    assert house.snapshot.member("newcomer").tiers == {"cyber": 1}
    assert [delta.epoch for delta in told] == [house.snapshot.epoch]
    assert told[0].members == (made.entity,)


async def test_all_is_there_again_after_a_restart(house):
    before = house.snapshot.full()
    house.open()
    after = house.snapshot.full()
    assert house.registry.findings == []
    assert msgspec.structs.replace(after, epoch=before.epoch) == before
    assert after.epoch > before.epoch


async def test_every_member_has_a_subject_key_of_his_own_that_a_change_keeps(house):
    keys = [house.snapshot.subject_key(each) for each in ("newcomer", "blue", "red")]
    assert len({*keys}) == 3
    assert {len(key) for key in keys} == {32}
    await house.change(Set("member", "red", {"roles": ["reviewer"]}))
    assert house.snapshot.subject_key("red") == keys[2]
    raw = house.path.read_bytes() + house.path.with_name("registry.db-wal").read_bytes()
    assert not any(key in raw for key in keys)


@pytest.mark.parametrize("reason", ["", "   ", "a\nb", "x" * 501])
async def test_k64_a_change_without_a_reason_is_refused(house, reason):
    message = await refused(house, Set("member", "red", {"tiers": {"cyber": 4}}), reason)
    assert "reason" in message


async def test_a_key_is_added_with_time_left_or_not_at_all(house):
    over = key_fields("k2", sha256="cd" * 32, expires_at="2020-01-31T00:00:00Z")
    assert "expired already" in await refused(house, Add("credential", over))
    ahead = over | {"expires_at": "2099-01-31T00:00:00Z"}
    assert (await house.change(Add("credential", ahead))).entity.expires_at == ahead["expires_at"]
    ended = Set("credential", "k2", {"expires_at": "2020-01-31T00:00:00Z"})
    await house.change(ended)


async def test_the_author_is_a_label(house):
    with pytest.raises(ChangeRefused):
        await house.registry.change(Move("member", "red", "revoke"), actor="Röd", reason="x")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (Set("member", "nobody", {"tiers": {}}), "no member 'nobody'"),
        (Move("credential", "nothing", "revoke"), "no credential"),
        (Add("member", {"id": "red", "organisation": "acme", "name": "R"}), "already a member"),
        (Add("member", {"id": "Red", "organisation": "acme", "name": "R"}), "$.id"),
        (Add("member", {"id": "x", "organisation": "acme"}), "name"),
        (Add("member", {"id": "x", "organisation": "gone", "name": "X"}), "organisation 'gone'"),
        (Add("member", {"id": "x", "organisation": "acme", "name": "X", "admin": 1}), "admin"),
        (Add("organisation", {"id": "o", "name": "O", "status": "suspended"}), "active"),
        (Add("credential", key_fields("k2", member="nobody", sha256="cd" * 32)), "no member"),
        (Add("credential", key_fields("k2")), "registered already"),
        *[
            (Add("credential", key_fields("k2", sha256="cd" * 32, scopes=[scope])), "no scope")
            for scope in ("modle:m", "wire:chatt", "class:cyber", "downgrades", "model:", "foo")
        ],
        (
            Set("member", "red", {"vetting": [{"kind": "identity", "level": 2,
             "verified_at": "2027-01-01T00:00:00Z", "expires_at": "2026-01-01T00:00:00Z"}]}),
            "ends before it begins",
        ),
        (Add("credential", key_fields("k2", sha256="cd")), "$.sha256"),
        (Add("credential", key_fields("k2", sha256="cd" * 32, expires_at="2027-13-01T00:00:00Z")),
         "not a date"),
        (Set("member", "red", {"tiers": {"cyber": 10}}), "$.tiers"),
        (Set("member", "red", {"tiers": {"CYBER": 1}}), "$.tiers"),
        (Set("member", "red", {"tiers": 3}), "$.tiers"),
        (Set("member", "red", {"tiers": {"cyber": 3}}), "so already"),
        (Set("member", "red", {"status": "active"}), "no field 'status'"),
        (Set("member", "red", {"organisation": "other"}), "no field 'organisation'"),
        (Set("member", "red", {"nationalities": ["de"]}), "$.nationalities"),
        (Set("member", "red", {"vetting": [{"kind": "id", "level": 1, "verified_at": "now"}]}),
         "verified_at"),
        (Set("credential", "key-red", {"sha256": "cd" * 32}), "no field 'sha256'"),
        (Set("credential", "key-red", {"member": "blue"}), "no field 'member'"),
        (Set("issuer", "idp", {"organisation": "other"}), "no field 'organisation'"),
        (Set("issuer", "idp", {"algorithms": ["HS256"]}), "$.algorithms"),
        (Set("issuer", "idp", {"algorithms": []}), "$.algorithms"),
        (Set("issuer", "idp", {"jwks_uri": "http://id.acme.example/"}), "https"),
        (Set("organisation", "acme", {"retention": "Zero Days"}), "$.retention"),
        (Move("member", "red", "withdraw"), "never withdrawn"),
        (Move("organisation", "acme", "revoke"), "never revoked"),
        (Move("member", "red", "resume"), "so already"),
    ],
)  # fmt: skip
async def test_a_change_out_of_order_names_what_is_wrong_and_changes_nothing(house, change, words):
    assert words in await refused(house, change)


@pytest.mark.parametrize(
    ("kind", "entity_id", "verb"),
    [("member", "red", "revoke"), ("credential", "key-red", "revoke"),
     ("issuer", "idp", "revoke"), ("organisation", "acme", "withdraw")],
)  # fmt: skip
async def test_revoked_is_final(house, kind, entity_id, verb):
    await house.change(Move(kind, entity_id, verb))
    for change in (
        Move(kind, entity_id, "resume"),
        Move(kind, entity_id, "suspend"),
        Set(kind, entity_id, {"name": "again"}),
    ):
        assert "final" in await refused(house, change)
    house.open()
    assert house.snapshot.entity(kind, entity_id).status in {"revoked", "withdrawn"}


async def test_suspended_can_be_resumed(house):
    await house.change(Move("member", "red", "suspend"))
    assert house.snapshot.member("red").status == "suspended"
    await house.change(Move("member", "red", "resume"))
    assert house.snapshot.member("red").status == "active"


async def test_tiers_merge_by_domain_and_a_null_takes_one_away(house):
    made = await house.change(Set("member", "red", {"tiers": {"bio": 1}}))
    assert made.entity.tiers == {"cyber": 3, "bio": 1}
    assert made.notes == ("bio 1 is above the organisation's cap 0: the cap holds.",)
    made = await house.change(Set("member", "red", {"tiers": {"bio": None}}))
    assert made.entity.tiers == {"cyber": 3}
    assert made.notes == ()


async def test_expiries_never_move_later(house):
    first, later, earlier = "2027-06-01T00:00:00Z", "2027-06-02T00:00:00Z", "2027-05-01T00:00:00Z"
    await house.change(Set("credential", "key-red", {"expires_at": first}))
    for value in (later, None):
        assert "never move later" in await refused(
            house, Set("credential", "key-red", {"expires_at": value})
        )
    await house.change(Set("credential", "key-red", {"expires_at": earlier}))


async def test_k23_one_subject_and_one_issuer_mean_one_member_and_one_organisation(house):
    await house.change(Set("member", "red", {"external_id": "sub-1"}))
    assert "already has" in await refused(house, Set("member", "blue", {"external_id": "sub-1"}))
    await house.change(Add("organisation", {"id": "other", "name": "Other"}))
    again = msgspec.to_builtins(house.snapshot.issuer_by_id("idp")) | {
        "id": "idp2",
        "organisation": "other",
    }
    assert "one organisation only" in await refused(house, Add("issuer", again))
    assert "31" in await refused(house, Add("issuer", again | {"id": "i" * 32}))
    await house.change(Move("issuer", "idp", "revoke"))
    await house.change(Add("issuer", again))
    assert house.snapshot.issuer("https://id.acme.example").organisation == "other"
    house.open()
    assert house.snapshot.issuer("https://id.acme.example").organisation == "other"


async def test_nothing_changes_when_the_log_cannot_be_written(house):
    before = house.snapshot.full()
    house.log.broken = True
    with pytest.raises(LogUnavailable):
        await house.change(Set("member", "newcomer", {"tiers": {"cyber": 9}}))
    house.log.broken = False
    assert house.snapshot.full() == before
    house.open()
    assert house.registry.findings == []
    assert house.snapshot.member("newcomer").tiers == {"cyber": 0}


def test_changes_are_data():
    change = Set("member", "red", {"tiers": {"cyber": 1}})
    assert msgspec.json.decode(msgspec.json.encode(change), type=Change) == change
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"change":"set","kind":"admin","id":"x","fields":{}}', type=Change)


async def test_apply_is_pure(house):
    copy = Snapshot()
    copy.apply(decode_delta(encode_delta(house.snapshot.full())))
    apply(copy, Move("member", "red", "revoke"))
    assert copy.full() == house.snapshot.full()


# Legal hold and erasure


async def revoked(house, member="red"):
    await house.change(Move("member", member, "revoke"))
    return house.snapshot.subject_key(member)


def on_disk(house):
    return b"".join(path.read_bytes() for path in house.path.parent.glob("registry.db*"))


async def test_an_erased_members_key_is_in_no_file_and_no_snapshot_and_stays_gone(house):
    await revoked(house)
    wrapped = house.by_hand("select wrapped from subject_keys where member = 'red'")[0][0]
    assert wrapped in on_disk(house)  # so the search below can find it
    told = []
    house.registry.subscribe(told.append)
    made = await house.change(Move("member", "red", "erase"), "he asked for it")
    assert (made.record.op, made.record.reason) == ("member.erase", "he asked for it")
    assert wrapped not in on_disk(house)
    assert b"Red" not in on_disk(house)  # nor what the registry knew of him
    assert house.snapshot.subject_key("red") is None
    assert house.snapshot.member("red").erased
    follower = Snapshot()
    follower.apply(house.snapshot.full())
    assert follower.subject_key("red") is None
    worker = Snapshot()
    worker.apply(msgspec.structs.replace(told[0], since=None))
    assert worker.subject_key("red") is None
    house.open()
    assert house.registry.findings == []
    assert house.snapshot.subject_key("red") is None
    assert house.snapshot.subject_key("blue") is not None
    assert "copies of registry.db" in made.notes[0]


async def test_a_key_that_comes_back_from_a_copy_is_tampering(house):
    await revoked(house)
    wrapped = house.by_hand("select wrapped from subject_keys where member = 'red'")[0][0]
    await house.change(Move("member", "red", "erase"))
    house.by_hand("update subject_keys set wrapped = ? where member = 'red'", wrapped)
    house.registry.check()
    assert house.codes() == [("registry.tampered", "member", "red")]
    house.open()
    assert house.codes() == [("registry.tampered", "member", "red")]
    assert house.snapshot.subject_key("red") is None


async def test_nothing_of_a_held_member_is_erased_until_he_is_released(house):
    await house.change(Move("member", "red", "hold"))
    key = await revoked(house)
    assert "legal hold" in await refused(house, Move("member", "red", "erase"))
    assert house.snapshot.subject_key("red") == key
    house.open()
    assert "legal hold" in await refused(house, Move("member", "red", "erase"))
    await house.change(Move("member", "red", "release"))
    await house.change(Move("member", "red", "erase"))
    assert house.snapshot.subject_key("red") is None


async def test_only_a_revoked_member_is_erased_and_once(house):
    assert "only who is revoked" in await refused(house, Move("member", "red", "erase"))
    await revoked(house)
    await house.change(Move("member", "red", "hold"))  # a hold reaches who is revoked
    assert "is so already" in await refused(house, Move("member", "red", "hold"))
    await house.change(Move("member", "red", "release"))
    await house.change(Move("member", "red", "erase"))
    assert "destroyed already" in await refused(house, Move("member", "red", "erase"))
    assert "destroyed already" in await refused(house, Move("member", "red", "hold"))
    assert "final" in await refused(house, Move("member", "red", "resume"))
    assert "Only of members" in await refused(house, Move("organisation", "acme", "hold"))


async def test_an_erasure_that_cannot_be_recorded_is_not_made(house):
    key = await revoked(house)
    house.log.broken = True
    with pytest.raises(LogUnavailable):
        await house.change(Move("member", "red", "erase"))
    assert house.snapshot.subject_key("red") == key
