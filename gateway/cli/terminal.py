"""How commands speak: plain lines for people, JSON for programs, errors on standard error.

With ``--json`` an error is JSON too: one object on one line of standard error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from gateway.cli.records import safe

__all__ = [
    "CONFIGURATION",
    "DIR",
    "EXIT_NO",
    "EXIT_UNAVAILABLE",
    "EXIT_USAGE",
    "AsJson",
    "Directory",
    "errors_as",
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

_JSON_ERRORS: ContextVar[bool] = ContextVar("json_errors", default=False)
"""Whether the command that runs here was asked with ``--json``: what goes wrong is told where it
happens, far below the option."""

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
    print(_json(value, indent=2), flush=True)


def _json(value: Any, indent: int | None = None) -> str:
    """JSON that a terminal can show too: letters as they are, and escaped what it would obey or
    hide, such as C1 controls and marks that turn the direction of text."""
    told = json.dumps(value, indent=indent, ensure_ascii=False, default=str)
    return "\n".join(line if line.isprintable() else _escaped(line) for line in told.split("\n"))


def _escaped(line: str) -> str:
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in line)


@contextmanager
def errors_as(arguments: Sequence[str]) -> Iterator[None]:
    """Tell errors in the way that these arguments of a command ask for."""
    before = _JSON_ERRORS.set("--json" in arguments)
    try:
        yield
    finally:
        _JSON_ERRORS.reset(before)


def warn(message: str, remedy: str = "") -> None:
    """Something beside the matter that people must see; the command goes on."""
    _tell("warning", safe(message), safe(remedy))


def fail(message: str, remedy: str = "", *, code: int = EXIT_NO) -> NoReturn:
    """End the command: what is wrong, and what to do."""
    _tell("error", message, remedy)
    raise SystemExit(code)


def _tell(what: str, message: str, remedy: str) -> None:
    if _JSON_ERRORS.get():
        told = {what: message, "remedy": remedy}
        print(_json(told), file=sys.stderr, flush=True)
        return
    print(f"sluicegate: {message}", file=sys.stderr)
    if remedy:
        print(f"  {remedy}", file=sys.stderr)


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns, aligned, with a head line."""
    cells = [[str(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join(lines)
