"""``staff``: members whose roles let them use the console."""

from __future__ import annotations

from gateway.cli.changing import group, rows
from gateway.cli.control import ask
from gateway.cli.options import Actor, Id, Reason, author
from gateway.cli.terminal import DIR, AsJson, Directory, say, show_json, table
from gateway.core.staff import staff_roles

__all__ = ["staff"]

staff = group("Staff: members with roles, who use the console.")


@staff.command("link")
def link(
    member: Id,
    reason: Reason,
    actor: Actor = None,
    directory: Directory = DIR,
    json: AsJson = False,
) -> None:
    """Make a link that signs a member in once.

    It works for a quarter of an hour; hand it to nobody else. Roles are given with
    `sluicegate member set ID --role reviewer`.
    """
    body = {"member": member, "actor": author(actor), "reason": reason}
    made = ask(directory, "/staff/link", body)
    if json:
        show_json(made)
        return
    say(made["url"])
    say(f"signs {member} in once, until {made['expires_at']}")


@staff.command("list")
def show(directory: Directory = DIR, json: AsJson = False) -> None:
    """List who may use the console, and as what."""
    found = [
        {"id": each["id"], "name": each["name"], "status": each["status"], "roles": sorted(roles)}
        for each in rows(directory, "member")
        if (roles := staff_roles(each["roles"]))
    ]
    if json:
        show_json(found)
    elif found:
        cells = [
            (each["id"], each["status"], ", ".join(each["roles"]), each["name"]) for each in found
        ]
        say(table(("ID", "STATUS", "ROLES", "NAME"), cells))
    else:
        say("none")
