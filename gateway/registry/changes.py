"""What may be changed in the registry, and by which rules.

Pure. A change is data (it can be decoded from JSON), ``apply`` turns it into the entity before
and after, or refuses it with what to do instead. Every privileged change has a reason (K64),
revoked is final, and an expiry never moves later.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from gateway.core.clock import parse_timestamp
from gateway.core.entities import Credential, Entity, Issuer, Member, Organisation
from gateway.core.facts import Label, Wire
from gateway.core.staff import conflict_of
from gateway.registry.findings import Recorded
from gateway.registry.rows import TYPES, Kind, body_of
from gateway.registry.snapshot import Snapshot

__all__ = [
    "Add",
    "Applied",
    "Change",
    "ChangeRefused",
    "Move",
    "Set",
    "apply",
    "check_ahead",
    "check_author",
    "notes",
    "restated",
]

MAX_ROW_BYTES = 64 * 1024
"""Of a row as it is stored: it is sealed beside its record, and a frame has a bound."""
MAX_ISSUER_ID = 31
"""An issuer's id and 32 hex digits make a token's credential id, which is a label."""

SETTABLE: dict[Kind, frozenset[str]] = {
    "organisation": frozenset({"name", "tiers", "retention", "licences", "agreements"}),
    "member": frozenset(
        {
            "name",
            "tiers",
            "roles",
            "purposes",
            "vetting",
            "nationalities",
            "residence",
            "sponsored",
            "external_id",
        }
    ),
    "credential": frozenset({"scopes", "expires_at", "engagement"}),
    "issuer": frozenset({"jwks_uri", "audience", "algorithms"}),
}
"""Fields that ``Set`` may change; all others are fixed when an entity is added."""

Verb = Literal["suspend", "resume", "revoke", "withdraw", "hold", "release", "erase"]
_MARKS = frozenset({"hold", "release", "erase"})
"""Verbs that leave the status of a member as it is, and reach one who is revoked."""
_STATUS: dict[Verb, str] = {
    "suspend": "suspended",
    "resume": "active",
    "revoke": "revoked",
    "withdraw": "withdrawn",
}
_FINAL = frozenset({"revoked", "withdrawn"})
_REASON = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{1,500}\Z")]


_SCOPE = re.compile(
    rf"downgrade|wire:(?:{'|'.join(Wire)})|model:[a-z0-9][a-z0-9_.:/-]*|class:[a-z0-9][a-z0-9_.-]*-[0-9]"
)
"""The families of ``credential.rego``."""


class ChangeRefused(Exception):
    """The change is not made. ``message`` says why, ``remedy`` what to do instead."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class Add(Struct, frozen=True, forbid_unknown_fields=True, tag="add", tag_field="change"):
    """A new entity, from its fields (``id`` among them)."""

    kind: Kind
    fields: dict[str, Any]


class Set(Struct, frozen=True, forbid_unknown_fields=True, tag="set", tag_field="change"):
    """New values for some fields.

    In ``tiers`` only the domains named change; ``None`` takes one away. Every other field is
    replaced whole.
    """

    kind: Kind
    id: str
    fields: dict[str, Any]


class Move(Struct, frozen=True, forbid_unknown_fields=True, tag="move", tag_field="change"):
    """A new status: organisations are withdrawn, all else is revoked; both are final. A member is
    also held against erasure, released, and erased once he is revoked."""

    kind: Kind
    id: str
    verb: Verb


Change = Add | Set | Move


class Applied(Struct, frozen=True):
    """A change in order; ``operation`` reads ``member.set``, ``fields`` names what differs."""

    kind: Kind
    operation: str
    before: Entity | None
    after: Entity
    fields: tuple[str, ...]


def apply(snapshot: Snapshot, change: Change) -> Applied:
    """The entity before and after a change.

    Raises:
        ChangeRefused: an unknown id, a value that breaks a field's rule (it names both), a
            change of what is final, or a change of nothing.
    """
    if isinstance(change, Add):
        before, after, verb = None, _added(snapshot, change), "add"
    else:
        before = snapshot.entity(change.kind, change.id)
        if before is None:
            raise ChangeRefused(
                f"There is no {change.kind} '{_shown(change.id)}'.",
                f"List those there are with 'sluicegate {_command(change.kind)} list'.",
            )
        marks = isinstance(change, Move) and change.verb in _MARKS
        if before.status in _FINAL and not marks:
            raise ChangeRefused(
                f"The {change.kind} '{before.id}' is {before.status}, and that is final.",
                "Add a new one under another id.",
            )
        if isinstance(change, Set):
            after, verb = _with_fields(before, change), "set"
        else:
            after, verb = _moved(before, change), change.verb
    if before == after:
        raise ChangeRefused(f"The {change.kind} '{after.id}' is so already.", "Nothing to do.")
    _check_size(after)
    _check_instants(after)
    _check_scopes(after)
    _check_relations(snapshot, before, after)
    return Applied(change.kind, f"{change.kind}.{verb}", before, after, _differing(before, after))


def restated(applied: Applied, known: Recorded | None) -> Applied:
    """An entity that is added under an id of which the log knows: its row was lost or changed from
    outside, and it is stated anew. It keeps what was taken from it: who was revoked, suspended,
    held or erased is so still."""
    if known is None or applied.before is not None:
        return applied
    after = applied.after
    if known.erased and isinstance(after, Member):
        after = _without_traces(after)
    elif known.status != "active":
        after = msgspec.structs.replace(after, status=known.status)
    if known.held and isinstance(after, Member):
        after = msgspec.structs.replace(after, held=True)
    return msgspec.structs.replace(applied, after=after)


def check_ahead(applied: Applied, now: str) -> None:
    """A new key must have time left: one that is over would look like access and be none.

    Args:
        applied: a change in order.
        now: a ``facts.Timestamp``.

    Raises:
        ChangeRefused: the key's expiry is not after ``now``.
    """
    added = applied.after
    if applied.before is not None or not isinstance(added, Credential):
        return
    if added.expires_at is not None and added.expires_at <= now:
        raise ChangeRefused(
            f"The key would have expired already: {added.expires_at} is not after now, {now}.",
            "Give --expires a time to come; a date means its first second in UTC.",
        )


def check_author(actor: str, reason: str) -> None:
    """Who changes, and why.

    Raises:
        ChangeRefused: no reason, one of over 500 characters or with control characters, or an
            actor that is no label.
    """
    try:
        msgspec.convert(reason.strip(), _REASON)
    except msgspec.ValidationError:
        raise ChangeRefused(
            "A change of access needs a reason of 1 to 500 printable characters.",
            "Say why with --reason; reviewers will read it.",
        ) from None
    try:
        msgspec.convert(actor, Label)
    except msgspec.ValidationError:
        raise ChangeRefused(
            "The author of a change is named by a label.",
            "Use lower-case letters, digits and . _ : -, at most 64.",
        ) from None


def notes(snapshot: Snapshot, entity: Entity) -> tuple[str, ...]:
    """What an operator may not expect of a change that is in order."""
    if not isinstance(entity, Member):
        return ()
    if entity.erased:
        return ("His key is destroyed here; copies of registry.db made before hold it still.",)
    organisation = snapshot.organisation(entity.organisation)
    caps = {} if organisation is None else organisation.tiers
    return tuple(
        f"{domain} {level} is above the organisation's cap {caps.get(domain, 0)}: the cap holds."
        for domain, level in sorted(entity.tiers.items())
        if level > caps.get(domain, 0)
    )


def _added(snapshot: Snapshot, change: Add) -> Entity:
    if change.fields.get("status", "active") != "active":
        raise ChangeRefused(
            "What is added is active.", "Add it, then suspend it, so that both are on the record."
        )
    if change.fields.get("held") or change.fields.get("erased"):
        raise ChangeRefused(
            "Nobody is added as held or erased.", "Add him, then say so, so that both are recorded."
        )
    after = _converted(change.kind, change.fields)
    if snapshot.entity(change.kind, after.id) is not None:
        raise ChangeRefused(
            f"There is already a {change.kind} '{after.id}'; ids are not used twice.",
            "Choose another id, or change the one there is.",
        )
    return after


def _with_fields(before: Entity, change: Set) -> Entity:
    fixed = sorted(set(change.fields) - SETTABLE[change.kind])
    if fixed:
        raise ChangeRefused(
            f"A {change.kind} has no field '{_shown(fixed[0])}' that can be set.",
            f"Fields: {', '.join(sorted(SETTABLE[change.kind]))}.",
        )
    whole = msgspec.to_builtins(before)
    wanted = dict(change.fields)
    if isinstance(wanted.get("tiers"), dict):
        merged = whole["tiers"] | wanted["tiers"]
        wanted["tiers"] = {domain: level for domain, level in merged.items() if level is not None}
    after = _converted(change.kind, whole | wanted)
    if isinstance(before, Credential) and isinstance(after, Credential):
        _check_expiry(before, after)
    return after


def _check_expiry(before: Credential, after: Credential) -> None:
    if before.expires_at is not None and (
        after.expires_at is None or after.expires_at > before.expires_at
    ):
        raise ChangeRefused(
            f"The key '{before.id}' expires at {before.expires_at}; expiries never move later.",
            "Issue a new key.",
        )


def _moved(before: Entity, change: Move) -> Entity:
    if change.verb in _MARKS:
        return _marked(before, change)
    final: Verb = "withdraw" if isinstance(before, Organisation) else "revoke"
    if change.verb in {"revoke", "withdraw"} and change.verb != final:
        raise ChangeRefused(
            f"A {change.kind} is never {_STATUS[change.verb]}, but {_STATUS[final]}.",
            f"Use '{final}'.",
        )
    return msgspec.structs.replace(before, status=_STATUS[change.verb])


def _marked(before: Entity, change: Move) -> Member:
    """A member who is held, released or erased."""
    if not isinstance(before, Member):
        raise ChangeRefused(
            "Only of members something is sealed.", "Name a member, to hold or to erase."
        )
    if before.erased and change.verb != "release":
        raise ChangeRefused(
            f"What was sealed of '{before.id}' is destroyed already.",
            "There is nothing left to erase or to hold.",
        )
    if change.verb != "erase":
        return msgspec.structs.replace(before, held=change.verb == "hold")
    if before.held:
        raise ChangeRefused(
            f"'{before.id}' is under legal hold: nothing of his may be erased.",
            f"Whoever may end the hold says so: 'sluicegate member release {before.id}'.",
        )
    if before.status != "revoked":
        raise ChangeRefused(
            f"'{before.id}' is {before.status}; only who is revoked is erased.",
            f"First 'sluicegate member revoke {before.id}'.",
        )
    return _without_traces(before)


def _without_traces(member: Member) -> Member:
    return Member(
        id=member.id,
        organisation=member.organisation,
        name="erased",
        kind=member.kind,
        status="revoked",
        erased=True,
    )


def _converted(kind: Kind, fields: dict[str, Any]) -> Entity:
    try:
        entity: Entity = msgspec.convert(fields, TYPES[kind])
    except msgspec.ValidationError as error:
        raise ChangeRefused(
            f"Not a valid {kind}: {error}.", "Mend the field that is named and try again."
        ) from None
    return entity


def _check_size(entity: Entity) -> None:
    size = len(body_of(entity).encode())
    if size > MAX_ROW_BYTES:
        raise ChangeRefused(
            f"The row would have {size} bytes; at most {MAX_ROW_BYTES} are kept.",
            "Shorten its lists.",
        )


def _check_instants(entity: Entity) -> None:
    """Timestamps match their pattern by now; they must also be dates."""
    stamps: list[str | None] = []
    if isinstance(entity, Member):
        for vetting in entity.vetting:
            stamps += [vetting.verified_at, vetting.expires_at]
            if vetting.expires_at is not None and vetting.expires_at <= vetting.verified_at:
                raise ChangeRefused(
                    f"The vetting '{vetting.kind}' ends before it begins.",
                    "Its dates are those of verification and of expiry, in this order.",
                )
    if isinstance(entity, Credential):
        stamps.append(entity.expires_at)
        if entity.engagement is not None:
            stamps += [entity.engagement.starts_at, entity.engagement.ends_at]
    for stamp in stamps:
        try:
            if stamp is not None:
                parse_timestamp(stamp)
        except ValueError:
            raise ChangeRefused(
                f"'{stamp}' is not a date.", "Write it as 2027-01-31T00:00:00Z."
            ) from None


def _check_scopes(entity: Entity) -> None:
    """A scope that is spelt wrong would narrow nothing, and its key would reach everything."""
    for scope in entity.scopes if isinstance(entity, Credential) else ():
        if not _SCOPE.fullmatch(scope):
            raise ChangeRefused(
                f"'{_shown(scope)}' is no scope that the rules know.",
                f"Write wire:<{'|'.join(wire for wire in Wire if wire is not Wire.MODELS)}>, "
                "model:<id>, class:<domain>-<level> or downgrade.",
            )


def _check_relations(snapshot: Snapshot, before: Entity | None, after: Entity) -> None:
    """What an entity says of others must hold when it is added or what it says changes."""
    if isinstance(after, Member):
        _check_member(snapshot, before, after)
    elif isinstance(after, Issuer):
        _check_issuer(snapshot, before, after)
    elif isinstance(after, Credential) and before is None:
        owner = snapshot.member(after.member)
        if owner is None or owner.status == "revoked":
            raise ChangeRefused(
                f"There is no member '{after.member}' who could hold a key.", "Add him first."
            )
        if snapshot.credential(after.sha256) is not None:
            raise ChangeRefused("This key is registered already.", "Mint a new one.")


def _check_member(snapshot: Snapshot, before: Entity | None, after: Member) -> None:
    clash = conflict_of(after.roles)
    if clash is not None:
        raise ChangeRefused(
            f"Nobody is {clash[0]} and {clash[1]} at once (separation of duty).",
            "Give one of the roles to another person.",
        )
    if before is None:
        _check_organisation(snapshot, after.organisation)
    if after.external_id is None:
        return
    namesake = snapshot.member_by_external_id(after.organisation, after.external_id)
    if namesake is not None and namesake.id != after.id:
        raise ChangeRefused(
            f"The member '{namesake.id}' already has this external_id.",
            "Two members cannot be one subject of an issuer: clear the other's first.",
        )


def _check_issuer(snapshot: Snapshot, before: Entity | None, after: Issuer) -> None:
    if len(after.id) > MAX_ISSUER_ID:
        raise ChangeRefused(f"An issuer's id has at most {MAX_ISSUER_ID} characters.", "Cut it.")
    if not after.jwks_uri.startswith(("https://", "http://127.", "http://[::1]")):
        raise ChangeRefused(
            "jwks_uri must be an https URL (http only to a loopback address, for tests).",
            "Use the jwks_uri of the issuer's metadata.",
        )
    if before is None:
        _check_organisation(snapshot, after.organisation)
        if snapshot.issuer(after.issuer) is not None:
            raise ChangeRefused(
                "This issuer is registered already, and speaks for one organisation only.",
                "Revoke it there first, or use another issuer.",
            )


def _check_organisation(snapshot: Snapshot, organisation_id: str) -> None:
    organisation = snapshot.organisation(organisation_id)
    if organisation is None or organisation.status == "withdrawn":
        raise ChangeRefused(
            f"There is no organisation '{organisation_id}' that could vouch.", "Add it first."
        )


def _differing(before: Entity | None, after: Entity) -> tuple[str, ...]:
    if before is None:
        return ()
    old, new = msgspec.json.decode(body_of(before)), msgspec.json.decode(body_of(after))
    return tuple(sorted(name for name in new if new[name] != old[name]))


def _shown(text: str) -> str:
    """An operator's own word, cut to what fits a message."""
    return ascii(text[:64])[1:-1]


def _command(kind: Kind) -> str:
    return {"organisation": "org", "credential": "key"}.get(kind, kind)
