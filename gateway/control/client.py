"""The commands' end of the control socket."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

__all__ = ["ControlClient", "ControlRefused", "ControlUnavailable"]

TIMEOUT_S = 30.0
PROBLEM = 400


class ControlUnavailable(Exception):
    """No gateway answers on the control socket."""


class ControlRefused(Exception):
    """The gateway refused. ``remedy`` says what to do; ``unavailable``: it is a fault, not a no."""

    def __init__(self, message: str, remedy: str, *, unavailable: bool) -> None:
        super().__init__(message)
        self.remedy = remedy
        self.unavailable = unavailable


class ControlClient:
    """Asks one gateway.

    Args:
        path: its control socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    async def get(self, route: str) -> Any:
        """Read something; JSON values.

        Raises:
            ControlUnavailable, ControlRefused: there is no answer, or it is no.
        """
        return await self._ask("GET", route, None)

    async def post(self, route: str, body: Any) -> Any:
        """Change something; as ``get``."""
        return await self._ask("POST", route, msgspec.json.encode(body))

    async def _ask(self, method: str, route: str, body: bytes | None) -> Any:
        if not self._path.is_socket():
            raise ControlUnavailable(f"no gateway runs in {self._path.parent}")
        try:
            async with (
                aiohttp.ClientSession(
                    connector=aiohttp.UnixConnector(str(self._path)),
                    timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
                ) as session,
                session.request(
                    method,
                    "http://control" + route,
                    data=body,
                    headers={"content-type": "application/octet-stream"},
                ) as response,
            ):
                raw = await response.read()
                status = response.status
        except aiohttp.ClientConnectorError as error:
            if error.errno == errno.ECONNREFUSED:  # its socket was left over
                raise ControlUnavailable(f"no gateway runs in {self._path.parent}") from None
            raise ControlUnavailable(f"{self._path}: {error.strerror}") from None
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ControlUnavailable(
                f"the gateway in {self._path.parent} does not answer ({type(error).__name__})"
            ) from None
        try:
            answer = msgspec.json.decode(raw)
        except msgspec.DecodeError:
            raise ControlUnavailable(f"the gateway answered {status} and no JSON") from None
        if status >= PROBLEM:
            raise ControlRefused(
                str(answer.get("title", "refused")),
                str(answer.get("remedy", "")),
                unavailable=status >= 500,  # noqa: PLR2004 - server errors begin there
            )
        return answer
