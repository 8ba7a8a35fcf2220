"""What the registry's command groups do alike: ask for a change, list, show, suspend and resume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from gateway.cli.control import reach
from gateway.cli.entities import Json, found, public, show_entity, show_outcome
from gateway.cli.options import Actor, Configuration, Id, Many, Reason, author
from gateway.cli.terminal import DIR, AsJson, Directory, say, show_json, table
from gateway.registry.changes import Change, Move, Set, Verb
from gateway.registry.rows import Kind

__all__ = [
    "FINAL",
    "HOLD",
    "RELEASE",
    "RESUME",
    "SUSPEND",
    "Asked",
    "given",
    "group",
    "register_move",
    "register_show",
    "rows",
    "setting",
    "show_list",
]

SUSPEND = "Take access away until resumed; running streams end."
RESUME = "Give back what was suspended."
HOLD = "Nothing of his may be erased until released (legal hold)."
RELEASE = "End a legal hold."
FINAL = "Take access away for good; running streams end."

EMPTY: dict[str, Any] = {
    "licences": [],
    "agreements": [],
    "roles": [],
    "purposes": [],
    "vetting": [],
    "nationalities": [],
    "residence": "ZZ",
    "external_id": None,
    "scopes": [],
    "engagement": None,
}
"""What ``--clear`` makes of a field."""


def group(words: str) -> typer.Typer:
    """A group of commands."""
    return typer.Typer(help=words, no_args_is_help=True, rich_markup_mode=None)


@dataclass(frozen=True, slots=True)
class Asked:
    """What every change is asked with."""

    directory: str
    config: Path | None
    actor: str | None
    reason: str
    json: bool

    def make(self, kind: Kind, change: Change, key: str | None = None) -> None:
        """Make the change and say what it did."""
        with reach(self.directory, self.config, write=True) as gateway:
            outcome = gateway.change(change, actor=author(self.actor), reason=self.reason)
        show_outcome(outcome, kind, running=gateway.running, as_json=self.json, key=key)


def given(clear: Many = None, **fields: Any) -> dict[str, Any]:
    """The fields that were given, and those to be emptied."""
    given = {name: value for name, value in fields.items() if value is not None}
    for name in clear or ():
        field = name.replace("-", "_")
        if field not in EMPTY or field in given:
            raise typer.BadParameter(
                f"--clear {name}: one of {', '.join(EMPTY)}, and not with a new value"
            )
        given[field] = EMPTY[field]
    return given


def setting(kind: Kind, entity_id: str, fields: dict[str, Any]) -> Set:
    """The change that sets ``fields``; a usage error where there are none."""
    if not fields:
        raise typer.BadParameter("nothing to set: name at least one field")
    return Set(kind, entity_id, fields)


def rows(directory: str, kind: Kind, *, where: str = "", equals: str | None = None) -> list[Json]:
    """All entities of a kind, or those whose field ``where`` has one value."""
    with reach(directory, write=False) as gateway:
        entities = gateway.entities(kind)
    return [each for each in entities if equals is None or each[where] == equals]


def show_list(
    entities: Sequence[Json], heads: str, row: Callable[[Json], Sequence[Any]], *, as_json: bool
) -> None:
    """A table with the columns of ``heads``, or what may be shown of each entity as JSON."""
    if as_json:
        show_json([public(each) for each in entities])
    elif entities:
        say(table(heads.split(), [row(each) for each in entities]))
    else:
        say("none")


def register_show(group: typer.Typer, kind: Kind) -> None:
    """Add ``show``."""

    def show(entity: Id, directory: Directory = DIR, json: AsJson = False) -> None:
        with reach(directory, write=False) as gateway:
            shown = found(gateway, kind, entity)
        show_entity(shown, as_json=json)

    group.command("show", help="Show all fields of one.")(show)


def register_move(group: typer.Typer, kind: Kind, verb: Verb, words: str) -> None:
    """Add a command that changes the status."""

    def move(
        entity: Id,
        reason: Reason,
        actor: Actor = None,
        directory: Directory = DIR,
        config: Configuration = None,
        json: AsJson = False,
    ) -> None:
        Asked(directory, config, actor, reason, json).make(kind, Move(kind, entity, verb))

    group.command(verb, help=words)(move)
