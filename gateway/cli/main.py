"""The command tree, and the one place where an unforeseen error ends a command."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gateway import __version__
from gateway.cli import audit, content, demo, policy, registry, serve, staff, witness
from gateway.cli.terminal import EXIT_NO, EXIT_UNAVAILABLE, EXIT_USAGE, errors_as, fail, say

__all__ = ["app", "main"]

USAGE_ERROR: type[Exception] = next(iter(typer.BadParameter.__bases__))
"""What typer raises for every misuse: of its names this child alone is public."""


class Commands(TyperGroup):
    """The tree, which tells a misuse as JSON too where ``--json`` is among the arguments."""

    def main(self, args: Sequence[str] | None = None, *further: Any, **options: Any) -> Any:
        """Run one command; ends with ``SystemExit``."""
        arguments = list(sys.argv[1:] if args is None else args)
        with errors_as(arguments):
            if "--json" not in arguments:
                return super().main(arguments, *further, **options)
            try:
                code = super().main(arguments, *further, **options | {"standalone_mode": False})
            except USAGE_ERROR as error:
                context = getattr(error, "ctx", None)
                path = "sluicegate" if context is None else context.command_path
                message = getattr(error, "format_message", error.__str__)()
                fail(message, f"see `{path} --help`", code=EXIT_USAGE)
            except typer.Abort:
                fail("given up", code=EXIT_NO)
            raise SystemExit(code if isinstance(code, int) else 0)


app = typer.Typer(
    name="sluicegate",
    cls=Commands,
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
app.add_typer(staff.staff, name="staff")
app.add_typer(policy.app, name="policy")
app.add_typer(audit.app, name="audit")
app.add_typer(witness.app, name="witness")
app.add_typer(content.app, name="content")


def _show_version(wanted: bool) -> None:
    if wanted:
        say(f"sluicegate {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Options of the program itself."""


def main() -> None:
    """Run one command."""
    with errors_as(sys.argv[1:]):
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
