"""Small servers that a command runs until it is told to stop: on the loopback, without TLS."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
from typing import Annotated, Any

import typer

from gateway.cli.terminal import EXIT_UNAVAILABLE, EXIT_USAGE, fail, say, show_json
from gateway.serving import Server, bind, configuration
from gateway.settings import Listener

__all__ = ["BehindProxy", "bound", "listener_of", "serve_until_stopped"]

BehindProxy = Annotated[bool, typer.Option("--behind-proxy", help="A proxy in front ends TLS.")]
_MAX_CONNECTIONS = 200
"""At once; further ones are answered 503."""


def listener_of(listen: str, *, behind_proxy: bool) -> Listener:
    """Where to listen, from ``HOST:PORT``."""
    host, _, port = listen.rpartition(":")
    public, number = False, 0
    try:
        public = not ipaddress.ip_address(host.strip("[]")).is_loopback
        number = int(port)
        fits = 0 <= number < 1 << 16
    except ValueError:
        fits = False
    if not fits:
        fail(f"--listen {listen!a}", "write it as 127.0.0.1:8090", code=EXIT_USAGE)
    if public and not behind_proxy:
        fail(
            f"{listen} is reachable from outside without TLS",
            "put a proxy with TLS in front and say --behind-proxy",
            code=EXIT_USAGE,
        )
    return Listener(listen=f"{host}:{number}", behind_proxy=behind_proxy)


def bound(listener: Listener) -> socket.socket:
    """Its socket, which takes connections from now on: who is told of it may come at once."""
    try:
        held = bind(listener)
        held.listen()
    except OSError as error:
        fail(
            f"{listener.listen}: {error.strerror}",
            "choose another by --listen",
            code=EXIT_UNAVAILABLE,
        )
    return held


def serve_until_stopped(
    application: Any, listener: Listener, held: socket.socket, told: dict[str, Any], *, json: bool
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        application: raw ASGI.
        listener: where.
        held: its bound socket.
        told: said once it can be stopped, a line each.
        json: say it in JSON.
    """
    server = Server(configuration(application, listener, limit_concurrency=_MAX_CONNECTIONS))

    async def run() -> None:
        loop = asyncio.get_running_loop()
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(each, server.stop)
        if json:
            show_json(told)
        else:
            for name, value in told.items():
                say(f"{name:8} {value if isinstance(value, str) else ', '.join(value)}")
        await server.serve(sockets=[held])

    asyncio.run(run())
