"""``audit search``, ``rebuild-index``, ``export``, ``verify-export``, as a reviewer types them."""

import json
import shutil
import sqlite3

import pytest

from tests.functional.test_cli_audit import build, denied, intent, outcome, write

ESCAPED = "\x1b[2Jgone"


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A record of two logs that no test changes."""
    operator = build(tmp_path_factory.mktemp("kept"))
    more = [record for number in range(10, 40) for record in (intent(number), outcome(number))]
    write(operator, *more, *(denied(number) for number in range(50, 60)))
    return operator


@pytest.fixture
def operator(kept, tmp_path):
    """One of its own."""
    shutil.copytree(kept.state.root, tmp_path / "state")
    return type(kept)(tmp_path)


def found(operator, *arguments):
    return operator("audit", "search", *arguments, "--json").json


def keys(operator):
    return [part for vkey in operator.state.vkeys().values() for part in ("--key", vkey)]


# Finding


def test_filters_narrow_and_the_same_filter_twice_widens(kept):
    types = [hit["record"]["type"] for hit in found(kept, "effect=deny", "-n", "100")["records"]]
    assert types == ["access.denied"] * 11
    both = found(kept, "effect=deny", "effect=downgrade", "subject=red", "-n", "100")["records"]
    assert len(both) == 11 + 31
    assert found(kept, "org=acme", "type=access.outcome", "model=fable-5")["records"]
    (one,) = found(kept, "id=dec_50")["records"]
    assert one["record"]["request_id"] == "req_50"


def test_an_outcome_is_found_by_what_only_its_intent_says_and_its_line_names_the_caller(kept):
    lines = kept("audit", "search", "type=access.outcome", "subject=red", "-n", "3").out
    rows = [line for line in lines.splitlines() if "access.outcome" in line]
    assert len(rows) == 3
    assert all(" red " in row and "fable-5->opus-4.8" in row for row in rows)
    assert "Proved just now against the signed checkpoints of data-0" in lines


def test_a_change_of_a_member_is_found_among_his_calls_and_by_its_words(kept):
    ops = [hit["record"].get("op") for hit in found(kept, "subject=red", "he", "left")["records"]]
    assert ops == ["member.suspend"]
    assert (
        found(kept, "entity=member:red", "actor=root")["records"]
        or found(kept, "entity=member:red")["records"]
    )


def test_pages_follow_one_another_to_the_end(kept):
    seen, page = [], ()
    while True:
        answer = found(kept, "-n", "25", *page)
        seen += [(hit["shard"], hit["seq"]) for hit in answer["records"]]
        if answer["next"] is None:
            break
        page = ("--page", str(answer["next"]))
    tail = kept("audit", "tail", "-n", "1000", "--json").out.splitlines()
    assert len(seen) == len(set(seen)) == len(tail)  # heartbeats are in neither


def test_counts_are_drawn(kept):
    said = kept("audit", "search", "--by", "model", "effect=deny").out.splitlines()
    assert said[0].split() == ["MODEL", "CALLS", "EFFECTS"]
    assert said[1].split()[:2] == ["mythos-5", "11"]
    assert "█" in said[1]
    assert said[1].endswith("deny 11")
    assert found(kept, "--by", "subject")["counts"][0]["calls"] == 42


def test_nothing_found_is_said_and_exits_1(kept):
    said = kept("audit", "search", "subject=nobody", code=1)
    assert said.out == "nothing matches\n"
    assert "no record has subject=nobody" in said.err
    said = kept("audit", "search", "effect=dney", "subject=red", code=1).err
    assert "no record has effect=dney" in said
    assert "there are: downgrade, deny" in said
    assert "subject" not in said
    assert kept("audit", "search", "--by", "model", "--until", "2020-01-01", code=1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["subjct=red"], "there is no filter 'subjct'; there are: id, text, type"),
        (["id=a", "id=b"], "one id at a time"),
        (["--by", "colour"], "cannot count by 'colour'"),
        (["--since", "yesterday"], "2026-11-25T08:30:00Z"),
        (['"'], "the text holds no word"),
        (["--page", "2"], "not where a page of records ended"),
        (["--page", str(10**18), "--by", "model"], "not where a page of records ended"),
        (["--since", "1h", "--until", "2h"], "--since is not before --until"),
        (["subject=\udcff"], "not UTF-8"),
        (["caf\udce9"], "not UTF-8"),
        (["--since", "9999-01-01"], "is no time from 1970 until 2262"),
        (["-n", "0"], "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_asked_is_explained(kept, arguments, said):
    assert said in kept("audit", "search", *arguments, code=2).err.replace("\n", " ")


def test_recorded_text_does_not_reach_the_terminal_as_commands(operator):
    write(operator, intent(90), outcome(90, ESCAPED))
    said = operator("audit", "search", "type=access.outcome", "-n", "1").out
    assert "\x1b" not in said
    assert "gone" in said


# The index


def test_new_records_are_found_at_once(operator):
    operator("audit", "search", "id=req_77", code=1)
    write(operator, denied(77))
    assert len(found(operator, "id=req_77")["records"]) == 1


@pytest.mark.parametrize("damage", ["gone", "noise", "deceit", "cut"])
def test_an_index_that_is_lost_or_damaged_is_made_anew_and_answers_the_same(operator, damage):
    before = found(operator, "subject=red", "-n", "200")
    counts = found(operator, "--by", "model")
    index = operator.state.index
    if damage == "gone":
        index.unlink()
    elif damage == "noise":
        index.write_bytes(b"noise" * 1000)
    elif damage == "cut":
        index.write_bytes(index.read_bytes()[: index.stat().st_size // 2])
    else:
        database = sqlite3.connect(index)
        with database:
            database.execute("UPDATE records SET offset = 8")
        database.close()
    said = operator("audit", "search", "subject=red", "-n", "200", "--json")
    assert said.json == before
    assert ("made anew" in said.err) == (damage != "gone")
    assert found(operator, "--by", "model") == counts
    rebuilt = operator("audit", "rebuild-index", "--json").json
    assert sum(rebuilt["records"].values()) > 80
    assert found(operator, "subject=red", "-n", "200") == before


def test_the_index_is_private_and_its_logs_keys_are_needed(operator):
    found(operator)
    assert operator.state.index.stat().st_mode & 0o777 == 0o600
    operator.state.vkey("data-0").unlink()
    said = operator("audit", "search", code=3).err
    assert "no public key of data-0" in said


def test_a_flipped_byte_of_a_record_is_never_shown_as_a_hit(operator):
    (hit,) = found(operator, "id=req_50")["records"]
    segment = next(operator.state.log("data-0").glob("*.seg"))
    data = bytearray(segment.read_bytes())
    at = data.index(b'"request_id":"req_50"')
    data[at + 15] ^= 1
    segment.write_bytes(data)
    said = operator("audit", "search", "id=req_50", code=3)
    assert said.out == ""
    assert hit["record"]["request_id"] == "req_50"


# Exports


def test_a_bundle_is_verified_offline_with_keys_kept_elsewhere(kept, tmp_path):
    out = tmp_path / "bundle"
    said = kept("audit", "export", "effect=deny", "-o", str(out)).out
    modes = {path.stat().st_mode & 0o777 for path in out.rglob("*") if path.is_file()}
    assert modes == {0o600}
    assert "11 records" in said
    assert "verify-export" in said
    checked = kept.bare("audit", "verify-export", str(out), *keys(kept), "--json").json
    assert (checked["ok"], checked["records"]) == (True, 11)
    unpinned = kept.bare("audit", "verify-export", str(out), code=1).out
    assert "key unpinned: give the key of sluicegate/control, sluicegate/data-0 too" in unpinned
    told = kept.bare("audit", "verify-export", str(out), *keys(kept)).out
    assert "control: none of" in told
    assert ", a selection" in told
    assert "Asked for, by the word of whoever made it: effect=deny" in told
    lines = (out / "records.ndjson").read_bytes()
    (out / "records.ndjson").write_bytes(lines.replace(b"req_50", b"req_51", 1))
    refused = kept.bare("audit", "verify-export", str(out), *keys(kept), code=1).out
    assert "refused: records.ndjson: is not what the manifest says" in refused


def test_a_file_is_whole_private_and_never_overwritten(kept, tmp_path):
    out = tmp_path / "out.ndjson"
    kept("audit", "export", "--format", "ndjson", "-o", str(out))
    assert out.stat().st_mode & 0o777 == 0o600
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(records) == sum(rebuilt(kept).values())
    kept("audit", "export", "--format", "csv", "-o", str(out), code=2)
    assert [json.loads(line) for line in out.read_text().splitlines()] == records
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("form", ["bundle", "csv"])
def test_an_export_does_not_go_among_the_gateways_own_files(kept, tmp_path, form):
    (tmp_path / "link").symlink_to(kept.state.log("data-0"))
    root = kept.state.root
    before = sorted(root.rglob("*"))
    for out in (root / "out", tmp_path / "link" / "x.seg", root.parent / "no" / ".." / "state/x"):
        said = kept("audit", "export", "--format", form, "-o", str(out), code=2).err
        assert f"{out} is inside {root}" in said
        assert "name a place outside of it; nothing was written" in said
    assert sorted(root.rglob("*")) == before
    beside = root.with_name(f"{root.name}-{form}")
    kept("audit", "export", "--format", form, "-o", str(beside))
    assert beside.exists()


def rebuilt(operator):
    return operator("audit", "rebuild-index", "--json").json["records"]


def test_what_an_export_needs_is_said(kept, tmp_path):
    assert "say which, by -o DIR" in kept("audit", "export", code=2).err
    nowhere = str(tmp_path / "no" / "such")
    said = kept("audit", "export", "-o", nowhere, code=3).err
    assert "No such file or directory" in said
    said = kept.bare("audit", "verify-export", str(tmp_path), code=2).err
    assert "there is no manifest.json" in said


def test_an_export_that_breaks_leaves_nothing_half_written(operator, tmp_path):
    (segment,) = operator.state.log("data-0").glob("*.seg")
    data = bytearray(segment.read_bytes())
    data[data.index(b"req_12")] ^= 1
    segment.write_bytes(data)
    out = tmp_path / "bundle"
    said = operator("audit", "export", "-o", str(out), code=3)
    assert "damaged" in said.err
    assert not out.exists()
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


def test_ocsf_events_pair_an_outcome_with_its_intent(kept, tmp_path):
    out = tmp_path / "out.ndjson"
    kept("audit", "export", "--format", "ocsf", "type=access", "-o", str(out))
    events = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(events) == 73
    assert {event["class_uid"] for event in events} == {6003}
    assert {event["metadata"]["version"] for event in events} == {"1.8.0"}
    assert all(event["actor"]["user"]["uid"] == "red" for event in events)
