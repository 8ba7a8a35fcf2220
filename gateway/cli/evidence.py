"""``audit report evidence``: records drawn for each control, as a bundle that proves itself."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.audit.export import Found, csv_line, found_in, write_bundle
from gateway.audit.index import Log
from gateway.audit.note import NoteError, parse_checkpoint
from gateway.audit.read import LogReader
from gateway.audit.search import Query
from gateway.audit.tlog import leaf_hash
from gateway.cli.exporting import arriving, check_output
from gateway.cli.period import instant
from gateway.cli.progress import progress
from gateway.cli.records import Lines
from gateway.cli.shards import explained
from gateway.cli.terminal import (
    DIR,
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
from gateway.control.evidence import (
    SAMPLE,
    ControlSet,
    Draw,
    Drawn,
    Place,
    control_sets,
    page,
    seed_of,
)
from gateway.control.record import logs_of
from gateway.core.clock import rfc3339_ns
from gateway.state import StateDirectory

__all__ = ["evidence"]

_COLUMNS = (
    "control",
    "title",
    "population",
    "drawn",
    "log",
    "seq",
    "line",
    "time",
    "type",
    "shows",
    "leaf_sha256",
)


def evidence(
    since: Annotated[
        int,
        typer.Option(
            "--since", parser=instant, metavar="TIME", help="The period's beginning, as 2026-10-01."
        ),
    ],
    until: Annotated[
        int,
        typer.Option(
            "--until", parser=instant, metavar="TIME", help="Its end, which is not part of it."
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Where to; must not exist.")
    ],
    controls: Annotated[
        str, typer.Option("--set", metavar="NAME", help="nist-800-53, soc2 or iso-27001.")
    ] = "nist-800-53",
    directory: Directory = DIR,
    json: AsJson = False,
) -> None:
    """Draw records that answer each control of a set, with their proofs and an index page.

    The draw depends on nothing but the logs and the period: drawn again, it is the same.
    """
    state = StateDirectory(Path(directory))
    sets = control_sets()
    if controls not in sets:
        fail(
            f"there is no set {ascii(controls[:40])[1:-1]}",
            f"there are: {', '.join(sets)}",
            code=EXIT_USAGE,
        )
    if since >= until:
        fail("--since is not before --until", "change one of them", code=EXIT_USAGE)
    if until > time.time_ns():
        fail(
            "the period is not over: what is drawn would change with what comes",
            "end it by now",
            code=EXIT_USAGE,
        )
    check_output(state, output)
    with explained():
        logs = logs_of(state, warn)
        notes = _checkpoints(logs, until)
        seed = seed_of(notes)
        pack = _Pack(sets[controls], seed, notes)
        query = Query(since=since, until=until)
        with progress("drawing records") as tell:
            for found in found_in(logs, query, tell):
                pack.draw.take(found.shard, found.seq, found.record, found.intent)
        pack.settle()
        with arriving(output) as partial, progress("writing them") as tell:
            partial.mkdir(mode=0o700)
            about = [
                ("period", f"{rfc3339_ns(since)} until {rfc3339_ns(until)}"),
                ("seed", f"SHA-256 of the checkpoints in seed/: {seed}"),
                ("drawn", f"at most {SAMPLE} of each control, by hash of seed, control and place"),
            ]
            write_bundle(
                partial,
                logs,
                query,
                made=rfc3339_ns(time.time_ns()),
                asked=f"evidence for {controls}: at most {SAMPLE} of each, by seed {seed}",
                progress=tell,
                wanted=pack.wanted,
                beside=lambda: pack.files(about),
            )
    _tell(pack, controls, output, json=json)


class _Pack:
    """What is drawn, and what its index says of it."""

    def __init__(self, controls: ControlSet, seed: str, notes: Mapping[str, bytes]) -> None:
        self.controls, self.seed, self.notes = controls, seed, notes
        self.draw = Draw(controls, seed)
        self.drawn: dict[str, Drawn] = {}
        self.places: set[Place] = set()
        self._told: dict[Place, list[str]] = {}
        self._leaves: dict[Place, str] = {}
        self._lines = Lines()

    def settle(self) -> None:
        """Nothing more will be looked at."""
        self.drawn = self.draw.drawn()
        self.places = {place for each in self.drawn.values() for place in each.places}

    def wanted(self, found: Found) -> bool:
        """Whether a record was drawn; it is described as it passes."""
        place = Place(found.shard, found.seq)
        if place not in self.places:
            return False
        if found.intent is not None:
            self._lines.line(found.shard, found.intent)  # so that the outcome names its caller
        words = " ".join(self._lines.line(found.shard, found.record).split()[3:])
        record = found.record
        number = str(len(self._told) + 1)
        self._told[place] = [number, str(record["time"]), str(record["type"]), words]
        self._leaves[place] = leaf_hash(found.raw).hex()
        return True

    def files(self, about: Sequence[tuple[str, str]]) -> dict[str, bytes]:
        """The index as a page and as a table, and the checkpoints that the seed is made of."""
        return {
            "index.html": page(self.controls, self.drawn, self._told, about).encode(),
            "controls.csv": "".join(self._table()).encode(),
            **{f"seed/{shard}": note for shard, note in self.notes.items()},
        }

    def _table(self) -> list[str]:
        lines = [csv_line(list(_COLUMNS))]
        for name, control in self.controls.controls.items():
            found = self.drawn[name]
            head = [name, control.title, str(found.population), str(len(found.places))]
            for place in found.places:
                number, moment, kind, words = self._told[place]
                where = [place.shard, str(place.seq), number, moment, kind, words]
                lines.append(csv_line([*head, *where, self._leaves[place]]))
            if not found.places:
                lines.append(csv_line([*head, *[""] * (len(_COLUMNS) - len(head))]))
        return lines


def _checkpoints(logs: Mapping[str, Log], until: int) -> dict[str, bytes]:
    """Of each log the last checkpoint that it signed within the period or before it."""
    notes = {}
    for shard, log in logs.items():
        for batch in LogReader(log.directory).batches():
            if int(batch.entries[-1].json()["hlc"]) >= until:
                break
            notes[shard] = batch.checkpoint
        try:
            if shard in notes:
                parse_checkpoint(notes[shard], log.keys)
        except NoteError as error:
            fail(f"{shard}: {error}", "see `sluicegate audit verify`", code=EXIT_UNAVAILABLE)
    if not notes:
        fail("no log had begun by the end of the period", "name a later one")
    return notes


def _tell(pack: _Pack, controls: str, output: Path, *, json: bool) -> None:
    if json:
        drawn: dict[str, Any] = {
            name: {
                "population": found.population,
                "records": [f"{place.shard}#{place.seq}" for place in found.places],
            }
            for name, found in pack.drawn.items()
        }
        records = len(pack.places)
        head = {"set": controls, "seed": pack.seed, "output": str(output), "records": records}
        show_json(head | {"controls": drawn})
        return
    rows = [
        (name, pack.controls.controls[name].title, f"{found.population:,}", len(found.places))
        for name, found in pack.drawn.items()
    ]
    say(table(("CONTROL", "", "RECORDS", "DRAWN"), rows))
    say()
    say(f"{len(pack.places):,} records in {output}; begin with index.html")
    say(f"seed  {pack.seed}")
    say("Whoever gets it checks it offline, with the logs' keys (`audit vkeys`):")
    say(f"  sluicegate audit verify-export {output} --key VKEY --key VKEY")
