"""Rows sealed beside their record: opened with the right key at the right record, and verified."""

import json
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.audit import records as r
from gateway.audit import verify
from gateway.audit.note import SigningKey
from gateway.audit.read import LogReader
from gateway.audit.seal import SealError, open_sealed, row_binding
from gateway.audit.segments import SEALED, LogCorrupt, frame, frames, read_opening, segment_name
from gateway.audit.writer import AuditLog

VECTORS = Path(__file__).parent.parent / "vectors" / "audit" / "sealed.json"
ORIGIN = "example.org/gate/control"
KEY = SigningKey(ORIGIN, bytes(range(32)))
ROW_KEY = b"r" * 32
BODY = b'{"id":"acme","tiers":{"cyber":3}}'


def changed(entity="acme", **fields):
    digest = sha256(b"organisation\0" + BODY).hexdigest()
    values = {"kind": "organisation", "op": "organisation.add", "actor": "ops", "epoch": 1}
    return r.RegistryChanged(id=entity, digest_after=digest, **values | fields)


@pytest.fixture
def log_dir(tmp_path):
    """An old record without its row, one with it, and one that is sealed for a member."""
    directory = tmp_path / "audit" / "control"
    with AuditLog.open(directory, ORIGIN, KEY, node=r.Gateway(node="n")) as log:
        log.append_sync(changed())
        log.append_sync(changed(), BODY, ROW_KEY)
        log.append_sync(changed("red", kind="member", sealed_for="red"), b"{}", b"m" * 32)
    return directory


def verdict(log_dir):
    keys = dict([verify.parse_vkey(KEY.vkey)])
    return verify.verify_directory(log_dir, keys, patience_s=0)[0].verdict


def test_the_sealed_forms_are_those_of_the_golden_vectors():
    """By AES-GCM and SHA-256 alone, as docs/audit-format.md says, and by our reader."""
    vector = json.loads(VECTORS.read_text())
    key = bytes.fromhex(vector["key"])
    row, facts = vector["row"], vector["facts"]
    told = (row["log"], row["seq"], row["kind"], row["id"], row["digest_after"])
    assert row_binding(*told) == row["additional_data"]
    assert sha256(f"{row['kind']}\0{row['body']}".encode()).hexdigest() == row["digest_after"]
    for each, bound in ((row, row["additional_data"]), (facts, facts["request_id"])):
        payload = bytes.fromhex(each["payload"])
        plain = AESGCM(key).decrypt(payload[8:20], payload[20:], bound.encode())
        assert plain[16:].decode() == each["body"]
        assert sha256(plain).hexdigest() == each["commitment"]
        assert sha256(payload).hexdigest() == each["sealed_sha256"]
        assert int.from_bytes(payload[:8]) == each["seq"]
        ref = r.FactsRef(commitment=each["commitment"], sealed_sha256=each["sealed_sha256"])
        assert open_sealed(payload, key, bound, each["seq"], ref).decode() == each["body"]


def test_a_row_opens_with_its_key_and_an_old_record_has_none(log_dir):
    old, row, member = list(LogReader(log_dir).entries())[1:4]
    assert row.facts(ROW_KEY) == BODY
    assert member.facts(b"m" * 32) == b"{}"
    assert member.json()["sealed_for"] == "red"
    assert "sealed_for" not in row.json()
    with pytest.raises(SealError, match="no sealed"):
        old.facts(ROW_KEY)
    with pytest.raises(SealError):
        member.facts(ROW_KEY)


@pytest.mark.parametrize("place", range(5))
def test_a_row_opens_at_no_other_record(log_dir, place):
    """What else than the key the ciphertext is bound to, each alone."""
    entry = LogReader(log_dir).find(2)
    record = entry.json()
    ref = r.FactsRef(**record["facts"])
    told = [record["log"], 2, record["kind"], record["id"], record["digest_after"]]
    assert open_sealed(entry.sealed, ROW_KEY, row_binding(*told), 2, ref) == BODY
    told[place] = 3 if place == 1 else told[place] + "x"
    with pytest.raises(SealError):
        open_sealed(entry.sealed, ROW_KEY, row_binding(*told), 2, ref)


def test_the_verifier_takes_logs_with_and_without_rows_and_misses_a_frame(log_dir):
    assert verdict(log_dir) == "ok"
    path = log_dir / segment_name(0)
    data = path.read_bytes()
    _, start = read_opening(data)
    kept = [(found.kind, found.payload) for found in frames(data, start)]
    sealed = [at for at, (kind, _) in enumerate(kept) if kind == SEALED]
    assert len(sealed) == 2
    for at in sealed:
        less = kept[:at] + kept[at + 1 :]
        path.write_bytes(data[:start] + b"".join(frame(*part) for part in less))
        assert "sealed facts and record do not go together" in verdict(log_dir)
        other = [*kept[:at], (SEALED, kept[at][1][:-1] + b"?"), *kept[at + 1 :]]
        path.write_bytes(data[:start] + b"".join(frame(*part) for part in other))
        assert "not those of the record" in verdict(log_dir)
        with pytest.raises(LogCorrupt):
            AuditLog.open(log_dir, ORIGIN, KEY, node=r.Gateway(node="n"), full=True)


def test_only_what_has_something_to_seal_carries_it(tmp_path):
    with AuditLog.open(tmp_path / "log", ORIGIN, KEY, node=r.Gateway(node="n")) as log:
        for record in (r.PolicyActivated(revision="r", actor="a"), r.LogHeartbeat(open=0)):
            with pytest.raises(ValueError, match="carry facts"):
                log.append_sync(record, BODY, ROW_KEY)
