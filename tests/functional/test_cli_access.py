"""``audit report access`` and ``audit show --explain`` as they are typed."""

import asyncio
import csv
import io
import shutil
from pathlib import Path

import pytest

from gateway.app.control import open_control_plane
from gateway.audit.read import LogReader
from gateway.policy.kept_revisions import kept_revision, path_of
from gateway.registry.registry import ROW_KEY_FILE
from gateway.settings import load
from tests.functional.command_line import Operator

POLICIES = Path(__file__).parents[2] / "policies"


def activate(operator):
    """As the control process does when it starts."""

    async def activated():
        plane = open_control_plane(load(operator.config, dev=True))
        try:
            await plane.activate_current(actor="gateway", reason="start")
        finally:
            plane.registry.close()
            await plane.log.aclose()

    asyncio.run(activated())


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A directory in which red has a key, is suspended, and blue is erased."""
    operator = Operator(tmp_path_factory.mktemp("access"))
    shutil.rmtree(operator.policies)
    shutil.copytree(POLICIES, operator.policies)
    operator.change("org", "add", "acme", "--tier", "cyber=2")
    activate(operator)
    operator.change("member", "add", "red", "--org", "acme", "--tier", "cyber=1")
    operator.change("key", "add", "red")
    operator.change("member", "add", "blue", "--org", "acme")
    operator.change("key", "add", "blue")
    operator.change("member", "suspend", "red")
    operator.change("member", "revoke", "blue")
    operator.change("member", "erase", "blue", "--yes")
    return operator


@pytest.fixture
def operator(built, tmp_path):
    """The same, to be damaged."""
    shutil.copytree(built.home, tmp_path / "home")
    copy = Operator.__new__(Operator)
    copy.home = tmp_path / "home"
    copy.state = type(built.state)(copy.home / "state")
    copy.config, copy.policies = copy.home / "sluicegate.yaml", copy.home / "policies"
    copy.configure()
    return copy


def times(operator):
    """The time of each change, by what was done."""
    return {f"{each['op']} {each['id']}": each["time"] for each in operator.changes()}


def access(operator, at, *arguments, code=0):
    return operator("audit", "report", "access", "--as-of", at, *arguments, code=code)


def test_a_records_own_time_is_the_instant_at_which_it_holds(built):
    suspended = times(built)["member.suspend red"]
    said = access(built, suspended, "--member", "red", "--model", "opus-4.8", "--json", code=1)
    (line,) = said.json["lines"]
    assert (line["effect"], line["reasons"][0]["rule"]) == ("deny", "organisation.member_inactive")
    seconds, _, rest = suspended.partition(".")
    before = f"{seconds}.{int(rest[:9]) - 1:09}Z"
    said = access(built, before, "--member", "red", "--model", "opus-4.8", "--json")
    assert said.json["lines"][0]["effect"] == "allow"
    assert said.json["as_of"] == before
    assert said.json["revision"] == kept_revision(built.state.revisions, said.json["revision"]).id


def test_the_page_says_what_was_assumed_and_what_is_not_known(built):
    said = access(built, times(built)["member.suspend red"], code=3).out
    assert "active since sluicegate/control#" in said
    assert "the gateway did not run then" not in said
    assert "assumed    the call asks for an answer" in said
    assert "network none, country ZZ" in said
    assert "unknown    member blue: erased (tiers: none)" in said
    assert "cannot_tell" in said


def test_after_the_erasure_nothing_is_unknown_of_who_could_use_what(built):
    said = access(built, "0s", "--json", code=1).json
    assert {line["effect"] for line in said["lines"]} == {"deny", "not_accepted"}
    assert not said["running"], "the last command closed the log"


def test_the_table_for_a_spreadsheet_has_a_line_for_each(built):
    at = times(built)["member.suspend red"]
    said = access(built, at, "--format", "csv", code=3)
    rows = list(csv.DictReader(io.StringIO(said.out)))
    assert len(rows) == len(access(built, at, "--json", code=3).json["lines"])
    assert {row["member"] for row in rows} == {"red", "blue"}
    (opus,) = [r for r in rows if (r["member"], r["model"]) == ("red", "opus-4.8")]
    assert opus["rules"] == "organisation.member_inactive"
    assert (opus["as_of"], opus["tiers"]) == (at, "cyber=1")


def test_what_cannot_be_asked_is_said_with_what_can(built):
    at = times(built)["member.suspend red"]
    assert "there were: blue, red" in access(built, at, "--member", "\x1b[2J", code=1).err
    assert "\x1b" not in access(built, at, "--org", "\x1b[2J", code=1).err
    assert "mythos-5" in access(built, at, "--model", "nothing", code=1).err
    assert "still to come" in access(built, "2261-01-01", code=2).err
    assert "nobody could use anything" in access(built, "2020-01-01", code=1).err
    assert "choose one" in access(built, at, "--json", "--format", "csv", code=2).err
    assert "two capital letters" in access(built, at, "--country", "xx", code=2).err
    assert "no time" in access(built, "yesterday", code=2).err


def test_a_revision_that_is_gone_or_another_is_named(operator):
    at = times(operator)["member.suspend red"]
    (path,) = operator.state.revisions.iterdir()
    held = path.read_bytes()
    path.write_bytes(held[:-40])
    assert "damaged" in access(operator, at, code=3).err
    path.unlink()
    said = access(operator, at, code=3).err
    assert "is not kept in" in said
    assert path.name in said


def test_without_the_keys_nothing_is_told(operator):
    at = times(operator)["member.suspend red"]
    (operator.state.keys / ROW_KEY_FILE).unlink()
    assert ROW_KEY_FILE in access(operator, at, code=3).err
    operator.state.registry.unlink()
    assert "there is no registry" in access(operator, at, code=3).err


def test_a_log_without_the_control_shard_is_unavailable(operator):
    shutil.rmtree(operator.state.audit / "control")
    assert "no log" in access(operator, "0s", code=3).err


def test_the_row_that_a_change_made_is_shown_and_an_erased_one_is_not(built):
    changes = {f"{each['op']} {each['id']}": each["seq"] for each in built.changes()}

    def row(what):
        position = f"control#{changes[what]}"
        return built("audit", "show", position, "--facts", "--json").json["facts"][position]

    assert row("member.add red")["tiers"] == {"cyber": 1}
    assert row("organisation.add acme")["name"] == "acme"
    assert row("member.erase blue")["erased"] is True
    assert "it was destroyed" in row("member.add blue")


def test_what_was_sealed_of_an_erased_member_is_nowhere_in_plain(built):
    whole = b"".join(path.read_bytes() for path in built.state.audit.rglob("*.seg"))
    assert b'"residence"' not in whole
    assert b'"sealed_for":"blue"' in whole
    assert all(
        entry.sealed
        for entry in LogReader(built.state.log("control")).entries()
        if entry.json()["type"] == "registry.changed"
    )


def test_the_activated_bundle_is_kept_and_a_refused_one_is_not(operator):
    kept = set(operator.state.revisions.iterdir())
    (operator.policies / "sluicegate" / "decision.rego").write_text("package sluicegate\n")
    activate(operator)
    assert set(operator.state.revisions.iterdir()) == kept
    rejected = [each for each in operator.records() if each["type"] == "policy.rejected"]
    assert not path_of(operator.state.revisions, rejected[-1]["revision"]).exists()


def test_a_bundle_that_cannot_be_kept_is_not_activated(operator):
    before = [each for each in operator.records() if each["type"] == "policy.activated"]
    shutil.rmtree(operator.state.revisions)
    operator.state.revisions.touch()
    activate(operator)
    last = [each for each in operator.records() if each["type"].startswith("policy.")][-1]
    assert last["type"] == "policy.rejected"
    assert "cannot be kept" in last["findings"][0]
    assert len(before) == 1
    operator.state.revisions.unlink()
    activate(operator)
    assert kept_revision(operator.state.revisions, before[0]["revision"])
