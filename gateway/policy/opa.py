"""A real OPA beside the gateway, asked through opa-python-client.

OPA pulls the signed bundle itself; nothing is ever pushed through the client. Every answer must
come with the revision of the bundle it was made from (OPA reads both in one transaction): an
answer of another revision is no answer. Builtin errors are strict, because OPA's default turns
them into undefined and lets deny rules fail open. The client's own surprises (retries, foreign
exceptions, 200 without a result) end here as ``EngineUnavailable``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import aiohttp
import msgspec
import yaml
from opa_client.opa_async import AsyncOpaClient

from gateway.core.decision import Decision, parse_decision
from gateway.core.protocols import EngineUnavailable, Revision
from gateway.policy.archive import ALGORITHM, KEY_ID
from gateway.policy.bundle import Bundle

__all__ = ["BUNDLE_NAME", "BUNDLE_PATH", "OpaEngine", "opa_configuration"]

BUNDLE_NAME = "sluicegate"
"""The bundle's name in OPA's configuration, and so in its provenance."""
BUNDLE_PATH = "bundles/sluicegate.tar.gz"
"""Where the ops listener serves the archive."""

DEADLINE_S = 0.25
ADOPT_WITHIN_S = 30.0
_POLL_S = 0.05

_PACKAGE = "sluicegate"
_PARAMETERS = {"strict-builtin-errors": "true", "provenance": "true"}

_UNREACHABLE = (aiohttp.ClientConnectionError, TimeoutError, OSError)


def opa_configuration(
    service_url: str,
    *,
    verification_key: str | None = None,
    token: str | None = None,
    poll_s: tuple[int, int] = (1, 2),
) -> str:
    """OPA's configuration file (YAML) for pulling the bundle.

    Args:
        service_url: scheme, host and port of the gateway's ops listener.
        verification_key: the public P-256 key as PEM; with it OPA takes signed bundles only.
        token: the bearer token that the ops listener asks for: the gateway's ``policy.opa.token``.
        poll_s: the least and the greatest seconds between two polls.
    """
    bundle: dict[str, Any] = {
        "service": "gateway",
        "resource": BUNDLE_PATH,
        "polling": {"min_delay_seconds": poll_s[0], "max_delay_seconds": poll_s[1]},
    }
    service: dict[str, Any] = {"url": service_url}
    if token is not None:
        service["credentials"] = {"bearer": {"token": token}}
    configuration: dict[str, Any] = {
        "services": {"gateway": service},
        "bundles": {BUNDLE_NAME: bundle},
    }
    if verification_key is not None:
        bundle["signing"] = {"keyid": KEY_ID}
        configuration["keys"] = {KEY_ID: {"algorithm": ALGORITHM, "key": verification_key}}
    return str(yaml.safe_dump(configuration, sort_keys=False))


class _Breaker:
    """Stops asking after failures in a row, then lets one call at a time find out.

    Only what says that OPA cannot be reached counts: one caller's facts must not close the gate
    for others.
    """

    FAILURES = 5
    PAUSE_S = 1.0

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._failures = 0
        self._closed_until = 0.0

    @property
    def open(self) -> bool:
        return self._monotonic() < self._closed_until

    def check(self) -> None:
        if self.open:
            raise EngineUnavailable("OPA did not answer lately")
        if self._failures >= self.FAILURES:
            self._closed_until = self._monotonic() + self.PAUSE_S  # this call is the probe

    def failed(self) -> None:
        self._failures += 1
        if self._failures >= self.FAILURES:
            self._closed_until = self._monotonic() + self.PAUSE_S

    def answered(self) -> None:
        self._failures = 0
        self._closed_until = 0.0


class OpaEngine:
    """The sidecar engine, for one event loop.

    Args:
        host: where OPA listens; loopback.
        port: its port.
        token: OPA's bearer token, if it asks for one.
        deadline_s: the whole time that one decision may take.
        adopt_within_s: how long OPA may take to pull a new bundle.
        monotonic: seconds, for the breaker.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 8181,
        token: str | None = None,
        deadline_s: float = DEADLINE_S,
        adopt_within_s: float = ADOPT_WITHIN_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = AsyncOpaClient(
            host=host, port=port, token=token, retries=0, timeout=deadline_s
        )
        self._deadline_s = deadline_s
        self._adopt_within_s = adopt_within_s
        self._breaker = _Breaker(monotonic)
        self._started = False
        self._revision: Revision | None = None
        self._awaited: Revision | None = None

    async def start(self) -> None:
        """Open the one client session."""
        await self._client.__aenter__()
        self._started = True

    async def close(self) -> None:
        """Close it; nothing can be decided any more."""
        if self._started:
            self._started = False
            await self._client.close_connection()

    @property
    def revision(self) -> Revision | None:
        """The revision whose answers are taken; ``None`` before the first."""
        return self._revision

    async def adopt(self, bundle: Bundle, revision: Revision) -> None:
        """Wait until OPA answers from this bundle, which it pulls by itself.

        The first answer that comes from it makes the swap, so no decision is refused in between.

        Raises:
            EngineUnavailable: OPA did not take it in time; answers of the revision before stay.
        """
        if bundle.id != revision.id:
            raise EngineUnavailable("the revision is not of this bundle")
        self._awaited = revision
        try:
            async with asyncio.timeout(self._adopt_within_s):
                while self._awaited is revision:
                    with suppress(EngineUnavailable):
                        await self._ask(None, "adopting")
                    if self._awaited is revision:
                        await asyncio.sleep(_POLL_S)
        except TimeoutError:
            problem = f"OPA did not take {revision.id} within {self._adopt_within_s:g} s"
        else:
            return
        finally:
            if self._awaited is revision:
                self._awaited = None
        raise EngineUnavailable(problem)

    async def decide(self, facts: bytes) -> Decision:
        """Ask OPA.

        Raises:
            EngineUnavailable: for everything that is not a valid decision of the active revision
                within the deadline.
        """
        self._breaker.check()
        answer = await self._ask(msgspec.json.decode(facts), "decision")
        if "result" not in answer:
            raise EngineUnavailable("the decision is undefined")
        try:
            return parse_decision(msgspec.json.encode(answer["result"]))
        except ValueError as error:
            raise EngineUnavailable(str(error)) from None

    async def health(self) -> bool:
        """Whether OPA answers now, from the active revision."""
        try:
            await self._ask(None, "health")
        except EngineUnavailable:
            return False
        return True

    async def _ask(self, facts: Any, rule: str) -> dict[str, Any]:
        """One query of ``data.sluicegate.<rule>`` (a constant), with its revision checked."""
        if not self._started:
            raise EngineUnavailable("the OPA client is not started")
        problem = ""
        try:
            async with asyncio.timeout(self._deadline_s):
                while True:
                    before = self._revision
                    answer = await self._client.query_rule(
                        facts, _PACKAGE, rule, query_params=_PARAMETERS
                    )
                    self._breaker.answered()
                    if self._current(answer):
                        return dict(answer)
                    if self._revision is before:
                        problem = "OPA answered from another revision"
                        break
        except _UNREACHABLE as error:
            self._breaker.failed()
            problem = f"OPA cannot be reached: {type(error).__name__}"
        except Exception as error:  # noqa: BLE001  the edge: this client's errors have no base
            problem = f"OPA gave no answer: {type(error).__name__}"
        raise EngineUnavailable(problem)

    def _current(self, answer: Any) -> bool:
        """Whether an answer is of the active revision; the awaited one becomes active here."""
        seen = answer["provenance"]["bundles"][BUNDLE_NAME]["revision"]
        if self._awaited is not None and seen == self._awaited.id:
            self._revision, self._awaited = self._awaited, None
        return self._revision is not None and seen == self._revision.id
