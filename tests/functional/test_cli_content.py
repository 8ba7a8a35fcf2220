"""``content keygen`` and ``content prune``, and what verify and doctor say of content."""

from __future__ import annotations

import hashlib
import sqlite3
import stat
import time

import pytest

from gateway.app.opening import open_log
from gateway.audit import records as r
from gateway.audit.content import Part, keyed_digest, new_role_key, parse_role_key
from gateway.audit.content_store import (
    ContentMissing,
    content_of,
    content_segments,
    pieces,
)
from gateway.audit.content_writer import Content
from gateway.audit.verify import main as sluicegate_verify
from gateway.core.role_keys import Role
from gateway.registry.mac import load_secret
from gateway.registry.registry import MASTER_KEY_FILE
from gateway.registry.store import Store
from gateway.registry.subject_keys import unwrap
from gateway.settings import load
from tests.functional.command_line import Operator
from tests.functional.test_cli_audit import intent, outcome

DAY_S = 86_400
OLD, YOUNG = 40 * DAY_S, 0


class Keeper(Operator):
    """An operator whose gateway seals content; he writes as a data worker does."""

    def __init__(self, home):
        super().__init__(home)
        self.keys = [new_role_key(role) for role in Role]
        reviewer, approver = (key.public.text for key in self.keys)
        self.configure(content={"reviewer": reviewer, "approver": approver})
        self.change("org", "add", "acme", "--tier", "cyber=3")
        for member in ("red", "blue"):
            self.change("member", "add", member, "--org", "acme", "--tier", "cyber=2")

    def member_key(self, member):
        store = Store(self.state.registry)
        try:
            wrapped = store.wrapped_keys()[member]
        finally:
            store.close()
        return unwrap(load_secret(self.state.keys / MASTER_KEY_FILE, create=False), member, wrapped)

    def calls(self, age_s, *members):
        """One call of each member with sealed content, so long ago; numbered from what there is."""
        number = len(list(self.records("data-0"))) if self.state.log("data-0").exists() else 0
        log = open_log(self.state, "data-0", load(self.config, dev=True))
        log._wall = lambda: time.time_ns() - age_s * 10**9
        with log:
            for member in members:
                number += 1
                data, key = f"said by {member} {number}".encode(), self.member_key(member)
                digest = keyed_digest(key, hashlib.sha256(data).digest())
                content = Content(data, member, key, digest)
                subject = r.SubjectRef(
                    id=member, org="acme", kind="member", credential="c", cred_kind="api_key"
                )
                asked = intent(number)
                log.append_sync(r.msgspec.structs.replace(asked, subject=subject), content=content)
                log.append_sync(outcome(number))

    def sealed(self):
        """Of each member whose content can be found, how many pieces."""
        found = []
        for record in self.records("data-0"):
            if record["type"] == "access.intent":
                try:
                    content_of(self.state.content("data-0"), record, Part.REQUEST)
                    found.append(record["subject"]["id"])
                except ContentMissing:
                    continue
        return found

    def prune(self, code=0):
        return self.change("content", "prune", "--json", code=code, reason="its time is over")

    def verified(self, code=0):
        keys = [part for vkey in self.state.vkeys().values() for part in ("--key", vkey)]
        assert sluicegate_verify([str(self.state.root), *keys]) == code
        said = self("audit", "verify", "--json", *keys, code=code).json
        return {each["shard"]: each for each in said["shards"]}["data-0"]

    def doctor(self, code=0):
        said = self("audit", "doctor", "--json", code=code).json
        return {check["what"]: check for check in said["checks"]}["content of data-0"]


@pytest.fixture
def keeper(tmp_path):
    return Keeper(tmp_path)


# Keys


@pytest.mark.parametrize("role", list(Role))
def test_a_role_makes_its_key_and_the_gateway_takes_the_public_line(tmp_path, role):
    operator = Operator(tmp_path)
    path = tmp_path / "role.key"
    said = operator.bare("content", "keygen", role, "-o", str(path)).out
    key = parse_role_key(path.read_text())
    assert key.role is role
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_text().split()) == 1
    line = said.splitlines()[-1].split()[-1]
    assert line == key.public.text
    assert key.text not in said
    again = operator.bare("content", "keygen", role, "-o", str(path), code=2).err
    assert "never overwritten" in again
    assert parse_role_key(path.read_text()).text == key.text
    other = tmp_path / "other.key"
    told = operator.bare("content", "keygen", role, "-o", str(other), "--json").json
    assert told == {
        "role": role,
        "private": str(other),
        "public": parse_role_key(other.read_text()).public.text,
    }


def test_keygen_says_what_is_wrong(tmp_path):
    operator = Operator(tmp_path)
    nowhere = str(tmp_path / "nowhere" / "key")
    assert "may write" in operator.bare("content", "keygen", "reviewer", "-o", nowhere, code=3).err
    assert operator.bare("content", "keygen", "auditor", "-o", nowhere, code=2).err
    assert operator.bare("content", "keygen", "reviewer", code=2).err


# Pruning


def test_old_content_goes_on_the_record_and_is_no_damage(keeper):
    keeper.calls(OLD, "red", "blue", "red")
    keeper.calls(YOUNG, "red")
    assert keeper.verified()["content"] == 4
    told = keeper.prune().json
    assert (told["pieces"], told["held"], told["records"]) == (3, 0, 1)
    assert keeper.sealed() == ["red"]
    (record,) = [each for each in keeper.records() if each["type"] == "content.pruned"]
    assert record["origin"] == "sluicegate/data-0"
    assert record["reason"] == "its time is over"
    assert (record["pieces"], record["before"]) == (3, told["before"])
    after = keeper.verified()
    assert (after["content"], after["pruned"]) == (1, 3)
    assert keeper.doctor()["verdict"] == "ok"
    again = keeper.prune().json
    assert (again["pieces"], again["records"]) == (0, 0)
    assert "3 removed" in keeper("audit", "tail", "--type", "content").out
    said = keeper.change("content", "prune", reason="again").out
    assert said.startswith("removed 0 pieces (0 bytes) of days before ")


def test_what_is_held_stays_until_it_is_released(keeper):
    keeper.calls(OLD, "red", "blue", "red", "blue")
    keeper.change("member", "hold", "blue", reason="court order")
    told = keeper.prune().json
    assert (told["pieces"], told["held"]) == (2, 2)
    assert keeper.sealed() == ["blue", "blue"]
    assert (keeper.verified()["content"], keeper.verified()["pruned"]) == (2, 2)
    assert keeper.prune().json["records"] == 0
    keeper.change("member", "release", "blue")
    assert keeper.prune().json["pieces"] == 2
    assert keeper.sealed() == []
    assert content_segments(keeper.state.content("data-0")) == []
    assert keeper.verified()["pruned"] == 4
    assert keeper.doctor()["verdict"] == "ok"


def test_content_that_is_missing_without_a_record_is_damage(keeper):
    keeper.calls(OLD, "red", "blue")
    keeper.prune()
    keeper.calls(YOUNG, "red")
    (file,) = content_segments(keeper.state.content("data-0"))
    file.rename(file.with_suffix(".away"))
    for broken in (True, False):
        said = keeper.verified(code=1 if broken else 0)
        doctor = keeper.doctor(code=1 if broken else 0)
        if broken:
            assert "its sealed content is missing or altered" in said["verdict"]
            assert file.name in said["verdict"]
            assert "missing or altered" in doctor["said"]
            file.with_suffix(".away").rename(file)
        assert said["pruned"] == 2


def test_altered_content_is_damage_too_wherever_a_bit_is_changed(keeper):
    keeper.calls(YOUNG, "red")
    (file,) = content_segments(keeper.state.content("data-0"))
    good = file.read_bytes()
    (piece,) = pieces(file)
    for at in (piece.offset, piece.offset + 15, piece.offset + 100, piece.end - 1):
        changed = bytearray(good)
        changed[at] ^= 1
        file.write_bytes(changed)
        assert "altered" in keeper.verified(code=1)["verdict"], at
        assert keeper.doctor(code=1)["verdict"] == "BAD"
    file.write_bytes(good + b"torn")
    assert keeper.verified()["content"] == 1


def test_a_pruning_that_was_cut_short_is_done_again(keeper, monkeypatch):
    keeper.calls(OLD, "red", "blue")
    monkeypatch.setattr("gateway.control.retention.remove", disk_is_gone)
    said = keeper.prune(code=3)
    assert "no such disk" in said.err
    monkeypatch.undo()
    assert keeper.sealed() == ["red", "blue"]
    assert keeper.verified()["content"] == 2  # recorded as pruned, and still there: no damage
    assert keeper.prune().json["pieces"] == 2
    assert keeper.sealed() == []
    assert keeper.verified()["pruned"] == 2


def disk_is_gone(_file):
    raise OSError(5, "no such disk", "content")


def test_pruned_records_of_another_log_excuse_nothing(keeper):
    keeper.calls(YOUNG, "red")
    (file,) = content_segments(keeper.state.content("data-0"))
    ranges = (r.ContentRange(segment=file.name, start=0, end=1 << 40),)
    with open_log(keeper.state, "control", load(keeper.config, dev=True)) as log:
        log.append_sync(
            r.ContentPruned(
                actor="a",
                origin="sluicegate/data-1",
                before="2026-01-01",
                pieces=1,
                bytes=1,
                held=0,
                ranges=ranges,
            )
        )
    file.unlink()
    assert "no record says" in keeper.verified(code=1)["verdict"]


def test_with_a_registry_that_was_changed_behind_the_gateway_nothing_is_pruned(keeper):
    keeper.calls(OLD, "red")
    keeper.change("member", "hold", "red", reason="court order")
    with sqlite3.connect(keeper.state.registry) as registry:
        registry.execute("DELETE FROM members WHERE id = 'red'")
    registry.close()
    assert "whom a hold protects is not known" in keeper.prune(code=1).err
    assert keeper.sealed() == ["red"]


def test_many_ranges_take_several_records(keeper, monkeypatch):
    monkeypatch.setattr("gateway.control.retention.RANGES_IN_A_RECORD", 2)
    keeper.calls(OLD, *["red", "blue"] * 5)
    keeper.change("member", "hold", "blue")
    told = keeper.prune().json
    assert (told["records"], told["pieces"], told["held"]) == (3, 5, 5)
    records = [each for each in keeper.records() if each["type"] == "content.pruned"]
    assert sum(each["pieces"] for each in records) == 5
    assert keeper.verified()["pruned"] == 5


def test_a_log_whose_content_was_left_behind_verifies_by_its_audit_directory_alone(keeper):
    keeper.calls(YOUNG, "red")
    keys = [part for vkey in keeper.state.vkeys().values() for part in ("--key", vkey)]
    for file in content_segments(keeper.state.content("data-0")):
        file.unlink()
    assert sluicegate_verify([str(keeper.state.audit), *keys]) == 0
    assert sluicegate_verify([str(keeper.state.root), *keys]) == 1
