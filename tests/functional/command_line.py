"""The commands as an operator types them, in this process, against a directory of the test's."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import typer
import yaml

from gateway.audit.read import LogReader
from gateway.cli.main import app
from gateway.state import StateDirectory
from tests.policy.small_bundle import FILES

COMMAND = typer.main.get_command(app)
"""Made once: typer's own runner makes the whole tree anew for each command."""
UPSTREAMS = {"anthropic": {"url": "http://127.0.0.1:9", "kind": "vllm"}}


@dataclass
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def write_policies(directory: Path, **changes: str) -> Path:
    """The small bundle as files, those named in ``changes`` (as ``**{path: text}``) replaced."""
    for name, text in (FILES | changes).items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    return directory


class Operator:
    """One working directory, with a configuration and policies, and a state directory ``DIR``."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.state = StateDirectory(home / "state")
        self.config = home / "sluicegate.yaml"
        self.policies = write_policies(home / "policies")
        self.configure()

    def configure(self, **changes: Any) -> None:
        document = {
            "state_dir": str(self.state.root),
            "upstreams": UPSTREAMS,
            "policy": {"directory": str(self.policies)},
            "data": {"listen": "127.0.0.1:0"},
            "console": {"listen": "127.0.0.1:0"},
            "ops": {"listen": "127.0.0.1:0"},
        }
        self.config.write_text(yaml.safe_dump(document | changes))

    def bare(self, *arguments: str, code: int = 0) -> Said:
        """A command, exactly as given; it must end with ``code`` and without a traceback."""
        out, err = io.StringIO(), io.StringIO()
        with quiet_logs(), redirect_stdout(out), redirect_stderr(err):
            try:
                COMMAND.main(list(arguments), prog_name="sluicegate")
            except SystemExit as ended:
                exit_code = int(ended.code or 0)
        said = Said(exit_code, out.getvalue(), err.getvalue())
        assert said.code == code, (arguments, said)
        assert "Traceback" not in said.out + said.err
        return said

    def __call__(self, *arguments: str, code: int = 0) -> Said:
        """A command about this directory."""
        return self.bare(*arguments, "--dir", str(self.state.root), code=code)

    def change(self, *arguments: str, code: int = 0, reason: str = "for the test") -> Said:
        """A change, with a reason and this configuration."""
        config = ("--config", str(self.config))
        return self(*arguments, "--reason", reason, *config, code=code)

    def records(self, shard: str = "control") -> list[dict[str, Any]]:
        directory = self.state.log(shard)
        return [entry.json() for entry in LogReader(directory).entries()]

    def changes(self) -> list[dict[str, Any]]:
        return [record for record in self.records() if record["type"] == "registry.changed"]


@contextmanager
def quiet_logs() -> Iterator[None]:
    """Logging is one per process by its nature; a command's settings must not outlive it."""
    root = logging.getLogger()
    handlers, level, settings = root.handlers, root.level, structlog.get_config()
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(level)
        structlog.configure(**settings)
