"""The limiter of many processes, over one Redis, Valkey or Redis Cluster.

Guarantees: one script call for a reservation, one for its settlement, all or nothing, by the
server's clock, so limits hold across replicas. A call that the store does not answer within its
deadline raises ``LimiterUnavailable`` (the caller decides what that means); what it may have
taken all the same is given back as soon as the store answers. A settlement never raises, is kept
and tried again until the store has it, and counts once. ``start`` refuses a store that does not
run scripts. Redis's exceptions end here, and none of its addresses or passwords goes further.

The store must not evict keys (``maxmemory-policy noeviction``): an evicted bucket is a full one.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError, ResponseError

from gateway.core.decision import LimitSpec
from gateway.core.protocols import LimiterUnavailable
from gateway.core.refusal import LimitState
from gateway.limits import scripts
from gateway.limits.breaker import Breaker
from gateway.limits.claims import RESERVATION_TTL_S, Claim, claims_of, organisation_tag
from gateway.limits.gcra import HORIZON_NS, bucket_state, stream_state

__all__ = ["DEADLINE_S", "RedisLimiter", "ScriptingUnavailable", "connect"]

DEADLINE_S = 0.1
MAX_CONNECTIONS = 32
MAX_OWED = 10_000
"""Settlements that wait for the store; beyond it the oldest is dropped, and its lease lapses."""

_TAKEN = 1
_STORE_ERRORS = (RedisError, RedisClusterException, OSError)
_RETRY_FIRST_S, _RETRY_LAST_S = 0.05, 2.0
_QUEUE_S = 1.0
"""The longest wait for a connection while others use them all."""
_TURNS = 4
"""How many times the loop looks at its sockets before an answer counts as late."""
_CLUSTER = "+cluster://"

Client: TypeAlias = "Redis | RedisCluster"
Argument: TypeAlias = "str | int"


class ScriptingUnavailable(Exception):
    """The store does not let this user run scripts; the limiter refuses to start without."""


@dataclass(frozen=True, slots=True)
class _Call:
    """One script call: which script, its keys (the reservation's first) and its arguments."""

    script: str
    keys: Sequence[str]
    args: Sequence[Argument]


def connect(
    url: str,
    *,
    deadline_s: float = DEADLINE_S,
    ttl_s: int = RESERVATION_TTL_S,
    max_connections: int = MAX_CONNECTIONS,
) -> RedisLimiter:
    """A limiter on ``redis://``, ``rediss://``, ``unix://``, ``redis[s]+cluster://``. No I/O yet.

    Args:
        url: may hold user and password; it is neither kept nor shown.
        deadline_s: seconds for each call, connecting included.
        ttl_s: see ``RedisLimiter``.
        max_connections: the most connections (to each node of a cluster).

    Raises:
        ValueError: the URL is not one of those; its text is not in the message.
    """
    # No retries: the deadline leaves no time for them and the breaker takes their place. No
    # socket timeouts: the deadline bounds every wait, and the client's own bound on writes is
    # asyncio.wait_for, which can lose a cancellation. RESP2: nothing is pushed between replies.
    options: dict[str, Any] = {
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": None,
        "socket_connect_timeout": None,
        "protocol": 2,
        "max_connections": max_connections + 1,
    }
    client: Client
    try:
        if _CLUSTER in url:
            client = RedisCluster.from_url(url.replace(_CLUSTER, "://", 1), **options)
        else:
            client = Redis.from_url(url, **options)
    except (ValueError, RedisError, RedisClusterException):
        raise ValueError(
            "the limit store's URL is not valid: it must start with redis://, rediss://, unix://, "
            "redis+cluster:// or rediss+cluster://"
        ) from None
    return RedisLimiter(client, deadline_s=deadline_s, ttl_s=ttl_s, concurrency=max_connections)


class RedisLimiter:
    """A ``core.protocols.Limiter`` over a redis-py client (plain, Sentinel's or Cluster's).

    Args:
        client: from ``connect``, or one made without retries and with RESP2.
        deadline_s: seconds for each call to the store.
        ttl_s: how long a reservation lives without ``renew``.
        concurrency: calls to the store at once; fewer than the client's connections.
    """

    def __init__(
        self,
        client: Client,
        *,
        deadline_s: float = DEADLINE_S,
        ttl_s: int = RESERVATION_TTL_S,
        concurrency: int = MAX_CONNECTIONS,
        breaker: Breaker | None = None,
    ) -> None:
        self._client = client
        self._deadline_s = deadline_s
        self._ttl_ms = ttl_s * 1000
        self._slots = asyncio.Semaphore(concurrency)
        self._breaker = breaker or Breaker()
        self._scripts = {
            source: client.register_script(source)
            for source in (scripts.RESERVE, scripts.SETTLE, scripts.RENEW)
        }
        self._owed: deque[_Call] = deque(maxlen=MAX_OWED)
        self._payer: asyncio.Task[None] | None = None

    @property
    def available(self) -> bool:
        """False while the store is taken to be down."""
        return self._breaker.closed

    @property
    def owed(self) -> int:
        """Settlements that the store does not have yet."""
        return len(self._owed)

    async def start(self) -> None:
        """Check that the store runs scripts, every command of them.

        Raises:
            ScriptingUnavailable: it does not let this user (its access rules, or its kind).
            LimiterUnavailable: it cannot be reached.
        """
        tag = f"sg:{{start}}:{secrets.token_hex(8)}"
        keys = (f"{tag}:held", f"{tag}:rate", f"{tag}:streams")
        rate, stream = ("rate", 1, 0, 1, 0), ("stream", 1, 1, 0, 0)
        try:
            async with asyncio.timeout(10 * self._deadline_s):
                for source, args in (
                    (scripts.RESERVE, (tag, 1000, *rate, *stream)),
                    (scripts.RENEW, (tag, 1000)),
                    (scripts.SETTLE, (tag, "rate", -1, 0, "stream", 0, 0)),
                ):
                    used = keys[:1] + keys[2:] if source is scripts.RENEW else keys
                    await self._scripts[source](keys=used, args=args)
        except ResponseError as error:
            raise ScriptingUnavailable(
                "the limit store does not run the limiter's scripts, so limits would not hold "
                "across workers; allow EVALSHA, SCRIPT LOAD, TIME, GET, SET, DEL, EXISTS, PEXPIRE, "
                f"ZADD, ZREM, ZCARD and ZREMRANGEBYSCORE on sg:* ({type(error).__name__})"
            ) from None
        except _STORE_ERRORS as error:
            raise LimiterUnavailable(
                f"the limit store cannot be reached ({type(error).__name__}); start it, or mend "
                "limits.redis_url"
            ) from None

    async def aclose(self) -> None:
        """Try once more to settle what is owed, then close the connections."""
        if self._payer is not None:
            self._payer.cancel()
            await asyncio.wait((self._payer,))
        with contextlib.suppress(LimiterUnavailable):
            while self._owed:
                await self._run(self._owed[0])
                self._owed.popleft()
        await self._client.aclose()

    async def reserve(
        self,
        limits: Sequence[LimitSpec],
        owners: Mapping[str, str],
        amounts: Mapping[str, int],
    ) -> RedisReservation | tuple[LimitState, ...]:
        """See ``core.protocols.Limiter``.

        Raises:
            LimiterUnavailable: no answer within the deadline, an error, or an open breaker.
        """
        claims = claims_of(limits, owners, amounts)
        name = secrets.token_hex(12)
        reservation = RedisReservation(self, f"{organisation_tag(owners)}:held:{name}", claims)
        args: list[Argument] = [name, self._ttl_ms]
        for claim in claims:
            if claim.is_stream:
                args += ("stream", claim.cost, claim.spec.burst, 0, 0)
            else:
                interval_ns, burst = claim.bucket
                args += ("rate", *divmod(claim.cost * interval_ns, 1000))
                args += divmod(burst * interval_ns, 1000)
        keys = (reservation.key, *(claim.key for claim in claims))
        try:
            reply = await self._run(_Call(scripts.RESERVE, keys, args))
        except (LimiterUnavailable, asyncio.CancelledError) as error:
            # It may have been taken all the same. (An open breaker sent nothing.)
            if not isinstance(error, _NotSent):
                self._owe(reservation.give_back())
            raise
        now, before = reply[1] * 1000, list(zip(reply[2::2], reply[3::2], strict=True))
        taken = reply[0] == _TAKEN
        states = tuple(
            _state(claim, now, *was, taken=taken) for claim, was in zip(claims, before, strict=True)
        )
        if not taken:
            return states
        reservation.states = states
        return reservation

    async def settle(self, call: _Call) -> None:
        """Run a settlement, or keep it until it can be run."""
        try:
            await self._run(call)
        except LimiterUnavailable:
            self._owe(call)
        except asyncio.CancelledError:
            self._owe(call)
            raise

    async def renew(self, keys: Sequence[str], name: str) -> None:
        """Extend a reservation; where the store is down the next call will."""
        with contextlib.suppress(LimiterUnavailable):
            await self._run(_Call(scripts.RENEW, keys, (name, self._ttl_ms)))

    async def _run(self, call: _Call) -> Any:
        async with self._slot():
            return await self._ask(call)

    async def _ask(self, call: _Call) -> Any:
        if not self._breaker.allow():
            raise _NotSent("the store did not answer before")
        try:
            async with _answer_within(self._deadline_s):
                reply = await self._scripts[call.script](keys=call.keys, args=call.args)
        except TimeoutError:
            self._breaker.failure()
            raise LimiterUnavailable(f"no answer within {self._deadline_s:g} s") from None
        except _STORE_ERRORS as error:
            self._breaker.failure()
            raise LimiterUnavailable(type(error).__name__) from None
        self._breaker.success()
        return reply

    @contextlib.asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """One of the connections. Waiting for it says nothing about the store, so it is no part
        of the deadline; a store that does not answer frees the slots at its deadline."""
        try:
            async with asyncio.timeout(_QUEUE_S):
                await self._slots.acquire()
        except TimeoutError:
            raise _NotSent(f"all connections were in use for {_QUEUE_S:g} s") from None
        try:
            yield
        finally:
            self._slots.release()

    def _owe(self, call: _Call) -> None:
        self._owed.append(call)
        if self._payer is None or self._payer.done():
            self._payer = asyncio.create_task(self._pay(), name="limits-settle-owed")

    async def _pay(self) -> None:
        wait_s = _RETRY_FIRST_S
        while self._owed:
            call = self._owed[0]
            try:
                await self._run(call)
            except LimiterUnavailable:
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, _RETRY_LAST_S)
            else:
                wait_s = _RETRY_FIRST_S
                if self._owed and self._owed[0] is call:
                    self._owed.popleft()


class RedisReservation:
    """A ``core.protocols.Reservation`` of a ``RedisLimiter``."""

    __slots__ = ("_claims", "_limiter", "_settled", "key", "states")

    def __init__(self, limiter: RedisLimiter, key: str, claims: Sequence[Claim]) -> None:
        self._limiter = limiter
        self._claims = claims
        self._settled = False
        self.key = key
        self.states: Sequence[LimitState] = ()

    async def settle(self, used: Mapping[str, int]) -> None:
        """See ``core.protocols.Reservation``."""
        if not self._settled:
            self._settled = True
            await self._limiter.settle(self._settlement(used))

    async def renew(self) -> None:
        """See ``core.protocols.Reservation``."""
        streams = [claim.key for claim in self._claims if claim.is_stream and claim.cost]
        if not self._settled:
            await self._limiter.renew((self.key, *streams), self._name)

    def give_back(self) -> _Call:
        """The settlement of a call of which nothing came."""
        return self._settlement({claim.kind: 0 for claim in self._claims})

    @property
    def _name(self) -> str:
        return self.key.rpartition(":")[2]

    def _settlement(self, used: Mapping[str, int]) -> _Call:
        keys, args = [self.key], list[Argument]((self._name,))
        for claim in self._claims:
            if claim.is_stream and claim.cost:
                keys.append(claim.key)
                args += ("stream", 0, 0)
            elif not claim.is_stream and (units := claim.correction(used)):
                keys.append(claim.key)
                args += ("rate", *divmod(min(units * claim.bucket.interval_ns, HORIZON_NS), 1000))
        return _Call(scripts.SETTLE, keys, args)


class _NotSent(LimiterUnavailable):
    """The store was not asked: the breaker is open, or every connection is in use."""


@contextlib.asynccontextmanager
async def _answer_within(seconds: float) -> AsyncIterator[None]:
    """``asyncio.timeout`` in turns of the loop: time in which the loop was busy with others, and
    could not see an answer that had come, is not held against the store.

    Raises:
        TimeoutError: as ``asyncio.timeout``.
    """
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle
    async with asyncio.timeout(None) as timeout:

        def turn(left: int) -> None:
            nonlocal timer
            if left:
                timer = loop.call_later(seconds / _TURNS, turn, left - 1)
            else:
                timeout.reschedule(loop.time())

        timer = loop.call_later(seconds / _TURNS, turn, _TURNS - 1)
        try:
            yield
        finally:
            timer.cancel()


def _state(claim: Claim, now: int, first: int, second: int, *, taken: bool) -> LimitState:
    """The state after the attempt, from what the store held before it."""
    if claim.is_stream:
        running = first + claim.cost if taken else first
        return stream_state(claim.spec, running, wanted=not taken and claim.cost > 0)
    tat = first * 1000 + second
    if taken:
        tat = max(tat, now) + claim.cost * claim.bucket.interval_ns
        return bucket_state(claim.spec, claim.bucket, tat, now)
    return bucket_state(claim.spec, claim.bucket, tat, now, claim.cost)
