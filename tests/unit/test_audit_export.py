"""A bundle stands alone, and whatever is changed in it is found."""

import csv
import io
import json
import os
import re
import shutil
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.audit import records as r
from gateway.audit.export import CSV_COLUMNS, csv_line, found_in, write_bundle
from gateway.audit.index import Log
from gateway.audit.note import SigningKey, sign_checkpoint
from gateway.audit.read import LogReader
from gateway.audit.search import Query
from gateway.audit.segments import LogCorrupt
from gateway.audit.verify import parse_vkey
from gateway.audit.verify_export import verify_export
from tests.support import traffic

SHARDS = ("data-0", "data-1")
KEYS = {
    shard: SigningKey(f"example.org/gate/{shard}", bytes([number + 7]) * 32)
    for number, shard in enumerate(SHARDS)
}
VKEYS = dict(parse_vkey(key.vkey) for key in KEYS.values())
DENIED = Query(terms=(("effect", "deny"),))


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    directory = tmp_path_factory.mktemp("audit")
    found = {}
    for number, shard in enumerate(SHARDS):
        calls = traffic.calls(120, seed=number, first=1000 * number)
        traffic.write(directory / shard, KEYS[shard], calls, segment_bytes=60_000)
        found[shard] = Log(directory / shard, [KEYS[shard].verifier])
    return found


def bundled(directory, logs, query):
    directory.mkdir()
    write_bundle(directory, logs, query, made="2026-11-25T00:00:00Z", asked="")
    return directory


@pytest.fixture(scope="module")
def whole(logs, tmp_path_factory):
    return bundled(tmp_path_factory.mktemp("whole") / "bundle", logs, DENIED)


@pytest.fixture
def bundle(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "bundle")


def test_a_bundle_holds_every_matching_record_byte_for_byte_and_verifies(whole, logs):
    lines = (whole / "records.ndjson").read_bytes().splitlines()
    expected = [
        entry.raw
        for log in logs.values()
        for entry in LogReader(log.directory).entries()
        if entry.json().get("decision", {}).get("effect") == "deny"
    ]
    assert lines == expected
    assert len(lines) > 20
    report = verify_export(whole, VKEYS)
    assert (report.findings, report.pinned, report.records) == ([], True, len(lines))


def test_without_every_key_it_is_only_consistent(whole):
    assert verify_export(whole, {}).pinned is False
    only = dict([next(iter(VKEYS.items()))])
    assert verify_export(whole, only).pinned is False
    assert verify_export(whole, only).findings == []


def test_all_records_of_a_log_say_that_nothing_was_left_out(logs, tmp_path):
    everything = bundled(tmp_path / "all", logs, Query())
    manifest = json.loads((everything / "manifest.json").read_text())
    for shard, told in manifest["logs"].items():
        assert told["contiguous"] is True
        assert (told["first"], told["last"]) == (0, told["size"] - 1)
        assert told["size"] == len(list(LogReader(logs[shard].directory).entries()))
    assert verify_export(everything, VKEYS).findings == []


def test_an_export_of_nothing_verifies_as_nothing(logs, tmp_path):
    nothing = bundled(tmp_path / "none", logs, Query(name="req_none"))
    report = verify_export(nothing, VKEYS)
    assert (report.findings, report.records, report.pinned) == ([], 0, True)


def rewritten(bundle, change):
    """A bundle changed by someone who mends every digest in its manifest."""
    from hashlib import sha256  # noqa: PLC0415

    change(bundle)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["sha256"] = {
        path.relative_to(bundle).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in bundle.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def in_lines(name, change):
    def apply(bundle):
        lines = (bundle / name).read_bytes().splitlines(keepends=True)
        (bundle / name).write_bytes(b"".join(change(lines)))

    return apply


def in_manifest(change):
    def apply(bundle):
        manifest = json.loads((bundle / "manifest.json").read_text())
        change(manifest)
        (bundle / "manifest.json").write_text(json.dumps(manifest))

    return apply


def forged_checkpoint(bundle):
    """A checkpoint of another key over the same tree."""
    note = (bundle / "checkpoints" / "data-0").read_text().split("\n")
    import base64  # noqa: PLC0415

    stranger = SigningKey(KEYS["data-0"].name, b"s" * 32)
    forged = sign_checkpoint(stranger, int(note[1]), base64.b64decode(note[2]))
    (bundle / "checkpoints" / "data-0").write_bytes(forged.note)


def swapped(bundle):
    first, second = (bundle / "checkpoints" / shard for shard in SHARDS)
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)


CHANGES = {
    "a record is altered": in_lines(
        "records.ndjson", lambda all_: [all_[0].replace(b"403", b"200"), *all_[1:]]
    ),
    "a record is left out": lambda bundle: [
        in_lines(name, lambda all_: all_[1:])(bundle)
        for name in ("records.ndjson", "proofs.ndjson")
    ],
    "a record is left out, its proof is not": in_lines("records.ndjson", lambda all_: all_[1:]),
    "a proof is left out": in_lines("proofs.ndjson", lambda all_: all_[:-1]),
    "a record stands twice": lambda bundle: [
        in_lines(name, lambda all_: [all_[0], *all_])(bundle)
        for name in ("records.ndjson", "proofs.ndjson")
    ],
    "two records change places": lambda bundle: [
        in_lines(name, lambda all_: [all_[1], all_[0], *all_[2:]])(bundle)
        for name in ("records.ndjson", "proofs.ndjson")
    ],
    "a record is made up": in_lines(
        "records.ndjson", lambda all_: [*all_, b'{"log":"x","seq":1}\n']
    ),
    "a line is no record": in_lines("records.ndjson", lambda all_: [b"[[[[\n", *all_[1:]]),
    "a path is altered": in_lines(
        "proofs.ndjson", lambda all_: [all_[0].replace(b'"path":["', b'"path":["00'), *all_[1:]]
    ),
    "a path is another's": in_lines("proofs.ndjson", lambda all_: [all_[1], *all_[1:]]),
    "the count is another": in_manifest(lambda manifest: manifest.update(records=1)),
    "it says that nothing was left out": in_manifest(
        lambda manifest: manifest["logs"]["data-0"].update(contiguous=True)
    ),
    "a size is another": in_manifest(lambda manifest: manifest["logs"]["data-0"].update(size=3)),
    "a log is not named": in_manifest(lambda manifest: manifest["logs"].pop("data-1")),
    "checkpoints change places": swapped,
    "a checkpoint is gone": lambda bundle: (bundle / "checkpoints" / "data-0").unlink(),
    "a checkpoint is malformed": lambda bundle: (bundle / "checkpoints" / "data-0").write_text("x"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_found_though_the_digests_are_mended(bundle, change):
    rewritten(bundle, lambda _: None)
    assert verify_export(bundle, VKEYS).findings == []  # mending alone changes nothing
    rewritten(bundle, change)
    assert verify_export(bundle, VKEYS).findings


def test_a_checkpoint_of_another_key_is_not_trusted(bundle):
    rewritten(bundle, forged_checkpoint)
    report = verify_export(bundle, VKEYS)
    assert report.findings or not report.pinned


@pytest.mark.parametrize("name", ["records.ndjson", "proofs.ndjson", "checkpoints/data-0"])
def test_a_digest_that_does_not_fit_names_its_file(bundle, name):
    (bundle / name).write_bytes((bundle / name).read_bytes() + b"\n")
    assert verify_export(bundle, VKEYS).findings == [f"{name}: is not what the manifest says"]
    (bundle / name).unlink()
    assert verify_export(bundle, VKEYS).findings == [f"{name}: is missing"]


def test_a_file_too_many_is_found(bundle):
    (bundle / "more.txt").write_text("and this")
    assert verify_export(bundle, VKEYS).findings == ["more.txt: is not in the manifest"]


def test_a_key_without_its_log_and_no_log_at_all_are_findings(bundle):
    stranger = SigningKey("example.org/gate/data-9", b"z" * 32)
    keys = VKEYS | dict([parse_vkey(stranger.vkey)])
    assert verify_export(bundle, keys).findings == [
        "there is no log for the key of example.org/gate/data-9"
    ]

    def emptied(bundle):
        shutil.rmtree(bundle / "checkpoints")
        for name in ("records.ndjson", "proofs.ndjson"):
            (bundle / name).write_bytes(b"")
        in_manifest(lambda manifest: manifest.update(logs={}, records=0))(bundle)

    rewritten(bundle, emptied)
    assert verify_export(bundle, {}).pinned is False
    assert len(verify_export(bundle, VKEYS).findings) == 2


def test_all_records_means_all_of_them(logs, tmp_path):
    everything = bundled(tmp_path / "all", logs, Query())

    def shortened(bundle):
        for name in ("records.ndjson", "proofs.ndjson"):
            in_lines(name, lambda all_: all_[1:])(bundle)
        manifest = json.loads((bundle / "manifest.json").read_text())
        manifest["records"] -= 1
        manifest["logs"]["data-0"].update(
            records=manifest["logs"]["data-0"]["records"] - 1, first=1
        )
        (bundle / "manifest.json").write_text(json.dumps(manifest))

    rewritten(everything, shortened)
    (found,) = verify_export(everything, VKEYS).findings
    assert "all records were asked for, and 1 are not" in found


def test_a_record_outside_the_period_is_found(bundle):
    rewritten(bundle, in_manifest(lambda manifest: manifest["query"].update(until_ns="5")))
    assert "not of the period" in verify_export(bundle, VKEYS).findings[0]


def test_a_link_and_what_is_no_file_are_refused(bundle, tmp_path):
    (bundle / "records.ndjson").rename(tmp_path / "elsewhere")
    (bundle / "records.ndjson").symlink_to(tmp_path / "elsewhere")
    assert "records.ndjson: is no file" in verify_export(bundle, VKEYS).findings
    (bundle / "records.ndjson").unlink()
    os.mkfifo(bundle / "records.ndjson")
    assert "records.ndjson: is no file" in verify_export(bundle, VKEYS).findings


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"records":', '"records": 1, "records":', 1),
        lambda text: text.replace('"format":', '"more": 1, "format":', 1),
        lambda text: text.replace('"logs": {', '"logs": {"x": 1, ', 1),
        lambda text: json.dumps(json.loads(text) | {"sha256": [[1, "x"]]}),
        lambda text: json.dumps(json.loads(text) | {"records": True}),
        lambda text: json.dumps(json.loads(text) | {"query": {}}),
    ],
)
def test_a_manifest_of_another_shape_is_malformed(bundle, change):
    text = (bundle / "manifest.json").read_text()
    assert change(text) != text
    (bundle / "manifest.json").write_text(change(text))
    with pytest.raises(ValueError, match="malformed"):
        verify_export(bundle, VKEYS)


@pytest.mark.parametrize("index", ["1e999", '"1"', "true", "-1", "99999999999999999999", "null"])
def test_an_index_that_is_none_is_found(bundle, index):
    rewritten(
        bundle,
        in_lines(
            "proofs.ndjson",
            lambda all_: [
                re.sub(rb'"index":\d+', b'"index":' + index.encode(), all_[0]),
                *all_[1:],
            ],
        ),
    )
    assert verify_export(bundle, VKEYS).findings


@pytest.mark.parametrize("content", ["", "[]", "{}", "[" * 100_000, '{"format":"other/9"}'])
def test_what_is_no_bundle_is_told_in_a_sentence(tmp_path, content):
    with pytest.raises(ValueError, match="there is no manifest"):
        verify_export(tmp_path, {})
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match="malformed"):
        verify_export(tmp_path, {})


def test_a_log_that_is_not_what_was_signed_is_not_exported(logs, tmp_path):
    """The records are whole and in order, but under checkpoints of another key."""
    other = {"data-0": Log(logs["data-0"].directory, [KEYS["data-1"].verifier])}
    (tmp_path / "bundle").mkdir()
    with pytest.raises(LogCorrupt):
        write_bundle(tmp_path / "bundle", other, Query(), made="", asked="")


# Tables


def test_a_table_has_a_row_for_each_record_and_an_outcome_tells_whose_call_it_ended(logs):
    rows = []
    for found in found_in(logs, Query(terms=(("type", "access.outcome"),))):
        cells = {name: column(found) for name, column in CSV_COLUMNS.items()}
        (read,) = csv.DictReader(io.StringIO(csv_line(list(CSV_COLUMNS)) + csv_line(cells)))
        rows.append(read)
    assert len(rows) > 100
    assert all(row["subject"].startswith("member-") and row["model"] for row in rows)
    assert {row["status"] for row in rows} >= {"ok"}
    assert all(row["tokens_in"] == "120" for row in rows)


FULL_WIDTH = "\uff1d\uff0b\uff0d\uff20"
FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", '=HYPERLINK("http://x")']


@pytest.mark.parametrize("text", [*FORMULAS, *(f"{sign}1" for sign in FULL_WIDTH)])
def test_no_cell_is_a_formula(tmp_path, text):
    """Recorded text is hostile: an operator's reason, an endpoint's request id."""
    with_reason = r.RegistryChanged(
        kind="member", id="red", op="member.add", actor="ops", epoch=1, reason=text
    )
    traffic.write(tmp_path / "data-0", KEYS["data-0"], [[with_reason]])
    logs = {"data-0": Log(tmp_path / "data-0", [KEYS["data-0"].verifier])}
    (found,) = found_in(logs, Query(terms=(("type", "registry.changed"),)))
    line = csv_line({name: column(found) for name, column in CSV_COLUMNS.items()})
    (cells,) = csv.reader(io.StringIO(line))
    assert f"'{text}" in cells
    assert not any(cell.startswith(tuple(f"=+-@\t\r\n{FULL_WIDTH}")) for cell in cells)


def test_every_cell_is_quoted_so_that_no_other_separator_begins_one():
    assert csv_line(["a;=1+1", 'say "x"', "", "7"]) == '"a;=1+1","say ""x""","","7"\r\n'


@given(st.text(max_size=40))
def test_a_cell_reads_back_without_its_control_characters(text):
    (cells,) = csv.reader(io.StringIO(csv_line(["before", text, "after"]), newline=""))
    kept = "".join(
        "\ufffd" if unicodedata.category(char) == "Cc" and char not in "\t\n\r" else char
        for char in text
    )
    assert cells in (["before", kept, "after"], ["before", f"'{kept}", "after"])
    assert not cells[1].startswith(tuple(f"=+-@\t\r\n{FULL_WIDTH}"))


@pytest.mark.parametrize("char", ["\0", "\x1b", "\x7f", "\x9b", "\x0b"])
def test_a_control_character_is_replaced_and_one_in_front_hides_no_formula(char):
    assert csv_line([f"{char}=1", "\ta\nb\r"]) == '"\ufffd=1","\'\ta\nb\r"\r\n'
