"""``audit report access``: who could use what at one instant, from the logs and kept revisions."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from gateway.audit.export import csv_line
from gateway.cli.period import instant
from gateway.cli.progress import progress
from gateway.cli.records import safe
from gateway.cli.reporting import read_logs
from gateway.cli.sealing_keys import CANNOT_OPEN, sealing_keys
from gateway.cli.shards import explained, shards_of
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
    table,
)
from gateway.control.access_report import (
    ASSUMED,
    CANNOT_TELL,
    AccessReport,
    Assumed,
    Line,
    lets_in,
)
from gateway.control.past import Past, PastReader, PastRow
from gateway.core.clock import rfc3339_ns
from gateway.policy.findings import BundleError
from gateway.policy.kept_revisions import RevisionNotKept, kept_revision
from gateway.state import CONTROL_SHARD, StateDirectory

__all__ = ["access"]

NAMED_AT_MOST = 12
"""So many known ids are named where one is not known."""
_COLUMNS = (
    "as_of",
    "revision",
    "member",
    "organisation",
    "tiers",
    "credential",
    "model",
    "wire",
    "effect",
    "substitute",
    "reasons",
    "rules",
    "valid_until",
)


class Format(StrEnum):
    """How it is told."""

    TEXT = "text"
    CSV = "csv"


def access(
    as_of: Annotated[
        int,
        typer.Option(
            "--as-of",
            parser=instant,
            metavar="TIME",
            help="The instant: 2026-11-25T08:30:00Z, a record's own time, or 24h, 7d ago.",
            show_default=False,
        ),
    ],
    org: Annotated[str, typer.Option("--org", metavar="ID", help="Only its members.")] = "",
    member: Annotated[str, typer.Option("--member", metavar="ID", help="Only this one.")] = "",
    model: Annotated[str, typer.Option("--model", metavar="ID", help="Only this one.")] = "",
    network: Annotated[
        list[str] | None,
        typer.Option("--network", metavar="LABEL", help="Calls from this listed network."),
    ] = None,
    country: Annotated[
        str, typer.Option("--country", metavar="CC", help="Calls from this country.")
    ] = "ZZ",
    form: Annotated[Format, typer.Option("--format", help="text or csv.")] = Format.TEXT,
    directory: Directory = DIR,
    json: AsJson = False,
) -> None:
    """Tell who could use what at an instant: each member, by each credential, for each model.

    The rows of then are those sealed beside their records; the registry of now is not asked.
    """
    if as_of > time.time_ns():
        fail("--as-of is still to come", "name an instant of the past", code=EXIT_USAGE)
    if json and form is Format.CSV:
        fail("--json and --format csv say two things", "choose one", code=EXIT_USAGE)
    state = StateDirectory(Path(directory))
    assumed = _assumed(network or (), country)
    past = _past(state, as_of)
    if not past.revision:
        fail(
            f"no policy was active at {rfc3339_ns(as_of)}: nobody could use anything",
            "name a later instant with --as-of",
        )
    report = _report(state, past, assumed)
    _known("member", member, _ids(past, "member"))
    _known("organisation", org, _ids(past, "organisation"))
    _known("model", model, sorted(report.revision.catalogue))
    lines = list(report.lines(organisation=org, member=member, model=model))
    if json:
        show_json(_as_json(past, assumed, lines))
    elif form is Format.CSV:
        _show_csv(past, lines)
    else:
        _show(past, assumed, lines)
    if not any(lets_in(line) for line in lines):
        doubt = any(line.effect == CANNOT_TELL for line in lines)
        raise SystemExit(EXIT_UNAVAILABLE if doubt else EXIT_NO)


def _assumed(networks: Sequence[str], country: str) -> Assumed:
    try:
        return msgspec.convert({"networks": networks, "country": country}, Assumed)
    except msgspec.ValidationError:
        fail(
            "--network or --country is of another form",
            "a network is a label of data/networks.yaml, a country two capital letters",
            code=EXIT_USAGE,
        )


def _past(state: StateDirectory, as_of: int) -> Past:
    """What the control log says of that instant; it is read once, whole."""
    reader = PastReader(as_of)
    shards = shards_of(state)
    if CONTROL_SHARD not in shards:
        fail(
            f"there is no log {CONTROL_SHARD} in {state.audit}",
            "name the gateway's directory with --dir",
            code=EXIT_UNAVAILABLE,
        )
    with explained(), progress("reading the log") as tell:
        for shard, entries in read_logs(state, {CONTROL_SHARD: shards[CONTROL_SHARD]}, tell):
            for entry in entries:
                try:
                    reader.take(entry)
                except ValueError as error:
                    fail(
                        f"{shard}#{entry.seq}: {safe(str(error))}",
                        "a later version wrote it, or it is damaged: see `sluicegate audit verify`",
                        code=EXIT_UNAVAILABLE,
                    )
    try:
        return reader.past(sealing_keys(state))
    except CANNOT_OPEN as error:
        fail(str(error), "the rows of then are sealed; put the keys back", code=EXIT_UNAVAILABLE)


def _report(state: StateDirectory, past: Past, assumed: Assumed) -> AccessReport:
    try:
        return AccessReport(past, kept_revision(state.revisions, past.revision), assumed)
    except RevisionNotKept as error:
        fail(
            str(error),
            "it was active then, and nothing can be told without it: put its archive "
            f"there as {past.revision.removeprefix('sha256:')}.tar.gz",
            code=EXIT_UNAVAILABLE,
        )
    except BundleError as error:
        fail(f"revision {past.revision}: {error.findings[0]}", code=EXIT_UNAVAILABLE)


def _ids(past: Past, kind: str) -> list[str]:
    return [row.id for row in past.rows.values() if row.kind == kind]


def _known(what: str, name: str, names: Sequence[str]) -> None:
    if name and name not in names:
        more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
        there = ", ".join(safe(each) for each in names[:NAMED_AT_MOST]) + more
        fail(
            f"there was no {what} {ascii(name[:64])[1:-1]} at that instant",
            f"there were: {there}" if names else "there was none",
        )


def _unread(past: Past) -> list[PastRow]:
    return [row for row in past.rows.values() if row.unknown]


def _left_out(past: Past) -> list[PastRow]:
    return [row for row in past.rows.values() if row.left_out]


def _as_json(past: Past, assumed: Assumed, lines: Sequence[Line]) -> dict[str, Any]:
    return {
        "as_of": rfc3339_ns(past.at),
        "revision": past.revision,
        "activated": past.activated,
        "running": past.running,
        "assumed": [*ASSUMED],
        "networks": [*assumed.networks],
        "country": assumed.country,
        "counts": Counter(line.effect for line in lines),
        "unread": [
            {"kind": row.kind, "id": row.id, "why": row.unknown, "record": row.record}
            | {"status": row.status, "tiers": dict(row.tiers)}
            for row in _unread(past)
        ],
        "left_out": [
            {"kind": row.kind, "id": row.id, "record": row.record} for row in _left_out(past)
        ],
        "lines": [msgspec.to_builtins(line) for line in lines],
    }


def _show_csv(past: Past, lines: Sequence[Line]) -> None:
    moment = rfc3339_ns(past.at)
    say(csv_line(list(_COLUMNS)).rstrip("\r\n"))
    for line in lines:
        cells = [
            moment,
            past.revision,
            line.member,
            line.organisation,
            _tiers(line.tiers),
            line.credential,
            line.model,
            line.wire,
            line.effect,
            line.substitute,
            " ".join(each.code for each in line.reasons),
            " ".join(each.rule for each in line.reasons if each.rule),
            line.valid_until,
        ]
        say(csv_line(cells).rstrip("\r\n"))


def _show(past: Past, assumed: Assumed, lines: Sequence[Line]) -> None:
    say(f"Who could use what at {rfc3339_ns(past.at)}")
    say(f"revision   {past.revision}, active since {safe(past.activated)}")
    if not past.running:
        say("           the gateway did not run then: this is what it would have answered")
    say("assumed    " + "\n           ".join(ASSUMED))
    say(f"           network {', '.join(assumed.networks) or 'none'}, country {assumed.country}")
    say()
    heads = ("MEMBER", "ORG", "CREDENTIAL", "MODEL", "EFFECT", "VALID UNTIL", "REASON")
    rows = [
        (
            line.member or "?",
            line.organisation or "?",
            line.credential,
            line.model,
            f"{line.effect}: {line.substitute}" if line.substitute else line.effect,
            line.valid_until or "-",
            _reasons(line),
        )
        for line in lines
    ]
    say(table(heads, [[safe(cell) for cell in row] for row in rows]))
    say()
    for row in _unread(past):
        say(safe(f"unknown    {row.kind} {row.id}: {row.unknown} (tiers: {_tiers(row.tiers)})"))
    for row in _left_out(past):
        say(safe(f"left out   {row.kind} {row.id}: changed outside the gateway"))
    counts = Counter(line.effect for line in lines)
    say(", ".join(f"{effect} {count:,}" for effect, count in sorted(counts.items())) or "no line")


def _reasons(line: Line) -> str:
    told = [
        f"{each.code} ({each.rule or each.message})".replace(" ()", "") for each in line.reasons
    ]
    return ", ".join(told)


def _tiers(tiers: Any) -> str:
    return " ".join(f"{domain}={level}" for domain, level in sorted(tiers.items())) or "none"
