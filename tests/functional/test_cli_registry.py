"""``org``, ``member``, ``key`` and ``issuer`` where no gateway runs."""

import os
import pwd
import sqlite3
import subprocess
import sys
from contextlib import suppress
from types import SimpleNamespace

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.cli import control, options
from gateway.cli.main import app
from gateway.core.entities import Credential
from gateway.identity import api_keys
from tests.functional.command_line import Operator


@pytest.fixture
def operator(tmp_path):
    return Operator(tmp_path)


@pytest.fixture
def staffed(operator):
    """An organisation with a member."""
    operator.change("org", "add", "acme", "--name", "Acme", "--tier", "cyber=3")
    operator.change("member", "add", "red", "--org", "acme", "--tier", "cyber=2")
    return operator


@pytest.fixture(scope="module")
def settled(tmp_path_factory):
    """The same, for tests that are refused and so change nothing."""
    operator = Operator(tmp_path_factory.mktemp("settled"))
    operator.change("org", "add", "acme", "--name", "Acme", "--tier", "cyber=3")
    operator.change("member", "add", "red", "--org", "acme", "--tier", "cyber=2")
    return operator


def commands(group=None, path=()):
    """Every command: its words, and the command."""
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands())
OURS = {words: each for words, each in COMMANDS.items() if len(words) == 2}
CHANGES = {
    words: each for words, each in OURS.items() if any("--reason" in p.opts for p in each.params)
}


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_every_command_has_help_of_one_line_and_json(operator, words):
    command = OURS[words]
    assert (command.help or "").strip().endswith(".")
    assert "..." not in command.get_short_help_str(60)
    assert any("--json" in parameter.opts for parameter in command.params)
    assert command.help.split("\n")[0][:30] in operator.bare(*words, "--help").out


def test_the_groups_hold_what_operators_are_told_of():
    words = {" ".join(each) for each in OURS}
    assert words >= {
        *(f"org {verb}" for verb in "add list show set suspend resume withdraw".split()),
        *(
            f"member {v}"
            for v in "add list show set tier suspend resume revoke hold release erase".split()
        ),
        *(f"key {verb}" for verb in "add list suspend resume revoke".split()),
        *(f"issuer {verb}" for verb in "add list suspend resume revoke".split()),
        *(f"policy {verb}" for verb in "check build keygen reload rules".split()),
        *(f"audit {verb}" for verb in "tail show search verify prove vkeys export cosign".split()),
    }
    assert len(CHANGES) == 27


@pytest.mark.parametrize("words", CHANGES, ids=" ".join)
def test_k64_no_change_without_a_reason(operator, words):
    required = {
        "organisation": ("--org", "acme"),
        "url": ("--issuer", "https://id.example"),
        "jwks_uri": ("--jwks-uri", "https://id.example/k"),
        "audience": ("--audience", "gate"),
    }
    arguments = []
    for parameter in CHANGES[words].params:
        if parameter.param_type_name == "argument":
            arguments.append("cyber=1" if parameter.name == "tier" else "acme")
        elif parameter.required and parameter.name in required:
            arguments += required[parameter.name]
    said = operator(*words, *arguments, code=2)
    assert "--reason" in said.err
    assert not operator.state.root.exists()


@pytest.mark.parametrize("reason", ["", "   ", "one\nof two lines", "x" * 501])
def test_k64_an_empty_or_odd_reason_is_refused(operator, reason):
    said = operator.change("org", "add", "acme", reason=reason, code=1)
    assert "needs a reason" in said.err
    assert "--reason" in said.err
    assert operator.changes() == []


def test_an_organisation_from_its_first_day_to_its_last(operator):
    added = operator.change(
        "org", "add", "acme", "--name", "Acme Defence", "--tier", "cyber=3", "--tier", "bio=1",
        "--retention", "zero", "--licence", "cyber-red", "--agreement", "aup-2", "--json",
    ).json  # fmt: skip
    assert added["entity"] == {
        "id": "acme",
        "name": "Acme Defence",
        "status": "active",
        "tiers": {"cyber": 3, "bio": 1},
        "retention": "zero",
        "licences": ["cyber-red"],
        "agreements": ["aup-2"],
    }
    told = {"entity", "position", "running", "ended", "workers", "notes", "warnings"}
    assert set(added) == told
    assert (added["running"], added["ended"], added["workers"]) == (False, 0, 0)

    changed = operator.change(
        "org", "set", "acme", "--tier", "bio=none", "--clear", "licences", "--json"
    ).json["entity"]
    assert (changed["tiers"], changed["licences"]) == ({"cyber": 3}, [])
    assert changed["agreements"] == ["aup-2"]

    for verb, status in (("suspend", "suspended"), ("resume", "active"), ("withdraw", "withdrawn")):
        said = operator.change("org", verb, "acme", reason=f"{verb} it")
        assert f"organisation acme is {status}" in said.out
        assert operator("org", "show", "acme", "--json").json["status"] == status
    assert "that is final" in operator.change("org", "resume", "acme", code=1).err

    made = [(each["op"], each["reason"]) for each in operator.changes()]
    assert made[-1] == ("organisation.withdraw", "withdraw it")
    assert len(made) == 5


def test_a_member_with_everything(staffed):
    staffed.change(
        "member", "add", "bot", "--org", "acme", "--workload", "--tier", "cyber=1",
        "--role", "scanner", "--role", "triage", "--purpose", "defence",
        "--vetting", "identity=2:2026-01-31", "--vetting", "training=1:2026-01-31:2027-01-31",
        "--nationality", "DE", "--residence", "FR", "--sponsored", "--external-id", "sub-7",
    )  # fmt: skip
    shown = staffed("member", "show", "bot", "--json").json
    assert shown["kind"] == "workload"
    assert shown["roles"] == ["scanner", "triage"]
    assert [each["expires_at"] for each in shown["vetting"]] == [None, "2027-01-31T00:00:00Z"]
    assert (shown["nationalities"], shown["residence"]) == (["DE"], "FR")
    assert (shown["sponsored"], shown["external_id"]) == (True, "sub-7")
    text = staffed("member", "show", "bot").out
    assert "kind=training level=1 verified_at=2026-01-31T00:00:00Z" in text

    staffed.change("member", "set", "bot", "--clear", "external-id", "--not-sponsored")
    shown = staffed("member", "show", "bot", "--json").json
    assert (shown["sponsored"], shown["external_id"]) == (False, None)

    assert [each["id"] for each in staffed("member", "list", "--json").json] == ["bot", "red"]
    assert staffed("member", "list", "--org", "other").out == "none\n"


def test_a_tier_above_the_cap_is_set_and_said(staffed):
    said = staffed.change("member", "tier", "red", "cyber=4", "bio=1")
    assert said.out.splitlines()[0] == "member red of acme is active, tiers bio=1 cyber=4"
    assert "note: cyber 4 is above the organisation's cap 3: the cap holds." in said.out
    assert "takes effect when one starts" in said.out
    assert staffed.changes()[-1]["tiers"] == {"cyber": 4, "bio": 1}


def test_words_that_the_policy_does_not_know_are_taken_and_said(staffed):
    words = ("--tier", "cyberr=2", "--purpose", "redteam")
    said = staffed.change("member", "set", "red", *words)
    assert said.out.startswith("member red of acme is active, tiers cyber=2 cyberr=2")
    assert "knows no tier domain 'cyberr'; it knows cyber\n" in said.err
    assert "knows no purpose 'redteam'; it knows none\n" in said.err
    asked = ("org", "set", "acme", "--licence", "none-such", "--json")
    said = staffed.change(*asked)
    (warning,) = said.json["warnings"]
    assert "knows no licence 'none-such'" in warning
    assert said.json["entity"]["licences"] == ["none-such"]
    assert staffed.change("member", "tier", "red", "cyber=1").err == ""


def test_where_no_policy_can_be_read_the_words_are_taken_and_that_is_said(staffed):
    (staffed.policies / "data" / "models.yaml").write_text("a: [\n")
    said = staffed.change("member", "tier", "red", "cyber=1")
    assert "not compared with a policy: data/models.yaml:2" in said.err
    assert staffed.change("member", "suspend", "red").err == ""


def test_the_actor_is_the_one_named_or_the_user(staffed):
    staffed.change("member", "suspend", "red", "--actor", "ada")
    staffed.change("member", "resume", "red")
    actors = [each["actor"] for each in staffed.changes()[-2:]]
    assert actors == ["ada", options.author(None)]
    assert "label" in staffed.change("member", "suspend", "red", "--actor", "Ada L.", code=1).err


@pytest.mark.parametrize(
    ("user", "label"),
    [("ada", "ada"), ("Ada.L", "ada.l"), ("_www", "www"), ("DOM\\ada", "dom-ada"), ("--", "")],
)
def test_a_user_name_becomes_a_label(monkeypatch, user, label):
    monkeypatch.setattr(pwd, "getpwuid", lambda _: SimpleNamespace(pw_name=user))
    assert options.author(None) == (label or f"uid-{os.getuid()}")


def test_a_user_without_a_name_has_a_number(monkeypatch):
    def absent(_):
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", absent)
    assert options.author(None) == f"uid-{os.getuid()}"


# Keys


def key_of(text):
    keys = [line for line in text.splitlines() if api_keys.digest_of(line)]
    assert len(keys) == 1
    assert text.count(keys[0]) == 1
    return keys[0]


def test_a_key_is_printed_once_and_kept_nowhere(staffed):
    said = staffed.change("key", "add", "red", "--scope", "downgrade", "--expires", "2099-01-31")
    key = key_of(said.out)
    assert "not shown again" in said.out
    everything = [
        staffed("key", "list"),
        staffed("key", "list", "--json"),
        staffed("key", "list", "--member", "red"),
        staffed("audit", "tail", "-n", "100"),
        staffed("audit", "tail", "-n", "100", "--json"),
    ]
    listed = staffed("key", "list", "--json").json
    everything.append(staffed("key", "show", listed[0]["id"], "--json"))
    digest = api_keys.digest_of(key)
    for each in everything:
        assert key not in each.out + each.err
        assert digest not in each.out + each.err
    assert set(listed[0]) == set(Credential.__struct_fields__) - {"sha256"}
    assert listed[0]["prefix"] == key[: api_keys.SHOWN]
    assert listed[0]["expires_at"] == "2099-01-31T00:00:00Z"
    assert listed[0]["id"] == f"red-{key[6 : api_keys.SHOWN]}"
    files = [path for path in staffed.state.root.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if key.encode() in path.read_bytes()] == []


def test_the_json_of_a_new_key_holds_it_once(staffed):
    said = staffed.change(
        "key", "add", "red", "--id", "red-1",
        "--engagement", "pentest-7=2026-01-01:2026-02-01:recon,exploit", "--json",
    )  # fmt: skip
    answer = said.json
    assert api_keys.digest_of(answer["key"])
    assert said.out.count(answer["key"]) == 1
    assert "sha256" not in answer["entity"]
    assert answer["entity"]["engagement"] == {
        "id": "pentest-7",
        "status": "active",
        "starts_at": "2026-01-01T00:00:00Z",
        "ends_at": "2026-02-01T00:00:00Z",
        "techniques": ["recon", "exploit"],
    }


def test_a_refused_key_is_not_printed(settled):
    said = settled.change("key", "add", "nobody", code=1)
    assert said.out == ""
    assert "who could hold a key" in said.err


def test_a_key_is_named_by_id_prefix_or_itself(staffed):
    texts = [
        staffed.change("key", "add", "red", "--id", f"k{n}", "--json").json["key"] for n in range(3)
    ]
    assert "key k0" in staffed.change("key", "suspend", "k0").out
    assert "key k1" in staffed.change("key", "revoke", texts[1][: api_keys.SHOWN]).out
    said = staffed.change("key", "revoke", texts[2])
    assert "key k2" in said.out
    assert texts[2] not in said.out + said.err
    statuses = {each["id"]: each["status"] for each in staffed("key", "list", "--json").json}
    assert statuses == {"k0": "suspended", "k1": "revoked", "k2": "revoked"}


def test_a_key_that_is_unknown_is_not_repeated(settled):
    stranger = api_keys.mint().text
    said = settled.change("key", "revoke", stranger, code=1)
    assert stranger not in said.out + said.err
    assert stranger[: api_keys.SHOWN] in said.err


def test_one_prefix_of_two_keys_names_neither(staffed, monkeypatch):
    minted = api_keys.mint()
    for name, digest in (("k0", "0" * 64), ("k1", "1" * 64)):
        twin = api_keys.MintedKey(minted.text, digest, minted.prefix)
        monkeypatch.setattr(api_keys, "mint", lambda twin=twin: twin)
        staffed.change("key", "add", "red", "--id", name)
    said = staffed.change("key", "revoke", minted.prefix, code=1)
    assert "k0, k1" in said.err


def test_an_expiry_only_moves_earlier(staffed):
    staffed.change("key", "add", "red", "--id", "k", "--expires", "2030-01-31")
    staffed.change("key", "set", "k", "--expires", "2029-01-31T12:00:00Z")
    said = staffed.change("key", "set", "k", "--expires", "2031-01-31", code=1)
    assert "never move later" in said.err
    assert "Issue a new key" in said.err


def test_a_key_whose_time_is_over_is_not_added(staffed):
    before = len(staffed.changes())
    said = staffed.change("key", "add", "red", "--expires", "2020-01-31", code=1)
    assert "would have expired already: 2020-01-31T00:00:00Z" in said.err
    assert "Give --expires a time to come" in said.err
    assert said.out == ""
    assert len(staffed.changes()) == before


def test_a_key_that_has_expired_is_listed_as_such(staffed):
    """Setting an expiry that is over ends a key; a status of its own shows through."""
    for name in ("over", "ahead", "gone"):
        staffed.change("key", "add", "red", "--id", name, "--expires", "2099-01-31")
    staffed.change("key", "revoke", "gone")
    said = staffed.change("key", "set", "over", "--expires", "2020-01-31")
    assert "of red is expired, expired 2020-01-31T00:00:00Z" in said.out
    lines = {line.split()[0]: line.split() for line in staffed("key", "list").out.splitlines()}
    assert {name: lines[name][3] for name in ("over", "ahead", "gone")} == {
        "over": "expired",
        "ahead": "active",
        "gone": "revoked",
    }
    assert "expired" in staffed("key", "show", "over").out
    assert staffed("key", "show", "over", "--json").json["status"] == "active"


def test_an_issuer_comes_and_goes(staffed):
    said = staffed.change(
        "issuer", "add", "idp", "--org", "acme", "--issuer", "https://id.acme.example",
        "--jwks-uri", "https://id.acme.example/keys", "--audience", "https://gate.example",
    )  # fmt: skip
    assert "issuer idp (https://id.acme.example) of acme is active" in said.out
    (listed,) = staffed("issuer", "list", "--json").json
    assert listed["algorithms"] == ["ES256"]
    for verb in ("suspend", "resume", "revoke"):
        staffed.change("issuer", verb, "idp")
    assert "revoked" in staffed("issuer", "list").out


# What is refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("org", "suspend", "nobody"), "There is no organisation 'nobody'"),
        (("member", "tier", "red", "cyber=10"), "Not a valid member"),
        (("member", "add", "RED", "--org", "acme"), "Not a valid member"),
        (("member", "add", "blue", "--org", "other"), "no organisation 'other'"),
        (("member", "add", "red", "--org", "acme"), "already a member 'red'"),
        (("member", "tier", "red", "cyber=2"), "is so already"),
        (("member", "set", "red", "--vetting", "id=1:2026-02-31"), "is not a date"),
    ],
)
def test_a_no_is_exit_code_1_and_says_what_to_do(settled, arguments, words):
    before = len(settled.changes())
    said = settled.change(*arguments, code=1)
    assert words in said.err
    assert said.err.count("\n") == 2
    assert said.out == ""
    assert len(settled.changes()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("member", "tier", "red", "cyber"),
        ("member", "tier", "red", "cyber=x"),
        ("member", "tier", "red", "cyber=1", "cyber=2"),
        ("member", "set", "red"),
        ("member", "set", "red", "--clear", "name"),
        ("member", "set", "red", "--role", "a", "--clear", "roles"),
        ("member", "set", "red", "--vetting", "identity"),
        ("member", "set", "red", "--vetting", "identity=2:soon"),
        ("key", "add", "red", "--expires", "tomorrow"),
        ("key", "add", "red", "--engagement", "e=2026-01-01"),
        ("key", "frobnicate", "red"),
    ],
)
def test_a_form_that_does_not_fit_is_usage(settled, arguments):
    before = len(settled.records())
    said = settled.change(*arguments, code=2)
    assert said.err
    assert len(settled.records()) == before


@pytest.mark.parametrize("parse", [options._level, options._vetting, options._engagement])
@given(text=st.text(alphabet="ab=:,-0123456789TZnone", max_size=60))
@settings(max_examples=100, deadline=None)
def test_a_form_parses_or_is_refused(parse, text):
    with suppress(typer.BadParameter):  # any other error would be a traceback
        parse(text)


def test_who_does_not_exist_is_not_shown(settled):
    said = settled("member", "show", "nobody", code=1)
    assert "sluicegate member list" in said.err


# Where the directory cannot be had


def test_reading_needs_no_configuration_and_leaves_no_record(staffed):
    staffed.config.unlink()
    before = len(staffed.records())
    assert "red" in staffed("member", "list").out
    assert len(staffed.records()) == before


def test_reading_makes_nothing(operator):
    assert "no registry" in operator("org", "list", code=3).err
    assert not operator.state.root.exists()
    operator.state.root.mkdir()
    assert "no registry" in operator("org", "list", code=3).err
    assert list(operator.state.root.iterdir()) == []


def test_a_change_needs_a_configuration(operator, monkeypatch):
    operator.config.unlink()
    monkeypatch.chdir(operator.home)
    said = operator("org", "add", "acme", "--reason", "r", code=3)
    assert "no gateway runs" in said.err
    assert "--config" in said.err


def test_the_configuration_in_the_directory_is_found(staffed, monkeypatch):
    """As a demo leaves it, stamp and all."""
    staffed.state.demo.write_text("{}")
    staffed.config.rename(staffed.state.root / "sluicegate.yaml")
    monkeypatch.chdir(staffed.home)
    staffed("member", "suspend", "red", "--reason", "r")


def test_the_configuration_of_another_directory_is_refused(operator):
    operator.configure(state_dir=str(operator.home / "other"))
    said = operator.change("org", "add", "acme", code=2)
    assert "is the configuration of" in said.err
    assert not operator.state.root.exists()


def test_every_fault_of_a_configuration_is_said(operator):
    operator.configure(audit={"name": "Not Good"}, nonsense=1)
    said = operator.change("org", "add", "acme", code=2)
    assert "audit.name" in said.err
    assert "nonsense" in said.err


def test_a_change_needs_no_provider_key(operator):
    """K20: what forwards nothing reads no key, so it needs none."""
    upstreams = {
        "openai": {"url": "https://api.openai.example", "kind": "openai"},
        "anthropic": {
            "url": "https://api.anthropic.example",
            "kind": "anthropic",
            "key_file": "/nowhere/key",
        },
    }
    operator.configure(upstreams=upstreams)
    operator.change("org", "add", "acme")


def test_two_never_write(staffed, monkeypatch):
    monkeypatch.setattr(control, "PATIENCE_S", 0.1)
    lock = staffed.state.claim()
    try:
        before = len(staffed.records())
        for said in (
            staffed.change("org", "suspend", "acme", code=3),
            staffed("org", "list", code=3),
        ):
            assert "in use" in said.err
            assert "try again" in said.err
        assert len(staffed.records()) == before
    finally:
        os.close(lock)
    staffed.change("org", "suspend", "acme")


def test_a_row_changed_by_hand_is_left_out_said_and_recorded(staffed):
    connection = sqlite3.connect(staffed.state.registry)
    with connection:
        changed = connection.execute(
            """update members set body = replace(body, '"cyber":2', '"cyber":3')"""
        )
        assert changed.rowcount == 1
    connection.close()
    said = staffed("member", "list")
    assert said.out == "none\n"
    assert "changed outside the gateway" in said.err
    said = staffed.change("member", "add", "red", "--org", "acme", "--tier", "cyber=1", "--json")
    assert said.json["entity"]["tiers"] == {"cyber": 1}
    assert "changed outside the gateway" in said.err
    types = [record["type"] for record in staffed.records()]
    assert types[-3:] == ["registry.tampered", "registry.changed", "log.closed"]
    said = staffed("member", "list")
    assert said.err == ""
    assert "cyber=1" in said.out


def test_the_program_itself_shows_no_traceback(staffed):
    """A damaged log, through the real entry point: a change is unavailable, not attempted."""
    segment = next(staffed.state.log("control").glob("*.seg"))
    raw = bytearray(segment.read_bytes())
    raw[len(raw) // 2] ^= 1
    segment.write_bytes(raw)
    words = ["member", "suspend", "red", "--reason", "r", "--config", str(staffed.config)]
    done = subprocess.run(
        [sys.executable, "-m", "gateway.cli", *words, "--dir", str(staffed.state.root)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr.startswith("sluicegate: the log is damaged: ")
    assert "audit verify" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
