"""How commands speak: plain lines for people, JSON for programs, errors on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

__all__ = [
    "CONFIGURATION",
    "DIR",
    "EXIT_NO",
    "EXIT_UNAVAILABLE",
    "EXIT_USAGE",
    "AsJson",
    "Directory",
    "fail",
    "say",
    "show_json",
    "table",
    "warn",
]

CONFIGURATION = "sluicegate.yaml"
DIR = "sluicegate-data"
"""The state directory where none is named, and no configuration lies here."""

EXIT_NO = 1
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 3

AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]


def _directory(context: typer.Context, parameter: typer.CallbackParam, value: str) -> str:
    """Where no directory is named, the one of the ``sluicegate.yaml`` that lies here: else a
    command typed beside the configuration of one gateway would change another, such as a demo."""
    named = context.get_parameter_source(parameter.name or "")
    here = Path(CONFIGURATION)
    if named is None or named.name != "DEFAULT" or not here.is_file():
        return value
    from gateway.settings import ConfigurationError, configured_state_dir  # not for every command

    try:
        return str(configured_state_dir(here))
    except ConfigurationError as error:
        remedy = f"mend {here}, or name a directory by --dir"
        fail("; ".join(error.findings), remedy, code=EXIT_USAGE)


Directory = Annotated[
    str,
    typer.Option(
        "--dir",
        help="State directory of the gateway; by default the one of the sluicegate.yaml here.",
        metavar="DIR",
        callback=_directory,
    ),
]


def say(line: str = "") -> None:
    """A line for people."""
    print(line, flush=True)


def show_json(value: Any) -> None:
    """A value for programs."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str), flush=True)


def warn(message: str, remedy: str = "") -> None:
    """Something beside the matter that people must see; the command goes on."""
    print(f"sluicegate: {message}", file=sys.stderr)
    if remedy:
        print(f"  {remedy}", file=sys.stderr)


def fail(message: str, remedy: str = "", *, code: int = EXIT_NO) -> NoReturn:
    """End the command: what is wrong, and what to do."""
    warn(message, remedy)
    raise SystemExit(code)


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns, aligned, with a head line."""
    cells = [[str(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join(lines)
