"""``audit reconcile`` and ``audit report``: the record, summed up for whoever reviews it.

The logs themselves are read, from end to end; an index is never asked.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import fields
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.audit.completeness import Notice, ShardReport, logs_missing, shard_report
from gateway.audit.index import Log
from gateway.audit.note import Checkpoint, NoteError, VerifierKey
from gateway.audit.provider_usage import COLUMNS, MAX_LINE, Row, UsageRefused, read_usage
from gateway.audit.read import Entry, Position
from gateway.audit.reconcile import Finding, Kind, Reconciliation, call_of, reconciled
from gateway.audit.records import AccessIntent, AccessOutcome
from gateway.audit.segments import segment_files
from gateway.cli.period import Since, Until
from gateway.cli.progress import progress
from gateway.cli.records import safe
from gateway.cli.shards import Shards, explained, shards_of
from gateway.cli.terminal import (
    CONFIGURATION,
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
    warn,
)
from gateway.control.kept import kept_checkpoints
from gateway.core.clock import rfc3339_ns
from gateway.settings import Audit, ConfigurationError, load
from gateway.state import StateDirectory

__all__ = ["read_logs", "reconcile", "report"]

report = typer.Typer(
    help="The record, summed up for reviewers.", no_args_is_help=True, rich_markup_mode=None
)

_SIDES = {
    Kind.NOT_IN_LOG: "the provider has these calls, and no record tells of them",
    Kind.DIFFERS: "the report says one thing of these calls, and the log another",
    Kind.TWICE: "these request ids stand more than once on one side",
    Kind.NOT_IN_REPORT: "the endpoint answered these calls, and the provider does not tell of them",
}
_SECONDS = 19
"""Characters of an RFC 3339 time up to the seconds."""

Tell = Callable[[int, int], None]


# reconcile


def reconcile(
    provider_usage: Annotated[
        Path,
        typer.Option(
            "--provider-usage",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="The provider's own report, a line a call: CSV with a header, or NDJSON.",
        ),
    ],
    since: Since = None,
    until: Until = None,
    endpoint: Annotated[
        str,
        typer.Option(
            "--endpoint",
            metavar="NAME",
            help="The endpoint that the report is of.",
            show_default=False,
        ),
    ] = "",
    column: Annotated[
        list[str] | None,
        typer.Option(
            "--column",
            metavar="NAME=THEIRS",
            help=f"The report's name for a column; repeatable. Names: {', '.join(COLUMNS)}.",
        ),
    ] = None,
    directory: Directory = DIR,
    json: AsJson = False,
) -> None:
    """Hold a provider's usage report against the logs.

    Names the calls that either side lacks, or on which they differ. Calls are joined on the
    endpoint's request id; the period is that of the report by default.
    """
    state = StateDirectory(Path(directory))
    _in_order(since, until)
    rows = _rows(provider_usage, _columns(column or ()))
    with explained(), progress("reading the logs") as tell:
        found = reconciled(
            rows,
            _calls(state, tell),
            since=since,
            until=until,
            endpoint=endpoint,
        )
    if endpoint and endpoint not in found.endpoints:
        there = ", ".join(safe(name) for name in sorted(found.endpoints) if name)
        fail(
            f"no call to {ascii(endpoint)[1:-1]} has ended in the logs",
            f"there are: {there}" if there else "nor to another endpoint",
            code=EXIT_USAGE,
        )
    if json:
        show_json(_reconciliation_json(found))
    else:
        _show_reconciliation(found, asked=endpoint, own=since is None or until is None)
    if not found.agree:
        raise SystemExit(EXIT_NO)


def _columns(typed: Sequence[str]) -> dict[str, str]:
    columns = {}
    for each in typed:
        name, equals, theirs = each.partition("=")
        if name not in COLUMNS or not equals or not theirs:
            fail(
                f"--column {ascii(each[:60])[1:-1]} names no column",
                f"write NAME=THEIRS; names are {', '.join(COLUMNS)}",
                code=EXIT_USAGE,
            )
        columns[name] = theirs
    return columns


def _rows(path: Path, columns: dict[str, str]) -> list[Row]:
    try:
        with path.open("rb") as file:
            return read_usage(iter(lambda: file.readline(MAX_LINE + 1), b""), columns)
    except UsageRefused as error:
        more = f"\nand {error.more} more" if error.more else ""
        fail(
            f"{path} cannot be read as a report; nothing was compared",
            "\n  ".join(error.problems) + more.replace("\n", "\n  "),
            code=EXIT_USAGE,
        )
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", code=EXIT_UNAVAILABLE)


def _calls(state: StateDirectory, tell: Tell) -> Iterator[tuple[str, AccessIntent | AccessOutcome]]:
    for shard, entries in read_logs(state, shards_of(state), tell):
        for entry in entries:
            try:
                call = call_of(entry.raw)
            except ValueError as error:
                fail(
                    f"{shard}#{entry.seq}: {safe(str(error))}",
                    "a later version wrote it, or it is damaged: see `sluicegate audit verify`",
                    code=EXIT_UNAVAILABLE,
                )
            if call is not None:
                yield shard, call


def read_logs(
    state: StateDirectory, shards: Shards, tell: Tell
) -> Iterator[tuple[str, Iterator[Entry]]]:
    """Each log and its records, to be read before the next log is asked for.

    A log of which less can be read than there was, by a checkpoint that is kept, is damaged.
    """
    vkeys = state.vkeys()
    sizes = {
        shard: {path.name: path.stat().st_size for path in segment_files(state.log(shard))}
        for shard in shards
    }
    total = sum(sum(each.values()) for each in sizes.values())
    before = 0

    def entries(shard: str) -> Iterator[Entry]:
        end: Position | None = None
        kept = _kept(state, shard, vkeys.get(shard, ""))
        for batch in shards[shard].batches():
            yield from batch.entries
            end = batch.end
            done = sum(size for name, size in sizes[shard].items() if name < batch.end.segment)
            tell(min(before + done + batch.end.offset, total), total)
        Log(state.log(shard), (), kept).check_length(end)

    for shard in shards:
        yield shard, entries(shard)
        before += sum(sizes[shard].values())


def _kept(state: StateDirectory, shard: str, vkey: str) -> list[Checkpoint]:
    """What is kept of a log outside it; what is wrong with that is told by `audit verify`."""
    try:
        return kept_checkpoints(state, shard, [VerifierKey.parse(vkey)], warn)[0]
    except NoteError:
        return []  # a key that is missing or malformed is a finding of its own


def _reconciliation_json(found: Reconciliation) -> dict[str, Any]:
    return {
        "agree": found.agree,
        **_fields(found),
        "since": _moment(found.since) or None,
        "until": _moment(found.until) or None,
        "found": _counts(found),
        "findings": [_fields(finding) for finding in found.findings],
    }


def _counts(found: Reconciliation) -> dict[str, int]:
    counts = Counter(finding.kind for finding in found.findings)
    counts[Kind.NOT_IN_REPORT] += found.unnamed
    return {kind: counts[kind] for kind in Kind}


def _show_reconciliation(found: Reconciliation, *, asked: str, own: bool) -> None:
    """On one page.

    Args:
        found: what was found.
        asked: the endpoint that the report is of, if it was named.
        own: whether the period is, at one end or both, that of the report's own times.
    """
    for kind, findings in groupby(found.findings, key=lambda finding: finding.kind):
        say(f"{kind.upper()}: {_counts(found)[kind]:,} ({_SIDES[kind]})")
        rows = [_cells(finding) for finding in findings]
        say(table(("REQUEST ID", "WHERE", "TIME", "MODEL", "TOKENS", "STATUS", ""), rows))
        say()
    if found.unnamed:
        say(f"{found.unnamed:,} more calls are not in the report, and are not named here.")
    say(f"period     {_moment(found.since) or 'the beginning'} to {_moment(found.until) or 'now'}")
    if own:
        say("           by the report's own times where none was given: what is missing at its")
        say("           beginning or end is not missed; give its period by --since and --until")
    say(f"report     {found.rows:,} rows, {found.rows_outside:,} outside the period")
    say(f"log        {found.outcomes:,} calls, {found.outcomes_outside:,} outside the period")
    say(f"joined     {found.joined:,}, the tokens of {found.uncompared:,} not known on both sides")
    say(
        f"no id      {found.unjoinable:,} calls cannot be joined: they ended without the "
        f"endpoint's request id ({found.unjoinable_answered:,} answered with tokens)"
    )
    say(f"no tokens  {found.without_tokens:,} calls are not in the report, and need not be")
    say(f"running    {found.running:,} calls without an outcome yet")
    if not asked and len(found.endpoints) > 1:
        names = ", ".join(safe(name) or "none" for name in sorted(found.endpoints))
        say(f"The log has calls to {names}: if the report is of one of them, say --endpoint.")
    apart = found.unjoinable + found.running
    if apart and _counts(found)[Kind.NOT_IN_LOG]:
        say(f"Of the calls not in the log {apart:,} may be those without an id, or running.")
    if not found.agree:
        say("They do not agree.")
    elif found.joined:
        say("Both agree.")
    else:
        say("Nothing was compared: no call lies in the period that could be joined.")


def _cells(finding: Finding) -> list[str]:
    where = [f"line {line}" for line in finding.lines] + list(finding.records)
    tokens = [
        "?" if count is None else str(count)
        for count in (finding.input_tokens, finding.output_tokens)
    ]
    differs = [
        f"{name}: report {theirs}, log {ours}"
        for name, (theirs, ours) in finding.differences.items()
    ]
    cells = (
        finding.id,
        ", ".join(where),
        _to_seconds(finding.time),
        finding.model or "-",
        f"{tokens[0]} in, {tokens[1]} out",
        finding.status or "-",
        "; ".join(differs),
    )
    return [safe(cell) for cell in cells]


# report completeness


@report.command()
def completeness(
    since: Since = None,
    until: Until = None,
    heartbeat: Annotated[
        float | None,
        typer.Option(
            "--heartbeat",
            metavar="SECONDS",
            min=0.001,
            help="The gateway's heartbeat interval; by default that of the sluicegate.yaml here, "
            "else 5.",
            show_default=False,
        ),
    ] = None,
    directory: Directory = DIR,
    json: AsJson = False,
) -> None:
    """Tell whether the logs leave out anything: gaps, silences, calls without an end.

    Whether they are what was signed is told by `audit verify`.
    """
    state = StateDirectory(Path(directory))
    _in_order(since, until)
    interval = _heartbeat_s(state) if heartbeat is None else heartbeat
    with explained(), progress("reading the logs") as tell:
        shards, vkeys = shards_of(state), state.vkeys()
        reports = [
            shard_report(
                shard,
                (entry.raw for entry in entries),
                heartbeat_s=interval,
                vkey=vkeys.get(shard, ""),
                since=since,
                until=until,
                now=time.time_ns(),
            )
            for shard, entries in read_logs(state, shards, tell)
        ]
        findings = logs_missing(shards, vkeys)
    findings += [finding for each in reports for finding in each.findings]
    period = {"since": _moment(since) or None, "until": _moment(until) or None}
    if json:
        shown = [_shard_json(each) for each in reports]
        named = [finding._asdict() for finding in findings]
        some = any(each.records for each in reports)
        head = {"complete": some and not findings, "heartbeat_s": interval}
        show_json({**head, **period, "shards": shown, "findings": named})
    else:
        say(f"Completeness of {state.audit}")
        say(f"from {period['since'] or 'the beginning'} to {period['until'] or 'now'}")
        say(f"heartbeat every {interval:g} s")
        _show_completeness(reports, findings)
    if findings or not any(each.records for each in reports):
        raise SystemExit(EXIT_NO)


def _heartbeat_s(state: StateDirectory) -> float:
    """That of the configuration which lies here, if it is this directory's; else the default."""
    here = Path(CONFIGURATION)
    if here.is_file():
        with suppress(ConfigurationError):
            settings = load(here, dev=True, demo=True, provider_keys=False)
            if settings.state_dir.absolute() == state.root:
                return settings.audit.heartbeat_s
    return Audit().heartbeat_s


def _shard_json(each: ShardReport) -> dict[str, Any]:
    return {
        "complete": each.complete,
        **_fields(each),
        "findings": [finding._asdict() for finding in each.findings],
        "events": [event._asdict() for event in each.events],
    }


def _show_completeness(reports: Sequence[ShardReport], findings: Sequence[Notice]) -> None:
    heads = ("LOG", "RECORDS", "FIRST", "LAST", "STARTS", "CLEAN", "STATE", "RUNNING", "FINDINGS")
    rows = [
        (
            each.shard,
            f"{each.records:,}",
            _to_seconds(each.first_time),
            _to_seconds(each.last_time),
            each.opens,
            each.clean_opens,
            "closed" if each.closed else "open",
            each.running,
            len(each.findings) + each.unnamed,
        )
        for each in reports
    ]
    say()
    say(table(heads, rows))
    _show_totals("TYPE", [each.types for each in reports])
    _show_totals("EFFECT", [each.effects for each in reports])
    _show_notices("NOTED", [event for each in reports for event in each.events])
    unnamed = sum(each.unnamed_events for each in reports)
    if unnamed:
        say(f"and {unnamed:,} more events, which are not named here")
    _show_notices("FINDING", findings)
    unnamed = sum(each.unnamed for each in reports)
    if unnamed:
        say(f"and {unnamed:,} more findings, which are not named here")
    say()
    if not any(each.records for each in reports):
        say("No record lies in this period: nothing is said of it.")
    elif not findings:
        say("Complete: no index is missing, every call has one end, and no log fell silent.")
    else:
        say(f"Not complete; findings: {len(findings) + unnamed:,}.")
    say("Whether the logs are what was signed is told by `audit verify`.")


def _show_totals(head: str, counts: Sequence[Counter[str]]) -> None:
    total = sum(counts, Counter[str]())
    if total:
        say()
        say(table((head, "RECORDS"), [(safe(name), f"{total[name]:,}") for name in sorted(total)]))


def _show_notices(head: str, notices: Sequence[Notice]) -> None:
    rows = [
        (
            notice.kind,
            safe(f"{notice.shard}#{notice.seq}" if notice.seq >= 0 else notice.shard),
            _to_seconds(notice.time),
            safe(notice.what),
        )
        for notice in notices
    ]
    if rows:
        say()
        say(table((head, "WHERE", "TIME", "WHAT"), rows))


def _fields(value: Reconciliation | Finding | ShardReport) -> dict[str, Any]:
    """As they are: ``dataclasses.asdict`` cannot copy a ``Counter``."""
    return {each.name: getattr(value, each.name) for each in fields(value)}


def _in_order(since: int | None, until: int | None) -> None:
    if since is not None and until is not None and since >= until:
        fail("--until is not after --since", "no call lies in such a period", code=EXIT_USAGE)


def _moment(nanoseconds: int | None) -> str:
    return "" if nanoseconds is None else rfc3339_ns(nanoseconds)


def _to_seconds(moment: str) -> str:
    return f"{safe(moment[:_SECONDS])}Z" if moment else "-"
