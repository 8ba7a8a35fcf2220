"""``issuer``: who else may sign credentials."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.changing import (
    FINAL,
    RESUME,
    SUSPEND,
    Asked,
    group,
    register_move,
    register_show,
    rows,
    show_list,
)
from gateway.cli.entities import joined
from gateway.cli.options import Actor, Algorithm, Audience, Configuration, Id, JwksUri, Reason
from gateway.cli.terminal import DIR, AsJson, Directory
from gateway.registry.changes import Add

__all__ = ["issuers"]

issuers = group("Token issuers: each speaks for one organisation.")


@issuers.command("add")
def add_issuer(
    issuer: Id,
    reason: Reason,
    organisation: Annotated[str, typer.Option("--org", help="For whom it speaks.")],
    url: Annotated[str, typer.Option("--issuer", help="The 'iss' of its tokens.", metavar="URL")],
    jwks_uri: JwksUri,
    audience: Audience,
    algorithm: Algorithm = None,
    actor: Actor = None,
    directory: Directory = DIR,
    config: Configuration = None,
    json: AsJson = False,
) -> None:
    """Add an issuer whose tokens speak for one organisation."""
    fields = {
        "id": issuer,
        "organisation": organisation,
        "issuer": url,
        "jwks_uri": jwks_uri,
        "audience": audience,
        "algorithms": algorithm or ["ES256"],
    }
    Asked(directory, config, actor, reason, json).make("issuer", Add("issuer", fields))


@issuers.command("list")
def list_issuers(directory: Directory = DIR, json: AsJson = False) -> None:
    """List all issuers."""
    show_list(
        rows(directory, "issuer"),
        "ID ORG STATUS ALGORITHMS ISSUER AUDIENCE",
        lambda each: [
            each["id"],
            each["organisation"],
            each["status"],
            joined(each["algorithms"]),
            each["issuer"],
            each["audience"],
        ],
        as_json=json,
    )


register_show(issuers, "issuer")
register_move(issuers, "issuer", "suspend", SUSPEND)
register_move(issuers, "issuer", "resume", RESUME)
register_move(issuers, "issuer", "revoke", FINAL)
