"""A gateway that may not start: says why in words, leaves nothing running; and one that may."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from joserfc.jwk import ECKey

from gateway.policy.archive import write_archive
from gateway.policy.bundle import read_directory
from tests.support.certificates import self_signed
from tests.support.gate import ROOT, Gate, free_ports

pytestmark = pytest.mark.timeout(120)

NOWHERE = "http://127.0.0.1:9"
USAGE, UNAVAILABLE = 2, 3


async def command(*words: str | Path, **environment: str) -> tuple[int, str]:
    """A ``sluicegate`` command's exit code and all that it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.cli", *map(str, words)),
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(60):
            said = (await process.communicate())[0].decode()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode is not None
    return process.returncode, said


def processes_of(gate: Gate) -> list[int]:
    """Everything that still runs on this gateway's configuration."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if str(gate.configuration).encode() in words:
                    found.append(int(entry.name))
    return found


def assert_nothing_runs(gate: Gate) -> None:
    assert processes_of(gate) == []
    for section in ("data", "console", "ops"):
        listen = yaml.safe_load(gate.configuration.read_text())[section]["listen"]
        with contextlib.suppress(ValueError), socket.socket() as probe:
            port = int(listen.rpartition(":")[2])
            assert probe.connect_ex(("127.0.0.1", port)) != 0, f"{section} listens"


async def assert_refused(gate: Gate, words: str, code: int = UNAVAILABLE) -> str:
    got, said = await gate.refused()
    assert words in said, said
    assert "Traceback" not in said
    assert "unforeseen" not in said
    assert got == code, said
    assert_nothing_runs(gate)
    return said


# Refused for what is written


async def test_all_mistakes_are_told_at_once_and_nothing_begins(tmp_path: Path) -> None:
    settings = {
        "data": {
            "listen": f"0.0.0.0:{free_ports(1)[0]}",
            "trusted_proxies": ["0.0.0.0/0"],
            "wokers": 3,
        },
        "upstreams": {
            "openai": {"url": NOWHERE, "kind": "openai", "key": ""},
            "anthropic": {"url": NOWHERE, "kind": "anthropic", "key": "sk-tiny-secret"},
        },
        "console": {"listen": f"10.1.2.3:{free_ports(1)[0]}"},
        "limits": {"store": "redis"},
    }
    gate = Gate(tmp_path, NOWHERE, settings)
    said = await assert_refused(gate, "things are wrong", USAGE)
    for finding in (
        "data.trusted_proxies.0: 0.0.0.0/0 trusts every address",
        "data.wokers: no such key",
        "upstreams.openai.key: is empty",
        "upstreams.anthropic.key: is shorter than",
        "console: 10.1.2.3:",
        "data: 0.0.0.0:",
        "limits: redis_url: missing",
    ):
        assert f"\n  {finding}" in said, said
    assert said.count("is reachable from outside without TLS") == 2
    assert "sk-tiny-secret" not in said
    assert not gate.state.root.exists()


async def test_a_key_written_twice_is_refused(tmp_path: Path) -> None:
    gate = Gate(tmp_path, NOWHERE, {})
    with gate.configuration.open("a") as file:
        file.write("state_dir: elsewhere\n")
    await assert_refused(gate, "state_dir: written twice", USAGE)


async def test_serve_refuses_a_demos_state_and_a_directory_of_rules(tmp_path: Path) -> None:
    gate = Gate(tmp_path, NOWHERE, {})
    gate.state.root.mkdir()
    (gate.state.root / "demo.json").write_text("{}")
    code, said = await command("serve", "--config", gate.configuration)
    assert code == USAGE
    assert "was made by `sluicegate demo`" in said
    assert "policy.directory is a source for --dev only" in said
    assert_nothing_runs(gate)
    assert [path.name for path in gate.state.root.iterdir()] == ["demo.json"]


# Refused for what is there


async def test_a_port_in_use_is_named_and_the_others_are_let_go(tmp_path: Path) -> None:
    gate = Gate(tmp_path, NOWHERE, {})
    with socket.create_server(("127.0.0.1", gate.port)):
        code, said = await gate.refused()
    assert code == USAGE
    assert f"data.listen: 127.0.0.1:{gate.port}: Address already in use" in said
    assert f"choose another with data.listen in {gate.configuration}" in said
    assert "Traceback" not in said
    assert_nothing_runs(gate)


def signed(gate: Gate, directory: Path, key: ECKey | None) -> bytes:
    """The directory's rules as an archive, and the configuration that takes it."""
    archive = write_archive(read_directory(gate.policies), key)
    document = yaml.safe_load(gate.configuration.read_text())
    public = directory / "signer.pub.pem"
    public.write_bytes((key or ECKey.generate_key("P-256")).as_pem(private=False))
    document["policy"] = {
        "bundle": str(directory / "policies.tar.gz"),
        "verification_key": str(public),
    }
    gate.configuration.write_text(yaml.safe_dump(document))
    return archive


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("kind", "words", "code"),
    [
        ("missing", "no such file", USAGE),
        ("unsigned", "the archive is not signed", UNAVAILABLE),
        ("tampered", "not started: no policy is active: not a gzip archive", UNAVAILABLE),
        ("of a bad key", "holds no P-256 public key", UNAVAILABLE),
    ],
)
async def test_k35_a_bundle_that_is_not_vouched_for_is_refused(
    tmp_path: Path, kind: str, words: str, code: int
) -> None:
    gate = Gate(tmp_path, NOWHERE, {})
    archive = signed(gate, tmp_path, None if kind == "unsigned" else ECKey.generate_key("P-256"))
    if kind == "of a bad key":
        (tmp_path / "signer.pub.pem").write_text("not a key")
    if kind != "missing":
        content = flipped(archive) if kind == "tampered" else archive
        (tmp_path / "policies.tar.gz").write_bytes(content)
    await assert_refused(gate, words, code)


OLDEST = "00000000000000000000.seg@"
Damage = Callable[[Gate], None]


def flip_in(shard: str) -> Damage:
    """One bit of the oldest segment of a log, near its beginning."""

    def damage(gate: Gate) -> None:
        oldest, *younger = sorted(gate.state.log(shard).glob("*.seg"))
        assert younger, "one segment alone would be the last"
        content = bytearray(oldest.read_bytes())
        content[len(content) // 3] ^= 1
        oldest.write_bytes(bytes(content))

    return damage


DAMAGES: dict[str, tuple[Damage, str]] = {
    "no MAC key": (
        lambda gate: (gate.state.keys / "registry-mac.key").unlink(),
        "registry-mac.key",
    ),
    "an empty pseudonym key": (
        lambda gate: (gate.state.keys / "pseudonym.key").write_bytes(b""),
        "pseudonym.key is not a key",
    ),
    "a flipped bit in an old segment of the control log": (flip_in("control"), OLDEST),
    "a flipped bit in an old segment of a worker's log": (flip_in("data-0"), OLDEST),
    "a registry that is no database": (
        lambda gate: gate.state.registry.write_bytes(b"no database" * 500),
        "registry.db",
    ),
}


async def test_a_damaged_state_is_refused_by_name_and_a_second_gateway_too(
    tmp_path: Path,
) -> None:
    """One state with a history, copied for each damage."""
    gate = Gate(tmp_path, NOWHERE, {"audit": {"segment_bytes": 65_536}})
    await gate.start()
    try:
        code, said = await another(gate).refused()
        assert (code, "a gateway already runs in" in said) == (UNAVAILABLE, True), said
        assert (await gate.status())["ready"], "the first goes on"
        await gate.organisation()
        key = await gate.member("red")
        for number in range(120):
            await gate.set("member", "red", name=f"red {number}")
        await denials(gate, key, 60)
    finally:
        await gate.stop()
    untouched = snapshot(gate.state.root)
    for damage, words in DAMAGES.values():
        damage(gate)
        await assert_refused(gate, words)
        restore(gate.state.root, untouched)
    await gate.start()  # control: what was put back starts
    await gate.stop()


def another(gate: Gate) -> Gate:
    """A gateway on ports of its own in the same state directory."""
    beside = gate.directory / "second"
    beside.mkdir()
    return Gate(beside, NOWHERE, {"state_dir": str(gate.state.root)})


async def denials(gate: Gate, key: str, count: int) -> None:
    """Calls that are recorded and not forwarded."""
    body = {"model": "mythos-6", "max_tokens": 1, "messages": []}
    headers = {"x-api-key": key, "anthropic-version": "2023-06-01"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for _ in range(count):
            async with session.post(f"{gate.url}/v1/messages", json=body) as response:
                assert response.status in (400, 404)


def snapshot(root: Path) -> dict[Path, tuple[bytes, int]]:
    return {
        path: (path.read_bytes(), path.stat().st_mode & 0o777)
        for path in root.rglob("*")
        if path.is_file()
    }


def restore(root: Path, files: dict[Path, tuple[bytes, int]]) -> None:
    for path in root.rglob("*"):
        if path.is_file() and path not in files:
            path.unlink()
    for path, (content, mode) in files.items():
        path.write_bytes(content)
        path.chmod(mode)


# Not half started, not half stopped


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_nothing_outlives_a_supervisor_that_ends_during_the_start(
    tmp_path: Path, number: signal.Signals
) -> None:
    gate = Gate(tmp_path, NOWHERE, {})
    await gate.start(until_ready=False)
    async with asyncio.timeout(30):
        while len(gate.processes()) < 2:  # noqa: ASYNC110 - processes, not tasks
            await asyncio.sleep(0.01)
        await gate.stop(number)
        while processes_of(gate):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert_nothing_runs(gate)


# What may start


def certificate(directory: Path) -> dict[str, str]:
    signed, key = self_signed(directory)
    return {"certificate": str(signed), "key": str(key)}


async def test_a_public_listener_with_tls_serves_https_and_nothing_else(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    data: dict[str, Any] = {"listen": f"0.0.0.0:{port}", "tls": certificate(tmp_path)}
    gate = Gate(tmp_path, NOWHERE, {"data": data})
    await gate.start()
    try:
        await gate.organisation()
        headers = {"authorization": f"Bearer {await gate.member('red')}"}
        trust = ssl.create_default_context(cafile=data["tls"]["certificate"])
        async with aiohttp.ClientSession(headers=headers) as session:
            url = f"https://127.0.0.1:{port}/v1/models"
            async with session.get(url, ssl=trust) as response:
                assert response.status == 200
                assert "gpt-5.5" in {each["id"] for each in (await response.json())["data"]}
            with pytest.raises(aiohttp.ClientError):
                await session.get(f"http://127.0.0.1:{port}/v1/models")
    finally:
        await gate.stop()


async def test_what_init_writes_serves_once_keys_and_bundle_are_there(tmp_path: Path) -> None:
    config, signer = tmp_path / "sluicegate.yaml", tmp_path / "policies"
    assert (await command("init", config))[0] == 0
    assert (await command("init", config))[0] == USAGE, "it does not overwrite"
    assert (await command("policy", "keygen", signer))[0] == 0
    bundle = tmp_path / "policies.tar.gz"
    built = await command(
        *("policy", "build", "policies", "-o", bundle, "--signing-key", f"{signer}.pem")
    )
    assert built[0] == 0, built
    roles = {}
    for role in ("reviewer", "approver"):
        made = await command("content", "keygen", role, "-o", tmp_path / f"{role}.key", "--json")
        assert made[0] == 0, made
        roles[f"SLUICEGATE_CONTENT__{role.upper()}"] = json.loads(made[1])["public"]
    ports = free_ports(3)
    environment = {
        **os.environ,
        **roles,
        **{
            f"SLUICEGATE_{section}__LISTEN": f"127.0.0.1:{port}"
            for section, port in zip(("DATA", "CONSOLE", "OPS"), ports, strict=True)
        },
        "SLUICEGATE_UPSTREAMS__OPENAI__KEY": "sk-test-0123456789abcdef",
        "SLUICEGATE_UPSTREAMS__ANTHROPIC__KEY": "sk-test-0123456789abcdef",
        "PYTHONPATH": str(ROOT),
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.cli", "serve", "--config", str(config)),
        cwd=tmp_path,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            assert (
                await process.stdout.readline()
                == f"data     http://127.0.0.1:{ports[0]}\n".encode()
            )
        code, said = await command("status", "--dir", tmp_path / "sluicegate-data", "--json")
        assert code == 0, said
        assert json.loads(said)["policy_source"] == "policies.tar.gz"
    finally:
        process.terminate()
        await process.communicate()
    assert process.returncode == 0
