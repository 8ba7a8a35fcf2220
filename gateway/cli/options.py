"""Options that several commands share, and the easily typed forms of their values.

A date stands for its first second in UTC, so an expiry given as a date ends access early rather
than late. A form that does not fit is a usage error that shows the form.
"""

from __future__ import annotations

import os
import pwd
import re
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = [
    "Actor",
    "Agreement",
    "Algorithm",
    "Audience",
    "Clear",
    "Configuration",
    "Engagement",
    "Expires",
    "ExternalId",
    "Id",
    "JwksUri",
    "Key",
    "Levels",
    "Licence",
    "Limit",
    "Many",
    "Name",
    "Nationality",
    "NewName",
    "Purpose",
    "Reason",
    "Residence",
    "Retention",
    "Role",
    "Scope",
    "Sponsored",
    "Vetting",
    "author",
    "tiers_of",
]

_STAMP = r"\d{4}-\d\d-\d\d(?:T\d\d:\d\d:\d\dZ)?"
_LEVEL = re.compile(r"([^=]+)=(\d+|none)")
_VETTING = re.compile(rf"([^=]+)=(\d+):({_STAMP})(?::({_STAMP}))?")
_ENGAGEMENT = re.compile(rf"([^=]+)=({_STAMP}):({_STAMP})(?::(.+))?")

Level = tuple[str, int | None]
Fields = dict[str, Any]


def _matched(form: re.Pattern[str], text: str, example: str) -> tuple[str | Any, ...]:
    found = form.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"'{text}': write it as {example}")
    return found.groups()


def _instant(text: str) -> str:
    """A timestamp as the registry takes it; a date becomes its first second."""
    return text if "T" in text else f"{text}T00:00:00Z"


def _level(text: str) -> Level:
    domain, level = _matched(_LEVEL, text, "cyber=2, or cyber=none to take it away")
    return domain, None if level == "none" else int(level)


def _vetting(text: str) -> Fields:
    kind, level, verified, expires = _matched(
        _VETTING, text, "identity=2:2026-01-31, or identity=2:2026-01-31:2027-01-31"
    )
    return {
        "kind": kind,
        "level": int(level),
        "verified_at": _instant(verified),
        "expires_at": None if expires is None else _instant(expires),
    }


def _engagement(text: str) -> Fields:
    name, starts, ends, techniques = _matched(
        _ENGAGEMENT, text, "pentest-7=2026-01-31:2026-02-28, or …:recon,exploit"
    )
    return {
        "id": name,
        "status": "active",
        "starts_at": _instant(starts),
        "ends_at": _instant(ends),
        "techniques": techniques.split(",") if techniques else [],
    }


def _expires(text: str) -> str:
    _matched(re.compile(f"({_STAMP})"), text, "2027-01-31, or 2027-01-31T12:00:00Z")
    return _instant(text)


# What every change takes

Configuration = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="Configuration file, read when no gateway runs; by default that in DIR, or "
        "sluicegate.yaml.",
        show_default=False,
    ),
]
Reason = Annotated[str, typer.Option("--reason", help="Why; reviewers read it in the record.")]
Actor = Annotated[
    str | None,
    typer.Option("--actor", help="Who changes; your user name by default.", show_default=False),
]
Id = Annotated[str, typer.Argument(metavar="ID")]
Key = Annotated[str, typer.Argument(metavar="ID|PREFIX")]

# The fields of entities; lists are given by repeating the option

Many = list[str] | None
Levels = Annotated[
    list[Any] | None,
    typer.Option(
        "--tier", parser=_level, metavar="DOMAIN=LEVEL", help="A level, as cyber=2; repeatable."
    ),
]
Vetting = Annotated[
    list[Any] | None,
    typer.Option(
        "--vetting",
        parser=_vetting,
        metavar="KIND=LEVEL:VERIFIED[:EXPIRES]",
        help="A vetting record, as identity=2:2026-01-31:2027-01-31; repeatable.",
    ),
]
Expires = Annotated[
    Any,
    typer.Option(
        "--expires",
        parser=_expires,
        metavar="DATE",
        help="When it ends, as 2027-01-31 or 2027-01-31T12:00:00Z; only ever earlier.",
        show_default=False,
    ),
]
Engagement = Annotated[
    Any,
    typer.Option(
        "--engagement",
        parser=_engagement,
        metavar="ID=STARTS:ENDS[:TECHNIQUES]",
        help="The engagement it is for, as pentest-7=2026-01-31:2026-02-28:recon,exploit.",
        show_default=False,
    ),
]
Limit = Annotated[
    list[Any], typer.Argument(parser=_level, metavar="DOMAIN=LEVEL", help="As cyber=2.")
]
Name = Annotated[
    str | None, typer.Option("--name", help="For people; the id by default.", show_default=False)
]
NewName = Annotated[str | None, typer.Option("--name", help="For people.")]
Clear = Annotated[Many, typer.Option("--clear", metavar="FIELD", help="Empty it; repeatable.")]
Retention = Annotated[
    str | None, typer.Option("--retention", help="What is agreed on retention.", metavar="LABEL")
]
Licence = Annotated[Many, typer.Option("--licence", help="A licence it holds; repeatable.")]
Agreement = Annotated[Many, typer.Option("--agreement", help="One it signed; repeatable.")]
Role = Annotated[Many, typer.Option("--role", help="A role; repeatable.")]
Purpose = Annotated[Many, typer.Option("--purpose", help="An approved purpose; repeatable.")]
Nationality = Annotated[
    Many, typer.Option("--nationality", help="ISO 3166 code, as DE; repeatable.")
]
Residence = Annotated[str | None, typer.Option("--residence", help="ISO 3166 code, as DE.")]
Sponsored = Annotated[
    bool | None, typer.Option("--sponsored/--not-sponsored", help="Whether someone sponsors him.")
]
ExternalId = Annotated[
    str | None, typer.Option("--external-id", help="The 'sub' by which the issuer knows him.")
]
Scope = Annotated[
    Many,
    typer.Option(
        "--scope",
        help="Narrow it: wire:WIRE, model:ID, class:DOMAIN-LEVEL; 'downgrade' accepts a "
        "substitute model. Repeatable.",
    ),
]
Algorithm = Annotated[
    Many,
    typer.Option(
        "--algorithm",
        help="ES256, ES384, EdDSA, Ed25519, RS256 or PS256; repeatable.",
        show_default="ES256",
    ),
]
Audience = Annotated[str, typer.Option("--audience", help="The 'aud' its tokens must carry.")]
JwksUri = Annotated[str, typer.Option("--jwks-uri", help="Where its keys are.")]


def tiers_of(levels: list[Any] | None, *, keep_none: bool) -> dict[str, int | None] | None:
    """Levels by domain; ``None`` where none were given.

    Args:
        levels: what ``--tier`` parsed to.
        keep_none: for a change, where ``none`` takes a domain away.
    """
    if not levels:
        return None
    tiers = dict(levels)
    if len(tiers) != len(levels):
        raise typer.BadParameter("a domain is named twice")
    return {domain: level for domain, level in tiers.items() if keep_none or level is not None}


def author(actor: str | None) -> str:
    """Who a change is by: what was given, else the operating system's user name as a label."""
    if actor is not None:
        return actor
    user = os.getuid()
    try:
        name = pwd.getpwuid(user).pw_name
    except KeyError:
        return f"uid-{user}"
    label = re.sub(r"[^a-z0-9_.:-]", "-", name.lower()).lstrip("_.:-")
    return label[:64] or f"uid-{user}"
