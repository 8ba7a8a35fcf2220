"""Readers and the independent verifier, beside a log that is whole, growing, or not what it was."""

import json
import shutil
import subprocess
import sys
import threading
import time

import pytest

from gateway.audit import records as r
from gateway.audit import verify
from gateway.audit.note import NoteError, SigningKey, checkpoint_body, sign_checkpoint
from gateway.audit.proof import check_proof
from gateway.audit.read import LogReader
from gateway.audit.seal import SealError
from gateway.audit.segments import (
    CHECKPOINT,
    RECORD,
    SEALED,
    LogCorrupt,
    frame,
    frames,
    read_opening,
    segment_name,
)
from gateway.audit.tlog import Tree, leaf_hash
from gateway.audit.writer import AuditLog

ORIGIN = "example.org/gate/data-0"
KEY = SigningKey(ORIGIN, bytes(range(32)))
NODE = r.Gateway(node="data-0")
SUBJECT_KEY = b"k" * 32


def denied(i):
    return r.AccessDenied(request_id=f"req_{i}", decision_id=f"dec_{i}", http=403, reason="tier")


def intent(i):
    return r.AccessIntent(
        request_id=f"req_{i}",
        decision_id=f"dec_{i}",
        subject=r.SubjectRef(
            id="red", org="acme", kind="member", credential="c1", cred_kind="api_key"
        ),
        src=r.SourceRef(hmac="hmac:1:ab"),
        wire="messages",
        action="model.generate",
        model=r.ModelRef(requested="mythos-5"),
        decision=r.DecisionRef(effect="allow", revision="rev1"),
        request=r.RequestRef(bytes=120),
    )


def start(directory, **options):
    return AuditLog.open(directory, ORIGIN, KEY, node=NODE, **options)


@pytest.fixture
def state(tmp_path):
    """A state directory whose log has several segments, sealed facts and an open intent."""
    with start(tmp_path / "audit" / "data-0", segment_bytes=6000) as log:
        for i in range(25):
            log.append_sync(denied(i), b'{"facts":%d}' % i, SUBJECT_KEY)
        log.append_sync(intent(99), b"facts", SUBJECT_KEY)
    return tmp_path


@pytest.fixture
def log_dir(state):
    return state / "audit" / "data-0"


def run(capsys, *arguments):
    code = verify.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def rewrite(log_dir, change):
    """Give the one segment back with ``change`` applied to the list of (kind, payload)."""
    path = log_dir / segment_name(0)
    data = path.read_bytes()
    _, offset = read_opening(data)
    parts = change([(found.kind, found.payload) for found in frames(data, offset)])
    path.write_bytes(data[:offset] + b"".join(frame(kind, payload) for kind, payload in parts))


def resigned(parts, key=KEY):
    """The same records under checkpoints made anew: what someone with the key could write."""
    tree = Tree()
    result = []
    for kind, payload in parts:
        if kind == RECORD:
            tree.append(leaf_hash(payload))
        if kind == CHECKPOINT:
            payload = sign_checkpoint(key, tree.size, tree.root()).note  # noqa: PLW2901
        result.append((kind, payload))
    return result


# Reading


def test_entries_are_found_by_index_request_and_decision(log_dir):
    reader = LogReader(log_dir)
    assert len(list(log_dir.glob("*.seg"))) > 3
    assert [entry.seq for entry in reader.entries()] == list(range(28))
    assert [entry.seq for entry in reader.entries(20)] == list(range(20, 28))
    entry = reader.find(8)
    assert entry.json()["request_id"] == "req_7"
    assert entry.facts(SUBJECT_KEY) == b'{"facts":7}'
    raw = (log_dir / entry.segment).read_bytes()
    assert raw[entry.offset + 9 :].startswith(entry.raw)
    with pytest.raises(SealError):
        entry.facts(b"x" * 32)
    with pytest.raises(SealError, match="no sealed"):
        reader.find(0).facts(SUBJECT_KEY)
    assert [e.seq for e in reader.by_request("req_7")] == [8]
    assert [e.seq for e in reader.by_decision("dec_24")] == [25]
    assert reader.by_request("dec_24") == []
    assert reader.find(28) is None


def test_every_record_of_a_log_with_segments_is_proved(log_dir):
    reader = LogReader(log_dir)
    for seq in (0, 1, 13, 27):
        proof = reader.proof(seq, [KEY.verifier])
        index, checkpoint = check_proof(proof, reader.find(seq).raw, [KEY.verifier])
        assert (index, checkpoint.size) == (seq, 28)
    with pytest.raises(ValueError, match="no leaf"):
        reader.proof(28, [KEY.verifier])


def test_a_follower_gets_each_record_once_across_segments(tmp_path):
    seen, done = [], threading.Event()
    directory = tmp_path / "log"
    with start(directory, segment_bytes=2500) as log:
        reader = LogReader(directory)

        def follow():
            following = reader.entries(follow=True, poll_s=0.001, stop=done.is_set)
            seen.extend(entry.seq for entry in following)

        thread = threading.Thread(target=follow)
        thread.start()
        for i in range(60):
            log.append_sync(denied(i))
        while len(seen) < 61 and thread.is_alive():
            time.sleep(0.005)
        done.set()
        thread.join()
    assert seen[:61] == list(range(61))


def test_a_reader_gives_no_record_without_its_checkpoint_and_names_damage(log_dir):
    segments = sorted(log_dir.glob("*.seg"))
    data = segments[-1].read_bytes()
    segments[-1].write_bytes(data[:-10])
    assert list(LogReader(log_dir).entries())[-1].seq < 27
    segments[-1].write_bytes(data[:20])
    assert list(LogReader(log_dir).entries())
    segments[1].write_bytes(segments[1].read_bytes()[:-10])
    with pytest.raises(LogCorrupt) as refused:
        list(LogReader(log_dir).entries())
    assert refused.value.segment == segments[1].name
    empty = log_dir / "empty"
    empty.mkdir()
    assert list(LogReader(empty).entries()) == []
    with pytest.raises(LogCorrupt, match="no checkpoint"):
        LogReader(empty).latest([])


# Verifying


def test_k61_the_verifier_loads_nothing_of_the_writer():
    code = (
        "import sys, gateway.audit.verify; "
        "print([m for m in sys.modules if m.startswith(('gateway.', 'msgspec'))])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert eval(loaded.stdout) == ["gateway.audit", "gateway.audit.verify"]


@pytest.mark.parametrize("where", ["", "audit", "audit/data-0"])
def test_a_whole_log_verifies_from_any_of_its_directories(state, capsys, where):
    code, out, _ = run(capsys, state / where, "--key", KEY.vkey)
    assert code == 0
    assert "records 28" in out
    assert "access.denied 25" in out
    assert "open intents 1" in out
    assert out.rstrip().endswith("ok")


def test_without_a_key_it_is_only_consistent(state, capsys):
    code, out, _ = run(capsys, state)
    assert (code, out.splitlines()[-1].strip()) == (1, "consistent, key unpinned")
    other = SigningKey("example.org/other", bytes(32))
    code, out, _ = run(capsys, state, "--key", other.vkey)
    assert (code, "consistent, key unpinned" in out) == (1, True)


def test_a_key_whose_log_is_not_here_is_a_finding_wherever_one_looks(state, log_dir, capsys):
    gone = SigningKey("example.org/gate/control", bytes(32))
    keys = ("--key", KEY.vkey, "--key", gone.vkey)
    for where in (state, state / "audit", log_dir):
        code, out, _ = run(capsys, where, *keys)
        assert code == 1
        assert "refused: no log for example.org/gate/control" in out
        assert run(capsys, where, "--key", KEY.vkey)[0] == 0
    code, out, _ = run(capsys, log_dir, *keys, "--json")
    said = json.loads(out)
    assert (code, said["ok"], [each["shard"] for each in said["shards"]]) == (
        1,
        False,
        [".", "missing"],
    )


def test_a_shard_that_took_the_place_of_all_logs_does_not_hide_the_others(tmp_path, capsys):
    """Moved up into ``audit/``, a shard is itself the verified directory: none was missed."""
    other = SigningKey("example.org/gate/control", bytes(32))
    audit = tmp_path / "audit"
    for name, key in (("data-0", KEY), ("control", other)):
        with AuditLog.open(audit / name, key.name, key, node=NODE) as log:
            log.append_sync(denied(1))
    keys = ("--key", KEY.vkey, "--key", other.vkey)
    code, out, _ = run(capsys, audit, *keys)
    assert (code, "one shard only" in out) == (0, False)
    shutil.rmtree(audit / "control")
    (audit / "data-0").rename(tmp_path / "moved")
    audit.rmdir()
    (tmp_path / "moved").rename(audit)
    for where in (tmp_path, audit):
        code, out, _ = run(capsys, where, *keys)
        assert (code, "no log for example.org/gate/control" in out) == (1, True)


@pytest.mark.parametrize("where", [".", "..", "../.."])
def test_one_shard_alone_says_so(log_dir, capsys, where):
    code, out, _ = run(capsys, log_dir / where, "--key", KEY.vkey)
    assert code == 0
    assert out.startswith("one shard only: data-0; this says nothing of a gateway's other logs\n")
    _, out, _ = run(capsys, log_dir / where, "--key", KEY.vkey, "--json")
    assert json.loads(out)["one_shard"] is True


def test_the_key_of_another_log_forges_nothing(tmp_path, capsys):
    """Whoever holds one shard's key could otherwise write every other shard anew."""
    log_dir = tmp_path / "log"
    with start(log_dir) as log:
        log.append_sync(denied(1))
    other = SigningKey("example.org/gate/data-1", bytes(32))

    def forge(parts):
        tree, result = Tree(), []
        for kind, payload in parts:
            if kind == RECORD:
                tree.append(leaf_hash(payload))
            if kind == CHECKPOINT:
                payload = other.sign(checkpoint_body(ORIGIN, tree.size, tree.root()))  # noqa: PLW2901
            result.append((kind, payload))
        return result

    rewrite(log_dir, forge)
    code, out, _ = run(capsys, log_dir, "--key", KEY.vkey, "--key", other.vkey)
    assert code == 1
    assert "signed by none of the keys given" in out
    assert run(capsys, log_dir, "--key", other.vkey)[0] == 1
    with pytest.raises(NoteError, match="no known key"):
        LogReader(log_dir).latest([KEY.verifier, other.verifier])
    with pytest.raises(LogCorrupt, match="no known key"):
        start(log_dir, former=[other.verifier])


def test_json_output_says_the_same(state, capsys):
    code, out, _ = run(capsys, state, "--key", KEY.vkey, "--json")
    said = json.loads(out)
    assert (code, said["ok"]) == (0, True)
    shard = said["shards"][0]
    assert (shard["origin"], shard["size"], shard["open_intents"]) == (ORIGIN, 28, 1)
    assert shard["types"]["access.denied"] == 25


def test_usage_and_unreadable_have_their_own_exit_codes(state, tmp_path, capsys):
    assert run(capsys, tmp_path / "none", "--key", KEY.vkey)[0] == 3
    assert run(capsys, state, "--checkpoint", tmp_path / "none")[0] == 3
    for wrong in (["--key", "nonsense"], ["--key", KEY.vkey[:-4] + "AAA="], ["--what"]):
        with pytest.raises(SystemExit) as usage:
            verify.main([str(state), *wrong])
        assert usage.value.code == 2
    capsys.readouterr()


def test_a_key_of_the_right_name_but_another_value_refuses(state, capsys):
    stranger = SigningKey(ORIGIN, bytes(32))
    code, out, _ = run(capsys, state, "--key", stranger.vkey)
    assert code == 1
    assert "signed by none of the keys given" in out
    assert run(capsys, state, "--key", stranger.vkey, "--key", KEY.vkey)[0] == 0


def test_k61_an_edited_record_with_a_right_crc_is_named(tmp_path, capsys):
    log_dir = tmp_path / "log"
    with start(log_dir) as log:
        for i in range(4):
            log.append_sync(denied(i))

    def edit(parts):
        return [(k, p.replace(b"req_2", b"req_9") if k == RECORD else p) for k, p in parts]

    rewrite(log_dir, edit)
    code, out, _ = run(capsys, log_dir, "--key", KEY.vkey)
    assert code == 1
    assert f"refused: {segment_name(0)}@" in out
    assert "leaf 4: the checkpoint is not of these records" in out
    with pytest.raises(LogCorrupt, match="not of these records"):
        start(log_dir)


def change(old, new):
    def at(parts, records, _sealed):
        parts[records[2]] = (RECORD, parts[records[2]][1].replace(old, new))

    return at


def swap(parts, first, second):
    parts[first], parts[second] = parts[second], parts[first]


FORGERIES = {
    "reordered": (lambda p, r, s: (swap(p, r[2], r[3]), swap(p, s[1], s[2])), "out of place"),
    "dropped": (lambda p, r, _s: p.__delitem__(slice(r[2], r[2] + 2)), "out of place"),
    "another log's": (change(b'"log":"example.org/gate/data-0"', b'"log":"x"'), "says x#2"),
    "time backwards": (change(b'"time":"20', b'"time":"19'), "time runs backwards"),
    "hlc backwards": (change(b'"hlc":"1', b'"hlc":"-1'), "time runs backwards"),
    "malformed": (lambda p, r, _s: p.__setitem__(r[2], (RECORD, b"[" * 100_000)), "malformed"),
    "sealed dropped": (lambda p, _r, s: p.__delitem__(s[0]), "do not go together"),
    "sealed exchanged": (lambda p, _r, s: swap(p, s[0], s[1]), "not those of the record"),
    "unknown frame": (lambda p, r, _s: p.insert(r[2], (0x58, b"x")), "unknown frame"),
    "later version": (change(b"audit/1", b"audit/9"), "out of place"),
    "second intent": (change(b"req_1", b"req_0"), "second open intent"),
    "intent unlike outcome": (change(b"req_1", b"req_8"), "an outcome without its intent"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_k61_what_even_the_holder_of_the_key_cannot_write(tmp_path, capsys, name):
    log_dir = tmp_path / "log"
    with start(log_dir) as log:
        for i in range(4):
            log.append_sync(intent(i), b"facts", SUBJECT_KEY)
        log.append_sync(r.AccessOutcome(request_id="req_1", status="ok"))
    rewrite(log_dir, resigned)
    assert run(capsys, log_dir, "--key", KEY.vkey)[0] == 0, "the harness alone changes nothing"

    def forge(parts):
        records = [i for i, (kind, _) in enumerate(parts) if kind == RECORD]
        sealed = [i for i, (kind, _) in enumerate(parts) if kind == SEALED]
        FORGERIES[name][0](parts, records, sealed)
        return resigned(parts)

    rewrite(log_dir, forge)
    code, out, _ = run(capsys, log_dir, "--key", KEY.vkey)
    assert code == 1
    assert f"refused: {segment_name(0)}@" in out
    assert FORGERIES[name][1] in out


def test_k61_a_missing_segment_is_named_wherever_it_was(log_dir, capsys):
    segments = sorted(log_dir.glob("*.seg"))
    for gone in segments[:-1]:
        data = gone.read_bytes()
        gone.unlink()
        code, out, _ = run(capsys, log_dir, "--key", KEY.vkey)
        assert (code, "does not continue the segment before it" in out) == (1, True)
        gone.write_bytes(data)
    head = log_dir.parent / "head"
    head.write_bytes(LogReader(log_dir).latest([KEY.verifier]).note)
    segments[-1].unlink()
    assert run(capsys, log_dir, "--key", KEY.vkey)[0] == 0, "locally invisible"
    code, out, _ = run(capsys, log_dir, "--key", KEY.vkey, "--checkpoint", head)
    assert code == 1
    assert "a kept checkpoint of 28 records is not in this log" in out


def test_k61_a_head_that_hides_an_open_intent_is_refused(tmp_path, capsys):
    log_dir = tmp_path / "log"
    with start(log_dir, segment_bytes=2000) as log:
        log.append_sync(intent(1))
        for i in range(2, 6):
            log.append_sync(denied(i))
    path = max(log_dir.glob("*.seg"))
    data = path.read_bytes()
    head, end = read_opening(data)
    assert head.open == ((1, "req_1"),)
    payload = data[8 + 9 : end].replace(b'[[1,"req_1"]]', b"[]")
    path.write_bytes(data[:8] + frame(0x48, payload) + data[end:])
    code, out, _ = run(capsys, log_dir, "--key", KEY.vkey)
    assert (code, "does not continue" in out) == (1, True)


def test_a_kept_checkpoint_of_every_size_is_found_and_a_fork_is_not(log_dir, tmp_path, capsys):
    note = tmp_path / "kept"
    tree = Tree()
    for entry in LogReader(log_dir).entries():
        tree.append(leaf_hash(entry.raw))
        note.write_bytes(sign_checkpoint(KEY, tree.size, tree.root()).note)
        assert run(capsys, log_dir, "--key", KEY.vkey, "--checkpoint", note)[0] == 0
    for size in (0, 9, 28):
        note.write_bytes(sign_checkpoint(KEY, size, bytes(32)).note)
        code, out, _ = run(capsys, log_dir, "--key", KEY.vkey, "--checkpoint", note)
        assert (code, f"not the log of the kept checkpoint {size}" in out) == (1, True)


def test_a_fork_is_refused_beside_the_right_checkpoint_of_its_size(log_dir, tmp_path, capsys):
    real, fork = tmp_path / "real", tmp_path / "fork"
    real.write_bytes(LogReader(log_dir).latest([KEY.verifier]).note)
    fork.write_bytes(sign_checkpoint(KEY, 28, b"\7" * 32).note)
    for notes in ((real, fork), (fork, real)):
        options = [each for note in notes for each in ("--checkpoint", note)]
        code, out, _ = run(capsys, log_dir, "--key", KEY.vkey, *options)
        assert (code, "not the log of the kept checkpoint 28" in out) == (1, True)
    options = ["--checkpoint", real, "--checkpoint", real]
    assert run(capsys, log_dir, "--key", KEY.vkey, *options)[0] == 0


def test_kept_checkpoints_that_say_nothing_do_not_pass(log_dir, tmp_path, capsys):
    note = tmp_path / "kept"
    stranger = SigningKey(ORIGIN, bytes(32))
    elsewhere = SigningKey("example.org/gone", bytes(32))
    for text, said in (
        (b"nonsense", "malformed"),
        (sign_checkpoint(stranger, 0, bytes(32)).note, "none of the keys"),
        (sign_checkpoint(elsewhere, 1, bytes(32)).note, "the log is not here"),
    ):
        note.write_bytes(text)
        code, out, _ = run(capsys, log_dir, "--key", KEY.vkey, "--checkpoint", note)
        assert (code, said in out) == (1, True)


def test_text_that_looks_like_a_checkpoint_is_only_text(tmp_path, capsys):
    """Prototype gap (a): two signature lines in a record inside a torn tail forced a refusal."""
    log_dir = tmp_path / "log"
    with start(log_dir) as log:
        real = log.head.note.decode()
        bait = r.RegistryTampered(kind="k", id="i", finding=real * 3 + f"\n{ORIGIN}\n9\n")
        log.append_sync(bait)
        log.append_sync(bait)
    path = log_dir / segment_name(0)
    assert run(capsys, log_dir, "--key", KEY.vkey)[0] == 0
    raw = real.encode() + b"\n" + frame(CHECKPOINT, real.encode()) * 3
    path.write_bytes(path.read_bytes() + b"\x01" * 40 + raw)
    with start(log_dir) as log:
        assert log.head.size == 6
    assert LogReader(log_dir).find(5).json()["torn_bytes"] == 40 + len(raw)
    assert run(capsys, log_dir, "--key", KEY.vkey)[0] == 0


def test_an_unclean_tail_is_named_and_a_growing_log_is_accepted(tmp_path):
    log_dir = tmp_path / "log"
    with start(log_dir) as log:
        log.append_sync(denied(1))
    path = log_dir / segment_name(0)
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    keys = dict([verify.parse_vkey(KEY.vkey)])
    [report] = verify.verify_directory(log_dir, keys, patience_s=0)
    assert report.verdict.startswith(f"refused: {path.name}@")
    timer = threading.Timer(0.15, path.write_bytes, [whole])
    timer.start()
    [report] = verify.verify_directory(log_dir, keys, patience_s=20)
    timer.join()
    assert (report.verdict, report.size) == ("ok", 3)
    path.write_bytes(b"")
    [report, missing] = verify.verify_directory(log_dir, keys, patience_s=0)
    assert "refused" in report.verdict
    assert "no log for" in missing.verdict


def test_a_log_under_load_verifies_while_it_is_written(tmp_path):
    log_dir = tmp_path / "log"
    keys = dict([verify.parse_vkey(KEY.vkey)])
    stop = threading.Event()
    with start(log_dir, segment_bytes=20_000) as log:

        def load():
            i = 0
            while not stop.is_set():
                i += 1
                log.append_sync(denied(i))

        thread = threading.Thread(target=load)
        thread.start()
        sizes = []
        for _ in range(10):
            [report] = verify.verify_directory(log_dir, keys, patience_s=20)
            assert report.verdict == "ok"
            sizes.append(report.size)
        stop.set()
        thread.join()
    assert sizes == sorted(sizes)


# What lies after the last whole batch


def settled(log_dir, patience_s=0.3):
    reader = LogReader(log_dir)
    end = None
    for batch in reader.batches():
        end = batch.end
    reader.check_settled(end, patience_s)


@pytest.mark.usefixtures("state")
def test_a_log_that_ends_with_a_checkpoint_or_a_bare_head_is_settled(log_dir):
    settled(log_dir)
    last = max(log_dir.glob("*.seg"))
    data = last.read_bytes()
    _, opened = read_opening(data)
    last.write_bytes(data[:opened])  # a segment that was begun, and no more
    settled(log_dir)


@pytest.mark.usefixtures("state")
def test_what_stays_behind_the_last_checkpoint_is_damage(log_dir):
    last = max(log_dir.glob("*.seg"))
    whole = last.read_bytes()
    last.write_bytes(whole + frame(RECORD, b"{}"))
    with pytest.raises(LogCorrupt, match="after the last checkpoint"):
        settled(log_dir)
    last.write_bytes(whole[:20] + b"\xff" + whole[21:])
    with pytest.raises(LogCorrupt, match="after the last checkpoint"):
        settled(log_dir)


def test_a_log_that_is_written_all_the_time_is_not_taken_for_damaged(tmp_path):
    """There are always bytes after the checkpoint that was read last; they are soon covered."""
    stop = threading.Event()
    with start(tmp_path / "log") as log:

        def write():
            number = 0
            while not stop.is_set():
                log.append_sync(denied(number))
                number += 1

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(20):
                settled(tmp_path / "log", patience_s=5)
        finally:
            stop.set()
            writer.join()
