"""``key``: API keys.

A key is minted here, on the operator's side: the gateway gets its hash and the part that may be
shown, and the key itself is printed once, after it has been recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from gateway.cli.changing import (
    FINAL,
    RESUME,
    SUSPEND,
    Asked,
    given,
    group,
    register_show,
    rows,
    setting,
    show_list,
)
from gateway.cli.control import reach
from gateway.cli.entities import Json, joined, show_outcome, standing
from gateway.cli.options import (
    Actor,
    Clear,
    Configuration,
    Engagement,
    Expires,
    Key,
    Reason,
    Scope,
    author,
)
from gateway.cli.terminal import DIR, AsJson, Directory, fail
from gateway.identity import api_keys
from gateway.identity.credentials import KEY_PREFIX
from gateway.registry.changes import Add, Change, Move, Verb

__all__ = ["keys"]

keys = group("API keys: minted here, known to the gateway by their hash alone.")


@keys.command("add")
def add_key(
    member: Annotated[str, typer.Argument(metavar="MEMBER", help="Who will hold it.")],
    reason: Reason,
    key_id: Annotated[
        str | None,
        typer.Option(
            "--id", help="By default the member's id and part of the key.", show_default=False
        ),
    ] = None,
    scope: Scope = None,
    expires: Expires = None,
    engagement: Engagement = None,
    actor: Actor = None,
    directory: Directory = DIR,
    config: Configuration = None,
    json: AsJson = False,
) -> None:
    """Mint a key and print it, once."""
    minted = api_keys.mint()
    suffix = minted.prefix.removeprefix(KEY_PREFIX)
    fields = given(
        id=key_id or f"{member[:56]}-{suffix}",
        member=member,
        sha256=minted.sha256,
        prefix=minted.prefix,
        scopes=scope or None,
        expires_at=expires,
        engagement=engagement,
    )
    change = Add("credential", fields)
    Asked(directory, config, actor, reason, json).make("credential", change, minted.text)


@keys.command("set")
def set_key(
    key: Key,
    reason: Reason,
    scope: Scope = None,
    expires: Expires = None,
    engagement: Engagement = None,
    clear: Clear = None,
    actor: Actor = None,
    directory: Directory = DIR,
    config: Configuration = None,
    json: AsJson = False,
) -> None:
    """Change a key's scopes, engagement, or earlier expiry."""
    fields = given(clear, scopes=scope or None, expires_at=expires, engagement=engagement)
    _change_key(
        Asked(directory, config, actor, reason, json),
        key,
        lambda key_id: setting("credential", key_id, fields),
    )


@keys.command("list")
def list_keys(
    member: Annotated[
        str | None, typer.Option("--member", help="Only those of this member.")
    ] = None,
    directory: Directory = DIR,
    json: AsJson = False,
) -> None:
    """List keys: what may be shown of them."""
    show_list(
        rows(directory, "credential", where="member", equals=member),
        "ID PREFIX MEMBER STATUS EXPIRES SCOPES",
        lambda each: [
            each["id"],
            each["prefix"],
            each["member"],
            standing(each),
            each["expires_at"] or "never",
            joined(each["scopes"]),
        ],
        as_json=json,
    )


def _change_key(asked: Asked, named: str, change: Callable[[str], Change]) -> None:
    """Change the key that an id, a prefix or a whole key names; a whole key is never repeated."""
    with reach(asked.directory, asked.config, write=True) as gateway:
        key_id = named
        if named.startswith(KEY_PREFIX):
            key_id = _named_by_text(gateway.entities("credential"), named)
        outcome = gateway.change(change(key_id), actor=author(asked.actor), reason=asked.reason)
    show_outcome(outcome, "credential", running=gateway.running, as_json=asked.json)


def _named_by_text(credentials: Sequence[Json], text: str) -> str:
    digest = api_keys.digest_of(text)
    shown = text[: api_keys.SHOWN]
    fitting = [
        str(each["id"])
        for each in credentials
        if (each["sha256"] == digest if digest else each["prefix"] == text)
    ]
    if not fitting:
        fail(f"No key begins with '{ascii(shown)[1:-1]}'.", "List keys with 'sluicegate key list'.")
    if len(fitting) > 1:
        fail(f"Several keys begin with '{shown}'.", f"Name one by its id: {', '.join(fitting)}.")
    return fitting[0]


def _register_key_move(verb: Verb, words: str) -> None:
    def move(
        key: Key,
        reason: Reason,
        actor: Actor = None,
        directory: Directory = DIR,
        config: Configuration = None,
        json: AsJson = False,
    ) -> None:
        asked = Asked(directory, config, actor, reason, json)
        _change_key(asked, key, lambda key_id: Move("credential", key_id, verb))

    keys.command(verb, help=words)(move)


register_show(keys, "credential")
_register_key_move("suspend", SUSPEND)
_register_key_move("resume", RESUME)
_register_key_move("revoke", FINAL)
