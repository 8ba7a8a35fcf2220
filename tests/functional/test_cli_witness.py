"""A witness in a process of its own: what it has seen cannot be taken back."""

import base64
import contextlib
import shutil
import signal
import subprocess
import sys

import pytest

from gateway.audit.note import SigningKey
from gateway.audit.segments import segment_files
from tests.functional.test_cli_audit import build, denied, intent, outcome, write
from tests.support import traffic

LOOPBACK = ("--allow-network", "127.0.0.0/8")


@contextlib.contextmanager
def witness(directory, vkeys, name="witness.example.net"):
    """A running witness: its URL and key."""
    logs = [part for vkey in vkeys for part in ("--log", vkey)]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "gateway.cli", "witness", "serve", *logs),
            *("--name", name, "--dir", str(directory), "--listen", "127.0.0.1:0"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        said = dict(process.stdout.readline().split(maxsplit=1) for _ in range(3))
        yield said["witness"].strip(), said["vkey"].strip()
    finally:
        process.send_signal(signal.SIGTERM)
        process.stdout.close()
        assert process.wait(20) == 0


@pytest.fixture
def operator(tmp_path):
    return build(tmp_path / "gate")


def cosign(operator, *witnesses, code=0):
    named = [part for url, key in witnesses for part in ("--witness", url, "--witness-key", key)]
    return operator("audit", "cosign", *named, *LOOPBACK, "--json", code=code)


def verify(operator, *witnesses, code=0):
    keys = [part for vkey in operator.state.vkeys().values() for part in ("--key", vkey)]
    named = [part for _, key in witnesses for part in ("--witness-key", key)]
    return operator("audit", "verify", *keys, *named, code=code).out


def test_logs_are_cosigned_by_two_and_the_verifier_counts_them(operator, tmp_path):
    vkeys = operator.state.vkeys().values()
    with (
        witness(tmp_path / "one", vkeys) as one,
        witness(tmp_path / "two", vkeys, "two.org") as two,
    ):
        assert "not cosigned by any witness" in verify(operator, one, code=1)
        said = cosign(operator, one, two).json
        assert [each["witnesses"] for each in said["logs"]] == [2, 2]
        assert "data-0: cosigned by 2 of 2: 6 of 6 records, witness.example.net at" in verify(
            operator, one, two
        )
        write(operator, *(denied(number) for number in range(100, 130)))
        assert cosign(operator, one, two).json["ok"] is True
        assert "cosigned by 1 of 1" in verify(operator, two)
    stranger = ("", "stranger.org+00000000+AAAA")
    said = operator("audit", "verify", "--witness-key", stranger[1], code=2).err
    assert "--witness-key: not a witness's vkey" in said


def test_a_log_cut_back_and_a_log_grown_again_are_refused(operator, tmp_path):
    log = operator.state.log("data-0")
    before = shutil.copytree(log, tmp_path / "before")
    with witness(tmp_path / "one", operator.state.vkeys().values()) as one:
        write(operator, *(denied(number) for number in range(200, 210)))
        cosign(operator, one)
        shutil.rmtree(log)
        shutil.copytree(before, log)
        assert "already 18 records long" in cosign(operator, one, code=3).err
        for kept in (operator.state.head("data-0"), operator.state.cosigned("data-0")):
            kept.unlink()  # whoever cuts the log cuts these too
        operator.state.index.unlink()
        verify(operator)  # nothing on this disk shows it
        said = cosign(operator, one, code=1).json
        (refused,) = [each for each in said["logs"] if each["refused"]]
        assert refused["shard"] == "data-0"
        assert "cut back" in refused["said"]
        write(operator, *(intent(number) for number in range(300, 330)))
        verify(operator)
        said = cosign(operator, one, code=1).json
        assert "a fork" in next(each["said"] for each in said["logs"] if each["refused"])


def test_a_cosignature_of_another_log_or_an_altered_one_does_not_count(operator, tmp_path):
    with witness(tmp_path / "one", operator.state.vkeys().values()) as one:
        cosign(operator, one)
    good = operator.state.cosigned("data-0").read_bytes()
    operator.state.cosigned("data-0").write_bytes(operator.state.cosigned("control").read_bytes())
    said = verify(operator, one, code=1)
    assert "refused: cosigned/data-0: no known key signed the note" in said
    assert "data-0: as signed, but not cosigned by any witness" in said
    name, key_id, _ = operator.state.vkeys()["data-0"].split("+", 2)
    forged = base64.b64encode(bytes.fromhex(key_id) + bytes(64)).decode()
    for note in (good + f"— {name} {forged}\n".encode(), b"nobody/else" + good, b""):
        operator.state.cosigned("data-0").write_bytes(note)
        assert "refused: cosigned/data-0" in verify(operator, code=1)
    operator.state.cosigned("data-0").write_bytes(good)
    verify(operator, one)


def test_a_log_cut_back_is_refused_by_everyone_while_a_cosigned_checkpoint_is_kept(
    operator, tmp_path
):
    log = operator.state.log("data-0")
    before = shutil.copytree(log, tmp_path / "before")
    with witness(tmp_path / "one", operator.state.vkeys().values()) as one:
        write(operator, *(denied(number) for number in range(200, 210)))
        cosign(operator, one)
        shutil.rmtree(log)
        shutil.copytree(before, log)
        operator.state.head("data-0").unlink()
        verify(operator, code=1)
        longer = operator.state.cosigned("data-0").read_bytes()
        for command in (
            ("audit", "search"),
            ("audit", "rebuild-index"),
            ("audit", "export", "-o", str(tmp_path / "out")),
        ):
            assert "records long" in operator(*command, code=3).err
        cosign(operator, one, code=3)
        assert operator.state.cosigned("data-0").read_bytes() == longer


def test_a_log_written_anew_under_another_key_is_not_the_witnesss_log(operator, tmp_path):
    with witness(tmp_path / "one", operator.state.vkeys().values()) as one:
        cosign(operator, one)
        log, name = operator.state.log("data-0"), operator.records("data-0")[0]["log"]
        shutil.rmtree(log)
        stranger = SigningKey(name, b"s" * 32)
        traffic.write(log, stranger, [[denied(1)], [intent(2), outcome(2)]])
        operator.state.vkey("data-0").write_text(stranger.vkey)
        for kept in (operator.state.head("data-0"), operator.state.cosigned("data-0")):
            kept.unlink()
        operator.state.index.unlink()
        assert segment_files(log)
        said = cosign(operator, one, code=1).json
        (changed,) = [each for each in said["logs"] if each["shard"] == "data-0"]
        assert changed["witnesses"] == 0
        assert "another key of this log" in changed["said"]
        assert changed["refused"] is True


def test_what_a_witness_needs_is_said(operator, tmp_path):
    bare = operator.bare
    vkey = next(iter(operator.state.vkeys().values()))
    home = ("--dir", str(tmp_path / "w"))
    assert "by --name" in bare("witness", "serve", "--log", vkey, *home, code=2).err
    assert (
        "as `audit vkeys` prints it"
        in bare("witness", "serve", "--log", "x", "--name", "w", *home, code=2).err
    )
    public = ("--listen", "0.0.0.0:8090", "--name", "w")
    assert "--behind-proxy" in bare("witness", "serve", "--log", vkey, *public, *home, code=2).err
    said = operator("audit", "cosign", "--witness", "http://127.0.0.1:9", code=2).err
    assert "--witness-key" in said
    nobody = "w+5b3ac3a6+BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=="
    named = ("--witness", "http://127.0.0.1:9", "--witness-key", nobody)
    assert operator("audit", "cosign", *named, code=2).err


def test_a_witness_that_cannot_be_reached_is_named_and_nothing_is_kept(operator, tmp_path):
    with witness(tmp_path / "one", operator.state.vkeys().values()) as one:
        key = one[1]
    said = cosign(operator, ("http://127.0.0.1:9", key), code=3).json
    assert all(
        "witness.example.net: 127.0.0.1 cannot be reached" in each["said"] for each in said["logs"]
    )
    assert not operator.state.cosigned("data-0").exists()
    for url in ("http://10.0.0.1:9", "https://10.0.0.1", "foo", "ftp://127.0.0.1"):
        named = ("--witness", url, "--witness-key", key)
        assert "--allow-network" in operator("audit", "cosign", *named, code=2).err
