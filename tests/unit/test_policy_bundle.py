"""Bundles: one id for one content, and archives that are refused for every byte that differs."""

import base64
import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc.jwk import ECKey

from gateway.policy import archive
from gateway.policy.archive import read_archive, write_archive
from gateway.policy.bundle import BundleError, bundle_from_files, read_directory
from tests.policy.small_bundle import FILES, MODELS, RULES, small_bundle

KEY = ECKey.generate_key("P-256")
OTHER_KEY = ECKey.generate_key("P-256")


def unpacked(raw: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(raw), mode="r:gz") as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar}


def packed(files: dict[str, bytes], *more: tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        for entry in more:
            tar.addfile(entry, io.BytesIO(b"x" * entry.size))
    return out.getvalue()


def test_directory_takes_rules_and_data_and_leaves_the_rest(tmp_path: Path) -> None:
    for name, text in {**FILES, "schemas/input.json": "{}", "README.md": "x"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    bundle = read_directory(tmp_path)
    assert bundle == small_bundle()
    assert set(bundle.modules) == {"sluicegate/decision.rego"}
    assert set(bundle.tests) == {"sluicegate/decision_test.rego"}
    assert bundle.data["models"]["opus"]["stage"] == "general"


def test_every_byte_and_every_path_is_in_the_id() -> None:
    ids = {
        small_bundle().id,
        small_bundle(models=MODELS + "# a comment\n").id,
        small_bundle(tests=None).id,
        bundle_from_files({"a.rego": b"package a", "b.rego": b"package a\n"}).id,
        bundle_from_files({"a.rego": b"package a\n", "b.rego": b"package a"}).id,
        bundle_from_files({"a.rego": b"package a", "c.rego": b"package a\n"}).id,
    }
    assert len(ids) == 6
    assert small_bundle().id == small_bundle().id


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"../a.rego": b"package a"}, "not a path"),
        ({"/a.rego": b"package a"}, "not a path"),
        ({"a/../b.rego": b"package a"}, "not a path"),
        ({"A.rego": b"package a"}, "not a path"),
        ({f"{'a' * 100}.rego": b"package a"}, "not a path"),
        ({"a.rego": b"package a\n# \xff"}, "not UTF-8"),
        ({"a.rego": b"x := 1"}, "no package"),
        ({"data/a.yaml": b"a: 1"}, "no rule"),
        ({"a.rego": b"package a", "data/a.yml": b"a: 1"}, "data/<name>.yaml"),
        ({"a.rego": b"package a", "data/a.json": b"{}"}, "data/<name>.yaml"),
        ({"a.rego": b"package a", "data/b/c.yaml": b"a: 1"}, "data/<name>.yaml"),
        ({"a.rego": b"package a", "data/data.yaml": b"a: 1"}, "data/<name>.yaml"),
        ({"a.rego": b"package a", "data/b.yaml": b"- 1"}, "mapping"),
        ({"a.rego": b"package a.b", "data/a.yaml": b"b: 1"}, "stands where"),
        ({"a.rego": b"package system.log"}, "stands where"),
    ],
)
def test_refuses_files_that_cannot_be_part_of_a_bundle(files: dict[str, bytes], words: str) -> None:
    with pytest.raises(BundleError, match=words):
        bundle_from_files(files)


def test_tells_the_faults_of_all_files_at_once() -> None:
    with pytest.raises(BundleError) as refusal:
        bundle_from_files({"a.rego": b"x := 1", "data/b.yaml": b"a: yes\nb: 1.0\n"})
    assert len(refusal.value.findings) == 3


@pytest.mark.parametrize("key", [None, KEY])
def test_archive_round_trip(key: ECKey | None) -> None:
    assert read_archive(write_archive(small_bundle(), key), key) == small_bundle()


def test_unsigned_archive_is_deterministic() -> None:
    assert write_archive(small_bundle(), None) == write_archive(small_bundle(), None)


def test_manifest_names_the_revision_and_every_root() -> None:
    files = unpacked(write_archive(small_bundle(), None))
    manifest = json.loads(files[".manifest"])
    assert manifest["revision"] == small_bundle().id
    assert manifest["roots"] == ["models", "networks", "sluicegate", "sluicegate_test", "waves"]
    assert json.loads(files["models/data.json"]) == small_bundle().data["models"]


def change(name: str, content: bytes) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda files: {**files, name: content}


def without(name: str) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda files: {key: value for key, value in files.items() if key != name}


TAMPERINGS = {
    "rule": change("sluicegate/decision.rego", RULES.replace(">=", "<").encode()),
    "data": change("models/data.json", b"{}"),
    "source of data": change("data/models.yaml", MODELS.replace("3", "0").encode()),
    "manifest": change(".manifest", b'{"revision":"sha256:0","roots":["models"]}'),
    "missing rule": without("sluicegate/decision_test.rego"),
    "missing data": without("models/data.json"),
    "extra rule": change("sluicegate/more.rego", b"package sluicegate\n"),
    "extra data": change("more/data.json", b"{}"),
    "extra file": change("notes.txt", b"x"),
    "traversal": change("../sluicegate/decision.rego", b"package sluicegate\n"),
    "absolute": change("/sluicegate/decision.rego", b"package sluicegate\n"),
}


@pytest.mark.parametrize("name", TAMPERINGS)
@pytest.mark.parametrize("key", [KEY, None])
def test_tampered_archive_is_refused(name: str, key: ECKey | None) -> None:
    files = unpacked(write_archive(small_bundle(), KEY))
    tampered = TAMPERINGS[name](files)
    assert tampered != files
    with pytest.raises(BundleError):
        read_archive(packed(tampered), key)


@pytest.mark.parametrize(
    "signatures",
    [
        None,
        b"{}",
        b"[]",
        b'{"signatures":[]}',
        b'{"signatures":["a.b.c"]}',
        b'{"signatures":["e30.e30."]}',
    ],
)
def test_signature_must_be_there_and_well_formed(signatures: bytes | None) -> None:
    files = unpacked(write_archive(small_bundle(), None))
    if signatures is not None:
        files[".signatures.json"] = signatures
    with pytest.raises(BundleError, match="sign"):
        read_archive(packed(files), KEY)


def test_signature_of_another_key_or_algorithm_is_refused() -> None:
    with pytest.raises(BundleError, match="does not verify"):
        read_archive(write_archive(small_bundle(), OTHER_KEY), KEY)
    files = unpacked(write_archive(small_bundle(), KEY))
    token = json.loads(files[".signatures.json"])["signatures"][0]
    for header in (b'{"alg":"none"}', b'{"alg":"HS256","kid":"sluicegate"}'):
        forged = ".".join([_b64(header), token.split(".")[1], ""])
        files[".signatures.json"] = json.dumps({"signatures": [forged]}).encode()
        with pytest.raises(BundleError, match="does not verify"):
            read_archive(packed(files), KEY)
    files[".signatures.json"] = json.dumps({"signatures": [token, token]}).encode()
    with pytest.raises(BundleError, match="exactly one"):
        read_archive(packed(files), KEY)


def test_signature_of_another_bundle_is_refused() -> None:
    files = unpacked(write_archive(small_bundle(), KEY))
    other = unpacked(write_archive(small_bundle(waves=None), KEY))
    with pytest.raises(BundleError) as refusal:
        read_archive(packed({**files, ".signatures.json": other[".signatures.json"]}), KEY)
    assert "data/waves.yaml: in the archive, but not signed" in refusal.value.findings


def test_links_devices_and_duplicates_are_refused() -> None:
    files = unpacked(write_archive(small_bundle(), None))
    link = tarfile.TarInfo("sluicegate/link.rego")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    again = tarfile.TarInfo("sluicegate/decision.rego")
    again.size = 1
    for entry, words in ((link, "regular file"), (again, "twice")):
        with pytest.raises(BundleError, match=words):
            read_archive(packed(files, entry), None)


def test_archives_that_are_too_large_cut_short_or_followed_by_more_are_refused() -> None:
    raw = write_archive(small_bundle(), None)
    bomb = gzip.compress(bytes(archive.MAX_CONTENT_BYTES + 1))
    assert len(bomb) < archive.MAX_ARCHIVE_BYTES
    for refused, words in (
        (bomb, "holds more than"),
        (bytes(archive.MAX_ARCHIVE_BYTES + 1), "larger than"),
        (raw[:-9], "cut short"),
        (raw + b"x", "something follows"),
        (raw + raw, "something follows"),
        (b"", "gzip"),
        (b"PK", "gzip"),
        (gzip.compress(b"no tar" * 1000), "tar"),
    ):
        with pytest.raises(BundleError, match=words):
            read_archive(refused, None)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_flipped_bit_is_taken_for_another_bundle(data: st.DataObject) -> None:
    raw = bytearray(gzip.decompress(write_archive(small_bundle(), KEY)))
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << bit % 8
    try:
        bundle = read_archive(gzip.compress(bytes(raw)), KEY)
    except BundleError:
        return
    assert bundle == small_bundle()  # the flip was in the padding or the metadata of an entry


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
