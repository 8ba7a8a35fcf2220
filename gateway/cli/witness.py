"""``witness``: cosign other people's logs; ``audit cosign``: have one's own cosigned."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.audit.cosign import WitnessKey, WitnessSigner, cosignatures, line_of, with_lines
from gateway.audit.index import Index, Log
from gateway.audit.note import NoteError, VerifierKey, parse_checkpoint
from gateway.audit.tiles import subtree_of
from gateway.audit.tlog import Subtree, consistency_path
from gateway.audit.witness import MAX_REQUEST_BYTES, Reply, Witness, WitnessBusy, format_request
from gateway.cli.listening import BehindProxy, bound, listener_of, serve_until_stopped
from gateway.cli.search import with_index
from gateway.cli.terminal import (
    DIR,
    EXIT_NO,
    EXIT_UNAVAILABLE,
    EXIT_USAGE,
    AsJson,
    Directory,
    fail,
    say,
    show_json,
)
from gateway.egress import Egress, EgressFailed, EgressRefused
from gateway.state import StateDirectory

__all__ = ["app", "cosign"]

app = typer.Typer(
    help="A witness of other people's logs: run it elsewhere, under someone else.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

KEY_FILE = "witness.key"
_PATH = "/add-checkpoint"
_ROUNDS = 3
"""Tries to agree with a witness on what it has seen, while others push too."""
_PATIENCE_S = 10
"""A checkpoint and its proof are a few kilobytes; a body that takes longer holds a connection."""
_UNREAD = frozenset({408, 413})
"""Answers to a body that was not read to its end: its connection cannot be used again."""


# The witness


@app.command()
def serve(
    log: Annotated[
        list[str],
        typer.Option("--log", metavar="VKEY", help="A log to cosign, by its key; repeatable."),
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="The witness's name, when its key is made.")
    ] = None,
    listen: Annotated[str, typer.Option("--listen", help="HOST:PORT.")] = "127.0.0.1:8090",
    behind_proxy: BehindProxy = False,
    directory: Annotated[
        Path, typer.Option("--dir", help="The witness's own directory: its key, what it has seen.")
    ] = Path("sluicegate-witness"),
    json: AsJson = False,
) -> None:
    """Cosign logs that were only appended to.

    Speaks c2sp.org/tlog-witness. Keys are printed at the start.
    """
    logs: dict[str, list[VerifierKey]] = {}
    try:
        for text in log:
            key = VerifierKey.parse(text)
            logs.setdefault(key.name, []).append(key)
        listener = listener_of(listen, behind_proxy=behind_proxy)
    except NoteError as error:
        fail(f"--log: {error}", "give it as `audit vkeys` prints it", code=EXIT_USAGE)
    with ExitStack() as held:
        try:
            signer = _signer(directory, name)
            witness = held.enter_context(closing(Witness(directory, signer, logs)))
        except (NoteError, WitnessBusy) as error:
            fail(str(error), code=EXIT_UNAVAILABLE)
        except OSError as error:
            fail(f"{error.filename}: {error.strerror}", code=EXIT_UNAVAILABLE)
        socket = held.enter_context(closing(bound(listener)))
        port = socket.getsockname()[1]
        told = {
            "witness": f"http://{listener.host}:{port}{_PATH}",
            "vkey": str(signer.verifier),
            "logs": sorted(logs),
        }
        serve_until_stopped(_Application(witness), listener, socket, told, json=json)


def _signer(directory: Path, name: str | None) -> WitnessSigner:
    """The witness's key; made the first time."""
    path = directory / KEY_FILE
    if path.exists():
        signer = WitnessSigner.load(path)
        if name not in (None, signer.verifier.name):
            raise NoteError(f"the key in {path} is of {signer.verifier.name}")
        return signer
    if name is None:
        fail(f"there is no key in {directory}", "name the witness, by --name", code=EXIT_USAGE)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return WitnessSigner.create(path, name)


class _Application:
    """One route, raw ASGI; requests are answered one after another.

    Args:
        witness: who answers.
        patience_s: how long a request's body may take to arrive.
    """

    def __init__(self, witness: Witness, patience_s: float = _PATIENCE_S) -> None:
        self._witness, self._patience_s = witness, patience_s

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        reply = Reply(404, "text/plain", b"POST /add-checkpoint\n")
        if scope["path"] == _PATH and scope["method"] == "POST":
            reply = await self._answer(receive)
        status, kind, answer = reply
        headers = [(b"content-type", kind.encode()), (b"content-length", b"%d" % len(answer))]
        if status in _UNREAD:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def _answer(self, receive: Any) -> Reply:
        try:
            async with asyncio.timeout(self._patience_s):
                body = await _body(receive)
        except TimeoutError:
            return Reply(408, "text/plain", b"the checkpoint did not arrive in time\n")
        if body is None:
            return Reply(413, "text/plain", b"too long for a checkpoint\n")
        try:
            return self._witness.add_checkpoint(body, int(time.time()))
        except (NoteError, OSError) as error:
            print(f"sluicegate: nothing was cosigned: {error}", file=sys.stderr, flush=True)
            return Reply(500, "text/plain", b"the witness cannot keep what it has seen\n")


async def _body(receive: Any) -> bytes | None:
    """The whole body, or ``None`` for one that is too long."""
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += bytes(message.get("body", b""))
        if len(body) > MAX_REQUEST_BYTES:
            return None
        if not message.get("more_body"):
            return body


# The log's side


class _Refused(Exception):
    """A witness does not agree that the log was only appended to."""


def cosign(
    witness: Annotated[
        list[str], typer.Option("--witness", metavar="URL", help="A witness; repeatable.")
    ],
    witness_key: Annotated[
        list[str],
        typer.Option("--witness-key", metavar="VKEY", help="Its key, in the same order."),
    ],
    network: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-network", metavar="CIDR", help="A network that is not public; repeatable."
        ),
    ] = None,
    every: Annotated[
        int | None, typer.Option("--every", min=1, metavar="SECONDS", help="Go on, so often.")
    ] = None,
    directory: Directory = DIR,
    json: AsJson = False,
) -> None:
    """Have the logs' newest checkpoints cosigned by witnesses.

    What they said is kept, and `audit verify --witness-key` counts it.
    Says REFUSED where a witness has seen a log longer than this one, or another one. Without
    --every it ends: with code 1 if one refused, with 3 if one could not be asked.
    """
    state = StateDirectory(Path(directory))
    if len(witness) != len(witness_key):
        fail("each --witness needs its --witness-key", code=EXIT_USAGE)
    keys, egress = _who(witness, witness_key, network or ())
    named = list(zip(witness, keys, strict=True))
    while True:
        told = with_index(
            state,
            lambda index, logs: [
                _cosigned(state, shard, log, index, named, egress) for shard, log in logs.items()
            ],
        )
        good = all(each["witnesses"] == len(keys) for each in told)
        if json:
            show_json({"ok": good, "logs": told})
        else:
            for each in told:
                say(f"{each['shard']}: {each['said']}")
        if every is None:
            if any(each["refused"] for each in told):
                raise SystemExit(EXIT_NO)
            if not good:
                raise SystemExit(EXIT_UNAVAILABLE)
            return
        time.sleep(every)


def _who(
    urls: Sequence[str], texts: Sequence[str], networks: Sequence[str]
) -> tuple[list[WitnessKey], Egress]:
    """The witnesses' keys, and the client that may reach them; a usage error where not."""
    try:
        keys = [WitnessKey.parse(text) for text in texts]
    except NoteError as error:
        fail(f"--witness-key: {error}", "a witness prints it when it starts", code=EXIT_USAGE)
    try:
        egress = Egress(networks)
    except ValueError as error:
        fail(f"--allow-network: {error}", "write it as 10.1.0.0/16", code=EXIT_USAGE)
    for url in urls:
        try:
            egress.check_url(url)
        except EgressRefused as error:
            listed = "a network that is not public is named by --allow-network, as 127.0.0.0/8"
            fail(f"--witness {url!a}: {error}", listed, code=EXIT_USAGE)
    return keys, egress


def _cosigned(
    state: StateDirectory,
    shard: str,
    log: Log,
    index: Index,
    witnesses: Sequence[tuple[str, WitnessKey]],
    egress: Egress,
) -> dict[str, Any]:
    """Ask every witness about one log; keep the checkpoint with the lines of those who signed."""
    note, tile_of = index.head(shard)
    subtree = subtree_of(tile_of)
    size = parse_checkpoint(note, log.keys).size
    whole, troubles, refused = note, [], False
    for url, key in witnesses:
        try:
            lines = asyncio.run(_asked(egress, url, note, size, subtree))
            whole = with_lines(whole, line_of(lines, note, key))
        except (EgressFailed, EgressRefused, NoteError) as error:
            troubles.append(f"{key.name}: {error}")
        except _Refused as error:
            troubles.append(f"REFUSED by {key.name}: {error}")
            refused = True
    signed = cosignatures(whole, [key for _, key in witnesses])
    if signed:
        path = state.cosigned(shard)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        partial = path.with_name(f".{path.name}")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(whole)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    said = f"{size:,} records cosigned by {len(signed)} of {len(witnesses)}"
    return {
        "shard": shard,
        "size": size,
        "witnesses": len(signed),
        "refused": refused,
        "said": "; ".join([said, *troubles]),
    }


async def _asked(egress: Egress, url: str, note: bytes, size: int, subtree: Subtree) -> bytes:
    """A witness's signature lines.

    Raises:
        _Refused: it has seen a log that this one does not extend.
        EgressFailed, EgressRefused: it cannot be asked.
        NoteError: it does not speak the protocol.
    """
    target = url.removesuffix("/").removesuffix(_PATH) + _PATH
    try:
        old = size  # the witness says what it has, unless this is it
        for _ in range(_ROUNDS):
            proof = consistency_path(subtree, old, size)
            status, body = await egress.post(target, format_request(old, proof, note))
            if status == 200:  # noqa: PLR2004
                return body
            if status == 422:  # noqa: PLR2004
                raise _Refused("the log that it saw is not the beginning of this one: a fork")
            if status == 403:  # noqa: PLR2004
                raise _Refused("it knows another key of this log")
            if status != 409:  # noqa: PLR2004
                raise EgressFailed(f"answered {status}: {body[:200].decode(errors='replace')!a}")
            seen = body.strip()
            if not seen.isdigit() or len(seen) > 18:  # noqa: PLR2004
                raise NoteError("its answer has no size")
            if int(seen) > size:
                raise _Refused(
                    f"it has seen {int(seen):,} records, and here are {size:,}: cut back"
                )
            if int(seen) == old == size:
                raise _Refused(f"it has seen another log of {size:,} records: a fork")
            old = int(seen)
        raise EgressFailed("changed its mind too often")
    finally:
        await egress.close()
