"""One request and its answer: the state that the numbered steps fill, and nothing of ASGI.

A step may be interrupted from outside (the client is gone, access was withdrawn, the process
stops) only while it says so: ``interruptible`` is true in steps that merely wait, false while a
reservation is taken, a record written or a settlement made. An interruption cancels the task of
the exchange once and is found in ``interruption``.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from gateway.core.decision import Capture
from gateway.core.ids import new_request_id
from gateway.core.reasons import Reason
from gateway.core.refusal import Refusal, Refused
from gateway.wire.dialects import Dialect
from gateway.wire.headers import Fields

if TYPE_CHECKING:
    from gateway.core.catalogue import CatalogueEntry
    from gateway.core.entities import Principal
    from gateway.core.facts import Facts, Network, Wire
    from gateway.core.protocols import Position, Reservation
    from gateway.policy.judge import Judgement
    from gateway.wire.answers import Usage
    from gateway.wire.request import RequestBody
    from gateway.wire.routes import Route
    from gateway.wire.sse import StreamReader

__all__ = ["ClientChannel", "Exchange", "Headers", "Request", "Step"]

Headers = list[tuple[bytes, bytes]]


class ClientChannel(Protocol):
    """The client's side of an exchange, as the edge offers it."""

    @property
    def write_paused(self) -> bool:
        """Whether the client is not taking what was written."""

    @property
    def receiving(self) -> bool:
        """Whether more of the request body is still to come."""

    async def receive(self) -> tuple[bytes, bool]:
        """The next piece of the request body, and whether more follows.

        Raises:
            ConnectionError: the client is gone.
        """

    async def start(self, status: int, headers: Headers, *, at_once: bool = True) -> None:
        """Send status and headers; together with the first piece of the body, if they need not go
        ``at_once``."""

    async def write(self, data: bytes, *, more: bool) -> None:
        """Send a piece of the answer; ``more=False`` ends it."""

    def abort(self) -> None:
        """Reset the connection."""

    def on_lost(self, callback: Callable[[], None] | None) -> None:
        """Call back once when the client is gone."""


class Request(Struct, frozen=True):
    """A request head as received; header names are lower case."""

    method: str
    target: bytes
    raw_path: bytes
    query: bytes
    headers: Headers
    fields: Fields
    """The same headers, one value a name (``wire.headers.combined``)."""
    address: str
    http_version: str = "1.1"


_Data = bytes
"""For a class where ``bytes`` is a field."""


@dataclass(slots=True, eq=False)
class Progress:
    """The answer so far, as it left for the client. ``kept`` are its first bytes, at most
    ``keep_bytes``, where it is to be sealed."""

    status: int = 0
    bytes: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    keep_bytes: int = 0
    kept: bytearray = field(default_factory=bytearray)
    first_byte_at: float = 0.0
    streamed: bool = False
    complete: bool = False

    def took(self, data: _Data) -> None:
        """These bytes go to the client next."""
        self.bytes += len(data)
        self.digest.update(data)
        if self.keep_bytes > len(self.kept):
            self.kept += data[: self.keep_bytes - len(self.kept)]


class Step(IntEnum):
    """The steps of the request path, by their numbers."""

    NONE = -1
    ROUTE = 0
    IDENTIFY = 1
    READ = 2
    DECIDE = 3
    ADMIT = 4
    RECORD = 5
    FORWARD = 6


class _Waiting:
    """``Exchange.waiting``; a class, for entering a generator costs five times as much."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def __enter__(self) -> None:
        self._exchange.raise_if_interrupted()
        self._exchange.interruptible = True

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._exchange.interruptible = False
        if kind is None:
            self._exchange.raise_if_interrupted()


@dataclass(slots=True, eq=False)
class Exchange:
    """One exchange. Fields are grouped by the step that fills them.

    ``reached`` is the last step that filled its fields. Those without a default do not exist
    before: whoever reads them has seen that their step was reached.
    """

    request: Request
    channel: ClientChannel
    request_id: str = field(default_factory=new_request_id)
    started_at: float = field(default_factory=time.monotonic)
    steps: dict[str, float] = field(default_factory=dict)
    """Seconds by step name, for Server-Timing and the histograms."""

    reached: Step = Step.NONE

    # 0 Route
    dialect: Dialect = Dialect.OPENAI
    source: str = ""
    route: Route = field(init=False)
    wire: Wire = field(init=False)
    # 1 Identify
    credential_sha256: str = ""
    network: Network = field(init=False)
    principal: Principal = field(init=False)
    # 2 Read
    held_bytes: int = 0
    body: bytes = b""
    body_sha256: bytes = b""
    parsed: RequestBody = field(init=False)
    # 3 Decide: the judgement that binds, also where it denies; the entry only where it allows
    decision_id: str = ""
    requested: str = ""
    model_label: str = "other"
    judgement: Judgement = field(init=False)
    entry: CatalogueEntry = field(init=False)
    standing: tuple[Facts, ...] = ()
    """What must go on being allowed while this runs: one evaluation for each model served."""
    valid_until: float = 0.0
    capture: Capture = Capture.DIGEST
    """How much the record keeps: the most that is asked for any model that the body names."""
    due: int = 0
    """The second in which the in-flight table asks again; its own to set."""
    # 4 Admit
    reservation: Reservation | None = None
    # 5 Record
    edits: tuple[str, ...] = ()
    forwarded_sha256: bytes = b""
    intent: Position = field(init=False)
    # 6 Forward, 7 Relay
    upstream_status: int = 0
    upstream_request_id: str = ""
    answer: Progress = field(default_factory=Progress)
    reader: StreamReader | None = None
    usage: Usage | None = None
    served_model: str = ""
    finish: str = ""
    upstream_error: str = ""
    """The code of an error that the answer itself told, be it inside a stream of status 200."""
    # 8 Settle
    refusal: Refusal | None = None
    settled: bool = False
    outcome_recorded: bool = False

    # Interruption
    interruption: Refusal | None = None
    interruptible: bool = False
    task: asyncio.Task[None] | None = None

    @property
    def restricted(self) -> bool:
        """Whether a restricted model serves this, as far as is known."""
        return self.reached < Step.ADMIT or self.entry.restricted

    @property
    def waiting(self) -> _Waiting:
        """A context for a part of the path that merely waits, so that an interruption may end it.

        Raises:
            Refused: it was interrupted before, or without being cancelled.
        """
        return _Waiting(self)

    def raise_if_interrupted(self) -> None:
        """Between two steps: go on only if nobody ended the exchange meanwhile.

        Raises:
            Refused: somebody did.
        """
        if self.interruption is not None:
            raise Refused(self.interruption)

    def interrupt(self, refusal: Refusal) -> None:
        """End this exchange for ``refusal``; the first one stands."""
        if self.interruption is not None or self.answer.complete:
            return
        self.interruption = refusal
        if self.interruptible and self.task is not None:
            self.task.cancel()

    def client_lost(self) -> None:
        """The client closed its connection."""
        self.interrupt(Refusal(reason=Reason.CLIENT_GONE, message="The client went away."))

    def clock_step(self, name: str, since: float) -> float:
        """Note how long a step took; returns the instant at which it ended."""
        now = time.monotonic()
        self.steps[name] = self.steps.get(name, 0.0) + now - since
        return now
