"""Sessions, approvals, reviews and runs: what they allow, without a socket."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.control.approvals import Approvals
from gateway.control.reviewing import Reviews
from gateway.control.runs import PAUSE_NS, calls_of, run_at, runs_of
from gateway.control.sessions import IDLE_S, LIFE_S, LINK_S, Sessions
from gateway.core.approval import Act, Approval, Refused, State, digest_of
from gateway.core.clock import rfc3339_ns
from gateway.core.staff import CONFLICTS, Role, conflict_of, staff_roles

NS = 1_000_000_000
NOON = 1_795_608_000


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


# Sessions


def test_a_link_ends_and_is_used_up_and_so_does_a_session():
    clock = Clock()
    sessions = Sessions(clock)
    token, expires_at = sessions.link("ann")
    assert expires_at == clock.now + LINK_S
    assert sessions.owner_of(token) == "ann"
    secret, session = sessions.sign_in(token)
    assert sessions.sign_in(token) is None
    assert sessions.owner_of(token) is None
    assert sessions.find(secret) is session
    assert sessions.find(session.name) is None, "what records hold signs nobody in"
    late, _ = sessions.link("ann")
    clock.now += LINK_S
    assert sessions.owner_of(late) is None
    assert sessions.sign_in(late) is None
    clock.now += IDLE_S - LINK_S
    assert sessions.find(secret) is None, "unseen for too long"


def test_a_session_that_is_always_seen_ends_all_the_same():
    clock = Clock()
    sessions = Sessions(clock)
    secret, _ = sessions.sign_in(sessions.link("ann")[0])
    for _ in range(int(LIFE_S / (IDLE_S / 2)) - 1):
        clock.now += IDLE_S / 2
        assert sessions.find(secret) is not None
    clock.now += IDLE_S / 2
    assert sessions.find(secret) is None


def test_links_and_sessions_are_bounded_and_the_oldest_go_first():
    sessions = Sessions(Clock())
    tokens = [sessions.link("ann")[0] for _ in range(1_001)]
    assert sessions.owner_of(tokens[0]) is None
    assert sessions.owner_of(tokens[1]) == "ann"


@given(st.text())
def test_no_other_text_is_a_link_or_a_session(text):
    sessions = Sessions(Clock())
    sessions.sign_in(sessions.link("ann")[0])
    assert sessions.owner_of(text) is None
    assert sessions.sign_in(text) is None
    assert sessions.find(text) is None


# Roles


@given(st.sets(st.sampled_from([*Role, "red-team", "evaluator"])))
def test_conflicts_are_found_and_other_roles_are_no_staff_roles(roles):
    held = staff_roles(roles)
    assert held == {Role(role) for role in roles if role in set(Role)}
    clash = conflict_of(roles)
    assert (clash is None) == (not any(set(pair) <= held for pair in CONFLICTS))


# Approvals

APPROVAL = Approval(
    id="apr_1",
    act=Act.REVEAL,
    author="rev",
    reason="why",
    shown='{"record":"data-0#1"}',
    roles=(Role.APPROVER,),
    needed=1,
    eligible=("app", "app2"),
    asked_at=NOON,
    expires_at=NOON + 60,
)
APPROVER = frozenset({Role.APPROVER})


def test_an_approval_takes_another_person_who_was_and_is_an_approver_and_saw_this():
    good = APPROVAL.digest
    APPROVAL.check_vote("app", APPROVER, good, NOON)
    for who, roles, digest, now in (
        ("rev", APPROVER, good, NOON),
        ("late", APPROVER, good, NOON),
        ("app", frozenset({Role.REVIEWER}), good, NOON),
        ("app", frozenset(), good, NOON),
        ("app", APPROVER, digest_of("else"), NOON),
        ("app", APPROVER, "\xe9\ud800", NOON),
        ("app", APPROVER, good, NOON + 60),
    ):
        with pytest.raises(Refused):
            APPROVAL.check_vote(who, roles, digest, now)


def test_an_author_among_the_eligible_is_refused_all_the_same():
    own = msgspec.structs.replace(APPROVAL, eligible=("rev", "app"))
    with pytest.raises(Refused, match="himself"):
        own.check_vote("rev", APPROVER, own.digest, NOON)


def test_it_is_used_by_its_author_for_what_was_shown_while_it_lasts():
    given_ = APPROVAL.with_vote("app", NOON, NOON + 30)
    assert given_.state(NOON) is State.APPROVED
    given_.check_use("rev", APPROVAL.shown, NOON + 29)
    for who, shown, now in (
        ("app", APPROVAL.shown, NOON),
        ("rev2", APPROVAL.shown, NOON),
        ("rev", APPROVAL.shown + " ", NOON),
        ("rev", APPROVAL.shown, NOON + 30),
    ):
        with pytest.raises(Refused):
            given_.check_use(who, shown, now)
    with pytest.raises(Refused, match="already"):
        given_.check_vote("app", APPROVER, given_.digest, NOON)
    with pytest.raises(Refused):
        given_.check_vote("app2", APPROVER, given_.digest, NOON)
    with pytest.raises(Refused):
        APPROVAL.check_use("rev", APPROVAL.shown, NOON)


def test_two_that_are_needed_are_two_people():
    both = msgspec.structs.replace(APPROVAL, needed=2)
    one = both.with_vote("app", NOON, NOON + 30)
    assert one.state(NOON) is State.WAITING
    with pytest.raises(Refused):
        one.check_vote("app", APPROVER, one.digest, NOON)
    assert one.with_vote("app2", NOON, NOON + 30).state(NOON) is State.APPROVED


def test_what_is_refused_stays_refused():
    refused = APPROVAL.with_vote("app", NOON, NOON + 30).with_refusal("app2", "no")
    assert refused.state(NOON) is State.REFUSED
    with pytest.raises(Refused):
        refused.check_use("rev", APPROVAL.shown, NOON)


def requested(**changed):
    return {
        "type": "approval.requested",
        "approval": "apr_1",
        "actor": "rev",
        "act": Act.REVEAL,
        "shown": APPROVAL.shown,
        "digest": APPROVAL.digest,
        "roles": ["approver"],
        "needed": 1,
        "eligible": ["app"],
        "time": rfc3339_ns(NOON * NS),
        "expires_at": "2026-11-25T13:00:00Z",
        **changed,
    }


def test_the_state_is_what_the_records_say():
    approvals = Approvals()
    approvals.apply(requested(digest="0" * 64))
    assert approvals.all == {}, "what was shown is not what was bound"
    approvals.apply(requested())
    vote = {"type": "approval.given", "approval": "apr_1", "actor": "app"}
    vote |= {"time": rfc3339_ns(NOON * NS), "lasts_until": "2026-11-25T12:15:00Z"}
    approvals.apply(vote | {"digest": "0" * 64})
    assert not approvals.all["apr_1"].given
    approvals.apply(vote | {"digest": APPROVAL.digest})
    assert list(approvals.all["apr_1"].given) == ["app"]
    approvals.apply({"type": "approval.refused", "approval": "none", "actor": "app"})
    approvals.apply({"type": "access.denied"})
    assert list(approvals.all) == ["apr_1"]


# Reviews


def step(kind, since, until, at, **fields):
    return {
        "type": kind,
        "actor": "rev",
        "time": rfc3339_ns(at),
        "span": {"subject": "red", "credential": "r1", "since": str(since), "until": str(until)},
        **fields,
    }


def test_a_settlement_reaches_what_ended_before_it_and_nothing_else():
    reviews = Reviews()
    reviews.apply(step("review.noted", 0, 90, 95))
    assert not reviews.settled("red", "r1", 50, 50)
    reviews.apply(step("review.resolved", 10, 90, 100, code="misuse"))
    assert reviews.settled("red", "r1", 10, 100)
    for subject, credential, at, end in (
        ("red", "r1", 9, 9),
        ("red", "r1", 91, 91),
        ("red", "r1", 50, 101),
        ("red", "r2", 50, 50),
        ("blue", "r1", 50, 50),
    ):
        assert not reviews.settled(subject, credential, at, end)


def test_a_case_is_closed_once_and_holds_what_was_put_into_it():
    reviews = Reviews()
    reviews.apply(step("case.opened", 1, 2, 10, case="case_1", reason="odd"))
    reviews.apply(step("case.extended", 3, 4, 11, case="case_1", reason="more"))
    close = {"type": "case.closed", "actor": "rev", "time": rfc3339_ns(12), "case": "case_1"}
    reviews.apply(close | {"code": "misuse", "reason": "it was"})
    reviews.apply(close | {"code": "mistake", "reason": "no"})
    case = reviews.cases["case_1"]
    assert (case.closed, case.outcome, len(case.spans)) == ("misuse", "it was", 2)
    assert reviews.settled("red", "r1", 3, 3)


# Runs


def intent(seq, at, subject="red"):
    return "data-0", {
        "type": "access.intent",
        "seq": seq,
        "hlc": str(at),
        "time": rfc3339_ns(at),
        "request_id": f"req_{seq}",
        "subject": {"id": subject, "credential": "r1", "org": "acme"},
        "model": {"requested": "m"},
        "decision": {"effect": "allow"},
    }


def outcome(seq, at, parent):
    return "data-0", {
        "type": "access.outcome",
        "seq": seq,
        "hlc": str(at),
        "time": rfc3339_ns(at),
        "request_id": f"req_{parent}",
        "parent": parent,
        "status": "ok",
        "tokens": {"in": 3, "out": 4},
    }


@given(st.lists(st.integers(0, 3 * PAUSE_NS), max_size=40), st.randoms())
def test_runs_are_all_calls_in_order_with_no_long_pause_inside_and_one_between(gaps, random):
    at, records = NOON * NS, []
    for number, gap in enumerate(gaps):
        at += gap + 1
        records += [intent(2 * number, at), outcome(2 * number + 1, at + 1, 2 * number)]
    random.shuffle(records)
    calls = calls_of(records)
    runs = runs_of(calls)
    assert [call for run in runs for call in run] == calls
    assert [call.at for call in calls] == sorted(call.at for call in calls)
    assert all(call.status == "ok" and call.end == call.at + 1 for call in calls)
    for run in runs:
        assert all(b.at - a.at <= PAUSE_NS for a, b in itertools.pairwise(run))
        assert run_at(calls, run[0].at) == run
    for one, other in itertools.pairwise(runs):
        assert other[0].at - one[-1].at > PAUSE_NS


def test_an_outcome_without_its_intent_is_no_call():
    assert calls_of([outcome(1, 5, 0)]) == []
