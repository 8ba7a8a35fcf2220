"""How the registry's entities read: a line that says what is true now, and all fields of one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from gateway.cli.control import Gateway
from gateway.cli.terminal import fail, say, show_json, warn
from gateway.core.clock import timestamp
from gateway.registry.rows import Kind

__all__ = [
    "WORDS",
    "Json",
    "ended",
    "found",
    "joined",
    "levels",
    "public",
    "show_entity",
    "show_outcome",
    "standing",
]

Json = Mapping[str, Any]

WORDS: Mapping[Kind, str] = {
    "organisation": "org",
    "member": "member",
    "credential": "key",
    "issuer": "issuer",
}
"""The command group of each kind."""


def levels(tiers: Json) -> str:
    """``bio=0 cyber=2``, or a dash."""
    return " ".join(f"{domain}={level}" for domain, level in sorted(tiers.items())) or "-"


def joined(values: Any) -> str:
    """Several labels in one cell."""
    return " ".join(values) or "-"


def public(entity: Json) -> dict[str, Any]:
    """What is shown of an entity: all but the hash by which a key is known."""
    return {name: value for name, value in entity.items() if name != "sha256"}


def standing(entity: Json) -> str:
    """The status for people: a key that is active and whose time is over is ``expired``. As JSON an
    entity stands as it is recorded, with its expiry beside its status."""
    expires_at = entity.get("expires_at")
    over = expires_at is not None and expires_at <= timestamp(time.time())
    return "expired" if over and entity["status"] == "active" else str(entity["status"])


def found(gateway: Gateway, kind: Kind, entity_id: str) -> Json:
    """The entity of this id, or the end of the command."""
    entity = next((each for each in gateway.entities(kind) if each["id"] == entity_id), None)
    if entity is None:
        fail(
            f"There is no {kind} '{ascii(entity_id[:64])[1:-1]}'.",
            f"List those there are with 'sluicegate {WORDS[kind]} list'.",
        )
    return entity


def show_entity(entity: Json, *, as_json: bool) -> None:
    """All fields of one entity."""
    shown = public(entity)
    if as_json:
        show_json(shown)
        return
    shown["status"] = standing(shown)
    width = max(len(name) for name in shown)
    for name, value in shown.items():
        for line in _lines(value):
            say(f"{name:{width}}  {line}")


def _lines(value: Any) -> list[str]:
    """A field's value; one line for each record of a list of records."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [_plain(each) for each in value]
    return [_plain(value)]


def _plain(value: Any) -> str:
    if value is None or value in ([], {}, ()):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return " ".join(f"{name}={_plain(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ",".join(_plain(each) for each in value)
    return str(value)


def show_outcome(
    outcome: Json, kind: Kind, *, running: bool, as_json: bool, key: str | None = None
) -> None:
    """What a change did.

    Args:
        outcome: ``control.plane.Outcome`` as JSON values.
        kind: of the entity that was changed.
        running: whether a gateway took the change, or only the directory.
        as_json: for programs.
        key: a key that was minted for it, to be shown this once.
    """
    entity = public(outcome["entity"])
    if as_json:
        shown = {
            "entity": entity,
            "position": outcome["position"],
            "running": running,
            "ended": outcome["ended"],
            "workers": outcome["workers"],
            "notes": list(outcome["notes"]),
            "warnings": list(outcome["warnings"]),
        }
        show_json(shown if key is None else shown | {"key": key})
        return
    say(_NOW[kind](entity))
    say(f"record {outcome['position']}")
    say(ended(outcome) if running else "no gateway runs here: it takes effect when one starts")
    for note in outcome["notes"]:
        say(f"note: {note}")
    for warning in outcome["warnings"]:
        warn(f"warning: {warning}", "mend it if it is a slip; it was made as you wrote it")
    if key is not None:
        say()
        say(key)
        say()
        say("This key is not shown again and cannot be read back: store it now.")


def ended(outcome: Json) -> str:
    """How many running streams a change cut, and how many workers live by it."""
    count, workers = outcome["ended"], outcome["workers"]
    return (
        f"ended {count} running stream{'' if count == 1 else 's'} "
        f"on {workers} worker{'' if workers == 1 else 's'}"
    )


def _organisation(entity: Json) -> str:
    return (
        f"organisation {entity['id']} is {entity['status']}, tiers up to "
        f"{levels(entity['tiers'])}, retention {entity['retention']}"
    )


def _member(entity: Json) -> str:
    held = ", under legal hold" if entity["held"] else ""
    status = "erased" if entity["erased"] else entity["status"]
    return (
        f"{entity['kind']} {entity['id']} of {entity['organisation']} is {status}{held}, "
        f"tiers {levels(entity['tiers'])}"
    )


def _credential(entity: Json) -> str:
    status, ends = standing(entity), entity["expires_at"]
    expires = f"expire{'d' if status == 'expired' else 's'} {ends}" if ends else "does not expire"
    return (
        f"key {entity['id']} ({entity['prefix']}...) of {entity['member']} is {status}, {expires}"
    )


def _issuer(entity: Json) -> str:
    return (
        f"issuer {entity['id']} ({entity['issuer']}) of {entity['organisation']} is "
        f"{entity['status']}"
    )


_NOW: Mapping[Kind, Callable[[Json], str]] = {
    "organisation": _organisation,
    "member": _member,
    "credential": _credential,
    "issuer": _issuer,
}
