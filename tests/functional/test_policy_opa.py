"""A real OPA, pulling our signed bundle: it agrees with the embedded engine, and fails closed."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gzip
import http.server
import io
import json
import os
import signal
import socket
import subprocess
import tarfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from joserfc.jwk import ECKey

from gateway.core.decision import Effect, parse_decision
from gateway.core.facts import Facts
from gateway.core.protocols import EngineUnavailable
from gateway.policy.archive import write_archive
from gateway.policy.bundle import Bundle, bundle_from_files, read_directory
from gateway.policy.embedded import ENTRY_POINT, EmbeddedEngine, Interpreter
from gateway.policy.judge import Judge, encode_facts
from gateway.policy.lifecycle import Lifecycle, Stage, examine, read_golden
from gateway.policy.opa import BUNDLE_PATH, OpaEngine, opa_configuration
from gateway.policy.portable import PORTABLE
from gateway.policy.revision import revision_of
from tests.policy.facts_factory import generate
from tests.policy.small_bundle import MODELS, RULES, small_bundle, small_facts

pytestmark = pytest.mark.needs("opa")

ROOT = Path(__file__).resolve().parents[2]
KEY = ECKey.generate_key("P-256")
FACTS = encode_facts(small_facts())
SEED, CASES, BATCH = 20261123, 10_000, 500


class Shelf(http.server.ThreadingHTTPServer):
    """Serves one archive, as the ops listener does."""

    daemon_threads = True

    def __init__(self) -> None:
        self.archive = b""
        super().__init__(("127.0.0.1", 0), Reader)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def put(self, bundle: Bundle) -> None:
        self.archive = write_archive(bundle, KEY)


class Reader(http.server.BaseHTTPRequestHandler):
    server: Shelf

    def do_GET(self) -> None:
        found = self.path == f"/{BUNDLE_PATH}" and self.server.archive
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "application/gzip")
        self.send_header("Content-Length", str(len(self.server.archive) if found else 0))
        self.end_headers()
        if found:
            self.wfile.write(self.server.archive)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def shelf() -> Iterator[Shelf]:
    with Shelf() as shelf:
        thread = threading.Thread(target=shelf.serve_forever)
        thread.start()
        yield shelf
        shelf.shutdown()
        thread.join()


class Opa:
    """A running OPA server."""

    def __init__(self, binary: str, directory: Path, shelf: Shelf) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        public = KEY.as_pem(private=False).decode()
        config = directory / f"opa-{self.port}.yaml"
        config.write_text(opa_configuration(shelf.url, verification_key=public, poll_s=(1, 1)))
        command = [binary, "run", "--server", "--disable-telemetry", "--log-level=error"]
        command += [f"--addr=127.0.0.1:{self.port}", f"--config-file={config}"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def get(self, path: str) -> int:
        """The status of a GET; 0 while nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=2) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except OSError:
            return 0

    def post(self, path: str, document: Any) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", msgspec.json.encode(document), method="POST"
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.loads(reply.read())

    def wait(self, path: str, status: int = 200) -> None:
        until = time.monotonic() + 20
        while self.get(path) != status:
            assert time.monotonic() < until, f"OPA does not answer {path} with {status}"
            time.sleep(0.05)

    def end(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def start_opa(
    opa_binary: str, shelf: Shelf, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], Opa]]:
    running: list[Opa] = []

    def start() -> Opa:
        running.append(Opa(opa_binary, tmp_path_factory.mktemp("opa"), shelf))
        return running[-1]

    yield start
    for opa in running:
        opa.end()


@contextlib.asynccontextmanager
async def engine_for(
    opa: Opa | int, bundle: Bundle | None, **options: Any
) -> AsyncIterator[OpaEngine]:
    port = opa if isinstance(opa, int) else opa.port
    engine = OpaEngine(port=port, **{"adopt_within_s": 20, **options})
    await engine.start()
    try:
        if bundle is not None:
            await engine.adopt(bundle, revision_of(bundle))
        yield engine
    finally:
        await engine.close()


async def refused(engine: OpaEngine, facts: bytes = FACTS) -> str:
    """Why there was no decision; the deadline is 0.25 s, and 2 s leave room for a busy machine."""
    begun = time.monotonic()
    with pytest.raises(EngineUnavailable) as refusal:
        await engine.decide(facts)
    assert time.monotonic() - begun < 2
    return str(refusal.value)


# The bundle


async def test_opa_takes_our_signed_bundle_and_the_next_one(
    start_opa: Callable[[], Opa], shelf: Shelf
) -> None:
    shelf.put(small_bundle())
    opa = start_opa()
    async with engine_for(opa, None) as engine:
        life = Lifecycle(engine, publish=shelf.put)
        judge = Judge(engine)
        assert not await engine.health()
        assert (await life.activate(small_bundle())).active
        assert await engine.health()
        assert (await judge.judge(small_facts(cyber=2))).decision.effect is Effect.DENY
        opened = small_bundle(models=MODELS.replace("cyber: 3", "cyber: 1"))
        assert (await life.activate(opened)).stage is Stage.ACTIVE
        judgement = await judge.judge(small_facts(cyber=2))
        assert judgement.decision.effect is Effect.ALLOW
        assert judgement.revision == opened.id


def tampered(archive: bytes) -> bytes:
    """One rule turned round, all lengths and the signature as they were."""
    tar = bytearray(gzip.decompress(archive))
    place = tar.index(b".tiers.cyber >= data.models")
    tar[place : place + 15] = b".tiers.cyber != "[:15]
    return gzip.compress(bytes(tar))


def unsigned(archive: bytes) -> bytes:
    out = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(archive)) as source,
        tarfile.open(fileobj=out, mode="w:gz") as target,
    ):
        for entry in source:
            if entry.name != ".signatures.json":
                target.addfile(entry, source.extractfile(entry))
    return out.getvalue()


def by_another_key(_: bytes) -> bytes:
    return write_archive(small_bundle(), ECKey.generate_key("P-256"))


@pytest.mark.parametrize("spoil", [tampered, unsigned, by_another_key])
async def test_opa_refuses_a_bundle_that_is_not_what_we_signed(
    spoil: Callable[[bytes], bytes], start_opa: Callable[[], Opa], shelf: Shelf
) -> None:
    shelf.put(small_bundle())
    shelf.archive = spoil(shelf.archive)
    opa = start_opa()
    opa.wait("/health")
    async with engine_for(opa, None, adopt_within_s=1.5) as engine:
        with pytest.raises(EngineUnavailable, match="did not take"):
            await engine.adopt(small_bundle(), revision_of(small_bundle()))
        assert opa.get("/health?bundles") == 500
        await refused(engine)
        shelf.put(small_bundle())  # the negative control: the same OPA takes the true one
        opa.wait("/health?bundles")
        await engine.adopt(small_bundle(), revision_of(small_bundle()))
        assert (await engine.decide(FACTS)).effect is Effect.ALLOW


# K25: builtin errors


async def test_k25_the_malformed_value_that_default_opa_allows_is_no_decision(
    start_opa: Callable[[], Opa], shelf: Shelf
) -> None:
    denies = RULES + (
        '\ndecision := {"effect": "deny", "reasons": []} if '
        'net.cidr_contains("10.0.0.0/8", input.subject.id)\n'
    )
    bundle = small_bundle(rules=denies)
    shelf.put(bundle)
    opa = start_opa()
    async with engine_for(opa, bundle) as engine:
        document = {"input": msgspec.json.decode(FACTS)}
        lenient = opa.post("/v1/data/sluicegate/decision", document)
        assert lenient["result"]["effect"] == "allow"  # the trap is real
        assert "ClientResponseError" in await refused(engine)
        embedded = EmbeddedEngine()
        await embedded.adopt(bundle, revision_of(bundle))
        with pytest.raises(EngineUnavailable):
            await embedded.decide(FACTS)


def test_k29_every_portable_function_is_one_that_opa_has(opa_binary: str) -> None:
    told = subprocess.run(
        [opa_binary, "capabilities", "--current"], capture_output=True, check=True
    )
    assert {builtin["name"] for builtin in json.loads(told.stdout)["builtins"]} >= PORTABLE


# K26, K32: an OPA that is not well


@pytest.fixture
async def well(start_opa: Callable[[], Opa], shelf: Shelf) -> AsyncIterator[tuple[Opa, OpaEngine]]:
    shelf.put(small_bundle())
    opa = start_opa()
    async with engine_for(opa, small_bundle()) as engine:
        assert (await engine.decide(FACTS)).effect is Effect.ALLOW
        yield opa, engine
    opa.end()


async def test_a_hung_opa_is_left_at_the_deadline_and_found_again(
    well: tuple[Opa, OpaEngine],
) -> None:
    opa, engine = well
    os.kill(opa.process.pid, signal.SIGSTOP)
    for _ in range(7):
        await refused(engine)
    assert "lately" in await refused(engine)  # the breaker is open
    os.kill(opa.process.pid, signal.SIGCONT)
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(EngineUnavailable):
                assert (await engine.decide(FACTS)).effect is Effect.ALLOW
                break
            await asyncio.sleep(0.1)


async def test_a_killed_opa_decides_nothing(well: tuple[Opa, OpaEngine]) -> None:
    opa, engine = well
    opa.end()
    for _ in range(3):
        await refused(engine)
    assert not await engine.health()


async def test_an_opa_of_another_revision_decides_nothing(
    well: tuple[Opa, OpaEngine], shelf: Shelf
) -> None:
    _, engine = well
    shelf.put(small_bundle(models=MODELS + "# not ours\n"))
    async with asyncio.timeout(20):
        while True:  # the answers were of our revision until OPA pulled the other
            try:
                await engine.decide(FACTS)
            except EngineUnavailable as error:
                assert "another revision" in str(error)  # noqa: PT017
                break
            await asyncio.sleep(0.05)
    await refused(engine)


BODY = json.dumps(
    {
        "result": {"effect": "allow"},
        "provenance": {"bundles": {"sluicegate": {"revision": small_bundle().id}}},
    }
)


def reply(body: str, status: str = "200 OK", kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


REPLIES = {
    "reset": b"",
    "garbage": b"\x00\xff" * 40,
    "cut short": reply(BODY)[:-5],
    "slow": None,
    "500": reply('{"code":"internal_error"}', "500 Internal Server Error"),
    "503": reply("", "503 Service Unavailable"),
    "404": reply("{}", "404 Not Found"),
    "redirect": reply("", "302 Found"),
    "without result": reply(json.dumps({"provenance": json.loads(BODY)["provenance"]})),
    "empty object": reply("{}"),
    "wrong json": reply(BODY.replace(":", "=")),
    "not json": reply(BODY, kind="text/html"),
    "a list": reply("[]"),
    "wrong revision": reply(BODY.replace("sha256:", "sha256:0")),
    "no revision": reply('{"result":{"effect":"allow"}}'),
    "unknown effect": reply(BODY.replace("allow", "permit")),
    "an extra field": reply(BODY.replace('"allow"', '"allow","x":1')),
}


@pytest.mark.parametrize("name", REPLIES)
async def test_k26_k32_a_sick_opa_decides_nothing(name: str) -> None:
    says: list[bytes | None] = [reply(BODY)]
    over = asyncio.Event()
    serving: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        with (
            contextlib.suppress(asyncio.IncompleteReadError, ConnectionError),
            contextlib.closing(writer),
        ):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.partition(b":")[2])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length")
                )
                await reader.readexactly(length)
                if says[0] is None:
                    await over.wait()
                writer.write(says[0] or b"")
                await writer.drain()
                if says[0] != reply(BODY):
                    break

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with engine_for(port, small_bundle()) as engine:
        assert (await engine.decide(FACTS)).effect is Effect.ALLOW  # a whole answer is taken
        says[0] = REPLIES[name]
        await refused(engine)
    over.set()
    server.close()
    await asyncio.gather(*(task for task in serving if task))


async def test_k32_a_refused_connection_decides_nothing(free_port: int) -> None:
    async with engine_for(free_port, None) as engine:
        assert "cannot be reached" in await refused(engine)


# K30: both engines agree


def sample_policy() -> Bundle:
    """The shipped policy, and beside it one rule that decides many cases in one query."""
    shipped = read_directory(ROOT / "policies")
    batch = (
        "package differential\n\ndecisions := [[i, decision] |\n"
        "\tsome i, case in input.cases\n"
        "\tdecision := data.sluicegate.decision with input as case\n]\n"
    )
    return bundle_from_files({**shipped.files, "differential/batch.rego": batch.encode()})


@pytest.fixture(scope="module")
def sample(start_opa: Callable[[], Opa], shelf: Shelf) -> tuple[Opa, Bundle]:
    bundle = sample_policy()
    shelf.put(bundle)
    opa = start_opa()
    opa.wait("/health?bundles")
    return opa, bundle


def embedded_decisions(bundle: Bundle, cases: list[bytes]) -> list[Any]:
    interpreter = Interpreter(bundle.modules, bundle.data)
    decisions = []
    for case in cases:
        interpreter.set_input(case)
        decisions.append(json.loads(interpreter.evaluate(ENTRY_POINT)))
    return decisions


def opa_decisions(opa: Opa, cases: list[bytes]) -> list[Any]:
    decisions: list[Any] = []
    for start in range(0, len(cases), BATCH):
        batch = [msgspec.Raw(case) for case in cases[start : start + BATCH]]
        reply = opa.post(
            "/v1/data/differential/decisions?strict-builtin-errors=true",
            {"input": {"cases": batch}},
        )
        assert [index for index, _ in reply["result"]] == list(range(len(batch)))
        decisions += [decision for _, decision in reply["result"]]
    return decisions


def canonical(document: Any) -> bytes:
    """Facts as the gateway encodes them; what the types refuse is no fact at all."""
    return encode_facts(msgspec.convert(document, Facts))


def test_k30_both_engines_agree_on_ten_thousand_generated_facts(sample: tuple[Opa, Bundle]) -> None:
    opa, bundle = sample
    cases = [canonical(document) for document in generate(SEED, CASES)]
    ours = embedded_decisions(bundle, cases)
    theirs = opa_decisions(opa, cases)
    differing = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
    assert differing == [], (cases[differing[0]], ours[differing[0]], theirs[differing[0]])
    effects = collections.Counter(
        parse_decision(msgspec.json.encode(decision)).effect for decision in ours
    )
    assert all(effects[effect] >= 0.15 * CASES for effect in Effect), effects


async def test_k30_both_engines_agree_one_by_one(sample: tuple[Opa, Bundle]) -> None:
    opa, bundle = sample
    embedded = EmbeddedEngine()
    await embedded.adopt(bundle, revision_of(bundle))
    async with engine_for(opa, bundle, deadline_s=5) as engine:
        for document in generate(SEED + 1, 300):
            case = canonical(document)
            assert await engine.decide(case) == await embedded.decide(case)


async def test_k30_both_engines_decide_every_golden_case_as_written(
    sample: tuple[Opa, Bundle],
) -> None:
    opa, bundle = sample
    golden = read_golden(ROOT / "tests" / "policy" / "golden")
    assert len(golden) > 20
    assert examine(read_directory(ROOT / "policies"), golden) == []
    async with engine_for(opa, bundle, deadline_s=5) as engine:
        for case in golden:
            assert await engine.decide(case.facts) == case.decision, case.name
