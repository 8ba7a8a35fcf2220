"""The log's receipts, proofs, keys, checkpoints and cosignatures, read by golang.org/x/mod and
pymerkle: code that is not ours."""

import base64
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pymerkle
import pytest

from gateway.audit import records as r
from gateway.audit.cosign import WitnessSigner, with_lines
from gateway.audit.index import Index, Log
from gateway.audit.note import SigningKey, parse_checkpoint, sign_checkpoint
from gateway.audit.read import LogReader
from gateway.audit.search import Query, Search
from gateway.audit.tlog import consistency_proof, leaf_hash, root_of
from gateway.audit.writer import AuditLog
from gateway.state import StateDirectory
from tests.support.traffic import calls, write

ROOT = Path(__file__).parents[2]
KEY = SigningKey("example.org/gate/data-0", bytes(range(32)))
PROOFS = 120
WITNESS = WitnessSigner("witness.example.net", b"w" * 32)


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

    def check(*words, files, said=False):
        """Answers about files that are given together, as many as each is of."""
        paths = []
        for number, together in enumerate(files):
            for part, content in enumerate(together):
                paths.append(directory / f"{number}.{part}")
                paths[-1].write_bytes(content)
        done = subprocess.run(
            [directory / "tlog", *words, *paths], capture_output=True, text=True, check=False
        )
        assert done.returncode in (0, 1), done.stderr
        if said:
            return done.stdout
        return [line.partition(":")[0] for line in done.stdout.splitlines()]

    return check


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A log of several segments."""
    directory = tmp_path_factory.mktemp("log") / "log"
    with AuditLog.open(
        directory, KEY.name, KEY, node=r.Gateway(node="n"), segment_bytes=20_000
    ) as log:
        for i in range(450):
            log.append_sync(r.AccessDenied(request_id=f"req_{i}", http=403), b"facts", b"k" * 32)
    return Log(directory, [KEY.verifier])


@pytest.fixture(scope="module")
def receipts(log, tmp_path_factory):
    """Proofs and records: some made from the whole log, most from an index's tiles."""
    reader = LogReader(log.directory)
    read = [(reader.proof(seq, [KEY.verifier]), reader.find(seq).raw) for seq in (0, 1, 255, 451)]
    logs = {"log": log}
    index = Index(tmp_path_factory.mktemp("index") / "index.sqlite", logs)
    index.catch_up()
    hits = Search(index, logs).hits(Query(), limit=1000)
    index.close()
    assert len(hits) == 452
    found = [(hit.proof(), hit.raw) for hit in random.Random(1).sample(hits, PROOFS - len(read))]
    return read + found


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
    assert oracle(KEY.vkey, files=receipts) == ["ok"] * PROOFS
    bad = [tampered(number, *receipt) for number, receipt in enumerate(receipts)]
    assert all(changed != honest for changed, honest in zip(bad, receipts, strict=True))
    assert oracle(KEY.vkey, files=bad) == ["rejected"] * PROOFS
    stranger = SigningKey(KEY.name, bytes(32))
    assert oracle(stranger.vkey, files=receipts) == ["rejected"] * PROOFS


@pytest.mark.needs("go")
def test_go_accepts_the_golden_vectors(oracle):
    vector = json.loads((ROOT / "tests" / "vectors" / "audit" / "notes.json").read_text())
    pair = (vector["proof"].encode(), b'{"seq":7}')
    assert oracle(vector["vkey"], files=[pair]) == ["ok"]


def heads(log):
    """Every checkpoint of the log, and the leaves."""
    batches = list(LogReader(log.directory).batches())
    leaves = [leaf_hash(entry.raw) for batch in batches for entry in batch.entries]
    return [batch.checkpoint for batch in batches], leaves


@pytest.mark.needs("go")
def test_go_accepts_that_the_log_only_grew_and_rejects_everything_else(oracle, log):
    notes, leaves = heads(log)
    dice = random.Random(2)
    proofs = []
    while len(proofs) < PROOFS:
        older, newer = sorted(dice.sample(notes, 2), key=lambda note: int(note.split(b"\n")[1]))
        before, after = (int(note.split(b"\n")[1]) for note in (older, newer))
        path = consistency_proof(leaves[:after], before)
        proofs.append([older, newer, b"\n".join(base64.b64encode(node) for node in path)])
    assert oracle("grown", KEY.vkey, files=proofs) == ["ok"] * PROOFS
    fork = [leaf_hash(b"another"), *leaves[1:]]
    bad = []
    for older, newer, path in proofs:
        before = int(older.split(b"\n")[1])
        forked = sign_checkpoint(KEY, before, root_of(fork[:before])).note
        bad.append([forked, newer, path])
    assert oracle("grown", KEY.vkey, files=bad) == ["rejected"] * PROOFS
    swapped = [[newer, older, path] for older, newer, path in proofs]
    assert oracle("grown", KEY.vkey, files=swapped) == ["rejected"] * PROOFS


@pytest.mark.needs("go")
def test_go_accepts_a_witnesss_cosignatures_and_rejects_others(oracle, log):
    notes = heads(log)[0][:PROOFS]
    texts = [note.partition(b"\n\n")[0].decode() + "\n" for note in notes]
    lines = [WITNESS.cosign(text, 1_795_000_000 + at) for at, text in enumerate(texts)]
    whole = [[with_lines(note, line)] for note, line in zip(notes, lines, strict=True)]
    key = str(WITNESS.verifier)
    assert oracle("cosigned", KEY.vkey, key, files=whole) == ["ok"] * PROOFS
    moved = [[with_lines(note, line)] for note, line in zip(notes[1:], lines, strict=False)]
    assert oracle("cosigned", KEY.vkey, key, files=moved) == ["rejected"] * (PROOFS - 1)
    stranger = WitnessSigner("witness.example.net", b"s" * 32).verifier
    assert oracle("cosigned", KEY.vkey, str(stranger), files=whole) == ["rejected"] * PROOFS


@contextlib.contextmanager
def publishing(root):
    """`audit publish` of a state directory; the URL of its one log."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "gateway.cli", "audit", "publish"),
            *("--listen", "127.0.0.1:0", "--dir", str(root)),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process.stdout.readline().split()[1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.stdout.close()
        assert process.wait(20) == 0


@pytest.mark.needs("go")
def test_go_reads_a_published_log_and_proves_every_entry_while_it_grows(oracle, tmp_path):
    state = StateDirectory(tmp_path / "state")
    state.prepare()
    key = SigningKey("example.org/gate/data-0", bytes(32))
    state.vkey("data-0").write_text(key.vkey)
    write(state.log("data-0"), key, calls(200), segment_bytes=100_000)
    with publishing(state.root) as url:
        first = oracle("tiles", key.vkey, url, files=[], said=True)
        assert first.startswith("ok: ")
        write(state.log("data-0"), key, calls(400, seed=1, first=200), segment_bytes=100_000)
        grown = oracle("tiles", key.vkey, url, files=[], said=True)
        assert int(grown.split()[1]) > int(first.split()[1]) + 500
        stranger = SigningKey(key.name, b"s" * 32)
        assert oracle("tiles", stranger.vkey, url, files=[]) == ["rejected"]
        for path, status in {
            "tile/0/000": 200,
            "tile/0/001": 200,
            "tile/1/000.p/2": 200,
            "tile/1/000.p/255": 404,
            "tile/1/000": 404,
            "tile/0/00": 404,
            "tile/0/x000/000": 404,
            "tile/0/000.p/256": 404,
            "tile/00/000": 404,
            "tile/entries/000": 200,
            "tile/entries/009": 404,
            "../vkeys/data-0": 404,
            "": 404,
        }.items():
            assert status_of(url + path) == status, path
        assert status_of(url, method="POST") == 405


def status_of(url, method="GET"):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method)) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_pymerkle_gives_the_root_of_every_checkpoint(log):
    tree = pymerkle.InmemoryTree(algorithm="sha256")
    compared = 0
    for batch in LogReader(log.directory).batches():
        for entry in batch.entries:
            tree.append_entry(entry.raw)
        checkpoint = parse_checkpoint(batch.checkpoint, [KEY.verifier])
        assert tree.get_root(checkpoint.size) == checkpoint.root
        compared += 1
    assert compared > 400
    assert tree.get_root(1) != tree.get_root(2)
