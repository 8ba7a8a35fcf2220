"""``audit``: read, verify and prove the record. Nothing here writes into a state directory.

A log is read as it lies on disk, whether or not a gateway is writing it.
"""

from __future__ import annotations

import json as jsonlib
import queue
import shutil
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.audit.read import Entry, LogReader
from gateway.audit.seal import SealError
from gateway.audit.segments import LogCorrupt, segment_files
from gateway.cli.access import access
from gateway.cli.doctor import doctor
from gateway.cli.evidence import evidence
from gateway.cli.explaining import (
    decisions_json,
    end_explained,
    explained_decisions,
    show_decisions,
)
from gateway.cli.exporters import exporters
from gateway.cli.exporting import export, verify_exported
from gateway.cli.members import erase
from gateway.cli.proving import check, prove, verify, vkeys
from gateway.cli.publishing import publish
from gateway.cli.records import Lines, paragraph, wanted
from gateway.cli.reporting import reconcile, report
from gateway.cli.sealing_keys import CANNOT_OPEN, facts_of
from gateway.cli.search import rebuild_index, search
from gateway.cli.shards import Found, Shards, at, explained, in_time, shards_of
from gateway.cli.terminal import (
    DIR,
    AsJson,
    Directory,
    fail,
    say,
    show_json,
)
from gateway.cli.witness import cosign
from gateway.state import StateDirectory

__all__ = ["app"]

app = typer.Typer(
    help="The record: read it, verify it, prove it.", no_args_is_help=True, rich_markup_mode=None
)

NEW_SHARDS_S = 1.0
"""How often a follower looks for logs that were begun meanwhile."""


# tail


@app.command()
def tail(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more.")] = False,
    count: Annotated[int, typer.Option("-n", min=0, help="How many of the latest.")] = 20,
    record_type: Annotated[
        list[str] | None,
        typer.Option("--type", help="As access.denied, or access; repeatable. 'log' has beats."),
    ] = None,
    shard: Annotated[list[str] | None, typer.Option("--shard", help="As data-0.")] = None,
    directory: Directory = DIR,
    json: AsJson = False,
) -> None:
    """Show the latest records of all logs, one line each."""
    state = StateDirectory(Path(directory))
    types = tuple(record_type or ())
    on_terminal = sys.stdout.isatty() and not json
    lines = Lines(shutil.get_terminal_size().columns if on_terminal else None)

    def show(found: Sequence[Found]) -> None:
        for name, entry in in_time(found):
            say(entry.raw.decode() if json else lines.line(name, entry.json()))

    with explained():
        ends: dict[str, int] = {}
        logs = shards_of(state, shard or ())
        if on_terminal:
            say(lines.head())
        latest: list[Found] = []
        for name in logs:
            entries, ends[name] = _latest(state.log(name), count, types)
            latest += [(name, entry) for entry in entries]
        show(in_time(latest)[len(latest) - min(count, len(latest)) :])
        if follow:
            for batch in _news(state, ends, fixed=bool(shard)):
                show([each for each in batch if wanted(each[1].json()["type"], types)])


def _latest(directory: Path, count: int, types: tuple[str, ...]) -> tuple[list[Entry], int]:
    """The last ``count`` records asked for, and the index after the last of all.

    Reads back segment by segment, no further than it must.
    """
    reader = LogReader(directory)
    found: list[Entry] = []
    end: int | None = None
    size = 0
    for path in reversed(segment_files(directory)):
        first = int(path.stem)
        entries = reader.entries(first)
        part: deque[Entry] = deque(maxlen=count - len(found))
        for entry in islice(entries, None if end is None else end - first):
            size = max(size, entry.seq + 1)
            if wanted(entry.json()["type"], types):
                part.append(entry)
        found = [*part, *found]
        if len(found) >= count:
            break
        end = first
    return found, size


def _news(state: StateDirectory, ends: dict[str, int], *, fixed: bool) -> Iterator[list[Found]]:
    """Batches of what is appended from now on; one thread reads each log."""
    news: queue.Queue[Found | Exception] = queue.Queue()

    def watch(name: str, start: int) -> None:
        try:
            for entry in LogReader(state.log(name)).entries(start, follow=True):
                news.put((name, entry))
        except (LogCorrupt, OSError) as error:
            news.put(error)

    watched: set[str] = set()
    while True:
        for name in ends.keys() - watched:
            threading.Thread(target=watch, args=(name, ends[name]), daemon=True).start()
        watched |= ends.keys()
        with suppress(queue.Empty):
            batch = [news.get(timeout=NEW_SHARDS_S)]
            with suppress(queue.Empty):
                while True:
                    batch.append(news.get_nowait())
            yield [each for each in batch if not isinstance(each, Exception)]
            for each in batch:
                if isinstance(each, Exception):
                    raise each
        if not fixed:
            ends = dict.fromkeys(shards_of(state), 0) | ends


# show


@app.command()
def show(
    name: Annotated[
        str, typer.Argument(metavar="ID", help="Request id, decision id, or SHARD#SEQ.")
    ],
    facts: Annotated[
        bool, typer.Option("--facts", help="Open the sealed facts that were evaluated.")
    ] = False,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Make its decisions again, and show the rules of then."),
    ] = False,
    directory: Directory = DIR,
    json: AsJson = False,
) -> None:
    """Show the timeline of one call, or one record."""
    state = StateDirectory(Path(directory))
    with explained():
        timeline = _timeline(shards_of(state), name)
        if not timeline:
            fail(
                f"no record of {ascii(name[:80])[1:-1]}",
                "name a request id, a decision id, or SHARD#SEQ as 'audit tail' shows it",
            )
        opened = _open_facts(state, timeline) if facts else {}
        decisions = explained_decisions(state, timeline) if explain else {}
    if json:
        records = [{"shard": shard, "record": entry.json()} for shard, entry in timeline]
        told = {"records": records} | ({"facts": opened} if facts else {})
        show_json(told | ({"explained": decisions_json(decisions)} if explain else {}))
    else:
        _show(timeline, opened)
        show_decisions(decisions)
    end_explained(decisions)


def _show(timeline: Sequence[Found], opened: dict[str, Any]) -> None:
    for shard, entry in timeline:
        for line in paragraph(shard, entry.json()):
            say(line)
    for position, content in opened.items():
        say(f"facts of {position}")
        say(content if isinstance(content, str) else jsonlib.dumps(content, indent=2))


def _timeline(shards: Shards, name: str) -> list[Found]:
    """All records of the call that an id or a position names, in order."""
    record = at(shards, name)
    if record is not None:
        shard, entry = record
        request = entry.json().get("request_id")
        return [record] if request is None else _of_request({shard: shards[shard]}, request)
    found = _of_request(shards, name)
    if not found:
        for shard, reader in shards.items():
            for entry in reader.by_decision(name):
                found += _of_request({shard: reader}, entry.json()["request_id"])
    return found


def _of_request(shards: Shards, request_id: str) -> list[Found]:
    return in_time(
        [(name, entry) for name, each in shards.items() for entry in each.by_request(request_id)]
    )


def _open_facts(state: StateDirectory, timeline: Sequence[Found]) -> dict[str, Any]:
    """What was evaluated, or the row that a change made, by position; or why it cannot be read."""
    opened: dict[str, Any] = {}
    for shard, entry in timeline:
        if entry.sealed is None:
            continue
        try:
            opened[f"{shard}#{entry.seq}"] = jsonlib.loads(facts_of(state, entry))
        except (SealError, *CANNOT_OPEN) as error:
            opened[f"{shard}#{entry.seq}"] = f"unavailable: {error}"
    return opened


for _command in (search, verify, prove, check, vkeys, rebuild_index, reconcile):
    app.command()(_command)
app.command()(export)
app.command()(cosign)
app.command("verify-export")(verify_exported)
app.command("erase-subject")(erase)
app.command()(doctor)
app.command()(exporters)
app.command()(publish)
report.command()(access)
report.command()(evidence)
app.add_typer(report, name="report")
