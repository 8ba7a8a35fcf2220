"""The log's receipts, keys and checkpoints, read by golang.org/x/mod: code that is not ours."""

import json
import os
import random
import subprocess
from pathlib import Path

import pytest

from gateway.audit import records as r
from gateway.audit.note import SigningKey
from gateway.audit.read import LogReader
from gateway.audit.writer import AuditLog

ROOT = Path(__file__).parents[2]
KEY = SigningKey("example.org/gate/data-0", bytes(range(32)))
PROOFS = 20


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """Runs the Go checker on pairs of proof and leaf; its answers, in order."""
    directory = tmp_path_factory.mktemp("oracle")
    subprocess.run(
        ["go", "build", "-buildvcs=false", "-o", directory / "tlog", "."],
        cwd=ROOT / "tools" / "tlog",
        env={**os.environ, "GOFLAGS": "-mod=readonly"},
        check=True,
    )

    def check(vkey, pairs):
        files = []
        for number, pair in enumerate(pairs):
            for name, content in zip(("proof", "leaf"), pair, strict=True):
                files.append(directory / f"{number}.{name}")
                files[-1].write_bytes(content)
        done = subprocess.run(
            [directory / "tlog", vkey, *files], capture_output=True, text=True, check=False
        )
        assert done.returncode in (0, 1), done.stderr
        return [line.partition(":")[0] for line in done.stdout.splitlines()]

    return check


@pytest.fixture(scope="module")
def receipts(tmp_path_factory):
    """Proof and record for twenty records of a log of several segments."""
    directory = tmp_path_factory.mktemp("log") / "log"
    with AuditLog.open(
        directory, KEY.name, KEY, node=r.Gateway(node="n"), segment_bytes=20_000
    ) as log:
        for i in range(150):
            log.append_sync(r.AccessDenied(request_id=f"req_{i}", http=403), b"facts", b"k" * 32)
    reader = LogReader(directory)
    chosen = [0, 151, *random.Random(1).sample(range(1, 151), PROOFS - 2)]
    return [(reader.proof(seq, [KEY.verifier]), reader.find(seq).raw) for seq in chosen]


def tampered(number, proof, leaf):
    """One change to a receipt, another for each number."""
    head, _, note = proof.partition(b"\n\n")
    lines = head.split(b"\n")
    size = note.split(b"\n")[1]
    changes = [
        lambda: (proof, leaf + b" "),
        lambda: (proof, leaf.replace(b"403", b"200") if b"403" in leaf else leaf[:-1]),
        lambda: (proof.replace(b"index ", b"index 1", 1), leaf),
        lambda: (proof.replace(b"\n" + lines[-1], b"", 1), leaf),
        lambda: (proof.replace(lines[2], lines[3], 1), leaf),
        lambda: (proof.replace(b"\n" + size + b"\n", b"\n9\n", 1), leaf),
        lambda: (proof[:-6] + b"AAA=\n", leaf),
        lambda: (proof.replace(b"data-0", b"data-1"), leaf),
    ]
    return changes[number % len(changes)]()


@pytest.mark.needs("go")
def test_go_accepts_every_honest_receipt_and_rejects_every_tampered_one(oracle, receipts):
    assert oracle(KEY.vkey, receipts) == ["ok"] * PROOFS
    bad = [tampered(number, *receipt) for number, receipt in enumerate(receipts)]
    assert all(changed != honest for changed, honest in zip(bad, receipts, strict=True))
    assert oracle(KEY.vkey, bad) == ["rejected"] * PROOFS
    stranger = SigningKey(KEY.name, bytes(32))
    assert oracle(stranger.vkey, receipts) == ["rejected"] * PROOFS


@pytest.mark.needs("go")
def test_go_accepts_the_golden_vectors(oracle):
    vector = json.loads((ROOT / "tests" / "vectors" / "audit" / "notes.json").read_text())
    pair = (vector["proof"].encode(), b'{"seq":7}')
    assert oracle(vector["vkey"], [pair]) == ["ok"]
