"""What is asked of the judge about an exchange: at admission, for model lists, and again.

Facts are made here from the caller as the registry has him now, and from nothing that he wrote.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from gateway.core.catalogue import CatalogueEntry
from gateway.core.clock import Clock
from gateway.core.decision import Effect
from gateway.core.evaluation import context_of, facts_of, list_action
from gateway.core.facts import Action, Facts, Network, Wire
from gateway.core.protocols import EngineUnavailable, Revision
from gateway.core.refusal import Refusal, Refused
from gateway.identity.identify import Identifier
from gateway.policy.judge import Judge, Judgement
from gateway.proxy import refusals
from gateway.proxy.exchange import Exchange
from gateway.proxy.network import NetworkLabels
from gateway.proxy.subjects import Budgets, Subjects
from gateway.telemetry.metrics import Metrics

__all__ = ["Judged", "Judging"]

ATTEMPTS = 3
"""How often a call is judged again because registry or revision changed meanwhile."""


class Judged(Struct, frozen=True):
    """One model of one call: the name in the body, its entry (``None``: the catalogue holds no such
    id), the facts and the judgement."""

    name: str
    entry: CatalogueEntry | None
    facts: Facts
    judgement: Judgement

    @property
    def effect(self) -> Effect:
        """What was decided."""
        return self.judgement.decision.effect


class Judging:
    """Makes facts and has them judged; one for each data worker.

    Args:
        judge: directives and policy behind the memo.
        clock: decision time.
        identifier: finds a principal again, for re-checks.
        metrics: counts memo hits and engine errors, and learns which models it may name.
    """

    def __init__(
        self, *, judge: Judge, clock: Clock, identifier: Identifier, metrics: Metrics
    ) -> None:
        self.judge = judge
        self._clock = clock
        self._identifier = identifier
        self._metrics = metrics
        self._subjects = Subjects()
        self._budgets = Budgets(clock)
        self._networks = NetworkLabels({})

    @property
    def hidden(self) -> frozenset[str]:
        """Catalogue ids at a stage that only some may see."""
        revision = self.judge.revision
        return frozenset() if revision is None else revision.hidden

    def revision_changed(self) -> None:
        """Compile what depends on the revision's data."""
        revision = self.judge.revision
        if revision is not None:
            self._networks = NetworkLabels(revision.networks)
            self._metrics.revision(revision.id)
            self._metrics.show_models(revision.catalogue.keys() - revision.hidden)

    def network_of(self, address: str) -> Network:
        """The facts about a client's address."""
        return self._networks.of(address)

    def note_budgets(self, exchange: Exchange) -> None:
        """Remember what the settled reservation says of the member's budgets."""
        if exchange.reservation is not None:
            self._budgets.note(exchange.principal.member.id, exchange.reservation.states)

    def resolve(self, name: str) -> CatalogueEntry | None:
        """The catalogue entry that an id or alias names.

        Raises:
            Refused: no policy is active.
        """
        return _entry(self._revision(), name)

    async def judge_all(
        self, exchange: Exchange, action: Action, names: Sequence[str]
    ) -> list[Judged]:
        """Judge every model named, under one revision and one state of the caller.

        Where an engine takes its time, either may change meanwhile, and until this returns a
        re-check finds nothing to ask again: so it is asked again here.

        Raises:
            Refused: the engine gave no decision, or registry and revision would not stand still.
        """
        for _ in range(ATTEMPTS):
            revision, principal = self._revision(), exchange.principal
            judged = []
            for name in dict.fromkeys(names):
                entry = _entry(revision, name)
                facts, judgement = await self._ask(exchange, action, entry.id if entry else None)
                judged.append(Judged(name, entry, facts, judgement))
            if self.judge.revision is revision and exchange.principal is principal:
                return judged
        raise Refused(refusals.POLICY_ERROR)

    async def callable_models(
        self, exchange: Exchange, wires: frozenset[Wire]
    ) -> list[CatalogueEntry]:
        """The models that a plain call on one of ``wires`` would be let through to, now.

        Raises:
            Refused: the engine gave no decision.
        """
        found = []
        for entry in self._revision().catalogue.values():
            for wire in entry.wires:
                if wire in wires:
                    _, judgement = await self._ask(exchange, list_action(wire), entry.id)
                    if judgement.decision.allows:
                        found.append(entry)
                        break
        return found

    async def recheck(self, exchange: Exchange) -> Refusal | None:
        """Ask again what let a running exchange in; a refusal ends it."""
        if exchange.interruption is not None:
            return None
        principal = self._identifier.refresh(exchange.principal)
        if principal is None:
            return refusals.CREDENTIAL_WITHDRAWN
        exchange.principal = principal
        exchange.network = self.network_of(exchange.request.address)
        valid_until = float("inf")
        for facts in exchange.standing:
            try:
                _, judgement = await self._ask(exchange, facts.action, facts.resource.id)
            except Refused as refused:
                return refused.refusal
            if judgement.decision.effect is not Effect.ALLOW:
                return refusals.withdrawn(judgement, exchange.decision_id)
            valid_until = min(valid_until, judgement.valid_until)
        if exchange.standing:
            now = self._clock.now()  # a rule that says that it is over is asked once a second
            exchange.valid_until = valid_until if valid_until > now else now + 1
        return None

    async def _ask(
        self, exchange: Exchange, action: Action, model: str | None
    ) -> tuple[Facts, Judgement]:
        principal = exchange.principal
        facts = facts_of(
            self._subjects.of(principal),
            action,
            model,
            context_of(self._clock, exchange.network, self._budgets.of(principal.member.id)),
        )
        try:
            judgement = await self.judge.judge(facts)
        except EngineUnavailable:
            self._metrics.engine_error()
            raise Refused(refusals.POLICY_ERROR) from None
        self._metrics.memo(hit=judgement.memo)
        return facts, judgement

    def _revision(self) -> Revision:
        revision = self.judge.revision
        if revision is None:
            raise Refused(refusals.POLICY_ERROR)
        return revision


def _entry(revision: Revision, name: str) -> CatalogueEntry | None:
    return revision.catalogue.get(revision.aliases.get(name, name))
