"""``audit publish``: the logs, read-only, for auditors' own tools and monitors."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.audit.index import Index, IndexDamaged, Log
from gateway.audit.note import parse_checkpoint
from gateway.audit.published import Resource, resource
from gateway.audit.read import LogReader
from gateway.audit.segments import LogCorrupt
from gateway.cli.listening import BehindProxy, bound, listener_of, serve_until_stopped
from gateway.cli.search import with_index
from gateway.cli.terminal import DIR, AsJson, Directory
from gateway.state import StateDirectory

__all__ = ["publish"]


def publish(
    listen: Annotated[str, typer.Option("--listen", help="HOST:PORT.")] = "127.0.0.1:8091",
    behind_proxy: BehindProxy = False,
    directory: Directory = DIR,
    json: AsJson = False,
) -> None:
    """Serve the logs, read-only, as tiles.

    Speaks c2sp.org/tlog-tiles: /SHARD/checkpoint, /SHARD/tile/… and /SHARD/tile/entries/…. Whoever
    reaches it reads every record; let only reviewers.
    """
    state = StateDirectory(Path(directory))
    listener = listener_of(listen, behind_proxy=behind_proxy)

    def run(index: Index, logs: Mapping[str, Log]) -> None:
        with closing(bound(listener)) as held:
            port = held.getsockname()[1]
            base = f"http://{listener.host}:{port}"
            told = {"logs": [f"{base}/{shard}/" for shard in sorted(logs)]}
            serve_until_stopped(_Application(index, logs), listener, held, told, json=json)

    with_index(state, run)


class _Application:
    """Raw ASGI; the index is brought up to date whenever a checkpoint is asked for."""

    def __init__(self, index: Index, logs: Mapping[str, Log]) -> None:
        self._index, self._logs = index, logs

    async def __call__(self, scope: Mapping[str, Any], _receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        status, kind, body, cache = 404, "text/plain", b"not found\n", "no-store"
        if scope["method"] not in {"GET", "HEAD"}:
            status, body = 405, b"read-only\n"
        else:
            try:
                found = self._found(scope["path"])
            except (IndexDamaged, LogCorrupt, OSError) as error:
                print(f"sluicegate: {error}", file=sys.stderr, flush=True)
                status, body = 503, b"the log cannot be read\n"
            else:
                if found is not None:
                    status, kind, body = 200, found.kind, found.body
                    cache = "max-age=31536000, immutable" if found.final else "no-cache"
        headers = [
            (b"content-type", kind.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", cache.encode()),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        sent = b"" if scope["method"] == "HEAD" else body
        await send({"type": "http.response.body", "body": sent})

    def _found(self, path: str) -> Resource | None:
        shard, _, rest = path.removeprefix("/").partition("/")
        log = self._logs.get(shard)
        if log is None:
            return None
        if rest == "checkpoint":
            self._index.catch_up()
        note, tile_of = self._index.head(shard)
        size = parse_checkpoint(note, log.keys).size

        def entries(first: int, count: int) -> list[bytes]:
            found = LogReader(log.directory).entries(first)
            return [entry.raw for entry in islice(found, count)]

        return resource(rest, note, size, tile_of, entries)
