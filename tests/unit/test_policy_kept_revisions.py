"""Revisions that were activated are kept whole, and what is read is what its name says."""

import stat
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey

from gateway.policy.archive import write_archive
from gateway.policy.kept_revisions import (
    RevisionNotKept,
    forget_revision,
    keep_revision,
    kept_archive,
    kept_revision,
    path_of,
)
from tests.policy.small_bundle import rules, small_bundle

BUNDLE = small_bundle()
ARCHIVE = write_archive(BUNDLE, None)
OTHER = rules("other := 1")


def test_a_revision_reads_back_whole_and_is_ours_alone(tmp_path):
    directory = tmp_path / "revisions"
    assert keep_revision(directory, BUNDLE.id, ARCHIVE)
    assert kept_revision(directory, BUNDLE.id) == BUNDLE
    assert kept_archive(directory, BUNDLE.id) == ARCHIVE
    (path,) = directory.iterdir()
    assert path == path_of(directory, BUNDLE.id)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_one_that_is_kept_stays_and_one_that_was_signed_meanwhile_takes_its_place(tmp_path):
    keep_revision(tmp_path, BUNDLE.id, ARCHIVE)
    inode = path_of(tmp_path, BUNDLE.id).stat().st_ino
    assert not keep_revision(tmp_path, BUNDLE.id, ARCHIVE)
    assert path_of(tmp_path, BUNDLE.id).stat().st_ino == inode
    signed = write_archive(BUNDLE, ECKey.generate_key("P-256"))
    assert not keep_revision(tmp_path, BUNDLE.id, signed)
    assert kept_archive(tmp_path, BUNDLE.id) == signed
    assert kept_revision(tmp_path, BUNDLE.id) == BUNDLE
    assert len(list(tmp_path.iterdir())) == 1
    forget_revision(tmp_path, BUNDLE.id)
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_damaged_or_another_is_refused_in_words(tmp_path):
    with pytest.raises(RevisionNotKept, match="is not kept in"):
        kept_revision(tmp_path, BUNDLE.id)
    keep_revision(tmp_path, BUNDLE.id, write_archive(OTHER, None))
    for read in (kept_revision, kept_archive):
        with pytest.raises(RevisionNotKept, match=f"is that of {OTHER.id}"):
            read(tmp_path, BUNDLE.id)
    path_of(tmp_path, BUNDLE.id).write_bytes(ARCHIVE[:-9])
    with pytest.raises(RevisionNotKept, match="damaged"):
        kept_revision(tmp_path, BUNDLE.id)
    path_of(tmp_path, BUNDLE.id).unlink()
    path_of(tmp_path, BUNDLE.id).mkdir()
    with pytest.raises(RevisionNotKept, match="directory"):
        kept_revision(tmp_path, BUNDLE.id)


@pytest.mark.parametrize(
    "name",
    ["", "sha256:", "sha256:" + "A" * 64, "sha256:" + "a" * 63, "../" + "a" * 64, "a" * 64 + "\n"],
)
def test_an_id_of_another_form_leads_to_no_file(tmp_path, name):
    with pytest.raises(ValueError, match="64 hex digits"):
        path_of(tmp_path, name)
    with pytest.raises(RevisionNotKept):
        kept_revision(tmp_path, name)


@given(at=st.integers(0, len(ARCHIVE) - 1), bit=st.integers(0, 7))
def test_no_altered_bit_gives_another_bundle_under_this_name(tmp_path_factory, at, bit):
    directory = tmp_path_factory.mktemp("kept")
    bad = bytearray(ARCHIVE)
    bad[at] ^= 1 << bit
    keep_revision(directory, BUNDLE.id, bytes(bad))
    with suppress(RevisionNotKept):
        assert kept_revision(directory, BUNDLE.id) == BUNDLE


def test_nothing_of_a_write_that_fails_is_left(tmp_path, monkeypatch):
    keep_revision(tmp_path, BUNDLE.id, ARCHIVE)

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        keep_revision(tmp_path, BUNDLE.id, ARCHIVE + b"x")
    assert kept_archive(tmp_path, BUNDLE.id) == ARCHIVE
    assert len(list(tmp_path.iterdir())) == 1
