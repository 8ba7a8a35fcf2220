"""Erasing a member: what was sealed is unreadable, and every proof stands."""

import pytest

from tests.functional.test_cli_audit import FACTS, build, intent, outcome, write


@pytest.fixture
def operator(tmp_path):
    operator = build(tmp_path)
    operator.change("member", "add", "blue", "--org", "acme")
    return operator


def facts(operator):
    said = operator("audit", "show", "req_1", "--facts", "--json").json["facts"]
    return said["data-0#1"]


def keys(operator):
    return [part for vkey in operator.state.vkeys().values() for part in ("--key", vkey)]


def test_what_was_sealed_cannot_be_read_and_every_proof_stands(operator, tmp_path):
    assert facts(operator) == {"subject": {"id": "red"}, "n": 1}
    before = tmp_path / "before"
    operator("audit", "export", "subject=red", "-o", str(before))
    operator("audit", "prove", "data-0#1", "-o", str(tmp_path / "proof"))
    operator.change("member", "revoke", "red")
    said = operator.change("audit", "erase-subject", "red", "--yes").out
    assert "member red of acme is erased" in said
    assert "copies of registry.db made before hold it still" in said
    assert "it was destroyed" in facts(operator)
    assert operator("audit", "verify", *keys(operator)).code == 0
    assert operator.bare("audit", "verify-export", str(before), *keys(operator)).code == 0
    proof = (str(tmp_path / "proof"), str(tmp_path / "proof.record"))
    assert operator.bare("audit", "check", *proof, *keys(operator)[2:]).code == 0
    assert operator("audit", "search", "subject=red", "type=access").code == 0
    assert FACTS not in b"".join(path.read_bytes() for path in operator.state.root.glob("reg*"))
    assert "revoked,erased" in operator("member", "list").out
    write(operator, intent(5), outcome(5))  # the log goes on
    operator("audit", "report", "completeness")


def test_a_hold_refuses_an_erasure_until_it_is_released(operator):
    operator.change("member", "revoke", "red")
    operator.change("member", "hold", "red", reason="court order 7/26")
    assert "revoked,held" in operator("member", "list").out
    said = operator.change("member", "erase", "red", "--yes", code=1)
    assert "legal hold" in said.err
    assert "sluicegate member release red" in said.err
    assert facts(operator) == {"subject": {"id": "red"}, "n": 1}
    operator.change("member", "release", "red")
    operator.change("member", "erase", "red", "--yes")
    reasons = [each["reason"] for each in operator.changes() if each["op"] == "member.hold"]
    assert reasons == ["court order 7/26"]


def test_an_erasure_is_asked_for_twice_and_only_of_who_is_revoked(operator):
    assert "say --yes" in operator.change("member", "erase", "red", code=2).err
    assert "member revoke red" in operator.change("member", "erase", "red", "--yes", code=1).err
    assert operator.change("member", "erase", "nobody", "--yes", code=1).err
    assert facts(operator) == {"subject": {"id": "red"}, "n": 1}
