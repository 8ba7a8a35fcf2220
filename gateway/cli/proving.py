"""``audit verify``, ``prove``, ``check`` and ``vkeys``: the record, told to others.

These read what lies on disk, whether or not a gateway is writing it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from gateway.audit.cosign import Cosignature, WitnessKey, cosignatures
from gateway.audit.note import NoteError, VerifierKey
from gateway.audit.proof import check_proof
from gateway.audit.read import LogReader
from gateway.audit.verify import OK, Report, only_one, parse_vkey, verify_directory
from gateway.cli.shards import at, explained, shards_of
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
    warn,
)
from gateway.control.kept import kept_checkpoints
from gateway.core.clock import timestamp
from gateway.state import StateDirectory

__all__ = ["check", "prove", "verify", "vkeys"]

Position = Annotated[str, typer.Argument(metavar="SHARD#SEQ")]
Keys = Annotated[
    list[str] | None,
    typer.Option("--key", metavar="VKEY", help="A log's public key, kept elsewhere; repeatable."),
]


class Seen(NamedTuple):
    """How many records of a log witnesses have cosigned, and who."""

    size: int
    by: Sequence[Cosignature]


def verify(
    key: Keys = None,
    witness_key: Annotated[
        list[str] | None,
        typer.Option(
            "--witness-key", metavar="VKEY", help="A witness whose cosignatures count; repeatable."
        ),
    ] = None,
    own_keys: Annotated[
        bool, typer.Option("--own-keys", help="Use DIR/vkeys, from the same disk as the log.")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Also show roots and how many records of each type.")
    ] = False,
    directory: Directory = DIR,
    json: AsJson = False,
) -> None:
    """Check that every log is exactly what was signed."""
    state = StateDirectory(Path(directory))
    texts = [*(key or ()), *(state.vkeys().values() if own_keys else ())]
    try:
        keys = dict(parse_vkey(text) for text in texts)
    except ValueError as error:
        fail(f"not a key: {error}", "write it as `audit vkeys` prints it", code=EXIT_USAGE)
    try:
        witnesses = [WitnessKey.parse(text) for text in witness_key or ()]
    except NoteError as error:
        fail(f"--witness-key: {error}", "a witness prints it when it starts", code=EXIT_USAGE)
    with explained():
        notes, wrong, cosigned = _kept(state, texts, witnesses)
        try:
            sealed = state.root / "content"
            reports = verify_directory(state.audit, keys, notes, content=sealed)
        except FileNotFoundError as error:
            fail(str(error), "name the gateway's directory with --dir", code=EXIT_UNAVAILABLE)
        alone = only_one(state.audit)
    if witnesses:
        _require_witnesses(reports, cosigned)
    good = all(report.verdict == OK for report in reports) and not wrong
    source = "given" if key else "own" if own_keys else "none"
    if json:
        shards = [_as_json(report, cosigned.get(report.shard)) for report in reports]
        told = {"ok": good, "keys": source, "one_shard": bool(alone)}
        show_json({**told, "shards": shards, "kept": wrong})
    else:
        if alone:
            say(alone)
        _show_reports(reports, full=full)
        for finding in wrong:
            say(f"refused: {finding}")
        if witnesses:
            _show_cosigned(reports, cosigned, len(witnesses))
        _show_trust(state, source, pinned=good)
    if not good:
        raise SystemExit(EXIT_NO)


def _require_witnesses(reports: Sequence[Report], seen: Mapping[str, Seen]) -> None:
    for report in reports:
        if report.verdict == OK and report.shard not in seen:
            report.verdict = "as signed, but not cosigned by any witness that was named"


def _as_json(report: Report, seen: Seen | None) -> dict[str, Any]:
    by = [] if seen is None else [{"size": seen.size, **each._asdict()} for each in seen.by]
    return {**vars(report), "cosigned": by}


def _kept(
    state: StateDirectory, texts: Sequence[str], witnesses: Sequence[WitnessKey]
) -> tuple[list[bytes], list[str], dict[str, Seen]]:
    """Checkpoints kept outside the logs, what is wrong with them, and who has cosigned what.

    They are read before the logs, which may be growing. Each has to be signed by its log's own key:
    those given, and those that lie beside the logs.
    """
    keys: dict[str, list[VerifierKey]] = {}
    for text in {*texts, *state.vkeys().values()}:
        with suppress(NoteError):
            key = VerifierKey.parse(text)
            keys.setdefault(key.name.rpartition("/")[2], []).append(key)
    notes: list[bytes] = []
    wrong: list[str] = []
    seen: dict[str, Seen] = {}
    names = {*keys, *(path.name for path in (state.root / "heads").glob("*"))}
    names |= {path.name for path in (state.root / "cosigned").glob("[!.]*")}
    for shard in sorted(names):
        good, bad = kept_checkpoints(state, shard, keys.get(shard, []), warn)
        notes += [checkpoint.note for checkpoint in good]
        wrong += bad
        for checkpoint in good:
            try:
                found = cosignatures(checkpoint.note, witnesses)
            except NoteError as error:
                wrong.append(f"cosigned/{shard}: {error}")
                continue
            if found:
                seen[shard] = Seen(checkpoint.size, found)
    return notes, wrong, seen


def _show_cosigned(reports: Sequence[Report], seen: Mapping[str, Seen], count: int) -> None:
    for report in reports:
        size, by = seen.get(report.shard, Seen(0, []))
        said = ", ".join(f"{each.witness} at {timestamp(each.time)}" for each in by)
        told = f": {size} of {report.size} records, {said}" if by else ""
        say(f"{report.shard}: cosigned by {len(by)} of {count}{told}")


def _show_reports(reports: Sequence[Report], *, full: bool) -> None:
    for report in reports:
        say(f"{report.shard}: {report.verdict}")
        if not report.root:
            continue
        say(f"  {report.origin or 'unknown origin'}, {report.size} records")
        if report.content or report.pruned:
            say(f"  sealed content: {report.content} pieces as recorded, {report.pruned} pruned")
        if full:
            say(f"  root {report.root}, {report.open_intents} open intents")
            for record_type, count in sorted(report.types.items()):
                say(f"    {record_type} {count}")


def _show_trust(state: StateDirectory, source: str, *, pinned: bool) -> None:
    if source == "none":
        say(
            "No key was given, so this shows only that each log agrees with itself. Give --key with"
        )
        say("keys that you keep elsewhere (`audit vkeys` prints them), or --own-keys.")
    elif source == "own":
        say(f"The keys are those in {state.root / 'vkeys'}, on the same disk as the log: whoever")
        say("can write there can replace both. Keep copies elsewhere and give them with --key.")
    elif pinned:
        say("Every log is what these keys signed.")


def prove(
    position: Position,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Where to; SHARD-SEQ.proof here by default."),
    ] = None,
    directory: Directory = DIR,
    json: AsJson = False,
) -> None:
    """Write a proof that the log holds one record."""
    state = StateDirectory(Path(directory))
    with explained():
        found = at(shards_of(state), position)
        if found is None:
            fail(f"no record at {ascii(position[:80])[1:-1]}", "as 'audit tail' shows it: data-0#7")
        shard, entry = found
        vkey = state.vkeys().get(shard)
        if vkey is None:
            fail(f"there is no public key of {shard} in {state.root / 'vkeys'}")
        proof_file = output or Path(f"{shard}-{entry.seq}.proof")
        record_file = proof_file.with_name(proof_file.name + ".record")
        try:
            proof = LogReader(state.log(shard)).proof(entry.seq, [VerifierKey.parse(vkey)])
        except ValueError as error:  # NoteError among them
            fail(f"{shard}#{entry.seq} cannot be proved: {error}")
        proof_file.write_bytes(proof)
        record_file.write_bytes(entry.raw)
    if json:
        show_json({"proof": str(proof_file), "record": str(record_file), "vkey": vkey})
        return
    say(f"proof   {proof_file}  (c2sp.org/tlog-proof@v1)")
    say(f"record  {record_file}  (its exact bytes)")
    say("Check it, offline and with a key that you trust:")
    say(f"  sluicegate audit check {proof_file} {record_file} --key {vkey}")
    say("Any verifier of tlog proofs does the same: the leaf is SHA-256(0x00 || record).")


def check(
    proof: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    record: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    key: Annotated[
        list[str], typer.Option("--key", metavar="VKEY", help="The log's public key; repeatable.")
    ],
    json: AsJson = False,
) -> None:
    """Check a proof, offline, with the log's key."""
    try:
        keys = [VerifierKey.parse(text) for text in key]
    except NoteError as error:
        fail(f"--key: {error}", "write it as `audit vkeys` prints it", code=EXIT_USAGE)
    try:
        index, checkpoint = check_proof(proof.read_bytes(), record.read_bytes(), keys)
    except NoteError as error:
        fail(f"not proved: {error}")
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", code=EXIT_UNAVAILABLE)
    if json:
        show_json({"ok": True, "log": checkpoint.origin, "seq": index, "size": checkpoint.size})
    else:
        say(f"proved: {checkpoint.origin}#{index} of {checkpoint.size} records is this record")


def vkeys(directory: Directory = DIR, json: AsJson = False) -> None:
    """Print the logs' public keys, for whoever verifies."""
    state = StateDirectory(Path(directory))
    with explained():
        found = state.vkeys()
    if not found:
        fail(
            f"there are no keys in {state.root / 'vkeys'}",
            "name the gateway's directory with --dir",
            code=EXIT_UNAVAILABLE,
        )
    if json:
        show_json(found)
        return
    for vkey in found.values():
        say(vkey)
