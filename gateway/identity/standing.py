"""Whether the registry stands behind a caller, at one instant. Pure.

A member or organisation that is *suspended* still stands, so that the rules deny him with a reason
and on the record; what is *revoked*, *withdrawn*, gone or erased does not. Callers hear one answer
for all of it; what was lacking is for reports.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from gateway.core.entities import Credential, Member, Organisation, Principal
from gateway.core.protocols import Directory

__all__ = ["Lacking", "Standing", "principal_of_key", "standing_of"]


class Lacking(StrEnum):
    """What keeps a credential from being accepted."""

    KEY_SUSPENDED = "key_suspended"
    KEY_REVOKED = "key_revoked"
    KEY_EXPIRED = "key_expired"
    MEMBER_ABSENT = "member_absent"
    MEMBER_REVOKED = "member_revoked"
    ORGANISATION_ABSENT = "organisation_absent"
    ORGANISATION_WITHDRAWN = "organisation_withdrawn"
    SUBJECT_KEY_ABSENT = "subject_key_absent"


class Standing(NamedTuple):
    """A member who has not been taken away, his organisation, and the key for his facts."""

    member: Member
    organisation: Organisation
    subject_key: bytes


def standing_of(directory: Directory, member_id: str) -> Standing | Lacking:
    """The standing of a member."""
    member = directory.member(member_id)
    if member is None:
        return Lacking.MEMBER_ABSENT
    if member.status == "revoked":
        return Lacking.MEMBER_REVOKED
    organisation = directory.organisation(member.organisation)
    if organisation is None:
        return Lacking.ORGANISATION_ABSENT
    if organisation.status == "withdrawn":
        return Lacking.ORGANISATION_WITHDRAWN
    subject_key = directory.subject_key(member_id)
    if subject_key is None:
        return Lacking.SUBJECT_KEY_ABSENT
    return Standing(member, organisation, subject_key)


def principal_of_key(directory: Directory, credential: Credential, now: str) -> Principal | Lacking:
    """Who an API key turns out to be.

    Args:
        directory: the registry at that instant.
        credential: the key's, as the directory has it.
        now: that instant, a ``facts.Timestamp``; these sort as text.
    """
    if credential.status == "suspended":
        return Lacking.KEY_SUSPENDED
    if credential.status == "revoked":
        return Lacking.KEY_REVOKED
    if credential.expires_at is not None and credential.expires_at <= now:
        return Lacking.KEY_EXPIRED
    standing = standing_of(directory, credential.member)
    if isinstance(standing, Lacking):
        return standing
    return Principal(
        member=standing.member,
        organisation=standing.organisation,
        credential_id=credential.id,
        kind="api_key",
        expires_at=credential.expires_at,
        scopes=credential.scopes,
        engagement=credential.engagement,
        epoch=directory.epoch,
        subject_key=standing.subject_key,
    )
