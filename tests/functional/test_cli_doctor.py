"""``audit doctor``: each thing that can be wrong with how a record is kept, made wrong."""

import shutil
import sqlite3

import pytest

from tests.functional.test_cli_audit import build, denied, write


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    operator = build(tmp_path_factory.mktemp("kept"))
    operator("audit", "search")
    return operator


@pytest.fixture
def operator(kept, tmp_path):
    shutil.copytree(kept.state.root, tmp_path / "state")
    return type(kept)(tmp_path)


def checks(operator, code):
    said = operator("audit", "doctor", "--json", code=code).json
    assert said["ok"] == (code == 0)
    return {check["what"]: check for check in said["checks"]}


def test_a_record_in_order_is_said_to_be_so_and_what_is_not_done_is_noted(operator):
    said = checks(operator, 0)
    assert {check["verdict"] for check in said.values()} == {"ok", "note"}
    assert "0 behind; a sample was proved" in said["index"]["said"]
    assert "would not be noticed" in said["witnesses of data-0"]["said"]
    write(operator, denied(7))
    assert " 3 behind" in checks(operator, 0)["index"]["said"]
    lines = operator("audit", "doctor").out.splitlines()
    assert lines[0].startswith("ok    permissions            secrets")


def loosened(state):
    next(state.keys.glob("*.key")).chmod(0o644)


def keyless(state):
    state.vkey("data-0").unlink()


def cut(state):
    path = next(state.log("data-0").glob("*.seg"))
    path.write_bytes(path.read_bytes()[:-300])


def taken(state):
    shutil.rmtree(state.log("data-0"))


def lying(state):
    database = sqlite3.connect(state.index)
    with database:
        database.execute("UPDATE records SET offset = offset + 1")
    database.close()


def noise(state):
    state.index.write_bytes(b"noise" * 999)


def forged(state):
    state.cosigned("data-0").parent.mkdir()
    state.cosigned("data-0").write_text("nothing")


WRONG = {
    "permissions": (loosened, "chmod go="),
    "log data-0": (keyless, "put your copy"),
    "log data-0 ": (cut, "cut back, or damaged at its end"),
    "logs": (taken, "data-0"),
    "index": (lying, "rebuild-index"),
    "index ": (noise, "rebuild-index"),
    "witnesses of data-0": (forged, "audit cosign"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_named_with_what_to_do(operator, what):
    damage, words = WRONG[what]
    damage(operator.state)
    check = checks(operator, 1)[what.strip()]
    assert check["verdict"] == "BAD"
    assert words in check["said"] + check["remedy"]
    assert words in operator("audit", "doctor", code=1).out


def test_a_directory_without_logs_is_no_patient(operator, tmp_path):
    (tmp_path / "empty").mkdir()
    said = operator.bare("audit", "doctor", "--dir", str(tmp_path / "empty"), code=3).err
    assert "there is no log" in said
