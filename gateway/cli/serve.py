"""``serve``, ``init`` and ``status``."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.starting import how_to_start, other_addresses
from gateway.cli.terminal import (
    EXIT_NO,
    EXIT_UNAVAILABLE,
    EXIT_USAGE,
    AsJson,
    Directory,
    fail,
    say,
    show_json,
    table,
)
from gateway.control.client import ControlClient, ControlRefused, ControlUnavailable
from gateway.core.clock import timestamp
from gateway.settings import ConfigurationError, Settings, load
from gateway.state import StateDirectory, StateInUse
from gateway.supervisor import StartFailed, Supervisor

__all__ = ["read_settings", "register", "supervise"]

LISTENERS = ("data", "console", "ops")
Config = Annotated[Path, typer.Option("--config", help="The configuration file.")]
Dev = Annotated[
    bool, typer.Option("--dev", help="Allow a policy directory as source; not for production.")
]


def read_settings(
    path: Path, *, dev: bool = False, demo: bool = False, provider_keys: bool = True
) -> Settings:
    """Settings, or every finding on standard error and exit code 2."""
    try:
        return load(path, dev=dev, demo=demo, provider_keys=provider_keys)
    except ConfigurationError as error:
        findings = "\n".join(f"  {finding}" for finding in error.findings)
        count = len(error.findings)
        fail(
            f"{path} and the environment: {count} "
            f"{'thing is' if count == 1 else 'things are'} wrong\n{findings}",
            "" if path.exists() else "write one with `sluicegate init`, or name it with --config",
            code=EXIT_USAGE,
        )


async def supervise(supervisor: Supervisor, ready: asyncio.Event | None = None) -> None:
    """Run a gateway until SIGTERM or SIGINT.

    Raises:
        StartFailed, StateInUse, ConfigurationError: it did not start.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    starting = asyncio.create_task(supervisor.start())
    stopping = asyncio.create_task(stopped.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.wait({starting})
        return
    await starting
    if ready is not None:
        ready.set()
    await stopping
    supervisor.say("stopping: running exchanges may finish")
    await supervisor.stop()


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(serve)
    app.command()(init)
    app.command()(status)


def serve(config: Config = Path("sluicegate.yaml"), dev: Dev = False) -> None:
    """Run the gateway: data workers, control process, console and ops listeners."""
    settings = read_settings(config, dev=dev)
    flags = ["--dev"] if dev else []
    supervisor = Supervisor(settings=settings, configuration=config, flags=flags, say=say)

    async def run_all() -> None:
        ready = asyncio.Event()
        running = asyncio.create_task(supervise(supervisor, ready))
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if ready.is_set():
            say(f"data     {settings.data.url}")
            say(f"console  {settings.console.url}")
            say(f"ops      {settings.ops.url}")
            client = ControlClient(StateDirectory(settings.state_dir).control_socket)
            with suppress(ControlUnavailable, ControlRefused):  # then it has its own words
                report = await client.get("/status")
                for problem in report["problems"]:
                    _show_matter("!", problem)
                for note in report["notes"]:
                    _show_matter("note:", note)
        await running

    try:
        asyncio.run(run_all())
    except ConfigurationError as error:
        places = {f"{name}.listen": f"{name}.listen in {config}" for name in LISTENERS}
        remedy = other_addresses(error.findings, places)
        fail("; ".join(error.findings), remedy, code=EXIT_USAGE)
    except StateInUse as error:
        fail(str(error), "stop it first, or choose another state_dir", code=EXIT_UNAVAILABLE)
    except StartFailed as error:
        fail(f"not started: {error}", code=EXIT_UNAVAILABLE)


def init(
    path: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("sluicegate.yaml"),
) -> None:
    """Write a commented configuration file."""
    text = files("gateway.cli").joinpath("sluicegate.yaml").read_text()
    try:
        with path.open("x") as file:
            file.write(text)
    except FileExistsError:
        fail(
            f"{path} exists and is not overwritten",
            "name another file, as `sluicegate init other.yaml`, or move this one away",
            code=EXIT_USAGE,
        )
    except OSError as error:
        fail(
            f"{path}: {error.strerror}",
            "name a file in a directory that you may write to",
            code=EXIT_UNAVAILABLE,
        )
    say(f"wrote {path}: read its comments, set what is marked, then `sluicegate serve`")


def status(directory: Directory = "sluicegate-data", json: AsJson = False) -> None:
    """What is wrong, whom it reaches, and the next command."""
    state = StateDirectory(Path(directory))
    try:
        report = asyncio.run(ControlClient(state.control_socket).get("/status"))
    except ControlUnavailable as error:
        fail(str(error), how_to_start(state), code=EXIT_UNAVAILABLE)
    except ControlRefused as error:
        fail(str(error), error.remedy, code=EXIT_UNAVAILABLE)
    if json:
        show_json(report)
    else:
        _show(report)
    if not report["ready"] or report["problems"]:
        raise SystemExit(EXIT_NO)


def _show(report: dict[str, Any]) -> None:
    say("ready" if report["ready"] else "NOT READY")
    for problem in report["problems"]:
        _show_matter("!", problem)
    for note in report["notes"]:
        _show_matter("note:", note)
    say()
    for name, url in report["addresses"].items():
        say(f"{name:9}{url}")
    registry = report["registry"]
    say(f"policy   {report['revision'] or 'none'} from {report['policy_source']}")
    say(
        f"registry epoch {registry['epoch']}: {registry['organisations']} organisations, "
        f"{registry['members']} members, {registry['credentials']} keys"
    )
    say()
    say(
        table(
            ["worker", "ready", "running", "epoch", "revision", "log", "memo hit"],
            [
                [
                    worker["shard"],
                    "yes" if worker["ready"] else "no",
                    worker.get("running", "-"),
                    worker.get("epoch", "-"),
                    worker.get("revision", "-").removeprefix("sha256:")[:12],
                    worker.get("log_size", "-"),
                    _share(worker),
                ]
                for worker in report["workers"]
            ],
        )
    )
    for name, endpoint in report["endpoints"].items():
        if endpoint["failures"]:
            last = f"{endpoint['reason']} at {timestamp(endpoint['last_at'])}"
            say(f"endpoint {name} failed {endpoint['failures']} times, the last {last}")
    for exporter in report["exporters"]:
        say(
            f"exporter {exporter['name']} ({exporter['kind'] or 'has not run'}): "
            f"{exporter['lag_records']} records wait, {exporter['sent']} were sent"
        )
    for name, alarm in report["alarms"].items():
        say(f"alarm {name} ({alarm['count']}): {alarm['latest']}")


def _show_matter(mark: str, matter: dict[str, str]) -> None:
    say(f"{mark} {matter['what']}")
    say(f"  reaches: {matter['reaches']}")
    say(f"  do:      {matter['do']}")


def _share(worker: dict[str, Any]) -> str:
    asked = worker.get("memo_hits", 0) + worker.get("memo_misses", 0)
    return f"{100 * worker['memo_hits'] / asked:.0f} %" if asked else "-"
