"""The README's commands, run as they stand there, in an empty directory."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.gate import PROVIDER_KEY, ROOT, free_ports

pytestmark = pytest.mark.timeout(180)
README = (ROOT / "README.md").read_text()


def block(heading: str, number: int = 0, language: str = "") -> str:
    """A fenced block below a heading."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)[number]


class Shell:
    """A shell in a directory where ``sluicegate`` is this checkout's."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ports = free_ports(3)
        bin_directory = directory / "bin"
        bin_directory.mkdir()
        for name, module in (
            ("sluicegate", "gateway.cli"),
            ("sluicegate-verify", "gateway.audit.verify"),
        ):
            script = bin_directory / name
            script.write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
            script.chmod(0o755)
        self.environment = {
            "PATH": f"{bin_directory}:/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            "SLUICEGATE_UPSTREAMS__OPENAI__KEY": PROVIDER_KEY,
            "SLUICEGATE_UPSTREAMS__ANTHROPIC__KEY": PROVIDER_KEY,
        }

    def run(self, command: str, code: int = 0) -> str:
        done = subprocess.run(
            ["/bin/sh", "-e", "-c", command],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self, command: str) -> subprocess.Popen:
        return subprocess.Popen(
            ["/bin/sh", "-c", f"exec {command}"],
            cwd=self.directory,
            env=self.environment,
            start_new_session=True,
        )

    def choose_ports(self) -> None:
        """The defaults may be in use where the tests run."""
        path = self.directory / "sluicegate.yaml"
        document = yaml.safe_load(path.read_text())
        for name, port in zip(("data", "console", "ops"), self.ports, strict=True):
            document[name]["listen"] = f"127.0.0.1:{port}"
        path.write_text(yaml.safe_dump(document))

    def set_role_keys(self, lines: list[str]) -> None:
        """Put what ``content keygen`` printed where it says."""
        path = self.directory / "sluicegate.yaml"
        document = yaml.safe_load(path.read_text())
        for line in lines:
            section, _, entry = line.partition("under ")[2].partition(":")
            document[section] |= yaml.safe_load(entry)
        path.write_text(yaml.safe_dump(document))


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A gateway that was set up and started by the commands under "Run it"."""
    directory = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "policies", directory / "policies")
    shell = Shell(directory)
    init, reviewer, approver, keygen, build, serve, status = block("Run it").splitlines()
    shell.run(init)
    shell.choose_ports()
    shell.set_role_keys([shell.run(each).splitlines()[-1] for each in (reviewer, approver)])
    shell.run(keygen)
    shell.run(build)
    process = shell.start(serve.partition("#")[0])
    deadline = time.monotonic() + 60
    while "ready\n" not in subprocess.run(
        ["/bin/sh", "-c", status],
        cwd=directory,
        env=shell.environment,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.replace("NOT READY", ""):
        assert process.poll() is None, "serve ended"
        assert time.monotonic() < deadline, "serve did not become ready"
        time.sleep(0.2)
    shell.run(status)  # nothing is wrong
    yield shell
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0


def test_people_keys_and_the_record(shell):
    added = shell.run(block("Run it", 1))
    assert added.count("sk-sg-") >= 1
    commands = block("Run it", 2).splitlines()
    tail, show, search, export, prove, verify = commands
    listed = shell.run(tail)
    assert "registry.changed" in listed
    assert show.startswith("sluicegate audit show req_")
    shell.run("sluicegate audit show control#3")
    assert "member red" in shell.run(search)
    bundle = export.partition("#")[0].split()[-1]
    assert f"records in {bundle}" in shell.run(export)
    assert "tlog-proof" in shell.run(prove)
    keys = shell.run("sluicegate audit vkeys")
    vkeys = re.findall(r"sluicegate/[a-z0-9-]+\+[0-9a-f]{8}\+[A-Za-z0-9+/=]+", keys)
    assert len(vkeys) == 2
    command = verify.split(" --key ")[0]
    shell.run(command, code=1)  # without a key nothing is proved
    keys = "".join(f" --key '{vkey}'" for vkey in vkeys)
    shell.run(command + keys)
    shell.run(f"sluicegate audit verify-export {bundle}{keys}")


def test_the_test_and_demo_commands_are_those_of_the_makefile():
    assert block("Run the tests").strip() == "make test"
    assert block("See it work").strip() == "make demo"
    shown = subprocess.run(
        ["make", "-n", "demo", "ARGS=--no-tour"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    wanted = "demo --data-port 8080 --console-port 8081 --ops-port 8082 --dir ./sluicegate-data"
    assert f"{wanted} --no-tour" in shown


@pytest.mark.parametrize("path", re.findall(r"\]\(((?!http)[^)]+)\)", README))
def test_every_page_that_the_readme_names_exists(path):
    assert (ROOT / path).exists()
