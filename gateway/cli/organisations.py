"""``org``: who vouches for members."""

from __future__ import annotations

from gateway.cli.changing import (
    FINAL,
    RESUME,
    SUSPEND,
    Asked,
    given,
    group,
    register_move,
    register_show,
    rows,
    setting,
    show_list,
)
from gateway.cli.entities import joined, levels
from gateway.cli.options import (
    Actor,
    Agreement,
    Clear,
    Configuration,
    Id,
    Levels,
    Licence,
    Name,
    NewName,
    Reason,
    Retention,
    tiers_of,
)
from gateway.cli.terminal import DIR, AsJson, Directory
from gateway.registry.changes import Add

__all__ = ["organisations"]

organisations = group("Organisations: who vouches for members, and up to which tiers.")


@organisations.command("add")
def add_organisation(
    organisation: Id,
    reason: Reason,
    name: Name = None,
    tier: Levels = None,
    retention: Retention = None,
    licence: Licence = None,
    agreement: Agreement = None,
    actor: Actor = None,
    directory: Directory = DIR,
    config: Configuration = None,
    json: AsJson = False,
) -> None:
    """Add an organisation; its tiers cap those of its members."""
    fields = given(
        id=organisation,
        name=name or organisation,
        tiers=tiers_of(tier, keep_none=False),
        retention=retention,
        licences=licence or None,
        agreements=agreement or None,
    )
    change = Add("organisation", fields)
    Asked(directory, config, actor, reason, json).make("organisation", change)


@organisations.command("set")
def set_organisation(
    organisation: Id,
    reason: Reason,
    name: NewName = None,
    tier: Levels = None,
    retention: Retention = None,
    licence: Licence = None,
    agreement: Agreement = None,
    clear: Clear = None,
    actor: Actor = None,
    directory: Directory = DIR,
    config: Configuration = None,
    json: AsJson = False,
) -> None:
    """Change an organisation; lists are replaced whole."""
    fields = given(
        clear,
        name=name,
        tiers=tiers_of(tier, keep_none=True),
        retention=retention,
        licences=licence or None,
        agreements=agreement or None,
    )
    change = setting("organisation", organisation, fields)
    Asked(directory, config, actor, reason, json).make("organisation", change)


@organisations.command("list")
def list_organisations(directory: Directory = DIR, json: AsJson = False) -> None:
    """List all organisations."""
    show_list(
        rows(directory, "organisation"),
        "ID STATUS TIERS RETENTION LICENCES NAME",
        lambda each: [
            each["id"],
            each["status"],
            levels(each["tiers"]),
            each["retention"],
            joined(each["licences"]),
            each["name"],
        ],
        as_json=json,
    )


register_show(organisations, "organisation")
register_move(organisations, "organisation", "suspend", SUSPEND)
register_move(organisations, "organisation", "resume", RESUME)
register_move(organisations, "organisation", "withdraw", FINAL)
