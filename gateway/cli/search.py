"""``audit search`` and ``rebuild-index``: finding records, each proved before it is shown."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from gateway.audit.index import COUNTED, Index, Log
from gateway.audit.search import MAX_NS, Count, Hit, Query, Search
from gateway.audit.terms import DIMENSIONS
from gateway.cli.period import Since, Until
from gateway.cli.progress import progress
from gateway.cli.records import Lines
from gateway.cli.shards import explained
from gateway.cli.terminal import (
    DIR,
    EXIT_NO,
    EXIT_USAGE,
    AsJson,
    Directory,
    fail,
    say,
    show_json,
    table,
    warn,
)
from gateway.control.record import consult, forget_index, index_of, logs_of
from gateway.state import StateDirectory

__all__ = ["Typed", "asked", "query_of", "rebuild_index", "search", "with_index"]

Answer = TypeVar("Answer")
Typed = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[FILTER=VALUE | WORD]...",
        help="As effect=deny model=mythos-5; the same filter twice means either. "
        f"Filters: id, text, {', '.join(DIMENSIONS)}.",
        show_default=False,
    ),
]
_PAGE = 20
_BAR = 24
_FIRST_PAGE = 1_000_000_000_000_000_000
"""A page goes on at a record's clock in nanoseconds; all of this century are larger."""


def search(
    typed: Typed = None,
    since: Since = None,
    until: Until = None,
    by: Annotated[
        str | None,
        typer.Option("--by", metavar="FILTER", help=f"Count instead: by {', '.join(COUNTED)}."),
    ] = None,
    limit: Annotated[int, typer.Option("-n", min=1, max=1000, help="How many.")] = _PAGE,
    page: Annotated[
        int | None, typer.Option("--page", min=1, help="Go on where the last page says.")
    ] = None,
    directory: Directory = DIR,
    json: AsJson = False,
) -> None:
    """Find records, latest first, each proved before it is shown.

    Looks in an index that is made from the logs and brought up to date first; every hit is read
    again in its log.
    """
    state = StateDirectory(Path(directory))
    query = query_of(typed, since, until)
    if page is not None and (by is not None or page < _FIRST_PAGE):
        fail(
            f"--page {page} is not where a page of records ended",
            "a page of records says at its end how to go on",
            code=EXIT_USAGE,
        )
    if by is not None and by not in COUNTED:
        fail(f"cannot count by {by!r}", f"there are: {', '.join(COUNTED)}", code=EXIT_USAGE)
    if by is not None:
        try:
            counts = asked(state, lambda search: search.counts(by, query, top=limit))
        except ValueError as error:
            fail(str(error), code=EXIT_USAGE)
        _show_counts(by, counts, json=json)
        found = bool(counts)
    else:
        before = MAX_NS if page is None else page
        hits = asked(state, lambda search: search.hits(query, before=before, limit=limit + 1))
        _show_hits(hits[:limit], more=len(hits) > limit, json=json)
        found = bool(hits)
    if not found:
        for dimension, value, there in asked(state, lambda search: _strange(search, query)):
            warn(f"no record has {dimension}={value}", f"there are: {', '.join(there) or 'none'}")
        raise SystemExit(EXIT_NO)


def _strange(search: Search, query: Query) -> list[tuple[str, str, list[str]]]:
    """Filters that nothing can match, and what could stand there."""
    return [(*term, search.known(term[0])) for term in search.unknown(query)]


def rebuild_index(directory: Directory = DIR, json: AsJson = False) -> None:
    """Make the index anew, from the logs alone."""
    state = StateDirectory(Path(directory))
    with explained():
        logs = logs_of(state, warn)
        begun = time.monotonic()
        forget_index(state)
        with progress("reading the logs") as tell, index_of(state, logs, tell) as index:
            sizes = index.sizes()
        seconds = time.monotonic() - begun
        size = state.index.stat().st_size
    if json:
        show_json({"index": str(state.index), "records": sizes, "bytes": size})
        return
    records = sum(sizes.values())
    say(f"{records:,} records of {', '.join(sorted(sizes))} in {seconds:.1f} s, {size:,} bytes")
    say(f"index  {state.index}")


def query_of(typed: Sequence[str] | None, since: int | None, until: int | None) -> Query:
    """What is asked for, or the end of the command."""
    if since is not None and until is not None and since >= until:
        fail("--since is not before --until", "change one of them", code=EXIT_USAGE)
    try:
        return Query.parse(typed or (), since=since, until=until)
    except ValueError as error:
        fail(str(error), "as: sluicegate audit search effect=deny subject=red", code=EXIT_USAGE)


def asked(state: StateDirectory, question: Callable[[Search], Answer]) -> Answer:
    """The answer of a search.

    Raises:
        ValueError: the question cannot be answered.
    """
    return with_index(state, lambda index, logs: question(Search(index, logs)))


def with_index(
    state: StateDirectory, question: Callable[[Index, dict[str, Log]], Answer]
) -> Answer:
    """The answer of an index that is up to date; one that is damaged is made anew, once."""
    with explained(), progress("reading the logs") as tell:
        return consult(state, question, tell=tell, warn=warn)


def _show_hits(hits: Sequence[Hit], *, more: bool, json: bool) -> None:
    following = hits[-1].id if more else None
    heads = {hit.shard: hit.checkpoint for hit in hits}
    if json:
        found = [{"shard": hit.shard, "seq": hit.seq, "record": hit.json()} for hit in hits]
        proved = {
            shard: {"size": head.size, "root": head.root.hex()} for shard, head in heads.items()
        }
        show_json({"records": found, "next": following, "checkpoints": proved})
        return
    if not hits:
        say("nothing matches")
        return
    lines = Lines(shutil.get_terminal_size().columns if sys.stdout.isatty() else None)
    say(lines.head())
    for hit in hits:
        if hit.intent is not None:
            lines.line(hit.shard, hit.intent)  # so that the outcome's line names its caller
        say(lines.line(hit.shard, hit.json()))
    sizes = ", ".join(f"{shard} of {head.size:,}" for shard, head in sorted(heads.items()))
    say(f"Proved just now against the signed checkpoints of {sizes} records (keys in DIR/vkeys).")
    if following is not None:
        say(f"More: the same with --page {following}")


def _show_counts(dimension: str, counts: Sequence[Count], *, json: bool) -> None:
    if json:
        show_json({"by": dimension, "counts": [count._asdict() for count in counts]})
        return
    if not counts:
        say("nothing matches")
        return
    most = counts[0].calls
    rows = [
        (
            count.value if count.value.isprintable() else ascii(count.value),
            f"{count.calls:,}",
            "█" * max(1, round(_BAR * count.calls / most)),
            ", ".join(f"{effect} {calls:,}" for effect, calls in count.effects.items()),
        )
        for count in counts
    ]
    say(table((dimension.upper(), "CALLS", "", "EFFECTS"), rows))
    say("Counted by the index, which is derived: `audit rebuild-index` makes it anew.")
