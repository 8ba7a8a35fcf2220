"""Who could use what at one instant: each member, by each of his credentials, for each model. Pure.

The same decision as a data worker would have made then: the credential is accepted or not by
``identity.standing``, and the facts that ``core.evaluation`` makes of it are judged by the revision
that was active, with the instant as the time. So waves that had opened by then are open, and what
had expired is over, whether or not a record tells of it.

A call has more in it than an instant and a caller; what is assumed of the rest is in ``ASSUMED``
and ``Assumed``, and belongs beside every answer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from gateway.control.past import Past, PastRow
from gateway.core.catalogue import CatalogueEntry
from gateway.core.clock import Clock, parse_timestamp, timestamp
from gateway.core.decision import Decision
from gateway.core.entities import Credential, Issuer, Member, Principal
from gateway.core.evaluation import context_of, facts_of, name_of, plain_action, subject_of
from gateway.core.facts import ActionName, Context, Country, Label, Network, Wire
from gateway.core.protocols import EngineUnavailable, Revision
from gateway.identity.standing import Lacking, principal_of_key, standing_of
from gateway.policy.bundle import Bundle
from gateway.policy.embedded import Interpreter
from gateway.policy.judge import encode_facts
from gateway.policy.revision import revision_of
from gateway.policy.validity import next_boundary
from gateway.registry.findings import RowKey

__all__ = [
    "ASSUMED",
    "CANNOT_TELL",
    "NOT_ACCEPTED",
    "NOT_DECIDED",
    "AccessReport",
    "Assumed",
    "Because",
    "Line",
    "lets_in",
]

NOT_ACCEPTED: Final = "not_accepted"
"""The credential would not have been accepted, so no rule was asked."""
CANNOT_TELL: Final = "cannot_tell"
"""The answer hangs on a row whose content is not known."""
NOT_DECIDED: Final = "not_decided"
"""The rules gave no valid decision, so nothing was let through."""

ASSUMED: Final = (
    "the call asks for an answer and nothing else: no stream, tools, store or program",
    "it names no bound on the answer's length, so the model's own counts",
    "of a model's wires the one that is judged mildest is told",
    "the network is on no list and its country is unknown, unless they are named",
    "the key is presented by itself, bound to no certificate or proof of possession",
    "a token was signed in at this very instant, and says nothing of scopes, methods or levels",
    "the clock ran true; no budget was low, no signal was raised, and no target was named",
    "no directive was in force, for none is recorded",
    "limits are not counted: they say how much, not whether",
)
"""What is taken for granted of every call."""

_HOUR_S: Final = 3600


class Assumed(Struct, frozen=True):
    """What the asker says of the calls: the listed networks they come from, and the country."""

    networks: tuple[Label, ...] = ()
    country: Country = "ZZ"


class Because(Struct, frozen=True):
    """One reason: its code, the rule that gave it (empty where no rule was asked), in words."""

    code: str
    rule: str = ""
    message: str = ""


class Line(Struct, frozen=True):
    """One answer.

    ``effect`` is a decision's, or ``not_accepted``, ``cannot_tell``, ``not_decided``.
    ``credential`` is a key's id, ``<issuer>:token``, or ``-`` where the member had none; of a key
    that was recorded before rows were sealed ``member`` is empty, for nobody knows whose it was.
    ``valid_until`` (a ``facts.Timestamp``) is when a timestamp alone could have changed the
    answer, as far as that is known; empty where none is left or no rule was asked. ``tiers`` are
    the member's levels before the organisation's caps.
    """

    member: str
    organisation: str
    credential: str
    model: str
    effect: str
    wire: str = ""
    reasons: tuple[Because, ...] = ()
    valid_until: str = ""
    substitute: str = ""
    tiers: Mapping[str, int] = {}


def lets_in(line: Line) -> bool:
    """Whether a call would have been let through, to this model or to its substitute."""
    return line.effect in {"allow", "downgrade"}


class _Holder(Struct, frozen=True):
    """A credential of a member: who it turns out to be, or why there is no saying so."""

    name: str
    found: Principal | Because
    certain: bool = True


class AccessReport:
    """Answers about one instant under one revision.

    Args:
        past: the registry as it was.
        bundle: the one that was active.
        assumed: what the asker says of the calls.

    Raises:
        BundleError: the bundle does not load.
    """

    def __init__(self, past: Past, bundle: Bundle, assumed: Assumed | None = None) -> None:
        self._past = past
        self._bundle = bundle
        self.revision: Revision = revision_of(bundle)
        self._interpreter = Interpreter(bundle.modules, bundle.data)
        self._seconds = past.at // 1_000_000_000
        self._now = timestamp(self._seconds)
        self._context = _context(self._seconds, assumed or Assumed())
        self._keys: dict[str, list[PastRow]] = defaultdict(list)
        self._issuers: list[PastRow] = []
        for row in past.rows.values():
            if row.kind == "credential":
                self._keys[row.owner].append(row)
            elif row.kind == "issuer":
                self._issuers.append(row)
        self._by_the_hour = any("calendar" in text for text in bundle.modules.values())

    def lines(self, *, organisation: str = "", member: str = "", model: str = "") -> Iterator[Line]:
        """One line for each member, credential and model, in this order.

        Args:
            organisation: only its members; of a member who cannot be read it is not known, so he
                is told of too.
            member: only this one.
            model: only this catalogue id.
        """
        catalogue = self.revision.catalogue
        entries = [catalogue[each] for each in sorted(catalogue) if model in ("", each)]
        for row in self._past.rows.values():
            home = row.entity.organisation if isinstance(row.entity, Member) else ""
            if row.kind != "member" or member not in ("", row.id):
                continue
            if organisation and home not in ("", organisation):
                continue
            for holder in self._holders(row):
                for entry in entries:
                    yield self._line(row, home, holder, entry)
        for key in self._keys.get("", ()):  # recorded before rows were sealed: nobody knows whose
            taken = _taken(key, "key", {"suspended", "revoked"})
            because = taken or _unknown(key)
            effect = NOT_ACCEPTED if taken else CANNOT_TELL
            for entry in entries:
                yield Line("", "", key.id, entry.id, effect, reasons=(because,))

    def _holders(self, member: PastRow) -> list[_Holder]:
        """The credentials by which a member could have called."""
        holders = [self._by_key(member, key) for key in self._keys.get(member.id, ())]
        holders += [
            self._by_token(member, issuer)
            for issuer in self._issuers
            if _may_speak_for(issuer, member)
        ]
        if holders:
            return holders
        taken = self._member_taken(member)
        if taken is None and self._keys.get(""):
            because = Because("row_unknown", "", "there are keys of which nobody knows whose")
            return [_Holder("-", because, certain=False)]
        return [_Holder("-", taken or Because("no_credential"))]

    def _by_key(self, member: PastRow, key: PastRow) -> _Holder:
        taken = _taken(key, "key", {"suspended", "revoked"}) or self._member_taken(member)
        if taken is not None:
            return _Holder(key.id, taken)
        if key.unknown or self._member_unknown(member):
            return _Holder(key.id, self._why_unknown(key, member), certain=False)
        assert isinstance(key.entity, Credential)  # of its kind, and known
        found = principal_of_key(self._past.snapshot, key.entity, self._now)
        return _Holder(key.id, Because(found) if isinstance(found, Lacking) else found)

    def _by_token(self, member: PastRow, issuer: PastRow) -> _Holder:
        name = f"{issuer.id}:token"
        taken = _taken(issuer, "issuer", {"suspended", "revoked"}) or self._member_taken(member)
        if taken is not None:
            return _Holder(name, taken)
        if issuer.unknown or self._member_unknown(member):
            return _Holder(name, self._why_unknown(issuer, member), certain=False)
        standing = standing_of(self._past.snapshot, member.id)
        if isinstance(standing, Lacking):
            return _Holder(name, Because(standing))
        principal = Principal(
            member=standing.member,
            organisation=standing.organisation,
            credential_id=name,
            kind="jwt",
            auth_time=self._now,
        )
        return _Holder(name, principal)

    def _organisation_of(self, member: PastRow) -> PastRow | None:
        if not isinstance(member.entity, Member):
            return None
        key: RowKey = ("organisation", member.entity.organisation)
        return self._past.rows.get(key)

    def _member_taken(self, member: PastRow) -> Because | None:
        """What had been taken from a member or his organisation, whether or not they are known."""
        found = _taken(member, "member", {"revoked"})
        organisation = self._organisation_of(member)
        if found is None and organisation is not None:
            found = _taken(organisation, "organisation", {"withdrawn"})
        return found

    def _member_unknown(self, member: PastRow) -> PastRow | None:
        """The row that is not known, if it is a member's or his organisation's."""
        rows = (member, self._organisation_of(member))
        return next((row for row in rows if row is not None and row.unknown), None)

    def _why_unknown(self, credential: PastRow, member: PastRow) -> Because:
        return _unknown(self._member_unknown(member) or credential)

    def _line(self, row: PastRow, home: str, holder: _Holder, entry: CatalogueEntry) -> Line:
        found = holder.found
        tiers = row.entity.tiers if isinstance(row.entity, Member) else row.tiers
        line = Line(row.id, home, holder.name, entry.id, CANNOT_TELL, tiers=dict(tiers))
        if isinstance(found, Because):
            effect = NOT_ACCEPTED if holder.certain else CANNOT_TELL
            return replace(line, effect=effect, reasons=(found,))
        try:
            return self._judged(line, found, entry)
        except EngineUnavailable as error:
            return replace(
                line, effect=NOT_DECIDED, reasons=(Because("policy_error", "", str(error)),)
            )

    def _judged(self, line: Line, principal: Principal, entry: CatalogueEntry) -> Line:
        """The mildest decision over the model's wires.

        Raises:
            EngineUnavailable: there is none.
        """
        subject = subject_of(principal)
        answers: list[tuple[Decision, Wire]] = []
        ends: list[int] = []
        for wire in _wires(entry):
            facts = encode_facts(facts_of(subject, plain_action(wire), entry.id, self._context))
            decision = self._interpreter.decide(facts)
            answers.append((decision, wire))
            ends += self._boundaries(facts, decision)
        decision, wire = min(answers, key=lambda answer: answer[0].effect.severity)
        return replace(
            line,
            effect=decision.effect.value,
            wire=wire.value,
            reasons=tuple(Because(each.code, each.rule, each.message) for each in decision.reasons),
            valid_until=timestamp(min(ends)) if ends else "",
            substitute=decision.model or "",
        )

    def _boundaries(self, facts: bytes, decision: Decision) -> Iterator[int]:
        boundary = next_boundary(facts, self._seconds, self.revision.instants)
        if boundary is not None:
            yield boundary
        if decision.valid_until is not None:
            yield parse_timestamp(decision.valid_until)
        if self._by_the_hour:
            yield self._seconds - self._seconds % _HOUR_S + _HOUR_S


def _context(seconds: int, assumed: Assumed) -> Context:
    clock = Clock(lambda: float(seconds), lambda: float(seconds))
    return context_of(clock, Network(labels=assumed.networks, country=assumed.country), {})


def _wires(entry: CatalogueEntry) -> Sequence[Wire]:
    """Those by which a model is used; counting its tokens is not using it."""
    used = [wire for wire in entry.wires if name_of(wire) is not ActionName.COUNT_TOKENS]
    return used or entry.wires


def _may_speak_for(issuer: PastRow, member: PastRow) -> bool:
    """Whether an issuer's tokens could have meant a member; where one of them is not known, yes."""
    who, what = member.entity, issuer.entity
    if isinstance(who, Member) and who.external_id is None:
        return False
    if not isinstance(who, Member) or not isinstance(what, Issuer):
        return True
    return who.organisation == what.organisation


def _taken(row: PastRow, word: str, statuses: set[str]) -> Because | None:
    """Why a row gave nothing, where its records say so: its content does not matter then."""
    if row.left_out:
        return Because(f"{word}_left_out", "", "the row had been changed outside the gateway")
    if row.status in statuses:
        return Because(f"{word}_{row.status}")
    return None


def _unknown(row: PastRow) -> Because:
    return Because("row_unknown", "", f"{row.kind} {row.id}: {row.unknown}")
