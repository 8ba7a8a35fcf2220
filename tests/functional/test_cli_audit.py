"""``audit``: a small record of two logs, read, verified and proved by the commands."""

import json
import shutil
import signal
import subprocess
import sys

import pytest

from gateway.app.opening import open_log
from gateway.audit import records as r
from gateway.audit.note import SigningKey
from gateway.audit.read import LogReader
from gateway.audit.segments import segment_files
from gateway.audit.verify import main as sluicegate_verify
from gateway.cli.records import Lines
from gateway.registry.mac import load_secret
from gateway.registry.registry import MASTER_KEY_FILE
from gateway.registry.store import Store
from gateway.registry.subject_keys import unwrap
from gateway.settings import load
from tests.functional.command_line import Operator

FACTS = b'{"subject":{"id":"red"},"n":1}'
SUBJECT = r.SubjectRef(id="red", org="acme", kind="member", credential="red-1", cred_kind="api_key")
ESCAPE = "\x1b[2Jgone"


def decision(effect, *rules):
    reasons = tuple(r.ReasonRef(code=f"code_{rule}", rule=rule) for rule in rules)
    return r.DecisionRef(effect=effect, revision="sha256:" + "ab" * 32, reasons=reasons)


def intent(number, **fields):
    return r.AccessIntent(
        request_id=f"req_{number}",
        decision_id=f"dec_{number}",
        subject=SUBJECT,
        src=r.SourceRef(hmac="hmac:1:00"),
        wire="chat",
        action="model.generate",
        model=r.ModelRef(requested="fable-5", authorised="opus-4.8", endpoint="anthropic"),
        decision=decision("downgrade", "tiers.low"),
        request=r.RequestRef(bytes=10),
        **fields,
    )


def outcome(number, reason=""):
    return r.AccessOutcome(
        request_id=f"req_{number}",
        status="ok",
        http=200,
        reason=reason,
        tokens=r.Tokens(input=3, output=5, usage_source="upstream"),
    )


def denied(number):
    return r.AccessDenied(
        request_id=f"req_{number}",
        decision_id=f"dec_{number}",
        http=403,
        subject=SUBJECT,
        model=r.ModelRef(requested="mythos-5"),
        decision=decision("deny", "tiers.insufficient"),
        reason="tier_insufficient",
    )


def subject_key(state):
    store = Store(state.registry)
    try:
        wrapped = store.wrapped_keys()["red"]
    finally:
        store.close()
    return unwrap(load_secret(state.keys / MASTER_KEY_FILE, create=False), "red", wrapped)


def write(operator, *records, shard="data-0", facts=None):
    """Records as a data worker writes them, the first with facts."""
    settings = load(operator.config, dev=True)
    with open_log(operator.state, shard, settings) as log:
        for number, record in enumerate(records):
            sealed = (facts, subject_key(operator.state)) if facts and number == 0 else ()
            log.append_sync(record, *sealed)


def build(home):
    operator = Operator(home)
    operator.change("org", "add", "acme", "--tier", "cyber=3")
    operator.change("member", "add", "red", "--org", "acme", "--tier", "cyber=2")
    write(operator, intent(1), outcome(1, ESCAPE), denied(2), r.LogHeartbeat(open=0), facts=FACTS)
    operator.change("member", "suspend", "red", reason="he left")
    return operator


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A record that no test changes."""
    return build(tmp_path_factory.mktemp("kept"))


@pytest.fixture
def operator(tmp_path):
    return build(tmp_path)


def vkeys(operator):
    return operator.state.vkeys()


# tail


def test_the_logs_are_shown_as_one_in_order_of_time(kept):
    lines = kept("audit", "tail", "-n", "100").out.splitlines()
    told = [line.split()[1:3] for line in lines]
    assert told == [
        ["control#0", "log.opened"],
        ["control#1", "registry.changed"],
        ["control#2", "log.closed"],
        ["control#3", "log.opened"],
        ["control#4", "registry.changed"],
        ["control#5", "log.closed"],
        ["data-0#0", "log.opened"],
        ["data-0#1", "access.intent"],
        ["data-0#2", "access.outcome"],
        ["data-0#3", "access.denied"],
        ["data-0#5", "log.closed"],
        ["control#6", "log.opened"],
        ["control#7", "registry.changed"],
        ["control#8", "log.closed"],
    ]
    times = [line.split()[0] for line in lines]
    assert times == sorted(times)
    assert lines == [line.rstrip() for line in lines]


def test_a_line_says_who_what_and_why(kept):
    intent_, outcome_, denied_ = kept("audit", "tail", "--type", "access").out.splitlines()
    assert "red" in intent_
    assert "fable-5->opus-4.8" in intent_
    assert "downgrade" in intent_
    assert "code_tiers.low (tiers.low)" in intent_
    assert "red" in outcome_  # remembered from the intent: the record names only the request
    assert "ok 200" in outcome_
    assert outcome_.endswith("3 in, 5 out")
    assert "deny 403" in denied_
    assert "(tiers.insufficient)" in denied_
    changed = kept("audit", "tail", "-n", "1", "--type", "registry.changed").out
    assert "member red" in changed
    assert "  suspend " in changed
    assert "he left" in changed


def record_of(kind, /, **fields):
    return {"time": "2026-11-25T03:12:58.123456Z", "seq": 7, "type": kind, **fields}


def access(effect, member="red", model="mythos-5", **fields):
    reasons = [{"code": "tier_insufficient", "rule": "tiers.insufficient"}]
    return record_of(
        "access.denied" if "http" in fields else "access.intent",
        request_id="r",
        subject={"id": member},
        model={"requested": model},
        decision={"effect": effect, "reasons": reasons if effect != "allow" else []},
        **fields,
    )


LONG = "incident-response-workload-0042"
READ = {
    "plain": access("allow"),
    "long ids": access("deny", LONG, "gpt-5.5-cyber-preview-2026", http=403),
    "approval": access("require_approval", http=403),
    "limit": access("allow", http=429, reason="limit.requests.limited"),
    "long type": record_of("access.refused_summary", counts={"credential_invalid": 3}, window_s=1),
    "registry": record_of(
        "registry.changed", kind="organisation", id=LONG, op="organisation.withdraw", actor=LONG
    ),
    "unknown": record_of("later.kind", detail="x" * 50),
    "a million": {**access("allow"), "seq": 1_000_000},
}


@pytest.mark.parametrize("name", READ)
def test_columns_stand_where_they_stand_whatever_is_in_them(name):
    lines = Lines()
    line, head = lines.line("control", READ[name]), lines.head()
    starts = [head.index(column) for column in ("TYPE", "WHO", "ABOUT", "WHAT")]
    if name == "a million":  # a position is copied into other commands: it is never cut
        assert "control#1000000 access.intent" in line
        del starts[0]
    for start in starts:
        assert (line[start - 1], line[start] != " ") == (" ", True), line
    assert len(line[: head.index("WHY")].rstrip()) <= 100


def test_what_is_cut_is_known_by_its_end_and_a_reason_ends_with_the_terminal():
    line = Lines().line("data-0", READ["long ids"])
    assert "incid…-0042" in line
    assert "gpt-5.5-c…iew-2026" in line
    assert line.endswith("deny 403      tier_insufficient (tiers.insufficient)")
    assert "approval 403  tier" in Lines().line("data-0", READ["approval"])
    assert "refused 429   limit.requests.limited" in Lines().line("data-0", READ["limit"])
    assert "org incid…oad-0042  withdraw" in Lines().line("control", READ["registry"])
    for width in (112, 120):
        cut = Lines(width).line("data-0", READ["long ids"])
        assert (len(cut), cut) == (width, f"{line[: width - 1]}…")
    assert Lines(80).line("data-0", READ["long ids"]) == line


def test_what_a_terminal_would_obey_is_not_printed(kept):
    for words in (("tail",), ("show", "req_1")):
        shown = kept("audit", *words).out
        assert "\x1b" not in shown
        assert "[2Jgone" in shown


def test_the_latest_are_the_latest(kept):
    whole = kept("audit", "tail", "-n", "100").out.splitlines()
    for count in (0, 1, 5, 13):
        latest = kept("audit", "tail", "-n", str(count)).out.splitlines()
        assert latest == whole[len(whole) - count :]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--type", "access"), {"access.intent", "access.outcome", "access.denied"}),
        (("--type", "access.denied"), {"access.denied"}),
        (("--type", "access.denied", "--type", "policy"), {"access.denied"}),
        (("--type", "log"), {"log.opened", "log.closed", "log.heartbeat"}),
        (("--shard", "data-0", "--type", "registry"), set()),
    ],
)
def test_types_and_shards_are_chosen(kept, options, expected):
    lines = kept("audit", "tail", "-n", "100", *options).out.splitlines()
    assert {line.split()[2] for line in lines} == expected


def test_json_is_the_records_own_bytes(kept):
    lines = kept("audit", "tail", "-n", "100", "--json", "--type", "access").out.splitlines()
    entries = LogReader(kept.state.log("data-0")).entries()
    assert lines == [entry.raw.decode() for entry in entries if b'"access.' in entry.raw]


def test_reading_back_over_segments_finds_the_same(tmp_path):
    operator = Operator(tmp_path)
    operator.configure(audit={"segment_bytes": 65_536})
    write(operator, *(denied(number) for number in range(300)))
    assert len(segment_files(operator.state.log("data-0"))) > 2
    raw = [
        entry.raw.decode()
        for entry in LogReader(operator.state.log("data-0")).entries()
        if b"access.denied" in entry.raw
    ]
    for count in (1, 77, 150, 300, 999):
        options = ("-n", str(count), "--json", "--type", "access.denied")
        assert operator("audit", "tail", *options).out.splitlines() == raw[-count:]


def test_a_log_that_is_not_there(tmp_path, kept):
    operator = Operator(tmp_path)
    for words in (("tail",), ("show", "req_1"), ("verify",), ("prove", "data-0#1"), ("vkeys",)):
        said = operator("audit", *words, code=3)
        assert str(operator.state.root) in said.err
        assert said.out == ""
    assert not operator.state.root.exists()
    assert "no log data-9" in kept("audit", "tail", "--shard", "data-9", code=1).err


def test_a_follower_sees_what_is_appended_and_what_is_begun(operator):
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "gateway.cli", "audit", "tail", "--follow", "--json"),
            *("-n", "1", "--type", "access", "--dir", str(operator.state.root)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert json.loads(process.stdout.readline())["request_id"] == "req_2"
        write(operator, denied(3))
        assert json.loads(process.stdout.readline())["request_id"] == "req_3"
        write(operator, denied(4), shard="data-1")
        assert json.loads(process.stdout.readline())["request_id"] == "req_4"
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 130
    assert errors == ""


# show


@pytest.mark.parametrize("name", ["req_1", "dec_1", "data-0#1", "data-0#2", "sluicegate/data-0#2"])
def test_a_call_is_found_by_any_of_its_names(kept, name):
    shown = kept("audit", "show", name, "--json").json["records"]
    assert [(each["shard"], each["record"]["type"]) for each in shown] == [
        ("data-0", "access.intent"),
        ("data-0", "access.outcome"),
    ]
    assert shown[1]["record"]["parent"] == shown[0]["record"]["seq"]
    text = kept("audit", "show", name).out
    assert "decision.reasons" in text
    assert "tokens.out" in text


def test_a_record_that_belongs_to_no_call_stands_alone(kept):
    shown = kept("audit", "show", "control#7", "--json").json["records"]
    assert [each["record"]["op"] for each in shown] == ["member.suspend"]


@pytest.mark.parametrize(
    "name", ["req_9", "dec_9", "data-0#99", "data-9#1", "other/data-0#1", "#1", "", "\x1b[2J"]
)
def test_what_is_not_there_is_a_no(kept, name):
    said = kept("audit", "show", name, code=1)
    assert "no record of" in said.err
    assert "\x1b" not in said.err


def test_sealed_facts_are_opened_only_on_request(kept):
    assert "facts" not in kept("audit", "show", "req_1", "--json").json
    assert kept("audit", "show", "req_1", "--facts", "--json").json["facts"] == {
        "data-0#1": json.loads(FACTS)
    }
    assert '"n": 1' in kept("audit", "show", "req_1", "--facts").out
    assert kept("audit", "show", "req_2", "--facts", "--json").json["facts"] == {}


def test_facts_that_were_erased_or_cannot_be_read_are_said_so(operator):
    store = Store(operator.state.registry)
    with store._begin() as connection:
        connection.exec_driver_sql("delete from subject_keys")
    store.close()
    shown = operator("audit", "show", "req_1", "--facts", "--json").json
    assert "unavailable: there is no key" in shown["facts"]["data-0#1"]
    assert len(shown["records"]) == 2  # the record stands without them
    (operator.state.keys / MASTER_KEY_FILE).unlink()
    assert "unavailable" in operator("audit", "show", "req_1", "--facts").out
    operator.state.registry.unlink()
    assert "no registry" in operator("audit", "show", "req_1", "--facts").out
    assert not operator.state.registry.exists()


# verify


def pinned(operator):
    return [word for vkey in vkeys(operator).values() for word in ("--key", vkey)]


def test_without_a_key_nothing_is_proved(kept):
    said = kept("audit", "verify", code=1)
    assert "control: consistent, key unpinned" in said.out
    assert "No key was given" in said.out
    assert kept("audit", "verify", "--json", code=1).json["keys"] == "none"


def test_keys_from_the_same_disk_are_named_as_such(kept):
    said = kept("audit", "verify", "--own-keys", "--full")
    assert "control: ok" in said.out
    assert "on the same disk as the log" in said.out
    assert "access.denied 1" in said.out
    answer = kept("audit", "verify", "--own-keys", "--json").json
    assert (answer["ok"], answer["keys"]) == (True, "own")
    assert [shard["shard"] for shard in answer["shards"]] == ["control", "data-0"]


def test_with_the_logs_keys_it_is_verified(kept):
    assert "what these keys signed" in kept("audit", "verify", *pinned(kept)).out
    some = kept("audit", "verify", *pinned(kept)[:2], code=1).out
    assert "consistent, key unpinned" in some


def test_another_key_of_the_same_name_is_refused(kept):
    other = SigningKey.generate("sluicegate/data-0").vkey
    said = kept("audit", "verify", "--key", other, code=1)
    assert "signed by none of the keys given" in said.out
    assert kept("audit", "verify", "--key", "sluicegate/data-0+00+AA", code=2).err


def test_a_log_whose_key_is_known_must_be_there(operator):
    for path in operator.state.log("data-0").iterdir():
        path.unlink()
    operator.state.head("data-0").unlink()
    said = operator("audit", "verify", "--own-keys", code=1)
    assert "missing: refused: no log for sluicegate/data-0" in said.out
    assert "one shard only: control" in said.out


def test_a_shard_moved_to_where_the_logs_are_does_not_hide_the_others(operator):
    keys, audit = pinned(operator), operator.state.audit
    assert operator("audit", "verify", *keys, "--json").json["one_shard"] is False
    shutil.rmtree(operator.state.log("data-0"))
    for path in operator.state.log("control").iterdir():
        path.rename(audit / path.name)
    operator.state.head("data-0").unlink()
    said = operator("audit", "verify", *keys, code=1)
    assert "no log for sluicegate/data-0" in said.out
    assert "one shard only: audit" in said.out
    assert operator("audit", "verify", *keys, "--json", code=1).json["one_shard"] is True


def test_one_flipped_byte_is_found(operator):
    segment = segment_files(operator.state.log("data-0"))[0]
    raw = bytearray(segment.read_bytes())
    raw[raw.index(b"fable-5")] ^= 1
    segment.write_bytes(raw)
    said = operator("audit", "verify", "--own-keys", code=1)
    assert f"refused: {segment.name}@" in said.out


def test_a_log_that_was_cut_back_is_found_by_the_checkpoint_beside_it(operator):
    """Without it, whole batches missing at the end would leave a log that is right in itself."""
    segment = segment_files(operator.state.log("control"))[-1]
    raw = segment.read_bytes()
    first = raw.index(b"\n\n\xe2\x80\x94")  # the first checkpoint's signature
    segment.write_bytes(raw[: raw.index(b"\n", first + 3) + 1])
    assert "a kept checkpoint of" in operator("audit", "verify", "--own-keys", code=1).out
    operator.state.head("control").unlink()
    operator("audit", "verify", "--own-keys")


def test_a_torn_checkpoint_beside_the_log_is_passed_over(operator):
    head = operator.state.head("control")
    head.write_bytes(head.read_bytes()[:-9])
    operator("audit", "verify", "--own-keys")


def test_both_verifiers_agree(kept, capsys):
    arguments = [str(kept.state.root), *pinned(kept)]
    assert sluicegate_verify(arguments) == 0
    capsys.readouterr()


# prove


def test_a_proof_is_written_and_checked(kept, tmp_path):
    proof = tmp_path / "receipt"
    said = kept("audit", "prove", "data-0#3", "-o", str(proof))
    vkey = vkeys(kept)["data-0"]
    record = tmp_path / "receipt.record"
    assert f"sluicegate audit check {proof} {record} --key {vkey}" in said.out
    assert json.loads(record.read_bytes())["request_id"] == "req_2"
    checked = kept.bare("audit", "check", str(proof), str(record), "--key", vkey)
    assert "proved: sluicegate/data-0#3 of 6 records" in checked.out

    record.write_bytes(record.read_bytes().replace(b"mythos-5", b"mythos-6"))
    refused = kept.bare("audit", "check", str(proof), str(record), "--key", vkey, code=1)
    assert "not proved" in refused.err


def test_a_proof_counts_only_with_the_right_key(kept, tmp_path):
    proof = tmp_path / "p"
    answer = kept("audit", "prove", "sluicegate/control#1", "-o", str(proof), "--json").json
    other = SigningKey.generate("sluicegate/control").vkey
    arguments = ("audit", "check", answer["proof"], answer["record"], "--key")
    assert kept.bare(*arguments, answer["vkey"], "--json").json["seq"] == 1
    kept.bare(*arguments, other, code=1)
    kept.bare(*arguments, "nonsense", code=2)
    kept.bare("audit", "check", str(proof), str(tmp_path / "none"), "--key", other, code=2)


def test_a_proof_lies_here_by_default(kept, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept("audit", "prove", "data-0#1")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "data-0-1.proof",
        "data-0-1.proof.record",
    ]


def test_what_is_not_recorded_is_not_proved(kept, tmp_path):
    for position in ("data-0#99", "data-9#0", "req_1"):
        kept("audit", "prove", position, "-o", str(tmp_path / "p"), code=1)
    assert list(tmp_path.iterdir()) == []


def test_public_keys_are_printed(kept):
    assert kept("audit", "vkeys").out.splitlines() == list(vkeys(kept).values())
    assert kept("audit", "vkeys", "--json").json == vkeys(kept)
