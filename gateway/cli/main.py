"""The command tree, and the one place where an unforeseen error ends a command."""

from __future__ import annotations

import sys
import traceback

import typer

from gateway.cli import audit, demo, policy, registry, serve, witness
from gateway.cli.terminal import EXIT_UNAVAILABLE, fail

__all__ = ["app", "main"]

app = typer.Typer(
    name="sluicegate",
    help="An access-control gateway for restricted AI model releases.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
serve.register(app)
demo.register(app)
app.add_typer(registry.organisations, name="org")
app.add_typer(registry.members, name="member")
app.add_typer(registry.keys, name="key")
app.add_typer(registry.issuers, name="issuer")
app.add_typer(policy.app, name="policy")
app.add_typer(audit.app, name="audit")
app.add_typer(witness.app, name="witness")


def main() -> None:
    """Run one command."""
    try:
        app()
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 - the edge of the command line
        place = traceback.extract_tb(error.__traceback__)[-1]
        fail(
            f"unforeseen {type(error).__name__} at {place.filename}:{place.lineno}",
            "this is a fault of sluicegate: report this line and the command that you gave",
            code=EXIT_UNAVAILABLE,
        )
