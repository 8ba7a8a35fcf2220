"""A witness cosigns what extends what it saw, and nothing else; it forgets nothing it signed."""

import asyncio
import base64
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.audit.cosign import WitnessKey, WitnessSigner, cosignatures, line_of, with_lines
from gateway.audit.note import NoteError, SigningKey, checkpoint_body, sign_checkpoint
from gateway.audit.tlog import consistency_proof, leaf_hash, root_of
from gateway.audit.witness import Witness, WitnessBusy, format_request
from gateway.cli import listening
from gateway.cli.witness import _Application

LOG = SigningKey("example.org/gate/data-0", bytes(range(32)))
OTHER = SigningKey("example.org/gate/data-1", bytes(range(1, 33)))
SIGNER = WitnessSigner("witness.example.net", b"w" * 32)
LEAVES = [leaf_hash(b"%d" % number) for number in range(400)]
FORKED = [*LEAVES[:50], *(leaf_hash(b"other %d" % number) for number in range(350))]
NOW = 1_795_000_000


def head(size, leaves=LEAVES, key=LOG):
    return sign_checkpoint(key, size, root_of(leaves[:size])).note


def asked(old, size, leaves=LEAVES, key=LOG):
    return format_request(old, consistency_proof(leaves[:size], old), head(size, leaves, key))


@pytest.fixture
def witness(tmp_path):
    witness = Witness(tmp_path / "witness", SIGNER, {LOG.name: [LOG.verifier]})
    yield witness
    witness.close()


def test_a_log_that_grows_is_cosigned_and_the_cosignature_says_who_and_when(witness):
    old = 0
    for size in (1, 7, 64, 65, 300):
        reply = witness.add_checkpoint(asked(old, size), NOW + size)
        assert reply.status == 200
        note = with_lines(head(size), reply.body)
        assert cosignatures(note, [SIGNER.verifier]) == [("witness.example.net", NOW + size)]
        old = size
    assert witness.seen(LOG.name).size == 300


def test_the_same_checkpoint_again_is_cosigned_again(witness):
    assert witness.add_checkpoint(asked(0, 9), NOW).status == 200
    assert witness.add_checkpoint(asked(9, 9), NOW + 60).status == 200


def test_what_a_cosignature_covers_is_the_specifications_text(witness):
    reply = witness.add_checkpoint(asked(0, 5), NOW)
    blob = base64.b64decode(reply.body.split(b" ")[2])
    text = checkpoint_body(LOG.name, 5, root_of(LEAVES[:5]))
    signed = f"cosignature/v1\ntime {NOW}\n{text}".encode()
    assert blob[4:12] == NOW.to_bytes(8, "big")
    SIGNER._key.public_key().verify(blob[12:], signed)  # raises where it is not


ROLLBACK = "cut back"
TABLE = {
    "a witness that has another size": (asked(3, 20), 409, b"10\n"),
    "a log that was cut back": (asked(5, 5), 409, b"10\n"),
    "a log that was cut back, under the old size": (format_request(10, [], head(5)), 400, b""),
    "a fork of the same size": (asked(10, 10, FORKED[::-1]), 409, b"10\n"),
    "a fork that is longer": (asked(10, 20, FORKED[::-1]), 422, b""),
    "no proof": (format_request(10, [], head(20)), 422, b""),
    "a wrong proof": (format_request(10, [LEAVES[0]] * 5, head(20)), 422, b""),
    "another log": (asked(0, 5, key=OTHER), 404, b""),
    "another key": (asked(10, 20, key=SigningKey(LOG.name, b"x" * 32)), 403, b""),
    "an old size beyond the checkpoint's": (format_request(30, [], head(20)), 400, b""),
    "no old size": (b"\n\n" + head(20), 400, b""),
    "an old size with a zero in front": (b"old 010\n\n" + head(20), 400, b""),
    "an old size that is no number": ("old ١٠\n\n".encode() + head(20), 400, b""),
    "an old size of thousands of digits": (b"old " + b"9" * 5000 + b"\n\n" + head(20), 400, b""),
    "an old size beyond any log": (b"old " + b"9" * 19 + b"\n\n" + head(20), 400, b""),
    "no checkpoint": (b"old 10\n\n", 400, b""),
    "nothing": (b"", 400, b""),
    "too many hashes": (format_request(10, [LEAVES[0]] * 64, head(20)), 400, b""),
    "a hash that is none": (b"old 10\nAAAA\n\n" + head(20), 400, b""),
    "bytes": (bytes(range(256)), 400, b""),
}


@pytest.mark.parametrize("name", TABLE)
def test_everything_else_is_refused_and_changes_nothing(witness, name):
    assert witness.add_checkpoint(asked(0, 10), NOW).status == 200
    body, status, said = TABLE[name]
    reply = witness.add_checkpoint(body, NOW)
    assert reply.status == status
    assert b"\xe2\x80\x94" not in reply.body  # no signature line
    if said:
        assert (reply.body, reply.kind) == (said, "text/x.tlog.size")
    assert witness.seen(LOG.name).size == 10
    assert witness.add_checkpoint(asked(10, 20), NOW).status == 200


def test_a_checkpoint_of_thousands_of_digits_is_refused_though_well_signed(witness):
    note = LOG.sign(f"{LOG.name}\n{'9' * 5000}\n{base64.b64encode(LEAVES[0]).decode()}\n")
    assert witness.add_checkpoint(format_request(0, [], note), NOW).status == 403


@given(body=st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
@settings(max_examples=300, deadline=None)
def test_no_body_is_cosigned_by_accident(tmp_path_factory, body):
    witness = Witness(
        tmp_path_factory.mktemp("fuzz") / "witness", SIGNER, {LOG.name: [LOG.verifier]}
    )
    try:
        assert witness.add_checkpoint(body, NOW).status in {400, 403, 404}
        assert witness.add_checkpoint(b"old 0\n\n" + body, NOW).status in {400, 403, 404}
    finally:
        witness.close()


def test_what_was_seen_outlives_the_process_and_is_on_disk_before_the_answer(tmp_path, monkeypatch):
    directory = tmp_path / "witness"
    witness = Witness(directory, SIGNER, {LOG.name: [LOG.verifier]})
    assert witness.add_checkpoint(asked(0, 10), NOW).status == 200
    witness.close()
    witness = Witness(directory, SIGNER, {LOG.name: [LOG.verifier]})
    assert witness.add_checkpoint(asked(0, 5), NOW).status == 409

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        witness.add_checkpoint(asked(10, 20), NOW)
    monkeypatch.undo()
    assert witness.seen(LOG.name).size == 10
    witness.close()


def test_a_state_that_the_log_never_signed_is_not_built_on(witness, tmp_path):
    assert witness.add_checkpoint(asked(0, 10), NOW).status == 200
    (kept,) = (tmp_path / "witness").glob("*.checkpoint")
    kept.write_bytes(head(3, key=SigningKey(LOG.name, b"x" * 32)))
    with pytest.raises(NoteError):
        witness.add_checkpoint(asked(3, 20), NOW)


@pytest.mark.usefixtures("witness")
def test_one_directory_has_one_witness(tmp_path):
    with pytest.raises(WitnessBusy):
        Witness(tmp_path / "witness", SIGNER, {})


def test_a_witness_key_is_no_log_key_and_a_key_file_is_private(tmp_path):
    assert str(WitnessKey.parse(str(SIGNER.verifier))) == str(SIGNER.verifier)
    for wrong in (LOG.vkey, "x", "a+b+c", str(SIGNER.verifier).replace("example", "exbmple")):
        with pytest.raises(NoteError):
            WitnessKey.parse(wrong)
    made = WitnessSigner.create(tmp_path / "key", "witness.example.net")
    assert str(WitnessSigner.load(tmp_path / "key").verifier) == str(made.verifier)
    with pytest.raises(FileExistsError):
        WitnessSigner.create(tmp_path / "key", "witness.example.net")
    shutil.copy(tmp_path / "key", tmp_path / "open")
    (tmp_path / "open").chmod(0o644)
    with pytest.raises(NoteError, match="chmod 600"):
        WitnessSigner.load(tmp_path / "open")


def test_a_cosignature_of_other_bytes_or_another_witness_does_not_count(witness):
    reply = witness.add_checkpoint(asked(0, 10), NOW)
    stranger = WitnessSigner("witness.example.net", b"s" * 32)
    assert cosignatures(with_lines(head(10), reply.body), [stranger.verifier]) == []
    with pytest.raises(NoteError, match="is wrong"):
        cosignatures(with_lines(head(11), reply.body), [SIGNER.verifier])
    with pytest.raises(NoteError):
        with_lines(head(10), b"another text\n\n" + reply.body)
    twice = with_lines(head(10), reply.body + reply.body)
    assert len(cosignatures(twice, [SIGNER.verifier])) == 1


# Served


async def answered(witness, *messages, patience_s=5):
    """What is sent for a body that arrives in these parts, and then not at all."""
    arriving, sent = iter(messages), []

    async def receive():
        for message in arriving:
            return {"type": "http.request", **message}
        return await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": "/add-checkpoint", "method": "POST"}
    await _Application(witness, patience_s)(scope, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"]).get(b"connection"), sent[1]["body"]


async def test_a_body_that_does_not_arrive_is_not_waited_for(witness):
    begun = {"body": b"old 0", "more_body": True}
    for messages in ((), (begun,)):
        status, connection, _ = await answered(witness, *messages, patience_s=0.01)
        assert (status, connection) == (408, b"close")
    assert witness.seen(LOG.name) is None


async def test_a_body_that_is_too_long_ends_its_connection(witness):
    status, connection, _ = await answered(witness, {"body": b"x" * 65_537, "more_body": True})
    assert (status, connection) == (413, b"close")


async def test_control_a_body_in_parts_is_answered_and_its_connection_stays(witness):
    body = asked(0, 10)
    parts = [{"body": body[:9], "more_body": True}, {"body": body[9:]}]
    status, connection, line = await answered(witness, *parts)
    assert (status, connection) == (200, None)
    assert cosignatures(with_lines(head(10), line), [SIGNER.verifier])


def test_small_servers_take_so_many_connections_at_most(monkeypatch):
    configured = []

    class Server:
        def __init__(self, configuration):
            configured.append(configuration)

        def stop(self):
            pass

        async def serve(self, sockets):
            pass

    monkeypatch.setattr(listening, "Server", Server)
    listener = listening.listener_of("127.0.0.1:8090", behind_proxy=False)
    listening.serve_until_stopped(None, listener, None, {}, json=True)
    assert [each.limit_concurrency for each in configured] == [200]


def test_of_an_answer_only_the_witnesss_own_right_line_is_kept(witness):
    own = witness.add_checkpoint(asked(0, 10), NOW).body
    stranger = WitnessSigner("honest.example.org", b"h" * 32)
    other = stranger.cosign(checkpoint_body(LOG.name, 10, root_of(LEAVES[:10])), NOW)
    bad = base64.b64encode(stranger.verifier.key_id + bytes(72)).decode()
    forged = f"— honest.example.org {bad}\n".encode()
    logs = f"— {LOG.name} {base64.b64encode(LOG.key_id + bytes(64)).decode()}\n".encode()
    for lines in (own, other + own, forged + own, own + forged, logs + own, other * 50 + own):
        assert line_of(lines, head(10), SIGNER.verifier) == own
    wrong = base64.b64encode(SIGNER.verifier.key_id + bytes(72)).decode()
    for lines in (other, logs, f"— witness.example.net {wrong}\n".encode() + own):
        with pytest.raises(NoteError):
            line_of(lines, head(10), SIGNER.verifier)
