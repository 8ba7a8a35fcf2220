"""The judgement of one call: directives, then policy, behind the memo.

``judge`` answers with everything that the record and the caller's answer need, or it raises; it
never guesses. What it returns was made under one revision and one set of directives.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from gateway.core.clock import parse_timestamp, timestamp
from gateway.core.decision import Decision
from gateway.core.facts import Facts
from gateway.core.protocols import EngineUnavailable, PolicyEngine, Revision
from gateway.policy.directives import Directive, Directives, withdraw
from gateway.policy.memo import Memo, facts_without_time
from gateway.policy.validity import valid_until

__all__ = ["Judge", "Judgement", "encode_facts"]

MEMO_ENTRIES = 4096
_ATTEMPTS = 3

_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder(Facts)


def encode_facts(facts: Facts) -> bytes:
    """Canonical JSON: fields in their declared order, the keys of maps sorted."""
    return _encoder.encode(facts)


class Judgement(Struct, frozen=True):
    """A decision and how it came about.

    ``facts_json`` are exactly the evaluated bytes, time included, and ``input_digest`` is their
    ``sha256:<hex>``; of a remembered judgement they are those of the evaluation it repeats, whose
    facts differ from the call's in nothing but the time. ``valid_until`` is in Unix seconds,
    exclusive. ``directives`` names those that reached the call. ``eval_us`` is wall time.
    """

    decision: Decision
    facts_json: bytes
    input_digest: str
    revision: str
    valid_until: float
    memo: bool
    eval_us: int
    directives: tuple[str, ...]
    valid_until_text: str = ""
    """``valid_until`` as a ``facts.Timestamp``."""


class Judge:
    """Decides calls, for one event loop.

    Args:
        engine: what evaluates policy; started, and with a revision before the first call.
        memo_entries: how many judgements are remembered; 0 remembers none.
        clock_ns: nanoseconds, for ``eval_us`` alone. The time of a decision is in its facts.
    """

    def __init__(
        self,
        engine: PolicyEngine,
        *,
        memo_entries: int = MEMO_ENTRIES,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._engine = engine
        self._clock_ns = clock_ns
        self._directives = Directives()
        self._revision: Revision | None = None
        self._scope = object()
        self._time = ("", 0)
        self.memo: Memo[Judgement] = Memo(memo_entries)

    @property
    def revision(self) -> Revision | None:
        """The engine's active revision."""
        return self._engine.revision

    @property
    def directives(self) -> Directives:
        """The directives in force, for previews and for sifting running calls."""
        return self._directives

    def set_directives(self, directives: Sequence[Directive]) -> None:
        """Put these in the place of all directives, from the next call on.

        Raises:
            BundleError: one of them is not acceptable; those in force stay.
        """
        self._directives = Directives(directives)
        self._renew()

    async def judge(self, facts: Facts) -> Judgement:
        """Decide one call at the time in its facts.

        Raises:
            EngineUnavailable: there is no decision, and nothing may be forwarded.
        """
        facts_json = _encoder.encode(facts)
        try:
            now = self._seconds(facts.context.time)
            key = facts_without_time(facts_json)
        except ValueError:
            raise EngineUnavailable("the facts are malformed") from None
        revision, scope = self._current()
        remembered = self.memo.get(key, scope, now)
        if remembered is not None:
            return remembered
        for _ in range(_ATTEMPTS):
            judgement = await self._evaluate(facts_json, now, revision)
            if self._current() == (revision, scope):
                # Not remembered where it hides a model: all ids that do not exist share one
                # entry, so the time of a first question would tell that an id is in the catalogue.
                if not judgement.decision.hides:
                    remembered = replace(judgement, memo=True, eval_us=0)
                    self.memo.put(key, scope, now, judgement.valid_until, remembered)
                return judgement
            revision, scope = self._current()
        raise EngineUnavailable("the policy kept changing during the decision")

    async def _evaluate(self, facts_json: bytes, now: int, revision: Revision) -> Judgement:
        begun = self._clock_ns()
        try:
            # Structs do not check what they are built of; their decoder does.
            _decoder.decode(facts_json)
            reached = self._directives.reached(facts_json)
            decision = withdraw(await self._engine.decide(facts_json), reached)
            end = valid_until(facts_json, now, revision.instants, decision)
        except (msgspec.DecodeError, ValueError):
            raise EngineUnavailable("the facts are malformed") from None
        return Judgement(
            decision=decision,
            facts_json=facts_json,
            input_digest="sha256:" + hashlib.sha256(facts_json).hexdigest(),
            revision=revision.id,
            valid_until=end,
            memo=False,
            eval_us=(self._clock_ns() - begun) // 1000,
            directives=tuple(directive.id for directive in reached),
            valid_until_text=timestamp(end),
        )

    def _current(self) -> tuple[Revision, object]:
        """The revision, and the identity of what remembered judgements must come from."""
        revision = self._engine.revision
        if revision is None:
            raise EngineUnavailable("no policy has been activated")
        if revision is not self._revision:
            self._revision = revision
            self._renew()
        return revision, self._scope

    def _renew(self) -> None:
        self._scope = object()
        self.memo.clear()

    def _seconds(self, stamp: str) -> int:
        """``parse_timestamp``, once for each second of traffic."""
        known, seconds = self._time
        if stamp != known:
            seconds = parse_timestamp(stamp)
            self._time = (stamp, seconds)
        return seconds
