"""``audit report evidence``: drawn, checked by someone with the keys alone, and drawn again."""

import csv
import json
import time

import pytest

from gateway.audit import records as r
from gateway.audit.note import VerifierKey, parse_checkpoint
from gateway.core.clock import rfc3339_ns
from tests.functional.test_cli_audit import build, denied, intent, outcome, write

SINCE = "2026-01-01"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Two logs, more denials than are drawn, and the instant at which all that was over."""
    operator = build(tmp_path_factory.mktemp("evidence"))
    write(operator, *(denied(number) for number in range(100, 140)))
    write(operator, intent(7), outcome(7, "\x1b[2J<b>"))
    operator.until = rfc3339_ns(time.time_ns())
    return operator


def keys(operator):
    return [part for vkey in operator.state.vkeys().values() for part in ("--key", vkey)]


def evidence(operator, output, *arguments, code=0):
    period = ("--since", SINCE, "--until", operator.until)
    return operator(
        "audit", "report", "evidence", *period, "-o", str(output), *arguments, code=code
    )


def test_the_pack_is_drawn_proved_and_indexed(built, tmp_path):
    said = evidence(built, tmp_path / "pack", "--json").json
    ac6 = said["controls"]["AC-6"]
    assert (ac6["population"], len(ac6["records"])) == (43, 25)
    checked = built.bare("audit", "verify-export", str(tmp_path / "pack"), *keys(built), "--json")
    assert checked.json["ok"]
    assert checked.json["records"] == said["records"]
    assert said["seed"] in checked.json["asked"]
    lines = (tmp_path / "pack" / "records.ndjson").read_bytes().splitlines()
    rows = list(csv.DictReader((tmp_path / "pack" / "controls.csv").read_text().splitlines()))
    for row in rows:
        if row["line"]:
            record = json.loads(lines[int(row["line"]) - 1])
            assert (record["log"].rpartition("/")[2], record["seq"]) == (
                row["log"],
                int(row["seq"]),
            )
            assert record["type"] == row["type"]
    named = {f"{row['log']}#{row['seq']}" for row in rows if row["control"] == "AC-6"}
    assert named == set(ac6["records"])
    page = (tmp_path / "pack" / "index.html").read_text()
    assert "<script" not in page
    assert "\x1b" not in page
    assert said["seed"] in page
    for shard, vkey in built.state.vkeys().items():
        note = (tmp_path / "pack" / "seed" / shard).read_bytes()
        assert parse_checkpoint(note, [VerifierKey.parse(vkey)]).origin.endswith(shard)


def test_drawn_again_it_is_the_same_also_when_the_logs_went_on(built, tmp_path):
    first = evidence(built, tmp_path / "first", "--json").json
    write(built, r.LogHeartbeat(open=0), denied(900))
    again = evidence(built, tmp_path / "again", "--json").json
    assert first | {"output": ""} == again | {"output": ""}
    same = [(tmp_path / each / "records.ndjson").read_bytes() for each in ("first", "again")]
    assert same[0] == same[1]


@pytest.mark.parametrize("name", ["index.html", "controls.csv", "seed/control", "records.ndjson"])
def test_a_pack_that_was_altered_is_refused(built, tmp_path, name):
    evidence(built, tmp_path / "pack", "--set", "soc2")
    path = tmp_path / "pack" / name
    path.write_bytes(path.read_bytes().replace(b"a", b"b", 1))
    said = built.bare("audit", "verify-export", str(tmp_path / "pack"), *keys(built), code=1)
    assert f"refused: {name}: is not what the manifest says" in said.out


def test_what_cannot_be_drawn_is_said_and_nothing_is_left(built, tmp_path):
    output = tmp_path / "pack"
    assert "nist-800-53, soc2" in evidence(built, output, "--set", "x\x1b", code=2).err
    ask = ("audit", "report", "evidence", "-o", str(output), "--since", SINCE, "--until")
    assert "not over" in built(*ask, "2261-01-01", code=2).err
    assert "not before" in built(*ask, "2025-01-01", code=2).err
    early = ("audit", "report", "evidence", "-o", str(output), "--since", "2020-01-01", "--until")
    assert "no log had begun" in built(*early, "2020-02-01", code=1).err
    assert "inside" in evidence(built, built.state.root / "pack", code=2).err
    assert list(tmp_path.iterdir()) == []
    output.mkdir()
    assert "is there already" in evidence(built, output, code=2).err
