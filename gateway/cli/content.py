"""``content``: keys of the two roles that open sealed content, and its end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from gateway.audit.content import new_role_key
from gateway.cli.control import reach
from gateway.cli.options import Actor, Configuration, Reason, author
from gateway.cli.terminal import (
    DIR,
    EXIT_UNAVAILABLE,
    EXIT_USAGE,
    AsJson,
    Directory,
    fail,
    say,
    show_json,
)
from gateway.core.role_keys import Role

__all__ = ["app"]

app = typer.Typer(
    help="Sealed content: the keys that open it together, and its end.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def keygen(
    role: Annotated[Role, typer.Argument(help="Whose key it is.", case_sensitive=False)],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="Where the private key is written."),
    ],
    json: AsJson = False,
) -> None:
    """Make the key of one role.

    Each is made by the person who will hold it, on a machine of his own.

    The private key is one line for a password manager; the gateway never sees it.
    """
    key = new_role_key(role)
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(key.text + "\n")
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        fail(
            f"{output} exists, and a key is never overwritten",
            "name another file with -o",
            code=EXIT_USAGE,
        )
    except OSError as error:
        fail(
            f"{output}: {error.strerror}",
            "name a file in a directory that you may write to",
            code=EXIT_UNAVAILABLE,
        )
    if json:
        show_json({"role": role, "private": str(output), "public": key.public.text})
        return
    say(f"wrote {output}: the {role} keeps its line, and nobody else has it")
    say(f"in the configuration, under content:  {role}: {key.public.text}")


@app.command()
def prune(
    reason: Reason,
    actor: Actor = None,
    directory: Directory = DIR,
    config: Configuration = None,
    json: AsJson = False,
) -> None:
    """Remove sealed content that is old, on the record.

    Old is what content.retention_days says.

    What is of a member under legal hold stays. Run it each day.
    """
    with reach(directory, config, write=True) as gateway:
        told = gateway.prune_content(actor=author(actor), reason=reason)
    if json:
        show_json(told)
        return
    say(f"removed {told['pieces']} pieces ({told['bytes']} bytes) of days before {told['before']}")
    if told["held"]:
        say(f"{told['held']} pieces stay: their members are under legal hold")
