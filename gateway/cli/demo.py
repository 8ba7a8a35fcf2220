"""``sluicegate demo``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from gateway.app.control import CANNOT_OPEN
from gateway.cli.starting import other_addresses
from gateway.cli.terminal import EXIT_UNAVAILABLE, EXIT_USAGE, fail, say
from gateway.policy.findings import BundleError
from gateway.registry.registry import RegistryUnavailable
from gateway.settings import ConfigurationError
from gateway.state import StateInUse
from gateway.supervisor import StartFailed

__all__ = ["register"]

PORTS = {
    "data.listen": "--data-port",
    "console.listen": "--console-port",
    "ops.listen": "--ops-port",
}
ENDPOINTS = ("openai", "anthropic", "vllm")


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(demo)


def demo(
    data_port: Annotated[int, typer.Option(min=1, max=65535, help="Where defenders call.")] = 8080,
    console_port: Annotated[int, typer.Option(min=1, max=65535, help="The console.")] = 8081,
    ops_port: Annotated[int, typer.Option(min=1, max=65535, help="Metrics and probes.")] = 8082,
    directory: Annotated[
        Path, typer.Option("--dir", help="State directory of the demo.", metavar="DIR")
    ] = Path("sluicegate-data"),
    tour: Annotated[
        bool | None,
        typer.Option("--tour/--no-tour", help="Walk the eight steps; on a terminal by default."),
    ] = None,
    upstream: Annotated[
        list[str] | None,
        typer.Option(
            help="A real endpoint, NAME=URL; its key in SLUICEGATE_UPSTREAMS__<NAME>__KEY."
        ),
    ] = None,
) -> None:
    """Start a gateway with a practice model endpoint and three members, and show it."""
    try:
        from gateway.demo.run import DemoRefused, run_demo
        from gateway.demo.seed import Ports
    except ModuleNotFoundError as error:
        fail(f"the demo needs {error.name}", "pip install 'sluicegate[demo]'", code=EXIT_USAGE)
    named = dict(_endpoint(each) for each in upstream or [])
    on_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    try:
        asyncio.run(
            run_demo(
                directory,
                Ports(data_port, console_port, ops_port),
                tour=on_terminal if tour is None else tour,
                upstreams=named,
                say=say,
            )
        )
    except DemoRefused as error:
        fail(str(error), code=EXIT_USAGE)
    except ConfigurationError as error:
        fail("; ".join(error.findings), other_addresses(error.findings, PORTS), code=EXIT_USAGE)
    except BundleError as error:
        fail(
            "\n".join([f"{directory}/policies: not started for", *error.findings]),
            f"mend them, or remove {directory}/policies: the next start brings the samples back",
            code=EXIT_USAGE,
        )
    except StateInUse as error:
        fail(
            f"not started: {error}",
            "stop it with Ctrl-C where it runs, or choose another --dir",
            code=EXIT_UNAVAILABLE,
        )
    except PermissionError as error:
        fail(
            f"not started: {error.filename}: {error.strerror}",
            "choose a --dir that you may write to",
            code=EXIT_UNAVAILABLE,
        )
    except (StartFailed, RegistryUnavailable, *CANNOT_OPEN) as error:
        fail(f"not started: {error}", "another --dir starts afresh", code=EXIT_UNAVAILABLE)


def _endpoint(text: str) -> tuple[str, str]:
    name, separator, url = text.partition("=")
    if not separator or name not in ENDPOINTS:
        fail(
            f"--upstream {text}: write NAME=URL",
            f"NAME is one of {', '.join(ENDPOINTS)}",
            code=EXIT_USAGE,
        )
    return name, url
