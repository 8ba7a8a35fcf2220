"""The tour: eight steps, each a real call with a vendor's SDK, each showing what came back."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anthropic
import openai

from gateway.audit.verify import parse_vkey, verify_directory
from gateway.control.client import ControlClient, ControlRefused, ControlUnavailable
from gateway.demo.seed import ACTOR, DemoDirectory
from gateway.identity import api_keys

__all__ = ["Tour", "your_turn"]

OPENING = "open_evaluation: 0"
OPENED = "open_evaluation: 3"
NONSENSE = "no-such-model"
WIDTH = 78
REVISION_S = 30.0
_OTHERWISE = (
    anthropic.APIError,
    openai.APIError,
    ControlRefused,
    ControlUnavailable,
    TimeoutError,
)
"""How a step may end in a directory that is not as the demo made it."""


class Tour:
    """Walks a running demo.

    Args:
        directory: the demo's state.
        say: where lines go.
        pause: waits between steps; by default for Enter on standard input.
    """

    def __init__(
        self,
        directory: DemoDirectory,
        say: Callable[[str], None],
        pause: Callable[[], None] | None = None,
    ) -> None:
        self._directory = directory
        self._say = say
        self._pause = pause or _enter
        self._demo = directory.read()
        self._control = ControlClient(directory.state.control_socket)

    async def walk(self) -> None:
        """All eight steps, with a pause between them."""
        rules = await self._control.get("/rules")
        steps: list[tuple[str, str, Callable[[], Coroutine[Any, Any, None]]]] = [
            ("ALLOW", "red -> mythos-5: the answer streams", self._allow),
            ("DENY", "newcomer -> mythos-5", lambda: self._deny(rules)),
            ("HIDDEN", "an embargoed id and a nonsense id", self._hidden),
            ("DOWNGRADE", "blue opted in, and asks fable-5", self._downgrade),
            ("LIMIT", "blue -> gpt-5.5-cyber, again and again", self._limit),
            ("TAKE BACK", "red is streaming; his key is revoked", self._take_back),
            ("CHANGE", "one line of tiers.yaml, and step 2 again", self._change),
            ("PROVE", "the log, and the log with one byte flipped", self._prove),
        ]
        for number, (name, what, step) in enumerate(steps, 1):
            self._say("")
            self._say(f"{number} {name:<10} {what}")
            try:
                await step()
            except _OTHERWISE as error:
                self._told(f"not as written: {type(error).__name__}: {error}"[:300])
                self._told("people or policies of this directory were changed; another --dir")
                self._told("starts afresh, and `sluicegate audit tail` shows what was changed")
            await _waited(self._pause)

    # The steps

    async def _allow(self) -> None:
        text = []
        with self._anthropic("red").messages.stream(
            model="mythos-5", max_tokens=300, messages=_user("What stands in my way?")
        ) as stream:
            for piece in stream.text_stream:
                text.append(piece)
                print(piece, end="", flush=True)
        print(flush=True)
        self._told(f"200, {len(text)} pieces, through the official anthropic SDK, unmodified")

    async def _deny(self, rules: dict[str, Any]) -> None:
        try:
            await asyncio.to_thread(self._ask_mythos, "newcomer")
        except anthropic.PermissionDeniedError as error:
            message = error.body["error"]["message"]  # type: ignore[index]
            self._told(f"403 {type(error).__name__}: {message}")
            rule = message.partition("rule=")[2].partition(" ")[0].rstrip("]")
            place = rules.get(rule)
            if place is not None:
                self._told(f"the rule is {rule}, at policies/{place['file']}:{place['line']}")
        else:
            self._told("200: the policy in this directory lets newcomer through")

    async def _hidden(self) -> None:
        models = self._demo["models"].items()
        hidden = next((model for model, about in models if about["stage"] == "embargoed"), None)
        if hidden is None:
            self._told("policies/data/models.yaml has no embargoed model: it was edited since")
            return
        answers = []
        for model in (hidden, NONSENSE):
            try:
                self._anthropic("red").messages.create(
                    model=model, max_tokens=20, messages=_user("hello")
                )
            except anthropic.NotFoundError as error:
                body = dict(error.body)  # type: ignore[call-overload]
                identifier = body.pop("request_id", "")
                answers.append(body)
                self._told(f"{model:<14} 404 {error.response.text[:90]}… ({identifier[:12]}…)")
        same = "the same, but for the request id" if answers[0] == answers[1] else "DIFFERENT"
        self._told(same)

    async def _downgrade(self) -> None:
        answer = self._anthropic("blue").messages.with_raw_response.create(
            model="fable-5", max_tokens=60, messages=_user("Summarise this finding.")
        )
        message = answer.parse()
        served = answer.headers.get("x-sluicegate-served-model")
        asked = answer.headers.get("x-sluicegate-requested-model")
        self._told(f"200, asked {asked}, served {served}; the answer says model={message.model}")

    async def _limit(self) -> None:
        client = self._openai("blue")
        for attempt in range(1, 21):
            try:
                client.chat.completions.create(
                    model="gpt-5.5-cyber",
                    max_tokens=20,
                    messages=[{"role": "user", "content": "ping"}],
                )
            except openai.RateLimitError as error:
                wait = error.response.headers.get("retry-after")
                self._told(f"call {attempt}: 429 RateLimitError, retry in {wait} s")
                self._told(error.body["message"])  # type: ignore[index]
                return
            self._told(f"call {attempt}: 200")

    async def _take_back(self) -> None:
        key = await self._disposable_key()
        client = anthropic.Anthropic(
            base_url=self._demo["data_url"], api_key=key.text, max_retries=0
        )
        revoked_at: list[float] = []
        loop = asyncio.get_running_loop()

        def stream() -> str:
            words = 0
            try:
                with client.messages.stream(
                    model="mythos-5", max_tokens=2000, messages=_user("Answer slowly, please.")
                ) as running:
                    for piece in running.text_stream:
                        print(piece, end="", flush=True)
                        words += 1
                        if words == 15:  # noqa: PLR2004 - enough to see that it streams
                            asyncio.run_coroutine_threadsafe(revoke(), loop)
            except anthropic.APIStatusError as error:
                if not revoked_at:
                    raise
                ended = time.monotonic() - revoked_at[0]
                print(flush=True)
                return f"{ended:.2f} s after the command: {type(error).__name__}: {error.message}"
            return "the stream went on to its end: that is a fault"

        async def revoke() -> None:
            revoked_at.append(time.monotonic())
            await self._changed(
                {"change": "move", "kind": "credential", "id": "red-tour", "verb": "revoke"},
                "the tour's sixth step",
            )

        self._told(await asyncio.to_thread(stream))

    async def _change(self) -> None:
        tiers = self._directory.policies / "data" / "tiers.yaml"
        text = tiers.read_text()
        if OPENING not in text:
            self._told(f"policies/data/tiers.yaml has no {OPENING!r}: it was edited since")
            return
        line = text[: text.index(OPENING)].count("\n") + 1
        before = (await self._control.get("/status"))["revision"]
        self._told(f"{tiers}:{line}: {OPENING} becomes {OPENED.rpartition(' ')[2]}")
        tiers.write_text(text.replace(OPENING, OPENED, 1))
        try:
            after = await self._next_revision(before)
            self._told(f"revision {_short(before)} -> {_short(after)}, its own tests passed")
            message = await asyncio.to_thread(self._ask_mythos, "newcomer")
            self._told(f"newcomer -> mythos-5: 200, {message.usage.output_tokens} tokens")
        finally:
            tiers.write_text(text)
        await self._next_revision(after)
        self._told("the line is put back: the first revision is active again")

    async def _prove(self) -> None:
        keys = dict(parse_vkey(vkey) for vkey in self._demo["log_vkeys"])
        for report in verify_directory(self._directory.state.audit, keys):
            self._told(f"{report.shard}: {report.size} records, {report.verdict}")
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch) / "audit"
            shutil.copytree(self._directory.state.audit, copy)
            segment = max(copy.rglob("*.seg"), key=lambda path: path.stat().st_size)
            data = bytearray(segment.read_bytes())
            data[len(data) // 2] ^= 1
            segment.write_bytes(data)
            shard = segment.parent.name
            self._told(f"in a copy, byte {len(data) // 2} of {shard}/{segment.name} is flipped:")
            for report in verify_directory(copy, keys):
                self._told(f"{report.shard}: {report.verdict}")

    # What the steps share

    def _told(self, line: str) -> None:
        self._say(f"  {line}")

    def _ask_mythos(self, member: str) -> anthropic.types.Message:
        return self._anthropic(member).messages.create(
            model="mythos-5", max_tokens=60, messages=_user("hello")
        )

    def _anthropic(self, member: str) -> anthropic.Anthropic:
        return anthropic.Anthropic(
            base_url=self._demo["data_url"], api_key=self._demo["keys"][member], max_retries=0
        )

    def _openai(self, member: str) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=self._demo["data_url"] + "/v1",
            api_key=self._demo["keys"][member],
            max_retries=0,
        )

    async def _disposable_key(self) -> api_keys.MintedKey:
        """A second key of red's, so that the one in demo.json goes on working."""
        minted = api_keys.mint()
        known = await self._control.get("/registry/credential")
        number = 1 + sum(each["id"].startswith("red-tour") for each in known)
        self._tour_key = "red-tour" if number == 1 else f"red-tour-{number}"
        await self._changed(
            {
                "change": "add",
                "kind": "credential",
                "fields": {
                    "id": self._tour_key,
                    "member": self._demo["members"]["red"],
                    "sha256": minted.sha256,
                    "prefix": minted.prefix,
                },
            },
            "a key to be taken back in the tour",
        )
        return minted

    async def _changed(self, change: dict[str, Any], reason: str) -> None:
        if change.get("id") == "red-tour":
            change["id"] = self._tour_key
        await self._control.post("/changes", {"change": change, "actor": ACTOR, "reason": reason})

    async def _next_revision(self, before: str) -> str:
        """Wait until another revision is active in every worker.

        Raises:
            TimeoutError: none became so; `sluicegate status` says why.
        """
        async with asyncio.timeout(REVISION_S):
            while True:
                status = await self._control.get("/status")
                after: str = status["revision"]
                if after != before and all(each["revision"] == after for each in status["workers"]):
                    return after
                await asyncio.sleep(0.1)


def your_turn(demo: dict[str, Any], directory: Path) -> Iterator[str]:
    """Lines to copy: agents, SDKs and curl, with keys that work now."""
    url, keys = demo["data_url"], demo["keys"]
    yield ""
    yield "Your turn ".ljust(WIDTH, "-")
    yield "Each line below can be pasted as it is."
    yield ""
    yield "Claude Code, as red:"
    yield f"  ANTHROPIC_BASE_URL={url} ANTHROPIC_AUTH_TOKEN={keys['red']} \\"
    yield "    ANTHROPIC_DEFAULT_HAIKU_MODEL=opus-4.8 claude --model mythos-5"
    yield "Codex, as blue:"
    provider = (
        f'{{name="Sluicegate",base_url="{url}/v1",wire_api="responses",'
        'env_key="SLUICEGATE_KEY",stream_max_retries=0}'
    )
    yield f"  SLUICEGATE_KEY={keys['blue']} codex -m gpt-5.5 -c model_provider=sluicegate \\"
    yield f"    -c 'model_providers.sluicegate={provider}'"
    yield "openai (.venv/bin/python):"
    yield f'import openai; client = openai.OpenAI(base_url="{url}/v1", api_key="{keys["blue"]}")'
    yield 'client.responses.create(model="gpt-5.5", input="hello").output_text'
    yield "anthropic (.venv/bin/python):"
    yield (
        f'import anthropic; client = anthropic.Anthropic(base_url="{url}", api_key="{keys["red"]}")'
    )
    yield (
        'client.messages.create(model="mythos-5", max_tokens=100, '
        'messages=[{"role": "user", "content": "hello"}])'
    )
    yield "curl:"
    yield f"  curl {url}/v1/chat/completions -H 'authorization: Bearer {keys['newcomer']}' \\"
    yield "    -H 'content-type: application/json' \\"
    yield ('    -d \'{"model": "gpt-5.5", "messages": [{"role": "user", "content": "hello"}]}\'')
    yield ""
    yield f"operators: .venv/bin/sluicegate status --dir {directory}; likewise audit tail"
    yield f"rules: {directory}/policies; what you change there is in force as soon as it is sound"
    yield f"console {demo['console_url']}   metrics {demo['ops_url']}/metrics   Ctrl-C ends it"


def _user(text: str) -> Any:
    return [{"role": "user", "content": text}]


def _short(revision: str) -> str:
    return revision.removeprefix("sha256:")[:12]


async def _waited(pause: Callable[[], None]) -> None:
    """``pause`` in a thread of its own that may be left behind: Ctrl-C must not wait for Enter, as
    it would for a thread of the loop's."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def wait() -> None:
        pause()
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=wait, name="tour pause", daemon=True).start()
    await done.wait()


def _enter() -> None:
    print("  [Enter]", end="", flush=True)
    sys.stdin.readline()
