"""``member``: people and workloads."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from gateway.cli.changing import (
    FINAL,
    HOLD,
    RELEASE,
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
from gateway.cli.entities import Json, levels
from gateway.cli.options import (
    Actor,
    Clear,
    Configuration,
    ExternalId,
    Id,
    Levels,
    Limit,
    Name,
    Nationality,
    NewName,
    Purpose,
    Reason,
    Residence,
    Role,
    Sponsored,
    Vetting,
    tiers_of,
)
from gateway.cli.terminal import DIR, EXIT_USAGE, AsJson, Directory, fail
from gateway.registry.changes import Add, Move, Set

__all__ = ["erase", "members"]

members = group("Members: people and workloads, their tiers and vetting.")


@members.command("add")
def add_member(
    member: Id,
    reason: Reason,
    organisation: Annotated[str, typer.Option("--org", help="Who vouches for him.")],
    name: Name = None,
    tier: Levels = None,
    role: Role = None,
    purpose: Purpose = None,
    vetting: Vetting = None,
    nationality: Nationality = None,
    residence: Residence = None,
    sponsored: Sponsored = None,
    external_id: ExternalId = None,
    workload: Annotated[bool, typer.Option("--workload", help="No person, but a program.")] = False,
    actor: Actor = None,
    directory: Directory = DIR,
    config: Configuration = None,
    json: AsJson = False,
) -> None:
    """Add a member of an organisation."""
    fields = given(
        id=member,
        organisation=organisation,
        name=name or member,
        kind="workload" if workload else None,
        tiers=tiers_of(tier, keep_none=False),
        roles=role or None,
        purposes=purpose or None,
        vetting=vetting or None,
        nationalities=nationality or None,
        residence=residence,
        sponsored=sponsored,
        external_id=external_id,
    )
    Asked(directory, config, actor, reason, json).make("member", Add("member", fields))


@members.command("set")
def set_member(
    member: Id,
    reason: Reason,
    name: NewName = None,
    tier: Levels = None,
    role: Role = None,
    purpose: Purpose = None,
    vetting: Vetting = None,
    nationality: Nationality = None,
    residence: Residence = None,
    sponsored: Sponsored = None,
    external_id: ExternalId = None,
    clear: Clear = None,
    actor: Actor = None,
    directory: Directory = DIR,
    config: Configuration = None,
    json: AsJson = False,
) -> None:
    """Change a member; lists are replaced whole."""
    fields = given(
        clear,
        name=name,
        tiers=tiers_of(tier, keep_none=True),
        roles=role or None,
        purposes=purpose or None,
        vetting=vetting or None,
        nationalities=nationality or None,
        residence=residence,
        sponsored=sponsored,
        external_id=external_id,
    )
    Asked(directory, config, actor, reason, json).make("member", setting("member", member, fields))


@members.command("tier")
def set_tier(
    member: Id,
    tier: Limit,
    reason: Reason,
    actor: Actor = None,
    directory: Directory = DIR,
    config: Configuration = None,
    json: AsJson = False,
) -> None:
    """Set a member's level in one domain or more."""
    change = Set("member", member, {"tiers": tiers_of(tier, keep_none=True)})
    Asked(directory, config, actor, reason, json).make("member", change)


@members.command("list")
def list_members(
    organisation: Annotated[
        str | None, typer.Option("--org", help="Only those of this organisation.")
    ] = None,
    directory: Directory = DIR,
    json: AsJson = False,
) -> None:
    """List members."""
    show_list(
        rows(directory, "member", where="organisation", equals=organisation),
        "ID ORG KIND STATUS TIERS NAME",
        lambda each: [
            each["id"],
            each["organisation"],
            each["kind"],
            _standing(each),
            levels(each["tiers"]),
            each["name"],
        ],
        as_json=json,
    )


def _standing(member: Json) -> str:
    """The status, and whether he is held or erased."""
    marks = [mark for mark in ("held", "erased") if member[mark]]
    return ",".join([member["status"], *marks])


@members.command("erase")
def erase(
    member: Id,
    reason: Reason,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    actor: Actor = None,
    directory: Directory = DIR,
    config: Configuration = None,
    json: AsJson = False,
) -> None:
    """Destroy the key of what is sealed of a revoked member.

    For good, and what the registry knew of him with it. His records stay, under his id, and every
    proof of them holds.
    """
    if not yes:
        if not sys.stdin.isatty():
            fail(
                "an erasure cannot be taken back",
                "say --yes where no one can be asked",
                code=EXIT_USAGE,
            )
        typed = typer.prompt(f"Destroy what is sealed of {member}, for good? Type the id")
        if typed != member:
            fail(f"that is not {member}", "nothing was erased")
    Asked(directory, config, actor, reason, json).make("member", Move("member", member, "erase"))


register_show(members, "member")
register_move(members, "member", "hold", HOLD)
register_move(members, "member", "release", RELEASE)
register_move(members, "member", "suspend", SUSPEND)
register_move(members, "member", "resume", RESUME)
register_move(members, "member", "revoke", FINAL)
