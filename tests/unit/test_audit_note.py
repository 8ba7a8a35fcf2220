"""Notes, checkpoints, keys and proofs against golden bytes, and what is refused."""

import base64
import contextlib
import json
from pathlib import Path

import pytest

from gateway.audit import verify
from gateway.audit.note import (
    NoteError,
    SigningKey,
    VerifierKey,
    checkpoint_body,
    open_note,
    parse_checkpoint,
    sign_checkpoint,
)
from gateway.audit.proof import check_proof, format_proof
from gateway.audit.tlog import inclusion_proof, leaf_hash, root_of

VECTORS = Path(__file__).parent.parent / "vectors" / "audit" / "notes.json"
KEY = SigningKey("example.org/gate/data-0", bytes(range(32)))
RECORDS = [b'{"seq":%d}' % i for i in range(11)]
LEAVES = [leaf_hash(record) for record in RECORDS]


def test_the_formats_are_those_of_the_golden_vectors():
    """Ed25519 is deterministic, so key, note and proof have one right spelling each."""
    vector = json.loads(VECTORS.read_text())
    checkpoint = sign_checkpoint(KEY, len(LEAVES), root_of(LEAVES))
    assert KEY.vkey == vector["vkey"]
    assert checkpoint.note.decode() == vector["checkpoint"]
    proof = format_proof(7, inclusion_proof(LEAVES, 7), checkpoint.note)
    assert proof.decode() == vector["proof"]


def test_the_published_example_key_of_the_note_format_is_read():
    """PeterNeumann, the example key of golang.org/x/mod/sumdb/note's documentation."""
    vkey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    assert str(VerifierKey.parse(vkey)) == vkey
    note = (
        "If you think cryptography is the answer to your problem,\n"
        "then you don't know what your problem is.\n\n"
        "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFY"
        "C2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
    )
    assert open_note(note.encode(), [VerifierKey.parse(vkey)]).startswith("If you think")


def test_a_checkpoint_reads_back_and_the_verifier_agrees():
    checkpoint = sign_checkpoint(KEY, 11, root_of(LEAVES))
    assert parse_checkpoint(checkpoint.note, [KEY.verifier]) == checkpoint
    name, public = verify.parse_vkey(KEY.vkey)
    read = verify.read_checkpoint(checkpoint.note, {name: public})
    assert read == (KEY.name, 11, root_of(LEAVES), True)


@pytest.mark.parametrize("bit", range(0, 8 * 199, 7))
def test_no_flipped_bit_of_a_checkpoint_passes_unnoticed(bit):
    note = bytearray(sign_checkpoint(KEY, 11, root_of(LEAVES)).note)
    note[bit // 8 % len(note)] ^= 1 << bit % 8
    with pytest.raises(NoteError):
        parse_checkpoint(bytes(note), [KEY.verifier])
    name, public = verify.parse_vkey(KEY.vkey)
    with contextlib.suppress(verify.BadNote):
        assert not verify.read_checkpoint(bytes(note), {name: public})[3]


def test_signatures_by_other_keys_are_passed_over_so_that_keys_can_change():
    new = SigningKey(KEY.name, bytes(32))
    body = checkpoint_body(KEY.name, 11, root_of(LEAVES))
    witness = SigningKey("witness.example", bytes([7] * 32))
    lines = [key.sign(body).rpartition(b"\n\n")[2] for key in (KEY, new, witness)]
    note = body.encode() + b"\n" + b"".join(lines)
    for keys in ([KEY.verifier], [new.verifier], [KEY.verifier, new.verifier]):
        assert parse_checkpoint(note, keys).size == 11
    with pytest.raises(NoteError, match="no known key"):
        parse_checkpoint(note, [SigningKey(KEY.name, bytes([9] * 32)).verifier])
    wrong = note.replace(lines[1], new.sign("another text\n").rpartition(b"\n\n")[2])
    with pytest.raises(NoteError, match="is wrong"):
        parse_checkpoint(wrong, [KEY.verifier, new.verifier])
    assert parse_checkpoint(wrong, [KEY.verifier]).size == 11


def test_only_a_key_named_like_the_origin_signs_a_checkpoint():
    other = SigningKey("example.org/gate/data-1", bytes(32))
    body = checkpoint_body(KEY.name, 11, root_of(LEAVES))
    forged = other.sign(body)
    with pytest.raises(NoteError, match="no known key"):
        parse_checkpoint(forged, [KEY.verifier, other.verifier])
    both = KEY.sign(body) + forged.rpartition(b"\n\n")[2]
    assert parse_checkpoint(both, [KEY.verifier, other.verifier]).size == 11
    keys = dict(verify.parse_vkey(key.vkey) for key in (KEY, other))
    assert not verify.read_checkpoint(forged, keys)[3]
    assert verify.read_checkpoint(both, keys)[3]


ROOT64 = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "body",
    [
        f"{KEY.name}\n011\n{ROOT64}\n",
        f"{KEY.name}\n-1\n{ROOT64}\n",
        f"{KEY.name}\n{'9' * 19}\n{ROOT64}\n",
        f"{KEY.name}\n{'9' * 5000}\n{ROOT64}\n",
        f"{KEY.name}\n1\u0661\n{ROOT64}\n",
        f"{KEY.name}\n11\n{ROOT64}\nextension\n",
        f"{KEY.name}\n11\n{base64.b64encode(bytes(31)).decode()}\n",
        f"{KEY.name}\n11\nnot base64\n",
        f"\n11\n{ROOT64}\n",
        f"{KEY.name}\n11\n",
    ],
)
def test_checkpoints_of_another_form_are_refused_though_well_signed(body):
    with pytest.raises(NoteError):
        parse_checkpoint(KEY.sign(body), [KEY.verifier])


@pytest.mark.parametrize("digits", [18, 19, 5000])
def test_a_size_has_so_many_digits_at_most(digits):
    note = KEY.sign(f"{KEY.name}\n{'9' * digits}\n{ROOT64}\n")
    keys = dict([verify.parse_vkey(KEY.vkey)])
    if digits == 18:
        assert parse_checkpoint(note, [KEY.verifier]).size == 10**18 - 1
        assert verify.read_checkpoint(note, keys)[1] == 10**18 - 1
        return
    with pytest.raises(NoteError, match="malformed checkpoint"):
        parse_checkpoint(note, [KEY.verifier])
    with pytest.raises(verify.BadNote, match="malformed checkpoint"):
        verify.read_checkpoint(note, keys)


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"text\n",
        b"text\n\n",
        b"text\n\n- name AAAAAAAA\n",
        "text\n\n— name\n".encode(),
        "text\n\n— name AAAAAAAA".encode(),
        b"\xff\n\n",
        b"te\x00xt\n\n",
        b"x" * 70_000,
        b"text\n\n" + "— n AAAAAAAA\n".encode() * 101,
    ],
)
def test_malformed_notes_are_refused(note):
    with pytest.raises(NoteError):
        open_note(note, [KEY.verifier])


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "name+00000000",
        KEY.vkey.replace("+0", "+1", 1) if "+0" in KEY.vkey else KEY.vkey[:-4],
        KEY.vkey.replace(KEY.name, "example.org/other"),
        f"n+00000000+{base64.b64encode(bytes([4]) + bytes(32)).decode()}",
        f"n m+00000000+{base64.b64encode(bytes([1]) + bytes(32)).decode()}",
    ],
)
def test_vkeys_that_do_not_fit_are_refused(vkey):
    with pytest.raises(NoteError):
        VerifierKey.parse(vkey)


def test_a_key_file_is_private_and_never_overwritten(tmp_path):
    path = tmp_path / "log.key"
    key = SigningKey.create(path, "example.org/log")
    assert path.stat().st_mode & 0o777 == 0o600
    assert SigningKey.load(path).vkey == key.vkey
    with pytest.raises(FileExistsError):
        SigningKey.create(path, "example.org/log")
    path.chmod(0o640)
    with pytest.raises(NoteError, match="owner only"):
        SigningKey.load(path)
    path.chmod(0o600)
    for text in ("nonsense", path.read_text().replace("log+", "lag+"), "PRIVATE+KEY+a+b+c!"):
        path.write_text(text)
        with pytest.raises(NoteError):
            SigningKey.load(path)


def test_a_proof_holds_for_its_record_alone():
    checkpoint = sign_checkpoint(KEY, 11, root_of(LEAVES))
    for index, record in enumerate(RECORDS):
        proof = format_proof(index, inclusion_proof(LEAVES, index), checkpoint.note)
        assert check_proof(proof, record, [KEY.verifier]) == (index, checkpoint)
        for bad, leaf in (
            (proof, record + b" "),
            (proof.replace(b"index ", b"index 1"), record),
            (proof.replace(b"index ", b"index 0"), record),
            (proof.replace(b"@v1", b"@v2"), record),
            (proof.replace(b"=\n", b"\n", 1), record),
            (proof.replace(b"index", b"index 4\nindex"), record),
            (b"", record),
        ):
            with pytest.raises(NoteError):
                check_proof(bad, leaf, [KEY.verifier])
    with pytest.raises(NoteError, match="no known key"):
        check_proof(proof, RECORDS[-1], [])
