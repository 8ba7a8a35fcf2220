"""The demo as a newcomer sees it: on a terminal eight steps, without one lines and a gateway."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.support.gate import ROOT, free_ports

pytestmark = pytest.mark.timeout(180)


def arguments(directory: Path, *more: str) -> list[str]:
    data, console, ops = map(str, free_ports(3))
    return [
        *(sys.executable, "-m", "gateway.cli", "demo", "--dir", str(directory)),
        *("--data-port", data, "--console-port", console, "--ops-port", ops, *more),
    ]


class Terminal:
    """A demo on a pseudo-terminal."""

    def __init__(self, command: list[str]) -> None:
        self.seen = ""
        self._parent, child = pty.openpty()
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=child, stdout=child, stderr=child, start_new_session=True
        )
        os.close(child)

    def until(self, text: str, seconds: float = 90) -> str:
        """Read on until the text has come; what came since the last call."""
        start, deadline = len(self.seen), time.monotonic() + seconds
        while text not in self.seen[start:]:
            assert time.monotonic() < deadline, f"no {text!r} in {self.seen[start:]}"
            if select.select([self._parent], [], [], 0.1)[0]:
                self.seen += os.read(self._parent, 65536).decode(errors="replace")
        return self.seen[start:]

    def enter(self) -> None:
        os.write(self._parent, b"\n")

    def close(self) -> int:
        self.process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 30
        while self.process.poll() is None:
            assert time.monotonic() < deadline, "the demo did not stop"
            if select.select([self._parent], [], [], 0.1)[0]:
                with contextlib.suppress(OSError):
                    self.seen += os.read(self._parent, 65536).decode(errors="replace")
        os.close(self._parent)
        return self.process.returncode


STEPS = {
    "1 ALLOW": ["200, 45 pieces"],
    "2 DENY": ["403 PermissionDeniedError: needs cyber 3, has 0. Ask", "tiers.rego:"],
    "3 HIDDEN": ["the same, but for the request id"],
    "4 DOWNGRADE": ["asked fable-5, served opus-4.8"],
    "5 LIMIT": ["call 6: 429 RateLimitError, retry in 12 s"],
    "6 TAKE BACK": ["after the command: APIStatusError", "Access withdrawn"],
    "7 CHANGE": ["newcomer -> mythos-5: 200", "the first revision is active again"],
    "8 PROVE": ["control: ", "ok", "refused: 00000000000000000000.seg@"],
}


def walk(terminal: Terminal) -> None:
    for step, lines in STEPS.items():
        shown = terminal.until("[Enter]")
        for line in (step, *lines):
            assert line in shown
        terminal.enter()


def test_the_tour_walks_its_eight_steps_on_a_terminal(tmp_path):
    terminal = Terminal(arguments(tmp_path / "demo"))
    try:
        walk(terminal)
        lines = terminal.until("Ctrl-C ends it")
        for client in ("Claude Code", "Codex", "openai (", "anthropic (", "curl"):
            assert client in lines
    finally:
        assert terminal.close() == 0


def test_ctrl_c_at_a_prompt_ends_the_demo_without_enter(tmp_path):
    terminal = Terminal(arguments(tmp_path / "demo"))
    try:
        terminal.until("[Enter]")
    finally:
        assert terminal.close() == 0


def test_the_tour_walks_again_where_keys_and_people_were_taken_back(tmp_path):
    directory = tmp_path / "demo"
    terminal = Terminal([*arguments(directory), "--no-tour"])
    try:
        terminal.until("Ctrl-C ends it")
        for words in (
            ("key", "revoke", "red-1"),
            ("key", "suspend", "blue-1"),
            ("member", "revoke", "newcomer"),
        ):
            command(*words, "--reason", "tried out", "--dir", str(directory))
        before = (directory / "demo.json").read_text()
        in_use = subprocess.run(
            arguments(directory), cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert in_use.returncode == 3
        assert "already runs in" in in_use.stderr
        assert (directory / "demo.json").read_text() == before
    finally:
        assert terminal.close() == 0

    terminal = Terminal(arguments(directory))
    try:
        started = terminal.until("the gateway runs at")
        assert "credential red-1 is revoked: red-2 takes its place" in started
        assert "credential blue-1 was suspended and is resumed" in started
        assert "member newcomer is revoked: newcomer-2 takes its place" in started
        walk(terminal)
        recorded = command(
            *("audit", "tail", "-n", "200", "--type", "registry.changed", "--json"),
            *("--dir", str(directory)),
        )
        records = [json.loads(line) for line in recorded.splitlines()]
        reasons = {each["id"]: each["reason"] for each in records}
        assert reasons["red-2"] == "in place of red-1, which is revoked"
        assert reasons["newcomer-2"] == "in place of newcomer-1, which no longer serves"
    finally:
        assert terminal.close() == 0


def command(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "gateway.cli", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict]:
    """A demo without a terminal, and its ``demo.json``."""
    directory = tmp_path_factory.mktemp("demo") / "state"
    process = subprocess.Popen(
        arguments(directory),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    printed = ""
    while "Ctrl-C ends it" not in printed:
        line = process.stdout.readline()
        assert line, printed
        printed += line
    found = json.loads((directory / "demo.json").read_text())
    yield {**found, "directory": directory, "printed": printed}
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
    process.stdout.close()


def test_without_a_terminal_it_prints_the_lines_and_serves(running):
    assert "1 ALLOW" not in running["printed"]
    client = openai.OpenAI(
        base_url=running["data_url"] + "/v1", api_key=running["keys"]["newcomer"]
    )
    with client:
        answer = client.responses.create(model="gpt-5.5", input="hello")
    assert "practice endpoint and no model" in answer.output_text


def test_demo_json_holds_what_other_commands_and_people_need(running):
    assert set(running["keys"]) == {"newcomer", "blue", "red"}
    assert running["models"]["mythos-5"] == {"wire": "messages", "stage": "trusted"}
    assert len(running["log_vkeys"]) == 2
    for name in ("data_url", "console_url", "ops_url", "practice_url"):
        assert running[name].startswith("http://127.0.0.1:")
    directory = running["directory"]
    assert (directory / "registry.db").exists()
    assert (directory / "audit").is_dir()
    assert (directory / "demo.json").stat().st_mode & 0o077 == 0
    assert (directory / ".gitignore").read_text() == "*\n"
    with urllib.request.urlopen(running["ops_url"] + "/readyz") as response:
        assert response.status == 200


def test_the_verifier_wants_a_key_and_then_says_ok(running):
    command = [sys.executable, "-m", "gateway.audit.verify", str(running["directory"])]
    unpinned = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert unpinned.returncode == 1
    assert "consistent, key unpinned" in unpinned.stdout
    for vkey in running["log_vkeys"]:
        command += ["--key", vkey]
    pinned = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert pinned.returncode == 0, pinned.stdout


def test_serve_refuses_a_demos_state(running):
    refused = subprocess.run(
        [
            *(sys.executable, "-m", "gateway.cli", "serve", "--dev"),
            *("--config", str(running["directory"] / "sluicegate.yaml")),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2
    assert "was made by `sluicegate demo`" in refused.stderr


def test_a_directory_that_no_demo_made_is_left_alone(tmp_path):
    (tmp_path / "precious").write_text("mine")
    refused = subprocess.run(
        arguments(tmp_path), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "no demo made" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize("member", ["red"])
def test_the_readmes_snippets_run_against_it(running, member):
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(snippets) == 2
    for snippet in snippets:
        code = snippet.replace("http://127.0.0.1:8080", running["data_url"])
        names: dict = {}
        exec(code.replace("sk-sg-…", running["keys"][member]), names)
        names["client"].close()
