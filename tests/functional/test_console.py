"""The console over HTTP: who gets in, what each role may do, what hostile text and forms reach."""

from __future__ import annotations

import asyncio
import html
import json
import re
import time
from unittest.mock import Mock

import httpx
import pytest
import pytest_asyncio

from gateway.audit.content import Part
from gateway.audit.note import NoteError, VerifierKey
from gateway.audit.proof import check_proof
from gateway.control.console import console_app
from gateway.control.console.access import ACCESS
from gateway.core.staff import Role
from tests.support import raw
from tests.support.gate import APPROVER, REVIEWER, Gate
from tests.support.speaking import TARGETS, body_for, provider
from tests.support.staff import STAFF, Reader, hire, link
from tests.support.upstream import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = "mythos-5"
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\u202ereversed"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gate(tmp_path_factory):
    upstream = Upstream(provider)
    await upstream.start()
    running = Watched(tmp_path_factory.mktemp("gate"), upstream.url, {})
    running.readers = []
    await running.start()
    try:
        await running.organisation()
        await hire(running)
        await running.member("red")
        await running.member("newcomer", 0)
        for key in ("red-1", "newcomer-1", "newcomer-1"):
            await call(running, key)
        await running.recorded("access.outcome")
        await denials(running, "newcomer", 2)
        yield running
    finally:
        for each in running.readers:
            await each.http.aclose()
        await running.stop()
        await upstream.stop()


async def call(gate: Gate, key: str) -> raw.Answer:
    body = body_for("messages", MODEL)
    return await raw.call(
        gate.port, TARGETS["messages"], method="POST", key=gate.keys[key], body=body
    )


class Watched(Gate):
    """A gateway that closes the sessions' connections with itself."""

    readers: list[Reader]


async def reader(gate: Watched, member: str = "") -> Reader:
    somebody = Reader(gate)
    gate.readers.append(somebody)
    return await somebody.sign_in(member) if member else somebody


# Signing in


async def test_a_link_signs_in_once_and_looking_at_it_does_not_use_it_up(gate):
    url = await link(gate, "aud")
    token = url.rpartition("/")[2]
    async with httpx.AsyncClient(base_url=gate.console_url) as first:
        for _ in range(3):
            assert (await first.get(url)).status_code == 200
        assert (await first.post("/sign-in", data={"token": token})).status_code == 303
    async with httpx.AsyncClient(base_url=gate.console_url) as second:
        assert (await second.get(url)).status_code == 403
        answer = await second.post("/sign-in", data={"token": token})
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers
    assert token not in "".join(json.dumps(record) for record in gate.records())
    assert token not in gate.log()


async def test_only_active_members_with_a_staff_role_get_a_link(gate):
    for member in ("red", "nobody", "no-such"):
        with pytest.raises(Exception, match="staff role"):
            await link(gate, member)


async def test_a_session_that_a_browser_brought_along_is_not_taken_over(gate):
    """Session fixation: the cookie that comes out is another one than went in."""
    url = await link(gate, "aud")
    async with httpx.AsyncClient(base_url=gate.console_url) as http:
        http.cookies.set("sluicegate", "chosen-by-an-attacker")
        answer = await http.post("/sign-in", data={"token": url.rpartition("/")[2]})
    cookie = answer.headers["set-cookie"]
    assert "chosen-by-an-attacker" not in cookie
    assert all(word in cookie for word in ("HttpOnly", "SameSite=Strict", "Path=/"))
    async with httpx.AsyncClient(base_url=gate.console_url) as attacker:
        attacker.cookies.set("sluicegate", "chosen-by-an-attacker")
        assert (await attacker.get("/desk")).status_code == 303


async def test_signing_out_and_losing_a_role_or_the_membership_take_effect_at_once(gate):
    await gate.member("gone", 0, roles=["auditor", "approver"])
    there = await reader(gate, "gone")
    await there.read("/desk")
    await gate.set("member", "gone", roles=[])
    assert (await there.get("/desk")).status_code == 403
    await gate.set("member", "gone", roles=["auditor"])
    await there.read("/desk")
    await gate.move("member", "gone", "revoke")
    assert (await there.get("/desk")).status_code == 303
    left = await reader(gate, "aud")
    assert (await left.post("/sign-out")).status_code == 303
    assert (await left.get("/desk")).status_code == 303
    ended = await gate.recorded("staff.signed_out", actor="aud")
    begun = [record["session"] for record in gate.records("staff.signed_in")]
    assert ended[-1]["session"] in begun


async def test_separation_of_duty_is_refused_when_roles_are_given(gate):
    for roles in (["admin", "reviewer"], ["operator", "reviewer"], ["admin", "approver"]):
        with pytest.raises(Exception, match="separation of duty"):
            await gate.member("both", 0, roles=roles)


# The matrix


def routes() -> list[tuple[str, str]]:
    app = console_app(Mock(), Mock(), Mock(), Mock(), Mock())
    return sorted((method, route.path) for route in app.routes for method in route.methods)


async def test_every_route_is_in_the_table_and_the_table_has_no_other():
    assert set(routes()) == set(ACCESS)


async def test_every_route_lets_in_exactly_the_roles_of_the_table(gate):
    signed_in = {name: await reader(gate, name) for name in STAFF}
    signed_in["out"] = await reader(gate)
    for method, route in routes():
        if route == "/sign-out":
            continue  # it ends the session it is tried with; tried above
        path = route.replace("{shard}", "control").replace("{seq}", "0")
        path = re.sub(r"\{[^}]*\}", "none", path)
        for name, somebody in signed_in.items():
            roles = {Role(role) for role in STAFF.get(name, ())}
            send = somebody.get(path) if method == "GET" else somebody.post(path)
            status = (await send).status_code
            wanted = ACCESS[method, route]
            if wanted is None:
                continue
            if name == "out":
                assert status == 303, (name, method, route)
            else:
                assert (status == 403) == (not wanted & roles), (name, method, route, status)
                assert status < 500, (name, method, route)
    refused = {record["actor"] for record in gate.records("staff.refused")}
    assert refused >= set(STAFF) - {"rev"}, "a reviewer may do all that there is"


# Forms


async def test_a_form_of_another_site_or_another_session_changes_nothing(gate):
    rev, other = await reader(gate, "rev"), await reader(gate, "rev")
    span = {"subject": "newcomer", "credential": "newcomer-1", "since": 1, "until": 2}
    before = len(gate.records("review.noted"))
    form = {**span, "text": "forged"}
    send = rev.http.post
    tries = [
        send("/review/note", data=form),
        send("/review/note", data={**form, "csrf": ""}),
        send("/review/note", data={**form, "csrf": other.csrf}),
        *(
            send("/review/note", data={**form, "csrf": rev.csrf}, headers=headers)
            for headers in (
                {"origin": "https://evil.example"},
                {"origin": "null"},
                {"sec-fetch-site": "cross-site"},
                {"sec-fetch-site": "same-site"},
            )
        ),
    ]
    for each in tries:
        assert (await each).status_code == 403
    assert len(gate.records("review.noted")) == before
    own = await send(
        "/review/note", data={**form, "csrf": rev.csrf}, headers={"origin": gate.console_url}
    )
    assert own.status_code == 303
    assert len(gate.records("review.noted")) == before + 1


async def test_after_a_form_one_is_sent_to_a_page_of_ours_only(gate):
    rev = await reader(gate, "rev")
    span = {"credential": "c", "since": 1, "until": 2, "text": "x"}
    for back in ("https://evil.example/", "//evil.example", "/\\evil.example", "evil"):
        answer = await rev.post("/review/note", **span, back=back)
        assert answer.headers["location"] == "/desk"
    long = await rev.post("/review/note", **span | {"text": "x" * 501})
    assert (long.status_code, "501" in long.text) == (422, True)
    huge = await rev.post("/review/note", **span | {"text": "x" * 20_000})
    assert huge.status_code == 413


# What is shown


async def test_recorded_text_is_text(gate):
    """Whatever was recorded, nothing of it becomes markup or moves the reading direction."""
    rev = await reader(gate, "rev")
    at = int((await denials(gate, "newcomer"))[0]["hlc"])
    span = {"subject": "newcomer", "credential": "newcomer-1", "since": at, "until": at}
    assert (await rev.post("/review/note", **span, text=HOSTILE)).status_code == 303
    made = await rev.post("/review/escalate", **span, text=HOSTILE)
    note = (await gate.recorded("review.noted", reason=HOSTILE))[0]
    pages = [
        f"/runs?subject=newcomer&credential=newcomer-1&at={at}",
        made.headers["location"],
        "/cases",
        f"/records/control/{note['seq']}",
        "/search?q=type%3Dreview",
        "/search?q=" + "%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E",
        "/search?q=%3Cscript%3E%3Dx",
        "/records/%3Cscript%3E/1",
    ]
    for path in pages:
        text = (await rev.get(path)).text
        assert "<script>alert" not in text, path
        assert "<img" not in text, path
        assert "\u202e" not in text, path
    assert "&lt;script&gt;alert(1)" in (await rev.get(pages[0])).text, "the note itself is shown"


async def test_every_answer_forbids_what_no_page_needs(gate):
    rev = await reader(gate, "rev")
    for path in ("/", "/desk", "/none", "/static/console.css", "/records/control/0/raw"):
        headers = (await rev.get(path)).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy, path
        assert "unsafe" not in policy, path
        assert headers["x-content-type-options"] == "nosniff", path
        assert "frame-ancestors 'none'" in policy, path
    for page in ("/desk", "/search", "/cases", "/me"):
        text = await rev.read(page)
        assert not re.search(
            r"<script(?! src=\"/static/)|<[^>]*\s(on[a-z]+|style)=|=.javascript:", text
        )


async def test_no_path_leads_out_of_the_pages_own_files(gate):
    aud = await reader(gate, "aud")
    for path in (
        "/static/../application.py",
        "/static/..%2fapplication.py",
        "/static/console.py",
        "/static/%2e%2e%2f%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/records/..%2f..%2fkeys/0",
        "/records/control%2f..%2fcontrol/0",
        "/records/control/-1",
        "/records/control/99999999999999999999",
        "/records/control/none",
    ):
        answer = await aud.get(path)
        assert answer.status_code in {403, 404, 422}, (path, answer.status_code)


# The work


async def test_a_denial_waits_at_the_desk_until_it_is_settled_and_a_new_one_waits_again(gate):
    rev = await reader(gate, "rev")
    await gate.member("late", 0)
    await call(gate, "late-1")
    first = (await denials(gate, "late"))[0]
    desk = await rev.read("/desk")
    assert "late" in desk
    assert "denied by policy" in desk
    at = int(first["hlc"])
    span = {"subject": "late", "credential": "late-1", "since": at, "until": at}
    run = await rev.read(f"/runs?subject=late&credential=late-1&at={at}")
    assert MODEL in run
    assert (await rev.post("/review/take", **span, to="rev")).status_code == 303
    assert (await rev.post("/review/take", **span, to="app")).status_code == 422
    unsaid = await rev.post("/review/resolve", **span, code="misuse")
    assert unsaid.status_code == 422
    settled = await rev.post("/review/resolve", **span, code="as-intended")
    assert settled.status_code == 303
    assert 'href="/runs?subject=late' not in await rev.read("/desk")
    await call(gate, "late-1")
    await denials(gate, "late", 2)
    assert 'href="/runs?subject=late' in await rev.read("/desk")
    kinds = [record["type"] for record in gate.records() if record.get("actor") == "rev"]
    assert {"review.assigned", "review.resolved", "review.viewed"} <= set(kinds)


async def denials(gate: Gate, member: str, count: int = 1) -> list[dict]:
    """A member's denials, once there are so many."""
    for _ in range(200):
        found = [
            record
            for record in gate.records("access.denied")
            if record.get("subject", {}).get("id") == member
        ]
        if len(found) >= count:
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"no {count} denials of {member}")


async def test_what_was_settled_stays_settled_over_a_restart(gate):
    rev = await reader(gate, "rev")
    await gate.member("kept", 0)
    await call(gate, "kept-1")
    at = int((await denials(gate, "kept"))[0]["hlc"])
    span = {"subject": "kept", "credential": "kept-1", "since": at, "until": at}
    case = (await rev.post("/review/escalate", **span, text="look closer")).headers["location"]
    await gate.stop()
    await gate.start()
    assert (await rev.get("/desk")).status_code == 303, "sessions end with the process"
    again = await reader(gate, "rev")
    assert 'href="/runs?subject=kept' not in await again.read("/desk")
    assert "look closer" in await again.read(case)
    closed = await again.post(f"{case}/close", code="mistake", text="he mistyped")
    assert closed.status_code == 303
    twice = await again.post(f"{case}/close", code="mistake", text="again")
    assert twice.status_code == 409
    into = await again.post("/review/escalate", **span, text="more", case=case.rpartition("/")[2])
    assert into.status_code == 409


async def test_searches_views_and_what_is_taken_along_are_recorded(gate):
    aud = await reader(gate, "aud")
    text = await aud.read("/search?q=effect%3Ddeny+subject%3Dnewcomer")
    assert text.count('class="row"') == 2
    searched = await gate.recorded("review.searched", query="effect=deny subject=newcomer")
    assert (searched[0]["actor"], searched[0]["hits"]) == ("aud", 2)
    denied = (await denials(gate, "newcomer"))[0]
    page = await aud.read(f"/records/data-0/{denied['seq']}")
    assert "newcomer asked for mythos-5 and was refused" in page
    assert 'class="proof good"' in page
    viewed = await gate.recorded("review.viewed", ref=f"data-0#{denied['seq']}")
    assert viewed[0]["actor"] == "aud"
    exported = await aud.get("/export?q=effect%3Ddeny+subject%3Dnewcomer")
    assert exported.headers["content-disposition"].startswith("attachment")
    assert [json.loads(line)["type"] for line in exported.text.splitlines()] == [
        "access.denied"
    ] * 2
    taken = await gate.recorded("review.exported", query="effect=deny subject=newcomer")
    assert taken[0]["records"] == 2
    wrong = await aud.get("/search?q=nothing%3Dx")
    assert (wrong.status_code, "there is no filter" in wrong.text) == (422, True)


async def test_what_a_page_gives_to_keep_is_what_the_log_has_and_proves_itself(gate):
    aud = await reader(gate, "aud")
    denied = (await denials(gate, "newcomer"))[0]
    record = await aud.get(f"/records/data-0/{denied['seq']}/raw")
    proof = await aud.get(f"/records/data-0/{denied['seq']}/proof")
    assert json.loads(record.content) == denied
    keys = [VerifierKey.parse(gate.state.vkeys()["data-0"])]
    assert check_proof(proof.content, record.content, keys)[0] == denied["seq"]
    with pytest.raises(NoteError):
        check_proof(proof.content, record.content + b" ", keys)


async def test_a_decision_is_explained_by_the_rules_of_then_until_its_facts_are_gone(gate):
    aud = await reader(gate, "aud")
    await gate.member("leaver", 0)
    await call(gate, "leaver-1")
    seq = (await denials(gate, "leaver"))[0]["seq"]
    page = await aud.read(f"/records/data-0/{seq}/explain")
    assert "The same comes out: deny" in page
    assert "tiers.insufficient" in page
    assert "tiers.rego:" in page
    for verb in ("revoke", "erase"):
        await gate.move("member", "leaver", verb)
    gone = await aud.get(f"/records/data-0/{seq}/explain")
    assert (gone.status_code, "was destroyed" in gone.text) == (409, True)
    assert (await aud.get("/records/control/0/explain")).status_code == 409


async def test_nobodys_flood_hides_another_callers_one_call(gate):
    rev = await reader(gate, "rev")
    for member in ("victim", "flooder"):
        await gate.member(member, 0)
    await call(gate, "victim-1")
    for _ in range(80):
        await call(gate, "flooder-1")
    flood = await denials(gate, "flooder", 80)
    desk = await rev.read("/desk")
    assert 'href="/runs?subject=victim' in desk
    assert '<td class="number">60+<br>' in desk, "what is not counted is said"
    first, last = int(flood[0]["hlc"]), int(flood[-1]["hlc"])
    span = {"subject": "flooder", "credential": "flooder-1", "since": first, "until": last}
    assert (await rev.post("/review/resolve", **span, code="as-intended")).status_code == 303
    await call(gate, "flooder-1")
    await denials(gate, "flooder", 81)
    desk = await rev.read("/desk")
    assert 'href="/runs?subject=flooder' in desk, "settled ones do not use up what is looked at"
    run = await rev.read(f"/runs?subject=flooder&credential=flooder-1&at={first}")
    assert flood[0]["time"][:19] in run


async def test_nothing_is_settled_before_it_happens_nor_by_whom_it_is_about(gate):
    await gate.member("revcall", 0, roles=["reviewer"])
    both, now = await reader(gate, "revcall"), time.time_ns()
    for subject, since, until, status in (
        ("revcall", now - 2, now - 1, 403),
        ("newcomer", 0, now + 3_600 * 10**9, 422),
        ("newcomer", 9, 3, 422),
        ("newcomer", 0, (1 << 63) - 1, 422),
        ("newcomer", 0, now, 422),
    ):
        span = {"subject": subject, "credential": "c", "since": since, "until": until}
        for route, more in (("resolve", {"code": "as-intended"}), ("escalate", {"text": "x"})):
            answer = await both.post(f"/review/{route}", **span, **more)
            assert answer.status_code == status, (route, span, answer.text)


async def test_of_two_who_close_a_case_one_is_told_that_it_is_closed(gate):
    rev = await reader(gate, "rev")
    span = {"subject": "newcomer", "credential": "c", "since": 1, "until": 2, "text": "odd"}
    case = (await rev.post("/review/escalate", **span)).headers["location"]
    closing = [rev.post(f"{case}/close", code=code, text="so") for code in ("misuse", "mistake")]
    statuses = sorted(answer.status_code for answer in await asyncio.gather(*closing))
    assert statuses == [303, 409]
    assert len(await gate.recorded("case.closed", case=case.rpartition("/")[2])) == 1


async def test_odd_requests_get_a_short_answer_and_leave_the_console_as_it_was(gate):
    rev = await reader(gate, "rev")
    port = int(gate.console_url.rpartition(":")[2])
    host = f"Host: 127.0.0.1:{port}\r\n".encode()
    form = b"Content-Type: application/x-www-form-urlencoded\r\n"

    async def first_line(request: bytes) -> bytes:
        source, sink = await asyncio.open_connection("127.0.0.1", port)
        sink.write(request)
        line = await source.readline()
        sink.close()
        return line

    chunked = b"Transfer-Encoding: chunked\r\n\r\nfff\r\n"
    assert b" 413 " in await first_line(b"POST /sign-in HTTP/1.1\r\n" + host + form + chunked)
    long = b"Content-Length: 99999999\r\n\r\n"
    assert b" 413 " in await first_line(b"POST /sign-in HTTP/1.1\r\n" + host + form + long)
    files = b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 5\r\n\r\nhello"
    assert b" 415 " in await first_line(b"POST /sign-in HTTP/1.1\r\n" + host + files)
    endless = b"X: " + b"a" * 40_000
    assert b" 400 " in await first_line(b"GET / HTTP/1.1\r\n" + host + endless)
    for origin in ("http://[", "null", "javascript:"):
        answer = await rev.http.post("/sign-in", data={"token": "x"}, headers={"origin": origin})
        assert answer.status_code == 403, origin
    for path in ("/search?q=a%0Db", "/export?q=a%0Db", "/search?q=%00", "/search?q=%ff"):
        assert (await rev.get(path)).status_code < 500, path
    assert (await rev.post("/review/note", credential="c", since="1", until="2")).status_code == 422
    await rev.read("/desk")


async def test_what_is_taken_away_record_by_record_is_recorded_too(gate):
    app = await reader(gate, "app")
    for what in ("raw", "proof"):
        assert (await app.get(f"/records/control/1/{what}")).status_code == 200
        assert await gate.recorded("review.viewed", actor="app", what=what, ref="control#1")


async def test_who_is_signed_in_may_take_a_new_link(gate):
    rev = await reader(gate, "rev")
    url = await link(gate, "aud")
    again = await rev.http.post("/sign-in", data={"token": url.rpartition("/")[2]})
    assert again.status_code == 303
    assert "<strong>aud</strong>" in await rev.read("/me")


# Sealed content


async def asked(gate: Watched, rev: Reader, who: str = "red") -> tuple[dict, str]:
    """An allowed call whose request is sealed, put into a case and asked for: its intent, and the
    approval's address."""
    await call(gate, f"{who}-1")
    intent = [r for r in gate.records("access.intent") if r["subject"]["id"] == who][-1]
    at = int(intent["hlc"])
    span = {"subject": who, "credential": f"{who}-1", "since": at, "until": at}
    case = (await rev.post("/review/escalate", **span, text="odd")).headers["location"]
    form = {"shard": "data-0", "seq": intent["seq"], "part": "request", "text": "to see"}
    answer = await rev.post("/reveals", **form, case=case.rpartition("/")[2])
    assert answer.status_code == 303, answer.text
    return intent, answer.headers["location"]


def digest_on(text: str) -> str:
    return re.search(r'name="digest" value="([0-9a-f]{64})"', text)[1]


async def test_two_people_and_two_keys_open_content_and_it_is_recorded_before(gate):
    rev, app = await reader(gate, "rev"), await reader(gate, "app")
    intent, where = await asked(gate, rev)
    early = await rev.post(f"{where}/open", key=REVIEWER.text)
    assert (early.status_code, "waiting" in early.text) == (409, True)
    digest = digest_on(await app.read(where))
    given = await app.post(f"{where}/approve", digest=digest, key=APPROVER.text)
    assert given.status_code == 303, given.text
    shown = await rev.post(f"{where}/open", key=REVIEWER.text)
    assert shown.status_code == 200, shown.text
    assert html.unescape(shown.text).count(gate.content(intent, Part.REQUEST, "red").decode()) == 1
    name = where.rpartition("/")[2]
    steps = [r["type"] for r in gate.records() if r.get("approval") == name]
    assert steps == ["approval.requested", "approval.given", "content.revealed"]
    everything = "".join(json.dumps(record) for record in gate.records()) + gate.log()
    for secret in (REVIEWER.text, APPROVER.text):
        assert secret not in everything


async def test_nobody_alone_and_no_altered_or_replayed_approval_opens_anything(gate):
    """The author, another reviewer, the wrong digest, the wrong key, a second time, another's."""
    await gate.member("rev2", 0, roles=["reviewer"])
    await gate.member("duo", 0, roles=["reviewer", "approver"])
    rev, app = await reader(gate, "rev"), await reader(gate, "app")
    duo, rev2 = await reader(gate, "duo"), await reader(gate, "rev2")
    _, own = await asked(gate, duo)
    digest = digest_on(await app.read(own))
    both = await duo.post(f"{own}/approve", digest=digest, key=APPROVER.text)
    assert (both.status_code, "himself" in both.text) == (409, True)
    _, where = await asked(gate, rev)
    digest = digest_on(await app.read(where))
    await gate.member("later", 0, roles=["approver"])
    later = await reader(gate, "later")
    tries = [
        (rev, {"digest": digest, "key": APPROVER.text}, 403),
        (later, {"digest": digest, "key": APPROVER.text}, 409),
        (app, {"digest": "0" * 64, "key": APPROVER.text}, 409),
        (app, {"digest": digest, "key": REVIEWER.text}, 409),
        (app, {"digest": digest, "key": "sgrole-approver-x"}, 409),
        (app, {"digest": digest, "key": ""}, 409),
    ]
    for who, form, status in tries:
        answer = await who.post(f"{where}/approve", **form)
        assert answer.status_code == status, (form, answer.text)
    assert (await rev.post(f"{where}/open", key=REVIEWER.text)).status_code == 409
    assert (await app.post(f"{where}/approve", digest=digest, key=APPROVER.text)).status_code == 303
    again = await app.post(f"{where}/approve", digest=digest, key=APPROVER.text)
    assert again.status_code == 409
    assert (await rev2.post(f"{where}/open", key=REVIEWER.text)).status_code == 409
    assert (await rev.post(f"{where}/open", key=APPROVER.text)).status_code == 409
    _, other = await asked(gate, rev)
    assert (await rev.post(f"{other}/open", key=REVIEWER.text)).status_code == 409
    names = {path.rpartition("/")[2] for path in (own, where, other)}
    assert not [r for r in gate.records("content.revealed") if r["approval"] in names]


async def test_what_was_approved_for_a_case_is_not_read_once_it_is_closed(gate):
    rev, app = await reader(gate, "rev"), await reader(gate, "app")
    intent, where = await asked(gate, rev)
    digest = digest_on(await app.read(where))
    assert (await app.post(f"{where}/approve", digest=digest, key=APPROVER.text)).status_code == 303
    place = f"data-0#{intent['seq']}"
    (wanted,) = [
        r for r in gate.records("approval.requested") if json.loads(r["shown"])["record"] == place
    ]
    case = json.loads(wanted["shown"])["case"]
    closed = await rev.post(f"/cases/{case}/close", code="mistake", text="nothing in it")
    assert closed.status_code == 303
    late = await rev.post(f"{where}/open", key=REVIEWER.text)
    assert (late.status_code, "case is closed" in late.text) == (409, True)
    assert not gate.records("content.revealed") or all(
        r["record"] != place for r in gate.records("content.revealed")
    )


async def test_a_refusal_is_the_end_and_a_restart_takes_the_approvers_half_along(gate):
    rev, app = await reader(gate, "rev"), await reader(gate, "app")
    _, where = await asked(gate, rev)
    digest = digest_on(await app.read(where))
    assert (await app.post(f"{where}/refuse", digest=digest, text="no need")).status_code == 303
    assert (await app.post(f"{where}/approve", digest=digest, key=APPROVER.text)).status_code == 409
    _, kept = await asked(gate, rev)
    digest = digest_on(await app.read(kept))
    assert (await app.post(f"{kept}/approve", digest=digest, key=APPROVER.text)).status_code == 303
    await gate.stop()
    await gate.start()
    again = await reader(gate, "rev")
    gone = await again.post(f"{kept}/open", key=REVIEWER.text)
    assert (gone.status_code, "half is gone" in gone.text) == (409, True)
    assert "refused by app: no need" in await again.read(where)


async def test_what_is_no_case_of_the_caller_is_not_asked_for(gate):
    rev = await reader(gate, "rev")
    intent, _ = await asked(gate, rev)
    span = {"subject": "newcomer", "credential": "newcomer-1", "since": 1, "until": 2}
    case = (await rev.post("/review/escalate", **span, text="odd")).headers["location"]
    form = {"shard": "data-0", "seq": intent["seq"], "text": "to see"}
    for part, name, status in (
        ("request", case.rpartition("/")[2], 409),
        ("request", "case_none", 409),
        ("request", "", 409),
        ("answer", case.rpartition("/")[2], 409),
        ("both", case.rpartition("/")[2], 422),
    ):
        answer = await rev.post("/reveals", **form, part=part, case=name)
        assert answer.status_code == status, (part, name)
