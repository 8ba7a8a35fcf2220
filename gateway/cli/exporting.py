"""``audit export`` and ``verify-export``: records taken out, and checked where they arrive.

Exports read the logs themselves; an index is never asked.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import IO, Annotated

import msgspec
import typer

from gateway import __version__
from gateway.audit.export import CSV_COLUMNS, Found, csv_line, found_in, write_bundle
from gateway.audit.index import Log
from gateway.audit.ocsf import OCSF_VERSION, event
from gateway.audit.search import Query
from gateway.audit.verify import parse_vkey
from gateway.audit.verify_export import ExportReport, verify_export
from gateway.cli.period import Since, Until
from gateway.cli.progress import progress
from gateway.cli.records import safe
from gateway.cli.search import Typed, query_of
from gateway.cli.shards import explained
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
from gateway.control.record import logs_of
from gateway.core.clock import rfc3339_ns
from gateway.state import StateDirectory

__all__ = ["arriving", "check_output", "export", "verify_exported"]


class Format(StrEnum):
    """What an export is."""

    BUNDLE = "bundle"
    NDJSON = "ndjson"
    CSV = "csv"
    OCSF = "ocsf"


def export(
    typed: Typed = None,
    form: Annotated[
        Format,
        typer.Option(
            "--format",
            help="bundle: a directory that proves itself; ndjson: the exact records; csv: a table; "
            f"ocsf: events of OCSF {OCSF_VERSION}.",
        ),
    ] = Format.BUNDLE,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Where to; must not exist. A file's default is standard output."
        ),
    ] = None,
    since: Since = None,
    until: Until = None,
    directory: Directory = DIR,
    json: AsJson = False,
) -> None:
    """Take out the records that match, with their proofs.

    All of them, where nothing is asked. Filters are those of `audit search`; the logs themselves
    are read, from end to end.
    """
    state = StateDirectory(Path(directory))
    query = query_of(typed, since, until)
    if output is None and form is Format.BUNDLE:
        fail("a bundle is a directory", "say which, by -o DIR", code=EXIT_USAGE)
    if output is None and json:
        fail("--json tells what was written to a file", "say which, by -o FILE", code=EXIT_USAGE)
    if output is not None:
        check_output(state, output)
    with explained():
        logs = logs_of(state, warn)
        if form is Format.BUNDLE and output is not None:
            with arriving(output) as partial, progress("reading the logs") as tell:
                partial.mkdir(mode=0o700)
                made = rfc3339_ns(time.time_ns())
                manifest = write_bundle(
                    partial, logs, query, made=made, asked=" ".join(typed or ()), progress=tell
                )
            count = int(manifest["records"])
        else:
            count = _write_file(form, output, logs, query)
    if output is None:
        return
    if json:
        show_json({"format": form, "output": str(output), "records": count})
        return
    say(f"{count:,} records in {output}")
    if form is Format.BUNDLE:
        say("Whoever gets it checks it offline, with the logs' keys (`audit vkeys`):")
        say(f"  sluicegate audit verify-export {output} --key VKEY --key VKEY")


def check_output(state: StateDirectory, output: Path) -> None:
    """Whether something may be written there, or the end of the command."""
    if output.exists():
        fail(f"{output} is there already", "name another; nothing was written", code=EXIT_USAGE)
    if _inside(state, output):
        fail(
            f"{output} is inside {state.root}, where the gateway keeps its own files",
            "name a place outside of it; nothing was written",
            code=EXIT_USAGE,
        )


def _inside(state: StateDirectory, output: Path) -> bool:
    """Whether a path leads into the state directory, by whatever name."""
    return Path(os.path.realpath(output)).is_relative_to(os.path.realpath(state.root))


def verify_exported(
    bundle: Annotated[Path, typer.Argument(metavar="DIR", help="A bundle of `audit export`.")],
    key: Annotated[
        list[str] | None,
        typer.Option("--key", metavar="VKEY", help="A log's public key; repeatable."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Check an export, offline: every record and its proof."""
    try:
        keys = dict(parse_vkey(text) for text in key or ())
    except ValueError as error:
        fail(f"not a key: {error}", "write it as `audit vkeys` prints it", code=EXIT_USAGE)
    try:
        report = verify_export(bundle, keys)
    except ValueError as error:
        fail(f"{bundle}: {error}", "name the directory that `audit export` wrote", code=EXIT_USAGE)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", code=EXIT_UNAVAILABLE)
    good = not report.findings and report.pinned
    if json:
        show_json({"ok": good, **vars(report)})
    else:
        _show(report)
    if not good:
        raise SystemExit(EXIT_NO)


def _show(report: ExportReport) -> None:
    for finding in report.findings:
        say(f"refused: {finding if finding.isprintable() else ascii(finding)}")
    if report.findings:
        return
    say(f"{report.records:,} records, each proved against a checkpoint of its log")
    for shard, told in report.logs.items():
        if not told["records"]:
            say(f"  {shard}: none of {told['size']:,}")
            continue
        left = "nothing between them left out" if told["contiguous"] else "a selection"
        span = f"{told['first']:,} to {told['last']:,} of {told['size']:,}"
        say(f"  {shard}: {told['records']:,} records from {span}, {left}")
    asked = safe(report.asked) or "everything"
    say(f"Asked for, by the word of whoever made it: {asked}")
    if report.pinned:
        say("Every checkpoint is signed by a key that was given.")
    else:
        say(
            f"consistent, key unpinned: give the key of {', '.join(report.unpinned)} too, by --key."
        )


def _write_file(form: Format, output: Path | None, logs: dict[str, Log], query: Query) -> int:
    """One line a record; how many."""
    lines: dict[Format, Callable[[Found], bytes]] = {
        Format.NDJSON: lambda found: found.raw + b"\n",
        Format.CSV: lambda found: csv_line(
            {name: column(found) for name, column in CSV_COLUMNS.items()}
        ).encode(),
        Format.OCSF: lambda found: (
            msgspec.json.encode(
                event(found.record, product_version=__version__, intent=found.intent)
            )
            + b"\n"
        ),
    }
    head = csv_line(list(CSV_COLUMNS)).encode() if form is Format.CSV else b""
    with progress("reading the logs") as tell:
        found = found_in(logs, query, tell)
        if output is None:
            return _write(sys.stdout.buffer, head, (lines[form](each) for each in found))
        with arriving(output) as partial:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                return _write(file, head, (lines[form](each) for each in found))


def _write(file: IO[bytes], head: bytes, lines: Iterator[bytes]) -> int:
    file.write(head)
    count = 0
    for line in lines:
        file.write(line)
        count += 1
    file.flush()
    return count


@contextmanager
def arriving(output: Path) -> Iterator[Path]:
    """What is written stands under its name only when it is whole."""
    partial = output.with_name(f".{output.name}.partial-{os.getpid()}")
    try:
        yield partial
        partial.rename(output)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)
