"""uvicorn without its own ideas about signals: the process that runs a server stops it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn

from gateway.settings import Listener

__all__ = ["Server", "bind", "configuration"]


class Server(uvicorn.Server):
    """A server that is stopped by ``stop`` alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process: uvicorn raises them again when it ends."""
        yield

    def stop(self) -> None:
        """Accept no more, and return from ``serve`` when running requests have ended."""
        self.should_exit = True


def configuration(app: Any, listener: Listener | None, **options: Any) -> uvicorn.Config:
    """What all listeners have in common: uvloop, no banner, no trusted headers, no access log."""
    if listener is not None and listener.tls is not None:
        options |= {
            "ssl_certfile": str(listener.tls.certificate),
            "ssl_keyfile": str(listener.tls.key),
        }
    return uvicorn.Config(
        app,
        **{
            "interface": "asgi3",
            "ws": "none",
            "lifespan": "off",
            "log_config": None,
            "access_log": False,
            "server_header": False,
            "proxy_headers": False,
            "timeout_graceful_shutdown": 2,
            **options,
        },
    )


def bind(listener: Listener) -> socket.socket:
    """Bind a listener's address.

    Raises:
        OSError: the address is in use or not ours.
    """
    family = socket.AF_INET6 if ":" in listener.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((listener.host, listener.port))
    except OSError:
        bound.close()
        raise
    bound.set_inheritable(True)
    return bound
