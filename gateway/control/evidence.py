"""Evidence for a set of controls: which records answer which, a fair draw of them, and its index.

Pure, but for the table that lies beside this module. Of each control's records in the period at
most ``SAMPLE`` are drawn: those with the smallest SHA-256 of seed, control and place. The seed is
made of the checkpoints that the logs had signed by the end of the period, so whoever draws again
from the same logs gets the same records, and nobody can draw until the records please him.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct

from gateway.audit.search import MAX_NS, Query
from gateway.audit.terms import terms_of
from gateway.policy import strict_yaml

__all__ = [
    "SAMPLE",
    "Control",
    "ControlSet",
    "Draw",
    "Drawn",
    "Place",
    "control_sets",
    "page",
    "seed_of",
]

Json = Mapping[str, Any]

SAMPLE: Final = 25
"""Records of one control, at most."""
_TABLE: Final = "controls.yaml"


class Control(Struct, frozen=True, forbid_unknown_fields=True):
    """One control: ``asks`` are filters of a search, of which any has to fit; ``shows`` says what a
    record of it is evidence of."""

    title: str
    asks: tuple[str, ...]
    shows: str


class ControlSet(Struct, frozen=True, forbid_unknown_fields=True):
    """The controls of one framework, by their ids there."""

    title: str
    controls: dict[str, Control]


class Place(NamedTuple):
    """Where a record lies: its shard and leaf index."""

    shard: str
    seq: int


class Drawn(NamedTuple):
    """What was drawn for a control: of how many, and which, in order of place."""

    population: int
    places: tuple[Place, ...]


def control_sets() -> dict[str, ControlSet]:
    """The sets of the table, by name.

    Raises:
        BundleError, ValueError: the table is not of its shape.
    """
    text = files(__package__).joinpath(_TABLE).read_text()
    sets = msgspec.convert(strict_yaml.load(text, _TABLE).value, dict[str, ControlSet])
    for each in sets.values():
        for control in each.controls.values():
            for asked in control.asks:
                Query.parse([asked], since=0, until=MAX_NS)
    return sets


def seed_of(checkpoints: Mapping[str, bytes]) -> str:
    """SHA-256 (hex) of the signed notes by shard, in the order of their names."""
    return sha256(b"".join(checkpoints[shard] for shard in sorted(checkpoints))).hexdigest()


class Draw:
    """Takes every record of the period, in any order.

    Args:
        controls: what is asked.
        seed: from ``seed_of``.
        most: how many are drawn for each control.
    """

    def __init__(self, controls: ControlSet, seed: str, most: int = SAMPLE) -> None:
        self._seed, self._most = seed, most
        self._asked = {
            name: frozenset(tuple(each.split("=", 1)) for each in control.asks)
            for name, control in controls.controls.items()
        }
        self._counts = dict.fromkeys(self._asked, 0)
        self._heaps: dict[str, list[tuple[int, Place]]] = {name: [] for name in self._asked}

    def take(self, shard: str, seq: int, record: Json, intent: Json | None) -> None:
        """Look at a record; ``intent`` is the one that an outcome ends."""
        terms = frozenset(terms_of(record, intent))
        for name, asked in self._asked.items():
            if asked & terms:
                self._counts[name] += 1
                rank = sha256(f"{self._seed}\n{name}\n{shard}#{seq}".encode()).digest()
                entry = (-int.from_bytes(rank), Place(shard, seq))
                if len(self._heaps[name]) < self._most:
                    heapq.heappush(self._heaps[name], entry)
                else:
                    heapq.heappushpop(self._heaps[name], entry)

    def drawn(self) -> dict[str, Drawn]:
        """By control."""
        return {
            name: Drawn(count, tuple(sorted(place for _, place in self._heaps[name])))
            for name, count in self._counts.items()
        }


def page(
    controls: ControlSet,
    drawn: Mapping[str, Drawn],
    told: Mapping[Place, Sequence[str]],
    about: Iterable[tuple[str, str]],
) -> str:
    """The index as one page of HTML, without a script, a style sheet or an address.

    Args:
        controls: the set.
        drawn: what was drawn.
        told: of each record that was: its line in ``records.ndjson``, time, type, and in words.
        about: heads and values, as the period and the seed.
    """
    lines = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f"<title>Evidence: {_text(controls.title)}</title></head><body>",
        f"<h1>Evidence: {_text(controls.title)}</h1>",
        "<dl>",
        *(f"<dt>{_text(head)}</dt><dd>{_text(value)}</dd>" for head, value in about),
        "</dl>",
    ]
    for name, control in controls.controls.items():
        found = drawn[name]
        lines += [
            f"<h2>{_text(name)} {_text(control.title)}</h2>",
            f"<p>{_text(control.shows)}.</p>",
            f"<p>{_text(' or '.join(control.asks))}: {found.population} in the period, ",
            f"{len(found.places)} drawn.</p>",
        ]
        if found.places:
            heads = ("record", "line", "time", "type", "")
            lines += [
                "<table><thead><tr>",
                *(f'<th scope="col">{head}</th>' for head in heads),
                "</tr></thead><tbody>",
                *(_row(place, told[place]) for place in found.places),
                "</tbody></table>",
            ]
    return "\n".join([*lines, "</body></html>", ""])


def _row(place: Place, cells: Sequence[str]) -> str:
    shown = "".join(f"<td>{_text(cell)}</td>" for cell in (f"{place.shard}#{place.seq}", *cells))
    return f"<tr>{shown}</tr>"


def _text(text: str) -> str:
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return escape(shown)
