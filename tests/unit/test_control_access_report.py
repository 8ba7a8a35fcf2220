"""Who could use what: histories with known answers, just before and just after each change."""

import asyncio
import sqlite3
from contextlib import closing
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.audit import records as r
from gateway.control.access_report import Assumed, lets_in
from gateway.core.clock import parse_timestamp
from gateway.core.entities import Credential, Member
from gateway.policy.bundle import bundle_from_files, read_directory
from gateway.registry.changes import ChangeRefused
from gateway.registry.rows import KINDS
from tests.support.history import NS, History

POLICIES = read_directory(Path(__file__).parents[2] / "policies")
START = "2027-02-20T12:00:00Z"
WAVE = "2027-03-01T09:00:00Z"
VETTED = [
    {"kind": "identity", "level": 3, "verified_at": "2026-01-01T00:00:00Z"},
    {"kind": "organisation", "level": 2, "verified_at": "2026-01-01T00:00:00Z"},
]
GENERAL, CYBER, WAVED = "opus-4.8", "gpt-5.5-cyber", "fable-5.1"


@pytest.fixture
def history(tmp_path):
    made = History(tmp_path, START)
    made.activate(POLICIES)
    yield made
    made.close()


async def defender(history, name="red", cyber=2, **fields):
    """A member with a key, in an organisation whose cap is 2; the instant of the key."""
    if history.registry.snapshot.organisation("acme") is None:
        await history.add("organisation", "acme", name="Acme", tiers={"cyber": 2})
    about = {
        "organisation": "acme",
        "name": name,
        "tiers": {"cyber": cyber},
        "vetting": VETTED,
        "residence": "DE",
        "nationalities": ["DE"],
        **fields,
    }
    await history.add("member", name, **about)
    return await key(history, name)


async def key(history, member, **fields):
    minted = {"member": member, "sha256": member.encode().hex().ljust(64, "0"), "prefix": "sk-sg"}
    return await history.add("credential", f"{member}-1", **minted | fields)


def told(history, at, model, member="red", assumed=None):
    """Effect and first reason of the only line of a member and a model."""
    (line,) = history.report(at, assumed).lines(member=member, model=model)
    return line.effect, line.reasons[0].code if line.reasons else ""


def around(history, at, model, member="red"):
    """Just before an instant, and at it."""
    return told(history, at - 1, model, member), told(history, at, model, member)


ALLOWED = ("allow", "")
TOO_LOW = ("deny", "tier_insufficient")


# Planted histories


async def test_a_grant_opens_from_its_record_on(history):
    granted = await defender(history)
    assert around(history, granted, CYBER) == (("not_accepted", "no_credential"), ALLOWED)
    raised = await history.set("member", "red", tiers={"cyber": 1})
    again = await history.set("member", "red", tiers={"cyber": 2})
    assert around(history, raised, CYBER)[1][0] == "deny"
    assert around(history, again, CYBER) == (around(history, raised, CYBER)[1], ALLOWED)


async def test_a_lowered_tier_closes_what_asks_for_more_and_nothing_else(history):
    await defender(history)
    lowered = await history.set("member", "red", tiers={"cyber": 1})
    assert around(history, lowered, CYBER) == (ALLOWED, TOO_LOW)
    assert around(history, lowered, GENERAL) == (ALLOWED, ALLOWED)


async def test_suspended_and_resumed(history):
    await defender(history)
    suspended = await history.move("member", "red", "suspend")
    resumed = await history.move("member", "red", "resume")
    assert around(history, suspended, GENERAL) == (ALLOWED, ("deny", "member_inactive"))
    assert around(history, resumed, GENERAL) == (("deny", "member_inactive"), ALLOWED)


async def test_a_key_that_is_suspended_or_revoked_is_not_accepted_and_another_still_is(history):
    await defender(history)
    await history.add("credential", "red-2", member="red", sha256="ab" * 32, prefix="sk-sg")
    suspended = await history.move("credential", "red-1", "suspend")
    revoked = await history.move("credential", "red-1", "revoke")

    def both(at):
        lines = history.report(at).lines(member="red", model=GENERAL)
        return {
            line.credential: (line.effect, *(each.code for each in line.reasons)) for line in lines
        }

    assert both(suspended - 1) == {"red-1": ("allow",), "red-2": ("allow",)}
    assert both(revoked - 1)["red-1"] == ("not_accepted", "key_suspended")
    assert both(revoked) == {"red-1": ("not_accepted", "key_revoked"), "red-2": ("allow",)}


async def test_vetting_and_a_key_run_out_by_the_clock_without_a_record(history):
    vetting = [{**each, "expires_at": "2027-02-25T00:00:00Z"} for each in VETTED]
    await history.add("organisation", "acme", name="Acme", tiers={"cyber": 2})
    await defender(history, vetting=vetting)
    await history.set("credential", "red-1", expires_at="2027-02-27T00:00:00Z")
    history.at("2027-03-02T00:00:00Z")
    lapse = parse_timestamp("2027-02-25T00:00:00Z") * NS
    assert around(history, lapse, CYBER) == (ALLOWED, ("deny", "tier_insufficient"))
    (line,) = history.report(lapse - 1).lines(member="red", model=CYBER)
    assert line.valid_until == "2027-02-25T00:00:00Z"
    over = parse_timestamp("2027-02-27T00:00:00Z") * NS
    assert around(history, over, GENERAL) == (ALLOWED, ("not_accepted", "key_expired"))


async def test_an_organisations_cap_holds_from_its_record_on(history):
    await defender(history)
    capped = await history.set("organisation", "acme", tiers={"cyber": 1})
    assert around(history, capped, CYBER) == (ALLOWED, TOO_LOW)
    lifted = await history.set("organisation", "acme", tiers={"cyber": 2})
    assert around(history, lifted, CYBER) == (TOO_LOW, ALLOWED)


async def test_an_organisation_is_suspended_and_withdrawn(history):
    await defender(history)
    suspended = await history.move("organisation", "acme", "suspend")
    withdrawn = await history.move("organisation", "acme", "withdraw")
    assert around(history, suspended, GENERAL) == (ALLOWED, ("deny", "organisation_inactive"))
    assert told(history, withdrawn, GENERAL) == ("not_accepted", "organisation_withdrawn")


async def test_a_wave_opens_by_the_clock(history):
    await defender(history)
    history.at("2027-03-02T00:00:00Z")
    opens = parse_timestamp(WAVE) * NS
    before, after = around(history, opens, WAVED)
    assert before[0] == "deny"
    assert after[0] == "require_approval"
    (line,) = history.report(opens - 1).lines(member="red", model=WAVED)
    assert line.valid_until == WAVE


async def test_a_new_revision_narrows_and_the_old_one_is_judged_by_its_own_text(history):
    await defender(history)
    files = dict(POLICIES.files)
    files["data/models.yaml"] = files["data/models.yaml"].replace(
        b"tiers: {cyber: 2}\n    countries_denied: [CU, IR, KP, SY]",
        b"tiers: {cyber: 2}\n    countries_denied: [CU, DE, IR, KP, SY]",
    )
    narrowed = history.activate(bundle_from_files(files))
    assert around(history, narrowed, CYBER) == (ALLOWED, ("deny", "country_denied"))
    back = history.activate(POLICIES)
    assert around(history, back, CYBER) == (("deny", "country_denied"), ALLOWED)
    assert history.past(narrowed).revision != POLICIES.id == history.past(back).revision


async def test_a_row_changed_from_outside_gives_nothing_until_it_is_stated_anew(history):
    await defender(history)
    found = history.record(r.RegistryTampered(kind="member", id="red", finding="changed"))
    assert around(history, found, GENERAL) == (ALLOWED, ("not_accepted", "member_left_out"))
    assert history.past(found).snapshot.member("red") is None
    history.close()
    history.now += NS
    history.open()  # the next start looks at all rows again, and finds nothing
    restarted = history.now
    assert told(history, restarted, GENERAL) == ALLOWED
    again = history.record(r.RegistryTampered(kind="credential", id="red-1", finding="changed"))
    assert told(history, again, GENERAL) == ("not_accepted", "key_left_out")
    organisation = history.record(r.RegistryTampered(kind="organisation", id="acme", finding="x"))
    assert told(history, organisation, GENERAL)[0] == "not_accepted"


async def test_a_row_that_is_stated_anew_keeps_what_was_taken(history):
    await defender(history)
    await history.move("member", "red", "suspend")
    with closing(sqlite3.connect(history.home / "registry.db")) as by_hand, by_hand:
        by_hand.execute("update members set body = replace(body, 'suspended', 'active')")
    (found,) = history.registry.check()
    assert (found.code, found.id) == ("registry.tampered", "red")
    tampered = history.record(
        r.RegistryTampered(kind=found.kind, id=found.id, finding=found.message)
    )
    about = {"organisation": "acme", "name": "red", "tiers": {"cyber": 2}, "vetting": VETTED}
    restated = await history.add("member", "red", **about)
    assert around(history, tampered, GENERAL) == (
        ("deny", "member_inactive"),
        ("not_accepted", "member_left_out"),
    )
    assert told(history, restated, GENERAL) == ("deny", "member_inactive")
    resumed = await history.move("member", "red", "resume")
    assert told(history, resumed, GENERAL) == ALLOWED


async def test_of_an_erased_member_the_levels_and_nothing_else_can_be_told(history):
    granted = await defender(history)
    await defender(history, "blue")
    await history.set("member", "red", tiers={"cyber": 1})
    revoked = await history.move("member", "red", "revoke")
    erased = await history.move("member", "red", "erase")
    (line,) = history.report(granted).lines(member="red", model=GENERAL)
    assert (line.effect, line.organisation, line.tiers) == ("cannot_tell", "", {"cyber": 2})
    assert line.reasons[0].message == "member red: erased"
    assert told(history, revoked, GENERAL) == ("not_accepted", "member_revoked")
    assert told(history, erased, GENERAL) == ("not_accepted", "member_revoked")
    assert told(history, granted + NS * 9, GENERAL, "blue") == ALLOWED
    past = history.past(granted)
    assert {key: row.unknown for key, row in past.rows.items() if row.unknown} == {
        ("member", "red"): "erased",
        ("credential", "red-1"): "erased",
    }
    assert past.snapshot.member("red") is None


async def test_records_from_before_rows_were_sealed_are_not_guessed_at(history):
    plain = {"actor": "ops", "epoch": 1, "digest_after": "ab"}
    history.record(r.RegistryChanged(kind="organisation", id="old", op="organisation.add", **plain))
    history.record(
        r.RegistryChanged(kind="member", id="ann", op="member.add", tiers={"cyber": 2}, **plain)
    )
    known = history.record(
        r.RegistryChanged(kind="credential", id="ann-1", op="credential.add", **plain)
    )
    lines = list(history.report(known).lines(model=GENERAL))
    assert [(each.member, each.credential, each.effect) for each in lines] == [
        ("ann", "-", "cannot_tell"),
        ("", "ann-1", "cannot_tell"),
    ]
    assert lines[0].tiers == {"cyber": 2}
    for kind, entity in (("credential", "ann-1"), ("member", "ann")):
        op = f"{kind}.revoke"
        gone = history.record(r.RegistryChanged(kind=kind, id=entity, op=op, **plain))
    lines = list(history.report(gone).lines(model=GENERAL))
    assert {each.effect for each in lines} == {"not_accepted"}, "what was taken is known"


async def test_a_token_may_mean_a_member_while_its_issuer_stands(history):
    await defender(history, external_id="ann@acme")
    await defender(history, "blue")
    issuer = {
        "organisation": "acme",
        "issuer": "https://id.acme.example",
        "jwks_uri": "https://id.acme.example/jwks",
        "audience": "https://gate.example",
        "algorithms": ["ES256"],
    }
    added = await history.add("issuer", "idp", **issuer)
    revoked = await history.move("issuer", "idp", "revoke")

    def tokens(at):
        lines = history.report(at).lines(model=GENERAL)
        return {each.member: each.effect for each in lines if each.credential == "idp:token"}

    assert tokens(added - 1) == {}
    assert tokens(added) == {"red": "allow"}
    assert tokens(revoked) == {"red": "not_accepted"}


async def test_the_network_is_what_the_asker_says(history):
    files = dict(POLICIES.files)
    files["data/models.yaml"] += (
        b"\nlab-model:\n  id: lab-model\n  display_name: Lab\n  endpoint: openai\n"
        b"  wires: [chat]\n  stage: general\n"
        b'  created_at: "2026-01-01T00:00:00Z"\n  requires: {networks: [evaluation-lab]}\n'
    )
    history.activate(bundle_from_files(files))
    at = await defender(history)
    assert told(history, at, "lab-model") == ("deny", "network_denied")
    assert told(history, at, "lab-model", assumed=Assumed(networks=("evaluation-lab",))) == ALLOWED


async def test_filters_leave_out_lines_and_change_none(history):
    await defender(history)
    at = await defender(history, "blue", cyber=0)
    report = history.report(at)
    everything = list(report.lines())
    assert len(everything) == 2 * len(report.revision.catalogue)
    assert list(report.lines(member="blue")) == [e for e in everything if e.member == "blue"]
    assert list(report.lines(model=CYBER)) == [e for e in everything if e.model == CYBER]
    assert list(report.lines(organisation="acme")) == everything
    assert list(report.lines(organisation="other")) == []
    assert {line.model for line in everything if line.member == "blue" and lets_in(line)} == {
        "gpt-5.5",
        "opus-4.8",
        "text-embedding-4",
    }


# Any history

STEPS = st.one_of(
    st.tuples(st.just("member"), st.sampled_from("ab"), st.integers(0, 3)),
    st.tuples(st.just("tier"), st.sampled_from("ab"), st.integers(0, 3)),
    st.tuples(st.just("cap"), st.just("acme"), st.integers(0, 3)),
    st.tuples(st.just("key"), st.sampled_from("ab"), st.integers(0, 3)),
    st.tuples(
        st.sampled_from(["suspend", "resume", "revoke", "hold", "release"]),
        st.sampled_from("ab"),
        st.just(0),
    ),
    st.tuples(st.just("erase"), st.sampled_from("ab"), st.just(0)),
    st.tuples(
        st.sampled_from(["k-suspend", "k-resume", "k-revoke"]),
        st.sampled_from("ab"),
        st.integers(0, 3),
    ),
    st.tuples(st.just("restart"), st.just(""), st.just(0)),
)


async def step(history, what, who, number):
    """One step; the instant of its record, if it has one."""
    if what == "restart":
        history.close()
        history.now += NS
        history.open()
        return None
    if what == "member":
        tiers = {"cyber": number}
        return await history.add("member", who, organisation="acme", name=who, tiers=tiers)
    if what in {"tier", "cap"}:
        kind = "member" if what == "tier" else "organisation"
        return await history.set(kind, who, tiers={"cyber": number})
    if what == "key":
        about = {"member": who, "sha256": f"{ord(who)}{number}".ljust(64, "0"), "prefix": "sk-sg"}
        return await history.add("credential", f"{who}-{number}", **about)
    if what.startswith("k-"):
        return await history.move("credential", f"{who}-{number}", what.removeprefix("k-"))
    return await history.move("member", who, what)


def entities(snapshot):
    return {kind: snapshot.entities(kind) for kind in KINDS}


async def lived(home, steps):
    """What the registry was after each record; and what a reader makes of the log at each."""
    history = History(home, START)
    seen = [(await history.add("organisation", "acme", name="Acme"), None)]
    seen[0] = (seen[0][0], entities(history.registry.snapshot))
    first = [("member", "a", 2), ("key", "a", 1), ("member", "b", 1)]
    leaving = [(("revoke", one[1], 0), one) if one[0] == "erase" else (one,) for one in steps]
    for one in (*first, *chain.from_iterable(leaving)):
        try:
            at = await step(history, *one)
        except ChangeRefused:
            continue
        if at is not None:
            seen.append((at, entities(history.registry.snapshot)))
    erased = {
        row.id
        for row in history.past(seen[-1][0]).rows.values()
        if isinstance(row.entity, Member) and row.entity.erased
    }
    read = [(at, entities(history.past(at).snapshot)) for at, _ in seen]
    before = [entities(history.past(at - 1).snapshot) for at, _ in seen]
    history.close()
    return seen, read, before, erased


def without(found, erased):
    """The part that an erasure leaves readable."""

    def stays(entity):
        whose = entity.member if isinstance(entity, Credential) else entity.id
        return whose not in erased

    return {kind: tuple(filter(stays, each)) for kind, each in found.items()}


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(STEPS, max_size=14))
def test_any_history_reads_back_as_the_registry_was_at_each_instant(tmp_path_factory, steps):
    seen, read, before, erased = asyncio.run(lived(tmp_path_factory.mktemp("history"), steps))
    expected = [(at, without(found, erased)) for at, found in seen]
    assert read == expected
    assert before[1:] == [found for _, found in expected[:-1]]
